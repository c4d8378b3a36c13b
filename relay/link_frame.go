package relay

// Frames of the link protocol (docs/link.md): a type byte, the length of the body as
// 24 bit big-endian, the body.
//
//	+------+------+------+------+----------------- - -
//	| type |  length of body    | body
//	+------+------+------+------+----------------- - -
//
// Types come in three ranges, so that a later version can add frames without
// guessing what an older peer does with them: data (an unknown one ends the
// link), control that may be passed over, control that must be understood.

import (
	"encoding/binary"
	"fmt"
)

// A FrameType is the first byte of a link frame.
type FrameType uint8

const (
	FramePacket     FrameType = 0x00 // one packet as the sender's device has it
	FramePacketVNet FrameType = 0x01 // the same behind a virtio-net header of 10 bytes, little-endian
	FrameCompressed FrameType = 0x02 // reserved: a compressed packet
	FrameStream     FrameType = 0x03 // reserved: a packet behind a stream number

	FramePing  FrameType = 0x10 // time stamp; to be answered by FramePong
	FramePong  FrameType = 0x11 // the body of the FramePing it answers
	FrameMTU   FrameType = 0x12 // the sender's device has a new MTU
	FrameStats FrameType = 0x13 // the sender's counters
	FrameClose FrameType = 0x14 // the sender ends the link, and why

	firstControl FrameType = 0x10 // below: data
	firstMust    FrameType = 0x80 // from here on: control that must be understood
)

// Data says that the frame carries a packet.
func (t FrameType) Data() bool { return t < firstControl }

// Must says that a receiver which does not know the type must end the link.
func (t FrameType) Must() bool { return t >= firstMust }

func (t FrameType) String() string {
	switch t {
	case FramePacket:
		return "packet"
	case FramePacketVNet:
		return "packet with virtio-net header"
	case FrameCompressed:
		return "compressed packet"
	case FrameStream:
		return "packet of a stream"
	case FramePing:
		return "ping"
	case FramePong:
		return "pong"
	case FrameMTU:
		return "mtu"
	case FrameStats:
		return "statistics"
	case FrameClose:
		return "close"
	}
	return fmt.Sprintf("0x%02x", uint8(t))
}

const (
	// LinkHeadLen is the length in bytes of a link frame's header.
	LinkHeadLen = 4
	// MaxControl is the longest body in bytes of a control frame.
	MaxControl = 1024
	// VNetLen is the length in bytes of the virtio-net header in front of the
	// packet in a FramePacketVNet.
	VNetLen = 10
)

// A Link is the framing of the link protocol. The zero value sends FramePacket.
// It has no state.
type Link struct {
	// Send is the type of the data frames that Append and PutHead make:
	// FramePacket or FramePacketVNet. With the latter the packet handed in
	// begins with its virtio-net header, and the peer must have announced
	// CapVNet.
	Send FrameType
}

func (f *Link) Name() string   { return "link" }
func (f *Link) MaxPacket() int { return MaxPacket }
func (f *Link) MaxFrame() int  { return LinkHeadLen + MaxPacket }
func (f *Link) HeadLen() int   { return LinkHeadLen }

func (f *Link) PutHead(head []byte, n int) error {
	if err := checkSize("link", n, minBody(f.Send), MaxPacket); err != nil {
		return err
	}
	putLinkHead(head, f.Send, n)
	return nil
}

func (f *Link) Append(dst, pkt []byte) ([]byte, error) {
	var head [LinkHeadLen]byte
	if err := f.PutHead(head[:], len(pkt)); err != nil {
		return dst, err
	}
	dst = append(dst, head[:]...)
	return append(dst, pkt...), nil
}

// Next returns the packets of data frames of the type that f sends. Control
// frames that may be passed over are passed over and all else is an error: who
// wants control frames, or both types of data, uses NextFrame.
func (f *Link) Next(src []byte) (pkt []byte, used int, err error) {
	typ, body, used, err := f.NextFrame(src)
	switch {
	case err != nil || used == 0:
		return nil, used, err
	case typ == f.Send:
		return body, used, nil
	case typ.Data():
		return nil, 0, &FrameError{Framing: "link", Why: fmt.Sprintf("a %s was not agreed on", typ)}
	}
	return nil, used, nil
}

// NextFrame finds the first frame of src. used == 0 without an error asks for
// more bytes. The body aliases src. Data frames are FramePacket (at least 1 byte)
// or FramePacketVNet (at least VNetLen + 1), and the caller checks whether it
// offered to take the latter. Control frames are below 0x80, and the caller
// passes over those it does not know. Any other frame and any length out of
// bounds is a *FrameError, which ends the link; it is found as soon as the header
// is there.
func (f *Link) NextFrame(src []byte) (typ FrameType, body []byte, used int, err error) {
	if len(src) < LinkHeadLen {
		return 0, nil, 0, nil
	}
	h := binary.BigEndian.Uint32(src)
	typ = FrameType(h >> 24)
	n := int(h & 0xffffff)
	if why := checkLinkHead(typ, n); why != "" {
		return 0, nil, 0, &FrameError{Framing: "link", Why: why, Looks: Foreign(src, 0)}
	}
	end := LinkHeadLen + n
	if len(src) < end {
		return 0, nil, 0, nil
	}
	return typ, src[LinkHeadLen:end:end], end, nil
}

// checkLinkHead says why a frame of this type and length is not accepted.
func checkLinkHead(typ FrameType, n int) string {
	switch {
	case typ == FramePacket || typ == FramePacketVNet:
		if min := minBody(typ); n < min || n > MaxPacket {
			return fmt.Sprintf("the body of a %s frame has %d bytes, not %d to %d", typ, n, min, MaxPacket)
		}
	case typ.Data():
		return fmt.Sprintf("a data frame of type 0x%02x was not agreed on", uint8(typ))
	case typ.Must():
		return fmt.Sprintf("a control frame of type 0x%02x must be understood, and is not known here", uint8(typ))
	case n > MaxControl:
		return fmt.Sprintf("the body of a %s control frame has %d bytes, more than %d", typ, n, MaxControl)
	}
	return ""
}

// minBody is the length in bytes of the shortest body of a data frame.
func minBody(t FrameType) int {
	if t == FramePacketVNet {
		return VNetLen + 1
	}
	return 1
}

func putLinkHead(head []byte, t FrameType, n int) {
	binary.BigEndian.PutUint32(head, uint32(t)<<24|uint32(n))
}
