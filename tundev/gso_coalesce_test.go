package tundev

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"
)

// drained is a packet as the coalescer hands it out.
type drained struct {
	h   VNetHdr
	pkt []byte
}

// drain empties the coalescer.
func drain(t testing.TB, c *Coalescer) (out []drained) {
	t.Helper()
	for n := c.Size(); n > 0; n = c.Size() {
		buf := bytes.Repeat([]byte{0xa5}, n+8)
		if _, _, err := c.Next(buf[: n-1 : n-1]); err != io.ErrShortBuffer {
			t.Fatalf("short buffer: %v", err)
		}
		h, got, err := c.Next(buf)
		if err != nil || got != n {
			t.Fatalf("Next = %d, %v; want %d", got, err, n)
		}
		if !bytes.Equal(buf[n:], bytes.Repeat([]byte{0xa5}, 8)) {
			t.Fatal("Next wrote behind the packet")
		}
		out = append(out, drained{h, buf[:n]})
	}
	if _, _, err := c.Next(nil); err != io.EOF {
		t.Fatalf("empty batch: %v", err)
	}
	return out
}

// train builds n packets of one flow, as a sender would that cuts its data into pieces of size bytes.
func train(s pktSpec, n, size int) (pkts [][]byte) {
	for i := range n {
		p := s
		p.payload = testBytes(size + i)[:size]
		p.seq += uint32(i * size)
		p.id += uint16(i)
		pkts = append(pkts, p.build())
	}
	return pkts
}

// coalesceBack sends packets through a coalescer, splits what comes out, and checks that nothing was lost, changed or reordered within a flow. It
// returns the number of packets that came out of the coalescer.
func coalesceBack(t testing.TB, c *Coalescer, pkts [][]byte) int {
	t.Helper()
	var kept [][]byte
	for _, p := range pkts {
		kept = append(kept, clonePkt(p))
		if !c.Add(p) {
			t.Fatal("batch is full")
		}
	}
	out := drain(t, c)
	var back [][]byte
	for _, d := range out {
		if d.h == (VNetHdr{}) {
			back = append(back, d.pkt)
			continue
		}
		if again, err := d.h.Validate(d.pkt, c.ethernet); err != nil || again != d.h {
			t.Fatalf("merged packet with %+v: Validate says %+v, %v", d.h, again, err)
		}
		segs := splitAll(t, d.h, d.pkt, c.ethernet)
		if len(segs) < 2 {
			t.Fatalf("merged packet of %d segments", len(segs))
		}
		back = append(back, segs...)
	}
	for i := range pkts {
		if !bytes.Equal(kept[i], pkts[i]) {
			t.Fatalf("packet %d was altered in the caller's memory", i)
		}
	}
	sameFlows(t, kept, back, c.ethernet)
	return len(out)
}

// sameFlows compares two sequences flow by flow.
func sameFlows(t testing.TB, want, got [][]byte, ethernet bool) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%d packets came back of %d", len(got), len(want))
	}
	byFlow := func(pkts [][]byte) map[string][][]byte {
		m := map[string][][]byte{}
		for _, p := range pkts {
			k := slowFlow(p, ethernet)
			m[k] = append(m[k], p)
		}
		return m
	}
	w, g := byFlow(want), byFlow(got)
	for k, ps := range w {
		if len(ps) != len(g[k]) {
			t.Fatalf("flow %x: %d packets came back of %d", k, len(g[k]), len(ps))
		}
		for i := range ps {
			if !bytes.Equal(ps[i], g[k][i]) {
				t.Fatalf("flow %x packet %d:\n got %x\nwant %x", k, i, g[k][i][:min(len(g[k][i]), 100)], ps[i][:min(len(ps[i]), 100)])
			}
		}
	}
}

