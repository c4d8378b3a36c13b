package relay

import (
	"bytes"
	"fmt"
)

// The four special bytes of RFC 1055.
const (
	slipEnd    = 0xc0
	slipEsc    = 0xdb
	slipEscEnd = 0xdc // behind slipEsc: a slipEnd of the packet
	slipEscEsc = 0xdd // behind slipEsc: a slipEsc of the packet
)

// errSlipEscape is one value for all, so that noise on a line allocates nothing.
var errSlipEscape = &FrameError{Framing: "slip", Why: "an escape byte (db) is not followed by dc or dd, the packet is damaged", Resync: true}

// A SLIP is the framing of RFC 1055 for serial lines. END stands in front of
// each packet too, so that noise received before it becomes a packet of its own.
// A damaged packet is an error for that packet alone; the next END is in step
// again. It has state on the receiving side.
type SLIP struct {
	max      int
	skipping bool // within an overlong packet: pass over everything up to END
	long     *FrameError
}

// NewSLIP makes a slip framing for packets of up to max bytes (1 to MaxPacket, 0
// means MaxPacket). RFC 1055 suggests 1006 bytes, and the far side's limit is its MTU.
func NewSLIP(max int) *SLIP {
	switch {
	case max == 0:
		max = MaxPacket
	case max < 0 || max > MaxPacket:
		panic("relay: NewSLIP: the longest packet has 1 to MaxPacket bytes")
	}
	return &SLIP{max: max, long: &FrameError{Framing: "slip", Resync: true, Why: fmt.Sprintf("a packet is longer than %d bytes", max)}}
}

func (f *SLIP) Name() string   { return "slip" }
func (f *SLIP) MaxPacket() int { return f.max }

// MaxFrame is a packet in which every byte is escaped, between two ENDs.
func (f *SLIP) MaxFrame() int { return 2*f.max + 2 }

func (f *SLIP) Append(dst, pkt []byte) ([]byte, error) {
	if err := checkSize("slip", len(pkt), 1, f.max); err != nil {
		return dst, err
	}
	dst = append(dst, slipEnd)
	plain := 0 // start of the bytes not yet copied
	for i, c := range pkt {
		switch c {
		case slipEnd:
			dst = append(dst, pkt[plain:i]...)
			dst = append(dst, slipEsc, slipEscEnd)
			plain = i + 1
		case slipEsc:
			dst = append(dst, pkt[plain:i]...)
			dst = append(dst, slipEsc, slipEscEsc)
			plain = i + 1
		}
	}
	dst = append(dst, pkt[plain:]...)
	return append(dst, slipEnd), nil
}

// Next decodes in place: the packet it returns lies in src, and the used bytes
// of src are no longer what they were.
func (f *SLIP) Next(src []byte) (pkt []byte, used int, err error) {
	start := 0 // ENDs in front: the RFC's leading one, and empty packets
	if !f.skipping {
		for start < len(src) && src[start] == slipEnd {
			start++
		}
	}
	body := src[start:]
	end := bytes.IndexByte(body, slipEnd)
	if f.skipping {
		if end < 0 {
			return nil, len(src), nil
		}
		f.skipping = false
		return nil, end + 1, nil
	}
	if end < 0 {
		if len(body) > 2*f.max {
			f.skipping = true
			return nil, len(src), f.long
		}
		return nil, start, nil // the ENDs alone, if there are any
	}
	used = start + end + 1
	pkt, ok := slipDecode(body[:end:end])
	switch {
	case !ok:
		return nil, used, errSlipEscape
	case len(pkt) > f.max:
		return nil, used, f.long
	}
	return pkt, used, nil
}

// slipDecode undoes the escapes of b in place; false if one is wrong.
func slipDecode(b []byte) ([]byte, bool) {
	w := bytes.IndexByte(b, slipEsc)
	if w < 0 {
		return b, true
	}
	for r := w; r < len(b); r++ {
		c := b[r]
		if c == slipEsc {
			r++
			if r == len(b) {
				return nil, false
			}
			switch b[r] {
			case slipEscEnd:
				c = slipEnd
			case slipEscEsc:
				c = slipEsc
			default:
				return nil, false
			}
		}
		b[w] = c
		w++
	}
	return b[:w:w], true
}
