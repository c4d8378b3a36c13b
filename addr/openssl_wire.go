package addr

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

const (
	tlsRecord       = 16 << 10  // payload of the largest record (RFC 8446, 5.1)
	tlsGather       = 128 << 10 // bytes of records that leave in one write
	tlsFirst        = 64        // of what a peer says first, kept to name what it speaks
	tlsFarewellTime = time.Second
)

// tlsWire is the connection under TLS in the form that crypto/tls wants. It gathers the records of one large write, so that they leave in one system call.
type tlsWire struct {
	file          *relay.File
	local, remote wireAddr
	first         []byte      // what came first, at most tlsFirst bytes; the handshake's until it is over
	cut           atomic.Bool // the connection has ended, whatever TLS had to say before
	closing       atomic.Bool // what is left to say must be short

	// Of the reading goroutine: bytes that were there besides those that TLS had asked for.
	ahead    *[tlsGather]byte // nil: none
	from, to int
	raw      syscall.RawConn
	look     func(fd uintptr) bool // reads into ahead without waiting

	mu     sync.Mutex
	held   *[tlsGather]byte // nil: writes leave at once
	n      int              // bytes in held
	broken error            // of an earlier write: a part of a record may have left, so nothing sensible can follow
}

var tlsGatherBuffers = sync.Pool{New: func() any { return new([tlsGather]byte) }}

// wireAddr is a socket address as package net wants to see it. crypto/tls keeps sessions by it.
type wireAddr struct{ sockaddr }

// Network implements net.Addr.
func (wireAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a wireAddr) String() string { return a.text() }

// Read implements net.Conn.
func (w *tlsWire) Read(p []byte) (int, error) {
	if w.ahead != nil {
		n := copy(p, w.ahead[w.from:w.to])
		if w.from += n; w.from == w.to {
			tlsGatherBuffers.Put(w.ahead)
			w.ahead = nil
		}
		return n, nil
	}
	n, err := w.file.Read(p)
	if n == len(p) && n >= tlsMuch {
		w.readAhead()
	}
	if room := tlsFirst - len(w.first); room > 0 && n > 0 {
		w.first = append(w.first, p[:min(n, room)]...)
	}
	if err == io.EOF {
		w.cut.Store(true)
	}
	return n, err
}

// tlsMuch is the size of a read that is part of a bulk transfer: crypto/tls asks for one record at a time.
const tlsMuch = 4 << 10

// readAhead takes what else is there, so that a bulk transfer needs a system call for many records. An idle connection holds no buffer for it.
func (w *tlsWire) readAhead() {
	if w.raw == nil {
		raw, err := w.file.SyscallConn()
		if err != nil {
			return // the next read will say so
		}
		w.raw = raw
		w.look = func(fd uintptr) bool {
			n, err := relay.ReadNow(int(fd), w.ahead[:])
			if err != nil { // nothing there, or what the next read will say
				n = 0
			}
			w.from, w.to = 0, n
			return true
		}
	}
	w.ahead = tlsGatherBuffers.Get().(*[tlsGather]byte)
	if err := w.raw.Read(w.look); err != nil || w.to == 0 {
		tlsGatherBuffers.Put(w.ahead)
		w.ahead, w.to = nil, 0
	}
	w.from = 0
}

// Write implements net.Conn.
func (w *tlsWire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		return len(p), w.send(p)
	}
	if w.n+len(p) > len(w.held) {
		if err := w.sendHeld(); err != nil {
			return 0, err
		}
	}
	if len(p) > len(w.held) {
		return len(p), w.send(p)
	}
	w.n += copy(w.held[w.n:], p)
	return len(p), nil
}

// send writes to the socket. w.mu is held.
func (w *tlsWire) send(p []byte) error {
	if w.broken == nil {
		_, w.broken = w.file.Write(p)
	}
	return w.broken
}

func (w *tlsWire) sendHeld() error {
	n := w.n
	w.n = 0
	if n == 0 {
		return w.broken
	}
	return w.send(w.held[:n])
}

// gather holds back what is written from now on, until flush.
func (w *tlsWire) gather() {
	w.mu.Lock()
	w.held = tlsGatherBuffers.Get().(*[tlsGather]byte)
	w.mu.Unlock()
}

// flush sends what was held back.
func (w *tlsWire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.sendHeld()
	tlsGatherBuffers.Put(w.held)
	w.held = nil
	return err
}

// letRead gives the peer a moment to read why it is refused: if the socket were closed over bytes that it has sent, the connection would be reset and the alert lost.
func (w *tlsWire) letRead(ctx context.Context) {
	const most = 256 << 10
	if w.cut.Load() || ctx.Err() != nil || w.file.Shutdown() != nil {
		return
	}
	w.file.SetReadDeadline(time.Now().Add(tlsFarewellTime))
	if ctx.Err() != nil { // it may have ended before the deadline was set
		return
	}
	io.CopyN(io.Discard, w.file, most)
}

// Close implements net.Conn.
func (w *tlsWire) Close() error { return w.file.Close() }

