package main

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"tunsplice/addr"
	"tunsplice/relay"
	"tunsplice/tundev"

	"github.com/pkg/errors"
)

// Option reconnect: the device stays open, and one connection after the other is joined to it.
//
//	open the device --> connect, or accept --> seat.admit: the peer takes the device --> session ends --> pause --> connect ...
//
// A listening address goes on accepting while a session runs, because the peer of that session may be gone without a word: a connection of the same link identity takes its
// place at once. The device is made again if somebody deletes it.

// lasting is one run with option reconnect.
type lasting struct {
	p        *invocation
	dev, way *addr.Address
	swapped  bool // dev is the left address
	pause    addr.Backoff
	identity [16]byte

	kept   *relay.Kept // the device
	source addr.Source // that it is of; nil: it is not open

	mu     sync.Mutex
	holder *sitting   // nil: no session has the device
	wait   []*sitting // sessions whose peer is not known yet, the oldest first
	said   string     // the last complaint, which is not said again and again
}

// sitting is one session that has the device or wants it.
type sitting struct {
	session *relay.Session
	info    relay.PeerInfo
	take    func() error
	over    chan struct{} // closed when the session has ended
}

// mostWaiting bounds the connections that may be open without their peer being known.
const mostWaiting = 32

// busyWait is how long a newcomer that can't be told apart from others waits for the session before it to end.
const busyWait = time.Second

// checkLasting checks how option reconnect goes with the rest of the command line.
func checkLasting(left, right *addr.Address) error {
	_, leftAgain := left.Reconnects()
	_, rightAgain := right.Reconnects()
	way, other := left, right
	switch {
	case !leftAgain && !rightAgain:
		return nil
	case leftAgain && rightAgain:
		return hinted{errors.Errorf("%q and %q: only one of the addresses can have option reconnect", left.Text, right.Text), "the other one is the device that stays open"}
	case rightAgain:
		way, other = right, left
	}
	switch {
	case !other.IsDevice():
		return hinted{errors.Errorf("%q: option reconnect needs a TUN, TAP or INTERFACE address on the other side, not %q", way.Text, other.Text),
			"bytes of a stream that were on their way when the connection broke would be lost; options retry and forever repeat the first attempt"}
	case other.Forks():
		return errors.Errorf("%q: option fork does not go with option reconnect on the other side", other.Text)
	}
	return nil
}

// last joins a device to one peer after the other until ctx ends.
func (p *invocation) last(ctx context.Context, left, right *addr.Address) error {
	l := &lasting{p: p, dev: right, way: left}
	var again bool
	if l.pause, again = left.Reconnects(); !again {
		l.dev, l.way, l.swapped = left, right, true
		l.pause, _ = right.Reconnects()
	}
	if err := l.open(ctx); err != nil {
		return err
	}
	l.identity = identityOf(l.kept.Endpoint().Label, left.Text, right.Text)
	var err error
	if l.way.Listens() {
		err = l.serve(ctx)
	} else {
		err = l.dial(ctx)
	}
	if cerr := l.close(); err == nil {
		err = cerr
	}
	return noEOF(err)
}

// identityOf returns the identity of a tunnel: the same after a restart, different for any other tunnel, and no secret.
func identityOf(device string, texts ...string) (id [16]byte) {
	h := sha256.New()
	for _, file := range []string{"/etc/machine-id", "/proc/sys/kernel/random/boot_id"} {
		if text, err := os.ReadFile(file); err == nil && len(text) > 0 {
			h.Write(text)
			break
		}
	}
	for _, link := range []string{"/proc/self/ns/net", "/proc/self/ns/user"} {
		text, _ := os.Readlink(link) // without /proc the rest must do
		io.WriteString(h, text+"\x00")
	}
	io.WriteString(h, device+"\x00"+strings.Join(texts, "\x00"))
	copy(id[:], h.Sum(nil))
	return id
}

// mac returns the MAC address of a device that is made: the same after a restart, so that what its neighbours know of it holds.
func (l *lasting) mac() net.HardwareAddr {
	id := identityOf("", l.dev.Text, l.way.Text)
	return append(net.HardwareAddr{0x02}, id[:5]...)
}

