package relay

import (
	"encoding/binary"
	"fmt"
)

// VDEMaxPacket is the longest frame in bytes that the receiver of vde_plug and
// dpipe takes: 9216 of payload, Ethernet header 14, VLAN tag 4, and 2 (libvdeplug,
// VDE_ETHBUFSIZE). It throws away everything read together with a longer one. A
// vde_switch behind it may take less: that of vde2 2.3 cuts frames to 1518 bytes
// without a word, so the MTU is best left at 1500 there.
const VDEMaxPacket = 9216 + 14 + 4 + 2

// MinEthernet is the length in bytes of an Ethernet header, and so of the
// shortest frame that a TAP device takes.
const MinEthernet = 14

// A LengthFramer puts the length of each packet in front of it, big-endian and
// not counting itself. It has no state.
type LengthFramer struct {
	name     string
	head     int // bytes of the length field: 2 or 4
	min      int // shortest packet sent and, if not zero is null, received
	maxSend  int
	maxRecv  int
	nullOkay bool // length 0 is a null packet, to be passed over
}

// U16 is the framing with a 16 bit length in front: vde_plug and dpipe,
// simpletun, and RFC 4571, whose null packet (length 0) is passed over on
// receipt. Packets of up to maxSend bytes are sent (1 to 65535, 0 means 65535);
// against vde_plug use VDEMaxPacket. Whatever a 16 bit length can say is received.
//
// vde_plug loses its place if a header is split between two of its reads after
// one byte, so header and packet should leave in one write.
func U16(maxSend int) *LengthFramer {
	switch {
	case maxSend == 0:
		maxSend = 65535
	case maxSend < 0 || maxSend > 65535:
		panic("relay: U16: packets of that length do not fit a 16 bit length")
	}
	return &LengthFramer{name: "u16", head: 2, min: 1, maxSend: maxSend, maxRecv: 65535, nullOkay: true}
}

// QEMU is the framing with a 32 bit length in front: QEMU's -netdev socket and
// stream, passt, socket_vmnet, gvproxy. Packets of min to 65535 bytes are sent,
// since passt resets the connection on others; min is MinEthernet for Ethernet
// and 1 for anything else. Received packets have min to MaxPacket bytes (QEMU
// itself bounds them by 65536 + 4096, net/net.h NET_BUFSIZE).
func QEMU(min int) *LengthFramer {
	if min < 1 || min > 65535 {
		panic("relay: QEMU: the shortest packet has 1 to 65535 bytes")
	}
	return &LengthFramer{name: "qemu", head: 4, min: min, maxSend: 65535, maxRecv: MaxPacket}
}

func (f *LengthFramer) Name() string   { return f.name }
func (f *LengthFramer) MaxPacket() int { return f.maxSend }
func (f *LengthFramer) MaxFrame() int  { return f.head + f.maxRecv }
func (f *LengthFramer) HeadLen() int   { return f.head }

func (f *LengthFramer) PutHead(head []byte, n int) error {
	if err := checkSize(f.name, n, f.min, f.maxSend); err != nil {
		return err
	}
	if f.head == 2 {
		binary.BigEndian.PutUint16(head, uint16(n))
	} else {
		binary.BigEndian.PutUint32(head, uint32(n))
	}
	return nil
}

func (f *LengthFramer) Append(dst, pkt []byte) ([]byte, error) {
	var head [4]byte
	if err := f.PutHead(head[:f.head], len(pkt)); err != nil {
		return dst, err
	}
	dst = append(dst, head[:f.head]...)
	return append(dst, pkt...), nil
}

func (f *LengthFramer) Next(src []byte) (pkt []byte, used int, err error) {
	if len(src) < f.head {
		return nil, 0, nil
	}
	var n int64 // a 32 bit length must not turn negative where int has 32 bits
	if f.head == 2 {
		n = int64(binary.BigEndian.Uint16(src))
	} else {
		n = int64(binary.BigEndian.Uint32(src))
	}
	if n == 0 && f.nullOkay {
		return nil, f.head, nil
	}
	if n < int64(f.min) || n > int64(f.maxRecv) {
		return nil, 0, f.wrongLength(src, n)
	}
	end := f.head + int(n)
	if len(src) < end {
		return nil, 0, nil
	}
	return src[f.head:end:end], end, nil
}

func (f *LengthFramer) wrongLength(src []byte, n int64) error {
	return &FrameError{
		Framing: f.name,
		Why:     fmt.Sprintf("length %d (% x) is not within %d to %d", n, src[:f.head], f.min, f.maxRecv),
		Looks:   Foreign(src, 0),
	}
}
