package tundev

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"
)

// Options and extension headers as real senders write them.
var (
	timestamps = []byte{1, 1, 8, 10, 0, 1, 2, 3, 0, 4, 5, 6}
	ipNops     = []byte{1, 1, 1, 0}
	hopByHop   = extHdr{0, append([]byte{0, 5, 2, 0, 0, 1, 0}, nil...)}    // router alert
	destOpts   = extHdr{60, append([]byte{1, 1, 12}, make([]byte, 12)...)} // PadN, 16 bytes in all
	atomicFrag = extHdr{44, []byte{0, 0, 0, 1, 2, 3, 4}}
	finalDst   = []byte{0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7}
	routing    = extHdr{43, append([]byte{2, 4, 1, 0, 0, 0, 0}, finalDst...)}
)

// shapes are the header combinations that split and coalesce must keep.
func shapes() map[string]pktSpec {
	return map[string]pktSpec{
		"tcp4":                  {id: 0xfffe, seq: 0xfffffc00, ack: 77},
		"tcp4 timestamps":       {tcpOpts: timestamps, seq: 1},
		"tcp4 options":          {ipOpts: ipNops, tcpOpts: timestamps},
		"tcp4 fin psh":          {flags: 0x19},
		"tcp4 ecn":              {flags: 0x98, tos: 2},
		"tcp4 without df":       {noDF: true, id: 9},
		"tcp6":                  {v6: true, seq: 5, label: 0xabcde, tos: 0xb8},
		"tcp6 ecn fin":          {v6: true, flags: 0x91},
		"tcp6 hop-by-hop":       {v6: true, ext: []extHdr{hopByHop}},
		"tcp6 three extensions": {v6: true, ext: []extHdr{hopByHop, destOpts, routing}, finalDst: finalDst, tcpOpts: timestamps},
		"udp4":                  {udp: true, id: 3},
		"udp4 options":          {udp: true, ipOpts: ipNops},
		"udp6":                  {udp: true, v6: true},
		"udp6 destination":      {udp: true, v6: true, ext: []extHdr{destOpts}},
	}
}

// links are the three ways such a packet may be carried on, for TUN and TAP.
func links(s pktSpec) map[string]pktSpec {
	tap, tag, tags := s, s, s
	tap.ethernet, tag.ethernet, tags.ethernet = true, true, true
	tag.tags, tags.tags = 1, 2
	return map[string]pktSpec{"tun": s, "tap": tap, "tap vlan": tag, "tap qinq": tags}
}

func TestSplit(t *testing.T) {
	for name, shape := range shapes() {
		for link, s := range links(shape) {
			for _, c := range []struct{ payload, size int }{{3000, 1400}, {2800, 1400}, {1401, 1400}, {1400, 1400}, {10, 1400}, {0, 1400}, {64, 8}, {60000, 1448}} {
				t.Run(fmt.Sprintf("%s/%s/%d by %d", name, link, c.payload, c.size), func(t *testing.T) {
					s.payload = testBytes(c.payload)
					checkSplit(t, s, c.size)
				})
			}
		}
	}
}

// checkSplit splits the packet of s and compares each segment with the packet built from what it should hold.
func checkSplit(t testing.TB, s pktSpec, size int) {
	t.Helper()
	h, pkt := s.buildGSO(size)
	segs := splitAll(t, h, pkt, s.ethernet)
	if want := max(1, (len(s.payload)+size-1)/size); len(segs) != want {
		t.Fatalf("%d segments, want %d", len(segs), want)
	}
	flags := s.flags
	if flags == 0 {
		flags = tcpACK
	}
	for i, seg := range segs {
		want := s
		from := i * size
		want.payload = s.payload[from:min(len(s.payload), from+size)]
		want.seq += uint32(from)
		want.id += uint16(i)
		want.flags = flags
		if i < len(segs)-1 {
			want.flags &^= 0x09
		}
		if i > 0 {
			want.flags &^= 0x80
		}
		b := want.build()
		if !bytes.Equal(seg, b) {
			t.Fatalf("segment %d of %d:\n got %x\nwant %x", i, len(segs), seg[:min(len(seg), 120)], b[:min(len(b), 120)])
		}
		if _, err := slowParse(seg, s.ethernet); err != nil {
			t.Fatalf("segment %d: %v", i, err)
		}
	}
}

