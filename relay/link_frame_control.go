package relay

// Control frames of the link protocol: their bodies, and how they are made.
// On a stream they stand among the data frames; on a datagram transport the same
// bytes, header and all, travel in a hello's control field. All numbers are
// big-endian. A receiver takes a body that is longer than it knows, and ignores
// the rest, so that fields can be added at the end.

import (
	"encoding/binary"
	"fmt"

	"github.com/pkg/errors"
)

// MaxCloseText is the longest text in bytes of a FrameClose.
const MaxCloseText = 200

// A CloseCode says why a link ends.
type CloseCode uint8

const (
	CloseNormal   CloseCode = 0 // the sender's other end has reached its end of file, or was told to stop
	CloseProtocol CloseCode = 1 // the receiver of this broke the protocol
	CloseRefused  CloseCode = 2 // the link is not wanted, say because of its kind or identity
	CloseTimeout  CloseCode = 3 // the receiver of this was silent for too long
	CloseReplaced CloseCode = 4 // a newer connection of the same link identity took over
	CloseDevice   CloseCode = 5 // the sender's device is gone or failed
)

func (c CloseCode) String() string {
	switch c {
	case CloseNormal:
		return "end"
	case CloseProtocol:
		return "protocol error"
	case CloseRefused:
		return "refused"
	case CloseTimeout:
		return "timeout"
	case CloseReplaced:
		return "replaced"
	case CloseDevice:
		return "device gone"
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// LinkStats are the counters of one end, since its link began.
type LinkStats struct {
	PacketsSent, BytesSent         uint64 // put on the link; bytes of packets without headers
	PacketsReceived, BytesReceived uint64 // taken from the link
	DroppedQueue                   uint64 // packets from the device that found the queue to the link full
	DroppedDevice                  uint64 // packets from the link that the device refused
}

const linkStatsLen = 6 * 8

// AppendPing appends a ping. The stamp is the sender's own business, for
// instance nanoseconds of a monotonic clock: it comes back unchanged.
func AppendPing(dst []byte, stamp uint64) []byte {
	dst = appendControl(dst, FramePing, 8)
	return binary.BigEndian.AppendUint64(dst, stamp)
}

// AppendPong appends the answer to a ping, given that ping's body, which
// NextFrame has bounded by MaxControl.
func AppendPong(dst, ping []byte) []byte {
	dst = appendControl(dst, FramePong, len(ping))
	return append(dst, ping...)
}

// ParsePing returns the stamp in the body of a ping or pong.
func ParsePing(body []byte) (stamp uint64, err error) {
	if len(body) < 8 {
		return 0, shortControl("ping or pong", len(body), 8)
	}
	return binary.BigEndian.Uint64(body), nil
}

// AppendMTU appends the news that the sender's device has this MTU, in bytes.
func AppendMTU(dst []byte, mtu uint32) []byte {
	dst = appendControl(dst, FrameMTU, 4)
	return binary.BigEndian.AppendUint32(dst, mtu)
}

// ParseMTU returns the MTU in bytes from the body of a FrameMTU: 68 (RFC 791) to
// MaxPacket.
func ParseMTU(body []byte) (mtu int, err error) {
	if len(body) < 4 {
		return 0, shortControl("mtu", len(body), 4)
	}
	v := binary.BigEndian.Uint32(body)
	if v < 68 || v > MaxPacket {
		return 0, errors.Errorf("mtu control frame: %d is not within 68 to %d", v, MaxPacket)
	}
	return int(v), nil
}

// AppendStats appends the sender's counters.
func AppendStats(dst []byte, s LinkStats) []byte {
	dst = appendControl(dst, FrameStats, linkStatsLen)
	for _, v := range [...]uint64{s.PacketsSent, s.BytesSent, s.PacketsReceived, s.BytesReceived, s.DroppedQueue, s.DroppedDevice} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst
}

// ParseStats returns the counters in the body of a FrameStats.
func ParseStats(body []byte) (s LinkStats, err error) {
	if len(body) < linkStatsLen {
		return s, shortControl("statistics", len(body), linkStatsLen)
	}
	for i, p := range [...]*uint64{&s.PacketsSent, &s.BytesSent, &s.PacketsReceived, &s.BytesReceived, &s.DroppedQueue, &s.DroppedDevice} {
		*p = binary.BigEndian.Uint64(body[8*i:])
	}
	return s, nil
}

// AppendClose appends the end of the link with its reason, a text of at most
// MaxCloseText bytes for people to read.
func AppendClose(dst []byte, code CloseCode, text string) ([]byte, error) {
	if len(text) > MaxCloseText {
		return dst, errors.Errorf("close control frame: a text of %d bytes is longer than %d", len(text), MaxCloseText)
	}
	dst = appendControl(dst, FrameClose, 1+len(text))
	dst = append(dst, byte(code))
	return append(dst, text...), nil
}

// ParseClose returns the reason in the body of a FrameClose. What cannot be
// printed in the text is replaced by '?', so that a peer cannot write into a
// terminal.
func ParseClose(body []byte) (code CloseCode, text string, err error) {
	if len(body) < 1 {
		return 0, "", shortControl("close", 0, 1)
	}
	if len(body) > 1+MaxCloseText {
		return 0, "", errors.Errorf("close control frame: a text of %d bytes is longer than %d", len(body)-1, MaxCloseText)
	}
	return CloseCode(body[0]), printable(body[1:]), nil
}

func appendControl(dst []byte, t FrameType, n int) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(t)<<24|uint32(n))
}

func shortControl(what string, n, min int) error {
	return errors.Errorf("%s control frame: a body of %d bytes is shorter than %d", what, n, min)
}
