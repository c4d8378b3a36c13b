package tundev

import "encoding/binary"

// Numbers of IP protocols and IPv6 extension headers (IANA "Protocol Numbers").
const (
	protoHopByHop = 0
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoICMPv6   = 58
	protoDestOpts = 60
)

// Places in headers, from the header's first byte, and TCP flags (RFC 791, 8200, 768, 9293, 3168).
const (
	ip4LengthAt = 2
	ip4IDAt     = 4
	ip4FragAt   = 6
	ip4SumAt    = 10
	ip4HdrLen   = 20

	ip6LengthAt = 4
	ip6HdrLen   = 40

	tcpSeqAt   = 4
	tcpFlagsAt = 13
	tcpSumAt   = 16
	tcpHdrLen  = 20

	udpLengthAt = 4
	udpSumAt    = 6
	udpHdrLen   = 8

	icmp6SumAt = 2

	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpECE = 0x40
	tcpCWR = 0x80
)

const (
	etherHdrLen = 14
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	etherVLAN   = 0x8100 // IEEE 802.1Q
	etherQinQ   = 0x88a8 // IEEE 802.1ad, outer tag
	vlanTagLen  = 4
	maxVLANTags = 2
)

// maxHeaders bounds link, IP and transport headers together. Splitting repeats them in front of each segment, so that a peer could
// otherwise make hundreds of megabytes from one packet whose IPv6 extension headers fill half of it. Real ones stay below 200 bytes;
// a segment routing header with twenty addresses still fits.
const maxHeaders = 512

// ipHeaders says where the parts of a packet are. All are offsets from the packet's first byte and lie within it, in this order.
type ipHeaders struct {
	l3   int // IP header
	l4   int // transport header
	body int // behind the transport header if that is TCP or UDP, else the same as l4
	end  int // of the IP packet; what follows on Ethernet is padding

	v6             bool
	proto          uint8 // IP protocol of the transport header
	fragment       bool  // piece of a datagram: l4 is where its data starts, no transport header was looked for
	fragmentHeader bool  // IPv6: there is a fragment header, be it of the only fragment (RFC 6946)
}

// parseHeaders finds the headers of an IP packet, in an Ethernet frame if ethernet is true. It believes no length without checking.
// Errors: ErrGSOProtocol if it is not IP, ErrVNetHeaders, ErrVNetLength.
func parseHeaders(pkt []byte, ethernet bool) (p ipHeaders, err error) {
	if ethernet {
		if p.l3, err = parseEthernet(pkt); err != nil {
			return p, err
		}
	}
	if len(pkt) <= p.l3 {
		return p, ErrVNetHeaders
	}
	switch version := pkt[p.l3] >> 4; {
	case version == 4 && (!ethernet || etherType(pkt, p.l3) == etherIPv4):
		err = p.parseIPv4(pkt)
	case version == 6 && (!ethernet || etherType(pkt, p.l3) == etherIPv6):
		err = p.parseIPv6(pkt)
	default:
		err = ErrGSOProtocol
	}
	if err != nil {
		return p, err
	}
	return p, p.parseTransport(pkt)
}

// etherType is the type field in front of the network header at l3.
func etherType(pkt []byte, l3 int) uint16 { return binary.BigEndian.Uint16(pkt[l3-2:]) }

// parseEthernet returns the offset of the network header behind the Ethernet header and its VLAN tags.
func parseEthernet(pkt []byte) (int, error) {
	if len(pkt) < etherHdrLen {
		return 0, ErrVNetHeaders
	}
	l3 := etherHdrLen
	for range maxVLANTags {
		if t := etherType(pkt, l3); t != etherVLAN && t != etherQinQ {
			break
		}
		if l3 += vlanTagLen; l3 > len(pkt) {
			return 0, ErrVNetHeaders
		}
	}
	return l3, nil
}

func (p *ipHeaders) parseIPv4(pkt []byte) error {
	ip := pkt[p.l3:]
	if len(ip) < ip4HdrLen {
		return ErrVNetHeaders
	}
	hlen, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[ip4LengthAt:]))
	if hlen < ip4HdrLen || total < hlen {
		return ErrVNetHeaders
	}
	if total > len(ip) {
		return ErrVNetLength
	}
	p.l4, p.end = p.l3+hlen, p.l3+total
	p.proto = ip[9]
	p.fragment = binary.BigEndian.Uint16(ip[ip4FragAt:])&0x3fff != 0 // more fragments, or an offset
	return nil
}