// slowFlow is protocol, addresses and ports of a packet that shows them; "" for others, which must keep their order too.
func slowFlow(p []byte, ethernet bool) string {
	if ethernet {
		if len(p) < 14 {
			return ""
		}
		t := p[12:]
		for len(t) >= 6 && (t[0] == 0x81 && t[1] == 0 || t[0] == 0x88 && t[1] == 0xa8) {
			t = t[4:]
		}
		if len(t) < 2 || !(t[0] == 8 && t[1] == 0 || t[0] == 0x86 && t[1] == 0xdd) {
			return ""
		}
		p = t[2:]
	}
	switch {
	case len(p) >= 24 && p[0] == 0x45 && (p[9] == 6 || p[9] == 17) && (p[6]&0x3f|p[7]) == 0:
		return string(p[9:10]) + string(p[12:24])
	case len(p) >= 44 && p[0]>>4 == 6 && (p[6] == 6 || p[6] == 17):
		return string(p[6:7]) + string(p[8:44])
	}
	return ""
}

func TestCoalesce(t *testing.T) {
	for name, shape := range shapes() {
		merges := shape.ext == nil && shape.ipOpts == nil && shape.flags&(tcpFIN|tcpPSH) == 0
		for link, s := range links(shape) {
			t.Run(name+"/"+link, func(t *testing.T) {
				first := s
				first.flags &^= tcpCWR // on the first packet only: below
				c := NewCoalescer(s.ethernet, true)
				pkts := train(first, 20, 1400)
				if s.flags&tcpCWR != 0 {
					s.payload = testBytes(1400)
					pkts[0] = s.build()
				}
				got, want := coalesceBack(t, c, pkts), 1
				if !merges {
					want = 20
				}
				if got != want {
					t.Errorf("%d packets came out, want %d", got, want)
				}
			})
		}
	}
}

// TestCoalesceRules: between two packets that would merge, what keeps them apart.
func TestCoalesceRules(t *testing.T) {
	for _, c := range []struct {
		name string
		base pktSpec
		edit func(second *pktSpec)
		want int
	}{
		{"nothing", pktSpec{}, func(p *pktSpec) {}, 1},
		{"psh ends it", pktSpec{}, func(p *pktSpec) { p.flags = 0x18 }, 2},
		{"fin", pktSpec{}, func(p *pktSpec) { p.flags = 0x11 }, 3},
		{"rst", pktSpec{}, func(p *pktSpec) { p.flags = 0x14 }, 3},
		{"syn", pktSpec{}, func(p *pktSpec) { p.flags = 0x12 }, 3},
		{"urg", pktSpec{}, func(p *pktSpec) { p.flags = 0x30 }, 3},
		{"no ack", pktSpec{}, func(p *pktSpec) { p.flags = 0x40 }, 3},
		{"ece", pktSpec{}, func(p *pktSpec) { p.flags = 0x50 }, 3},
		{"cwr starts another", pktSpec{}, func(p *pktSpec) { p.flags = 0x90 }, 2},
		{"hole in the sequence", pktSpec{}, func(p *pktSpec) { p.seq++ }, 3},
		{"ack", pktSpec{}, func(p *pktSpec) { p.ack++ }, 3},
		{"window", pktSpec{}, func(p *pktSpec) { p.window = 7 }, 3},
		{"timestamp", pktSpec{tcpOpts: timestamps}, func(p *pktSpec) { p.tcpOpts = append(clonePkt(timestamps[:11]), 9) }, 3},
		{"option gone", pktSpec{tcpOpts: timestamps}, func(p *pktSpec) { p.tcpOpts = nil }, 3},
		{"shorter ends it", pktSpec{}, func(p *pktSpec) { p.payload = p.payload[:900] }, 2},
		{"longer", pktSpec{}, func(p *pktSpec) { p.payload = testBytes(1001) }, 3},
		{"empty", pktSpec{}, func(p *pktSpec) { p.payload = nil }, 3},
		{"tos", pktSpec{}, func(p *pktSpec) { p.tos = 3 }, 3},
		{"ttl", pktSpec{}, func(p *pktSpec) { p.ttl = 63 }, 3},
		{"identification", pktSpec{id: 4}, func(p *pktSpec) { p.id-- }, 3},
		{"df", pktSpec{}, func(p *pktSpec) { p.noDF = true }, 3},
		{"ip options", pktSpec{}, func(p *pktSpec) { p.ipOpts = ipNops }, 3},
		{"extension header", pktSpec{v6: true}, func(p *pktSpec) { p.ext = []extHdr{destOpts} }, 3},
		{"traffic class", pktSpec{v6: true}, func(p *pktSpec) { p.tos = 3 }, 3},
		{"flow label", pktSpec{v6: true}, func(p *pktSpec) { p.label = 3 }, 3},
		{"hop limit", pktSpec{v6: true}, func(p *pktSpec) { p.ttl = 63 }, 3},
		{"padding", pktSpec{ethernet: true}, func(p *pktSpec) { p.padding = 2 }, 3},
		{"mac", pktSpec{ethernet: true}, func(p *pktSpec) { p.mac = 9 }, 3},
		{"vlan", pktSpec{ethernet: true, tags: 1}, func(p *pktSpec) { p.tags = 0 }, 3},
		{"datagram shorter ends it", pktSpec{udp: true}, func(p *pktSpec) { p.payload = p.payload[:9] }, 2},
		{"datagram longer starts another", pktSpec{udp: true}, func(p *pktSpec) { p.payload = testBytes(1001) }, 2},
		{"datagram empty", pktSpec{udp: true}, func(p *pktSpec) { p.payload = nil }, 3},
		{"other port", pktSpec{}, func(p *pktSpec) { p.src, p.dst = 9, 9 }, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			const size = 1000
			spec := [3]pktSpec{c.base, c.base, c.base}
			for i := range spec {
				spec[i].payload = testBytes(size)
				spec[i].seq = uint32(i * size)
				spec[i].id += uint16(i)
			}
			c.edit(&spec[1])
			if got := coalesceBack(t, NewCoalescer(c.base.ethernet, true), [][]byte{spec[0].build(), spec[1].build(), spec[2].build()}); got != c.want {
				t.Errorf("%d packets came out, want %d", got, c.want)
			}
		})
	}
}

