package addr

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What keeps a tunnel up: connections that are made anew, and ways to notice that one is dead.

// Backoff bounds the pause between two attempts: it grows from Min to Max.
type Backoff struct{ Min, Max time.Duration }

// DefaultBackoff is the pause of option reconnect without a value. The longest is short enough for a tunnel to be back within two seconds of its path.
var DefaultBackoff = Backoff{100 * time.Millisecond, time.Second}

// reconnectHeartbeat is the time between two heartbeats where a dead peer is replaced by a new connection: a mistake costs little.
const reconnectHeartbeat = 2 * time.Second

// reconnectAttempt bounds an attempt to connect. The kernel (Linux 6.5) repeats the first packet each second for that long.
const reconnectAttempt = 5 * time.Second

var kindBackoff = kindOf[Backoff]{"MIN:MAX", parseBackoff}

var (
	optReconnect = declare(kindBackoff, Option{Name: "reconnect", Groups: GPACKETS, Phase: PhInit, Ours: true,
		Doc: "keep the device on the other side open, and connect, or listen, again whenever the connection is lost, with a pause that grows from MIN to MAX seconds (default 0.1:1)"})
	optHeartbeat = declare(kindDuration, Option{Name: "heartbeat", Groups: GPACKETS, Phase: PhInit, Ours: true,
		Doc: "seconds between two pings on a tunnel with the link protocol; a peer that is silent for three of them is dead (default 10, with reconnect 2; 0: none)"})
	optCarrier = declare(kindBool, Option{Name: "carrier", Groups: GINTERFACE, Phase: PhFD, Ours: true,
		Doc: "the device's carrier (ip link: LOWER_UP) follows the tunnel, so that routing daemons and guests notice when it is down"})
)

func parseBackoff(text string, given bool) (Backoff, error) {
	if !given {
		return DefaultBackoff, nil
	}
	b := DefaultBackoff
	least, most, both := strings.Cut(text, ":")
	var err error
	if b.Min, err = ParseSeconds(least); err != nil {
		return b, err
	}
	b.Max = max(b.Min, b.Max)
	if both {
		if b.Max, err = ParseSeconds(most); err != nil {
			return b, err
		}
	}
	switch {
	case b.Min < time.Millisecond:
		return b, errors.New("the shortest pause is 0.001 seconds")
	case b.Max < b.Min:
		return b, errors.New("the longest pause (MAX) is shorter than the shortest (MIN)")
	}
	return b, nil
}

// setting returns what was given for an option, without acting on it.
func (b *Bound) setting(o *Option) (value any) {
	for i := range b.settings {
		if s := &b.settings[i]; s.opt == o {
			value = s.value
		}
	}
	return value
}

// has says that the option of that name was given.
func (b *Bound) has(name string) bool {
	for i := range b.settings {
		if b.settings[i].opt.Name == name {
			return true
		}
	}
	return false
}

// Reconnects returns the value of option reconnect.
func (a *Address) Reconnects() (pause Backoff, on bool) {
	for _, b := range a.bounds() {
		if v, ok := b.setting(optReconnect.opt).(Backoff); ok {
			return v, true
		}
	}
	return Backoff{}, false
}

// Listens says that the address waits for peers.
func (a *Address) Listens() bool {
	return slices.ContainsFunc(a.bounds(), func(b *Bound) bool { return b.Groups&GLISTEN != 0 })
}

// IsDevice says that the address is a network device, or stands for one.
func (a *Address) IsDevice() bool {
	return slices.ContainsFunc(a.bounds(), func(b *Bound) bool { return b.isDevice() })
}

// serves says that a listening address goes on after its first peer.
func (b *Bound) serves() bool {
	_, again := optReconnect.Get(b)
	return optFork.Or(b, false) || again || b.streams() > 1
}

// keepUp sets an endpoint up for the options above.
func (b *Bound) keepUp(ep *relay.Endpoint) {
	if _, again := optReconnect.Get(b); again {
		ep.Heartbeat = reconnectHeartbeat
	}
	if d, given := optHeartbeat.Get(b); given {
		if ep.Heartbeat = d; d == 0 {
			ep.Heartbeat = -1
		}
	}
}

// guarded says that the connection is part of a tunnel that has no other way to notice a dead peer soon, or wants to know it sooner.
func (b *Bound) guarded() bool {
	_, again := optReconnect.Get(b)
	switch optFraming.Or(b, relay.FramingUnset) {
	case relay.FramingNone, relay.FramingU16, relay.FramingQemu, relay.FramingSlip:
		return true
	}
	return again
}

// tcpRTOMax is TCP_RTO_MAX_MS (include/uapi/linux/tcp.h, Linux 6.15): the longest time between two retransmissions, milliseconds.
const tcpRTOMax = 44

// guard makes the kernel notice that the peer of a tunnel's connection is gone, where the user has not said how.
func (b *Bound) guard(fd int) error {
	if !b.guarded() {
		return nil
	}
	if proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
		return nil
	}
	for _, o := range []struct {
		level, name, value int
		unless             string // the user's option for the same thing
	}{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "so-keepalive"},
		{unix.SOL_TCP, unix.TCP_KEEPIDLE, 10, "tcp-keepidle"},
		{unix.SOL_TCP, unix.TCP_KEEPINTVL, 5, "tcp-keepintvl"},
		{unix.SOL_TCP, unix.TCP_KEEPCNT, 3, "tcp-keepcnt"},
		{unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 25000, "tcp-user-timeout"},
		{unix.SOL_TCP, tcpRTOMax, 1000, ""}, // so that traffic flows again soon after an outage
	} {
		if b.has(o.unless) {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil && o.name != tcpRTOMax {
			return errors.Wrap(err, "setsockopt for keepalive")
		}
	}
	return nil
}

// attemptTime bounds an attempt to connect, if the user does not: 0 leaves it to the kernel.
func (b *Bound) attemptTime() time.Duration {
	if _, again := optReconnect.Get(b); again {
		return reconnectAttempt
	}
	return 0
}

// watched has the local address of a connected socket's endpoint watched. It closes the endpoint if it fails.
func (b *Bound) watched(ep *relay.Endpoint, f *relay.File) (*relay.Endpoint, error) {
	if err := b.watchLocal(ep, f); err != nil {
		ep.Close()
		return nil, err
	}
	return ep, nil
}

// watchLocal makes the endpoint of a connected IP socket say so when its local address is taken from the host: the kernel goes on sending from it, and nothing ever comes back.
func (b *Bound) watchLocal(ep *relay.Endpoint, f *relay.File) error {
	if _, again := optReconnect.Get(b); !again {
		return nil
	}
	var local sockaddr
	if err := onFile(f, func(fd int) (err error) { local, err = getsockname(fd); return err }); err != nil {
		return err
	}
	if f := local.family(); f != unix.AF_INET && f != unix.AF_INET6 {
		return nil
	}
	ip := local.ip().Unmap().WithZone("")
	if ip.IsLoopback() || ip.IsUnspecified() {
		return nil
	}
	updates, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	err := b.inside(func() error { return netlink.AddrSubscribe(updates, done) })
	if err != nil {
		return errors.Wrap(err, "watch the host's addresses")
	}
	broken := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for u := range updates {
			if a, ok := netip.AddrFromSlice(u.LinkAddress.IP); ok && !u.NewAddr && a.Unmap() == ip {
				select {
				case broken <- errors.Errorf("the host has lost the address %s", ip):
				default:
				}
			}
		}
	}()
	ep.Broken = broken
	onClose(ep, sync.OnceFunc(func() { close(done); <-ended }))
	return nil
}
