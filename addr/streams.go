package addr

import (
	"slices"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// A tunnel of several connections.

var optStreams = declare(kindUint, Option{Name: "streams", Groups: GSTREAMS, Phase: PhInit, Ours: true,
	Doc: "how many connections at most a tunnel of a TUN or TAP device consists of, each with a queue of the device; the kernel gives each flow to one of them; it is needed at both ends, and the smaller number counts (default 1)"})

// streams returns how many connections the address may have for one tunnel.
func (b *Bound) streams() int { return max(1, int(optStreams.Or(b, 1))) }

// checkStreams checks option streams.
func (b *Bound) checkStreams() error {
	n, given := optStreams.Get(b)
	framing := optFraming.Or(b, relay.FramingUnset)
	switch {
	case !given || n == 1:
		return nil
	case n == 0 || n > relay.MostStreams:
		return errors.Errorf("streams=%d: 1 to %d connections", n, relay.MostStreams)
	case b.Mode != ReadWrite:
		return errors.New("option streams needs both directions: the peer must be able to answer")
	case framing != relay.FramingUnset && framing != relay.FramingAuto && framing != relay.FramingLink:
		return withHint{errors.Errorf("framing=%s knows nothing of several connections, which option streams asks for", framing), "leave one of the two out"}
	case optFork.Or(b, false):
		return errors.New("option fork gives each connection a session of its own, option streams joins several in one tunnel: choose one")
	}
	return nil
}

// Streams returns the value of option streams, 1 if it was not given.
func (a *Address) Streams() int {
	n := 1
	for _, b := range a.bounds() {
		if v, ok := b.setting(optStreams.opt).(uint); ok {
			n = int(v)
		}
	}
	return n
}

// HasQueues says that the address is a device that can have several queues and is used in both directions.
func (a *Address) HasQueues() bool {
	return slices.ContainsFunc(a.bounds(), func(b *Bound) bool { return b.Mode == ReadWrite && (b.Name == "TUN" || b.Name == "TAP") && !b.isHub() })
}