// TestCoalesceDamage: a packet with a wrong checksum is neither merged nor mended, wherever it stands.
func TestCoalesceDamage(t *testing.T) {
	for _, s := range []pktSpec{{}, {v6: true}, {udp: true}, {udp: true, v6: true}} {
		for bad := range 3 {
			pkts := train(s, 3, 500)
			pkts[bad][len(pkts[bad])-3] ^= 4
			want := 3
			if bad != 1 {
				want = 2
			}
			if got := coalesceBack(t, NewCoalescer(false, true), pkts); got != want {
				t.Errorf("damage in %d: %d packets came out, want %d", bad, got, want)
			}
		}
		if !s.v6 {
			pkts := train(s, 3, 500)
			pkts[1][10] ^= 1 // IPv4 header checksum
			if got := coalesceBack(t, NewCoalescer(false, true), pkts); got != 3 {
				t.Errorf("damaged IPv4 header: %d packets came out", got)
			}
		}
	}
	pkts := train(pktSpec{udp: true}, 3, 500)
	pkts[1][26], pkts[1][27] = 0, 0 // a datagram without checksum
	if got := coalesceBack(t, NewCoalescer(false, true), pkts); got != 3 {
		t.Errorf("datagram without checksum: %d packets came out", got)
	}
}

// TestCoalesceOtherZero: in one's complement a checksum of zero can be written in two ways. A receiver takes both, but splitting writes
// only one, so a packet that has the other stays alone. Where the checksum of a datagram is zero none was computed.
func TestCoalesceOtherZero(t *testing.T) {
	be := binary.BigEndian
	for _, c := range []struct {
		name        string
		s           pktSpec
		sumAt       int    // of the checksum
		freeAt      int    // of 16 bits under it that may hold anything: payload, or the identification
		zero, other uint16 // how splitting writes zero, and the other way
	}{
		{"tcp", pktSpec{}, 36, 60, 0, 0xffff},
		{"udp", pktSpec{udp: true}, 26, 60, 0xffff, 0},
		{"ipv4", pktSpec{}, 10, 4, 0, 0xffff},
	} {
		pkts := train(c.s, 1, 500)
		first := pkts[0]
		sum := addSum16(addSum16(0, be.Uint16(first[c.freeAt:])), be.Uint16(first[c.sumAt:]))
		be.PutUint16(first[c.freeAt:], foldSum(sum)) // moving the checksum into the data leaves zero
		be.PutUint16(first[c.sumAt:], c.zero)
		c.s.id, c.s.seq = be.Uint16(first[4:])+1, 500
		pkts = append(pkts, train(c.s, 1, 500)...)
		if got := coalesceBack(t, NewCoalescer(false, true), pkts); got != 1 {
			t.Errorf("%s: %d packets came out, want 1", c.name, got)
		}
		be.PutUint16(first[c.sumAt:], c.other)
		if got := coalesceBack(t, NewCoalescer(false, true), pkts); got != 2 {
			t.Errorf("%s written otherwise: %d packets came out, want 2", c.name, got)
		}
	}
}

