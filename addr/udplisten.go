package addr

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"tunsplice/relay"
	"tunsplice/relay/secure"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Theory of operation of UDP-LISTEN
//
// The socket stays unconnected until a datagram comes. Without fork it is then connected to the sender and becomes the endpoint. With fork it goes on
// waiting, and the session gets a socket of its own: bound to the same port (hence SO_REUSEADDR on all of them) and connected to the sender. The kernel gives a datagram to the
// connected socket that fits, else to one that is not connected.
//
// From bind(2) to connect(2) the new socket, as the younger one, takes the datagrams of every sender. So between the two calls the queue of the waiting socket is emptied, and after
// them that of the new one: so everything is seen in the order in which it came. What is the peer's stands at the head of the session, what is others' waits for its turn in
// pending. A datagram that was on its way through the kernel meanwhile may still come to the waiting socket: it is handed to the session then.

// Bounds for what emptying a queue takes into memory.
const (
	maxDrained = 4096 // datagrams a socket
	maxPending = 4096 // datagrams of senders whose turn has not come; beyond, they stay in the socket's queue
)

// udpListener is the Source of UDP-LISTEN.
type udpListener struct {
	*waiting
	spec    socketSpec // of the sockets of sessions
	local   sockaddr
	pending []datagram

	refused  relay.Limiter // of messages about senders without the key
	stranger sockaddr      // the last one of them: it is named once, however often it tries

	mu   sync.Mutex
	live map[sockaddr]*packetSocket // the sessions of fork by their peers
}

type datagram struct {
	from sockaddr
	data []byte
}

func (t *transport) listenPackets(ctx context.Context, b *Bound, env *Env, family int) (Source, error) {
	fork := b.serves() || b.key != nil // with a key, who comes first may be a stranger
	s := t.socket(0)
	s.reuse, s.keepFD = fork, fork
	fd, err := t.serverSocket(ctx, b, env, s, family)
	if err != nil {
		return nil, err
	}
	w, err := b.newWaiting(env, fd)
	if err != nil {
		return nil, err
	}
	l := &udpListener{waiting: w, spec: s, local: w.localAddress(), live: map[sockaddr]*packetSocket{}}
	l.spec.family, l.spec.keepFD = l.local.family(), false
	env.Log.Noticef("listening on UDP %s", &l.local)
	b.warnOpenTunnel(env, &l.local)
	env.reach(StateListening, l.local.env(nil, "SOCK")...)
	return l, nil
}

// Next implements Source.
func (l *udpListener) Next(ctx context.Context) (*relay.Endpoint, error) {
	if err := l.running.begin(ctx); err != nil {
		return nil, err
	}
	for {
		first, err := l.next(ctx)
		if err != nil {
			l.running.end()
			return nil, err
		}
		if l.deliver(first) || !l.hasKey(first) {
			continue
		}
		l.env.Log.Noticef("accepting UDP connection from %s", &first.from)
		if !l.filter.admit(l.env.Log, "connection", &first.from) || !l.rate.admit(l.env.Log, -1, &first.from) {
			continue
		}
		ep, err := l.session(first)
		if err == nil {
			return ep, nil
		}
		// A sender that can't be answered must not end the service.
		l.env.Log.Warnf("%s: %s: %s", l.b.Label(), &first.from, err)
		if l.closed.Load() {
			l.running.end()
			return nil, err
		}
	}
}

// hasKey says whether a sender may have a session: without a key anyone may, else who begins a handshake under the key. So strangers cost no socket.
func (l *udpListener) hasKey(first datagram) bool {
	if l.b.key == nil {
		return true
	}
	err := secure.CheckFirst(l.b.key, first.data)
	if err == nil {
		return true
	}
	if first.from == l.stranger {
		return false
	}
	l.stranger = first.from
	if ok, held := l.refused.Allow(); ok {
		more := ""
		if held > 0 {
			more = fmt.Sprintf(" (and %d other senders were refused since the last such message)", held)
		}
		l.env.Log.Warnf("%s: %s refused: %s%s", l.b.Label(), first.from.text(), err, more)
	}
	return false
}

