package tundev

import "encoding/binary"

// VNetHdrLen is the length in bytes of the header that stands in front of each packet of a device opened with IFF_VNET_HDR:
// struct virtio_net_hdr (include/uapi/linux/virtio_net.h), the kernel's default size of it (TUNSETVNETHDRSZ).
const VNetHdrLen = 10

// Bits of VNetHdr.Flags (VIRTIO_NET_HDR_F_*). RSC_INFO (4) has no meaning on Linux devices.
const (
	VNetNeedsCsum = 1 // the checksum field holds the sum of the pseudo header alone and wants finishing
	VNetDataValid = 2 // the sender has verified the checksum; a word not to be taken from a peer
)

// Values of VNetHdr.GSOType (VIRTIO_NET_HDR_GSO_*). UFO (3) is not among them: Linux gave it up in 4.14, no device of ours asks for it.
const (
	GSONone  = 0    // one packet
	GSOTCPv4 = 1    // TCP segments over IPv4, merged
	GSOTCPv6 = 4    // TCP segments over IPv6, merged
	GSOUDPL4 = 5    // UDP datagrams of one size over IPv4 or IPv6, merged; Linux 6.2
	GSOECN   = 0x80 // with a TCP type: the TCP flag CWR is set, and belongs to the first segment alone
)

// Bounds on what a GSO packet may be.
const (
	maxIPPacket = 65535 // of a GSO packet, without link header; the total length of IPv4 says no more

	// minTCPSize is the smallest TCP payload Linux segments by: TCP_MIN_GSO_SIZE (include/net/tcp.h), the least MSS of 48 bytes
	// less 40 bytes of options.
	minTCPSize = 8

	// maxUDPSegments is UDP_MAX_SEGMENTS (include/linux/udp.h) since Linux 6.10; it was 64 before.
	maxUDPSegments = 128

	// gsoByFrags is GSO_BY_FRAGS (include/linux/skbuff.h), a gso_size with a meaning of its own that the kernel refuses from outside.
	gsoByFrags = 0xffff
)

// VNetHdr is the virtio-net header of a packet. Its zero value says: a complete packet, nothing to do.
type VNetHdr struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // bytes of link, network and transport header; a hint for the kernel, 0 in a packet that is not GSO
	GSOSize    uint16 // transport payload bytes of each segment but the last, which may have fewer
	CsumStart  uint16 // where the checksum's coverage starts, from the first byte of the packet (for TAP: of the Ethernet header)
	CsumOffset uint16 // where the checksum stands, from CsumStart
}

// VNetError is the reason why a virtio-net header, or the packet behind it, is refused. Its values are small and without gaps, so that a
// relay can count the reasons in an array of NumVNetErrors.
type VNetError uint8

// The reasons. Zero is none of them.
const (
	ErrVNetShort    VNetError = iota + 1 // fewer than VNetHdrLen bytes
	ErrVNetFlags                         // flag bits that have no meaning here
	ErrGSOType                           // a gso type that has no meaning here
	ErrGSOSize                           // gso_size 0, the kernel's special value, too small, or making too many datagrams
	ErrGSOProtocol                       // the packet is not of the gso type's IP version and transport
	ErrGSONoCsum                         // a gso packet that does not ask for checksums
	ErrVNetCsum                          // the checksum position is not that of the transport header's checksum
	ErrVNetHeaders                       // link, IP or transport header cut short, contradictory or unreasonably long
	ErrVNetFragment                      // a fragment, which has no transport checksum of its own
	ErrVNetLength                        // the lengths in the headers are not the packet's, or the packet is too long
	NumVNetErrors                        // number of values, with the unused zero
)

var vnetErrorTexts = [NumVNetErrors]string{
	"no error",
	"virtio-net header is cut short",
	"virtio-net header has unknown flags",
	"virtio-net header has an unknown gso type",
	"virtio-net header has an impossible gso size",
	"gso type does not fit the packet's protocols",
	"gso packet does not ask for checksums",
	"virtio-net header points beside the packet's checksum",
	"packet headers do not parse",
	"fragment cannot be offloaded",
	"packet length does not match its headers",
}

func (e VNetError) Error() string {
	if e >= NumVNetErrors {
		return "unknown virtio-net error"
	}
	return vnetErrorTexts[e]
}

// Decode reads the header from the first VNetHdrLen bytes of b, little-endian (the device is set so with TUNSETVNETLE; the link
// protocol carries it so). It checks nothing but the length: see Validate.
func (h *VNetHdr) Decode(b []byte) error {
	if len(b) < VNetHdrLen {
		return ErrVNetShort
	}
	h.Flags = b[0]
	h.GSOType = b[1]
	h.HdrLen = binary.LittleEndian.Uint16(b[2:])
	h.GSOSize = binary.LittleEndian.Uint16(b[4:])
	h.CsumStart = binary.LittleEndian.Uint16(b[6:])
	h.CsumOffset = binary.LittleEndian.Uint16(b[8:])
	return nil
}

// Encode writes the header into the first VNetHdrLen bytes of b, little-endian. It panics if b is shorter.
func (h VNetHdr) Encode(b []byte) {
	_ = b[VNetHdrLen-1]
	b[0] = h.Flags
	b[1] = h.GSOType
	binary.LittleEndian.PutUint16(b[2:], h.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], h.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], h.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], h.CsumOffset)
}

