package tundev

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Theory of operation
//
// A batch of packets goes in with Add, in the order in which they are to reach the device; it comes out with Next, as runs. A run is one or more
// packets of one flow that follow each other: the segments of one TCP stretch, or datagrams of one size. Runs come out in the
// order of their first packets, and only the newest run of a flow grows, so the packets of a flow keep their order.
// Whatever is not plainly TCP or UDP (other protocols, fragments, IPv4 options, IPv6 extension headers) closes all open runs: it may belong to any
// of the flows.
//
// The rule for merging is that Splitter, or a kernel in its place, must be able to make each packet again byte for byte. So everything in the headers
// is equal except what splitting sets: lengths, IPv4 identification counting up by one, sequence number, checksums, CWR on the first and PSH on
// the last packet. Checksums are verified, else a merged packet would launder bytes damaged on the way. This is stricter than the kernel's own
// GRO in one thing: runs of a constant IPv4 identification are left alone, as the virtio-net header cannot tell of it (SKB_GSO_TCP_FIXEDID).
//
// Until Next, packets are only referred to, and the checksum of a packet is looked at only when a second one wants to join it.

const (
	// CoalesceBatch is how many packets a Coalescer takes before it must be emptied.
	CoalesceBatch = 256

	// coalesceFlows is how many flows have an open run at a time. One more closes the run of another, at no loss but of merging.
	coalesceFlows = 16

	// coalesceDatagrams bounds a run of UDP datagrams: UDP_MAX_SEGMENTS before Linux 6.10, what every kernel takes.
	coalesceDatagrams = 64
)

// Coalescer merges packets on their way to a device with IFF_VNET_HDR into GSO packets, so that the kernel walks its stack once for many: what
// the kernel calls GRO. The packets of a flow stay in order and come out of a splitting kernel as they went in, byte for byte.
// Packets of different flows may overtake each other. It allocates nothing and has no limits but CoalesceBatch.
type Coalescer struct {
	ethernet bool
	udp      bool

	pkts  [CoalesceBatch]queuedPacket
	npkts int
	runs  [CoalesceBatch]mergedRun
	nruns int
	next  int // the run that Next hands out next

	flows  [coalesceFlows]openFlow
	nflows int
	evict  int // the flow whose place is taken next when all are in use
}

// queuedPacket is a packet of the batch and the link to the next of its run.
type queuedPacket struct {
	data []byte
	next int // index in pkts; -1 at the end of the run
}

// mergedRun is one packet to be written: the packets from first to last merged, or just first.
type mergedRun struct {
	first, last int // index in pkts
	count       int
	p           ipHeaders // of the first packet, if count can be more than 1
	size        int       // transport payload of the first packet
	total       int       // length of the packet to be written
	seq         uint32    // TCP: sequence number the next packet must have
	verified    bool      // the first packet's checksums have been looked at
}

// openFlow says that a run may still grow.
type openFlow struct {
	ports uint32 // source and destination port as they stand in the header: a quick no
	run   int    // index in runs
}

// NewCoalescer makes a Coalescer for Ethernet frames or for IP packets. UDP datagrams are merged only if udp is true: the device's
// kernel must know GSOUDPL4 (Linux 6.2; where TUNSETOFFLOAD takes TUN_F_USO4 and TUN_F_USO6).
func NewCoalescer(ethernet, udp bool) *Coalescer {
	return &Coalescer{ethernet: ethernet, udp: udp}
}

// Add appends a packet to the batch: a complete one, its checksums in place. It returns false if the batch holds CoalesceBatch packets and
// must be emptied with Next first. pkt is only read and must stay as it is until the batch has been emptied.
func (c *Coalescer) Add(pkt []byte) bool {
	if c.npkts == CoalesceBatch {
		return false
	}
	c.pkts[c.npkts] = queuedPacket{data: pkt, next: -1}
	n := c.npkts
	c.npkts++

	p, err := parseHeaders(pkt, c.ethernet)
	if err != nil || !p.plain() {
		c.nflows = 0
		c.newRun(n, &p)
		return true
	}
	slot := c.findFlow(pkt, &p)
	if slot >= 0 {
		r := &c.runs[c.flows[slot].run]
		if c.joins(r, pkt, &p) {
			c.append(r, n, &p)
			if ends(r, pkt, &p) {
				c.closeFlow(slot)
			}
			return true
		}
		c.closeFlow(slot)
	}
	run := c.newRun(n, &p)
	if c.starts(pkt, &p) {
		c.openFlow(pkt, &p, run)
	}
	return true
}

// plain says that the packet is TCP or UDP right behind an IP header without options, and so shows by its bytes which flow it belongs to.
func (p *ipHeaders) plain() bool {
	hlen := ip4HdrLen
	if p.v6 {
		hlen = ip6HdrLen
	}
	return (p.proto == protoTCP || p.proto == protoUDP) && p.l4-p.l3 == hlen && !p.fragment
}