// parseIPv6 walks the extension headers up to the first that is none. A jumbogram (RFC 2675) has length 0 and is refused.
func (p *ipHeaders) parseIPv6(pkt []byte) error {
	ip := pkt[p.l3:]
	if len(ip) < ip6HdrLen {
		return ErrVNetHeaders
	}
	length := int(binary.BigEndian.Uint16(ip[ip6LengthAt:]))
	if length == 0 || ip6HdrLen+length > len(ip) {
		return ErrVNetLength
	}
	p.v6 = true
	p.l4, p.end = p.l3+ip6HdrLen, p.l3+ip6HdrLen+length
	p.proto = ip[6]
	for !p.fragment {
		var ext int
		switch p.proto {
		case protoHopByHop, protoRouting, protoDestOpts, protoFragment:
			if p.end-p.l4 < 8 {
				return ErrVNetHeaders
			}
			if ext = 8; p.proto != protoFragment {
				ext += int(pkt[p.l4+1]) * 8
			}
		default:
			return nil
		}
		if p.proto == protoFragment {
			p.fragmentHeader = true
			p.fragment = binary.BigEndian.Uint16(pkt[p.l4+2:])&0xfff9 != 0 // an offset, or more fragments
		}
		p.proto = pkt[p.l4]
		if p.l4 += ext; p.l4 > p.end || p.l4 > maxHeaders {
			return ErrVNetHeaders
		}
	}
	return nil
}

func (p *ipHeaders) parseTransport(pkt []byte) error {
	p.body = p.l4
	if p.fragment {
		return nil
	}
	hlen := 0
	switch p.proto {
	case protoTCP:
		if p.end-p.l4 < tcpHdrLen {
			return ErrVNetHeaders
		}
		if hlen = int(pkt[p.l4+12]>>4) * 4; hlen < tcpHdrLen {
			return ErrVNetHeaders
		}
	case protoUDP:
		hlen = udpHdrLen
	}
	if p.body += hlen; p.body > p.end || p.body > maxHeaders {
		return ErrVNetHeaders
	}
	return nil
}

// csumOffset is where the checksum stands in the transport header; false for protocols whose checksum nobody offloads this way.
func (p *ipHeaders) csumOffset() (int, bool) {
	switch {
	case p.proto == protoTCP:
		return tcpSumAt, true
	case p.proto == protoUDP:
		return udpSumAt, true
	case p.proto == protoICMPv6 && p.v6:
		return icmp6SumAt, true
	}
	return 0, false
}

// udpLen is the length field of the UDP header: header and payload.
func (p *ipHeaders) udpLen(pkt []byte) int {
	return int(binary.BigEndian.Uint16(pkt[p.l4+udpLengthAt:]))
}

// setIPLength writes the length fields of an IP header for a packet that ends at end, and IPv4's header checksum.
func (p *ipHeaders) setIPLength(pkt []byte, end int) {
	ip := pkt[p.l3:]
	if p.v6 {
		binary.BigEndian.PutUint16(ip[ip6LengthAt:], uint16(end-p.l3-ip6HdrLen))
		return
	}
	binary.BigEndian.PutUint16(ip[ip4LengthAt:], uint16(end-p.l3))
	binary.BigEndian.PutUint16(ip[ip4SumAt:], 0)
	binary.BigEndian.PutUint16(ip[ip4SumAt:], Checksum(pkt[p.l3:p.l4]))
}

// pseudoSum is the running sum of the pseudo header for a transport header and payload of length bytes (RFC 768, 9293, 8200 8.1).
// It is right only where the addresses in the IP header are the final ones: a routing header or a home address option
// moves them.
func (p *ipHeaders) pseudoSum(pkt []byte, length int) uint64 {
	var sum uint64
	if p.v6 {
		sum = addSum(0, pkt[p.l3+8:p.l3+40])
	} else {
		sum = addSum(0, pkt[p.l3+12:p.l3+20])
	}
	return addSum16(addSum16(sum, uint16(p.proto)), uint16(length))
}
