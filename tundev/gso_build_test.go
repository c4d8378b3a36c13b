package tundev

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// Packets for the tests are put together and checked here without any of the code under test: byte by byte, 16 bits at a time.

// pktSpec describes a packet. Zero fields take the defaults set in build.
type pktSpec struct {
	ethernet bool
	tags     int  // VLAN tags, 802.1ad outside when there are two
	mac      byte // last byte of the destination, 1 if 0
	v6, udp  bool
	tos, ttl uint8
	id       uint16
	noDF     bool
	label    uint32 // IPv6 flow label
	ipOpts   []byte // IPv4 options, a multiple of 4 bytes
	ext      []extHdr
	finalDst []byte // IPv6: the address in the pseudo header, if a routing header holds it
	src      uint16
	dst      uint16
	seq, ack uint32
	flags    uint8 // TCP; 0 means ACK
	window   uint16
	tcpOpts  []byte
	payload  []byte
	padding  int // bytes behind the IP packet
}

type extHdr struct {
	proto uint8
	body  []byte // all but the first byte, which names the next header
}

func (s pktSpec) proto() uint8 {
	if s.udp {
		return 17
	}
	return 6
}

// build makes the complete packet.
func (s pktSpec) build() []byte {
	pkt, l4, sumAt := s.assemble()
	pseudo := s.pseudo(len(pkt) - s.padding - l4)
	sum := ^slowSum(append(pseudo, pkt[l4:len(pkt)-s.padding]...))
	if sum == 0 && s.udp {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(pkt[sumAt:], sum)
	return pkt
}

// buildGSO makes the same packet as a sender with offload hands it over.
func (s pktSpec) buildGSO(size int) (VNetHdr, []byte) {
	pkt, l4, sumAt := s.assemble()
	binary.BigEndian.PutUint16(pkt[sumAt:], slowSum(s.pseudo(len(pkt)-s.padding-l4)))
	h := VNetHdr{Flags: 1, CsumStart: uint16(l4), CsumOffset: uint16(sumAt - l4)}
	if size > 0 {
		h.GSOSize = uint16(size)
		h.HdrLen = uint16(len(pkt) - len(s.payload))
		switch {
		case s.udp:
			h.GSOType = 5
		case s.v6:
			h.GSOType = 4
		default:
			h.GSOType = 1
		}
		if s.flags&0x80 != 0 && !s.udp {
			h.GSOType |= 0x80
		}
	}
	return h, pkt
}

// assemble returns the packet with a zero transport checksum, the offset of the transport header and of that checksum.
func (s pktSpec) assemble() (pkt []byte, l4, sumAt int) {
	if s.ttl == 0 {
		s.ttl = 64
	}
	if s.src == 0 {
		s.src, s.dst = 40000, 5001
	}
	if s.flags == 0 {
		s.flags = 0x10
	}
	if s.window == 0 {
		s.window = 502
	}
	be := binary.BigEndian
	etherType := uint16(0x0800)
	if s.v6 {
		etherType = 0x86dd
	}
	if s.ethernet {
		pkt = append(pkt, 2, 0, 0, 0, 0, max(1, s.mac), 2, 0, 0, 0, 0, 2)
		for i := range s.tags {
			tpid := uint16(0x8100)
			if i == 0 && s.tags > 1 {
				tpid = 0x88a8
			}
			pkt = be.AppendUint16(be.AppendUint16(pkt, tpid), uint16(100+i))
		}
		pkt = be.AppendUint16(pkt, etherType)
	}

	var th []byte
	if s.udp {
		th = be.AppendUint16(be.AppendUint16(nil, s.src), s.dst)
		th = be.AppendUint16(th, uint16(8+len(s.payload)))
		th = append(th, 0, 0)
	} else {
		th = be.AppendUint16(be.AppendUint16(nil, s.src), s.dst)
		th = be.AppendUint32(be.AppendUint32(th, s.seq), s.ack)
		th = append(th, uint8((20+len(s.tcpOpts))/4<<4), s.flags)
		th = be.AppendUint16(th, s.window)
		th = append(th, 0, 0, 0, 0)
		th = append(th, s.tcpOpts...)
	}

	l3 := len(pkt)
	if s.v6 {
		var ext []byte
		next := s.proto()
		for i := len(s.ext) - 1; i >= 0; i-- {
			ext = append(append([]byte{next}, s.ext[i].body...), ext...)
			next = s.ext[i].proto
		}
		pkt = be.AppendUint32(pkt, 6<<28|uint32(s.tos)<<20|s.label)
		pkt = be.AppendUint16(pkt, uint16(len(ext)+len(th)+len(s.payload)))
		pkt = append(pkt, next, s.ttl)
		pkt = append(append(pkt, testSrc6...), testDst6...)
		pkt = append(pkt, ext...)
	} else {
		hlen := 20 + len(s.ipOpts)
		frag := uint16(0x4000)
		if s.noDF {
			frag = 0
		}
		pkt = append(pkt, 0x40|uint8(hlen/4), s.tos)
		pkt = be.AppendUint16(pkt, uint16(hlen+len(th)+len(s.payload)))
		pkt = be.AppendUint16(be.AppendUint16(pkt, s.id), frag)
		pkt = append(pkt, s.ttl, s.proto(), 0, 0)
		pkt = append(append(pkt, testSrc4...), testDst4...)
		pkt = append(pkt, s.ipOpts...)
		be.PutUint16(pkt[l3+10:], ^slowSum(pkt[l3:]))
	}
	l4 = len(pkt)
	sumAt = l4 + 16
	if s.udp {
		sumAt = l4 + 6
	}
	pkt = append(append(pkt, th...), s.payload...)
	return append(pkt, make([]byte, s.padding)...), l4, sumAt
}

var (
	testSrc4 = []byte{10, 9, 8, 1}
	testDst4 = []byte{10, 9, 8, 2}
	testSrc6 = []byte{0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	testDst6 = []byte{0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}
)

func (s pktSpec) pseudo(length int) []byte {
	dst := testDst6
	if s.finalDst != nil {
		dst = s.finalDst
	}
	if s.v6 {
		return slowPseudo(testSrc6, dst, s.proto(), length)
	}
	return slowPseudo(testSrc4, testDst4, s.proto(), length)
}

func slowPseudo(src, dst []byte, proto uint8, length int) []byte {
	b := append(append([]byte{}, src...), dst...)
	if len(src) == 16 {
		b = binary.BigEndian.AppendUint32(b, uint32(length))
		return append(b, 0, 0, 0, proto)
	}
	return binary.BigEndian.AppendUint16(append(b, 0, proto), uint16(length))
}

// slowSum is the one's complement sum, not complemented, as RFC 1071 words it.
func slowSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		sum += w
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// slowPacket is what slowParse finds in a packet.
type slowPacket struct {
	v6      bool
	proto   uint8
	ip      []byte // IP header with options or extension headers
	th      []byte // transport header
	payload []byte
}

// slowParse takes a packet of TCP or UDP apart and checks every length and checksum in it.
func slowParse(pkt []byte, ethernet bool) (s slowPacket, err error) {
	b := pkt
	if ethernet {
		b = b[12:]
		for b[0] == 0x81 && b[1] == 0 || b[0] == 0x88 && b[1] == 0xa8 {
			b = b[4:]
		}
		b = b[2:]
	}
	var src, dst []byte
	var rest []byte
	if b[0]>>4 == 4 {
		hlen := int(b[0]&15) * 4
		if total := int(b[2])<<8 | int(b[3]); total != len(b) {
			return s, fmt.Errorf("IPv4 total length %d, packet has %d", total, len(b))
		}
		if slowSum(b[:hlen]) != 0xffff {
			return s, fmt.Errorf("IPv4 header checksum is wrong")
		}
		s.proto, s.ip, rest = b[9], b[:hlen], b[hlen:]
		src, dst = b[12:16], b[16:20]
	} else {
		s.v6 = true
		if l := int(b[4])<<8 | int(b[5]); l != len(b)-40 {
			return s, fmt.Errorf("IPv6 payload length %d, packet has %d", l, len(b)-40)
		}
		src, dst = b[8:24], b[24:40]
		s.proto = b[6]
		n := 40
		for s.proto != 6 && s.proto != 17 {
			if s.proto == 43 && b[n+3] > 0 { // segments left: the last address of RFC 8200's example type, the first of RFC 8754's
				dst = b[n+8 : n+24]
			}
			s.proto, n = b[n], n+8+8*int(b[n+1])
		}
		s.ip, rest = b[:n], b[n:]
	}
	hlen := 8
	if s.proto == 6 {
		hlen = int(rest[12]>>4) * 4
	} else {
		if l := int(rest[4])<<8 | int(rest[5]); l != len(rest) {
			return s, fmt.Errorf("UDP length %d, have %d", l, len(rest))
		}
		if rest[6] == 0 && rest[7] == 0 {
			return s, fmt.Errorf("UDP without checksum")
		}
	}
	s.th, s.payload = rest[:hlen], rest[hlen:]
	if slowSum(append(slowPseudo(src, dst, s.proto, len(rest)), rest...)) != 0xffff {
		return s, fmt.Errorf("transport checksum is wrong")
	}
	return s, nil
}

// splitAll returns all segments, checking Size and Left on the way, each cut out of a buffer whose other bytes must not change.
func splitAll(t testing.TB, h VNetHdr, pkt []byte, ethernet bool) [][]byte {
	t.Helper()
	var s Splitter
	if err := s.Reset(h, pkt, ethernet); err != nil {
		t.Fatalf("Reset(%+v): %v", h, err)
	}
	before := bytes.Clone(pkt)
	var out [][]byte
	for n := s.Size(); n > 0; n = s.Size() {
		left := s.Left()
		buf := bytes.Repeat([]byte{0xa5}, n+16)
		if _, err := s.Next(buf[8 : 8+n-1 : 8+n-1]); err == nil {
			t.Fatal("Next wrote a segment into too short a buffer")
		}
		got, err := s.Next(buf[8:])
		if err != nil || got != n || s.Left() != left-1 {
			t.Fatalf("Next = %d, %v, left %d; want %d, nil, %d", got, err, s.Left(), n, left-1)
		}
		if !bytes.Equal(buf[:8], bytes.Repeat([]byte{0xa5}, 8)) || !bytes.Equal(buf[8+n:], bytes.Repeat([]byte{0xa5}, 8)) {
			t.Fatal("Next wrote beside the segment")
		}
		out = append(out, buf[8:8+n])
	}
	if !bytes.Equal(before, pkt) {
		t.Fatal("Next changed the packet it splits")
	}
	return out
}

// testBytes is content in which a wrong place shows.
func testBytes(n int) []byte {
	b := make([]byte, n)
	x := uint32(n)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func clonePkt(b []byte) []byte { return append([]byte(nil), b...) }