// open opens the device.
func (l *lasting) open(ctx context.Context) error {
	env := l.p.env(nil, l.p.log, l.p.states.program, true)
	env.MAC = l.mac()
	src, err := l.dev.Open(ctx, env)
	if err != nil {
		return err
	}
	ep, err := src.Next(ctx)
	if err != nil {
		src.Close()
		return err
	}
	if l.source = src; l.kept == nil {
		l.kept = relay.Keep(ep, l.p.log)
	} else {
		l.kept.Replace(ep)
	}
	return nil
}

func (l *lasting) close() error {
	if l.source == nil {
		return nil
	}
	err := l.kept.Close()
	if cerr := l.source.Close(); err == nil {
		err = cerr
	}
	l.source = nil
	return err
}

// mend makes the device again if it is gone. No session has it.
func (l *lasting) mend(ctx context.Context, cause error) error {
	if !tundev.IsGone(cause) {
		return nil
	}
	l.p.log.Warnf("%s: the device was deleted; making it again", l.dev.Text)
	if err := l.close(); err != nil {
		l.p.log.Infof("%s: %v", l.dev.Text, err)
	}
	return l.open(ctx)
}

// dial connects again and again.
func (l *lasting) dial(ctx context.Context) error {
	wait := l.pause.Min
	for {
		began, up := time.Now(), false
		ep, src, err := l.connect(ctx)
		if err == nil {
			up, err = l.session(ctx, ep, l.p.log, false)
			src.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		l.complain(err)
		if err := l.mend(ctx, err); err != nil {
			return err
		}
		if up && time.Since(began) > 2*l.pause.Max {
			wait = l.pause.Min
		}
		// A little chance, so that many clients of one server do not come all at once.
		if waitErr := pause(ctx, wait/2+rand.N(wait/2+1)); waitErr != nil {
			return nil
		}
		wait = min(2*wait, l.pause.Max)
	}
}

// connect opens the way once.
func (l *lasting) connect(ctx context.Context) (*relay.Endpoint, addr.Source, error) {
	src, err := l.way.Open(ctx, l.p.env(l.kept.Endpoint().Env, l.p.log, l.p.states.program, true))
	if err != nil {
		return nil, nil, err
	}
	ep, err := src.Next(ctx)
	if err != nil {
		src.Close()
		return nil, nil, err
	}
	return ep, src, nil
}

// complain logs why there is no link: a cause that stays the same is said once.
func (l *lasting) complain(err error) {
	text := "the connection has ended"
	if err != nil {
		text = err.Error()
	}
	l.mu.Lock()
	before := l.said
	l.said = text
	l.mu.Unlock()
	if before == text {
		l.p.log.Infof("%s; trying again", text)
		return
	}
	l.p.log.Warnf("%s; trying again", text)
	if hint := addr.Hint(err); hint != "" && before == "" {
		l.p.log.Warnf("hint: %s", hint)
	}
}

// serve accepts connection after connection.
func (l *lasting) serve(ctx context.Context) error {
	env := l.p.env(l.kept.Endpoint().Env, l.p.log, l.p.states.program, true)
	env.Tunnel = true
	src, err := l.way.Open(ctx, env)
	if err != nil {
		return err
	}
	if err := l.p.giveUpPrivileges(); err != nil {
		src.Close()
		return err
	}
	l.p.states.opened()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for {
		var ep *relay.Endpoint
		if ep, err = src.Next(ctx); err != nil {
			break
		}
		running.Go(func() {
			log := l.p.log.With(ep.Label)
			_, err := l.session(ctx, ep, log, true)
			if err != nil && ctx.Err() == nil {
				log.Warnf("%s", err)
			}
			if tundev.IsGone(err) {
				if err := l.mendServing(ctx, err); err != nil {
					cancel(err)
				}
			}
		})
	}
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil && cause != ctx.Err() {
		err = cause
	}
	if cerr := src.Close(); cerr != nil {
		l.p.log.Warnf("%s: %s", l.way.Text, cerr)
	}
	running.Wait()
	var sig signalled
	if errors.As(err, &sig) || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// mendServing is mend while other sessions may want the device: they wait outside.
func (l *lasting) mendServing(ctx context.Context, cause error) error {
	me := &sitting{over: make(chan struct{})}
	if err := l.sit(ctx, me, time.Minute); err != nil {
		return nil // somebody has the device, and so it works
	}
	defer l.leave(me)
	return l.mend(ctx, cause)
}

// session joins one connection to the device and closes it. up says that the peer had the device.
func (l *lasting) session(ctx context.Context, ep *relay.Endpoint, log *relay.Log, serving bool) (up bool, err error) {
	me := &sitting{over: make(chan struct{})}
	defer l.leave(me)
	dev, take := l.kept.Lend()
	me.take = take
	left, right := ep, dev
	if l.swapped {
		left, right = dev, ep
	}
	following := l.p.states.session(ep.Label, serving)
	adjust := func(c *relay.Config) {
		c.Identity = l.identity
		c.Admit = func(info relay.PeerInfo) error {
			if err := l.admit(ctx, me, info); err != nil {
				return err
			}
			up = true
			return nil
		}
	}
	begun := func(s *relay.Session) { l.arrive(me, s) }
	err = untilDone(func(done func(error)) {
		l.p.startTransfer(ctx, left, right, log, following, serving, adjust, begun, done)
	})
	return up, err
}

// arrive notes a session whose peer is not known yet. If there are too many the oldest has to go, so that connections that say nothing keep nobody out.
func (l *lasting) arrive(me *sitting, s *relay.Session) {
	l.mu.Lock()
	me.session = s
	l.wait = append(l.wait, me)
	var oldest *sitting
	if len(l.wait) > mostWaiting {
		oldest = l.wait[0]
		l.wait = l.wait[1:]
	}
	l.mu.Unlock()
	if oldest != nil {
		oldest.session.End(relay.CloseRefused, errors.New("too many connections of unknown peers"))
	}
}

// known takes a session off the list of those with unknown peers. l.mu is held.
func (l *lasting) known(me *sitting) {
	for i, s := range l.wait {
		if s == me {
			l.wait = append(l.wait[:i], l.wait[i+1:]...)
			return
		}
	}
}

// leave notes the end of a session.
func (l *lasting) leave(me *sitting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known(me)
	if l.holder == me {
		l.holder = nil
	}
	close(me.over)
}

// admit lets the peer of a session have the device.
func (l *lasting) admit(ctx context.Context, me *sitting, info relay.PeerInfo) error {
	l.mu.Lock()
	me.info = info
	l.mu.Unlock()
	if err := l.sit(ctx, me, busyWait); err != nil {
		return err
	}
	l.mu.Lock()
	l.said = ""
	l.mu.Unlock()
	return me.take()
}

// replaced returns the session that a peer takes the place of, or nil. l.mu is held.
func (l *lasting) replaced(info relay.PeerInfo) *sitting {
	old := l.holder
	switch {
	case old == nil || old.session == nil || info.Identity == [16]byte{}:
		return nil
	case old.info.Identity == info.Identity:
		return old
	case old.info.Identity == [16]byte{} && l.heardNothing(old):
		return old // it may be anybody; who says a name is more
	}
	return nil
}

// heardNothing says that the peer of a session has not sent a packet yet.
func (l *lasting) heardNothing(s *sitting) bool {
	stats := s.session.Stats()
	if l.swapped {
		return stats.RightToLeft.Packets == 0
	}
	return stats.LeftToRight.Packets == 0
}

// sit waits for the device to be free, and makes a session go whose place this one takes.
func (l *lasting) sit(ctx context.Context, me *sitting, patience time.Duration) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	var told *sitting
	for {
		l.mu.Lock()
		holder := l.holder
		if holder == nil {
			l.holder = me
			l.known(me)
			l.mu.Unlock()
			return nil
		}
		old := l.replaced(me.info)
		l.mu.Unlock()
		if old != nil && old != told {
			told = old
			l.p.log.Noticef("a new connection of the same peer takes the place of the old one")
			old.session.End(relay.CloseReplaced, nil)
			limit.Reset(time.Minute) // it has been told to go
		}
		select {
		case <-holder.over:
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return errors.New("the tunnel is in use by another peer")
		}
	}
}
