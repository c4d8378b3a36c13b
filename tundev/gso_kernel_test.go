package tundev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Two network namespaces, a device with every offload in each, and a relay between the devices that treats the kernels' packets in one of
// the ways a tunnel does. Bulk transfers show that what the code under test makes of them is what a kernel accepts, and every
// packet on the way is checked here besides.

// gsoRelay carries packets from one device to another.
type gsoRelay struct {
	t        *testing.T
	from, to *os.File
	tap      bool
	mode     string // whole, split, coalesced

	types  map[uint8]int // GSO packets read, by type
	long   map[uint8]int // those of them with IPv4 options or IPv6 extension headers
	merged int           // GSO packets made by the coalescer
	seen   int           // GSO packets read
}

// run relays until the device is closed.
func (r *gsoRelay) run() {
	in, out := make([]byte, 1<<17), make([]byte, 1<<17)
	segs := make([]byte, 1<<18)
	c := NewCoalescer(r.tap, true)
	var sp Splitter
	for {
		n, err := r.from.Read(in)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				r.t.Errorf("read: %v", err)
			}
			return
		}
		var h VNetHdr
		if err := h.Decode(in[:n]); err != nil {
			r.t.Error(err)
			return
		}
		pkt := in[VNetHdrLen:n]
		good, err := h.Validate(pkt, r.tap)
		if err != nil {
			r.t.Errorf("the kernel's own packet, %+v: %v: %x", h, err, pkt[:min(len(pkt), 100)])
			continue
		}
		if h.GSOType != GSONone {
			r.seen++
			r.types[h.GSOType]++
			if p, err := parseHeaders(pkt, r.tap); err == nil && !p.plain() {
				r.long[h.GSOType]++
			}
			if good.GSOType != h.GSOType || good.GSOSize != h.GSOSize {
				r.t.Errorf("the kernel's header %+v became %+v", h, good)
			}
			if r.seen%16 == 0 {
				r.congest(pkt)
			}
		}
		if r.mode == "whole" {
			good.Encode(in)
			r.write(in[:n])
			continue
		}
		if err := sp.Reset(good, pkt, r.tap); err != nil {
			r.t.Error(err)
			continue
		}
		used := 0
		for n := sp.Size(); n > 0; n = sp.Size() {
			if r.mode == "coalesced" && used+n+VNetHdrLen > len(segs) {
				used = 0
				r.drain(c, out)
			} else if r.mode == "split" {
				used = 0
			}
			seg := segs[used : used+VNetHdrLen+n]
			if _, err := sp.Next(seg[VNetHdrLen:]); err != nil {
				r.t.Error(err)
			}
			r.check(good, seg[VNetHdrLen:])
			if r.mode == "split" {
				VNetHdr{}.Encode(seg)
				r.write(seg)
				continue
			}
			if !c.Add(seg[VNetHdrLen:]) {
				r.t.Error("batch is full")
			}
			used += len(seg)
		}
		r.drain(c, out)
	}
}

// check looks at a packet that was split off or completed.
func (r *gsoRelay) check(h VNetHdr, pkt []byte) {
	if h.Flags&VNetNeedsCsum == 0 {
		return
	}
	if _, err := slowParse(pkt, r.tap); err != nil {
		r.t.Errorf("%v: %x", err, pkt[:min(len(pkt), 100)])
	}
}

func (r *gsoRelay) drain(c *Coalescer, out []byte) {
	for c.Size() > 0 {
		h, n, err := c.Next(out[VNetHdrLen:])
		if err != nil {
			r.t.Error(err)
			return
		}
		if h.GSOType != GSONone {
			r.merged++
		}
		h.Encode(out)
		r.write(out[:VNetHdrLen+n])
	}
}

func (r *gsoRelay) write(b []byte) {
	if _, err := r.to.Write(b); err != nil && !errors.Is(err, os.ErrClosed) {
		r.t.Errorf("write of %d bytes: %v", len(b), err)
	}
}

// congest marks a packet of an ECN-capable sender as a router under load would; the sender answers with CWR.
func (r *gsoRelay) congest(pkt []byte) {
	p, err := parseHeaders(pkt, r.tap)
	if err != nil {
		return
	}
	ip := pkt[p.l3:]
	if p.v6 {
		if ip[1]&0x30 != 0 {
			ip[1] |= 0x30
		}
	} else if ip[1]&3 != 0 {
		ip[1] |= 3
		p.setIPLength(pkt, p.end)
	}
}