// LocalAddr implements net.Conn.
func (w *tlsWire) LocalAddr() net.Addr { return w.local }

// RemoteAddr implements net.Conn.
func (w *tlsWire) RemoteAddr() net.Addr { return w.remote }

// SetDeadline implements net.Conn.
func (w *tlsWire) SetDeadline(t time.Time) error {
	if err := w.file.SetReadDeadline(t); err != nil {
		return err
	}
	return w.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (w *tlsWire) SetReadDeadline(t time.Time) error { return w.file.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn. A peer that does not read must not delay the end: crypto/tls would give it 5 s for the farewell.
func (w *tlsWire) SetWriteDeadline(t time.Time) error {
	if latest := time.Now().Add(tlsFarewellTime); w.closing.Load() && t.After(latest) {
		t = latest
	}
	return w.file.SetWriteDeadline(t)
}

// tlsHalf is either half of an endpoint of TLS: a byte stream.
type tlsHalf struct {
	conn   *tls.Conn
	wire   *tlsWire
	setup  *tlsSetup
	chunk  int          // bytes in a record at most
	silent bool         // the end of writing is not told (shut-none, end-close)
	lost   atomic.Value // error that ended the reading of a half that is only written to
}

// Fd returns the number of the descriptor, for messages.
func (h *tlsHalf) Fd() int { return h.wire.file.Fd() }

// Read implements relay.Reader.
func (h *tlsHalf) Read(p []byte) (int, error) {
	n, err := h.conn.Read(p)
	switch {
	case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
		return n, err
	case err == io.EOF && !h.wire.cut.Load():
		return n, err
	}
	return n, h.setup.explainTransfer(err)
}

// Write implements relay.Writer. Records of one call leave together.
func (h *tlsHalf) Write(p []byte) (int, error) {
	if len(p) <= h.chunk {
		n, err := h.conn.Write(p)
		return n, h.writeError(err)
	}
	h.wire.gather()
	n, err := h.writeChunks(p)
	if ferr := h.wire.flush(); err == nil && ferr != nil {
		n, err = 0, ferr
	}
	return n, h.writeError(err)
}

func (h *tlsHalf) writeChunks(p []byte) (n int, err error) {
	if h.chunk == tlsRecord {
		return h.conn.Write(p)
	}
	for n < len(p) && err == nil {
		var took int
		took, err = h.conn.Write(p[n:min(n+h.chunk, len(p))])
		n += took
	}
	return n, err
}

// writeError prefers what the peer said to what became of it: a refused certificate shows as a broken connection to whoever only writes.
func (h *tlsHalf) writeError(err error) error {
	if err == nil {
		return nil
	}
	if said, ok := h.lost.Load().(error); ok {
		return said
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return h.setup.explainTransfer(err)
}

// SetReadDeadline implements relay.Reader.
func (h *tlsHalf) SetReadDeadline(t time.Time) error { return h.wire.SetReadDeadline(t) }

// SetWriteDeadline implements relay.Writer.
func (h *tlsHalf) SetWriteDeadline(t time.Time) error { return h.wire.SetWriteDeadline(t) }

// CloseWrite implements relay.Writer: close_notify (RFC 8446, 6.1), then what options say of the socket under it.
func (h *tlsHalf) CloseWrite() error {
	if h.silent {
		return nil
	}
	if err := h.conn.CloseWrite(); err != nil {
		return err
	}
	return h.wire.file.CloseWrite()
}

// close ends the connection.
func (h *tlsHalf) close() error {
	h.wire.closing.Store(true)
	if h.silent {
		return h.wire.Close()
	}
	// What can't be said any more is no error of the session: the peer may be gone.
	h.conn.Close()
	return h.wire.Close()
}

// closeUnread is close for an address that is only written to. Somebody has to read nevertheless: a client of TLS 1.3 is through with its handshake before the server has looked at its
// certificate, and a socket that is closed with tickets unread in it resets the connection under what was sent last. The function that is returned gives the peer some time to
// answer the farewell, and returns the error with which the peer has refused us.
func (h *tlsHalf) closeUnread(patience time.Duration) func() error {
	over := make(chan struct{})
	go func() {
		defer close(over)
		h.discard()
	}()
	return func() error {
		h.wire.closing.Store(true)
		if !h.silent && h.conn.CloseWrite() == nil {
			t := time.NewTimer(patience)
			defer t.Stop()
			select {
			case <-over:
			case <-t.C:
			}
		}
		err := h.close()
		<-over
		if said, ok := h.lost.Load().(error); ok {
			return said
		}
		return err
	}
}

// discard reads until the connection ends, and drops what comes. A refusal ends what is being written.
func (h *tlsHalf) discard() {
	buf := make([]byte, 4<<10)
	for {
		_, err := h.conn.Read(buf)
		if err != nil && err != io.EOF && !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
			h.lost.Store(h.setup.explainTransfer(err))
			h.wire.SetWriteDeadline(time.Unix(1, 0))
		}
		if err != nil {
			return
		}
	}
}
