package addr

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tunsplice/relay"
	"tunsplice/tundev"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Several peers on one device, or at a meeting point without one: option hub and address type HUB. How a hub forwards is in relay/hub.go and docs/hub.md.

var (
	optHub = declare(kindBool, Option{Name: "hub", Groups: GHUB, Phase: PhOffset, Ours: true,
		Doc: "the device is opened once, and all peers of the other address (option fork) share it: frames are switched by MAC address, packets by IP address"})
	optIsolate = declare(kindBool, Option{Name: "isolate", Groups: GHUB, Phase: PhOffset, Ours: true,
		Doc: "the peers of a hub reach the device, but not one another"})
	optHubAgeing = declare(kindDuration, Option{Name: "hub-ageing", Aliases: "ageing", Groups: GHUB, Phase: PhOffset, Ours: true,
		Doc: "seconds after which a hub forgets where an address was that has not been seen since (default 300)"})
	optHubHold = declare(kindDuration, Option{Name: "hub-hold", Groups: GHUB, Phase: PhOffset, Ours: true,
		Doc: "seconds for which nobody else gets an address that was seen behind the device or behind a peer with a key (default 60)"})
	optHubTable = declare(kindUint, Option{Name: "hub-table", Groups: GHUB, Phase: PhOffset, Ours: true,
		Doc: "how many addresses a hub remembers at most, of which one peer can take half (default 4096)"})
	optHubFlood = declare(kindUint, Option{Name: "hub-flood", Groups: GHUB, Phase: PhOffset, Ours: true,
		Doc: "how many packets a second one peer, or the device, can have sent to all others: broadcasts, multicasts and frames to unknown addresses (default 5000, 0: no limit)"})
	optHubQueue = declare(kindUint, Option{Name: "hub-queue", Groups: GHUB, Phase: PhOffset, Ours: true,
		Doc: "how many bytes wait for one peer of a hub at most; what comes then is dropped (default 2097152)"})
)

// Bounds of the options.
const (
	defaultHubTable = 4096
	defaultHubFlood = 5000
	// A single TCP flow at 17 Gbit/s loses nothing with 4 MiB and little with 2; each peer that does not read costs as much.
	defaultHubQueue = 2 << 20
	leastHubQueue   = 2 * relay.MaxPacket
	mostHubQueue    = 1 << 30
	mostHubTable    = 1 << 20
)

var _ = addType(Type{
	Name: "HUB", Params: []Param{{Name: "kind", Optional: true}},
	Groups: GHUB, Can: ReadWrite, Ours: true,
	Summary: "meeting point for the peers of the other address, without a device",
	Doc: "Joins all peers of the other address, which has option fork, to one network: an Ethernet switch for peers with TAP devices (kind tap, the default), or for TUN devices (kind tun) a " +
		"distributor of IP packets by their addresses. It needs no privilege. To take part in the network with a device of one's own, write TAP or TUN with option hub instead.",
	Examples: []Example{
		{`TCP-LISTEN:40839,fork,reuseaddr HUB`, "is a switch for peers that say TAP:10.0.0.2/24,up TCP:192.0.2.1:40839, and so on"},
		{`UNIX-LISTEN:/tmp/net,fork HUB:tun`, "is the same for programs of one host with TUN devices"},
	},
	Check: func(b *Bound) error {
		_, err := b.hubKind()
		return err
	},
	Open: openHub,
})

// hubKind returns what a HUB carries.
func (b *Bound) hubKind() (relay.Traffic, error) {
	switch strings.ToLower(b.Param(0)) {
	case "", "tap":
		return relay.TAP, nil
	case "tun":
		return relay.TUN, nil
	}
	return 0, withHint{errors.Errorf("unknown kind of hub %q", b.Param(0)), "HUB:tap switches Ethernet frames (the default), HUB:tun IP packets"}
}

// isHub says that the address is opened once for all peers of the other one.
func (b *Bound) isHub() bool {
	on, _ := b.setting(optHub.opt).(bool)
	return on || b.Name == "HUB"
}

// checkHub checks the options of a hub.
func (b *Bound) checkHub() error {
	if b.Groups&GHUB == 0 {
		return nil
	}
	if b.Name == "HUB" && b.has(optHub.opt.Name) {
		return withHint{errors.New("option hub is for TUN, TAP and INTERFACE: HUB is a hub by itself"), "leave it out"}
	}
	if !b.isHub() {
		for i := range b.settings {
			if o := b.settings[i].opt; o != optHub.opt && o.Groups == GHUB {
				return withHint{errors.Errorf("option %s belongs to a hub", o.Name), "add option hub"}
			}
		}
		return nil
	}
	queue, table := optHubQueue.Or(b, defaultHubQueue), optHubTable.Or(b, defaultHubTable)
	switch noPI, given := optNoPI.Get(b); {
	case given && !noPI:
		return withHint{errors.New("a hub has no packet information: option iff-no-pi=0 contradicts option hub"), "leave iff-no-pi out; a peer's device may have it"}
	case b.Name == "HUB" && optIsolate.Or(b, false):
		return withHint{errors.New("with option isolate nobody can reach anybody: there is no device"), "peers reach the device of TAP or TUN with options hub and isolate"}
	case queue < leastHubQueue || queue > mostHubQueue:
		return errors.Errorf("hub-queue=%d: %d, for two packets of the longest kind, to %d bytes", queue, leastHubQueue, mostHubQueue)
	case table < 2 || table > mostHubTable:
		return errors.Errorf("hub-table=%d: 2 to %d addresses", table, mostHubTable)
	case optHubFlood.Or(b, defaultHubFlood) > 1e9:
		return errors.New("hub-flood: at most 1000000000 packets a second (0: no limit)")
	case optHubAgeing.Or(b, time.Second) < time.Second:
		return errors.New("hub-ageing: at least 1 second")
	}
	return nil
}