func TestGSOKernel(t *testing.T) {
	for _, dev := range []string{"tun", "tap"} {
		for _, mode := range []string{"whole", "split", "coalesced"} {
			t.Run(dev+"/"+mode, func(t *testing.T) { gsoKernelRun(t, dev == "tap", mode) })
		}
	}
}

func gsoKernelRun(t *testing.T, tap bool, mode string) {
	sameDescriptors(t)
	a, b := newGSOHost(t, tap, 1), newGSOHost(t, tap, 2)
	relays := []*gsoRelay{
		{t: t, from: a.dev, to: b.dev, tap: tap, mode: mode, types: map[uint8]int{}, long: map[uint8]int{}},
		{t: t, from: b.dev, to: a.dev, tap: tap, mode: mode, types: map[uint8]int{}, long: map[uint8]int{}},
	}
	var wg sync.WaitGroup
	for _, r := range relays {
		wg.Go(r.run)
	}
	stop := func() {
		a.dev.Close()
		b.dev.Close()
		wg.Wait()
	}
	t.Cleanup(stop) // if the test ends early; closing twice does no harm

	gsoTCP(t, a, b, "tcp4", "10.9.8.2:0", nil)
	gsoTCP(t, a, b, "tcp6", "[fd09::2]:0", nil)
	gsoTCP(t, a, b, "tcp4", "10.9.8.2:0", func(fd int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(ipNops))
	})
	gsoTCP(t, a, b, "tcp6", "[fd09::2]:0", func(fd int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
	})
	gsoUDP(t, a, b, "udp4", "10.9.8.2:0")
	gsoUDP(t, a, b, "udp6", "[fd09::2]:0")

	for _, h := range []*gsoHost{a, b} {
		for name, v := range h.counters(t) {
			if v != 0 {
				t.Errorf("counter %s is %d", name, v)
			}
		}
	}
	stop()
	want := []uint8{GSOTCPv4, GSOTCPv6, GSOTCPv4 | GSOECN, GSOTCPv6 | GSOECN}
	if a.uso {
		want = append(want, GSOUDPL4)
	}
	for _, typ := range want {
		if relays[0].types[typ] == 0 {
			t.Errorf("no packet of gso type %#x went through", typ)
		}
	}
	for _, typ := range []uint8{GSOTCPv4, GSOTCPv6} {
		if relays[0].long[typ] == 0 {
			t.Errorf("no packet of gso type %#x with options or extension headers went through", typ)
		}
	}
	if mode == "coalesced" && (relays[0].merged == 0 || relays[1].merged == 0) {
		t.Error("nothing was merged")
	}
	t.Logf("gso packets there: %v, back: %v, merged: %d, %d", relays[0].types, relays[1].types, relays[0].merged, relays[1].merged)
}

// The tests below compare Splitter and Complete with the kernel's own work: each packet goes as it is into a device with offloads, is routed or
// bridged to one without, and what comes out there must be the same bytes.

