package addr

import (
	"strings"

	"tunsplice/relay"

	"golang.org/x/sys/unix"
)

var optCongestion = Key[string]{row(kindString, Option{Name: "tcp-congestion", Aliases: "congestion", Groups: GTCP, Phase: PhPastsocket, Ours: true,
	Doc: "congestion control by its name in sysctl net.ipv4.tcp_available_congestion_control (default the system's; if that is bbr, reno while the peer is nearer than 1 ms and no " +
		"queue stands on the path)"}, setCongestion)}

func setCongestion(fd int, name string) error {
	err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
	switch err {
	case unix.ENOENT, unix.EINVAL: // EINVAL: no name at all
		return withHint{err, "the kernel does not have it: see sysctl net.ipv4.tcp_available_congestion_control"}
	case unix.EPERM:
		return withHint{err, "ordinary users have those of sysctl net.ipv4.tcp_allowed_congestion_control"}
	}
	return err
}

// unpace gives a TCP socket that is neither connected nor listening yet reno, which every kernel has, in place of bbr, and returns bbr's name: see relay/path.go. It returns "" if it left the socket
// as it was: it is none of TCP, has another congestion control, or the user has chosen.
func (b *Bound) unpace(fd int) (paced string) {
	if optCongestion.Given(b) {
		return ""
	}
	name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil || !strings.HasPrefix(name, "bbr") || unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno") != nil {
		return ""
	}
	return name
}

// watchPath sees to it that a connection which was made without its congestion control gets it when its path asks for that. Within the host no path does.
func watchPath(env *Env, f *relay.File, paced string, peer *sockaddr) {
	if paced == "" || peer.ip().IsLoopback() {
		return
	}
	if err := f.WatchPath(paced); err != nil {
		env.Log.Warnf("connection with %s: %s", peer, err)
	}
}
