package tundev

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestVNetHdrCodec(t *testing.T) {
	wire := []byte{1, 0x81, 54, 0, 0xa8, 5, 34, 0, 16, 0}
	want := VNetHdr{Flags: 1, GSOType: GSOTCPv4 | GSOECN, HdrLen: 54, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	var h VNetHdr
	if err := h.Decode(wire); err != nil || h != want {
		t.Errorf("Decode = %+v, %v", h, err)
	}
	b := make([]byte, VNetHdrLen)
	h.Encode(b)
	if !bytes.Equal(b, wire) {
		t.Errorf("Encode = %x, want %x", b, wire)
	}
	if err := h.Decode(wire[:9]); err != ErrVNetShort {
		t.Errorf("nine bytes: %v", err)
	}
}

func TestVNetErrorTexts(t *testing.T) {
	seen := map[string]bool{}
	for e := range NumVNetErrors {
		if s := e.Error(); s == "" || seen[s] {
			t.Errorf("error %d has text %q", e, s)
		} else {
			seen[s] = true
		}
	}
	if NumVNetErrors.Error() == "" {
		t.Error("a value outside has no text")
	}
}

// TestValidateGood: what senders write passes, and is made anew from the packet.
func TestValidateGood(t *testing.T) {
	for name, shape := range shapes() {
		for link, s := range links(shape) {
			s.payload = testBytes(4000)
			h, pkt := s.buildGSO(1400)
			sent := h
			sent.HdrLen = 0xffff // as little to be believed as any
			sent.Flags |= VNetDataValid
			sent.GSOType &^= GSOECN
			got, err := sent.Validate(pkt, s.ethernet)
			if err != nil || got != h {
				t.Errorf("%s/%s: %+v, %v; want %+v", name, link, got, err, h)
			}
			h, pkt = s.buildGSO(0)
			sent = h
			sent.GSOSize, sent.HdrLen = 99, 99
			got, err = sent.Validate(pkt, s.ethernet)
			if err != nil || got != h {
				t.Errorf("%s/%s without gso: %+v, %v; want %+v", name, link, got, err, h)
			}
		}
	}
}

func TestValidateNoOffload(t *testing.T) {
	for _, pkt := range [][]byte{nil, {1}, make([]byte, 14), pktSpec{}.build()} {
		for _, h := range []VNetHdr{{}, {Flags: VNetDataValid}, {HdrLen: 9, GSOSize: 9, CsumStart: 0xffff, CsumOffset: 0xffff}} {
			if got, err := h.Validate(pkt, true); err != nil || got != (VNetHdr{}) {
				t.Errorf("%+v in front of %d bytes: %+v, %v", h, len(pkt), got, err)
			}
		}
	}
}

// TestValidateSmallGSO: with payload for one segment only, the packet is an ordinary one.
func TestValidateSmallGSO(t *testing.T) {
	for _, udp := range []bool{false, true} {
		for _, n := range []int{0, 7, 1400} {
			h, pkt := pktSpec{udp: udp, payload: testBytes(n)}.buildGSO(1400)
			got, err := h.Validate(pkt, false)
			want := VNetHdr{Flags: 1, CsumStart: h.CsumStart, CsumOffset: h.CsumOffset}
			if err != nil || got != want {
				t.Errorf("%d bytes: %+v, %v; want %+v", n, got, err, want)
			}
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	be := binary.BigEndian
	tcp4 := pktSpec{payload: testBytes(4000)}
	tcp6 := pktSpec{v6: true, payload: testBytes(4000)}
	udp4 := pktSpec{udp: true, payload: testBytes(4000)}
	udp6 := pktSpec{udp: true, v6: true, payload: testBytes(4000)}
	tap := pktSpec{ethernet: true, payload: testBytes(4000)}
	vlan := pktSpec{ethernet: true, tags: 2, payload: testBytes(4000)}
	exts := pktSpec{v6: true, ext: []extHdr{hopByHop, destOpts}, payload: testBytes(4000)}
	atomic := pktSpec{v6: true, ext: []extHdr{atomicFrag}, payload: testBytes(4000)}
	long := pktSpec{v6: true, ext: []extHdr{{60, append([]byte{70}, make([]byte, 570-4)...)}}, payload: testBytes(4000)}
	for _, c := range []struct {
		name string
		spec pktSpec
		edit func(h *VNetHdr, pkt []byte) []byte
		want VNetError
	}{
		{"flag rsc info", tcp4, func(h *VNetHdr, p []byte) []byte { h.Flags |= 4; return p }, ErrVNetFlags},
		{"flag 0x80", tcp4, func(h *VNetHdr, p []byte) []byte { h.Flags |= 0x80; return p }, ErrVNetFlags},
		{"ufo", udp4, func(h *VNetHdr, p []byte) []byte { h.GSOType = 3; return p }, ErrGSOType},
		{"type 2", tcp4, func(h *VNetHdr, p []byte) []byte { h.GSOType = 2; return p }, ErrGSOType},
		{"udp tunnel type", tcp4, func(h *VNetHdr, p []byte) []byte { h.GSOType |= 0x20; return p }, ErrGSOType},
		{"ecn with none", tcp4, func(h *VNetHdr, p []byte) []byte { h.GSOType = 0x80; return p }, ErrGSOType},
		{"ecn with udp", udp4, func(h *VNetHdr, p []byte) []byte { h.GSOType = 0x85; return p }, ErrGSOType},
		{"gso without checksum", tcp4, func(h *VNetHdr, p []byte) []byte { h.Flags = 0; return p }, ErrGSONoCsum},
		{"size 0", tcp4, func(h *VNetHdr, p []byte) []byte { h.GSOSize = 0; return p }, ErrGSOSize},
		{"size 0 udp", udp6, func(h *VNetHdr, p []byte) []byte { h.GSOSize = 0; return p }, ErrGSOSize},
		{"size ffff", tcp4, func(h *VNetHdr, p []byte) []byte { h.GSOSize = 0xffff; return p }, ErrGSOSize},
		{"size 7", tcp4, func(h *VNetHdr, p []byte) []byte { h.GSOSize = 7; return p }, ErrGSOSize},
		{"too many datagrams", udp4, func(h *VNetHdr, p []byte) []byte { h.GSOSize = 31; return p }, ErrGSOSize},
		{"tcp6 as tcp4", tcp6, func(h *VNetHdr, p []byte) []byte { h.GSOType = GSOTCPv4; return p }, ErrGSOProtocol},
		{"tcp4 as tcp6", tcp4, func(h *VNetHdr, p []byte) []byte { h.GSOType = GSOTCPv6; return p }, ErrGSOProtocol},
		{"tcp as udp", tcp4, func(h *VNetHdr, p []byte) []byte { h.GSOType = GSOUDPL4; return p }, ErrGSOProtocol},
		{"udp as tcp", udp6, func(h *VNetHdr, p []byte) []byte { h.GSOType = GSOTCPv6; return p }, ErrGSOProtocol},
		{"csum start short", tcp4, func(h *VNetHdr, p []byte) []byte { h.CsumStart -= 2; return p }, ErrVNetCsum},
		{"csum start in the payload", tcp4, func(h *VNetHdr, p []byte) []byte { h.CsumStart += 20; return p }, ErrVNetCsum},
		{"csum start without the link header", tap, func(h *VNetHdr, p []byte) []byte { h.CsumStart = 20; return p }, ErrVNetCsum},
		{"csum start outside", tcp4, func(h *VNetHdr, p []byte) []byte { h.CsumStart = 0xfff0; return p }, ErrVNetCsum},
		{"csum offset outside", tcp4, func(h *VNetHdr, p []byte) []byte { h.CsumOffset = 0xffff; return p }, ErrVNetCsum},
		{"csum offset of udp in tcp", tcp4, func(h *VNetHdr, p []byte) []byte { h.CsumOffset = 6; return p }, ErrVNetCsum},
		{"csum offset of tcp in udp", udp4, func(h *VNetHdr, p []byte) []byte { h.CsumOffset = 16; return p }, ErrVNetCsum},
		{"unknown transport", tcp4, func(h *VNetHdr, p []byte) []byte { p[9] = 50; return p }, ErrVNetCsum},
		{"icmpv6 in ipv4", tcp4, func(h *VNetHdr, p []byte) []byte { p[9] = 58; h.CsumOffset = 2; return p }, ErrVNetCsum},
		{"empty", tcp4, func(h *VNetHdr, p []byte) []byte { return nil }, ErrVNetHeaders},
		{"ip version 5", tcp4, func(h *VNetHdr, p []byte) []byte { p[0] = 0x55; return p }, ErrGSOProtocol},
		{"ethernet header cut", tap, func(h *VNetHdr, p []byte) []byte { return p[:13] }, ErrVNetHeaders},
		{"ethernet header alone", tap, func(h *VNetHdr, p []byte) []byte { return p[:14] }, ErrVNetHeaders},
		{"vlan tag cut", vlan, func(h *VNetHdr, p []byte) []byte { return p[:20] }, ErrVNetHeaders},
		{"three vlan tags", vlan, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[20:], 0x8100); return p }, ErrGSOProtocol},
		{"arp", tap, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[12:], 0x0806); return p }, ErrGSOProtocol},
		{"ethertype and version differ", tap, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[12:], 0x86dd); return p }, ErrGSOProtocol},
		{"ipv4 header cut", tcp4, func(h *VNetHdr, p []byte) []byte { return p[:19] }, ErrVNetHeaders},
		{"ihl 4", tcp4, func(h *VNetHdr, p []byte) []byte { p[0] = 0x44; return p }, ErrVNetHeaders},
		{"ihl beyond", tcp4, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[2:], 40); p[0] = 0x4f; return p[:40] }, ErrVNetHeaders},
		{"ipv4 length 0", tcp4, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[2:], 0); return p }, ErrVNetHeaders},
		{"ipv4 length beyond", tcp4, func(h *VNetHdr, p []byte) []byte { return p[:len(p)-1] }, ErrVNetLength},
		{"ipv4 length short", tcp4, func(h *VNetHdr, p []byte) []byte { return append(p, 0) }, ErrVNetLength},
		{"ipv4 more fragments", tcp4, func(h *VNetHdr, p []byte) []byte { p[6] = 0x20; return p }, ErrVNetFragment},
		{"ipv4 offset", udp4, func(h *VNetHdr, p []byte) []byte { p[7] = 1; return p }, ErrVNetFragment},
		{"ipv6 header cut", tcp6, func(h *VNetHdr, p []byte) []byte { return p[:39] }, ErrVNetHeaders},
		{"ipv6 jumbogram", tcp6, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[4:], 0); return p }, ErrVNetLength},
		{"ipv6 length beyond", tcp6, func(h *VNetHdr, p []byte) []byte { return p[:len(p)-1] }, ErrVNetLength},
		{"ipv6 over 65535", tcp6, func(h *VNetHdr, p []byte) []byte {
			p = append(p, make([]byte, 65536-len(p))...)
			be.PutUint16(p[4:], uint16(len(p)-40))
			return p
		}, ErrVNetLength},
		{"extension beyond", exts, func(h *VNetHdr, p []byte) []byte { p[41] = 255; p[49] = 255; return p[:64] }, ErrVNetLength},
		{"extension longer than all", exts, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[4:], 24); p[49] = 2; return p[:64] }, ErrVNetHeaders},
		{"extension cut", exts, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[4:], 12); return p[:52] }, ErrVNetHeaders},
		{"headers of 600 bytes", long, func(h *VNetHdr, p []byte) []byte { return p }, ErrVNetHeaders},
		{"gso with fragment header", atomic, func(h *VNetHdr, p []byte) []byte { return p }, ErrVNetFragment},
		{"ipv6 fragment", atomic, func(h *VNetHdr, p []byte) []byte { p[43] = 1; h.GSOType = 0; return p }, ErrVNetFragment},
		{"tcp header cut", tcp4, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[2:], 39); return p[:39] }, ErrVNetHeaders},
		{"tcp header length 4", tcp4, func(h *VNetHdr, p []byte) []byte { p[32] = 0x40; return p }, ErrVNetHeaders},
		{"tcp options beyond", tcp4, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[2:], 50); p[32] = 0xf0; return p[:50] }, ErrVNetHeaders},
		{"udp header cut", udp4, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[2:], 27); return p[:27] }, ErrVNetHeaders},
		{"udp length", udp4, func(h *VNetHdr, p []byte) []byte { be.PutUint16(p[24:], 100); return p }, ErrVNetLength},
		{"icmpv6 of one byte", tcp6, func(h *VNetHdr, p []byte) []byte {
			p[6], h.CsumOffset, h.GSOType = 58, 2, 0
			be.PutUint16(p[4:], 1)
			return p[:41]
		}, ErrVNetCsum},
	} {
		h, pkt := c.spec.buildGSO(1400)
		pkt = c.edit(&h, pkt)
		got, err := h.Validate(pkt, c.spec.ethernet)
		if err != c.want || got != (VNetHdr{}) {
			t.Errorf("%s: %+v, %v; want error %v", c.name, got, err, c.want)
		}
		if h.GSOType != GSONone {
			var s Splitter
			if err := s.Reset(h, pkt, c.spec.ethernet); err != c.want {
				t.Errorf("%s: Reset: %v; want %v", c.name, err, c.want)
			}
		}
	}
}

