package addr

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// Theory of operation of handshakes
//
// An address whose peers have to show who they are (a key, TLS) hands out an endpoint only after that is settled; so nothing of a stranger reaches the other address, which
// often is not even open by then. A connecting address does it where it dials, so that the options retry and forever cover the handshake too. A waiting address has a handshaker
// around its Source: it accepts peers all the time and has each shake hands in a goroutine of its own, so that one that says nothing keeps nobody else out. The number of
// unfinished handshakes is bounded: if there are too many, the oldest is given up, which an honest peer, who needs a few round trips, hardly ever is.

// defaultHandshakeTimeout is how long a peer that has a connection may take.
const defaultHandshakeTimeout = 10 * time.Second

// maxHandshakes is how many handshakes may be unfinished at one address: each holds a descriptor and a few KiB.
const maxHandshakes = 512

var optHandshakeTimeout = declare(kindDuration, Option{Name: "handshake-timeout", Groups: GPACKETS | GOPENSSL, Phase: PhConnected, Ours: true,
	Doc: "how long a peer may take to show who it is: with a key or TLS, and for the hello of a tunnel where many may connect; in seconds (default 10, with a key over datagrams, programs and standard streams no limit); 0 is no limit"})

// handshake finds out by reading from an open endpoint and writing to it whether its peer is welcome, and returns the endpoint that is used from then on: the same or one around
// it. With an error the caller closes ep. What waits in ep is interrupted once ctx ends.
type handshake func(ctx context.Context, ep *relay.Endpoint) (*relay.Endpoint, error)

// Why a handshake was given up.
var errCrowded = errors.Errorf("it was slow, and %d other handshakes are under way", maxHandshakes)

type handshakeTimeout time.Duration

func (t handshakeTimeout) Error() string {
	return fmt.Sprintf("no handshake within %s (option handshake-timeout)", time.Duration(t))
}

// shake runs one handshake, which may take the time limit (0: any time). It owns ep, and closes it if there is an error.
func shake(ctx context.Context, ep *relay.Endpoint, limit time.Duration, do handshake) (*relay.Endpoint, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, handshakeTimeout(limit))
		defer cancel()
	}
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		if ep.R != nil {
			ep.R.SetReadDeadline(past)
		}
		if ep.W != nil {
			ep.W.SetWriteDeadline(past)
		}
	})
	got, err := do(ctx, ep)
	if !stop() { // the deadlines are spoilt
		err = context.Cause(ctx)
	}
	if err != nil {
		ep.Close()
		return nil, err
	}
	return got, nil
}

// peersSource is a Source that waits for peers: listener and udpListener.
type peersSource interface {
	Source
	keepWaiting() (fork bool, timeout time.Duration, running *sessions)
}

// keepWaiting makes the source take peer after peer whatever its options say, because somebody else decides which of them count and sees to the options, whose values it returns.
// To be called before the first Next.
func (w *waiting) keepWaiting() (fork bool, timeout time.Duration, running *sessions) {
	fork, timeout, running = w.fork, w.timeout, w.running
	w.fork, w.timeout, w.running = true, 0, &sessions{}
	return fork, timeout, running
}

// handshaker is the Source of a waiting address whose peers have to shake hands.
type handshaker struct {
	src     Source
	b       *Bound
	env     *Env
	do      handshake
	limit   time.Duration // of each handshake, 0: none
	fork    bool
	timeout time.Duration // of each wait for a welcome peer, 0: none
	running *sessions

	ctx     context.Context // of everything that Next starts; Close ends it
	cancel  context.CancelFunc
	start   sync.Once
	working sync.WaitGroup
	slots   chan struct{}        // holds one element for each handshake and each endpoint that waits to be taken
	ready   chan *relay.Endpoint // endpoints of welcome peers
	failed  chan error           // the end of src
	refused relay.Limiter
	taken   bool // without fork: the peer has come

	mu         sync.Mutex
	unfinished []*attempt // the oldest first
}

// attempt is an unfinished handshake.
type attempt struct{ giveUp context.CancelCauseFunc }

