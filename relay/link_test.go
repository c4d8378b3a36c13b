package relay

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tunnel is two sessions joined by a stream, each with a device of which the test holds the kernel's end.
type tunnel struct {
	a, b           *running
	kernelA, krnlB *File
}

func newTunnel(t *testing.T, traffic Traffic, piA, piB bool, framing Framing) *tunnel {
	sa, sb := pair(t, unix.SOCK_STREAM)
	devA, ka := device(t, traffic, piA)
	devB, kb := device(t, traffic, piB)
	c := Config{Linger: 20 * time.Millisecond}
	return &tunnel{start(t, devA, streamEnd(sa, framing), c), start(t, streamEnd(sb, framing), devB, c), ka, kb}
}

func withPI(p []byte, traffic Traffic) []byte {
	proto := []byte{0, 0, 8, 0}
	if traffic == TAP {
		copy(proto[2:], p[12:14])
	}
	return append(proto, p...)
}

func TestTunnel(t *testing.T) {
	for _, traffic := range []Traffic{TUN, TAP} {
		for _, framing := range []Framing{FramingUnset, FramingAuto, FramingLink, FramingU16, FramingQemu, FramingSlip} {
			for _, pi := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
				linked := framing <= FramingLink
				if !linked && pi[0] != pi[1] {
					continue // without a hello nobody knows
				}
				t.Run(traffic.String()+" "+framing.String()+map[bool]string{false: " bare", true: " pi"}[pi[0]]+map[bool]string{false: " bare", true: " pi"}[pi[1]], func(t *testing.T) {
					tn := newTunnel(t, traffic, pi[0], pi[1], framing)
					if linked {
						tn.a.journal.wait(t, "link to tunsplice is up")
						tn.b.journal.wait(t, "link to tunsplice is up")
					}
					for i, n := range []int{60, 1500, 20, 9000, 65000, 1514, 64} {
						p := ipPacket(n, byte(i))
						if traffic == TAP {
							p = frame(n, byte(i))
						}
						in, out := p, p
						if pi[0] {
							in = withPI(p, traffic)
						}
						if pi[1] {
							out = withPI(p, traffic)
						}
						write(t, tn.kernelA, in)
						if got := receive(t, tn.krnlB); !bytes.Equal(got, out) {
							t.Fatalf("packet of %d bytes changed on its way there", n)
						}
						write(t, tn.krnlB, out)
						if got := receive(t, tn.kernelA); !bytes.Equal(got, in) {
							t.Fatalf("packet of %d bytes changed on its way back", n)
						}
					}
					tn.a.cancel()
					if err := tn.a.stopped(t); err != nil {
						t.Error(err)
					}
					if err := tn.b.stopped(t); err != nil {
						t.Error(err)
					}
					if s := tn.b.Stats(); s.LeftToRight.Packets != 7 || s.RightToLeft.Packets != 7 || s.LeftToRight.Lost != 0 {
						t.Errorf("statistics %+v\n%s", s, tn.b.journal)
					}
				})
			}
		}
	}
}

func TestKindsDiffer(t *testing.T) {
	sa, sb := pair(t, unix.SOCK_STREAM)
	devA, _ := device(t, TUN, false)
	devB, _ := device(t, TAP, false)
	a := start(t, devA, streamEnd(sa, 0), Config{})
	b := start(t, devB, streamEnd(sb, 0), Config{})
	for _, r := range []*running{a, b} {
		err := r.stopped(t)
		if err == nil || !strings.Contains(err.Error(), "tun device") || !strings.Contains(err.Error(), "tap device") {
			t.Errorf("error %v names not both kinds", err)
		}
	}
}

func TestEchoIsNoPeer(t *testing.T) {
	sa, sb := pair(t, unix.SOCK_STREAM)
	dev, kernel := device(t, TUN, false)
	r := start(t, dev, streamEnd(sa, 0), Config{})
	echoed := make(chan struct{})
	go func() { defer close(echoed); io.Copy(sb.File, sb) }()
	r.journal.wait(t, "sends back")
	p := ipPacket(100, 1)
	write(t, kernel, p)
	if got := receive(t, kernel); !bytes.Equal(got, p) {
		t.Error("the echo of a packet changed")
	}
	r.cancel()
	r.stopped(t)
	<-echoed
}

// A peer that knows no hello gets bare packets after a while, and its own merged and cut packets are found by their lengths.
func TestUnframedTunPeer(t *testing.T) {
	for _, pi := range []bool{false, true} {
		sa, peer := pair(t, unix.SOCK_STREAM)
		dev, kernel := device(t, TUN, pi)
		end := streamEnd(sa, 0)
		end.HelloTimeout = 10 * time.Millisecond
		r := start(t, dev, end, Config{})
		hello := receive(t, peer)
		if h, err := ParseHello(hello); err != nil || h.PI != pi {
			t.Fatalf("the first packet is no hello: %v", err)
		}
		r.journal.wait(t, "W stream: the peer has sent no hello")
		out := ipPacket(700, 3)
		if pi {
			out = withPI(out, TUN)
		}
		write(t, kernel, out)
		if got := receive(t, peer); !bytes.Equal(got, out) {
			t.Error("an unframed packet changed")
		}
		var stream []byte
		var want [][]byte
		for i := range 40 {
			p := ipPacket(20+i*37, byte(i))
			stream = append(stream, p...)
			if pi {
				p = withPI(p, TUN)
			}
			want = append(want, p)
		}
		go func() {
			for len(stream) > 0 {
				n := min(len(stream), 1000)
				peer.Write(stream[:n])
				stream = stream[n:]
			}
		}()
		for i, w := range want {
			if got := receive(t, kernel); !bytes.Equal(got, w) {
				t.Fatalf("packet %d changed: %d bytes, not %d", i, len(got), len(w))
			}
		}
		r.cancel()
		r.stopped(t)
	}
}