// TestValidateAccepts: edges on the right side.
func TestValidateAccepts(t *testing.T) {
	atomic := pktSpec{v6: true, ext: []extHdr{atomicFrag}, payload: testBytes(50)}
	h, pkt := atomic.buildGSO(0)
	if got, err := h.Validate(pkt, false); err != nil || got != h {
		t.Errorf("atomic fragment: %+v, %v", got, err)
	}
	padded := pktSpec{ethernet: true, padding: 6}
	h, pkt = padded.buildGSO(0)
	if got, err := h.Validate(pkt, true); err != nil || got != h {
		t.Errorf("padded frame: %+v, %v", got, err)
	}
	big := pktSpec{ethernet: true, tags: 2, payload: testBytes(65535 - 40)}
	h, pkt = big.buildGSO(8)
	if got, err := h.Validate(pkt, true); err != nil || got != h {
		t.Errorf("65535 bytes by 8: %+v, %v", got, err)
	}
	most := pktSpec{udp: true, payload: testBytes(128 * 8)}
	h, pkt = most.buildGSO(8)
	if got, err := h.Validate(pkt, false); err != nil || got != h {
		t.Errorf("128 datagrams: %+v, %v", got, err)
	}
	ns := pktSpec{v6: true, udp: true, payload: testBytes(16)}
	h, pkt = ns.buildGSO(0)
	pkt[6], h.CsumOffset = 58, 2
	if got, err := h.Validate(pkt, false); err != nil || got != h {
		t.Errorf("ICMPv6: %+v, %v", got, err)
	}
}
