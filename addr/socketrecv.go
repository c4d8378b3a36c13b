package addr

import (
	"context"
	"slices"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The roles of packet sockets that are the same for every address family.

// sendTo makes the endpoint of a socket with a peer that it is not connected to. admit says whose packets are taken: the peer's only, or with group those of all whom the
// peer's address may stand for; nil: everyone's.
func (b *Bound) sendTo(env *Env, s socketSpec, peer sockaddr, bind func(int) error, admit func(from *sockaddr) bool, group bool) (*relay.Endpoint, error) {
	fd, err := b.makeSocket(s, bind)
	if err != nil {
		return nil, err
	}
	if err := b.apply(PhConnected, fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if local, err := getsockname(fd); err == nil {
		env.Log.Noticef("successfully prepared local socket %s", &local)
	}
	f, err := relay.NewFile(fd, "socket")
	if err != nil {
		return nil, err
	}
	p := newPacketSocket(f, socketType(fd))
	p.to, p.admit, p.group = peer, admit, group
	ep, err := b.packetEndpoint(p)
	if err == nil {
		ep.Peer = peer.plain()
	}
	return ep, err
}

// receive makes the endpoint of a bound socket that is only read from.
func (b *Bound) receive(env *Env, fd int) (*relay.Endpoint, error) {
	if err := b.apply(PhConnected, fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	local, err := getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, errors.Wrap(err, "getsockname")
	}
	env.Log.Noticef("receiving on %s", &local)
	f, err := relay.NewFile(fd, "socket")
	if err != nil {
		return nil, err
	}
	p := newPacketSocket(f, socketType(fd))
	p.admit = b.peerFilter(env).forPackets(env.Log)
	return b.packetEndpoint(p)
}

// receivePacket waits for a packet. p is valid until the next call.
func (w *waiting) receivePacket(ctx context.Context) (p []byte, from sockaddr, err error) {
	if w.buf == nil {
		w.buf = make([]byte, relay.MaxPacket)
	}
	for {
		var n int
		var rerr error
		err := w.until(ctx, func(fd uintptr) bool {
			n, rerr = receiveFrom(int(fd), w.buf, &from)
			return rerr != unix.EAGAIN
		})
		switch {
		case err != nil:
			return nil, from, err
		case rerr != nil:
			return nil, from, errors.Wrap(rerr, "receive")
		case n > len(w.buf):
			w.env.Log.Warnf("passing over a packet of %d bytes from %s: at most %d are taken", n, &from, len(w.buf))
		default:
			return w.buf[:n], from, nil
		}
	}
}

// packetWaiter is the Source of the RECVFROM types: one packet, and the way back to its sender; with fork that for each packet.
type packetWaiter struct{ *waiting }

// receiveFromEach makes a Source of a bound socket.
func (b *Bound) receiveFromEach(env *Env, fd int) (*packetWaiter, error) {
	w, err := b.newWaiting(env, fd)
	if err != nil {
		return nil, err
	}
	local := w.localAddress()
	env.Log.Noticef("receiving on %s", &local)
	if env.Tunnel && b.Mode == ReadWrite && !w.fork {
		env.Log.Warnf("%s: takes one packet and is then at its end; a tunnel wants UDP-LISTEN or, between fixed addresses, UDP-DATAGRAM with bind", b.Label())
	}
	env.reach(StateListening, local.env(nil, "SOCK")...)
	return &packetWaiter{w}, nil
}

// Next implements Source.
func (w *packetWaiter) Next(ctx context.Context) (*relay.Endpoint, error) {
	if err := w.running.begin(ctx); err != nil {
		return nil, err
	}
	ep, err := w.next(ctx)
	if err != nil {
		w.running.end()
		return nil, err
	}
	onClose(ep, w.running.end)
	return ep, nil
}

func (w *packetWaiter) next(ctx context.Context) (*relay.Endpoint, error) {
	for {
		data, peer, err := w.receivePacket(ctx)
		if err != nil {
			return nil, err
		}
		w.env.Log.Noticef("receiving packet from %s", &peer)
		if !w.filter.admit(w.env.Log, "packet", &peer) {
			continue
		}
		local := w.localAddress()
		f := w.file
		if w.fork {
			if f, err = duplicate(w.file); err != nil {
				return nil, err
			}
		} else {
			w.handOver()
		}
		p := newPacketSocket(f, unix.SOCK_DGRAM)
		p.to, p.only = peer, true
		p.push(slices.Clone(data))
		if err := onFile(f, func(fd int) error { return w.b.apply(PhConnected, fd) }); err != nil {
			f.Close()
			return nil, err
		}
		ep, err := w.b.packetEndpoint(p)
		if err != nil {
			return nil, err
		}
		w.describe(ep, &local, &peer)
		return ep, nil
	}
}

// describe puts into an endpoint what programs get to know of the two addresses.
func (w *waiting) describe(ep *relay.Endpoint, local, peer *sockaddr) {
	if w.fork {
		ep.Label += " " + peer.text()
	}
	ep.Peer, ep.Env = peer.plain(), peer.env(local.env(make([]string, 0, 4), "SOCK"), "PEER")
}

// duplicate returns a second descriptor of a socket, with deadlines of its own.
func duplicate(f *relay.File) (*relay.File, error) {
	fd := -1
	err := onFile(f, func(old int) (err error) { fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0); return err })
	if err != nil {
		return nil, errors.Wrap(err, "duplicate the socket")
	}
	return relay.NewFile(fd, "socket")
}
