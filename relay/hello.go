package relay

// The hello of the link protocol (docs/link.md): one harmless packet of the
// device's kind, by which two ends find out that both can frame.
//
// It is sent before anything is known of the peer. If the peer is plain socat,
// it writes the hello into its device, and the kernel behind drops it without an
// answer; so the hello is a whole packet (bytes that are none make socat's write
// fail and socat die). The packet around the body is in hello_find.go.
//
//	TAP   [PI] Ethernet header, EtherType 0x88b5 (IEEE 802, local experiments)  body
//	TUN   [PI] IPv4 header, protocol 253 (RFC 3692, experiments)                body
//
// The body, big-endian:
//
//	 0  8  magic
//	 8  1  version
//	 9  1  features that the receiver must know; 0 in version 1
//	10  2  length of the body, magic and checksum included
//	12  1  kind of device
//	13  1  flags
//	14  2  reserved: 0 when sent, not looked at when received
//	16  4  MTU of the device
//	20  4  capabilities
//	24  8  nonce of the sender
//	32  8  nonce of the peer, with ACK; else 0
//	40 16  identity of the link; 0: none
//	56  .  fields: type 1, length 1, value
//	    4  CRC-32 (IEEE) of all before
//
// Magic, version, length and checksum stay where they are in every version.

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode"
	"unicode/utf8"

	"github.com/pkg/errors"
)

// HelloVersion is the version of the link protocol spoken here.
const HelloVersion = 1

// Limits of a hello in bytes.
const (
	MaxHello         = 512 // the whole packet, packet information included
	MaxHelloSoftware = 64  // Hello.Software
	MaxHelloReason   = 200 // Hello.Reason
	MaxHelloControl  = 255 // Hello.Control

	helloFixed   = 56
	helloSum     = 4
	minHelloBody = helloFixed + helloSum
	maxHelloBody = MaxHello - piLen - ipv4Len
	// minAnyBody is the shortest body of any version: what never changes.
	minAnyBody = 12 + helloSum
)

// helloMagic begins each body. The first byte is not ASCII, as in PNG, so that no
// text is taken for it.
var helloMagic = [8]byte{0x89, 'T', 'S', 'P', 'L', 'I', 'C', 'E'}

// A DeviceKind says what the packets of a device are. Zero: not known.
type DeviceKind uint8

const (
	DeviceTUN DeviceKind = 1 // IP packets
	DeviceTAP DeviceKind = 2 // Ethernet frames
)

