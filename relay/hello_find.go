package relay

// Hellos as packets, and how they are found in streams.
//
// Ahead of the body stands a header of fixed bytes, chosen so that a device's
// kernel takes the packet and drops it unanswered:
//
// TAP: the destination is 01:80:c2:00:00:0e, which IEEE 802.1Q (table 8-1) reserves for
// what concerns a single wire, protocols being told apart by EtherType. Bridges do not
// forward it, Linux bridges included (net/bridge/br_input.c), unless told to by
// group_fwd_mask; the stack finds no handler for EtherType 0x88b5 and drops it. A
// broadcast would be flooded to a whole LAN. The source is made from the nonce and is
// locally administered, so it is nobody's, and no bridge learns a real station's address
// wrongly.
//
// TUN: IPv4 from 0.0.0.0, which is valid only toward 255.255.255.255 and so is
// accepted on any device whatever its addresses; TTL 1, so that nothing passes it on; a
// protocol without handler, and Linux sends no ICMP error about a broadcast (RFC 1122,
// 3.2.2).

import (
	"bytes"
	"encoding/binary"
)

const (
	etherIPv4  = 0x0800
	etherIPv6  = 0x86dd
	etherHello = 0x88b5

	etherLen = 14
	ipv4Len  = 20
)

// A HelloForm is a set of the forms of packet that a hello comes in.
type HelloForm uint8

const (
	FormTUN   HelloForm = 1 << iota // IPv4
	FormTUNPI                       // IPv4 behind packet information
	FormTAP                         // Ethernet
	FormTAPPI                       // Ethernet behind packet information

	AnyForm = FormTUN | FormTUNPI | FormTAP | FormTAPPI
)

// helloForms describe the bytes in front of a body. A zero in mask leaves a byte
// open: the IPv4 length and checksum, the source address.
var helloForms = [...]struct {
	form HelloForm
	kind DeviceKind
	pi   bool
	head []byte
	mask []byte
}{
	{
		FormTUN, DeviceTUN, false,
		[]byte("\x45\x00\x00\x00\x00\x00\x40\x00\x01\xfd\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"),
		[]byte("\xff\xff\x00\x00\xff\xff\xff\xff\xff\xff\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"),
	},
	{
		FormTUNPI, DeviceTUN, true,
		[]byte("\x00\x00\x08\x00\x45\x00\x00\x00\x00\x00\x40\x00\x01\xfd\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"),
		[]byte("\xff\xff\xff\xff\xff\xff\x00\x00\xff\xff\xff\xff\xff\xff\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"),
	},
	{
		FormTAP, DeviceTAP, false,
		[]byte("\x01\x80\xc2\x00\x00\x0e\x00\x00\x00\x00\x00\x00\x88\xb5"),
		[]byte("\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\xff\xff"),
	},
	{
		FormTAPPI, DeviceTAP, true,
		[]byte("\x00\x00\x88\xb5\x01\x80\xc2\x00\x00\x0e\x00\x00\x00\x00\x00\x00\x88\xb5"),
		[]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\xff\xff"),
	},
}

// Form returns the form in which h is sent.
func (h *Hello) Form() HelloForm {
	for i := range helloForms {
		if f := &helloForms[i]; f.kind == h.Kind && f.pi == h.PI {
			return f.form
		}
	}
	return 0
}

// AppendPacket appends h as a packet of its device, behind packet information if
// h.PI. It is at least 74 bytes long, so it needs no padding as Ethernet, and at
// most MaxHello. A hello that breaks the rules is refused with a *HelloError.
func (h *Hello) AppendPacket(dst []byte) ([]byte, error) {
	if err := h.check(); err != nil {
		return dst, err
	}
	if h.Control != nil {
		if err := checkHelloControl(h.Control); err != nil {
			return dst, err
		}
	}
	start := len(dst)
	headLen := 0
	for i := range helloForms {
		if f := &helloForms[i]; f.form == h.Form() {
			dst = append(dst, f.head...)
			headLen = len(f.head)
		}
	}
	dst, err := h.appendBody(dst)
	if err != nil {
		return dst[:start], err
	}
	head := dst[start : start+headLen]
	if h.Kind == DeviceTAP {
		src := head[headLen-8 : headLen-2]
		copy(src, h.Nonce[:])
		src[0] = src[0]&^1 | 2 // one station, locally administered
	} else {
		ip := head[headLen-ipv4Len:]
		binary.BigEndian.PutUint16(ip[2:], uint16(len(dst)-start-headLen+ipv4Len))
		binary.BigEndian.PutUint16(ip[10:], ipv4Checksum(ip))
	}
	return dst, nil
}

