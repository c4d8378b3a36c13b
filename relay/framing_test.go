package relay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// unhex reads hexadecimal digits with blanks among them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ip4 makes an IPv4 packet of the given total length with a right header checksum.
func ip4(total int) []byte {
	b := make([]byte, total)
	copy(b, []byte{0x45, 0, byte(total >> 8), byte(total), 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	sum := ipv4Checksum(b[:20])
	b[10], b[11] = byte(sum>>8), byte(sum)
	return b
}

// ip6 makes an IPv6 packet with a payload of n bytes, UDP, or nothing if n is 0.
func ip6(n int) []byte {
	b := make([]byte, 40+n)
	copy(b, []byte{0x60, 0, 0, 0, byte(n >> 8), byte(n), 17, 64, 0xfd})
	if n == 0 {
		b[6] = 59
	}
	b[23], b[24], b[39] = 1, 0xfd, 2
	return b
}

func mustAppend(t testing.TB, f Framer, dst, pkt []byte) []byte {
	t.Helper()
	out, err := f.Append(dst, pkt)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// newFramers makes one of each framing with its limits wide open.
func newFramers() map[string]Framer {
	return map[string]Framer{
		"link":      &Link{},
		"link-vnet": &Link{Send: FramePacketVNet},
		"u16":       U16(0),
		"u16-vde":   U16(VDEMaxPacket),
		"qemu":      QEMU(1),
		"qemu-tap":  QEMU(MinEthernet),
		"slip":      NewSLIP(0),
		"slip-1006": NewSLIP(1006),
		"none":      RawIP{},
	}
}

// readAll takes packets from a stream that arrives in pieces, as the relay does: a buffer of
// MaxFrame bytes, what is left moved to its front.
func readAll(t testing.TB, f Framer, stream []byte, piece func() int) (pkts [][]byte, errs []error) {
	t.Helper()
	buf := make([]byte, 0, f.MaxFrame())
	for len(stream) > 0 {
		n := min(max(piece(), 1), len(stream), cap(buf)-len(buf))
		if n == 0 {
			t.Fatalf("%s asks for more than MaxFrame (%d bytes)", f.Name(), f.MaxFrame())
		}
		buf, stream = append(buf, stream[:n]...), stream[n:]
		src := buf
		for {
			pkt, used, err := f.Next(src)
			if used < 0 || used > len(src) {
				t.Fatalf("%s used %d of %d bytes", f.Name(), used, len(src))
			}
			if err != nil {
				var fe *FrameError
				if !errors.As(err, &fe) || fe.Resync != (used > 0) {
					t.Fatalf("%s: used %d with error %v", f.Name(), used, err)
				}
				errs = append(errs, err)
				if !fe.Resync {
					return pkts, errs
				}
			}
			if pkt != nil {
				pkts = append(pkts, bytes.Clone(pkt))
			}
			if used == 0 {
				break
			}
			src = src[used:]
		}
		buf = append(buf[:0], src...)
	}
	return pkts, errs
}

func TestRoundTrip(t *testing.T) {
	lengths := []int{1, 2, 13, 14, 20, 21, 42, 60, 1006, 1007, 1500, 1514, 9236, 9237, 65535, 65536, MaxPacket}
	for name := range newFramers() {
		t.Run(name, func(t *testing.T) {
			f, back := newFramers()[name], newFramers()[name]
			rng := rand.New(rand.NewPCG(1, 2))
			var stream []byte
			var want [][]byte
			for _, n := range lengths {
				pkt := make([]byte, n)
				for i := range pkt {
					pkt[i] = byte(rng.Uint32())
				}
				if name == "none" {
					if n < 20 || n > 65535 {
						continue
					}
					pkt = ip4(n)
				}
				out, err := f.Append(stream, pkt)
				if err != nil {
					var se *SizeError
					if !errors.As(err, &se) || n >= se.Min && n <= se.Max || se.Len != n {
						t.Fatalf("%d bytes: %v", n, err)
					}
					if n <= f.MaxPacket() && n >= se.Min {
						t.Fatalf("%d bytes were refused: %v", n, err)
					}
					if len(out) != len(stream) {
						t.Fatalf("%d bytes were refused and left %d in the stream", n, len(out)-len(stream))
					}
					continue
				}
				if n > f.MaxPacket() {
					t.Fatalf("%d bytes were taken, MaxPacket is %d", n, f.MaxPacket())
				}
				stream, want = out, append(want, pkt)
			}
			for _, piece := range []func() int{
				func() int { return len(stream) },
				func() int { return 1 + rng.IntN(3000) },
				func() int { return 8192 },
			} {
				got, errs := readAll(t, back, bytes.Clone(stream), piece)
				if len(errs) > 0 || len(got) != len(want) {
					t.Fatalf("%d packets of %d, errors %v", len(got), len(want), errs)
				}
				for i := range got {
					if !bytes.Equal(got[i], want[i]) {
						t.Fatalf("packet %d of %d bytes was altered", i, len(want[i]))
					}
				}
			}
		})
	}
}

// The header filled in place is the header that Append writes.
func TestPutHeadIsAppend(t *testing.T) {
	for name, f := range newFramers() {
		h, ok := f.(HeadFramer)
		if !ok {
			continue
		}
		pkt := bytes.Repeat([]byte{7}, 300)
		buf := append(make([]byte, h.HeadLen()), pkt...)
		if err := h.PutHead(buf, len(pkt)); err != nil {
			t.Fatal(err)
		}
		if want := mustAppend(t, f, nil, pkt); !bytes.Equal(buf, want) {
			t.Errorf("%s: % x, want % x", name, buf[:h.HeadLen()], want[:h.HeadLen()])
		}
		for _, n := range []int{0, f.MaxPacket() + 1} {
			head := []byte("untouched")
			if err := h.PutHead(head, n); err == nil || string(head) != "untouched" {
				t.Errorf("%s: %d bytes: %q, %v", name, n, head, err)
			}
		}
	}
}

// A wrong length ends the stream with words that name the likely peer.
func TestWrongLengthIsNamed(t *testing.T) {
	ether := append(unhex(t, "020000000002 020000000001 0800"), ip4(46)...)
	for _, c := range []struct {
		f    Framer
		src  []byte
		want string
	}{
		{QEMU(14), []byte("GET / HTTP/1.1\r\n"), "framing qemu: length 1195725856 (47 45 54 20) is not within 14 to 65664; the peer speaks HTTP"},
		{QEMU(14), []byte("SSH-2.0-OpenSSH_9.2\r\n"), "the peer speaks SSH"},
		{QEMU(14), make([]byte, 64), "framing qemu: length 0 (00 00 00 00) is not within 14 to 65664"},
		{QEMU(14), unhex(t, "0000000d 00"), "length 13 (00 00 00 0d)"},
		{QEMU(14), unhex(t, "00010081"), "length 65665 (00 01 00 81)"},
		{QEMU(14), unhex(t, "ffffffff"), "length 4294967295"},
		{QEMU(14), ip4(84), "the peer speaks bare IP packets"},
		{QEMU(14), ether, "the peer speaks bare Ethernet frames"},
		{QEMU(14), mustAppend(t, U16(0), nil, ether), "the peer speaks framing u16 (Ethernet frames)"},
		{QEMU(14), mustAppend(t, NewSLIP(0), nil, ip4(84)), "the peer speaks framing slip"},
		{&Link{}, append([]byte{0, 0xff, 0xff, 0xff}, ether...), "framing link: the body of a packet frame has 16777215 bytes, not 1 to 65664"},
		{RawIP{}, []byte("SSH-2.0-OpenSSH_9.2\r\n"), "first byte 53 is not an IP header; the peer speaks SSH"},
		{RawIP{}, ether, "framing none: neither an IP header nor packet information (02 00 00 00); the peer speaks bare Ethernet frames"},
	} {
		pkt, used, err := c.f.Next(c.src)
		var fe *FrameError
		if pkt != nil || used != 0 || !errors.As(err, &fe) || fe.Resync || !strings.Contains(err.Error(), c.want) {
			t.Errorf("% x: used %d, %v; want %q", c.src[:min(8, len(c.src))], used, err, c.want)
		}
	}
}

func TestU16NullPacketIsPassedOver(t *testing.T) {
	pkts, errs := readAll(t, U16(0), unhex(t, "0000 0000 0003 616263 0000 0001 64 0000"), func() int { return 1 })
	if fmt.Sprintf("%q %v", pkts, errs) != `["abc" "d"] []` {
		t.Errorf("%q, %v", pkts, errs)
	}
	// The sender's limit is the far side's; what arrives may be longer.
	if _, err := U16(VDEMaxPacket).Append(nil, make([]byte, VDEMaxPacket+1)); err == nil {
		t.Error("a packet was sent that vde_plug does not take")
	}
	pkts, errs = readAll(t, U16(VDEMaxPacket), mustAppend(t, U16(0), nil, make([]byte, 65535)), func() int { return 4096 })
	if len(pkts) != 1 || len(errs) != 0 {
		t.Errorf("%d packets, %v", len(pkts), errs)
	}
}

func TestSLIP(t *testing.T) {
	const escape, long = "an escape byte (db) is not followed by dc or dd", "a packet is longer than 4 bytes"
	for _, c := range []struct {
		name, stream string
		pkts, errs   string
	}{
		{"RFC 1055", "c0 61 62 c0", "61 62", ""},
		{"escapes", "c0 db dc db dd db dc c0", "c0 db c0", ""},
		{"no END in front", "61 62 c0 63 c0", "61 62|63", ""},
		{"one END between", "c0 61 c0 62 c0", "61|62", ""},
		{"empty packets", "c0 c0 c0 61 c0 c0 c0", "61", ""},
		{"wrong escape", "c0 61 db 61 c0 62 c0", "62", escape},
		{"escaped ESC of nothing", "c0 61 db c0 62 c0", "62", escape},
		{"longest", "c0 61 62 63 64 c0", "61 62 63 64", ""},
		{"longest, all escaped", "c0 db dc db dc db dc db dc c0", "c0 c0 c0 c0", ""},
		{"too long", "c0 61 62 63 64 65 c0 61 c0", "61", long},
		{"too long, END out of sight", "c0" + strings.Repeat("61", 40) + "c0 62 c0", "62", long},
		{"too long, escaped", "c0 db dc db dc db dc db dc db dc c0 62 c0", "62", long},
		{"cut by the end", "c0 61 62", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1, 3, 1000} {
				pkts, errs := readAll(t, NewSLIP(4), unhex(t, c.stream), func() int { return size })
				var got []string
				for _, p := range pkts {
					got = append(got, fmt.Sprintf("% x", p))
				}
				if s := strings.Join(got, "|"); s != c.pkts {
					t.Errorf("pieces of %d: packets %s, want %s", size, s, c.pkts)
				}
				if (c.errs == "") != (len(errs) == 0) || len(errs) > 1 || (len(errs) == 1 && !strings.Contains(errs[0].Error(), c.errs)) {
					t.Errorf("pieces of %d: errors %v, want %q", size, errs, c.errs)
				}
			}
		})
	}
	if got := mustAppend(t, NewSLIP(0), nil, unhex(t, "c0 61 db 62 c0")); !bytes.Equal(got, unhex(t, "c0 dbdc 61 dbdd 62 dbdc c0")) {
		t.Errorf("% x", got)
	}
}

func TestRawIPFindsPackets(t *testing.T) {
	pi4, pi6 := unhex(t, "0000 0800"), unhex(t, "0000 86dd")
	want := [][]byte{ip4(20), ip6(0), ip4(1500), ip6(1460), ip4(21), ip6(65535), ip4(65535)}
	for mode, pi := range []func(i int) bool{
		func(int) bool { return false },
		func(int) bool { return true },
		func(i int) bool { return i%2 == 1 },
	} {
		var stream []byte
		for i, p := range want {
			if pi(i) && p[0]>>4 == 4 {
				stream = append(stream, pi4...)
			} else if pi(i) {
				stream = append(stream, pi6...)
			}
			stream = append(stream, p...)
		}
		for _, size := range []int{1, 37, 8192, len(stream)} {
			got, errs := readAll(t, RawIP{}, stream, func() int { return size })
			if len(errs) != 0 || len(got) != len(want) {
				t.Fatalf("mode %d: %d packets of %d, %v", mode, len(got), len(want), errs)
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("mode %d: packet %d is not what was sent", mode, i)
				}
			}
		}
	}
}