func (k DeviceKind) String() string {
	switch k {
	case DeviceTUN:
		return "tun"
	case DeviceTAP:
		return "tap"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// A Nonce names one session of one end. It is chosen at random for each session,
// is never zero, and is no secret.
type Nonce [8]byte

// NewNonce returns a random nonce.
func NewNonce() Nonce {
	var n Nonce
	for n == (Nonce{}) {
		rand.Read(n[:]) // never fails (crypto/rand)
	}
	return n
}

// Caps are the capabilities of an end: what it is able and willing to receive.
// Bits that a receiver does not know mean nothing to it.
type Caps uint32

const (
	CapVNet      Caps = 1 << 0  // FramePacketVNet, with unfinished checksums
	CapTSO4      Caps = 1 << 1  // TCP over IPv4 GSO packets; needs CapVNet, as the next four do
	CapTSO6      Caps = 1 << 2  // TCP over IPv6
	CapECN       Caps = 1 << 3  // TCP GSO packets with ECN
	CapUSO4      Caps = 1 << 4  // UDP over IPv4 (UDP_L4)
	CapUSO6      Caps = 1 << 5  // UDP over IPv6
	CapHeartbeat Caps = 1 << 8  // answers FramePing
	CapClose     Caps = 1 << 9  // understands FrameClose
	CapStats     Caps = 1 << 10 // wants FrameStats
	CapCompress  Caps = 1 << 12 // reserved: FrameCompressed; a hello field says which kinds
	CapHub       Caps = 1 << 13 // reserved: has other peers behind it
	CapStreams   Caps = 1 << 14 // joins several streams into one link, as Hello.Streams says
)

// A Hello is what one end says of itself.
type Hello struct {
	Kind DeviceKind
	// PI says that the sender's packets have packet information in front, as
	// the hello itself has then.
	PI bool
	// Ack says that the sender has heard a hello whose nonce is Peer.
	Ack bool
	// Switch says that what follows this hello in the stream is framed. Goes
	// with Ack.
	Switch bool
	// Refuse says that the sender does not go on with this peer, because of
	// Reason.
	Refuse bool

	MTU   uint32 // of the sender's device, bytes; 0: not known
	Caps  Caps
	Nonce Nonce
	Peer  Nonce    // with Ack: the nonce of the hello that was heard
	Link  [16]byte // identity of the link, the same in each of its sessions; zero: none

	Streams Streams // of which the link may consist; zero: one

	Software string // name and version, for people; "" leaves it out
	Reason   string // with Refuse: why, for people; "" leaves it out
	// Control is one link frame of a control type, header included, on
	// datagram transports; nil: none. From ParseHello it aliases the packet.
	Control []byte
}

const (
	helloPI     = 1 << 0
	helloAck    = 1 << 1
	helloSwitch = 1 << 2
	helloRefuse = 1 << 3
)

// Types of the fields behind the fixed part. Receivers pass over others.
const (
	fieldSoftware = 0x01
	fieldReason   = 0x02
	fieldControl  = 0x03
	fieldStreams  = 0x04
)

// ErrNotHello says that a packet is no hello but the user's own.
var ErrNotHello = errors.New("not a hello")

// A VersionError says that a hello is of another version of the protocol.
type VersionError struct {
	Peer uint8 // the version it speaks; the one spoken here is HelloVersion
	Need uint8 // features it needs, one a bit, if it is the same version
}

func (e *VersionError) Error() string {
	if e.Peer == HelloVersion {
		return fmt.Sprintf("the peer needs features of the link protocol that are not known here (bits 0x%02x)", e.Need)
	}
	return fmt.Sprintf("the peer speaks version %d of the link protocol, and only version %d is spoken here", e.Peer, HelloVersion)
}

// A HelloError says that a hello arrived whole but makes no sense.
type HelloError struct{ Why string }

func (e *HelloError) Error() string { return "hello: " + e.Why }

// Acks says that h answers a hello with the given nonce.
func (h *Hello) Acks(n Nonce) bool { return h.Ack && h.Peer == n }

// check says why h cannot be sent.
func (h *Hello) check() error {
	switch {
	case h.Kind != DeviceTUN && h.Kind != DeviceTAP:
		return &HelloError{fmt.Sprintf("unknown device %s", h.Kind)}
	case h.Nonce == (Nonce{}):
		return &HelloError{"the nonce is zero"}
	case h.Ack && h.Peer == (Nonce{}):
		return &HelloError{"it acknowledges a nonce of zero"}
	case !h.Ack && h.Peer != (Nonce{}):
		return &HelloError{"it has the nonce of a peer but does not acknowledge it"}
	case h.Switch && !h.Ack:
		return &HelloError{"it switches to frames without acknowledging a hello"}
	case h.Switch && h.Refuse:
		return &HelloError{"it switches to frames and refuses"}
	case len(h.Software) > MaxHelloSoftware:
		return &HelloError{fmt.Sprintf("a software name of %d bytes is longer than %d", len(h.Software), MaxHelloSoftware)}
	case len(h.Reason) > MaxHelloReason:
		return &HelloError{fmt.Sprintf("a reason of %d bytes is longer than %d", len(h.Reason), MaxHelloReason)}
	case len(h.Control) > MaxHelloControl:
		return &HelloError{fmt.Sprintf("a control frame of %d bytes is longer than %d", len(h.Control), MaxHelloControl)}
	}
	return h.Streams.check()
}

// appendBody appends the body, which check has passed.
func (h *Hello) appendBody(dst []byte) ([]byte, error) {
	start := len(dst)
	var flags byte
	for _, f := range [...]struct {
		on  bool
		bit byte
	}{{h.PI, helloPI}, {h.Ack, helloAck}, {h.Switch, helloSwitch}, {h.Refuse, helloRefuse}} {
		if f.on {
			flags |= f.bit
		}
	}
	dst = append(dst, helloMagic[:]...)
	dst = append(dst, HelloVersion, 0, 0, 0, byte(h.Kind), flags, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, h.MTU)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Caps))
	dst = append(dst, h.Nonce[:]...)
	dst = append(dst, h.Peer[:]...)
	dst = append(dst, h.Link[:]...)
	dst = appendField(dst, fieldSoftware, h.Software)
	dst = appendField(dst, fieldReason, h.Reason)
	dst = appendField(dst, fieldControl, h.Control)
	dst = appendField(dst, fieldStreams, h.Streams.value())
	n := len(dst) - start + helloSum
	if n > maxHelloBody {
		return dst[:start], &HelloError{fmt.Sprintf("a body of %d bytes is longer than %d", n, maxHelloBody)}
	}
	binary.BigEndian.PutUint16(dst[start+10:], uint16(n))
	return binary.BigEndian.AppendUint32(dst, crc32.ChecksumIEEE(dst[start:])), nil
}

