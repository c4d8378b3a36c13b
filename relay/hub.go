package relay

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Theory of operation of a hub
//
// A hub lets several peers share one network device, or meet without one. Each peer gets a port, which is an endpoint like any other, so that a session, its framing and its hellos know nothing
// of the hub. What a session writes into its port is switched at once, in the session's goroutine:
//
//	session A --write--> port A --table--> queue of port B --read--> session B
//	                                  \--> the device, written directly: it takes a packet without waiting
//	device  --pump, batches------table--> queues of ports
//
// A queue is bounded; what does not fit is dropped at its tail and counted, so a peer that does not read costs a bounded piece of memory and nobody's time. Inside the hub every packet has a
// virtio-net header in front, so GSO packets cross whole. A port whose peer can't take one of some kind splits it when it is read, in its own session's time.
//
// Locks: Hub.mu guards the table and changes of the list of ports. Nothing is delivered while it is held, so that peers come and go quickly however much is flooded: who delivers takes the
// list as it was. The locks of queues, of the device and of the flood limits are taken alone.

// HubConfig says what a hub is made of.
type HubConfig struct {
	Label   string
	Traffic Traffic   // TAP: Ethernet frames, switched by MAC address; TUN: IP packets, by IP address
	Device  *Endpoint // nil: there is none. The hub owns it. It has no packet information

	Isolate bool          // peers reach the device, not one another
	Ageing  time.Duration // an address that was not seen for so long is forgotten
	Hold    time.Duration // an address seen on a keyed port within this time is not given to another port
	Table   int           // addresses that are remembered at most
	Flood   int           // packets a second that one port may have sent to all others, 0: no limit
	Queue   int           // bytes that wait for one peer at most
	Mode    HubMode

	// OnePack says that an error of the device or of Check concerns one packet only; nil: none does.
	OnePack func(error) bool
	// Check makes sure that the virtio-net header in front of a packet from a peer is safe to act on, and may change it to an equivalent one. NewSegmenter returns what makes complete packets of
	// one with such a header. Both are nil if packets with virtio-net headers are not taken.
	Check        func(p []byte) error
	NewSegmenter func() Segmenter

	// Failed is called once if the hub stops to work, not after Close; it must not wait. nil: nobody wants to know.
	Failed func(error)
	Log    *Log
}

// HubMode says in which directions the ports are used: by default both.
type HubMode uint8

// The modes of a hub.
const (
	HubBoth      HubMode = iota
	HubToPeers           // peers only receive
	HubFromPeers         // peers only send
)

// Segmenter makes complete packets, checksums and all, of one that has a virtio-net header in front.
type Segmenter interface {
	// Reset starts on p, which was checked, or comes from the device, and stays as it is until the last segment is made.
	Reset(p []byte) error
	// Left is the number of segments still to come.
	Left() int
	// Next writes the next segment, without virtio-net header, to the start of dst, which has room for MaxPacket bytes.
	Next(dst []byte) (int, error)
}

// Hub joins many peers and at most one device. Its methods may be called by several goroutines.
type Hub struct {
	cfg      HubConfig
	epoch    time.Time
	made     atomic.Uint64 // ports for peers
	most     int           // addresses that one port may have in the table
	dev      *Port         // nil: no device
	devMu    sync.Mutex
	offloads bool

	ports atomic.Pointer[[]*Port] // the device's first; changed under mu, by putting another list in its place

	mu    sync.RWMutex
	table map[station]*seat
	swept time.Time // when the table was last searched for addresses that are too old

	refused [numRefusals]atomic.Uint64
	talk    [numRefusals]Limiter

	ended  chan struct{} // closed when the hub has failed or was closed
	once   sync.Once
	err    error // why, set before ended is closed
	pumped chan struct{}
}

