package addr

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Theory of operation of the sockets
//
// Every socket is made by makeSocket, which goes through the phases of the options up to PASTBIND in the order in which socat does. What follows depends on the role:
//
//	connect    connectSocket (here), one try for each resolved address     -> an endpoint, or with fork a dialer
//	listen     listener (socketlisten.go), accepts                          -> an endpoint for each peer
//	packets    packetSocket (socketpacket.go), with or without a fixed peer -> an endpoint; RECVFROM and UDP-LISTEN wait for a peer first
//
// The families (tcp.go, udp.go, unix.go) only say which addresses and types these work with. Descriptors are non-blocking and waited for in the runtime's poller
// by way of relay.File; package net is not used, since its connections set options that nobody asked for and hold more memory.

var (
	optSoProtocol = declare(kindInt, Option{Name: "so-protocol", Aliases: "protocol prototype so-prototype", Groups: GSOCKET, Phase: PhSocket,
		Doc: "protocol number for socket(2) (default as the address says)"})
	optReuseAddr = declare(kindIntOrNone, Option{Name: "so-reuseaddr", Aliases: "reuseaddr", Groups: GSOCKET, Phase: PhPrebind,
		Doc: "bind also while old connections of the port fade away (default 1 for listening streams; an empty value leaves the system's default)"})
	optBind = declare(kindString, Option{Name: "bind", Groups: GSOCKET, Phase: PhBind,
		Doc: "local address: host, host:port, :port or [v6]:port, for UNIX sockets a path"})
	optConnectTimeout = declare(kindDuration, Option{Name: "connect-timeout", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "give up an attempt to connect after this time in seconds (default: the kernel's)"})
)

// intOrNone is the value of an option that an empty value leaves unset.
type intOrNone struct {
	n   int
	set bool
}

var kindIntOrNone = kindOf[intOrNone]{"INT/NULL", func(text string, given bool) (intOrNone, error) {
	if given && text == "" {
		return intOrNone{}, nil
	}
	n, err := parseOptInt(text, given)
	return intOrNone{n, true}, err
}}

// socketSpec says which socket to make.
type socketSpec struct {
	family, typ, proto int

	reuse bool // so-reuseaddr unless the option says otherwise
	// keepFD leaves out phase FD: the options of that phase are for the connections that the socket will accept.
	keepFD bool
}

// makeSocket makes a socket, lets bind give it an address (nil: it gets none) and returns the open descriptor, non-blocking and close-on-exec. It goes through the phases
// PRESOCKET to PASTBIND.
func (b *Bound) makeSocket(s socketSpec, bind func(fd int) error) (fd int, err error) {
	fd = -1
	err = b.inside(func() error {
		typ, proto := optSoType.Or(b, s.typ), optSoProtocol.Or(b, s.proto)
		fd, err = unix.Socket(s.family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		if err != nil {
			return errors.Wrapf(err, "socket(%d, %d, %d)", s.family, typ, proto)
		}
		if err := b.applyAll(fd, PhPresocket, PhSocket, PhPastsocket); err != nil {
			return err
		}
		if !s.keepFD {
			if err := b.apply(PhFD, fd); err != nil {
				return err
			}
		}
		return b.bindSocket(fd, s, bind)
	})
	if err != nil && fd >= 0 {
		unix.Close(fd)
	}
	return fd, err
}

func (b *Bound) bindSocket(fd int, s socketSpec, bind func(fd int) error) error {
	reuse, given := optReuseAddr.Get(b)
	if !given && s.reuse {
		reuse = intOrNone{1, true}
	}
	if reuse.set {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse.n); err != nil {
			return errors.Wrap(err, "option so-reuseaddr")
		}
	}
	if err := b.apply(PhPrebind, fd); err != nil {
		return err
	}
	if bind != nil {
		if err := bind(fd); err != nil {
			return err
		}
	}
	return b.applyAll(fd, PhBind, PhPastbind)
}

// bindAddr is a bind function for one address.
func bindAddr(local sockaddr) func(int) error {
	return func(fd int) error {
		if err := bindTo(fd, &local); err != nil {
			return bindError(err, &local)
		}
		return nil
	}
}