func TestCoalesceFlows(t *testing.T) {
	for _, flows := range []int{2, coalesceFlows, coalesceFlows + 1} {
		var trains [][][]byte
		for f := range flows {
			trains = append(trains, train(pktSpec{v6: f%2 == 1, src: uint16(1000 + f/3), dst: uint16(2000 + f), udp: f%3 == 2}, 8, 700))
		}
		var pkts [][]byte
		for i := range 8 {
			for f := range flows {
				pkts = append(pkts, trains[f][i])
			}
		}
		got := coalesceBack(t, NewCoalescer(false, true), pkts)
		if flows <= coalesceFlows && got != flows {
			t.Errorf("%d flows came out as %d packets", flows, got)
		}
	}
}

// TestCoalesceBarrier: a packet that doesn't show its flow is not overtaken by what came after it.
func TestCoalesceBarrier(t *testing.T) {
	flow := train(pktSpec{udp: true}, 4, 600)
	fragment := pktSpec{udp: true, noDF: true, payload: testBytes(600)}.build()
	fragment[6] = 0x20
	c := NewCoalescer(false, true)
	for _, p := range [][]byte{flow[0], flow[1], fragment, flow[2], flow[3]} {
		c.Add(p)
	}
	out := drain(t, c)
	if len(out) != 3 || !bytes.Equal(out[1].pkt, fragment) || out[0].h.GSOSize != 600 || out[2].h.GSOSize != 600 {
		t.Errorf("came out as %d packets, the fragment not between two merged ones", len(out))
	}
}

