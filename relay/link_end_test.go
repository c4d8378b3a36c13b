package relay

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How links end, and what the other end is told of it.

// flood sends packets through a device until its session has ended; wait waits for that.
func flood(t *testing.T, kernel *File) (wait func()) {
	t.Helper()
	over := make(chan struct{})
	go func() {
		defer close(over)
		p := ipPacket(1400, 1)
		for {
			if _, err := kernel.Write(p); err != nil {
				return
			}
		}
	}()
	return func() {
		kernel.SetWriteDeadline(time.Unix(1, 0))
		<-over
	}
}

// drain takes what arrives at a device.
func drain(kernel *File) (wait func()) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, kernel.File)
	}()
	return func() {
		kernel.SetReadDeadline(time.Unix(1, 0))
		<-over
	}
}

// An end that is told to stop says so, and for the other one that is the end of the stream, also if it was just sending packets at full speed.
func TestWantedEndUnderLoad(t *testing.T) {
	for range 5 {
		tn := newTunnel(t, TUN, false, false, FramingLink)
		tn.a.journal.wait(t, "link to tunsplice is up")
		tn.b.journal.wait(t, "link to tunsplice is up")
		waits := []func(){flood(t, tn.kernelA), drain(tn.kernelA), flood(t, tn.krnlB), drain(tn.krnlB)}
		for tn.b.Stats().LeftToRight.Packets < 100 || tn.a.Stats().RightToLeft.Packets < 100 {
			time.Sleep(time.Millisecond)
		}
		tn.a.cancel()
		if err := tn.a.stopped(t); err != nil {
			t.Errorf("the end that was stopped: %v", err)
		}
		if err := tn.b.stopped(t); err != nil {
			t.Errorf("its peer: %v\n%s", err, tn.b.journal)
		}
		if !strings.Contains(tn.b.journal.String(), "the peer closes the link: end") {
			t.Errorf("the peer was told nothing:\n%s", tn.b.journal)
		}
		for _, wait := range waits {
			wait()
		}
	}
}

// deleted is the writing half of a device that was deleted.
type deleted struct{ Writer }

func (deleted) Write([]byte) (int, error) { return 0, unix.EBADFD }

// A device that fails at one end is an error at the other, with its reason.
func TestFailedDeviceIsTold(t *testing.T) {
	sa, sb := pair(t, unix.SOCK_STREAM)
	devA, _ := device(t, TUN, false)
	devB, kernelB := device(t, TUN, false)
	devA.W = deleted{devA.W}
	a, b := start(t, devA, streamEnd(sa, FramingAuto), Config{}), start(t, streamEnd(sb, FramingAuto), devB, Config{})
	b.journal.wait(t, "link to tunsplice is up")
	write(t, kernelB, ipPacket(100, 1))
	if err := a.stopped(t); !errors.Is(err, unix.EBADFD) {
		t.Errorf("the end with the device: %v", err)
	}
	if err := b.stopped(t); err == nil || !strings.Contains(err.Error(), "the peer closes the link: device gone") {
		t.Errorf("its peer: %v\n%s", err, b.journal)
	}
}

// A peer that breaks the protocol is told so.
func TestBrokenProtocolIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		frame []byte
		says  string
	}{
		"length":         {[]byte{0, 0xff, 0xff, 0xff}, "16777215 bytes"},
		"type":           {[]byte{3, 0, 0, 1, 0}, "type 0x03"},
		"must":           {[]byte{0x90, 0, 0, 0}, "0x90 must be understood"},
		"short ping":     {[]byte{0x10, 0, 0, 1, 0}, "shorter than 8"},
		"short stats":    {[]byte{0x13, 0, 0, 4, 0, 0, 0, 0}, "shorter than 48"},
		"mtu":            {[]byte{0x12, 0, 0, 4, 0, 0, 0, 0}, "not within"},
		"not offered":    {append([]byte{1, 0, 0, 30}, make([]byte, 30)...), "not offered"},
		"endless close":  {append([]byte{0x14, 0, 1, 44, 0}, make([]byte, 299)...), "longer than 200"},
		"control length": {[]byte{0x60, 0, 0x10, 0}, "more than 1024"},
	} {
		t.Run(name, func(t *testing.T) {
			sa, peer := pair(t, unix.SOCK_STREAM)
			dev, _ := device(t, TUN, false)
			r := start(t, dev, streamEnd(sa, FramingLink), Config{})
			hello, err := ParseHello(receive(t, peer))
			if err != nil {
				t.Fatal(err)
			}
			say := func(h Hello) {
				h.Kind, h.Nonce, h.Ack, h.Peer = DeviceTUN, Nonce{1}, true, hello.Nonce
				p, err := h.AppendPacket(nil)
				if err != nil {
					t.Fatal(err)
				}
				write(t, peer, p)
			}
			say(Hello{Caps: CapHeartbeat | CapClose})
			say(Hello{Caps: CapHeartbeat | CapClose, Switch: true})
			r.journal.wait(t, "link to")
			write(t, peer, append(c.frame, make([]byte, 100_000)...)) // what follows is not read any more
			if err := r.stopped(t); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
			peer.SetReadDeadline(time.Now().Add(10 * time.Second))
			heard, _ := io.ReadAll(peer.File) // ends with a reset, or with the end of the stream
			at := bytes.LastIndex(heard, []byte{byte(FrameClose), 0, 0})
			if at < 0 {
				t.Fatalf("no close frame in %q", heard)
			}
			typ, body, _, err := (&Link{}).NextFrame(heard[at:])
			if err != nil || typ != FrameClose {
				t.Fatalf("%s, %v", typ, err)
			}
			if code, text, err := ParseClose(body); err != nil || code != CloseProtocol || !strings.Contains(text, c.says) {
				t.Errorf("close %s %q, %v", code, text, err)
			}
		})
	}
}