// A peer that starts after the hello-timeout still gets a framed link.
func TestLatePeer(t *testing.T) {
	for _, traffic := range []Traffic{TUN, TAP} {
		sa, sb := pair(t, unix.SOCK_STREAM)
		devA, ka := device(t, traffic, false)
		end := streamEnd(sa, 0)
		end.HelloTimeout = 10 * time.Millisecond
		a := start(t, devA, end, Config{})
		a.journal.wait(t, "packets go unframed")
		p := ipPacket(100, 9)
		if traffic == TAP {
			p = frame(100, 9)
		}
		write(t, ka, p) // goes unframed into the stream that nobody reads yet
		a.journal.wait(t, "left to right: unframed")
		devB, kb := device(t, traffic, false)
		b := start(t, devB, streamEnd(sb, 0), Config{})
		a.journal.wait(t, "link to tunsplice is up")
		b.journal.wait(t, "link to tunsplice is up")
		if traffic == TUN {
			if got := receive(t, kb); !bytes.Equal(got, p) {
				t.Error("the early packet changed")
			}
		}
		q := append([]byte(nil), p...)
		q[len(q)-1]++
		write(t, ka, q)
		if got := receive(t, kb); !bytes.Equal(got, q) {
			t.Errorf("%s: the packet after the upgrade changed", traffic)
		}
		if lost := b.Stats().RightToLeft.Lost; traffic == TAP && lost != 1 {
			t.Errorf("a frame without borders counts as %d lost", lost)
		}
	}
}

func TestForeignPeerIsNamed(t *testing.T) {
	for _, c := range []struct {
		traffic Traffic
		framing Framing
		sends   string
		says    string
	}{
		{TUN, FramingAuto, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"},
		{TAP, FramingAuto, "SSH-2.0-OpenSSH_9.2\r\n", "SSH"},
		{TAP, FramingLink, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"},
		{TAP, FramingQemu, "HTTP/1.1 200 OK\r\n\r\n", "HTTP"},
		{TUN, FramingU16, "\x00\x01x\xff\xff", ""},
		{TUN, FramingU16, "GET / HTTP/1.0\r\n", "HTTP"},
		{TUN, FramingNone, "GET / HTTP/1.0\r\n", "HTTP"},
		{TUN, FramingLink, string(ipPacket(100, 1)), "link protocol"},
	} {
		sa, peer := pair(t, unix.SOCK_STREAM)
		dev, _ := device(t, c.traffic, false)
		r := start(t, dev, streamEnd(sa, c.framing), Config{})
		write(t, peer, []byte(c.sends))
		peer.CloseWrite()
		err := r.stopped(t)
		if c.says == "" {
			if err != nil || r.Stats().RightToLeft.Lost != 1 {
				t.Errorf("half a frame: %v, %+v", err, r.Stats())
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %s: error %v does not say %s", c.traffic, c.framing, err, c.says)
		}
	}
}

// A hostile peer: hello after hello ends the session, whatever else it sends is bounded by the buffers.
func TestEndlessHellos(t *testing.T) {
	sa, peer := pair(t, unix.SOCK_STREAM)
	dev, _ := device(t, TUN, false)
	r := start(t, dev, streamEnd(sa, 0), Config{})
	go func() {
		for {
			h := Hello{Kind: DeviceTUN, Nonce: NewNonce()}
			p, err := h.AppendPacket(nil)
			if err != nil {
				t.Error(err)
			}
			if _, err := peer.Write(p); err != nil {
				return
			}
		}
	}()
	if err := r.stopped(t); err == nil || !strings.Contains(err.Error(), "hello after hello") {
		t.Errorf("error %v", err)
	}
}

func TestHostileFrames(t *testing.T) {
	for name, c := range map[string]struct {
		framing Framing
		bytes   []byte
	}{
		"qemu huge": {FramingQemu, binary.BigEndian.AppendUint32(nil, 1<<31)},
		"qemu zero": {FramingQemu, make([]byte, 4)},
	} {
		sa, peer := pair(t, unix.SOCK_STREAM)
		dev, _ := device(t, TAP, false)
		r := start(t, dev, streamEnd(sa, c.framing), Config{})
		write(t, peer, c.bytes)
		if err := r.stopped(t); err == nil || !strings.Contains(err.Error(), "framing qemu") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Over datagrams hellos tell whether packets have packet information, and packets stay one a datagram.
func TestDatagramTunnel(t *testing.T) {
	for _, traffic := range []Traffic{TUN, TAP} {
		sa, sb := pair(t, unix.SOCK_DGRAM)
		devA, ka := device(t, traffic, true)
		devB, kb := device(t, traffic, false)
		over := func(f *File) *Endpoint {
			return &Endpoint{Label: "datagrams", R: f, W: f, Traffic: Datagrams, CanAnswer: true, Close: f.Close}
		}
		a := start(t, devA, over(sa), Config{})
		b := start(t, over(sb), devB, Config{})
		a.journal.wait(t, "hello from tunsplice")
		b.journal.wait(t, "hello from tunsplice")
		p := ipPacket(1500, 1)
		if traffic == TAP {
			p = frame(1500, 1)
		}
		write(t, ka, withPI(p, traffic))
		if got := receive(t, kb); !bytes.Equal(got, p) {
			t.Error("packet changed on its way there")
		}
		write(t, kb, p)
		if got := receive(t, ka); !bytes.Equal(got, withPI(p, traffic)) {
			t.Error("packet changed on its way back")
		}
	}
}
