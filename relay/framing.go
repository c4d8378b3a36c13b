package relay

// Framings: how packets stand on a byte stream.
//
// A byte stream has no borders: packets written one by one arrive merged and
// cut. A Framer puts borders in when it writes and finds them when it reads.
// It is pure code over byte slices: it opens nothing, waits for nothing, and
// allocates nothing for a packet. The relay owns the buffers, reads many
// packets with one read, and writes many with one write.
//
//	link   link_frame.go      typed frames between two of our own ends
//	u16    framing_length.go  16 bit length in front (vde_plug, RFC 4571)
//	qemu   framing_length.go  32 bit length in front (QEMU, passt)
//	slip   framing_slip.go    RFC 1055, for serial lines
//	raw    framing_rawip.go   no framing; IP packets found by their headers
//
// What arrives is untrusted. No framing believes a length that it has not
// compared with a bound, and a receive buffer of MaxFrame bytes always
// suffices: a full buffer in which Next still asks for more cannot happen.

import (
	"fmt"
)

// MaxPacket is the longest packet, in bytes, that any framing carries and
// that buffers are made for. The longest thing a device hands out is an IPv6
// packet with the largest payload length (40 + 65535 bytes) behind an Ethernet
// header (14), two VLAN tags (8), packet information (4) and the longer form of
// the virtio-net header (12): 65613 bytes, rounded up to a multiple of 64.
const MaxPacket = 65664

// A Framer puts packets on a byte stream and finds them again. One Framer
// serves one direction of one stream; it is not for use by several goroutines.
type Framer interface {
	// Name is the framing's name as the user writes it.
	Name() string

	// MaxPacket is the longest packet in bytes that Append takes.
	MaxPacket() int

	// MaxFrame is the longest frame in bytes that Next may need to see whole
	// before it can go on: the least size of a receive buffer.
	MaxFrame() int

	// Append appends the framed packet to dst. A packet that is too long or
	// too short is refused with a *SizeError and dst is returned as it was;
	// nothing is ever cut.
	Append(dst, pkt []byte) ([]byte, error)

	// Next looks for the first packet in src and says how many bytes of src
	// are done with. The packet aliases src and is good until src is reused;
	// slip decodes in place, so the used bytes of src may have changed.
	//
	//	used == 0, err == nil             more bytes are needed
	//	used > 0, pkt == nil, err == nil  bytes without a packet were passed over
	//	used > 0, pkt != nil              a packet
	//	err != nil                        a *FrameError. With Resync the used
	//	                                  bytes are lost and Next may go on;
	//	                                  without it the stream is out of step
	//	                                  and must be given up
	Next(src []byte) (pkt []byte, used int, err error)
}

// A HeadFramer is a Framer whose frame is a header in front of the unchanged
// packet. The relay reads packets with HeadLen bytes free in front of each and
// fills the headers in place, so that a batch goes out without being copied.
type HeadFramer interface {
	Framer

	// HeadLen is the length of the header in bytes.
	HeadLen() int

	// PutHead writes the header of a packet of n bytes into the first HeadLen
	// bytes of head, or returns a *SizeError and writes nothing.
	PutHead(head []byte, n int) error
}

// A SizeError says that a packet cannot be carried because of its length.
type SizeError struct {
	Framing  string
	Len      int // length of the packet, bytes
	Min, Max int // what the framing carries, bytes
}

func (e *SizeError) Error() string {
	if e.Len < e.Min {
		return fmt.Sprintf("framing %s: a packet of %d bytes is too short, the shortest has %d", e.Framing, e.Len, e.Min)
	}
	return fmt.Sprintf("framing %s: a packet of %d bytes is too long, the longest has %d", e.Framing, e.Len, e.Max)
}

// checkSize returns a *SizeError if n is outside min to max.
func checkSize(framing string, n, min, max int) error {
	if n < min || n > max {
		return &SizeError{Framing: framing, Len: n, Min: min, Max: max}
	}
	return nil
}

// A FrameError says that the bytes of a peer do not follow the framing.
type FrameError struct {
	Framing string
	Why     string
	Looks   string // what Foreign makes of the bytes; "" if nothing
	Resync  bool   // one packet is lost and the framer goes on at the next border
}

func (e *FrameError) Error() string {
	s := "framing " + e.Framing + ": " + e.Why
	if e.Looks != "" {
		s += "; the peer speaks " + e.Looks
	}
	return s
}