// bindError names the address, and the usual cure.
func bindError(err error, local *sockaddr) error {
	wrapped := errors.Wrapf(err, "bind %s", local.text())
	switch {
	case err == unix.EADDRINUSE && local.family() == unix.AF_UNIX:
		return withHint{wrapped, "something with that name exists; if it is a socket left behind, option unlink-early removes it"}
	case err == unix.EADDRINUSE:
		return withHint{wrapped, "another program has the port (see \"ss -lntup\"), or old connections fade away: option reuseaddr"}
	case err == unix.EADDRNOTAVAIL:
		return withHint{wrapped, "no interface of this host has that address; option ip-freebind takes it anyway"}
	case err == unix.EACCES && local.family() != unix.AF_UNIX && local.port() < 1024:
		return withHint{wrapped, "ports below 1024 are for root or CAP_NET_BIND_SERVICE (see sysctl net.ipv4.ip_unprivileged_port_start)"}
	}
	return wrapped
}

// bindLowPort is a bind function that takes a free port from 640 to 1023, beginning anywhere.
func bindLowPort(local sockaddr) func(int) error {
	const first, count = 640, 1024 - 640
	return func(fd int) error {
		start := rand.IntN(count)
		var err error
		for i := range count {
			local.setPort(uint16(first + (start+i)%count))
			if err = bindTo(fd, &local); err != unix.EADDRINUSE {
				break
			}
		}
		if err != nil {
			return bindError(err, &local)
		}
		return nil
	}
}

// connection is a connected socket that no endpoint is made of yet.
type connection struct {
	file *relay.File
	typ  int // of the socket, as SOCK_STREAM
	peer sockaddr
}

// connectSocket makes a socket and connects it to one address. It has gone through phase CONNECTED.
func (b *Bound) connectSocket(ctx context.Context, env *Env, s socketSpec, remote *sockaddr, bind func(int) error) (*connection, error) {
	fd, err := b.makeSocket(s, bind)
	if err != nil {
		return nil, err
	}
	env.Log.Noticef("opening connection to %s", remote)
	if err := b.applyAll(fd, PhPreconnect, PhConnect); err != nil {
		unix.Close(fd)
		return nil, err
	}
	paced := b.unpace(fd)
	f, peer, err := connectFD(ctx, fd, remote, optConnectTimeout.Or(b, b.attemptTime()))
	if err != nil {
		return nil, connectError(err, remote)
	}
	watchPath(env, f, paced, &peer)
	err = onFile(f, func(fd int) error {
		if env.Log.Enabled(relay.Notice) {
			if local, err := getsockname(fd); err == nil {
				env.Log.Noticef("successfully connected from local address %s", &local)
			}
		}
		return b.applyAll(fd, PhPastconnect, PhConnected)
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return &connection{f, optSoType.Or(b, s.typ), peer}, nil
}

// connectError names the address, and the usual cure.
func connectError(err error, remote *sockaddr) error {
	wrapped := errors.Wrapf(err, "connect %s", remote.text())
	switch {
	case err == unix.ECONNREFUSED && remote.family() == unix.AF_UNIX:
		return withHint{wrapped, "the socket exists, but no program listens on it"}
	case err == unix.ECONNREFUSED:
		return withHint{wrapped, "the host answers, but nothing listens on that port; options retry or forever wait for it"}
	case err == unix.EPROTOTYPE:
		return withHint{wrapped, "the socket is of another type: UNIX-CLIENT finds it out, or see option socktype"}
	}
	return wrapped
}

// connectFD connects a non-blocking socket, which it owns from now on. limit bounds the time if it is not 0.
func connectFD(ctx context.Context, fd int, remote *sockaddr, limit time.Duration) (f *relay.File, peer sockaddr, err error) {
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	err = startConnect(ctx, fd, remote, deadline)
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, peer, err
	}
	waiting := err != nil
	if f, err = relay.NewSocket(fd, "socket"); err != nil {
		return nil, peer, err
	}
	if waiting {
		peer, err = awaitConnect(ctx, f, deadline)
	} else {
		peer, _ = getpeername(fd) // it may have gone already
	}
	if err != nil {
		f.Close()
		return nil, peer, err
	}
	return f, peer, nil
}

// startConnect calls connect(2). A UNIX stream socket whose queue is full says EAGAIN, and nothing tells when there is room again: it is asked again at growing intervals.
func startConnect(ctx context.Context, fd int, remote *sockaddr, deadline time.Time) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := connectTo(fd, remote)
		if err != unix.EAGAIN || remote.family() != unix.AF_UNIX {
			return err
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			return unix.ETIMEDOUT
		}
		if err := pauseFor(ctx, pause); err != nil {
			return err
		}
	}
}