// next returns the datagram whose turn it is.
func (l *udpListener) next(ctx context.Context) (datagram, error) {
	if len(l.pending) > 0 {
		d := l.pending[0]
		l.pending = l.pending[1:]
		return d, ctx.Err()
	}
	l.pending = nil
	p, from, err := l.receivePacket(ctx)
	return datagram{from, slices.Clone(p)}, err
}

// deliver gives a datagram to the session of its sender, if there is one.
func (l *udpListener) deliver(d datagram) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.live[d.from]
	if s == nil {
		return false
	}
	if s.queued() >= maxDrained {
		l.env.Log.Warnf("dropping a datagram from %s: %d are waiting to be read", &d.from, maxDrained)
		return true
	}
	s.push(d.data)
	return true
}

// session makes the endpoint of a sender.
func (l *udpListener) session(first datagram) (*relay.Endpoint, error) {
	f, err := l.sessionSocket()
	if err != nil {
		return nil, err
	}
	p := newPacketSocket(f, unix.SOCK_DGRAM)
	p.push(first.data)
	l.pending = slices.DeleteFunc(l.pending, func(d datagram) bool {
		if d.from != first.from {
			return false
		}
		p.push(d.data)
		return true
	})
	l.drain(l.file, p, &first.from)
	local, err := l.connect(f, &first.from)
	if err != nil {
		return nil, err
	}
	l.drain(f, p, &first.from)
	if !l.fork {
		l.handOver()
		if n := len(l.pending); n > 0 {
			l.env.Log.Noticef("dropping %d datagrams of other senders", n)
			l.pending = nil
		}
	}
	ep, err := l.b.packetEndpoint(p)
	if err != nil {
		return nil, err
	}
	l.describe(ep, &local, &first.from)
	l.enter(ep, p, first.from)
	return ep, nil
}

// sessionSocket returns the socket for a session: with fork a new one that is bound to the port, else the waiting one.
func (l *udpListener) sessionSocket() (*relay.File, error) {
	if !l.fork {
		return l.file, nil
	}
	fd, err := l.b.makeSocket(l.spec, bindAddr(l.local))
	if err != nil {
		return nil, err
	}
	return relay.NewFile(fd, "socket")
}

// connect connects the socket of a session to its peer. On an error it closes it; the waiting socket stays if it was not connected.
func (l *udpListener) connect(f *relay.File, peer *sockaddr) (local sockaddr, err error) {
	connected := false
	err = onFile(f, func(fd int) error {
		if err := connectTo(fd, peer); err != nil {
			return errors.Wrapf(err, "connect %s", peer.text())
		}
		connected = true
		local, _ = getsockname(fd)
		return l.b.applyAll(fd, PhPreaccept, PhAccept, PhPastaccept, PhConnected)
	})
	switch {
	case err == nil:
	case l.fork:
		f.Close()
	case connected:
		l.stop()
	}
	return local, err
}

// enter makes a session known until its endpoint is closed.
func (l *udpListener) enter(ep *relay.Endpoint, p *packetSocket, peer sockaddr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live[peer] = p
	end := ep.Close
	ep.Close = sync.OnceValue(func() error {
		// First the name, then the socket: no datagram may be handed to a session that is over.
		l.mu.Lock()
		if l.live[peer] == p {
			delete(l.live, peer)
		}
		l.mu.Unlock()
		err := end()
		l.running.end()
		return err
	})
}

// drain takes the datagrams that are in the queue of a socket: those of the peer go to its session p, others wait for their turn.
func (l *udpListener) drain(f *relay.File, p *packetSocket, peer *sockaddr) {
	onFile(f, func(fd int) error {
		for range maxDrained {
			if len(l.pending) >= maxPending && f == l.file {
				return nil
			}
			var d datagram
			n, err := receiveFrom(fd, l.buf, &d.from)
			if err != nil || n > len(l.buf) {
				return nil // empty, or an error of one datagram: what is behind it comes later
			}
			d.data = slices.Clone(l.buf[:n])
			if d.from == *peer {
				p.push(d.data)
			} else if !l.deliver(d) {
				l.pending = append(l.pending, d)
			}
		}
		return nil
	})
}
