package addr

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// Source is an open address: it yields one endpoint, or with fork one for each peer.
type Source interface {
	// Next waits for the next endpoint; io.EOF if no more will come.
	Next(ctx context.Context) (*relay.Endpoint, error)
	// Many says that further endpoints may come while earlier ones are in use (option fork).
	Many() bool
	// Close stops listening and releases what is not an endpoint's. Endpoints that were handed out stay open.
	Close() error
}

// Env is what openers need to know of the program.
type Env struct {
	Log *relay.Log
	// Program is the name in log lines; children get variables with its upper-case form as prefix, besides SOCAT_.
	Program string
	// Version is the program's version, for children.
	Version string
	// ResolveIP and ListenIP are the preferred IP versions for resolving and listening: '4', '6', or '0' for none.
	ResolveIP, ListenIP byte
	// PeerEnv are the variables that the other address has to say about its peer, for programs.
	PeerEnv []string
	// Linger is the time of -t: how long a program may go on after the end of its input.
	Linger time.Duration
	// MAC is the MAC address of a TAP device of a fixed name that is made and has no option mac; nil leaves it to the kernel.
	MAC net.HardwareAddr
	// Queues is how many connections at most have a TUN or TAP device at the same time, of those that come and go; 0: one has it from beginning to end. Several get a queue each, and so does
	// one with option multi-queue. See relay.Endpoint.Queue.
	Queues int
	// Tunnel says that the address on the other side is a network device.
	Tunnel bool
	// State is called when the address reaches a state, with NAME=value pairs about it; it does not wait. nil: nobody asks.
	State func(s State, vars ...string)
	// HubFailed is called once when a hub, which all sessions share, does not work any more; it must not wait. nil: who uses the hub finds out.
	HubFailed func(error)
	// ChildFailed is called when a program that we started was seen to end with a status other than 0.
	ChildFailed func(status int)
}

// ErrAcceptTimeout is returned by Next when the time of option accept-timeout ran out before a peer came. The log has a warning already; the program ends with
// status 0 once running sessions have ended.
var ErrAcceptTimeout = errors.New("no peer came within accept-timeout")

// one is the Source of an address that is opened once.
type one struct {
	ep    *relay.Endpoint
	taken bool
	keyed bool // the peer has shown that it holds the address's key
}

// Next implements Source.
func (o *one) Next(context.Context) (*relay.Endpoint, error) {
	if o.taken {
		return nil, io.EOF
	}
	o.taken = true
	return o.ep, nil
}

// Many implements Source.
func (o *one) Many() bool { return false }

// Close implements Source.
func (o *one) Close() error {
	if !o.taken && o.ep.Close != nil {
		return o.ep.Close()
	}
	return nil
}

// Open opens the address.
func (a *Address) Open(ctx context.Context, env *Env) (Source, error) {
	dropInherited()
	bs := a.bounds()
	if len(bs) == 0 {
		return &one{ep: &relay.Endpoint{Label: a.Text}}, nil
	}
	if len(bs) == 2 && bs[0].waitsForReader() && bs[1].waitsForReader() {
		return openTogether(ctx, env, bs[0], bs[1])
	}
	first, err := bs[0].open(ctx, env)
	if err != nil || len(bs) == 1 {
		return first, err
	}
	second, err := bs[1].open(ctx, env)
	if err != nil {
		first.Close()
		return nil, err
	}
	return &dual{first, second}, nil
}

// waitsForReader says whether opening b may wait until somebody opens the other end of a FIFO.
func (b *Bound) waitsForReader() bool { return b.Type.Name == "PIPE" && b.Param(0) != "" }

// openTogether opens two FIFOs at the same time. Two processes that join each other by a pair of them, one each way, would wait for each other for ever if each opened the
// one that it reads from first.
func openTogether(ctx context.Context, env *Env, r, w *Bound) (Source, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		src Source
		err error
	}
	opened := make(chan result, 1)
	go func() { // ends before this function returns
		src, err := w.open(ctx, env)
		if err != nil {
			cancel() // the other one need not wait any longer
		}
		opened <- result{src, err}
	}()
	first, err := r.open(ctx, env)
	if err != nil {
		cancel()
	}
	second := <-opened
	switch {
	case err == nil && second.err == nil:
		return &dual{first, second.src}, nil
	case err == nil:
		first.Close()
		return nil, second.err
	case second.err == nil:
		second.src.Close()
	case errors.Is(err, context.Canceled):
		return nil, second.err
	}
	return nil, err
}

