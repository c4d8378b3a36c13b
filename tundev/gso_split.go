package tundev

import (
	"encoding/binary"
	"io"
)

// Splitter cuts a GSO packet into the packets it stands for, complete with all checksums, as the kernel would (tcp_gso_segment,
// __udp_gso_segment, inet_gso_segment). Segments are made one at a time into memory of the caller's choice, so that a relay
// can lay many behind each other in one write buffer, with room in front of each for its framing, and go on in the next buffer when one is full:
//
//	if err := s.Reset(hdr, pkt, ethernet); err != nil { ... }
//	for n := s.Size(); n > 0; n = s.Size() {
//		if len(buf)-used < gap+n { ... } // write buf[:used] out, used = 0
//		if _, err := s.Next(buf[used+gap:]); err != nil { ... }
//		... // framing of n bytes into buf[used:used+gap]
//		used += gap + n
//	}
//
// In each segment stand all headers of the packet: link header, VLAN tags, IPv4 options, IPv6 extension headers, TCP options. What
// differs: IP length; IPv4 identification, counting up by one; TCP sequence number; FIN and PSH on the last segment only;
// CWR on the first only; UDP length; checksums.
//
// The zero Splitter has no segments. It allocates nothing, and keeps pkt until the next Reset.
type Splitter struct {
	pkt  []byte
	hdr  VNetHdr // of a packet that is not GSO; else only its GSOType counts
	p    ipHeaders
	size int    // transport payload of a segment
	done int    // payload bytes handed out
	left int    // segments not handed out yet
	nth  uint16 // segments handed out
	seq  uint32 // TCP sequence number of the whole

	// pseudo is the sum of the pseudo header without the length. It comes from the packet's checksum field rather than from the IP
	// header, because with a routing header the address summed is not the one in the IP header.
	pseudo uint64
}

// Reset starts on a packet with the header that came with it; ethernet as in Validate. The header of a GSO packet is checked as Validate
// does it, that of another packet only as far as Complete does. A packet that is not GSO comes out as the only segment, its
// checksum completed if the header asks for it. pkt is only read, and must stay as it is until the last segment is made.
func (s *Splitter) Reset(h VNetHdr, pkt []byte, ethernet bool) error {
	*s = Splitter{}
	if len(pkt) == 0 {
		return ErrVNetHeaders
	}
	if h.GSOType == GSONone {
		if h.Flags&VNetNeedsCsum != 0 && int(h.CsumStart)+int(h.CsumOffset)+2 > len(pkt) {
			return ErrVNetCsum
		}
		s.hdr, s.pkt, s.left = h, pkt, 1
		return nil
	}
	h, err := h.Validate(pkt, ethernet)
	if err != nil {
		return err
	}
	if h.GSOType == GSONone { // the payload fits one segment
		s.hdr, s.pkt, s.left = h, pkt, 1
		return nil
	}
	if s.p, err = parseHeaders(pkt, ethernet); err != nil {
		return err
	}
	s.hdr, s.pkt, s.size = h, pkt, int(h.GSOSize)
	payload := s.p.end - s.p.body
	s.left = (payload + s.size - 1) / s.size
	field := binary.BigEndian.Uint16(pkt[int(h.CsumStart)+int(h.CsumOffset):])
	s.pseudo = addSum16(addSum16(0, field), ^uint16(s.p.end-s.p.l4))
	if s.p.proto == protoTCP {
		s.seq = binary.BigEndian.Uint32(pkt[s.p.l4+tcpSeqAt:])
	}
	return nil
}

// Left is the number of segments still to come.
func (s *Splitter) Left() int { return s.left }

// Size is the length of the next segment in bytes, 0 if there is none.
func (s *Splitter) Size() int {
	switch {
	case s.left == 0:
		return 0
	case s.hdr.GSOType == GSONone:
		return len(s.pkt)
	}
	return s.p.body + min(s.size, s.p.end-s.p.body-s.done)
}

// IPLen is the length in bytes of the next segment without its Ethernet header and VLAN tags: what an MTU bounds. It is known for GSO packets only, otherwise 0.
func (s *Splitter) IPLen() int {
	if s.left == 0 || s.hdr.GSOType == GSONone {
		return 0
	}
	return s.Size() - s.p.l3
}

// Next writes the next segment to the start of dst, which must not overlap the packet, and returns its length. At the end it returns io.EOF;
// if dst is shorter than Size, io.ErrShortBuffer, and the segment stays the next.
func (s *Splitter) Next(dst []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := s.Size()
	if len(dst) < n {
		return 0, io.ErrShortBuffer
	}
	dst = dst[:n]
	s.left--
	if s.hdr.GSOType == GSONone {
		copy(dst, s.pkt)
		return n, Complete(s.hdr, dst)
	}
	p := &s.p
	copy(dst, s.pkt[:p.body])
	copy(dst[p.body:], s.pkt[p.body+s.done:p.end])
	if !p.v6 {
		id := dst[p.l3+ip4IDAt:]
		binary.BigEndian.PutUint16(id, binary.BigEndian.Uint16(id)+s.nth)
	}
	p.setIPLength(dst, n)

	// With the pseudo header's sum in the checksum field, one sum over header and payload is the whole.
	l4 := dst[p.l4:]
	pseudo := foldSum(addSum16(s.pseudo, uint16(n-p.l4)))
	if p.proto == protoTCP {
		binary.BigEndian.PutUint32(l4[tcpSeqAt:], s.seq+uint32(s.done))
		if s.left > 0 {
			l4[tcpFlagsAt] &^= tcpFIN | tcpPSH
		}
		if s.nth > 0 {
			l4[tcpFlagsAt] &^= tcpCWR
		}
		binary.BigEndian.PutUint16(l4[tcpSumAt:], pseudo)
		binary.BigEndian.PutUint16(l4[tcpSumAt:], ^foldSum(addSum(0, l4)))
	} else {
		binary.BigEndian.PutUint16(l4[udpLengthAt:], uint16(len(l4)))
		binary.BigEndian.PutUint16(l4[udpSumAt:], pseudo)
		putNonZeroSum(l4[udpSumAt:], ^foldSum(addSum(0, l4)))
	}
	s.done += n - p.body
	s.nth++
	return n, nil
}
