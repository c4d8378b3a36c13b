package addr

import (
	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Options of TCP sockets. A connection inherits those that were set on the socket that accepted it.

func tcpInt(opt int, o Option) *Option {
	o.Groups = GTCP
	if o.Phase == 0 {
		o.Phase = PhPastsocket
	}
	return sockInt(unix.SOL_TCP, opt, o)
}

var (
	optNoDelay = Key[int]{tcpInt(unix.TCP_NODELAY, Option{Name: "tcp-nodelay", Aliases: "nodelay",
		Doc: "1: send small blocks at once (no Nagle delay; default 0, but 1 where packets of a TUN, TAP or INTERFACE address travel over the connection)"})}
	optNotSentLowat = Key[int]{tcpInt(unix.TCP_NOTSENT_LOWAT, Option{Name: "tcp-notsent-lowat", Aliases: "notsent-lowat", Ours: true,
		Doc: "bytes not sent yet beyond which the socket takes no more, so that the queue stands before it and not in it (default: no bound, but 131072 where packets of a TUN, " +
			"TAP or INTERFACE address travel over the connection)"})}
)

var _ = []*Option{
	tcpInt(unix.TCP_CORK, Option{Name: "tcp-cork", Aliases: "cork", Doc: "1: send full segments only, incomplete ones after 0.2 s (default 0)"}),
	tcpInt(unix.TCP_DEFER_ACCEPT, Option{Name: "tcp-defer-accept", Aliases: "defer-accept",
		Doc: "a connection is accepted only once it brought data, or after about this time in seconds"}),
	tcpInt(unix.TCP_KEEPCNT, Option{Name: "tcp-keepcnt", Aliases: "keepcnt", Doc: "number of keepalive probes without an answer that end the connection"}),
	tcpInt(unix.TCP_KEEPIDLE, Option{Name: "tcp-keepidle", Aliases: "keepidle", Doc: "seconds of silence before the first keepalive probe"}),
	tcpInt(unix.TCP_KEEPINTVL, Option{Name: "tcp-keepintvl", Aliases: "keepintvl", Doc: "seconds between keepalive probes"}),
	tcpInt(unix.TCP_LINGER2, Option{Name: "tcp-linger2", Aliases: "linger2", Doc: "seconds that a closed connection waits for the end of its peer (FIN_WAIT2)"}),
	tcpInt(unix.TCP_MAXSEG, Option{Name: "tcp-maxseg", Aliases: "maxseg mss", Doc: "maximum size of a segment in bytes, set before connecting"}),
	tcpInt(unix.TCP_MAXSEG, Option{Name: "tcp-maxseg-late", Aliases: "maxseg-late mss-late", Phase: PhConnected,
		Doc: "maximum size of a segment in bytes, set once connected"}),
	tcpInt(unix.TCP_QUICKACK, Option{Name: "tcp-quickack", Aliases: "quickack", Phase: PhConnected, // listen(2) forgets it (inet_csk_listen_start)
		Doc: "1: acknowledge at once, 0: with answers or after 40 ms, until the kernel finds otherwise"}),
	tcpInt(unix.TCP_SYNCNT, Option{Name: "tcp-syncnt", Aliases: "syncnt", Doc: "number of connection requests sent before the attempt fails"}),
	tcpInt(unix.TCP_WINDOW_CLAMP, Option{Name: "tcp-window-clamp", Aliases: "window-clamp", Doc: "upper limit of the receive window in bytes"}),
	tcpInt(unix.TCP_USER_TIMEOUT, Option{Name: "tcp-user-timeout", Aliases: "user-timeout", Ours: true,
		Doc: "milliseconds that sent data may stay without acknowledgement before the connection ends (RFC 5482; default: retransmissions decide)"}),
}

// packetLowat is tcp-notsent-lowat of connections that carry packets. Packets that wait stand in the device then, where the kernel bounds and drops them, and not behind megabytes in
// the socket; less than two of the longest packets would idle the connection between writes.
const packetLowat = 128 << 10

// carryPackets prepares TCP connections among the files for packets of a device; what the user has set stays. Batches are written whole, so Nagle's algorithm only makes the
// end of one wait for an acknowledgement that the peer delays by 40 ms.
func (b *Bound) carryPackets(files ...*relay.File) error {
	for i, f := range files {
		if f == nil || i > 0 && f == files[i-1] {
			continue
		}
		if err := onFile(f, b.carryPacketsFD); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bound) carryPacketsFD(fd int) error {
	if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
		return nil // no socket, or not of TCP
	}
	if !optNoDelay.Given(b) {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
			return errors.Wrap(err, "tcp-nodelay")
		}
	}
	if !optNotSentLowat.Given(b) {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, packetLowat); err != nil {
			return errors.Wrap(err, "tcp-notsent-lowat")
		}
	}
	return nil
}