// flowBytes are the addresses and ports, which stand in one piece in a plain packet.
func (p *ipHeaders) flowBytes(pkt []byte) []byte {
	if p.v6 {
		return pkt[p.l3+8 : p.l4+4]
	}
	return pkt[p.l3+12 : p.l4+4]
}

// findFlow returns the place in the table of the flow that the packet belongs to, or -1.
func (c *Coalescer) findFlow(pkt []byte, p *ipHeaders) int {
	ports := binary.BigEndian.Uint32(pkt[p.l4:])
	for i := range c.nflows {
		if c.flows[i].ports != ports {
			continue
		}
		r := &c.runs[c.flows[i].run]
		if r.p.proto == p.proto && r.p.v6 == p.v6 && bytes.Equal(r.p.flowBytes(c.pkts[r.first].data), p.flowBytes(pkt)) {
			return i
		}
	}
	return -1
}

func (c *Coalescer) openFlow(pkt []byte, p *ipHeaders, run int) {
	i := c.nflows
	if i < coalesceFlows {
		c.nflows++
	} else {
		i = c.evict
		c.evict = (c.evict + 1) % coalesceFlows
	}
	c.flows[i] = openFlow{ports: binary.BigEndian.Uint32(pkt[p.l4:]), run: run}
	if p.proto == protoTCP {
		c.runs[run].seq = binary.BigEndian.Uint32(pkt[p.l4+tcpSeqAt:]) + uint32(c.runs[run].size)
	}
}

func (c *Coalescer) closeFlow(slot int) {
	c.nflows--
	c.flows[slot] = c.flows[c.nflows]
}

func (c *Coalescer) newRun(n int, p *ipHeaders) int {
	c.runs[c.nruns] = mergedRun{first: n, last: n, count: 1, p: *p, size: p.end - p.body, total: len(c.pkts[n].data)}
	c.nruns++
	return c.nruns - 1
}

func (c *Coalescer) append(r *mergedRun, n int, p *ipHeaders) {
	c.pkts[r.last].next = n
	r.last = n
	r.count++
	r.total += p.end - p.body
	r.seq += uint32(p.end - p.body)
}

// starts says whether a packet may be the first of a run of several: data, nothing behind the IP packet, and no flag that ends a run or stands alone.
func (c *Coalescer) starts(pkt []byte, p *ipHeaders) bool {
	size := p.end - p.body
	if p.end != len(pkt) {
		return false
	}
	if p.proto == protoUDP {
		return c.udp && size > 0 && p.udpLen(pkt) == p.end-p.l4
	}
	return size >= minTCPSize && pkt[p.l4+tcpFlagsAt]&^(tcpECE|tcpCWR) == tcpACK
}

// joins says whether a packet of the run's flow continues the run. All header bytes are compared here or in sameTransport, or are
// those that splitting sets.
func (c *Coalescer) joins(r *mergedRun, pkt []byte, p *ipHeaders) bool {
	first, size := c.pkts[r.first].data, p.end-p.body
	if p.l3 != r.p.l3 || p.body != r.p.body || p.end != len(pkt) ||
		size == 0 || size > r.size || r.total+size-p.l3 > maxIPPacket ||
		!bytes.Equal(first[:p.l3], pkt[:p.l3]) ||
		!sameIP(first[p.l3:], pkt[p.l3:], p.v6, uint16(r.count)) ||
		!sameTransport(r, first[p.l4:], pkt[p.l4:], p) {
		return false
	}
	if !r.verified {
		if !r.p.verify(first) {
			return false
		}
		r.verified = true
	}
	return p.verify(pkt)
}

// sameIP compares IP headers of one flow, a of a run's first packet, b of the one that would be nth (from 0).
func sameIP(a, b []byte, v6 bool, nth uint16) bool {
	if v6 { // version, traffic class, flow label; next header, hop limit
		return [4]byte(a) == [4]byte(b) && a[6] == b[6] && a[7] == b[7]
	}
	return a[0] == b[0] && a[1] == b[1] && // version, header length; type of service
		binary.BigEndian.Uint16(b[ip4IDAt:]) == binary.BigEndian.Uint16(a[ip4IDAt:])+nth &&
		[4]byte(a[ip4FragAt:]) == [4]byte(b[ip4FragAt:]) // flags; TTL; protocol
}

// sameTransport compares transport headers likewise; a and b start with them.
func sameTransport(r *mergedRun, a, b []byte, p *ipHeaders) bool {
	if p.proto == protoUDP {
		return int(binary.BigEndian.Uint16(b[udpLengthAt:])) == len(b)
	}
	hlen := p.body - p.l4
	return binary.BigEndian.Uint32(b[tcpSeqAt:]) == r.seq &&
		[5]byte(a[8:]) == [5]byte(b[8:]) && // acknowledgement; header length with the reserved bits
		b[tcpFlagsAt]&^tcpPSH == a[tcpFlagsAt]&^tcpCWR &&
		[2]byte(a[14:]) == [2]byte(b[14:]) && // window
		bytes.Equal(a[18:hlen], b[18:hlen]) // urgent pointer; options
}