func TestGSOKernelSplitsRouted(t *testing.T) {
	h := newGSOHost(t, false, 250)
	plain, err := h.openPlain(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	if err := h.routeToPlain(); err != nil {
		t.Fatal(err)
	}
	for name, s := range shapes() {
		compareKernelSplit(t, h, plain, name, s, 63) // what a router leaves of a TTL of 64
	}
}

// TestGSOKernelSplitsBridged has VLAN tags too, which a bridge passes whether the kernel knows VLAN devices or not.
func TestGSOKernelSplitsBridged(t *testing.T) {
	h := newGSOHost(t, true, 250)
	plain, err := h.openPlain(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	if err := h.bridgeToPlain(); err != nil {
		t.Skipf("no bridge to be had: %v", err)
	}
	for name, shape := range shapes() {
		for link, s := range links(shape) {
			if s.ethernet {
				compareKernelSplit(t, h, plain, name+"/"+link, s, 64)
			}
		}
	}
}

func compareKernelSplit(t *testing.T, h *gsoHost, plain *os.File, name string, s pktSpec, ttl uint8) {
	for _, c := range []struct{ payload, size int }{{4000, 1000}, {4001, 1000}, {4600, 1000}, {500, 0}} {
		if s.udp && c.size > 0 && !h.uso {
			t.Logf("%s: this kernel has no UDP_L4", name)
			continue
		}
		t.Run(fmt.Sprintf("%s/%d by %d", name, c.payload, c.size), func(t *testing.T) {
			s := s
			s.payload = testBytes(c.payload)
			hdr, pkt := s.buildGSO(c.size)
			good, err := hdr.Validate(pkt, s.ethernet)
			if err != nil {
				t.Fatal(err)
			}
			in := make([]byte, VNetHdrLen, VNetHdrLen+len(pkt))
			good.Encode(in)
			if _, err := h.dev.Write(append(in, pkt...)); err != nil {
				t.Fatal(err)
			}
			s.ttl = ttl
			hdr, pkt = s.buildGSO(c.size)
			for i, want := range splitAll(t, hdr, pkt, s.ethernet) {
				if got := readTestPacket(t, plain, s); !bytes.Equal(got, want) {
					t.Fatalf("segment %d: the kernel made\n%x, not\n%x", i, got[:min(len(got), 120)], want[:min(len(want), 120)])
				}
			}
		})
	}
}

// readTestPacket returns the next packet from the source that s has, passing over what the kernel sends of its own accord.
func readTestPacket(t *testing.T, dev *os.File, s pktSpec) []byte {
	t.Helper()
	dev.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 2000)
	mark, at := testSrc4, 12
	switch {
	case s.ethernet:
		mark, at = []byte{2, 0, 0, 0, 0, 2}, 6
	case s.v6:
		mark, at = testSrc6, 8
	}
	for {
		n, err := dev.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n >= at+len(mark) && bytes.Equal(buf[at:at+len(mark)], mark) {
			return buf[:n]
		}
	}
}

const gsoBulk = 4 << 20

// gsoTCP moves gsoBulk bytes in each direction at once over one connection, with an option set on the connecting socket, and compares checksums.
func gsoTCP(t *testing.T, a, b *gsoHost, network, addr string, option func(fd int) error) {
	t.Helper()
	var ln net.Listener
	var client, server net.Conn
	err := inNS(b.ns, func() (err error) {
		ln, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	err = inNS(a.ns, func() (err error) {
		d := net.Dialer{Timeout: 10 * time.Second}
		if option != nil {
			d.ControlContext = func(_ context.Context, _, _ string, c syscall.RawConn) error {
				var err error
				if cerr := c.Control(func(fd uintptr) { err = option(int(fd)) }); cerr != nil {
					return cerr
				}
				return err
			}
		}
		client, err = d.Dial(network, ln.Addr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	data := testBytes(gsoBulk)
	sum := crc32.ChecksumIEEE(data)
	var wg sync.WaitGroup
	for _, c := range []net.Conn{client, server} {
		c.SetDeadline(time.Now().Add(60 * time.Second))
		wg.Go(func() {
			if _, err := c.Write(data); err != nil {
				t.Error(err)
			}
			c.(*net.TCPConn).CloseWrite()
		})
		wg.Go(func() {
			h := crc32.NewIEEE()
			if n, err := io.Copy(h, c); err != nil || n != gsoBulk || h.Sum32() != sum {
				t.Errorf("%s: %d bytes came, error %v, checksum %08x, want %08x", network, n, err, h.Sum32(), sum)
			}
		})
	}
	wg.Wait()
}

// gsoUDP sends bursts of datagrams, each burst by one call with UDP_SEGMENT (Linux 4.18), and waits for an answer after each, so that no
// buffer runs over.
func gsoUDP(t *testing.T, a, b *gsoHost, network, addr string) {
	t.Helper()
	const size, burst, last = 1200, 40, 77
	var server net.PacketConn
	var client net.Conn
	err := inNS(b.ns, func() (err error) {
		server, err = net.ListenPacket(network, addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	err = inNS(a.ns, func() (err error) {
		client, err = net.Dial(network, server.LocalAddr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	raw, err := client.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) })
	if err != nil {
		t.Skipf("UDP_SEGMENT: %v", err)
	}
	client.SetDeadline(time.Now().Add(20 * time.Second))
	server.SetDeadline(time.Now().Add(20 * time.Second))
	data := testBytes(size*burst + last)
	buf := make([]byte, 2*size)
	for range 50 {
		if _, err := client.Write(data); err != nil {
			t.Fatal(err)
		}
		var peer net.Addr
		for i := range burst + 1 {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				t.Fatalf("%s datagram %d: %v", network, i, err)
			}
			if !bytes.Equal(buf[:n], data[i*size:min(len(data), (i+1)*size)]) {
				t.Fatalf("%s datagram %d of %d bytes differs", network, i, n)
			}
			peer = from
		}
		if _, err := server.WriteTo([]byte("ok"), peer); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
}