// TestSplitUDPZero: a datagram whose checksum comes out as 0 carries 0xffff (RFC 768).
func TestSplitUDPZero(t *testing.T) {
	s := pktSpec{udp: true, payload: make([]byte, 24)}
	first := s
	first.payload = s.payload[:16]
	b := first.build()
	binary.BigEndian.PutUint16(s.payload, binary.BigEndian.Uint16(b[26:])) // adding the checksum to the data brings the checksum to 0
	h, pkt := s.buildGSO(16)
	segs := splitAll(t, h, pkt, false)
	if got := binary.BigEndian.Uint16(segs[0][26:]); got != 0xffff {
		t.Errorf("checksum %04x, want ffff", got)
	}
	first.payload = s.payload[:16]
	h, pkt = first.buildGSO(0)
	if err := Complete(h, pkt); err != nil {
		t.Fatal(err)
	}
	if got := binary.BigEndian.Uint16(pkt[26:]); got != 0xffff {
		t.Errorf("completed checksum %04x, want ffff", got)
	}
}

func TestSplitWithoutGSO(t *testing.T) {
	s := pktSpec{payload: testBytes(99)}
	h, pkt := s.buildGSO(0)
	segs := splitAll(t, h, pkt, false)
	if len(segs) != 1 || !bytes.Equal(segs[0], s.build()) {
		t.Error("a packet that wants its checksum came out otherwise")
	}
	arp := append(bytes.Repeat([]byte{0xff}, 12), 8, 6, 1, 2, 3)
	if segs := splitAll(t, VNetHdr{}, arp, true); len(segs) != 1 || !bytes.Equal(segs[0], arp) {
		t.Error("a packet without offload came out otherwise")
	}
	var sp Splitter
	if n, err := sp.Next(nil); n != 0 || err != io.EOF {
		t.Errorf("zero Splitter: %d, %v", n, err)
	}
	if err := sp.Reset(VNetHdr{}, nil, false); err != ErrVNetHeaders {
		t.Errorf("empty packet: %v", err)
	}
	if err := sp.Reset(VNetHdr{Flags: 1, CsumStart: 10, CsumOffset: 9}, make([]byte, 20), false); err != ErrVNetCsum {
		t.Errorf("checksum outside: %v", err)
	}
	if sp.Size() != 0 {
		t.Error("a refused packet left segments")
	}
}

// TestSplitIntoOneBuffer lays segments behind each other with a gap for framing, as a relay does.
func TestSplitIntoOneBuffer(t *testing.T) {
	s := pktSpec{payload: testBytes(5000)}
	h, pkt := s.buildGSO(1400)
	const gap = 4
	buf := make([]byte, 16384)
	used := 0
	var sp Splitter
	if err := sp.Reset(h, pkt, false); err != nil {
		t.Fatal(err)
	}
	for n := sp.Size(); n > 0; n = sp.Size() {
		if _, err := sp.Next(buf[used+gap:]); err != nil {
			t.Fatal(err)
		}
		binary.BigEndian.PutUint32(buf[used:], uint32(n))
		used += gap + n
	}
	var payload []byte
	for b := buf[:used]; len(b) > 0; {
		n := int(binary.BigEndian.Uint32(b))
		p, err := slowParse(b[gap:gap+n], false)
		if err != nil {
			t.Fatal(err)
		}
		payload = append(payload, p.payload...)
		b = b[gap+n:]
	}
	if !bytes.Equal(payload, s.payload) {
		t.Error("payload differs")
	}
}

func TestComplete(t *testing.T) {
	for name, shape := range shapes() {
		for link, s := range links(shape) {
			for _, n := range []int{0, 1, 31, 1400} {
				s.payload = testBytes(n)
				h, pkt := s.buildGSO(0)
				if err := Complete(h, pkt); err != nil {
					t.Fatal(err)
				}
				if want := s.build(); !bytes.Equal(pkt, want) {
					t.Errorf("%s/%s: completed packet differs", name, link)
				}
			}
		}
	}
	pkt := testBytes(40)
	before := clonePkt(pkt)
	if err := Complete(VNetHdr{}, pkt); err != nil || !bytes.Equal(pkt, before) {
		t.Error("without VNetNeedsCsum something happened")
	}
	if err := Complete(VNetHdr{GSOType: GSOTCPv4}, pkt); err != ErrGSOType {
		t.Errorf("gso packet: %v", err)
	}
	for _, h := range []VNetHdr{{Flags: 1, CsumStart: 39}, {Flags: 1, CsumStart: 40}, {Flags: 1, CsumStart: 0xffff, CsumOffset: 0xffff}, {Flags: 1, CsumOffset: 39}} {
		if err := Complete(h, pkt); err != ErrVNetCsum || !bytes.Equal(pkt, before) {
			t.Errorf("%+v: %v", h, err)
		}
	}
	if err := Complete(VNetHdr{Flags: 1, CsumStart: 38}, pkt); err != nil {
		t.Errorf("field at the very end: %v", err)
	}
}
