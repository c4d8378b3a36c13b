package addr

import (
	"time"

	"golang.org/x/sys/unix"
)

// Options that set a socket option, mechanically. Those of IP are in sockopt_ip.go, those of TCP in sockopt_tcp.go.

// sockInt is an option whose integer goes to setsockopt(2).
func sockInt(level, opt int, o Option) *Option {
	return row(kindInt, o, func(fd, v int) error { return unix.SetsockoptInt(fd, level, opt, v) })
}

func sockTime(level, opt int, o Option) *Option {
	return row(kindDuration, o, func(fd int, d time.Duration) error {
		tv := unix.NsecToTimeval(int64(d))
		return unix.SetsockoptTimeval(fd, level, opt, &tv)
	})
}

func sockTriple(kind kindOf[triple], o Option) *Option {
	o.Groups = GSOCKET
	return row(kind, o, func(fd int, t triple) error { return unix.SetsockoptString(fd, t.level, t.name, string(t.data)) })
}

var _ = []*Option{
	sockInt(unix.SOL_SOCKET, unix.SO_KEEPALIVE, Option{Name: "so-keepalive", Aliases: "keepalive", Groups: GSOCKET, Phase: PhFD,
		Doc: "1: ask a silent peer now and then whether it is still there (default 0)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_REUSEPORT, Option{Name: "so-reuseport", Aliases: "reuseport", Groups: GSOCKET, Phase: PhPrebind,
		Doc: "1: several sockets of one user may be bound to the port, the kernel spreads the peers (default 0)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_BROADCAST, Option{Name: "so-broadcast", Aliases: "broadcast", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "1: datagrams may go to broadcast addresses (default 0)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_DEBUG, Option{Name: "so-debug", Aliases: "debug", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "1: the kernel records debugging information (needs CAP_NET_ADMIN; default 0)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_DONTROUTE, Option{Name: "so-dontroute", Aliases: "dontroute", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "1: only directly attached networks are reached (default 0)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_OOBINLINE, Option{Name: "so-oobinline", Aliases: "oobinline", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "1: urgent data stay in line with the others (default 0)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_PRIORITY, Option{Name: "so-priority", Aliases: "priority", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "priority of packets in the queueing discipline, 0 to 6, more with CAP_NET_ADMIN (default 0)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_NO_CHECK, Option{Name: "so-no-check", Aliases: "no-check nocheck", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "1: UDP datagrams go out without checksum (default 0)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_SNDBUF, Option{Name: "so-sndbuf", Aliases: "sndbuf", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "size of the send buffer in bytes, set before connecting; the kernel doubles it (default: the kernel's)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_SNDBUF, Option{Name: "so-sndbuf-late", Aliases: "sndbuf-late", Groups: GSOCKET, Phase: PhLate,
		Doc: "size of the send buffer in bytes, set once connected"}),
	sockInt(unix.SOL_SOCKET, unix.SO_RCVBUF, Option{Name: "so-rcvbuf", Aliases: "rcvbuf", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "size of the receive buffer in bytes, set before connecting; the kernel doubles it (default: the kernel's)"}),
	sockInt(unix.SOL_SOCKET, unix.SO_RCVBUF, Option{Name: "so-rcvbuf-late", Aliases: "rcvbuf-late", Groups: GSOCKET, Phase: PhLate,
		Doc: "size of the receive buffer in bytes, set once connected"}),
	sockInt(unix.SOL_SOCKET, unix.SO_RCVLOWAT, Option{Name: "so-rcvlowat", Aliases: "rcvlowat", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "number of bytes that must be there before the socket counts as readable (default 1)"}),
	sockTime(unix.SOL_SOCKET, unix.SO_RCVTIMEO, Option{Name: "so-rcvtimeo", Aliases: "rcvtimeo", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "SO_RCVTIMEO in seconds; nothing here ever blocks in a read, so it is for programs that inherit the socket (see -T)"}),
	sockTime(unix.SOL_SOCKET, unix.SO_SNDTIMEO, Option{Name: "so-sndtimeo", Aliases: "sndtimeo", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "SO_SNDTIMEO in seconds; nothing here ever blocks in a write, so it is for programs that inherit the socket (see connect-timeout)"}),
	row(kindInt, Option{Name: "so-linger", Aliases: "linger", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "seconds that the kernel tries to deliver what is left when the socket is closed; 0 resets the connection (default: in the background)"},
		func(fd, seconds int) error {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(seconds)})
		}),
	row(kindString, Option{Name: "so-bindtodevice", Aliases: "bindtodevice if interface", Groups: GSOCKET, Phase: PhPastsocket,
		Doc: "send and receive by this network interface only"},
		func(fd int, name string) error { return unix.BindToDevice(fd, name) }),

	sockTriple(kindIntIntBin, Option{Name: "setsockopt", Aliases: "sockopt", Phase: PhConnected,
		Doc: "setsockopt(level, name, bytes) once connected"}),
	sockTriple(kindIntIntBin, Option{Name: "setsockopt-bin", Aliases: "sockopt-bin", Phase: PhConnected,
		Doc: "setsockopt(level, name, bytes) once connected"}),
	sockTriple(kindIntIntBin, Option{Name: "setsockopt-connected", Aliases: "sockopt-conn", Phase: PhConnected,
		Doc: "setsockopt(level, name, bytes) once connected"}),
	sockTriple(kindIntIntInt, Option{Name: "setsockopt-int", Aliases: "sockopt-int", Phase: PhConnected,
		Doc: "setsockopt(level, name, integer) once connected"}),
	sockTriple(kindIntIntString, Option{Name: "setsockopt-string", Aliases: "sockopt-string", Phase: PhConnected,
		Doc: "setsockopt(level, name, text) once connected"}),
	sockTriple(kindIntIntBin, Option{Name: "setsockopt-listen", Aliases: "sockopt-listen", Phase: PhPrebind,
		Doc: "setsockopt(level, name, bytes) before the socket is bound"}),
	sockTriple(kindIntIntBin, Option{Name: "setsockopt-socket", Aliases: "sockopt-sock", Phase: PhPastsocket,
		Doc: "setsockopt(level, name, bytes) as soon as there is a socket"}),
}