// open opens one address, and has it watched for options that nobody acts on.
func (b *Bound) open(ctx context.Context, env *Env) (Source, error) {
	src, err := b.Open(ctx, b, env)
	if err != nil {
		return nil, labelled{errors.Wrap(err, b.Label()), b.Label()}
	}
	return &watched{Source: b.secured(env, src), b: b, log: env.Log}, nil
}

// labelled is an error of one address.
type labelled struct {
	error
	label string
}

// Address returns the label of the address.
func (l labelled) Address() string { return l.label }

func (l labelled) Unwrap() error { return l.error }

// AddressOf returns which address an error concerns: its label, or the whole argument where that is wrong; "" if it is not known.
func AddressOf(err error) string {
	var a interface{ Address() string }
	if errors.As(err, &a) {
		return a.Address()
	}
	return ""
}

// watched says of a source's first endpoint which options nothing was done for: nothing may be ignored silently.
type watched struct {
	Source
	b    *Bound
	log  *relay.Log
	told sync.Once
}

// Next implements Source.
func (w *watched) Next(ctx context.Context) (*relay.Endpoint, error) {
	ep, err := w.Source.Next(ctx)
	switch {
	case err == io.EOF || err != nil && ctx.Err() != nil:
		return nil, err
	case err != nil:
		return nil, labelled{errors.Wrap(err, w.b.Label()), w.b.Label()}
	}
	w.told.Do(func() {
		for _, name := range w.b.unused() {
			w.log.Warnf("%s: option %q has no effect here", w.b.Label(), name)
		}
	})
	return ep, nil
}

// dual joins two addresses: the first is read from, the second written to.
type dual struct{ r, w Source }

// Next implements Source.
func (d *dual) Next(ctx context.Context) (*relay.Endpoint, error) {
	r, err := d.r.Next(ctx)
	if err != nil {
		return nil, err
	}
	w, err := d.w.Next(ctx)
	if err != nil {
		if r.Close != nil {
			r.Close()
		}
		return nil, err
	}
	return joinHalves(r, w)
}

// Many implements Source.
func (d *dual) Many() bool { return d.r.Many() || d.w.Many() }

// Close implements Source.
func (d *dual) Close() error {
	err := d.r.Close()
	if werr := d.w.Close(); err == nil {
		err = werr
	}
	return err
}

// joinHalves makes one endpoint of the reading half of r and the writing half of w.
func joinHalves(r, w *relay.Endpoint) (*relay.Endpoint, error) {
	ep := *r
	closeBoth := func() error {
		var err error
		for _, half := range []*relay.Endpoint{r, w} {
			if half.Close != nil {
				if cerr := half.Close(); err == nil {
					err = cerr
				}
			}
		}
		return err
	}
	if r.Traffic != w.Traffic {
		closeBoth()
		return nil, errors.Errorf("%s carries %s, %s carries %s: they can't be one address", r.Label, r.Traffic, w.Label, w.Traffic)
	}
	ep.Label = r.Label + "!!" + w.Label
	ep.W = w.W
	ep.CanAnswer = r.CanAnswer && w.CanAnswer
	ep.GoneIsEnd = w.GoneIsEnd
	if ep.Peer == "" {
		ep.Peer = w.Peer
	}
	if ep.Framing == relay.FramingUnset {
		ep.Framing = w.Framing
	}
	ep.HelloTimeout = max(ep.HelloTimeout, w.HelloTimeout)
	if ep.Heartbeat == 0 {
		ep.Heartbeat = w.Heartbeat
	}
	ep.Env = append(append([]string{}, r.Env...), w.Env...)
	ep.Close = closeBoth
	return &ep, nil
}

// retry opens by calling attempt until it works, as the options retry, forever and interval say. ctx ends the waiting.
func (b *Bound) retry(ctx context.Context, env *Env, attempt func() error) error {
	tries, pause := optRetry.Or(b, 0), optInterval.Or(b, time.Second)
	forever := optForever.Or(b, false)
	for n := uint(0); ; n++ {
		err := attempt()
		if err == nil || ctx.Err() != nil || !forever && n >= tries {
			return err
		}
		env.Log.Noticef("%s: %s, trying again in %s", b.Label(), err, pause)
		if err := pauseFor(ctx, pause); err != nil {
			return err
		}
	}
}

// pauseFor waits, or returns the context's error if it ends first.
func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
