package main

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tunsplice/addr"
	"tunsplice/relay"
	"tunsplice/tundev"

	"github.com/pkg/errors"
)

// Options reconnect and streams: the device stays open, and one connection after the other is joined to it, or several at the same time.
//
//	open the device --> connect, or accept --> seats.sit: the peer takes the device --> session ends --> pause --> connect ...
//
// A listening address goes on accepting while a session runs, because the peer of that session may be gone without a word: a connection of the same link identity takes its
// place at once. The device is made again if somebody deletes it.
//
// With streams each connection has a queue of the device, and the kernel gives each flow to one of them. The end that connects names the tunnel in its hellos, and opens the second connection
// once the first is up and the peer has said how many it takes. Without reconnect the tunnel ends with its last connection.

// lasting is one run with option reconnect or streams.
type lasting struct {
	p        *invocation
	dev, way *addr.Address
	swapped  bool // dev is the left address
	again    bool // option reconnect
	pause    addr.Backoff
	streams  int         // connections that the tunnel has at most
	name     relay.Nonce // of the tunnel, if it has several and we connect
	identity [16]byte
	together *together // what is told of a tunnel of several connections

	kept   *relay.Kept  // the device
	source addr.Source  // that it is of; nil: it is not open
	made   atomic.Int64 // how often it was made again
	seats  *seats

	mu      sync.Mutex
	said    string           // the last complaint, which is not said again and again
	most    int              // how many connections the peer takes, 0: not known
	dialing map[int]bool     // numbers of the connections that are being made and used, but for the first
	further func(number int) // begins one of these
}