// Shares says that the address is opened once for all peers of the other one (option hub).
func (a *Address) Shares() bool { return slices.ContainsFunc(a.bounds(), (*Bound).isHub) }

// Hub is the Source of an address that is shared: each Next makes one more port, at once.
type Hub struct {
	Source
	hub *relay.Hub
}

// OpenHub opens an address that is shared. Close ends it, after the sessions that use it.
func (a *Address) OpenHub(ctx context.Context, env *Env) (*Hub, error) {
	src, err := a.Open(ctx, env)
	if err != nil {
		return nil, err
	}
	return &Hub{src, src.(*watched).Source.(*hubSource).hub}, nil
}

// Err is why the hub does not work any more; nil: it does.
func (h *Hub) Err() error { return h.hub.Err() }

// Statistics returns the counts in lines: one for each port, and one for what was not delivered.
func (h *Hub) Statistics() (lines []string) {
	s := h.hub.Stats()
	for _, p := range s.Ports {
		line := fmt.Sprintf("%s: port %d, %s: in %d packet(s), %d byte(s), out %d packet(s), %d byte(s), %d dropped, %d address(es)", s.Label, p.Number, p.Label,
			p.Received.Packets, p.Received.Bytes, p.Sent.Packets, p.Sent.Bytes, p.Dropped, p.Addresses)
		lines = append(lines, line)
	}
	if len(s.Dropped) > 0 {
		line := s.Label + ": not delivered"
		sep := ": "
		for _, why := range slices.Sorted(maps.Keys(s.Dropped)) {
			line += fmt.Sprintf("%s%s %d", sep, why, s.Dropped[why])
			sep = ", "
		}
		lines = append(lines, line)
	}
	return lines
}

// hubSource is the Source of an address that several peers share.
type hubSource struct{ hub *relay.Hub }

// Next implements Source.
func (s *hubSource) Next(context.Context) (*relay.Endpoint, error) { return s.hub.Port() }

// Many implements Source. The peers are another's.
func (s *hubSource) Many() bool { return false }

// Close implements Source.
func (s *hubSource) Close() error { return s.hub.Close() }

func openHub(_ context.Context, b *Bound, env *Env) (Source, error) {
	kind, err := b.hubKind()
	if err != nil {
		return nil, err
	}
	return b.newHub(relay.HubConfig{Label: b.Label(), Traffic: kind, OnePack: onePacketOfDevice}, env)
}

// deviceSource returns the Source of an open device: a hub, or the device itself.
func (b *Bound) deviceSource(ep *relay.Endpoint, env *Env) (Source, error) {
	if !optHub.Or(b, false) {
		return &one{ep: ep}, nil
	}
	src, err := b.newHub(relay.HubConfig{Label: ep.Label, Traffic: ep.Traffic, OnePack: ep.OnePack, Device: ep}, env)
	if err != nil {
		ep.Close()
	}
	return src, err
}

// newHub makes a hub as the options want it.
func (b *Bound) newHub(c relay.HubConfig, env *Env) (Source, error) {
	c.Isolate = optIsolate.Or(b, false)
	c.Ageing, c.Hold = optHubAgeing.Or(b, 300*time.Second), optHubHold.Or(b, time.Minute)
	c.Table, c.Flood, c.Queue = int(optHubTable.Or(b, defaultHubTable)), int(optHubFlood.Or(b, defaultHubFlood)), int(optHubQueue.Or(b, defaultHubQueue))
	switch b.Mode {
	case Read:
		c.Mode = relay.HubToPeers
	case Write:
		c.Mode = relay.HubFromPeers
	}
	ethernet := c.Traffic == relay.TAP
	c.Check = func(p []byte) error { return checkVNet(p, ethernet) }
	c.NewSegmenter = func() relay.Segmenter { return &segmenter{ethernet: ethernet} }
	c.Failed, c.Log = env.HubFailed, env.Log
	hub, err := relay.NewHub(c)
	if err != nil {
		return nil, err
	}
	return &hubSource{hub}, nil
}

// checkVNet makes the virtio-net header of a packet that came from outside one that is safe.
func checkVNet(p []byte, ethernet bool) error {
	var h tundev.VNetHdr
	if err := h.Decode(p); err != nil {
		return err
	}
	h, err := h.Validate(p[tundev.VNetHdrLen:], ethernet)
	if err == nil {
		h.Encode(p)
	}
	return err
}

// segmenter is a tundev.Splitter for packets with their headers in front.
type segmenter struct {
	tundev.Splitter
	ethernet bool
}

// Reset implements relay.Segmenter.
func (s *segmenter) Reset(p []byte) error {
	var h tundev.VNetHdr
	if err := h.Decode(p); err != nil {
		return err
	}
	return s.Splitter.Reset(h, p[tundev.VNetHdrLen:], s.ethernet)
}

// Next implements relay.Segmenter. After an error nothing is left.
func (s *segmenter) Next(dst []byte) (int, error) {
	n, err := s.Splitter.Next(dst)
	if err != nil {
		s.Splitter = tundev.Splitter{}
	}
	return n, err
}

// busyDevice adds to the error of a device that is in use how several can use it.
func busyDevice(err error) error {
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	hint := "several peers of one listening address can share a device: option hub; several programs, each with a part of the flows: multi-queue at all of them"
	if known := tundev.Advice(err); known != "" {
		hint = known + "; " + hint
	}
	return withHint{err, hint}
}