// ends says whether the packet that has just joined must be the run's last.
func ends(r *mergedRun, pkt []byte, p *ipHeaders) bool {
	if p.end-p.body < r.size || p.proto == protoUDP && r.count == coalesceDatagrams {
		return true
	}
	return p.proto == protoTCP && pkt[p.l4+tcpFlagsAt]&tcpPSH != 0
}

// verify says whether the checksums of a plain packet are right, and are what splitting would write: of the two ways to write zero
// (0 and 0xffff), UDP has the second, all others the first.
func (p *ipHeaders) verify(pkt []byte) bool {
	if !p.v6 && (Checksum(pkt[p.l3:p.l4]) != 0 || binary.BigEndian.Uint16(pkt[p.l3+ip4SumAt:]) == 0xffff) {
		return false
	}
	l4 := pkt[p.l4:p.end]
	if p.proto == protoUDP {
		if binary.BigEndian.Uint16(l4[udpSumAt:]) == 0 { // none was computed
			return false
		}
	} else if binary.BigEndian.Uint16(l4[tcpSumAt:]) == 0xffff {
		return false
	}
	return foldSum(addSum(p.pseudoSum(pkt, len(l4)), l4)) == 0xffff
}

// Size is the length of the packet that Next writes next, without virtio-net header; 0 if the batch is empty.
func (c *Coalescer) Size() int {
	if c.next == c.nruns {
		return 0
	}
	return c.runs[c.next].total
}

// Pending is what the packet that comes next is made of: the number of packets that went in with Add, and their bytes; 0 if the batch is empty.
func (c *Coalescer) Pending() (packets, bytes int) {
	if c.next == c.nruns {
		return 0, 0
	}
	r := &c.runs[c.next]
	return r.count, r.total + (r.count-1)*r.p.body
}

// Take returns the next packet as it went in and goes on to the one after it, where nothing was merged into it (Pending says 1): it saves the copy that Next makes.
// Otherwise it returns nil.
func (c *Coalescer) Take() []byte {
	if c.next == c.nruns || c.runs[c.next].count > 1 {
		return nil
	}
	c.nflows = 0
	p := c.pkts[c.runs[c.next].first].data
	if c.next++; c.next == c.nruns {
		c.reset()
	}
	return p
}

// Next writes the next packet to the start of dst, which must not overlap any packet of the batch, and returns its virtio-net header and its length:
// up to 65535 bytes and the link header where packets have been merged. When the last one is out the batch is empty
// and its packets are no longer referred to; then Next returns io.EOF. If dst is shorter than Size it returns io.ErrShortBuffer, and the
// packet stays the next.
func (c *Coalescer) Next(dst []byte) (VNetHdr, int, error) {
	if c.next == c.nruns {
		return VNetHdr{}, 0, io.EOF
	}
	c.nflows = 0 // a packet added from here on must not join a run that is already out
	r := &c.runs[c.next]
	if len(dst) < r.total {
		return VNetHdr{}, 0, io.ErrShortBuffer
	}
	n := copy(dst, c.pkts[r.first].data)
	var h VNetHdr
	if r.count > 1 {
		for i := c.pkts[r.first].next; i >= 0; i = c.pkts[i].next {
			n += copy(dst[n:], c.pkts[i].data[r.p.body:])
		}
		h = c.finish(r, dst[:n])
	}
	if c.next++; c.next == c.nruns {
		c.reset()
	}
	return h, n, nil
}

// finish turns the first packet's headers, in front of all the payload in dst, into those of a GSO packet.
func (c *Coalescer) finish(r *mergedRun, dst []byte) VNetHdr {
	p := &r.p
	p.setIPLength(dst, len(dst))
	l4 := dst[p.l4:]
	h := VNetHdr{
		Flags:     VNetNeedsCsum,
		HdrLen:    uint16(p.body),
		GSOSize:   uint16(r.size),
		CsumStart: uint16(p.l4),
	}
	if p.proto == protoUDP {
		h.GSOType, h.CsumOffset = GSOUDPL4, udpSumAt
		binary.BigEndian.PutUint16(l4[udpLengthAt:], uint16(len(l4)))
	} else {
		h.GSOType, h.CsumOffset = GSOTCPv4, tcpSumAt
		if p.v6 {
			h.GSOType = GSOTCPv6
		}
		if l4[tcpFlagsAt]&tcpCWR != 0 {
			h.GSOType |= GSOECN
		}
		l4[tcpFlagsAt] |= c.pkts[r.last].data[p.l4+tcpFlagsAt] & tcpPSH
	}
	binary.BigEndian.PutUint16(l4[h.CsumOffset:], foldSum(p.pseudoSum(dst, len(l4))))
	return h
}

func (c *Coalescer) reset() {
	clear(c.pkts[:c.npkts])
	c.npkts, c.nruns, c.next = 0, 0, 0
}
