package relay

import (
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// DefaultHeartbeat is the time between two pings on a link.
const DefaultHeartbeat = 10 * time.Second

// mostMisses is how many heartbeats in a row a peer may be silent.
const mostMisses = 3

// ErrSilent says that a peer is dead as far as anyone can tell.
var ErrSilent = errors.New("the peer is silent")

// heartbeat is what a link knows of its peer's life. Whatever comes from the peer is a sign of life, not only the answer to a ping.
type heartbeat struct {
	every time.Duration // below 0: none
	heard atomic.Uint64 // reads that brought something
	rtt   atomic.Int64  // of the last ping, nanoseconds; 0: not known
}

// answered takes a pong; stamps are nanoseconds after epoch.
func (h *heartbeat) answered(epoch time.Time, stamp uint64) {
	// The stamp comes from the peer: one that is not from us, or from the future, says nothing.
	if rtt := time.Since(epoch) - time.Duration(stamp); stamp < 1<<62 && rtt > 0 {
		h.rtt.Store(int64(rtt))
	}
}

// watch sends pings, and ends the session if the peer is silent or its stream broken. It ends with the session.
func (l *link) watch() {
	defer l.talking.Done()
	var tick <-chan time.Time
	if l.beat.every > 0 {
		t := time.NewTicker(l.beat.every)
		defer t.Stop()
		tick = t.C
	}
	var silence <-chan time.Time
	if l.stream.SilentFor > 0 {
		t := time.NewTimer(l.stream.SilentFor)
		defer t.Stop()
		silence = t.C
	}
	var before uint64
	misses := 0
	for {
		select {
		case <-l.ended:
			return
		case err := <-l.stream.Broken:
			l.s.fail(errors.Wrap(err, l.stream.Label))
			return
		case <-silence:
			if l.beat.heard.Load() == 0 || l.must && l.peerCaps.Load() == 0 {
				l.s.fail(errors.Wrapf(ErrSilent, "%s: no hello within %s (option handshake-timeout)", l.stream.Label, l.stream.SilentFor))
				return
			}
			continue
		case <-tick:
		}
		if Caps(l.peerCaps.Load())&CapHeartbeat == 0 {
			continue // not met yet, or it does not answer
		}
		heard := l.beat.heard.Load()
		if heard == before {
			misses++
		} else {
			before, misses = heard, 0
		}
		if misses >= mostMisses {
			l.s.why.Store(uint32(CloseTimeout))
			l.s.fail(errors.Wrapf(ErrSilent, "%s: nothing came for %s", l.stream.Label, time.Duration(misses)*l.beat.every))
			return
		}
		l.sayControl(AppendPing(nil, uint64(time.Since(l.s.epoch))))
	}
}

// sayControl sends a control frame, over datagrams inside a hello.
func (l *link) sayControl(frame []byte) {
	if l.stream.Traffic == Stream {
		l.post(saying{frame: frame})
		return
	}
	l.post(saying{hello: &Hello{Ack: true, Peer: *l.peerNonce.Load(), Control: frame}})
}

// controlOf takes the control frame in a hello.
func (l *link) controlOf(h *Hello) error {
	typ, body, used, err := (&Link{}).NextFrame(h.Control)
	if err != nil || used != len(h.Control) {
		return errors.Wrap(err, l.stream.Label)
	}
	if err := l.control(typ, body); err != errPeerClosed {
		return err
	}
	return nil
}

// RTT is the round trip time to the peer that the last heartbeat took, 0 if it is not known.
func (s *Session) RTT() time.Duration {
	if s.link == nil {
		return 0
	}
	return time.Duration(s.link.beat.rtt.Load())
}