func TestCoalesceLimits(t *testing.T) {
	t.Run("65535 bytes", func(t *testing.T) {
		for _, size := range []int{300, 301} {
			c := NewCoalescer(false, true)
			for _, p := range train(pktSpec{}, CoalesceBatch, size) {
				c.Add(p)
			}
			if want := 40 + (65535-40)/size*size; c.Size() != want {
				t.Errorf("pieces of %d make %d bytes, want %d", size, c.Size(), want)
			}
			drain(t, c)
		}
		// The link header does not count: 45 * 1448 + 52 is 65212, one more doesn't fit.
		if got := coalesceBack(t, NewCoalescer(true, true), train(pktSpec{ethernet: true, tcpOpts: timestamps}, 100, 1448)); got != 3 {
			t.Errorf("%d packets came out, want 3", got)
		}
	})
	t.Run("64 datagrams", func(t *testing.T) {
		if got := coalesceBack(t, NewCoalescer(false, true), train(pktSpec{udp: true}, 130, 100)); got != 3 {
			t.Errorf("%d packets came out, want 3", got)
		}
	})
	t.Run("udp off", func(t *testing.T) {
		if got := coalesceBack(t, NewCoalescer(false, false), train(pktSpec{udp: true}, 5, 100)); got != 5 {
			t.Errorf("%d packets came out, want 5", got)
		}
	})
	t.Run("tiny segments", func(t *testing.T) {
		for size, want := range map[int]int{7: 5, 8: 1} {
			if got := coalesceBack(t, NewCoalescer(false, true), train(pktSpec{}, 5, size)); got != want {
				t.Errorf("%d packets of %d bytes came out, want %d", got, size, want)
			}
		}
	})
	t.Run("full batch", func(t *testing.T) {
		c := NewCoalescer(false, true)
		for range 3 {
			pkts := train(pktSpec{}, CoalesceBatch+1, 20)
			for i, p := range pkts {
				if ok := c.Add(p); ok != (i < CoalesceBatch) {
					t.Fatalf("Add of packet %d: %v", i, ok)
				}
			}
			if out := drain(t, c); len(out) != 1 || len(out[0].pkt) != 40+20*CoalesceBatch {
				t.Fatal("a full batch of one flow came out otherwise")
			}
		}
	})
	t.Run("add between", func(t *testing.T) {
		c := NewCoalescer(false, true)
		pkts := train(pktSpec{}, 4, 50)
		other := train(pktSpec{src: 5, dst: 6}, 1, 50)
		c.Add(pkts[0])
		c.Add(other[0])
		buf := make([]byte, 200)
		if _, n, err := c.Next(buf); err != nil || !bytes.Equal(buf[:n], pkts[0]) {
			t.Fatal("first packet differs")
		}
		c.Add(pkts[1])
		c.Add(pkts[2])
		if out := drain(t, c); len(out) != 2 || !bytes.Equal(out[0].pkt, other[0]) || out[1].h.GSOSize != 50 {
			t.Fatal("packets added after the first Next came out otherwise")
		}
	})
}

// TestCoalesceGarbage: anything may be in a batch.
func TestCoalesceGarbage(t *testing.T) {
	good := pktSpec{ethernet: true, payload: testBytes(300)}.build()
	for _, ethernet := range []bool{false, true} {
		p := good
		if !ethernet {
			p = good[14:]
		}
		var pkts [][]byte
		for n := range 70 {
			pkts = append(pkts, p[:n+1])
		}
		for i := range 60 {
			b := clonePkt(p)
			b[i] ^= 0xff
			pkts = append(pkts, b)
		}
		if got := coalesceBack(t, NewCoalescer(ethernet, true), pkts); got != len(pkts) {
			t.Errorf("%d packets came out of %d", got, len(pkts))
		}
	}
}

func ExampleCoalescer() {
	c := NewCoalescer(false, true)
	for _, p := range train(pktSpec{}, 3, 1000) {
		c.Add(p)
	}
	buf := make([]byte, VNetHdrLen+c.Size())
	h, n, _ := c.Next(buf[VNetHdrLen:])
	h.Encode(buf)
	fmt.Println(h.GSOType == GSOTCPv4, h.GSOSize, n) // buf[:VNetHdrLen+n] is for the device
	// Output: true 1000 3040
}

// TestCoalesceTake looks at what stands in the next packet, and takes one out that stands for itself.
func TestCoalesceTake(t *testing.T) {
	s := pktSpec{tcpOpts: timestamps}
	pkts := train(s, 3, 1000)
	s.payload = testBytes(20)
	s.udp, s.tcpOpts = true, nil
	alone := s.build()
	c := NewCoalescer(false, true)
	for _, p := range append(pkts, alone) {
		c.Add(p)
	}
	if n, size := c.Pending(); n != 3 || size != 3*len(pkts[0]) {
		t.Errorf("%d packets of %d bytes, want 3 of %d", n, size, 3*len(pkts[0]))
	}
	if c.Take() != nil {
		t.Error("one of three merged packets was taken")
	}
	if _, _, err := c.Next(make([]byte, 1<<16)); err != nil {
		t.Error(err)
	}
	if n, size := c.Pending(); n != 1 || size != len(alone) {
		t.Errorf("%d packets of %d bytes, want 1 of %d", n, size, len(alone))
	}
	if p := c.Take(); !bytes.Equal(p, alone) {
		t.Errorf("took % x", p)
	}
	if n, _ := c.Pending(); n != 0 || c.Take() != nil {
		t.Error("the batch is not empty")
	}
}