// checkLasting checks how the options reconnect and streams go with the rest of the command line.
func checkLasting(left, right *addr.Address) error {
	_, leftAgain := left.Reconnects()
	_, rightAgain := right.Reconnects()
	way, other := left, right
	if left.Streams() > 1 || right.Streams() > 1 {
		if err := checkStreams(left, right); err != nil {
			return err
		}
	}
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

// checkStreams checks that option streams has connections on one side and a device with queues on the other.
func checkStreams(left, right *addr.Address) error {
	way, dev := left, right
	if right.Streams() > 1 {
		way, dev = right, left
	}
	_, again := dev.Reconnects()
	switch {
	case dev.Streams() > 1, again:
		return hinted{errors.Errorf("%q and %q: only one of the addresses can have option streams or reconnect", left.Text, right.Text), "the other one is the device"}
	case !dev.HasQueues():
		return hinted{errors.Errorf("%q: option streams needs a TUN or TAP address on the other side, used in both directions, not %q", way.Text, dev.Text),
			"the kernel spreads the flows of such a device over the connections; a byte stream can't be taken apart"}
	}
	return nil
}

// lasts says whether a command line is for last.
func lasts(left, right *addr.Address) bool {
	_, leftAgain := left.Reconnects()
	_, rightAgain := right.Reconnects()
	return leftAgain || rightAgain || left.Streams() > 1 || right.Streams() > 1
}

// last joins a device to one peer after the other until ctx ends.
func (p *invocation) last(ctx context.Context, left, right *addr.Address) error {
	l := &lasting{p: p, dev: right, way: left, together: &together{p: p.states.program}, dialing: map[int]bool{}}
	if left.IsDevice() {
		l.dev, l.way, l.swapped = left, right, true
	}
	l.pause, l.again = l.way.Reconnects()
	if l.streams = l.way.Streams(); l.streams > 1 && !l.way.Listens() {
		l.name = relay.NewNonce()
	}
	l.seats = newSeats(l.streams, l.swapped, p.log)
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
	env.Queues = l.streams
	if l.again {
		env.MAC = l.mac()
	}
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

// mend makes the device again if it is gone, once nobody has it. made is the one that a session has found gone.
func (l *lasting) mend(ctx context.Context, cause error, made int64) error {
	if !tundev.IsGone(cause) {
		return nil
	}
	me := &sitting{over: make(chan struct{})}
	defer l.seats.leave(me)
	if err := l.seats.sit(ctx, me, time.Minute); err != nil || l.made.Load() != made {
		return nil // somebody has the device, and so it works
	}
	l.p.log.Warnf("%s: the device was deleted; making it again", l.dev.Text)
	if err := l.close(); err != nil {
		l.p.log.Infof("%s: %v", l.dev.Text, err)
	}
	l.made.Add(1)
	return l.open(ctx)
}

// dial connects, with reconnect again and again, with streams several times.
func (l *lasting) dial(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	var mu sync.Mutex
	var result error // of the connection that ends last, or with reconnect of what ended them all
	active := 0
	stream := func(number int) {
		mu.Lock()
		active++
		mu.Unlock()
		running.Go(func() {
			err := l.dialStream(ctx, number)
			mu.Lock()
			defer mu.Unlock()
			if active--; active > 0 && !l.again && ctx.Err() == nil {
				l.lost(number, active, err)
				return
			}
			if err != nil { // the others end now, without one
				result = err
				cancel(err)
			}
		})
	}
	l.further = stream
	stream(0)
	running.Wait()
	return result
}

// lost tells of a connection that is not made again, while others go on.
func (l *lasting) lost(number, others int, err error) {
	if err != nil {
		l.p.log.Warnf("connection %d of the tunnel: %s; it goes on with %d", number+1, err, others)
		return
	}
	l.p.log.Noticef("connection %d of the tunnel has ended; it goes on with %d", number+1, others)
}

// dialStream makes one of the connections of a tunnel, with reconnect again and again.
func (l *lasting) dialStream(ctx context.Context, number int) error {
	log := l.p.log
	if l.streams > 1 {
		log = log.With("connection " + strconv.Itoa(number+1))
	}
	wait := l.pause.Min
	for {
		began := time.Now()
		me := &sitting{over: make(chan struct{}), number: number, party: l.name}
		ep, src, err := l.connect(ctx, number)
		if err == nil {
			err = l.session(ctx, ep, log, me, false)
			src.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		if !l.again {
			return err
		}
		l.complain(err)
		if err := l.mend(ctx, err, me.made); err != nil {
			return err
		}
		if number > 0 && !l.wanted(number) {
			return nil
		}
		if me.up && time.Since(began) > 2*l.pause.Max {
			wait = l.pause.Min
		}
		// A little chance, so that many clients of one server do not come all at once.
		if waitErr := pause(ctx, wait/2+rand.N(wait/2+1)); waitErr != nil {
			return nil
		}
		wait = min(2*wait, l.pause.Max)
	}
}

// wanted says whether a further connection is to be made again: not if the tunnel has none at the moment, since the first to come up then sees to the others.
func (l *lasting) wanted(number int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number < l.most && l.seats.taken() {
		return true
	}
	delete(l.dialing, number)
	return false
}

// joined begins the further connections that the peer takes, once one is up.
func (l *lasting) joined(info relay.PeerInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := min(l.streams, max(1, int(info.Streams.Count)))
	if most < l.streams && most != l.most {
		l.p.log.Warnf("the peer takes %d of the %d connections that option streams asks for: it is needed at both ends", most, l.streams)
	}
	l.most = most
	for i := 1; i < most; i++ {
		if !l.dialing[i] {
			l.dialing[i] = true
			l.further(i)
		}
	}
}

// connect opens the way once.
func (l *lasting) connect(ctx context.Context, number int) (*relay.Endpoint, addr.Source, error) {
	env := l.p.env(l.kept.Endpoint().Env, l.p.log, l.p.states.program, true)
	if number > 0 {
		env.State = nil // the first connection has told of it
	}
	src, err := l.way.Open(ctx, env)
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
		text = relay.ErrorText(err)
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
		me := &sitting{over: make(chan struct{})}
		running.Go(func() { l.serveOne(ctx, ep, me, cancel) })
	}
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil && cause != ctx.Err() {
		err = cause
	}
	var end over
	if errors.As(err, &end) {
		err = end.error
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

// over is the end of a tunnel that is not made again: the cause of a cancelled context.
type over struct{ error }

// serveOne serves one connection. What ends the program is the cause of cancel.
func (l *lasting) serveOne(ctx context.Context, ep *relay.Endpoint, me *sitting, cancel context.CancelCauseFunc) {
	log := l.p.log.With(ep.Label)
	err := l.session(ctx, ep, log, me, true)
	switch {
	case ctx.Err() != nil:
		return
	case !l.again && !l.seats.wantedByAny():
		cancel(over{err})
		return
	case err != nil:
		log.Warnf("%s", err)
	}
	if !l.again {
		return
	}
	if err := l.mend(ctx, err, me.made); err != nil {
		cancel(err)
	}
}

// session joins one connection to the device and closes it.
func (l *lasting) session(ctx context.Context, ep *relay.Endpoint, log *relay.Log, me *sitting, serving bool) error {
	defer l.seats.leave(me)
	dev, take := l.kept.Lend()
	me.take = take
	left, right := ep, dev
	if l.swapped {
		left, right = dev, ep
	}
	var following follower = l.p.states.session(ep.Label, serving)
	if l.streams > 1 {
		following = l.together.connection()
	}
	adjust := func(c *relay.Config) {
		c.Identity = l.identity
		if l.streams > 1 {
			c.Streams = relay.Streams{Name: l.name, Number: uint8(me.number), Count: uint8(l.streams)}
		}
		c.Admit = func(info relay.PeerInfo) error { return l.admit(ctx, me, info, serving) }
	}
	begun := func(s *relay.Session) { l.seats.arrive(me, s) }
	return untilDone(func(done func(error)) {
		l.p.startTransfer(ctx, left, right, log, following, serving || l.streams > 1, adjust, begun, done)
	})
}

// admit lets the peer of a session have the device.
func (l *lasting) admit(ctx context.Context, me *sitting, info relay.PeerInfo, serving bool) error {
	number, party := me.number, me.party
	if serving {
		number, party = int(info.Streams.Number), info.Streams.Name
	}
	if number >= l.streams {
		return errors.Errorf("this end takes %d connections for a tunnel, not %d: option streams says how many", l.streams, number+1)
	}
	l.seats.introduce(me, info, number, party)
	if err := l.seats.sit(ctx, me, busyWait); err != nil {
		return err
	}
	l.mu.Lock()
	l.said = ""
	l.mu.Unlock()
	me.made = l.made.Load()
	if err := me.take(); err != nil {
		return err
	}
	me.up = true
	if !serving && l.streams > 1 {
		l.joined(info)
	}
	return nil
}