// In an unframed TAP stream any bytes may begin a read: only those of the first are a stranger's greeting.
func TestMiddleOfAFrameIsNoStranger(t *testing.T) {
	for name, middle := range map[string][]byte{"HTTP": []byte("GET / HTTP/1.1\r\n\r\n"), "IP": ip4(60)} {
		t.Run(name, func(t *testing.T) {
			sa, peer := pair(t, unix.SOCK_STREAM)
			dev, kernel := device(t, TAP, false)
			r := start(t, dev, streamEnd(sa, FramingAuto), Config{})
			for _, p := range [][]byte{frame(60, 1), middle, frame(60, 2)} {
				write(t, peer, p)
				if got := receive(t, kernel); !bytes.Equal(got, p) {
					t.Errorf("% x came as % x", p, got)
				}
			}
			r.cancel()
			if err := r.stopped(t); err != nil {
				t.Error(err)
			}
		})
	}
}

// A peer with another framing, or another kind of device, is named, where its lengths pass for ours and the packets never come.
func TestOtherFramingIsDoubted(t *testing.T) {
	hello, err := (&Hello{Kind: DeviceTAP, Nonce: NewNonce()}).AppendPacket(nil)
	if err != nil {
		t.Fatal(err)
	}
	ip := ip4(84)
	for _, c := range []struct {
		traffic Traffic
		framing Framing
		first   []byte
		says    string // "": nothing
	}{
		{TUN, FramingU16, mustAppend(t, NewSLIP(0), nil, ip), "framing slip (IP packets), not framing u16 (IP packets)"},
		{TUN, FramingSlip, mustAppend(t, U16(0), nil, ip), "framing u16 (IP packets), not framing slip (IP packets)"},
		{TAP, FramingU16, mustAppend(t, U16(0), nil, ip), "framing u16 (IP packets), not framing u16 (Ethernet frames)"},
		{TAP, FramingU16, hello, "the link protocol (framing auto or link), not framing u16"},
		{TAP, FramingSlip, hello, "the link protocol"},
		{TUN, FramingU16, mustAppend(t, U16(0), nil, ip), ""},
		{TUN, FramingQemu, mustAppend(t, QEMU(1), nil, ip), ""},
		{TUN, FramingSlip, mustAppend(t, NewSLIP(0), nil, ip), ""},
		{TUN, FramingSlip, ip, ""}, // no END in front
		{TUN, FramingU16, []byte{0}, ""},
	} {
		sa, peer := pair(t, unix.SOCK_STREAM)
		dev, _ := device(t, c.traffic, false)
		r := start(t, dev, streamEnd(sa, c.framing), Config{Linger: time.Millisecond})
		write(t, peer, c.first)
		peer.CloseWrite()
		r.stopped(t)
		log := r.journal.String()
		if doubted := strings.Contains(log, "seems to speak"); doubted != (c.says != "") || !strings.Contains(log, c.says) {
			t.Errorf("%s %s: want %q\n%s", c.traffic, c.framing, c.says, log)
		}
	}
}

// Lost packets are said at a limited rate, and their number at the end.
func TestLossesAreSummedUp(t *testing.T) {
	sa, peer := pair(t, unix.SOCK_STREAM)
	dev, _ := device(t, TUN, false)
	r := start(t, dev, streamEnd(sa, FramingSlip), Config{Linger: time.Millisecond})
	write(t, peer, bytes.Repeat([]byte{slipEnd, slipEsc, 1}, 10))
	write(t, peer, []byte{slipEnd})
	peer.CloseWrite()
	r.stopped(t)
	if lost := r.Stats().RightToLeft.Lost; lost != 10 || !strings.Contains(r.journal.String(), "right to left: 7 more packets were lost") {
		t.Errorf("%d lost\n%s", lost, r.journal)
	}
}
