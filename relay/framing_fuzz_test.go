package relay

import (
	"bytes"
	"testing"
)

// Every framing against two inputs: packets that must come back as they were, and
// bytes of a hostile peer, which must neither panic nor stall nor yield anything that
// is not a part of them.

func FuzzLink(f *testing.F) { fuzzFramer(f, func() Framer { return &Link{} }) }
func FuzzVNet(f *testing.F) { fuzzFramer(f, func() Framer { return &Link{Send: FramePacketVNet} }) }
func FuzzU16(f *testing.F)  { fuzzFramer(f, func() Framer { return U16(0) }) }
func FuzzQEMU(f *testing.F) { fuzzFramer(f, func() Framer { return QEMU(MinEthernet) }) }
func FuzzSLIP(f *testing.F) { fuzzFramer(f, func() Framer { return NewSLIP(64) }) }
func FuzzRawIP(f *testing.F) {
	fuzzFramer(f, func() Framer { return RawIP{} })
}

func fuzzFramer(f *testing.F, open func() Framer) {
	for _, name := range vectorNames(f) {
		b, _ := vector(f, name)
		f.Add(b, uint8(7))
	}
	for _, s := range []string{"", "\xc0abc\xc0\xdb\xdc\xdb\xc0", "\x00\x00\x00\x03abc", "GET / HTTP/1.1\r\n"} {
		f.Add([]byte(s), uint8(1))
	}
	f.Add(ip4(60), uint8(3))
	f.Add(append([]byte{0, 0, 0x86, 0xdd}, ip6(20)...), uint8(50))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		fuzzRoundTrip(t, open(), data)
		fuzzHostile(t, open(), data, piece)
	})
}

func fuzzRoundTrip(t *testing.T, f Framer, pkt []byte) {
	stream, err := f.Append(nil, pkt)
	if err != nil {
		if len(stream) != 0 {
			t.Fatalf("refused, and left %d bytes", len(stream))
		}
		return
	}
	if len(stream) > f.MaxFrame() {
		t.Fatalf("a frame of %d bytes, MaxFrame is %d", len(stream), f.MaxFrame())
	}
	if f.Name() == "none" {
		return // borders come from the packets themselves, and these are none
	}
	stream = append(stream, stream...)
	for range 2 {
		var got []byte
		for got == nil {
			p, used, err := f.Next(stream)
			if err != nil || used == 0 {
				t.Fatalf("used %d, %v", used, err)
			}
			got, stream = p, stream[used:]
		}
		if !bytes.Equal(got, pkt) {
			t.Fatalf("% x came back as % x", pkt, got)
		}
	}
	if len(bytes.Trim(stream, "\xc0")) != 0 {
		t.Fatalf("left % x", stream)
	}
}

func fuzzHostile(t *testing.T, f Framer, data []byte, piece uint8) {
	// readAll stops at errors that end the stream, and fails on a framer that
	// wants more than its buffer or reports more than it has.
	pkts, _ := readAll(t, f, bytes.Clone(data), func() int { return int(piece) })
	total := 0
	for _, p := range pkts {
		if len(p) == 0 || len(p) > MaxPacket {
			t.Fatalf("a packet of %d bytes", len(p))
		}
		total += len(p)
	}
	if total > len(data) {
		t.Fatalf("%d bytes of packets out of %d", total, len(data))
	}
	// The same packets come out however the stream was cut.
	again, _ := readAll(t, freshFramer(f), bytes.Clone(data), func() int { return len(data) })
	if len(again) != len(pkts) {
		t.Fatalf("%d packets in pieces of %d, %d in one", len(pkts), piece, len(again))
	}
	for i := range pkts {
		if !bytes.Equal(pkts[i], again[i]) {
			t.Fatalf("packet %d differs with the pieces", i)
		}
	}
}

// freshFramer is f without its state.
func freshFramer(f Framer) Framer {
	if s, ok := f.(*SLIP); ok {
		return NewSLIP(s.max)
	}
	return f
}

func FuzzControl(f *testing.F) {
	for _, b := range [][]byte{AppendPing(nil, 1), AppendMTU(nil, 1500), AppendStats(nil, LinkStats{}), {0x14, 0, 0, 2, 5, 'x'}} {
		f.Add(b[LinkHeadLen:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if stamp, err := ParsePing(body); err == nil && !bytes.HasPrefix(body, AppendPing(nil, stamp)[LinkHeadLen:]) {
			t.Fatal("ping")
		}
		if mtu, err := ParseMTU(body); err == nil && !bytes.HasPrefix(body, AppendMTU(nil, uint32(mtu))[LinkHeadLen:]) {
			t.Fatal("mtu")
		}
		if s, err := ParseStats(body); err == nil && !bytes.HasPrefix(body, AppendStats(nil, s)[LinkHeadLen:]) {
			t.Fatal("statistics")
		}
		if code, text, err := ParseClose(body); err == nil {
			if _, err := AppendClose(nil, code, text); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzForeign(f *testing.F) {
	for _, s := range honestFrames {
		f.Add(unhex(f, s), uint8(DeviceTAP))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n"), uint8(DeviceTUN))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		for _, c := range Foreign(b, DeviceKind(kind)) {
			if c < ' ' || c > '~' {
				t.Fatalf("%q", c)
			}
		}
	})
}
