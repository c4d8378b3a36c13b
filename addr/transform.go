package addr

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"tunsplice/relay"
)

// Halves around halves: each of these types reads from, or writes to, the half inside it and changes what passes. They hand out the descriptor's number for messages, but
// no way to get at the descriptor, so that nobody moves data past them.

// wrapped is a reading half inside another one.
type wrapped struct{ relay.Reader }

// Fd returns the number of the descriptor, for messages.
func (w wrapped) Fd() int { return fdOf(w.Reader) }

// fdOf returns the number of the descriptor under a half, -1 if it has none.
func fdOf(half any) int {
	if f, ok := half.(interface{ Fd() int }); ok {
		return f.Fd()
	}
	return -1
}

// lineEnd is how the lines of an address end; inside the program they end in LF.
type lineEnd uint8

const (
	endAny  lineEnd = iota // bytes pass as they are
	endCR                  // CR alone
	endCRNL                // CR LF
)

// lineReader makes LF of the line ends that it reads. With CR LF every CR is taken out, also one that no LF follows, as socat does; so no state passes from block to
// block.
type lineReader struct {
	wrapped
	end lineEnd
}

// Read implements relay.Reader.
func (l *lineReader) Read(p []byte) (int, error) {
	for {
		n, err := l.Reader.Read(p)
		had := n > 0
		if l.end == endCRNL {
			n = dropCR(p[:n])
		} else {
			crToLF(p[:n])
		}
		if n > 0 || err != nil || !had {
			return n, err
		}
	}
}

// dropCR takes every CR out of p, in place, and returns how many bytes are left.
func dropCR(p []byte) int {
	n := bytes.IndexByte(p, '\r')
	if n < 0 {
		return len(p)
	}
	for _, c := range p[n:] {
		if c != '\r' {
			p[n] = c
			n++
		}
	}
	return n
}

func crToLF(p []byte) {
	for i, c := range p {
		if c == '\r' {
			p[i] = '\n'
		}
	}
}

// lineWriter writes CR or CR LF for each LF. What was one Write stays one, so that packets stay whole.
type lineWriter struct {
	relay.Writer
	end lineEnd
	buf []byte
}

// Write implements relay.Writer.
func (l *lineWriter) Write(p []byte) (int, error) {
	out := l.buf[:0]
	for _, c := range p {
		switch {
		case c != '\n':
			out = append(out, c)
		case l.end == endCRNL:
			out = append(out, '\r', '\n')
		default:
			out = append(out, '\r')
		}
	}
	l.buf = out
	n, err := l.Writer.Write(out)
	if n == len(out) {
		return len(p), err
	}
	if l.end == endCRNL {
		// Of a cut write count the bytes of p that left whole: each LF among them took two.
		whole := 0
		for _, c := range p {
			size := 1
			if c == '\n' {
				size = 2
			}
			if n < size {
				break
			}
			n -= size
			whole++
		}
		n = whole
	}
	return n, err
}

// Fd returns the number of the descriptor, for messages.
func (l *lineWriter) Fd() int { return fdOf(l.Writer) }

// readBytes ends after a number of bytes. It never asks for more than are left, so that what follows stays in an input shared with other processes.
type readBytes struct {
	wrapped
	left int64
}

// Read implements relay.Reader.
func (r *readBytes) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.Reader.Read(p)
	r.left -= int64(n)
	return n, err
}

// escapeReader ends at the first byte with a given code. That byte, and what came behind it in the same read, are gone.
type escapeReader struct {
	wrapped
	code byte
	done bool
}

// Read implements relay.Reader.
func (e *escapeReader) Read(p []byte) (int, error) {
	if e.done {
		return 0, io.EOF
	}
	n, err := e.Reader.Read(p)
	if i := bytes.IndexByte(p[:n], e.code); i >= 0 {
		e.done = true
		if i == 0 {
			return 0, io.EOF
		}
		return i, nil
	}
	return n, err
}

// nullEOF takes an empty packet for the end of file.
type nullEOF struct{ wrapped }

// Read implements relay.Reader.
func (e *nullEOF) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// ignoreEOF reads on after the end of file: it looks again at intervals, until its deadline.
type ignoreEOF struct {
	wrapped
	every   time.Duration
	changed chan struct{} // holds one element if the deadline was set

	mu       sync.Mutex
	deadline time.Time // zero: none
}

// Read implements relay.Reader.
func (e *ignoreEOF) Read(p []byte) (int, error) {
	for {
		n, err := e.Reader.Read(p)
		if err != io.EOF || n > 0 {
			return n, err
		}
		if err := e.pause(); err != nil {
			return 0, err
		}
	}
}

// SetReadDeadline implements relay.Reader, also while Read pauses.
func (e *ignoreEOF) SetReadDeadline(t time.Time) error {
	e.mu.Lock()
	e.deadline = t
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default:
	}
	return e.Reader.SetReadDeadline(t)
}

// pause waits for the next look, or returns os.ErrDeadlineExceeded.
func (e *ignoreEOF) pause() error {
	next := time.Now().Add(e.every)
	for {
		e.mu.Lock()
		deadline := e.deadline
		e.mu.Unlock()
		until := next
		if !deadline.IsZero() && deadline.Before(next) {
			until = deadline
		}
		t := time.NewTimer(time.Until(until))
		select {
		case <-e.changed:
			t.Stop()
			continue
		case <-t.C:
		}
		if until == next {
			return nil
		}
		return os.ErrDeadlineExceeded
	}
}
