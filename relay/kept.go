package relay

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Kept is a packet endpoint, a device as a rule, that stays open while sessions come and go. One session at a time holds it; what the host sent in between is stale
// and is thrown away, and counted, when the next one takes it. Of a device with several queues each session holds one; those that nobody holds take nothing.
type Kept struct {
	ep    atomic.Pointer[Endpoint]
	log   *Log
	stale atomic.Uint64

	mu sync.Mutex
	up int // sessions that have said there is carrier
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

// Lend returns an endpoint for one session. The session can use it once take was called, in its Config.Admit, and closing it gives it back. At most one may be taken at a time, or as many
// as there are queues.
func (k *Kept) Lend() (ep *Endpoint, take func() error) {
	l := &lent{k: k}
	c := *k.ep.Load()
	c.Close, c.Queue = l.giveBack, nil
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
	ep   *Endpoint // what is held; set before held, and not altered then
	held atomic.Bool
	on   bool         // the session has said that there is carrier
	give func() error // gives a queue back; nil: nothing is to be given back

	mu    sync.Mutex
	ended bool // the session has been interrupted
}

// stalest bounds for how long take throws packets away, if the host sends without a pause.
const stalest = 100 * time.Millisecond

func (l *lent) take() error {
	e := l.k.ep.Load()
	if e.Queue != nil {
		q, err := e.Queue()
		if err != nil {
			return err
		}
		e, l.give = q, q.Close
	} else if err := l.refresh(e); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ep = e
	l.held.Store(true)
	if l.ended {
		l.expire()
	}
	return nil
}

// refresh makes an endpoint as good as new.
func (l *lent) refresh(e *Endpoint) error {
	if e.W != nil {
		if err := e.W.SetWriteDeadline(time.Time{}); err != nil {
			return errors.Wrap(err, e.Label)
		}
	}
	if e.R == nil {
		return nil
	}
	if err := l.drain(e); err != nil {
		return errors.Wrapf(err, "%s: read", e.Label)
	}
	return errors.Wrap(e.R.SetReadDeadline(time.Time{}), e.Label)
}

// giveBack ends the use of the endpoint, after the session.
func (l *lent) giveBack() error {
	if l.give == nil {
		return nil
	}
	return l.give()
}

// expire ends all waiting. l.mu is held.
func (l *lent) expire() {
	past := time.Unix(1, 0)
	if l.ep.R != nil {
		l.ep.R.SetReadDeadline(past)
	}
	if l.ep.W != nil {
		l.ep.W.SetWriteDeadline(past)
	}
}

// drain throws away the packets that wait in the device.
func (l *lent) drain(e *Endpoint) error {
	b, n := NewBatch(0), 0
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

// carrier tells the device what the first session that comes up and the last that ends have to say.
func (l *lent) carrier(on bool) error {
	if !l.held.Load() || l.on == on {
		return nil
	}
	l.on = on
	k := l.k
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.up
	if on {
		k.up++
	} else {
		k.up--
	}
	if before > 0 && k.up > 0 {
		return nil
	}
	return l.ep.Carrier(on)
}

// Caps implements Offload.
func (l *lent) Caps() Caps { return l.k.ep.Load().Offload.Caps() }

// Accept implements Offload.
func (l *lent) Accept(peer Caps) error {
	if !l.held.Load() {
		return os.ErrDeadlineExceeded
	}
	return l.ep.Offload.Accept(peer)
}

// Put implements Offload.
func (l *lent) Put(p []byte) error {
	if !l.held.Load() {
		return os.ErrDeadlineExceeded
	}
	return l.ep.Offload.Put(p)
}

// lentMerger is lent of a device that merges packets.
type lentMerger struct{ *lent }

// Add implements Merger.
func (l lentMerger) Add(p []byte) bool { return l.held.Load() && l.ep.Offload.(Merger).Add(p) }

// Flush implements Merger.
func (l lentMerger) Flush(done func(packets, bytes int, err error) error) error {
	if !l.held.Load() {
		return os.ErrDeadlineExceeded
	}
	return l.ep.Offload.(Merger).Flush(done)
}

// Read implements Reader.
func (l *lent) Read(p []byte) (int, error) {
	if !l.held.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	return l.ep.R.Read(p)
}

// ReadBatch implements BatchReader.
func (l *lent) ReadBatch(b *Batch) error {
	if !l.held.Load() {
		return os.ErrDeadlineExceeded
	}
	return readBatch(l.ep.R, b)
}

// Write implements Writer.
func (l *lent) Write(p []byte) (int, error) {
	if !l.held.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	return l.ep.W.Write(p)
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
func (l *lent) Fd() int {
	if !l.held.Load() {
		return fdOf(l.k.ep.Load().R)
	}
	return fdOf(l.ep.R)
}
