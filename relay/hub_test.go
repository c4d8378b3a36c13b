package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pkg/errors"
)

// hubConfig is a hub without offloads, limits as by default.
func hubConfig(t Traffic) HubConfig {
	return HubConfig{Label: "hub", Traffic: t, Ageing: 300 * time.Second, Hold: time.Minute, Table: 4096, Queue: 1 << 20}
}

func newTestHub(t *testing.T, c HubConfig) *Hub {
	t.Helper()
	h, err := NewHub(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// join makes a port for a peer, and a session of it that is not run.
func join(t *testing.T, h *Hub, peer *Endpoint, id byte) *Endpoint {
	t.Helper()
	ep, err := h.Port()
	if err != nil {
		t.Fatal(err)
	}
	if err := ep.Admit(NewSession(peer, ep, Config{}), peer, PeerInfo{Identity: [16]byte{id}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ep.Close() })
	return ep
}

func ethernet(dst, src string, vlan int, payload string) []byte {
	f := append(mac(dst), mac(src)...)
	if vlan > 0 {
		f = binary.BigEndian.AppendUint16(append(f, 0x81, 0x00), uint16(vlan))
	}
	return append(append(f, 0x88, 0xb6), payload...)
}

// mac makes an address of its last byte, or "all".
func mac(s string) []byte {
	if s == "all" {
		return bytes.Repeat([]byte{0xff}, 6)
	}
	return []byte{2, 0, 0, 0, s[0], s[len(s)-1]}
}

func hubPacket(dst, src byte, payload string) []byte {
	p := make([]byte, 20, 20+len(payload))
	p[0] = 0x45
	copy(p[12:], []byte{10, 0, 0, src})
	copy(p[16:], []byte{10, 0, 0, dst})
	return append(p, payload...)
}

func put(t *testing.T, ep *Endpoint, p []byte) {
	t.Helper()
	if _, err := ep.W.Write(p); err != nil {
		t.Fatal(err)
	}
}

// waiting returns the last bytes of all packets that wait at a port, as one word. Switching is done when Write returns, so nothing is waited for.
func waiting(t *testing.T, ep *Endpoint) string {
	t.Helper()
	port := ep.R.(*Port)
	if err := port.hub.Err(); err != nil {
		t.Fatal(err)
	}
	var got []byte
	b := NewBatch(0)
	for {
		b.Reset()
		if port.fill(b); b.Len() == 0 {
			return string(got)
		}
		for i := range b.Len() {
			p := b.Packet(i)
			got = append(got, p[len(p)-1])
		}
	}
}

func expect(t *testing.T, what string, ep *Endpoint, want string) {
	t.Helper()
	if got := waiting(t, ep); got != want {
		t.Errorf("%s: got %q, wanted %q", what, got, want)
	}
}

func TestHubSwitchesFrames(t *testing.T) {
	h := newTestHub(t, hubConfig(TAP))
	a, b, c := join(t, h, &Endpoint{Label: "a"}, 0), join(t, h, &Endpoint{Label: "b"}, 0), join(t, h, &Endpoint{Label: "c"}, 0)
	put(t, a, ethernet("b", "a", 0, "1")) // unknown: to all
	put(t, b, ethernet("a", "b", 0, "2")) // known
	put(t, a, ethernet("b", "a", 0, "3"))
	put(t, c, ethernet("all", "c", 0, "4"))
	put(t, a, ethernet("b", "a", 7, "5"))   // not known in this VLAN
	put(t, a, ethernet("a2", "a", 0, "6"))  // unknown
	put(t, a, ethernet("b", "a2", 0, "7"))  // another host behind the same peer
	put(t, a, ethernet("a2", "a", 0, "8"))  // its neighbour has it already
	put(t, a, ethernet("b", "all", 0, "x")) // a group can't send
	put(t, a, []byte("short"))
	reserved := ethernet("all", "a", 0, "9")
	copy(reserved, []byte{0x01, 0x80, 0xc2, 0, 0, 0}) // spanning tree passes
	put(t, a, reserved)
	reserved[5], reserved[len(reserved)-1] = 0x0e, 'x' // LLDP does not
	put(t, a, reserved)
	for _, pi := range []bool{false, true} {
		hello, err := (&Hello{Kind: DeviceTAP, PI: pi, Nonce: NewNonce()}).AppendPacket(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !pi {
			copy(hello[6:], mac("a")) // whatever its sender says
		}
		put(t, a, hello)
	}
	expect(t, "a", a, "24")
	expect(t, "b", b, "134"+"5679")
	expect(t, "c", c, "1569")
	s := h.Stats()
	if s.Dropped["malformed"] != 2 || s.Dropped["reserved address"] != 1 || s.Dropped["hello"] != 2 {
		t.Errorf("dropped: %v", s.Dropped)
	}
	if p := s.Ports[0]; p.Label != "a" || p.Addresses != 3 || p.Sent.Packets != 2 { // a, a2, and a in VLAN 7
		t.Errorf("port a: %+v", p)
	}
	c.Close()
	put(t, a, ethernet("c", "a", 0, "1"))
	expect(t, "b after c has left", b, "1")
}

func TestHubIsolates(t *testing.T) {
	cfg := hubConfig(TAP)
	dev, host := newTestDevice(TAP)
	cfg.Device, cfg.Isolate = dev, true
	h := newTestHub(t, cfg)
	a, b := join(t, h, &Endpoint{Label: "a"}, 0), join(t, h, &Endpoint{Label: "b"}, 0)
	put(t, a, ethernet("all", "a", 0, "1"))
	put(t, b, ethernet("a", "b", 0, "2"))
	expect(t, "b", b, "")
	expect(t, "a", a, "")
	host.send <- ethernet("all", "d", 0, "3")
	b2 := NewBatch(0)
	for _, ep := range []*Endpoint{a, b} {
		b2.Reset()
		if err := ep.R.(BatchReader).ReadBatch(b2); err != nil || b2.Len() != 1 {
			t.Errorf("%d packets, %v", b2.Len(), err)
		}
	}
	if got := host.received(); got != "1" {
		t.Errorf("the device got %q", got)
	}
}

func TestHubDistributesPackets(t *testing.T) {
	cfg := hubConfig(TUN)
	dev, host := newTestDevice(TUN)
	cfg.Device = dev
	h := newTestHub(t, cfg)
	a, b, c := join(t, h, &Endpoint{Label: "a"}, 0), join(t, h, &Endpoint{Label: "b"}, 0), join(t, h, &Endpoint{Label: "c"}, 0)
	put(t, a, hubPacket(2, 1, "1")) // not known: to the device, whose host has routes
	put(t, b, hubPacket(1, 2, "2"))
	put(t, a, hubPacket(2, 1, "3"))
	multi := hubPacket(0, 1, "4")
	copy(multi[16:], []byte{224, 0, 0, 251})
	put(t, a, multi)
	put(t, a, []byte{0x45, 0, 0})
	expect(t, "a", a, "2")
	expect(t, "b", b, "34")
	expect(t, "c", c, "4")
	if got := host.received(); got != "14" {
		t.Errorf("the device got %q", got)
	}
	host.send <- hubPacket(77, 100, "5") // nobody's
	host.send <- hubPacket(2, 100, "6")
	one := NewBatch(0)
	if err := b.R.(BatchReader).ReadBatch(one); err != nil || one.Len() != 1 {
		t.Fatalf("%d packets, %v", one.Len(), err)
	}
	if d := h.Stats().Dropped; d["unknown destination"] != 1 || d["malformed"] != 1 {
		t.Errorf("dropped: %v", d)
	}
	// An address of the device is not given to a peer.
	put(t, c, hubPacket(1, 100, "7"))
	expect(t, "a", a, "")
	if d := h.Stats().Dropped["foreign source address"]; d != 1 {
		t.Errorf("%d foreign addresses", d)
	}
}

func TestHubClaims(t *testing.T) {
	cfg := hubConfig(TAP)
	h := newTestHub(t, cfg)
	keyed := join(t, h, &Endpoint{Label: "keyed", Authenticated: true}, 0)
	open, thief := join(t, h, &Endpoint{Label: "open"}, 0), join(t, h, &Endpoint{Label: "thief", Authenticated: true}, 0)
	put(t, keyed, ethernet("all", "k", 0, "1"))
	put(t, open, ethernet("all", "o", 0, "2"))
	put(t, thief, ethernet("all", "k", 0, "x"))
	put(t, thief, ethernet("all", "o", 0, "3")) // who has no key keeps nothing
	put(t, open, ethernet("k", "p", 0, "4"))
	put(t, keyed, ethernet("o", "k", 0, "5"))
	expect(t, "keyed", keyed, "234")
	expect(t, "thief", thief, "125")
	expect(t, "open", open, "13")
	if d := h.Stats().Dropped["foreign source address"]; d != 1 {
		t.Errorf("%d claims", d)
	}
	// Who has left has no rights.
	keyed.Close()
	waiting(t, thief)
	put(t, thief, ethernet("all", "k", 0, "6"))
	put(t, open, ethernet("k", "p", 0, "7"))
	expect(t, "thief has the address", thief, "7")
}

func TestHubHoldEnds(t *testing.T) {
	cfg := hubConfig(TAP)
	cfg.Hold = time.Nanosecond
	h := newTestHub(t, cfg)
	keyed, other := join(t, h, &Endpoint{Label: "keyed", Authenticated: true}, 0), join(t, h, &Endpoint{Label: "other"}, 0)
	put(t, keyed, ethernet("all", "k", 0, "1"))
	put(t, other, ethernet("all", "k", 0, "2"))
	expect(t, "keyed", keyed, "2")
	h.epoch = h.epoch.Add(-400 * time.Second) // as if so much time had passed
	if n := h.Stats().Ports[1].Addresses; n != 0 {
		t.Errorf("%d addresses have not aged", n)
	}
}

func TestHubTakeOver(t *testing.T) {
	h := newTestHub(t, hubConfig(TAP))
	far := func(keyed bool) *Endpoint {
		return &Endpoint{Label: fmt.Sprintf("keyed %v", keyed), Authenticated: keyed}
	}
	ep, err := h.Port()
	if err != nil {
		t.Fatal(err)
	}
	peer := far(true)
	old := NewSession(peer, ep, Config{})
	if err := ep.Admit(old, peer, PeerInfo{Identity: [16]byte{1}}); err != nil {
		t.Fatal(err)
	}
	defer ep.Close()
	put(t, ep, ethernet("all", "k", 0, "1"))
	stranger, err := h.Port()
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := stranger.Admit(NewSession(far(false), stranger, Config{}), far(false), PeerInfo{Identity: [16]byte{1}}); err == nil {
		t.Error("a peer without a key took the place of one with a key")
	}
	again := join(t, h, far(true), 1)
	if _, err := ep.R.Read(make([]byte, MaxPacket)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the old session goes on: %v", err)
	}
	put(t, again, ethernet("all", "k", 0, "2"))
	if s := h.Stats(); len(s.Ports) != 1 || s.Ports[0].Addresses != 1 || s.Dropped["foreign source address"] != 0 {
		t.Errorf("%+v", s)
	}
}

// TestHubTable floods a hub with addresses.
func TestHubTable(t *testing.T) {
	cfg := hubConfig(TAP)
	cfg.Table = 100
	h := newTestHub(t, cfg)
	honest := join(t, h, &Endpoint{Label: "honest"}, 0)
	put(t, honest, ethernet("all", "h", 0, "1"))
	var flooders []*Endpoint
	for range 4 {
		flooders = append(flooders, join(t, h, &Endpoint{Label: "flooder"}, 0))
	}
	for i := range 2000 {
		f := ethernet("h", "f", 0, "x")
		binary.BigEndian.PutUint32(f[8:], uint32(i))
		put(t, flooders[i%4], f)
	}
	latecomer := join(t, h, &Endpoint{Label: "latecomer"}, 0)
	put(t, latecomer, ethernet("h", "l", 0, "2"))
	s := h.Stats()
	total := 0
	for _, p := range s.Ports {
		total += p.Addresses
		if p.Addresses > cfg.Table/2 {
			t.Errorf("%+v", p)
		}
	}
	if total > cfg.Table || total < cfg.Table-1 || s.Ports[0].Addresses != 1 || s.Ports[5].Addresses != 1 || s.Dropped["sources not learned"] == 0 {
		t.Errorf("%d addresses: %+v", total, s)
	}
}

func TestHubQueueIsBounded(t *testing.T) {
	cfg := hubConfig(TAP)
	h := newTestHub(t, cfg)
	sender, stuck, reader := join(t, h, &Endpoint{Label: "sender"}, 0), join(t, h, &Endpoint{Label: "stuck"}, 0), join(t, h, &Endpoint{Label: "reader"}, 0)
	for _, size := range []int{60, 1500, 60000} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		read := 0
		for range 3000 {
			put(t, sender, ethernet("all", "s", 0, strings.Repeat("x", size-14)))
			read += len(waitingNow(reader))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if read != 3000 {
			t.Errorf("%d bytes: %d of 3000 arrived at the peer that reads", size, read)
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
			t.Errorf("%d bytes: %d KiB for a queue of 1 MiB", size, grown>>10)
		}
		n := len(waiting(t, stuck))
		if n > 1024 || n*size > 1<<20 || n < min(1000, 900<<10/size) {
			t.Errorf("%d packets of %d bytes waited", n, size)
		}
		if d := h.Stats().Ports[1].Dropped; d == 0 {
			t.Error("nothing was dropped")
		}
	}
}

// A queue that is never empty keeps its bound.
func TestHubQueueCountsBytes(t *testing.T) {
	var q queue
	q.init(1 << 20)
	short, long := make([]byte, 60), make([]byte, 60000)
	for range 20000 {
		for {
			if q.put(short, false); len(q.runs) > 2 {
				break
			}
		}
		q.take(0).release()
	}
	n := 0
	for took := true; took; n++ {
		took, _ = q.put(long, false)
	}
	if n > 1<<20/len(long)+1 {
		t.Errorf("%d packets of %d bytes in a queue of 1 MiB", n-1, len(long))
	}
}

// waitingNow is waiting for a port that has something.
func waitingNow(ep *Endpoint) string {
	b := NewBatch(0)
	if err := ep.R.(BatchReader).ReadBatch(b); err != nil {
		return ""
	}
	return strings.Repeat("x", b.Len())
}

func TestHubFloodLimit(t *testing.T) {
	cfg := hubConfig(TAP)
	cfg.Flood = 100
	h := newTestHub(t, cfg)
	storm, other := join(t, h, &Endpoint{Label: "storm"}, 0), join(t, h, &Endpoint{Label: "other"}, 0)
	put(t, other, ethernet("all", "o", 0, "y"))
	for range 1000 {
		put(t, storm, ethernet("all", "s", 0, "x"))
	}
	put(t, storm, ethernet("o", "s", 0, "z")) // to one: no flood
	got := waiting(t, other)
	if !strings.HasSuffix(got, "z") || len(got) > 60 || len(got) < 20 {
		t.Errorf("%d packets of a storm arrived", len(got))
	}
	if d := h.Stats().Dropped["flood limit"]; int(d) != 1001-len(got) {
		t.Errorf("%d dropped, %d delivered", d, len(got))
	}
}

// A port hands out whole runs by exchanging memory where it can; the result is the same as by copying.
func TestHubPortKeepsPackets(t *testing.T) {
	cfg := hubConfig(TAP)
	cfg.Queue = 64 << 20
	cfg.Check = func([]byte) error { return nil }
	cfg.NewSegmenter = func() Segmenter { return nil }
	h := newTestHub(t, cfg)
	from, to := join(t, h, &Endpoint{Label: "from"}, 0), join(t, h, &Endpoint{Label: "to"}, 0)
	if err := to.Offload.Accept(CapVNet); err != nil {
		t.Fatal(err)
	}
	batches := []*Batch{NewBatch(LinkHeadLen), NewBatch(LinkHeadLen), NewBatch(2)}
	sent, got := 0, 0
	for round := range 200 {
		for range 1 + round*7%300 {
			put(t, from, ethernet("all", "s", 0, fmt.Sprintf("%08d%s", sent, strings.Repeat("x", sent*37%3000))))
			sent++
		}
		for got < sent {
			b := batches[round%3]
			b.Reset()
			b.VNet = round%5 != 0
			if err := to.R.(BatchReader).ReadBatch(b); err != nil {
				t.Fatal(err)
			}
			for i := range b.Len() {
				p := b.payload(i)
				if want := fmt.Sprintf("%08d", got); string(p[14:22]) != want || len(p) != 22+got*37%3000 || len(b.head(i)) != b.Head {
					t.Fatalf("packet %s: %d bytes, %q", want, len(p), p[14:22])
				}
				got++
			}
		}
	}
	if s := h.Stats().Ports[1]; s.Sent.Packets != uint64(sent) || s.Dropped != 0 {
		t.Errorf("%d sent: %+v", sent, s)
	}
}

// TestHubFails ends a hub whose device breaks: all its ports end.
func TestHubFails(t *testing.T) {
	cfg := hubConfig(TAP)
	dev, host := newTestDevice(TAP)
	failed := make(chan error, 2)
	cfg.Device, cfg.Failed = dev, func(err error) { failed <- err }
	h := newTestHub(t, cfg)
	a := join(t, h, &Endpoint{Label: "a"}, 0)
	close(host.send)
	if err := <-failed; errors.Cause(err) != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	if _, err := a.R.Read(make([]byte, MaxPacket)); errors.Cause(err) != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	if _, err := a.W.Write(ethernet("all", "a", 0, "1")); errors.Cause(err) != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	if _, err := h.Port(); errors.Cause(err) != io.ErrUnexpectedEOF {
		t.Error(err)
	}
}

// testHost is the other side of a device made of channels.
type testHost struct {
	send    chan []byte // closed: the device breaks
	got     chan []byte
	stopped deadline
}

func newTestDevice(t Traffic) (*Endpoint, *testHost) {
	h := &testHost{send: make(chan []byte), got: make(chan []byte, 100)}
	h.stopped.set(time.Time{})
	return &Endpoint{Label: "dev", Traffic: t, MTU: 1500, R: h, W: h}, h
}

func (h *testHost) received() string {
	var s []byte
	for len(h.got) > 0 {
		p := <-h.got
		s = append(s, p[len(p)-1])
	}
	return string(s)
}

func (h *testHost) Read(p []byte) (int, error) {
	select {
	case pkt, ok := <-h.send:
		if !ok {
			return 0, io.ErrUnexpectedEOF
		}
		return copy(p, pkt), nil
	case <-h.stopped.wait():
		return 0, os.ErrDeadlineExceeded
	}
}

func (h *testHost) Write(p []byte) (int, error) {
	h.got <- bytes.Clone(p)
	return len(p), nil
}

func (h *testHost) SetReadDeadline(t time.Time) error {
	h.stopped.set(t)
	return nil
}
func (h *testHost) SetWriteDeadline(time.Time) error { return nil }
func (h *testHost) CloseWrite() error                { return nil }

func BenchmarkHubSwitch(b *testing.B) {
	h, err := NewHub(hubConfig(TAP))
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	var eps []*Endpoint
	for _, name := range []string{"a", "b"} {
		ep, err := h.Port()
		if err != nil {
			b.Fatal(err)
		}
		peer := &Endpoint{Label: name}
		if err := ep.Admit(NewSession(peer, ep, Config{}), peer, PeerInfo{}); err != nil {
			b.Fatal(err)
		}
		defer ep.Close()
		eps = append(eps, ep)
	}
	eps[1].W.Write(ethernet("all", "b", 0, "x"))
	f := ethernet("b", "a", 0, strings.Repeat("x", 1400))
	batch := NewBatch(LinkHeadLen)
	b.ReportAllocs()
	b.SetBytes(int64(len(f)))
	for i := 0; b.Loop(); i++ {
		if _, err := eps[0].W.Write(f); err != nil {
			b.Fatal(err)
		}
		if i%100 == 99 {
			batch.Reset()
			if err := eps[1].R.(BatchReader).ReadBatch(batch); err != nil {
				b.Fatal(err)
			}
		}
	}
}
