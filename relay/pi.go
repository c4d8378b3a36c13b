package relay

import "encoding/binary"

// Packet information is the four bytes that a device without IFF_NO_PI puts in front of each packet (if_tun.h, struct tun_pi): flags in host order, 0 here, and the
// EtherType of the packet, big-endian. Where one end's device has them and the other's has not, the receiver adds or removes them.

// adapt makes p, which came with or without packet information, what e's device takes. before are the bytes in the same array that end where p begins; four of
// them are overwritten if packet information must be added. The result is nil if p is too short to be adapted.
func (e *Endpoint) adapt(before, p []byte, peerPI bool) []byte {
	switch {
	case peerPI == e.PI:
		return p
	case peerPI && len(p) <= piLen:
		return nil
	case peerPI:
		return p[piLen:]
	case e.Traffic == TAP && len(p) < etherLen || len(p) == 0:
		return nil
	}
	var proto uint16
	switch {
	case e.Traffic == TAP:
		proto = binary.BigEndian.Uint16(p[12:])
	case p[0]>>4 == 4:
		proto = etherIPv4
	case p[0]>>4 == 6:
		proto = etherIPv6
	}
	at := len(before) - piLen
	binary.BigEndian.PutUint16(before[at:], 0)
	binary.BigEndian.PutUint16(before[at+2:], proto)
	return before[at : at+piLen+len(p)]
}

// adaptHeaded is adapt for a packet with a virtio-net header, VNetLen bytes, in front: packet information stands behind that.
func (e *Endpoint) adaptHeaded(before, p []byte, peerPI bool) []byte {
	if peerPI == e.PI {
		return p
	}
	head := [VNetLen]byte(p)
	whole := before[:len(before)+len(p)]
	pkt := e.adapt(whole[:len(before)+VNetLen], p[VNetLen:], peerPI)
	if pkt == nil {
		return nil
	}
	p = whole[len(whole)-len(pkt)-VNetLen:]
	copy(p, head[:])
	return p
}