// withHandshake makes a Source that hands out the peers of src after each has passed the handshake do. It owns src.
func (b *Bound) withHandshake(env *Env, src peersSource, do handshake) Source {
	h := &handshaker{src: src, b: b, env: env, do: do, limit: optHandshakeTimeout.Or(b, defaultHandshakeTimeout),
		slots: make(chan struct{}, maxHandshakes), ready: make(chan *relay.Endpoint), failed: make(chan error, 1)}
	h.fork, h.timeout, h.running = src.keepWaiting()
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// Many implements Source.
func (h *handshaker) Many() bool { return h.fork }

// Close implements Source: it also gives up what is unfinished.
func (h *handshaker) Close() error {
	h.cancel()
	h.working.Wait()
	return h.src.Close()
}

// Next implements Source.
func (h *handshaker) Next(ctx context.Context) (*relay.Endpoint, error) {
	if h.taken {
		return nil, io.EOF
	}
	if err := h.running.begin(ctx); err != nil {
		return nil, err
	}
	ep, err := h.wait(ctx)
	if err != nil {
		h.running.end()
		return nil, err
	}
	onClose(ep, h.running.end)
	if !h.fork {
		h.taken = true
		if err := h.Close(); err != nil { // later peers are refused at once, instead of waiting for nobody
			ep.Close()
			return nil, err
		}
	}
	return ep, nil
}

// wait waits for a welcome peer.
func (h *handshaker) wait(ctx context.Context) (*relay.Endpoint, error) {
	h.start.Do(func() { h.working.Go(h.accept) })
	var expired <-chan time.Time
	if h.timeout > 0 {
		t := time.NewTimer(h.timeout)
		defer t.Stop()
		expired = t.C
	}
	select {
	case ep := <-h.ready:
		return ep, nil
	case err := <-h.failed:
		h.failed <- err // for the next call
		return nil, err
	case <-expired:
		h.env.Log.Warnf("accept: Connection timed out")
		return nil, ErrAcceptTimeout
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// accept takes peers until Close, and starts a handshake with each.
func (h *handshaker) accept() {
	for {
		ep, err := h.src.Next(h.ctx)
		if err != nil {
			h.failed <- err
			return
		}
		select {
		case h.slots <- struct{}{}:
		default:
			h.dropOldest()
			select {
			case h.slots <- struct{}{}:
			case <-h.ctx.Done():
				closeQuietly(ep, h.env.Log)
				return
			}
		}
		ctx, giveUp := context.WithCancelCause(h.ctx)
		a := &attempt{giveUp}
		h.mu.Lock()
		h.unfinished = append(h.unfinished, a)
		h.mu.Unlock()
		h.working.Go(func() {
			defer func() { <-h.slots }()
			defer giveUp(nil)
			h.shake(ctx, a, ep)
		})
	}
}

// dropOldest gives up the oldest unfinished handshake. If there is none, all slots are taken by welcome peers, which have time.
func (h *handshaker) dropOldest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.unfinished) > 0 {
		h.unfinished[0].giveUp(errCrowded)
		h.unfinished = h.unfinished[1:]
	}
}

// shake runs one handshake, and waits until its endpoint is taken.
func (h *handshaker) shake(ctx context.Context, a *attempt, ep *relay.Endpoint) {
	peer := ep.Label
	got, err := shake(ctx, ep, h.limit, h.do)
	h.mu.Lock()
	h.unfinished = slices.DeleteFunc(h.unfinished, func(other *attempt) bool { return other == a })
	h.mu.Unlock()
	switch {
	case h.ctx.Err() != nil:
		if err == nil {
			closeQuietly(got, h.env.Log)
		}
		return
	case err != nil:
		if ok, held := h.refused.Allow(); ok {
			more := ""
			if held > 0 {
				more = fmt.Sprintf(" (and %d more peers were refused since the last such message)", held)
			}
			h.env.Log.Warnf("%s: peer refused: %s%s", peer, err, more)
			if hint := Hint(err); hint != "" {
				h.env.Log.Warnf("%s: hint: %s", peer, hint)
			}
		}
		return
	}
	select {
	case h.ready <- got:
	case <-h.ctx.Done():
		closeQuietly(got, h.env.Log)
	}
}

// closeQuietly closes an endpoint that nobody used.
func closeQuietly(ep *relay.Endpoint, log *relay.Log) {
	if err := ep.Close(); err != nil {
		log.Infof("%s: %s", ep.Label, err)
	}
}
