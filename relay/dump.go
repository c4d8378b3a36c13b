package relay

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Dump shows or stores everything that passes, block by block, of packet endpoints packet by packet. It may serve several sessions at once.
type Dump struct {
	Out       io.Writer // where dumps go
	Text, Hex bool      // -v, -x
	Raw       [2]io.Writer
	// Raw holds where plain copies go, left to right (-r) and right to left (-R); nil for none.

	mu     sync.Mutex
	passed [2]uint64 // bytes seen before, by direction
	buf    []byte
}

// see takes a block that is about to be written.
func (t *Dump) see(d *direction, p []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	way := d.number - 1
	if t.Raw[way] != nil {
		if _, err := t.Raw[way].Write(p); err != nil {
			d.s.cfg.Log.Warnf("raw copy %s: %v; it ends here", d.name, err)
			t.Raw[way] = nil
		}
	}
	from := t.passed[way]
	t.passed[way] += uint64(len(p))
	if !t.Text && !t.Hex || len(p) == 0 {
		return
	}
	now := time.Now()
	b := fmt.Appendf(t.buf[:0], "%c %s.%06d  length=%d from=%d to=%d\n", d.arrow, now.Format("2006/01/02 15:04:05"), now.Nanosecond()/1000,
		len(p), from, from+uint64(len(p))-1)
	switch {
	case t.Text && t.Hex:
		b = appendBoth(b, p, d.src.Traffic == Stream)
	case t.Hex:
		b = append(appendHex(b, p), '\n')
	default:
		b = appendText(b, p)
	}
	if d.src.Traffic != Stream && b[len(b)-1] != '\n' {
		b = append(b, '\n') // packets stay apart
	}
	t.buf = b
	t.Out.Write(b) // a closed standard error is no reason to stop the transfer
}

// appendText shows bytes as socat -v does: line feeds as they are, carriage returns and backslashes escaped, others that do not print as dots.
func appendText(b, p []byte) []byte {
	for _, c := range p {
		switch {
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\\':
			b = append(b, '\\', '\\')
		case c == '\n', c == '\t', ' ' <= c && c <= '~':
			b = append(b, c)
		default:
			b = append(b, '.')
		}
	}
	return b
}

func appendHex(b, p []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range p {
		b = append(b, ' ', digits[c>>4], digits[c&15])
	}
	return b
}

// appendBoth shows up to 16 bytes a line in hex and as text; in text a line feed ends a line early.
func appendBoth(b, p []byte, text bool) []byte {
	for len(p) > 0 {
		n := min(16, len(p))
		for i, c := range p[:n] {
			if text && c == '\n' {
				n = i + 1
				break
			}
		}
		b = appendHex(b, p[:n])
		for range 16 - n {
			b = append(b, "   "...)
		}
		b = append(b, ' ', ' ')
		for _, c := range p[:n] {
			if c < ' ' || c > '~' {
				c = '.'
			}
			b = append(b, c)
		}
		b = append(b, '\n')
		p = p[n:]
	}
	return append(b, "--\n"...)
}
