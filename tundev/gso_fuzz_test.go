package tundev

import (
	"bytes"
	"testing"
)

// FuzzValidate: in is a virtio-net header and the packet behind it, as a hostile peer sends it. What is accepted must be safe: a second look changes
// nothing, and splitting or completing stays within the packet and the buffer it is given.
func FuzzValidate(f *testing.F) {
	for _, shape := range shapes() {
		for _, s := range links(shape) {
			for _, size := range []int{0, 100} {
				s.payload = testBytes(350)
				h, pkt := s.buildGSO(size)
				in := make([]byte, VNetHdrLen, VNetHdrLen+len(pkt))
				h.Encode(in)
				f.Add(append(in, pkt...), s.ethernet)
			}
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, ethernet bool) {
		var h VNetHdr
		if h.Decode(in) != nil {
			return
		}
		pkt := in[VNetHdrLen:]
		var s Splitter
		resetErr := s.Reset(h, pkt, ethernet) // the header as sent: refused, or as safe
		good, err := h.Validate(pkt, ethernet)
		if err != nil {
			if good != (VNetHdr{}) {
				t.Fatal("refused, yet there is a header")
			}
			if h.GSOType != GSONone && resetErr == nil {
				t.Fatal("refused, yet it can be split")
			}
			return
		}
		if again, err := good.Validate(pkt, ethernet); err != nil || again != good {
			t.Fatalf("second look: %+v, %v; first %+v", again, err, good)
		}
		if good.Flags&VNetNeedsCsum != 0 && int(good.CsumStart)+int(good.CsumOffset)+2 > len(pkt) {
			t.Fatalf("%+v accepted in front of %d bytes", good, len(pkt))
		}
		if int(good.HdrLen) > len(pkt) {
			t.Fatal("header longer than the packet")
		}
		if len(pkt) == 0 {
			return
		}
		segs := splitAll(t, good, pkt, ethernet)
		if good.GSOType == GSONone {
			whole := clonePkt(pkt)
			if err := Complete(good, whole); err != nil || len(segs) != 1 || !bytes.Equal(segs[0], whole) {
				t.Fatalf("complete: %v", err)
			}
			return
		}
		payload, hlen := 0, int(good.HdrLen)
		for i, seg := range segs {
			if n := len(seg) - hlen; n < 1 || n > int(good.GSOSize) || n < int(good.GSOSize) && i < len(segs)-1 {
				t.Fatalf("segment %d has %d bytes of payload", i, n)
			}
			if !bytes.Equal(seg[hlen:], pkt[hlen+payload:hlen+payload+len(seg)-hlen]) {
				t.Fatalf("payload of segment %d differs", i)
			}
			payload += len(seg) - hlen
			if none, err := (VNetHdr{Flags: 1, CsumStart: good.CsumStart, CsumOffset: good.CsumOffset}).Validate(seg, ethernet); err != nil || none.GSOType != GSONone {
				t.Fatalf("segment %d does not parse: %v", i, err)
			}
		}
		if payload != len(pkt)-hlen {
			t.Fatal("payload is missing")
		}
	})
}

// specFrom makes a packet description from fuzzed numbers.
func specFrom(kind, flags uint8, tags, opts uint8) pktSpec {
	s := pktSpec{udp: kind&1 != 0, v6: kind&2 != 0, ethernet: kind&4 != 0, noDF: kind&8 != 0, tags: int(tags % 3), tos: tags, flags: flags}
	if opts&1 != 0 {
		s.tcpOpts = timestamps
	}
	if opts&2 != 0 {
		s.ipOpts = ipNops
	}
	if opts&4 != 0 {
		s.ext = append(s.ext, hopByHop)
	}
	if opts&8 != 0 {
		s.ext = append(s.ext, destOpts)
	}
	if opts&16 != 0 {
		s.ext = append(s.ext, routing)
		s.finalDst = finalDst
	}
	return s
}

// FuzzSplit: segments of any good packet are what a sender without offload would have sent.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("some payload to be cut into pieces"), uint16(8), uint16(3), uint8(0), uint8(0x10), uint8(0), uint8(1), uint32(7))
	f.Add([]byte("some payload to be cut into pieces"), uint16(9), uint16(0xffff), uint8(6), uint8(0x99), uint8(2), uint8(29), uint32(0xfffffff0))
	f.Add([]byte("some payload to be cut into pieces"), uint16(10), uint16(9), uint8(3), uint8(0), uint8(1), uint8(0), uint32(0))
	f.Fuzz(func(t *testing.T, payload []byte, size, id uint16, kind, flags, tags, opts uint8, seq uint32) {
		if size < minTCPSize || size == gsoByFrags || len(payload) > 60000 {
			return
		}
		s := specFrom(kind, flags|tcpACK, tags, opts)
		s.id, s.seq, s.payload = id, seq, payload
		if s.udp && len(payload) > int(size)*maxUDPSegments {
			return
		}
		checkSplit(t, s, int(size))
	})
}

// FuzzCoalesceSplit: script makes a batch of packets, each of four bytes: which flow, what is odd about it, its length, and a byte to damage.
// What is merged must split into the same packets again, in order within each flow.
func FuzzCoalesceSplit(f *testing.F) {
	f.Add([]byte("\x00\x00\x40\x00\x00\x00\x40\x00\x00\x00\x40\x00"), false)
	f.Add([]byte("\x05\x00\x40\x00\x04\x00\x40\x00\x05\x00\x40\x00\x05\x01\x20\x00\x04\x00\x40\x00"), true)
	f.Add([]byte("\x02\x00\x40\x00\x02\x00\x40\x00\x02\x06\x40\x00\x02\x00\x40\x31"), true)
	f.Fuzz(func(t *testing.T, script []byte, ethernet bool) {
		var pkts [][]byte
		var seq [8]uint32
		var id [8]uint16
		for ; len(script) >= 4 && len(pkts) < 48; script = script[4:] {
			flow := script[0] & 7
			s := specFrom(flow&3, 0x10, flow>>2, 0)
			s.ethernet, s.seq, s.id, s.src, s.dst = ethernet, seq[flow], id[flow], uint16(flow), 80
			s.payload = testBytes(int(script[2]))
			switch odd := script[1]; odd & 31 {
			case 1:
				s.flags |= tcpPSH
			case 2:
				s.flags |= tcpCWR
			case 3:
				s.flags |= odd
			case 4:
				s.ack++
			case 5:
				s.tos++
			case 6:
				s.seq += uint32(odd)
			case 7:
				s.id--
			case 8:
				s.padding = int(odd >> 5)
			case 9:
				s.tcpOpts = timestamps
			case 10:
				s.ipOpts = ipNops
			case 11:
				s.ext = []extHdr{hopByHop}
			case 12:
				s.noDF = true
			case 13:
				s.ttl = 1
			case 14:
				s.window = uint16(odd)
			}
			seq[flow] = s.seq + uint32(len(s.payload))
			id[flow] = s.id + 1
			b := s.build()
			if at := int(script[3]); at > 0 && at < len(b) {
				b[at] ^= script[1] | 1
			}
			if script[1] == 31 {
				b = b[:1+int(script[3])%len(b)]
			}
			pkts = append(pkts, b)
		}
		coalesceBack(t, NewCoalescer(ethernet, true), pkts)
	})
}