// ipv4Checksum returns what belongs into the checksum field of the IPv4 header h,
// of even length, as it stands: over a header with the right checksum it is 0.
func ipv4Checksum(h []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(h); i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}

// ParseHello reads one packet, of either kind of device, with or without packet
// information in front, which has been stripped perhaps. ErrNotHello: it is a
// packet of the user's. *VersionError: a hello that is not understood here.
// *HelloError: a hello that makes no sense.
func ParseHello(pkt []byte) (Hello, error) {
	h, n, _, err := FindHello(pkt)
	if n != len(pkt) || n == 0 {
		return Hello{}, ErrNotHello
	}
	return h, err
}

// FindHello says whether a hello starts at the first byte of a stream.
//
//	n > 0             a hello of n bytes; with err it is one that cannot be used
//	                  (*VersionError, *HelloError)
//	n == 0, more      the stream could begin with one, more bytes are needed; never
//	                  so with MaxHello bytes or more
//	n == 0, not more  no hello
func FindHello(stream []byte) (h Hello, n int, more bool, err error) {
	return findHello(stream, AnyForm)
}

func findHello(stream []byte, forms HelloForm) (h Hello, n int, more bool, err error) {
	for i := range helloForms {
		f := &helloForms[i]
		if forms&f.form == 0 || !prefixMatches(stream, f.head, f.mask) {
			continue
		}
		if len(stream) < len(f.head) {
			more = true
			continue
		}
		body := stream[len(f.head):]
		n := bodyLen(body)
		if n < 0 {
			continue
		}
		if f.kind == DeviceTUN && !ipv4HeadFits(stream[len(f.head)-ipv4Len:len(f.head)], n) {
			continue
		}
		if n == 0 || len(body) < n {
			more = true
			continue
		}
		h, err := parseBody(body[:n:n])
		switch {
		case err == ErrNotHello:
			continue
		case err != nil:
		case h.Kind != f.kind:
			err = &HelloError{"a hello of a " + h.Kind.String() + " device in a packet of a " + f.kind.String() + " device"}
		case f.pi && !h.PI:
			err = &HelloError{"it has packet information in front and says that it has not"}
		}
		if err != nil {
			h = Hello{}
		}
		return h, len(f.head) + n, false, err
	}
	return Hello{}, 0, more, nil
}

// prefixMatches says whether b, as far as it goes, is what head has where mask is set.
func prefixMatches(b, head, mask []byte) bool {
	for i := 0; i < len(b) && i < len(head); i++ {
		if (b[i]^head[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

// ipv4HeadFits checks the open fields of an IPv4 header in front of a body of n
// bytes; n is 0 while that is not known.
func ipv4HeadFits(ip []byte, n int) bool {
	total := int(binary.BigEndian.Uint16(ip[2:]))
	return ipv4Checksum(ip) == 0 && (n == 0 || total == ipv4Len+n)
}

// ScanHello looks through unframed bytes of which the borders are not known, as a
// TAP device's on a stream, for the first hello that acknowledges our own nonce. forms is
// the form of the hello heard from this peer before, or AnyForm.
// A hello of another session, such as one of a tunnel within this tunnel, echoes
// another nonce and is not found.
//
//	n > 0   the hello h lies at stream[off:off+n]
//	n == 0  there is none; the last keep bytes might be the beginning of one. keep is
//	        below MaxHello
//
// A few bytes at the end of a frame may look like the beginning of a hello by chance
// (zeros, with packet information). Where frames go by what one read brought, hold back
// the whole of such a read for a moment rather than its last bytes.
func ScanHello(stream []byte, own Nonce, forms HelloForm) (h Hello, off, n, keep int) {
	for at := 0; ; at++ {
		i := bytes.Index(stream[at:], helloMagic[:])
		if i < 0 {
			break
		}
		at += i
		for j := range helloForms {
			f := &helloForms[j]
			off := at - len(f.head)
			if forms&f.form == 0 || off < 0 {
				continue
			}
			h, n, more, err := findHello(stream[off:], f.form)
			// A stream carries the packet information that the hello speaks of.
			if n > 0 && err == nil && h.Form() == f.form && h.Acks(own) {
				return h, off, n, 0
			}
			if more {
				keep = max(keep, len(stream)-off)
			}
		}
	}
	return Hello{}, 0, 0, max(keep, tailKeep(stream, forms))
}

// tailKeep returns the length of the longest tail of stream that might be the
// beginning of a hello whose magic is not there whole.
func tailKeep(stream []byte, forms HelloForm) int {
	longest := piLen + ipv4Len + len(helloMagic) - 1
	for k := min(longest, len(stream)); k > 0; k-- {
		tail := stream[len(stream)-k:]
		if _, n, more, _ := findHello(tail, forms); n == 0 && more {
			return k
		}
	}
	return 0
}
