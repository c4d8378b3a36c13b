package relay

import (
	"encoding/binary"
	"fmt"
)

// maxRawIP is the longest packet an IP header can announce without a jumbo
// option: 40 bytes of IPv6 header and a payload length of 65535.
const maxRawIP = 40 + 65535

// piLen is the length of packet information (struct tun_pi in
// include/uapi/linux/if_tun.h): a flags word in the order of the sender's host
// and an EtherType, big-endian.
const piLen = 4

// A RawIP finds the packets of an unframed TUN stream, as plain socat sends it,
// by their own headers: IPv4 total length, IPv6 payload length. Whether packet
// information stands in front is told at each border, since it begins with 00 or
// 01 and an IP header with 4 or 6. Next returns bare IP packets, without it.
//
// There is no way back after an impossible header: each length is found only
// from the one before, so every error ends the stream.
//
// As a sender it adds nothing. That is what plain socat does, and it works only
// while the peer happens to read as the packets were written.
type RawIP struct{}

func (RawIP) Name() string   { return "none" }
func (RawIP) MaxPacket() int { return MaxPacket }
func (RawIP) MaxFrame() int  { return piLen + maxRawIP }

// Append appends the packet as it is.
func (RawIP) Append(dst, pkt []byte) ([]byte, error) {
	if err := checkSize("none", len(pkt), 1, MaxPacket); err != nil {
		return dst, err
	}
	return append(dst, pkt...), nil
}

func (f RawIP) Next(src []byte) (pkt []byte, used int, err error) {
	if len(src) == 0 {
		return nil, 0, nil
	}
	head, want := 0, byte(0) // want: the IP version that packet information names
	if src[0]>>4 == 0 {
		if len(src) < piLen {
			return nil, 0, nil
		}
		var why string
		if want, why = parsePI(src); why != "" {
			return nil, 0, rawError(src, why)
		}
		head = piLen
	}
	b := src[head:]
	if want != 0 && len(b) > 0 && b[0]>>4 != want {
		return nil, 0, rawError(src, fmt.Sprintf("packet information (% x) stands in front of a first byte %02x, which is not IPv%d", src[:piLen], b[0], want))
	}
	n, why := ipLength(b)
	if why != "" {
		return nil, 0, rawError(src, why)
	}
	if n == 0 || len(b) < n {
		return nil, 0, nil
	}
	return b[:n:n], head + n, nil
}

// parsePI reads the packet information at the start of b, which has at least
// piLen bytes, and returns the IP version it announces, or why that is not one.
func parsePI(b []byte) (version byte, why string) {
	flags := [2]byte{b[0], b[1]}
	switch flags {
	case [2]byte{0, 0}:
	case [2]byte{0, 1}, [2]byte{1, 0}:
		// TUN_PKT_STRIP, in either byte order: the sender's read was too
		// short, so the header that follows promises more than there is.
		return 0, fmt.Sprintf("packet information (% x) says that the sender cut the packet, so that the next border cannot be found", b[:piLen])
	default:
		return 0, fmt.Sprintf("neither an IP header nor packet information (% x)", b[:piLen])
	}
	switch binary.BigEndian.Uint16(b[2:]) {
	case etherIPv4:
		return 4, ""
	case etherIPv6:
		return 6, ""
	}
	return 0, fmt.Sprintf("packet information (% x) announces something that is not IP", b[:piLen])
}

// ipLength returns the length of the IP packet that starts in b, from its own
// header; 0 if more of the header is needed; or why that is not a header.
func ipLength(b []byte) (n int, why string) {
	if len(b) == 0 {
		return 0, ""
	}
	switch b[0] >> 4 {
	case 4:
		ihl := int(b[0]&15) * 4
		if ihl < 20 {
			return 0, fmt.Sprintf("IPv4 header length %d is below 20", ihl)
		}
		if len(b) < 4 {
			return 0, ""
		}
		n = int(binary.BigEndian.Uint16(b[2:]))
		if n < ihl {
			return 0, fmt.Sprintf("IPv4 total length %d is below its header's %d", n, ihl)
		}
		return n, ""
	case 6:
		if len(b) < 7 {
			return 0, ""
		}
		n = int(binary.BigEndian.Uint16(b[4:]))
		if n == 0 && b[6] == 0 {
			// Hop-by-hop options behind payload length 0: a jumbogram
			// (RFC 2675), or one of the kernel's BIG TCP packets.
			return 0, "IPv6 payload length 0 with hop-by-hop options: a jumbogram, whose end cannot be found safely"
		}
		return 40 + n, ""
	}
	return 0, fmt.Sprintf("first byte %02x is not an IP header", b[0])
}

func rawError(src []byte, why string) error {
	return &FrameError{Framing: "none", Why: why, Looks: Foreign(src, DeviceTUN)}
}