// NewHub makes a hub and starts to read from its device. Close ends it.
func NewHub(c HubConfig) (*Hub, error) {
	h := &Hub{cfg: c, epoch: time.Now(), most: max(1, c.Table/2), table: map[station]*seat{}, ended: make(chan struct{}), pumped: make(chan struct{})}
	h.offloads = c.Check != nil && (c.Device == nil || c.Device.Offload != nil)
	h.ports.Store(&[]*Port{})
	if c.Device == nil {
		close(h.pumped)
		return h, nil
	}
	h.dev = &Port{hub: h, keyed: true, receives: c.Device.W != nil && c.Mode != HubToPeers}
	h.dev.setName(c.Device.Label)
	h.dev.flood.init(c.Flood)
	h.ports.Store(&[]*Port{h.dev})
	if h.offloads && c.Device.R != nil {
		// Everything: a port whose peer can't take a kind of packet splits it.
		if err := c.Device.Offload.Accept(c.Device.Offload.Caps()); err != nil {
			return nil, errors.Wrap(err, c.Device.Label)
		}
	}
	if c.Device.R == nil || c.Mode == HubFromPeers {
		close(h.pumped)
		return h, nil
	}
	go h.pump()
	return h, nil
}

// Done is closed when the hub has failed or was closed; Err then says why: io.EOF after Close.
func (h *Hub) Done() <-chan struct{} { return h.ended }

// Err is the error that ended the hub, nil while it works.
func (h *Hub) Err() error {
	select {
	case <-h.ended:
		return h.err
	default:
		return nil
	}
}

// fail ends the hub: every port returns err from now on.
func (h *Hub) fail(err error) {
	h.once.Do(func() {
		h.err = err
		close(h.ended)
		if h.cfg.Failed != nil && err != io.EOF {
			h.cfg.Failed(err)
		}
	})
}

// Close ends the hub and closes the device. Ports that are open return io.EOF.
func (h *Hub) Close() error {
	h.fail(io.EOF)
	if h.dev == nil {
		return nil
	}
	if r := h.cfg.Device.R; r != nil {
		r.SetReadDeadline(time.Unix(1, 0))
	}
	<-h.pumped
	return h.cfg.Device.close()
}

// pump switches what comes from the device.
func (h *Hub) pump() {
	defer close(h.pumped)
	b := NewBatch(0)
	var woken []*Port
	for {
		b.VNet = h.offloads
		err := readBatch(h.cfg.Device.R, b)
		select {
		case <-h.ended:
			return
		default:
		}
		if err != nil {
			if h.cfg.Device.onePacket(err) {
				h.refuse(h.dev, refusedDevice, err)
				continue
			}
			h.fail(errors.Wrapf(err, "%s: read", h.cfg.Device.Label))
			return
		}
		for i := range b.Len() {
			woken = h.forward(h.dev, b.Packet(i), b.VNet, woken)
		}
		for i, p := range woken {
			p.wake()
			woken[i] = nil
		}
		woken = woken[:0]
		// The device may have packets without end. Those who read the queues have to get a turn before they overflow.
		runtime.Gosched()
	}
}

// toDevice writes a packet to the device, with its virtio-net header if it has one.
func (h *Hub) toDevice(p []byte, vnet bool) {
	var err error
	h.devMu.Lock()
	if vnet {
		err = h.cfg.Device.Offload.Put(p)
	} else {
		_, err = h.cfg.Device.W.Write(p)
	}
	h.devMu.Unlock()
	switch {
	case err == nil:
		n := len(p)
		if vnet {
			n -= VNetLen
		}
		h.dev.sent.add(n)
	case h.cfg.Device.onePacket(err):
		h.dev.dropped.Add(1)
		h.refuse(h.dev, refusedDevice, err)
	default:
		h.fail(errors.Wrapf(err, "%s: write", h.cfg.Device.Label))
	}
}

// refusal is why the hub did not deliver a packet, or not as usual.
type refusal int

const (
	refusedMalformed refusal = iota // no frame or packet: too short, or its source is a group
	refusedHello                    // a hello of the link protocol, which is nobody's but the neighbour's
	refusedReserved                 // a frame to an address that bridges keep to themselves
	refusedIsolated                 // from peer to peer, under isolate
	refusedUnknown                  // an IP packet to an address that nobody is known to have
	refusedFlood                    // more than the flood limit
	refusedClaim                    // from an address that is another's
	refusedFull                     // not refused: the table has no room for its source
	refusedDevice                   // the device did not take or give a packet
	numRefusals
)

var refusalNames = [numRefusals]string{"malformed", "hello", "reserved address", "isolated", "unknown destination", "flood limit", "foreign source address", "sources not learned", "refused by the device"}

