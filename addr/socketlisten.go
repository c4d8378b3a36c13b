package addr

import (
	"context"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"tunsplice/relay"
	"tunsplice/relay/secure"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

var (
	optFork = declare(kindBool, Option{Name: "fork", Groups: GCHILD, Phase: PhPastaccept,
		Doc: "go on waiting after a peer came: each has a session of its own"})
	optMaxChildren = declare(kindInt, Option{Name: "max-children", Aliases: "maxchildren", Groups: GCHILD, Phase: PhPastaccept,
		Doc: "with fork, the number of sessions at the same time (default no limit); further peers wait in the queue"})
	optBacklog = declare(kindInt, Option{Name: "backlog", Groups: GLISTEN, Phase: PhListen,
		Doc: "number of connections that may wait to be accepted (default 5, with fork, reconnect, a key or TLS 128)"})
	optAcceptTimeout = declare(kindDuration, Option{Name: "accept-timeout", Aliases: "listen-timeout", Groups: GLISTEN, Phase: PhListen,
		Doc: "end with status 0 if no peer came within this time in seconds (default: wait for ever)"})
)

// checkFork checks the options that go with fork.
func (b *Bound) checkFork() error {
	n, given := optMaxChildren.Get(b)
	_, again := optReconnect.Get(b)
	switch {
	case again && optFork.Or(b, false):
		return errors.New("option reconnect says that one peer follows the other, option fork that many are served at once: choose one")
	case given && !optFork.Or(b, false):
		return errors.New("option max-children is of no use without fork")
	case n < 0:
		return errors.Errorf("option max-children: there can't be %d sessions (0: no limit)", n)
	}
	return nil
}

// sessions counts the endpoints of an address that are in use.
type sessions struct {
	slots chan struct{} // nil: no limit
}

func (b *Bound) newSessions() *sessions {
	if n := optMaxChildren.Or(b, 0); n > 0 {
		return &sessions{make(chan struct{}, n)}
	}
	return &sessions{}
}

// begin waits until another session may begin.
func (s *sessions) begin(ctx context.Context) error {
	if s.slots == nil {
		return ctx.Err()
	}
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end takes note that a session is over.
func (s *sessions) end() {
	if s.slots != nil {
		<-s.slots
	}
}

// endWith has the session of an endpoint be over when that is closed.
func (s *sessions) endWith(ep *relay.Endpoint) {
	if s.slots != nil {
		onClose(ep, s.end)
	}
}

// waiting is a socket on which peers are waited for, by one goroutine at a time.
type waiting struct {
	b       *Bound
	env     *Env
	file    *relay.File
	raw     syscall.RawConn
	filter  *peerFilter
	rate    *sourceRate // nil: any
	fork    bool
	timeout time.Duration // of each wait, 0: none
	running *sessions
	cleanup func() error // at the end, maybe more than once; nil: nothing
	closed  atomic.Bool  // nothing comes any more: closed, or an endpoint's
	buf     []byte       // for packets
}

// newWaiting takes over a bound, or listening, socket.
func (b *Bound) newWaiting(env *Env, fd int) (*waiting, error) {
	f, err := relay.NewFile(fd, "socket")
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &waiting{b: b, env: env, file: f, raw: raw, filter: b.peerFilter(env), rate: b.newSourceRate(), fork: b.serves(), timeout: optAcceptTimeout.Or(b, 0),
		running: b.newSessions()}, nil
}

// Many implements Source.
func (w *waiting) Many() bool { return w.fork }

// Close implements Source.
func (w *waiting) Close() error {
	err := w.stop()
	if w.cleanup != nil {
		if cerr := w.cleanup(); err == nil {
			err = cerr
		}
	}
	return err
}

// stop closes the socket, so that later peers are refused at once instead of waiting for nobody.
func (w *waiting) stop() error {
	if w.closed.Swap(true) {
		return nil
	}
	return w.file.Close()
}

// handOver gives the socket to the endpoint that is made of it.
func (w *waiting) handOver() *relay.File {
	w.closed.Store(true)
	return w.file
}

// until calls do each time the socket is readable until it says true. It returns the context's error, ErrAcceptTimeout after a warning, or io.EOF once the socket
// has been closed because its one peer came.
func (w *waiting) until(ctx context.Context, do func(fd uintptr) bool) error {
	if w.closed.Load() {
		return io.EOF
	}
	var deadline time.Time
	if w.timeout > 0 {
		deadline = time.Now().Add(w.timeout)
	}
	if err := w.file.SetReadDeadline(deadline); err != nil {
		if w.closed.Load() {
			return io.EOF
		}
		return err
	}
	stop := context.AfterFunc(ctx, func() { w.file.SetReadDeadline(time.Unix(1, 0)) })
	err := w.raw.Read(do)
	switch {
	case !stop():
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.env.Log.Warnf("accept: Connection timed out") // as socat says it; scripts look for it
		return ErrAcceptTimeout
	case err != nil && w.closed.Load():
		return io.EOF
	}
	return err
}

// localAddress returns the address that the socket is bound to, for messages.
func (w *waiting) localAddress() (local sockaddr) {
	onFile(w.file, func(fd int) (err error) { local, err = getsockname(fd); return err })
	return local
}

// defaultBacklog is socat's for a single peer. A server is not to be closed to honest peers by a burst of others: a full queue costs them a second.
func (b *Bound) defaultBacklog() int {
	if b.serves() || b.key != nil || b.tls != nil {
		return 128
	}
	return 5
}

// listener accepts connections.
type listener struct {
	*waiting
	typ   int    // of the socket, and so of all that it accepts
	paced string // see unpace
}

// listen makes a Source of a bound stream (or seqpacket) socket.
func (b *Bound) listen(env *Env, fd int) (*listener, error) {
	err := b.applyAll(fd, PhPrelisten)
	paced := ""
	if err == nil {
		paced = b.unpace(fd)
		err = errors.Wrap(unix.Listen(fd, optBacklog.Or(b, b.defaultBacklog())), "listen")
	}
	if err == nil {
		err = b.applyAll(fd, PhListen, PhPastlisten)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	w, err := b.newWaiting(env, fd)
	if err != nil {
		return nil, err
	}
	local := w.localAddress()
	env.Log.Noticef("listening on %s", &local)
	b.warnOpenTunnel(env, &local)
	env.reach(StateListening, local.env(nil, "SOCK")...)
	return &listener{w, socketType(fd), paced}, nil
}

// Next implements Source.
func (l *listener) Next(ctx context.Context) (*relay.Endpoint, error) {
	if err := l.running.begin(ctx); err != nil {
		return nil, err
	}
	for {
		fd, peer, err := l.accept(ctx)
		if err != nil {
			l.running.end()
			return nil, err
		}
		ep, err := l.session(fd, &peer)
		switch {
		case err == nil && ep != nil:
			l.running.endWith(ep)
			if l.b.streams() > 1 { // the peer has come; accept-timeout does not limit how long its tunnel lasts
				l.timeout = 0
			}
			return ep, nil
		case err != nil && !l.fork:
			l.running.end()
			return nil, err
		case err != nil:
			l.env.Log.Warnf("%s: %s: %s", l.b.Label(), &peer, err)
		}
	}
}

// session makes an endpoint of an accepted connection, or returns nil if the peer is not welcome.
func (l *listener) session(fd int, peer *sockaddr) (*relay.Endpoint, error) {
	local, err := getsockname(fd)
	if err == nil {
		l.env.Log.Noticef("accepting connection from %s on %s", peer, &local)
		if !l.filter.admit(l.env.Log, "connection", peer) || !l.rate.admit(l.env.Log, fd, peer) {
			unix.Close(fd)
			return nil, nil
		}
		err = l.b.applyAll(fd, PhFD, PhPreaccept, PhAccept, PhPastaccept, PhConnected)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	f, err := relay.NewSocket(fd, "socket")
	if err != nil {
		return nil, err
	}
	watchPath(l.env, f, l.paced, peer)
	if !l.fork {
		if err := l.stop(); err != nil {
			f.Close()
			return nil, err
		}
	}
	ep := l.b.bareEndpoint(f)
	if l.b.tls == nil {
		if ep, err = l.b.connectedEndpoint(&connection{f, l.typ, *peer}); err != nil {
			return nil, err
		}
	}
	if l.fork {
		ep.Label += " " + peer.text()
		// Beside others a connection that says nothing is only a burden. A single peer may take its time.
		ep.SilentFor = optHandshakeTimeout.Or(l.b, defaultHandshakeTimeout)
	}
	ep.Peer, ep.Env = peer.plain(), peer.env(local.env(make([]string, 0, 4), "SOCK"), "PEER")
	return ep, nil
}

// accept waits for a connection.
func (l *listener) accept(ctx context.Context) (fd int, peer sockaddr, err error) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		var aerr error
		err = l.until(ctx, func(s uintptr) bool {
			fd, peer, aerr = acceptFrom(int(s))
			return aerr != unix.EAGAIN
		})
		if err != nil {
			return -1, peer, err
		}
		switch aerr {
		case nil:
			return fd, peer, nil
		case unix.ECONNABORTED, unix.EPROTO, unix.ENETDOWN, unix.ENOPROTOOPT, unix.EHOSTDOWN, unix.ENONET, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EPERM:
			// The connection was gone before it was accepted (accept(2), "Error handling"); EPERM: a firewall's doing.
			l.env.Log.Infof("accept: %s", aerr)
			pause = 5 * time.Millisecond
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			l.env.Log.Warnf("accept: %s, trying again in %s", aerr, pause)
			if err := pauseFor(ctx, pause); err != nil {
				return -1, peer, err
			}
		default:
			return -1, peer, errors.Wrap(aerr, "accept")
		}
	}
}

// dialer is the Source of a connecting address with option fork: one connection after the other, each with a session of its own.
type dialer struct {
	b       *Bound
	running *sessions
	dial    func(ctx context.Context) (*relay.Endpoint, error)
	again   bool
}

// Many implements Source.
func (d *dialer) Many() bool { return true }

// Close implements Source.
func (d *dialer) Close() error { return nil }

// Next implements Source. Between two connections it waits as option interval says.
func (d *dialer) Next(ctx context.Context) (*relay.Endpoint, error) {
	if err := d.running.begin(ctx); err != nil {
		return nil, err
	}
	if d.again {
		if err := pauseFor(ctx, optInterval.Or(d.b, time.Second)); err != nil {
			d.running.end()
			return nil, err
		}
	}
	d.again = true
	ep, err := d.dial(ctx)
	if err != nil {
		d.running.end()
		return nil, err
	}
	d.running.endWith(ep)
	return ep, nil
}

// client makes the Source of a connecting address: an open endpoint, or with fork a dialer.
func (b *Bound) client(ctx context.Context, env *Env, dial func(ctx context.Context) (*relay.Endpoint, error)) (Source, error) {
	retrying := func(ctx context.Context) (ep *relay.Endpoint, err error) {
		err = b.retry(ctx, env, func() (err error) {
			if ep, err = dial(ctx); err == nil && b.key != nil {
				ep, err = shake(ctx, ep, optHandshakeTimeout.Or(b, defaultHandshakeTimeout), b.keyed(env, secure.Initiate))
			}
			return err
		})
		return ep, err
	}
	if optFork.Or(b, false) {
		return &dialer{b: b, running: b.newSessions(), dial: retrying}, nil
	}
	ep, err := retrying(ctx)
	if err != nil {
		return nil, err
	}
	return &one{ep: ep, keyed: b.key != nil}, nil
}