func appendField[T string | []byte](dst []byte, typ byte, value T) []byte {
	if len(value) == 0 {
		return dst
	}
	dst = append(dst, typ, byte(len(value)))
	return append(dst, value...)
}

// bodyLen returns the length that the body at the start of b announces: 0 if
// more bytes are needed to know, -1 if this is no body.
func bodyLen(b []byte) int {
	if len(b) < 12 {
		if bytes.HasPrefix(b, helloMagic[:min(len(b), len(helloMagic))]) {
			return 0
		}
		return -1
	}
	n := int(binary.BigEndian.Uint16(b[10:]))
	if [8]byte(b) != helloMagic || n < minAnyBody || n > maxHelloBody {
		return -1
	}
	return n
}

// parseBody reads a body whose length bodyLen has found equal to len(b). It
// returns ErrNotHello if the checksum is wrong; with a right one any other fault
// is reported as what it is.
func parseBody(b []byte) (h Hello, err error) {
	if crc32.ChecksumIEEE(b[:len(b)-helloSum]) != binary.BigEndian.Uint32(b[len(b)-helloSum:]) {
		return h, ErrNotHello
	}
	if version, need := b[8], b[9]; version != HelloVersion || need != 0 {
		return h, &VersionError{Peer: version, Need: need}
	}
	if len(b) < minHelloBody {
		return h, &HelloError{fmt.Sprintf("a body of %d bytes is shorter than %d", len(b), minHelloBody)}
	}
	flags := b[13]
	h = Hello{
		Kind:   DeviceKind(b[12]),
		PI:     flags&helloPI != 0,
		Ack:    flags&helloAck != 0,
		Switch: flags&helloSwitch != 0,
		Refuse: flags&helloRefuse != 0,
		MTU:    binary.BigEndian.Uint32(b[16:]),
		Caps:   Caps(binary.BigEndian.Uint32(b[20:])),
		Nonce:  Nonce(b[24:32]),
		Peer:   Nonce(b[32:40]),
		Link:   [16]byte(b[40:56]),
	}
	if err := h.parseFields(b[helloFixed : len(b)-helloSum]); err != nil {
		return Hello{}, err
	}
	if err := h.check(); err != nil {
		return Hello{}, err
	}
	return h, nil
}

func (h *Hello) parseFields(b []byte) error {
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			return &HelloError{"a field reaches beyond the end"}
		}
		typ, value := b[0], b[2:2+int(b[1])]
		b = b[2+len(value):]
		switch typ {
		case fieldSoftware:
			h.Software = printable(value)
		case fieldReason:
			h.Reason = printable(value)
		case fieldControl:
			if err := checkHelloControl(value); err != nil {
				return err
			}
			h.Control = value
		case fieldStreams:
			var err error
			if h.Streams, err = parseStreams(value); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkHelloControl accepts exactly one control frame.
func checkHelloControl(b []byte) error {
	var l Link
	typ, _, used, err := l.NextFrame(b)
	switch {
	case err != nil:
		return &HelloError{"its control field: " + err.Error()}
	case used == 0 || used != len(b) || typ.Data():
		return &HelloError{"its control field is not one control frame"}
	}
	return nil
}

// printable returns text of a peer with everything replaced by '?' that is not
// printable UTF-8, so that it can go to a log or a terminal. It is not longer
// than b.
func printable(b []byte) string {
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if (r == utf8.RuneError && n == 1) || !unicode.IsPrint(r) {
			out = append(out, '?')
		} else {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return string(out)
}
