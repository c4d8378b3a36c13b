package relay

import (
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Port is a peer's place at a hub, or the device's. As an endpoint it reads what the hub has for the peer, and what is written to it is switched.
type Port struct {
	hub      *Hub
	number   uint64
	label    atomic.Pointer[string]
	receives bool // packets are for it, too

	// Of the peer; guarded by hub.mu.
	keyed    bool // it has proved that it knows a key; the device always has
	identity [16]byte
	session  *Session

	addresses      atomic.Int32 // in the hub's table; changed under hub.mu
	received, sent tally
	dropped        atomic.Uint64
	flood          floodLimit
	gone           atomic.Bool // closed
	close          sync.Once

	// Of the session that writes.
	woken []*Port
	since int // bytes since others got a turn

	// Of the session that reads.
	queue  queue
	expiry deadline
	caps   atomic.Uint32 // Caps of the peer
	run    *run          // being handed out, nil: none
	at     int           // its first packet that was not
	split  Segmenter     // hands out a packet that the peer can't take
	single *Batch        // for Read
	nth    int           // its first packet that was not handed out
}

// Port makes an endpoint for one peer. It joins the hub once its session knows the peer, and leaves when it is closed.
func (h *Hub) Port() (*Endpoint, error) {
	if err := h.Err(); err != nil {
		return nil, err
	}
	p := &Port{hub: h, number: h.made.Add(1), receives: h.cfg.Mode != HubFromPeers}
	p.setName("peer")
	p.flood.init(h.cfg.Flood)
	p.queue.init(h.cfg.Queue)
	p.expiry.set(time.Time{})
	if h.cfg.NewSegmenter != nil {
		p.split = h.cfg.NewSegmenter()
	}
	ep := &Endpoint{Label: h.cfg.Label, Traffic: h.cfg.Traffic, OnePack: h.cfg.OnePack, Admit: p.admit, Close: p.leave}
	if p.receives {
		ep.R = p
	}
	if h.cfg.Mode != HubToPeers {
		ep.W = p
	}
	if h.offloads && h.cfg.Mode == HubBoth {
		ep.Offload = p
	}
	if d := h.cfg.Device; d != nil {
		ep.MTU, ep.Env = d.MTU, d.Env
	}
	return ep, nil
}

func (p *Port) name() string        { return *p.label.Load() }
func (p *Port) setName(name string) { p.label.Store(&name) }

// admit lets the peer of a session take part. A peer of the same identity that is there already is gone, though maybe nobody has noticed: its session ends.
func (p *Port) admit(s *Session, peer *Endpoint, info PeerInfo) error {
	h := p.hub
	h.mu.Lock()
	var old *Port
	if info.Identity != [16]byte{} {
		for _, other := range *h.ports.Load() {
			if other != p && other.identity == info.Identity {
				old = other
			}
		}
	}
	switch {
	case p.gone.Load():
		h.mu.Unlock()
		return os.ErrClosed
	case old != nil && old.keyed && !peer.Authenticated:
		h.mu.Unlock()
		return errors.New("a peer of the same identity is here, and has a key")
	}
	p.setName(peer.Label)
	p.keyed, p.identity, p.session = peer.Authenticated, info.Identity, s
	now := *h.ports.Load()
	ports := make([]*Port, 0, len(now)+1)
	for _, other := range now {
		if other != p && other != old {
			ports = append(ports, other)
		}
	}
	ports = append(ports, p)
	h.ports.Store(&ports)
	var replaced *Session
	if old != nil {
		h.forget(old)
		replaced = old.session
	}
	h.mu.Unlock()
	if replaced != nil {
		h.cfg.Log.Noticef("%s: %s takes the place of %s, an earlier connection of the same peer", h.cfg.Label, p.name(), old.name())
		replaced.End(CloseReplaced, nil)
	}
	return nil
}

// leave takes the port off the hub.
func (p *Port) leave() error {
	p.close.Do(func() {
		h := p.hub
		h.mu.Lock()
		p.gone.Store(true)
		now := *h.ports.Load()
		if i := slices.Index(now, p); i >= 0 {
			ports := slices.Delete(slices.Clone(now), i, i+1)
			h.ports.Store(&ports)
		}
		h.forget(p)
		h.mu.Unlock()
		p.queue.close()
		p.expiry.set(time.Unix(1, 0))
	})
	return nil
}

// enqueue hands the port a packet for its peer; true if it has to be woken.
func (p *Port) enqueue(pkt []byte, vnet bool) bool {
	took, first := p.queue.put(pkt, vnet)
	if !took {
		p.dropped.Add(1)
	}
	return first
}

func (p *Port) wake() { p.queue.wake() }

// Write implements Writer: one complete packet of the peer.
func (p *Port) Write(pkt []byte) (int, error) {
	if len(pkt)+VNetLen > MaxPacket {
		p.hub.refuse(p, refusedMalformed, errors.Errorf("%d bytes", len(pkt)))
		return len(pkt), nil
	}
	return len(pkt), p.write(pkt, false)
}

// Put implements Offload: one packet of the peer with virtio-net header.
func (p *Port) Put(pkt []byte) error {
	if err := p.hub.cfg.Check(pkt); err != nil {
		return err
	}
	return p.write(pkt, true)
}

// turnEvery is how many bytes one peer may send before others get a turn, so that the queues they are in do not overflow for want of a reader.
const turnEvery = BatchSize / 2

func (p *Port) write(pkt []byte, vnet bool) error {
	switch err := p.hub.Err(); {
	case p.gone.Load(), err == io.EOF:
		return os.ErrClosed
	case err != nil:
		return err
	}
	p.woken = p.hub.forward(p, pkt, vnet, p.woken[:0])
	for i, to := range p.woken {
		to.wake()
		p.woken[i] = nil
	}
	if p.since += len(pkt); p.since > turnEvery {
		p.since = 0
		runtime.Gosched()
	}
	return nil
}

// Read implements Reader: one complete packet.
func (p *Port) Read(buf []byte) (int, error) {
	if p.single == nil {
		p.single = NewBatch(0)
	}
	if p.nth >= p.single.Len() {
		p.single.Reset()
		p.nth = 0
		if err := p.ReadBatch(p.single); err != nil {
			return 0, err
		}
	}
	p.nth++
	return copy(buf, p.single.Packet(p.nth-1)), nil
}

// ReadBatch implements BatchReader.
func (p *Port) ReadBatch(b *Batch) error {
	for {
		expired := p.expiry.wait()
		select {
		case <-expired:
			return os.ErrDeadlineExceeded
		default:
		}
		p.fill(b)
		if b.Len() > 0 {
			return nil
		}
		select {
		case <-p.queue.ready:
		case <-expired:
		case <-p.hub.ended:
			return p.hub.err
		}
	}
}

// fill adds what waits to b, as far as there is room.
func (p *Port) fill(b *Batch) {
	for {
		if p.split != nil && p.split.Left() > 0 {
			room := b.Room()
			if room == nil {
				return
			}
			p.segment(b, room)
			continue
		}
		if p.run != nil && p.at == p.run.Len() {
			p.run.release()
			p.run = nil
		}
		if p.run == nil {
			if p.run, p.at = p.queue.take(b.Head), 0; p.run == nil {
				return
			}
			if b.Len() == 0 && p.swap(b) {
				return
			}
		}
		room := b.Room()
		if room == nil {
			return
		}
		p.give(b, room, p.run.Packet(p.at))
		p.at++
	}
}

// swap hands out a whole run by giving b its memory, if the peer can take everything in it as it is.
func (p *Port) swap(b *Batch) bool {
	r := p.run
	if !b.VNet || r.Head != b.Head || len(r.buf) != len(b.buf) || r.needs&^p.takes() != 0 {
		return false
	}
	for i := range r.Len() {
		p.sent.add(len(r.Packet(i)) - VNetLen)
	}
	b.buf, r.buf = r.buf, b.buf
	b.spans, r.spans = r.spans, b.spans
	b.end = r.end
	r.release()
	p.run = nil
	return true
}

// takes is what the peer can take.
func (p *Port) takes() Caps { return Caps(p.caps.Load()) }

// give adds one packet to b, into its room, or begins to split it.
func (p *Port) give(b *Batch, room, pkt []byte) {
	switch {
	case b.VNet && capsFor(pkt)&^p.takes() == 0:
		b.Commit(copy(room, pkt))
		p.sent.add(len(pkt) - VNetLen)
	case !b.VNet && isComplete(pkt):
		b.Commit(copy(room, pkt[VNetLen:]))
		p.sent.add(len(pkt) - VNetLen)
	default:
		if err := p.split.Reset(pkt); err != nil {
			p.dropped.Add(1)
			p.hub.refuse(p, refusedMalformed, err)
		}
	}
}

// segment adds the next piece of the packet that is being split to b, into its room.
func (p *Port) segment(b *Batch, room []byte) {
	into := room
	if b.VNet {
		clear(room[:VNetLen])
		into = room[VNetLen:]
	}
	n, err := p.split.Next(into)
	if err != nil {
		p.dropped.Add(1)
		p.hub.refuse(p, refusedMalformed, err)
		return
	}
	p.sent.add(n)
	b.Commit(len(room) - len(into) + n)
}

// SetReadDeadline implements Reader.
func (p *Port) SetReadDeadline(t time.Time) error {
	p.expiry.set(t)
	return nil
}

// SetWriteDeadline implements Writer. Writing never waits.
func (p *Port) SetWriteDeadline(time.Time) error { return nil }

// CloseWrite implements Writer: the hub goes on, and has more for the peer.
func (p *Port) CloseWrite() error { return nil }

// Caps implements Offload: with whom the packets end up is not known, so it is everything that the device can take, and a peer that can't take it gets it split.
func (p *Port) Caps() Caps {
	if d := p.hub.cfg.Device; d != nil && d.Offload != nil {
		return d.Offload.Caps()
	}
	return CapVNet | CapTSO4 | CapTSO6 | CapECN | CapUSO4 | CapUSO6
}

// Accept implements Offload.
func (p *Port) Accept(peer Caps) error {
	p.caps.Store(uint32(peer))
	return nil
}