// Validate checks a header that came from outside against the packet behind it: an Ethernet frame, with up to two VLAN tags, if
// ethernet is true, else an IP packet. It returns the header to go on with, made anew from what the packet's own headers say:
//
//   - HdrLen is computed, never believed;
//   - fields without a meaning in this packet are zero, VNetDataValid too, as it would keep the receiving kernel from looking;
//   - GSOECN follows the TCP flag CWR;
//   - a GSO packet with no more payload than one segment becomes GSONone, as the kernel does it.
//
// A header so returned passes unchanged through Validate again and is safe for the kernel, for Splitter and for Complete. A
// packet without any offload is accepted whatever it holds. The content of the checksum field is not judged: a wrong one makes a packet
// that its receiver drops, as a wrong checksum does. The error is a VNetError.
func (h VNetHdr) Validate(pkt []byte, ethernet bool) (VNetHdr, error) {
	if h.Flags&^(VNetNeedsCsum|VNetDataValid) != 0 {
		return VNetHdr{}, ErrVNetFlags
	}
	switch h.GSOType {
	case GSONone, GSOTCPv4, GSOTCPv6, GSOUDPL4, GSOTCPv4 | GSOECN, GSOTCPv6 | GSOECN:
	default:
		return VNetHdr{}, ErrGSOType
	}
	if h.Flags&VNetNeedsCsum == 0 {
		if h.GSOType != GSONone {
			return VNetHdr{}, ErrGSONoCsum
		}
		return VNetHdr{}, nil
	}
	p, err := parseHeaders(pkt, ethernet)
	if err != nil {
		return VNetHdr{}, err
	}
	return h.validateOffload(pkt, &p)
}

// validateOffload is the part of Validate for packets that leave something to do: flags and type are known good, p is pkt parsed.
func (h VNetHdr) validateOffload(pkt []byte, p *ipHeaders) (VNetHdr, error) {
	if p.fragment {
		return VNetHdr{}, ErrVNetFragment
	}
	at, ok := p.csumOffset()
	if !ok || int(h.CsumStart) != p.l4 || int(h.CsumOffset) != at || p.l4+at+2 > p.end {
		return VNetHdr{}, ErrVNetCsum
	}
	out := VNetHdr{Flags: VNetNeedsCsum, CsumStart: h.CsumStart, CsumOffset: h.CsumOffset}
	base := h.GSOType &^ GSOECN
	if base == GSONone {
		return out, nil
	}
	if base == GSOUDPL4 && p.proto != protoUDP ||
		base == GSOTCPv4 && (p.v6 || p.proto != protoTCP) ||
		base == GSOTCPv6 && (!p.v6 || p.proto != protoTCP) {
		return VNetHdr{}, ErrGSOProtocol
	}
	if p.fragmentHeader {
		return VNetHdr{}, ErrVNetFragment
	}
	if p.end != len(pkt) || p.end-p.l3 > maxIPPacket {
		return VNetHdr{}, ErrVNetLength
	}
	if p.proto == protoUDP && p.udpLen(pkt) != p.end-p.l4 {
		return VNetHdr{}, ErrVNetLength
	}
	size, payload := int(h.GSOSize), p.end-p.body
	switch {
	case size == 0 || size == gsoByFrags:
		return VNetHdr{}, ErrGSOSize
	case payload <= size:
		return out, nil
	case p.proto == protoTCP && size < minTCPSize:
		return VNetHdr{}, ErrGSOSize
	case p.proto == protoUDP && payload > size*maxUDPSegments:
		return VNetHdr{}, ErrGSOSize
	}
	out.GSOType, out.GSOSize, out.HdrLen = base, h.GSOSize, uint16(p.body)
	if p.proto == protoTCP && pkt[p.l4+tcpFlagsAt]&tcpCWR != 0 {
		out.GSOType |= GSOECN
	}
	return out, nil
}

// Complete finishes in place the checksum of a packet that is not GSO, as the kernel does it for a device without checksum offload
// (skb_checksum_help): the sum from CsumStart to the end of the packet, the pseudo header's sum included that the checksum field holds
// already, complemented, and 0xffff where that is 0. Without VNetNeedsCsum there is nothing to do.
//
// It looks at no packet header, so it also serves what the own kernel sends in ways Validate doesn't know, such as a third VLAN tag.
// ErrVNetCsum says that the field is outside the packet, ErrGSOType that the packet must be split instead.
func Complete(h VNetHdr, pkt []byte) error {
	if h.GSOType != GSONone {
		return ErrGSOType
	}
	if h.Flags&VNetNeedsCsum == 0 {
		return nil
	}
	start := int(h.CsumStart)
	at := start + int(h.CsumOffset)
	if at+2 > len(pkt) {
		return ErrVNetCsum
	}
	putNonZeroSum(pkt[at:], ^foldSum(addSum(0, pkt[start:])))
	return nil
}

// putNonZeroSum stores a checksum where zero would mean that there is none (RFC 768); in one's complement 0xffff is the same number.
func putNonZeroSum(b []byte, sum uint16) {
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b, sum)
}
