package relay

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Kept is a packet endpoint, a device as a rule, that stays open while sessions come and go. One session at a time holds it; what the host sent in between is stale
// and is thrown away, and counted, when the next one takes it.
type Kept struct {
	ep    atomic.Pointer[Endpoint]
	log   *Log
	stale atomic.Uint64
}

// Keep takes over ep, which must carry packets.
func Keep(ep *Endpoint, log *Log) *Kept {
	k := &Kept{log: log}
	k.Replace(ep)
	return k
}

// Replace puts another endpoint of the same kind in the place of the one that is kept, which must be closed and not be taken.
func (k *Kept) Replace(ep *Endpoint) {
	if ep.Carrier != nil {
		if err := ep.Carrier(false); err != nil {
			k.log.Warnf("%s: %v", ep.Label, err)
		}
	}
	k.ep.Store(ep)
}

// Endpoint is the endpoint that is kept.
func (k *Kept) Endpoint() *Endpoint { return k.ep.Load() }

// Stale is the number of packets that were thrown away between sessions.
func (k *Kept) Stale() uint64 { return k.stale.Load() }

// Close closes the endpoint, after the last session.
func (k *Kept) Close() error { return k.ep.Load().close() }

// Lend returns an endpoint for one session. The session can use it once take was called, in its Config.Admit, and closing it gives it back. At most one may be taken at a time.
func (k *Kept) Lend() (ep *Endpoint, take func() error) {
	l := &lent{k: k}
	c := *k.ep.Load()
	c.Close = nil
	if c.R != nil {
		c.R = l
	}
	if c.W != nil {
		c.W = l
	}
	if c.Carrier != nil {
		c.Carrier = l.carrier
	}
	if c.Offload != nil {
		_, merges := c.Offload.(Merger)
		if c.Offload = l; merges {
			c.Offload = lentMerger{l}
		}
	}
	return &c, l.take
}

// lent is a kept endpoint in the hands of a session that may or may not hold it: until it does, the deadlines that the session sets are not the endpoint's.
type lent struct {
	k    *Kept
	held atomic.Bool

	mu    sync.Mutex
	ended bool // the session has been interrupted
}

// stalest bounds for how long take throws packets away, if the host sends without a pause.
const stalest = 100 * time.Millisecond

func (l *lent) take() error {
	e := l.k.ep.Load()
	if e.W != nil {
		if err := e.W.SetWriteDeadline(time.Time{}); err != nil {
			return errors.Wrap(err, e.Label)
		}
	}
	if e.R != nil {
		if err := l.drain(); err != nil {
			return errors.Wrapf(err, "%s: read", e.Label)
		}
		if err := e.R.SetReadDeadline(time.Time{}); err != nil {
			return errors.Wrap(err, e.Label)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held.Store(true)
	if l.ended {
		l.expire()
	}
	return nil
}

// expire ends all waiting. l.mu is held.
func (l *lent) expire() {
	past := time.Unix(1, 0)
	if r := l.k.ep.Load().R; r != nil {
		r.SetReadDeadline(past)
	}
	if w := l.k.ep.Load().W; w != nil {
		w.SetWriteDeadline(past)
	}
}

// drain throws away the packets that wait in the device.
func (l *lent) drain() error {
	e, b, n := l.k.ep.Load(), NewBatch(0), 0
	for limit := time.Now().Add(stalest); time.Now().Before(limit); {
		// A deadline in the past would hide what is there.
		if err := e.R.SetReadDeadline(time.Now().Add(2 * time.Millisecond)); err != nil {
			return err
		}
		err := readBatch(e.R, b)
		n += b.Len()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			limit = time.Time{}
		case err != nil && !e.onePacket(err):
			return err
		}
	}
	if n > 0 {
		l.k.stale.Add(uint64(n))
		l.k.log.Noticef("%s: %d packets from the time without a link were dropped", e.Label, n)
	}
	return nil
}

func (l *lent) carrier(on bool) error {
	if !l.held.Load() {
		return nil
	}
	return l.k.ep.Load().Carrier(on)
}

// Caps implements Offload.
func (l *lent) Caps() Caps { return l.k.ep.Load().Offload.Caps() }

// Accept implements Offload. The session takes the endpoint before.
func (l *lent) Accept(peer Caps) error { return l.k.ep.Load().Offload.Accept(peer) }

// Put implements Offload.
func (l *lent) Put(p []byte) error { return l.k.ep.Load().Offload.Put(p) }

// lentMerger is lent of a device that merges packets.
type lentMerger struct{ *lent }

// Add implements Merger.
func (l lentMerger) Add(p []byte) bool { return l.held.Load() && l.k.ep.Load().Offload.(Merger).Add(p) }

// Flush implements Merger.
func (l lentMerger) Flush(done func(packets, bytes int, err error) error) error {
	if !l.held.Load() {
		return os.ErrDeadlineExceeded
	}
	return l.k.ep.Load().Offload.(Merger).Flush(done)
}

// Read implements Reader.
func (l *lent) Read(p []byte) (int, error) {
	if !l.held.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	return l.k.ep.Load().R.Read(p)
}

// ReadBatch implements BatchReader.
func (l *lent) ReadBatch(b *Batch) error {
	if !l.held.Load() {
		return os.ErrDeadlineExceeded
	}
	return readBatch(l.k.ep.Load().R, b)
}

// Write implements Writer.
func (l *lent) Write(p []byte) (int, error) {
	if !l.held.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	return l.k.ep.Load().W.Write(p)
}

// SetReadDeadline implements Reader. A session sets deadlines only to end.
func (l *lent) SetReadDeadline(time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	if l.held.Load() {
		l.expire()
	}
	return nil
}

// SetWriteDeadline implements Writer.
func (l *lent) SetWriteDeadline(t time.Time) error { return l.SetReadDeadline(t) }

// CloseWrite implements Writer: the endpoint goes on.
func (l *lent) CloseWrite() error { return nil }

// Fd returns the descriptor, for messages.
func (l *lent) Fd() int { return fdOf(l.k.ep.Load().R) }