// awaitConnect waits for the end of a connect(2) in progress.
func awaitConnect(ctx context.Context, f *relay.File, deadline time.Time) (peer sockaddr, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return peer, err
	}
	if err := f.SetWriteDeadline(deadline); err != nil {
		return peer, err
	}
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	var result error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
		case code != 0:
			result = unix.Errno(code)
		default:
			peer, result = getpeername(int(fd))
		}
		return result != unix.ENOTCONN
	})
	switch {
	case !stop():
		return peer, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return peer, unix.ETIMEDOUT
	case err != nil:
		return peer, err
	case result != nil:
		return peer, result
	case deadline.IsZero():
		return peer, nil
	}
	return peer, f.SetWriteDeadline(time.Time{})
}

// connectAny tries the addresses in turn and returns the first connection, else the error of the last one.
func (b *Bound) connectAny(ctx context.Context, env *Env, s socketSpec, remotes []sockaddr, bind func(family int) (func(int) error, error)) (*connection, error) {
	for i := range remotes {
		s.family = remotes[i].family()
		give, err := bind(s.family)
		var c *connection
		if err == nil {
			c, err = b.connectSocket(ctx, env, s, &remotes[i], give)
		}
		if err == nil || ctx.Err() != nil || i == len(remotes)-1 {
			return c, err
		}
		env.Log.Noticef("%s, trying the next address", err)
	}
	return nil, errors.New("no address to connect to")
}

// clientBind returns the bind function of a socket that is not waiting for peers, as the options bind, sourceport and lowport say; nil if they were not given.
func (b *Bound) clientBind(ctx context.Context, env *Env, t *transport, family int) (func(int) error, error) {
	text, haveBind := optBind.Get(b)
	port, havePort := optSourcePort.Get(b)
	low := optLowPort.Or(b, false)
	if !haveBind && !havePort && !low {
		return nil, nil
	}
	host, portText := splitHostPort(text)
	local := inetSockaddr(anyAddress(family), 0, 0)
	if host != "" {
		list, err := b.resolve(ctx, env, host, 0, family)
		if err != nil {
			return nil, errors.Wrap(err, "option bind")
		}
		local = list[0]
	}
	if portText != "" {
		n, err := parsePort(t.network, portText)
		if err != nil {
			return nil, errors.Wrap(err, "option bind")
		}
		local.setPort(n)
	}
	if havePort {
		local.setPort(uint16(port))
	}
	if low && local.port() == 0 {
		return bindLowPort(local), nil
	}
	return bindAddr(local), nil
}

// anyAddress is 0.0.0.0 or ::.
func anyAddress(family int) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// socketType returns what socket(2) was given as type.
func socketType(fd int) int {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return unix.SOCK_STREAM
	}
	return typ
}

// connectedEndpoint makes an endpoint of a connection, which it owns from now on.
func (b *Bound) connectedEndpoint(c *connection) (*relay.Endpoint, error) {
	f := c.file
	if c.typ != unix.SOCK_STREAM {
		ep, err := b.packetEndpoint(newPacketSocket(f, c.typ))
		if err != nil {
			return nil, err
		}
		ep.Peer = c.peer.plain()
		return b.watched(ep, f)
	}
	if err := onFile(f, b.guard); err != nil {
		f.Close()
		return nil, err
	}
	f.OnCloseWrite(f.Shutdown)
	var r, w *relay.File
	if b.Mode&Read != 0 {
		r = f
	}
	if b.Mode&Write != 0 {
		w = f
	}
	ep, err := b.makeEndpoint(r, w, f.Close)
	if err != nil {
		return nil, err
	}
	ep.CanAnswer, ep.Peer = b.Mode == ReadWrite, c.peer.plain()
	return b.watched(ep, f)
}

// onClose adds to what happens when the endpoint is closed.
func onClose(ep *relay.Endpoint, also func()) {
	first := ep.Close
	ep.Close = sync.OnceValue(func() error {
		err := first()
		also()
		return err
	})
}
