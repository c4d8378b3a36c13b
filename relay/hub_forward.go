package relay

import (
	"bytes"
	"time"

	"github.com/pkg/errors"
)

// forward switches one packet that came in at port from, with a virtio-net header in front if vnet is true. It appends to woken the ports whose readers have something new, each once while
// they have not been woken; the caller wakes them.
func (h *Hub) forward(from *Port, p []byte, vnet bool, woken []*Port) []*Port {
	body := p
	if vnet {
		body = p[VNetLen:]
	}
	from.received.add(len(body))
	m := moving{h: h, from: from, p: p, vnet: vnet, size: len(body), woken: woken}
	if h.cfg.Traffic == TAP {
		m.frame(body)
	} else {
		m.packet(body)
	}
	return m.woken
}

// moving is a packet on its way through a hub.
type moving struct {
	h     *Hub
	from  *Port
	p     []byte // with virtio-net header, if vnet
	vnet  bool
	size  int // without it
	woken []*Port
}

// Addresses that bridges do not forward: 01:80:c2:00:00:01 to 0f (IEEE 802.1Q, table 8-1). The first of them, of the spanning tree protocol, passes: this is no spanning tree bridge, and two that
// are must see each other through it. Linux bridges do the same.
var reservedMAC = [5]byte{0x01, 0x80, 0xc2, 0x00, 0x00}

func isReserved(dst []byte) bool {
	return [5]byte(dst[:5]) == reservedMAC && dst[5] > 0 && dst[5] < 0x10
}

// frame switches an Ethernet frame.
func (m *moving) frame(f []byte) {
	h := m.h
	if len(f) < MinEthernet {
		h.refuse(m.from, refusedMalformed, errors.Errorf("a frame of %d bytes", len(f)))
		return
	}
	src, dst := macStations(f)
	switch {
	case src.isGroup() || src.isNobody():
		h.refuse(m.from, refusedMalformed, errors.Errorf("source address %v", src))
		return
	case isHello(f):
		h.refuse(m.from, refusedHello, nil)
		return
	}
	to, ok := h.look(m.from, src, dst, time.Now())
	switch {
	case !ok:
	case isReserved(f):
		h.refuse(m.from, refusedReserved, nil)
	case dst.isGroup(), to == nil:
		m.flood()
	default:
		m.pass(to)
	}
}

// packet switches an IP packet.
func (m *moving) packet(p []byte) {
	h := m.h
	src, dst, ok := ipStations(p)
	switch {
	case !ok:
		h.refuse(m.from, refusedMalformed, errors.Errorf("%d bytes that are no IP packet", len(p)))
		return
	case src.isGroup():
		h.refuse(m.from, refusedMalformed, errors.Errorf("source address %v", src))
		return
	case isHello(p):
		h.refuse(m.from, refusedHello, nil)
		return
	}
	if src.isNobody() {
		src = station{}
	}
	to, ok := h.look(m.from, src, dst, time.Now())
	switch {
	case !ok:
	case dst.isGroup():
		m.flood()
	default:
		if to == nil {
			to = h.fallback(m.from)
		}
		if to == nil {
			h.refuse(m.from, refusedUnknown, dst)
			return
		}
		m.pass(to)
	}
}

// fallback is where an IP packet goes whose destination nobody is known to have: from a peer to the device, behind which is a host with routes; otherwise to the only other port there is.
// Several would each route it on. nil: nowhere.
func (h *Hub) fallback(from *Port) *Port {
	if h.dev != nil && from != h.dev {
		return h.dev
	}
	var only *Port
	for _, p := range *h.ports.Load() {
		if p == from {
			continue
		}
		if only != nil {
			return nil
		}
		only = p
	}
	return only
}

// isHello says that a packet is a hello. Hellos pass between neighbours: one that were switched would be taken by a peer, over datagrams, as the hub's own.
func isHello(p []byte) bool {
	// The magic stands behind the headers of the longest form, IPv4 behind packet information.
	if !bytes.Contains(p[:min(len(p), piLen+ipv4Len+len(helloMagic))], helloMagic[:]) {
		return false
	}
	_, err := ParseHello(p)
	return err != ErrNotHello
}

// pass delivers the packet to one port.
func (m *moving) pass(to *Port) {
	switch {
	case to == m.from: // its neighbours have it already
	case m.h.cfg.Isolate && to != m.h.dev && m.from != m.h.dev:
		m.h.refuse(m.from, refusedIsolated, nil)
	case to.receives:
		m.deliver(to)
	}
}

// flood delivers the packet to all other ports.
func (m *moving) flood() {
	h := m.h
	if !m.from.flood.allow(m.size) {
		h.refuse(m.from, refusedFlood, nil)
		return
	}
	isolated := h.cfg.Isolate && m.from != h.dev
	for _, to := range *h.ports.Load() {
		if to == m.from || !to.receives || isolated && to != h.dev {
			continue
		}
		m.deliver(to)
	}
}

func (m *moving) deliver(to *Port) {
	if to == m.h.dev {
		m.h.toDevice(m.p, m.vnet)
		return
	}
	if to.enqueue(m.p, m.vnet) {
		m.woken = append(m.woken, to)
	}
}