// refuse counts a packet and says so at a limited rate, but for what is an everyday matter.
func (h *Hub) refuse(from *Port, why refusal, detail any) {
	h.refused[why].Add(1)
	level := Warn
	switch why {
	case refusedReserved, refusedIsolated, refusedHello:
		return
	case refusedUnknown, refusedMalformed:
		level = Info
	}
	if !h.cfg.Log.Enabled(level) {
		return
	}
	ok, held := h.talk[why].Allow()
	if !ok {
		return
	}
	more := ""
	if held > 0 {
		more = fmt.Sprintf(" (and %d more since the last such message)", held)
	}
	switch why {
	case refusedFlood:
		h.cfg.Log.Print(level, "%s: %s floods: more than %d packets a second to all are dropped%s", h.cfg.Label, from.name(), h.cfg.Flood, more)
	case refusedFull:
		h.cfg.Log.Print(level, "%s: the table has no room for address %v of %s%s", h.cfg.Label, detail, from.name(), more)
	case refusedClaim:
		h.cfg.Log.Print(level, "%s: %s uses %v, the address of another: dropped%s", h.cfg.Label, from.name(), detail, more)
	case refusedUnknown:
		h.cfg.Log.Print(level, "%s: no peer has been heard from with address %v: packet from %s dropped%s", h.cfg.Label, detail, from.name(), more)
	default:
		h.cfg.Log.Print(level, "%s: %s: packet lost: %s: %v%s", h.cfg.Label, from.name(), refusalNames[why], detail, more)
	}
}

// HubStats are the counts of a hub. Dropped counts by reason what was not delivered to anybody, without the queues' drops.
type HubStats struct {
	Label   string
	Ports   []PortStats // the device's first, if there is one
	Dropped map[string]uint64
}

// PortStats are the counts of one port. Received came from the peer or the device, Sent went to it.
type PortStats struct {
	Number         uint64 // of the port, in the order in which they were made; 0 is the device
	Label          string
	Received, Sent Count
	Dropped        uint64 // packets for this peer that its queue had no room for, or that the device refused
	Addresses      int    // that are known to be behind it
}

// Stats returns the counts so far.
func (h *Hub) Stats() HubStats {
	h.mu.Lock()
	h.sweep(time.Now())
	h.mu.Unlock()
	s := HubStats{Label: h.cfg.Label, Dropped: map[string]uint64{}}
	for _, p := range *h.ports.Load() {
		s.Ports = append(s.Ports, PortStats{Number: p.number, Label: p.name(), Received: p.received.count(), Sent: p.sent.count(), Dropped: p.dropped.Load(), Addresses: int(p.addresses.Load())})
	}
	for i := range h.refused {
		if n := h.refused[i].Load(); n > 0 {
			s.Dropped[refusalNames[i]] = n
		}
	}
	return s
}

// tally counts packets.
type tally struct{ packets, bytes atomic.Uint64 }

func (t *tally) add(n int) {
	t.packets.Add(1)
	t.bytes.Add(uint64(n))
}

func (t *tally) count() Count { return Count{Packets: t.packets.Load(), Bytes: t.bytes.Load()} }

// floodLimit is a token bucket: what one port may send to all others. The zero value is no limit.
type floodLimit struct {
	mu     sync.Mutex
	rate   float64 // tokens a second, 0: no limit
	burst  float64
	tokens float64
	last   time.Time
}

// floodUnit is how many bytes of a packet cost one token: a GSO packet stands for many.
const floodUnit = 1514

func (f *floodLimit) init(rate int) {
	f.rate = float64(rate)
	f.burst = math.Max(20, f.rate/5)
	f.tokens, f.last = f.burst, time.Now()
}

// allow takes the tokens for a packet of n bytes, if they are there.
func (f *floodLimit) allow(n int) bool {
	if f.rate == 0 {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.tokens = math.Min(f.burst, f.tokens+f.rate*now.Sub(f.last).Seconds())
	f.last = now
	cost := float64(1 + (n-1)/floodUnit)
	if f.tokens < math.Min(cost, f.burst) { // the longest packet must pass a small burst
		return false
	}
	f.tokens -= cost
	return true
}
