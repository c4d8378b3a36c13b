package relay

import (
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// TCP connections whose congestion control paces. bbr spreads what it sends over time, by timers. That keeps queues short where the path has a bottleneck, and where it has none, between
// programs of one host, its namespaces or neighbours in a rack, it takes a quarter of the throughput and of the processor's time (docs/performance.md). So a connection that would
// have it begins without, and gets it if its path turns out to be long, or as soon as a queue stands on it. A control that has paced once leaves its timers on, which is why
// it can't be the other way round.
const (
	shortPath  = time.Millisecond     // round trip of the handshake up to which a path counts as short
	queuedPath = 2 * time.Millisecond // smoothed round trip beyond which a queue stands on it
	pathLooks  = 1 << 20              // bytes written from one look to the next
)

// pathWatch looks at the round trip of a connection now and then.
type pathWatch struct {
	paced  string // the congestion control that the connection is to have if its path is not short
	left   int    // bytes until the next look
	queued bool   // the last look found a queue: once may be a single late acknowledgement
}

// WatchPath is for a connected TCP socket that has been given a congestion control that does not pace in place of the one named, which does: that is given back to it at once if the path is long, and
// later, between two writes, once there is a queue on it. It is called before anything is written.
func (f *File) WatchPath(paced string) error {
	rtt, err := roundTrip(f.fd)
	if err != nil {
		return err
	}
	if rtt == 0 || rtt > shortPath {
		return setCongestion(f.fd, paced)
	}
	f.path = &pathWatch{paced: paced, left: pathLooks}
	return nil
}

// wrote takes note of n bytes written. That the congestion control can't be set is no reason to end the connection.
func (f *File) wrote(n int) {
	w := f.path
	if w == nil {
		return
	}
	if w.left -= n; w.left > 0 {
		return
	}
	w.left = pathLooks
	rtt, err := roundTrip(f.fd)
	switch {
	case err == nil && rtt <= queuedPath:
		w.queued = false
	case err == nil && !w.queued:
		w.queued = true
	default:
		setCongestion(f.fd, w.paced)
		f.path = nil
	}
}

// roundTrip returns the smoothed round trip of a TCP connection, 0 if there is none yet.
func roundTrip(fd int) (time.Duration, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, errors.Wrap(err, "TCP_INFO")
	}
	return time.Duration(info.Rtt) * time.Microsecond, nil
}

func setCongestion(fd int, name string) error {
	return errors.Wrapf(unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name), "congestion control %s", name)
}