func TestRawIPRefuses(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"44 00 00 54", "IPv4 header length 16 is below 20"},
		{"45 00 00 00", "IPv4 total length 0 is below its header's 20"},
		{"45 00 00 13", "IPv4 total length 19 is below its header's 20"},
		{"4f 00 00 3b", "IPv4 total length 59 is below its header's 60"},
		{"60 00 00 00 00 00 00", "jumbogram"},
		{"50", "first byte 50 is not an IP header"},
		{"ff", "first byte ff"},
		{"00 02 08 00", "neither an IP header nor packet information (00 02 08 00)"},
		{"00 00 88 47", "something that is not IP"},
		{"00 00 08 00 60", "stands in front of a first byte 60, which is not IPv4"},
		{"00 00 86 dd 45", "stands in front of a first byte 45, which is not IPv6"},
		{"00 01 08 00 45", "the sender cut the packet"},
		{"01 00 86 dd 60", "the sender cut the packet"},
	} {
		_, used, err := RawIP{}.Next(unhex(t, c.src))
		if used != 0 || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: used %d, %v; want %q", c.src, used, err, c.want)
		}
	}
	for _, more := range []string{"", "00", "00 00 08", "00 00 08 00", "45", "45 00 00", "60 00 00 00 00 00", "00 00 86 dd 60 00 00 00 00 01"} {
		if pkt, used, err := (RawIP{}).Next(unhex(t, more)); pkt != nil || used != 0 || err != nil {
			t.Errorf("%q: %x, %d, %v; more bytes are needed", more, pkt, used, err)
		}
	}
}
