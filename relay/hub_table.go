package relay

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// station is an address that a hub has learned: a MAC address in a VLAN, or an IP address.
type station struct {
	addr [16]byte // MAC addresses fill the first six bytes
	kind uint16   // stationIPv4, stationIPv6, or the VLAN, 0 without a tag
}

// Values of station.kind that no VLAN has (IEEE 802.1Q: 12 bits).
const (
	stationIPv4 = 0x8004
	stationIPv6 = 0x8006
)

// String returns the address as people write it.
func (s station) String() string {
	switch s.kind {
	case stationIPv4:
		return netip.AddrFrom4([4]byte(s.addr[:4])).String()
	case stationIPv6:
		return netip.AddrFrom16(s.addr).String()
	case 0:
		return net.HardwareAddr(s.addr[:6]).String()
	}
	return fmt.Sprintf("%s in VLAN %d", net.HardwareAddr(s.addr[:6]), s.kind)
}

// seat is where a station was seen last.
type seat struct {
	port *Port
	seen atomic.Int64 // nanoseconds after the hub's epoch
}

// seenStep is how exact seat.seen is: a station that sends a lot does not write it for each packet.
const seenStep = int64(100 * time.Millisecond)

// look returns the port behind which the destination of a packet from port p is, nil if that is not known, and notes that the source is behind p, unless it is the zero station. ok is false if the source
// is another's and the packet must not pass.
func (h *Hub) look(p *Port, src, dst station, now time.Time) (to *Port, ok bool) {
	t := int64(now.Sub(h.epoch))
	h.mu.RLock()
	if st := h.table[dst]; st != nil && t-st.seen.Load() <= int64(h.cfg.Ageing) {
		to = st.port
	}
	st := h.table[src]
	known := st != nil && st.port == p
	if known && t-st.seen.Load() > seenStep {
		st.seen.Store(t)
	}
	// Without the lock that others would wait for: a flood of addresses is slow for nobody.
	full := st == nil && now.Sub(h.swept) < sweepPause && h.full(p) && int(p.addresses.Load()) >= h.share()
	h.mu.RUnlock()
	switch {
	case known || src == station{}:
		return to, true
	case full:
		h.refuse(p, refusedFull, src)
		return to, true
	}
	return to, h.seat(p, src, now, t)
}

// sweepPause is the least time between two searches of the whole table for what is too old.
const sweepPause = time.Second

// seat gives s to p, or refuses. t is now, counted from the hub's epoch.
func (h *Hub) seat(p *Port, s station, now time.Time, t int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.gone.Load() {
		return true // nothing may be learned of a port that was removed
	}
	st := h.table[s]
	if st != nil && st.port != p {
		age := time.Duration(t - st.seen.Load())
		if st.port.keyed && age < h.cfg.Hold && age < h.cfg.Ageing {
			h.refuse(p, refusedClaim, s)
			return false
		}
		h.unseat(s, st)
		st = nil
	}
	if st == nil {
		if !h.room(p, now) {
			h.refuse(p, refusedFull, s)
			return true
		}
		st = &seat{port: p}
		h.table[s] = st
		p.addresses.Add(1)
	}
	st.seen.Store(t)
	return true
}

// room makes sure that one more address of p can be entered, if that is its right: a port may fill half of the table at most, and once the table is full a port with less than an equal share takes
// a place from the port that has most. h.mu is held.
func (h *Hub) room(p *Port, now time.Time) bool {
	if h.full(p) && now.Sub(h.swept) >= sweepPause {
		h.sweep(now)
	}
	if !h.full(p) {
		return true
	}
	if int(p.addresses.Load()) >= h.share() {
		return false
	}
	largest := p
	for _, other := range *h.ports.Load() {
		if other.addresses.Load() > largest.addresses.Load() {
			largest = other
		}
	}
	for s, st := range h.table { // begins anywhere, and many are the largest's
		if st.port == largest && largest != p {
			h.unseat(s, st)
			return true
		}
	}
	return false
}

// full says that there is no room for one more address of p. h.mu is held, for reading at least.
func (h *Hub) full(p *Port) bool {
	return len(h.table) >= h.cfg.Table || int(p.addresses.Load()) >= h.most
}

// share is how many addresses a port can have whatever the others do.
func (h *Hub) share() int { return min(h.most, h.cfg.Table/max(1, len(*h.ports.Load()))) }

// unseat takes an address off the table. h.mu is held.
func (h *Hub) unseat(s station, st *seat) {
	delete(h.table, s)
	st.port.addresses.Add(-1)
}

// sweep forgets the addresses that are too old. h.mu is held.
func (h *Hub) sweep(now time.Time) {
	h.swept = now
	t := int64(now.Sub(h.epoch))
	for s, st := range h.table {
		if t-st.seen.Load() > int64(h.cfg.Ageing) {
			h.unseat(s, st)
		}
	}
}

// forget forgets all addresses of a port. h.mu is held.
func (h *Hub) forget(p *Port) {
	if p.addresses.Load() == 0 {
		return
	}
	for s, st := range h.table {
		if st.port == p {
			h.unseat(s, st)
		}
	}
}

// Offsets and lengths in headers (IEEE 802.3, 802.1Q; RFC 791; RFC 8200).
const (
	macLen     = 6
	vlanTagLen = 4
	etherVLAN  = 0x8100
	etherSVLAN = 0x88a8
	ipv6Len    = 40
)

// macStations returns the stations of a frame, which has MinEthernet bytes at least. The outermost tag tells the VLAN; a tag with VLAN 0 has a priority only.
func macStations(f []byte) (src, dst station) {
	copy(dst.addr[:], f[:macLen])
	copy(src.addr[:], f[macLen:2*macLen])
	if typ := binary.BigEndian.Uint16(f[2*macLen:]); (typ == etherVLAN || typ == etherSVLAN) && len(f) >= MinEthernet+vlanTagLen {
		vlan := binary.BigEndian.Uint16(f[MinEthernet:]) & 0xfff
		src.kind, dst.kind = vlan, vlan
	}
	return src, dst
}

// ipStations returns the stations of an IP packet; ok is false if it is none.
func ipStations(p []byte) (src, dst station, ok bool) {
	switch {
	case len(p) >= ipv4Len && p[0]>>4 == 4:
		copy(src.addr[:], p[12:16])
		copy(dst.addr[:], p[16:20])
		src.kind, dst.kind = stationIPv4, stationIPv4
	case len(p) >= ipv6Len && p[0]>>4 == 6:
		copy(src.addr[:], p[8:24])
		copy(dst.addr[:], p[24:40])
		src.kind, dst.kind = stationIPv6, stationIPv6
	default:
		return src, dst, false
	}
	return src, dst, true
}

// isGroup says that a station is no single one: multicast or broadcast.
func (s *station) isGroup() bool {
	switch s.kind {
	case stationIPv4:
		return s.addr[0] >= 224 // multicast, and what lies above: reserved and broadcast
	case stationIPv6:
		return s.addr[0] == 0xff
	}
	return s.addr[0]&1 != 0
}

// isNobody says that a station is an address that many use at a time, which says nothing of where somebody is: unspecified, or loopback.
func (s *station) isNobody() bool {
	switch s.kind {
	case stationIPv4:
		return s.addr[0] == 0 || s.addr[0] == 127
	case stationIPv6:
		return [15]byte(s.addr[:15]) == [15]byte{} && s.addr[15] <= 1
	}
	return [macLen]byte(s.addr[:macLen]) == [macLen]byte{}
}
