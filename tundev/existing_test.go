package tundev

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var sprintf = fmt.Sprintf

// prepared makes a persistent device as an administrator would, and closes it.
func prepared(t *testing.T, c Config) {
	t.Helper()
	c.Persist = new(true)
	d, err := Open(c)
	if err != nil {
		t.Fatalf("%v (%s)", err, Advice(err))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// state describes an interface by everything that Open may change.
func state(t *testing.T, nl *netlink.Handle, name string) string {
	t.Helper()
	l := linkOf(t, nl, name)
	a := l.Attrs()
	routes, err := nl.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsLinkLocalUnicast() && !r.Dst.IP.IsMulticast() {
			list = append(list, fmt.Sprintf("%s via %s metric %d", r.Dst, r.Gw, r.Priority))
		}
	}
	slices.Sort(list)
	flags := a.RawFlags &^ (unix.IFF_RUNNING | unix.IFF_LOWER_UP)
	return fmt.Sprintf("%s %s mtu %d qlen %d mac %s master %d persist %t addrs %s routes %s", name, flagNames(flags), a.MTU, a.TxQLen,
		a.HardwareAddr, a.MasterIndex, !l.(*netlink.Tuntap).NonPersist, addrsOf(t, nl, name), strings.Join(list, ", "))
}

// rich is a configuration that changes everything Close takes back.
func rich(ns, name string) Config {
	return Config{Name: name, Kind: TAP, NetNS: ns, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, MTU: 1400, TxQueueLen: 88, Bridge: "br",
		Addrs:    []Address{address("10.0.6.1/24"), address("10.1.0.1/16"), address("fd00::1/64")},
		Routes:   []Route{{Dst: prefix("10.6.0.0/16")}, {Dst: prefix("fd06::/64")}, {prefix("10.7.0.0/16"), netip.MustParseAddr("10.0.6.2"), 3}},
		FlagsSet: unix.IFF_UP | unix.IFF_PROMISC | unix.IFF_NOARP, FlagsClear: unix.IFF_MULTICAST}
}

// TestUndo: a device that was there looks after Close as it did before Open.
func TestUndo(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	for _, before := range []Config{
		{Name: "bare", Kind: TAP, NetNS: ns},
		{Name: "up", Kind: TAP, NetNS: ns, FlagsSet: unix.IFF_UP, Addrs: []Address{address("10.1.0.1/16")}, Routes: []Route{{Dst: prefix("10.6.0.0/16")}}},
	} {
		prepared(t, before)
		was := state(t, nl, before.Name)
		d := mustOpen(t, rich(ns, before.Name))
		if d.Created() {
			t.Error("created")
		}
		during := state(t, nl, before.Name)
		if !strings.Contains(during, "10.0.6.1/24") || !strings.Contains(during, "10.7.0.0/16 via 10.0.6.2 metric 3") {
			t.Errorf("during: %s", during)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if now := state(t, nl, before.Name); now != was {
			t.Errorf("before: %s\nafter:  %s", was, now)
		}
		noLink(t, nl, "br")
		if err := InNetNS(ns, func() error { return Delete(before.Name) }); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenedByTwo: two open a device of several queues at the same moment, whoever makes it, and who closes first leaves it as the other wants it.
func TestOpenedByTwo(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	c := Config{Name: "two", NetNS: ns, MultiQueue: true, FlagsSet: unix.IFF_UP, Addrs: []Address{address("10.1.0.1/16")}, Routes: []Route{{Dst: prefix("10.6.0.0/16")}}}
	for range 50 {
		start, opened := make(chan struct{}), make(chan *Device)
		for range 2 {
			go func() {
				<-start
				d, err := Open(c)
				if err != nil {
					t.Errorf("%v (%s)", err, Advice(err))
				}
				opened <- d
			}()
		}
		close(start)
		a, b := <-opened, <-opened
		if a == nil || b == nil {
			t.FailNow()
		}
		was := state(t, nl, c.Name)
		if !strings.Contains(was, "10.1.0.1/16") || !strings.Contains(was, "10.6.0.0/16") {
			t.Fatalf("opened: %s", was)
		}
		for _, d := range []*Device{a, b} {
			if now := state(t, nl, c.Name); now != was {
				t.Fatalf("opened: %s\nafter one was closed: %s", was, now)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		noLink(t, nl, c.Name)
	}
}

// TestUndoAfterFailure: the same when Open fails in its last steps.
func TestUndoAfterFailure(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	prepared(t, Config{Name: "p", Kind: TAP, NetNS: ns})
	was := state(t, nl, "p")
	c := rich(ns, "p")
	c.Persist = new(true)
	c.Routes = append(c.Routes, Route{Dst: prefix("10.8.0.0/16"), Via: netip.MustParseAddr("10.66.0.1")})
	if d, err := Open(c); err == nil {
		d.Close()
		t.Fatal("no error")
	}
	if now := state(t, nl, "p"); now != was {
		t.Errorf("before: %s\nafter:  %s", was, now)
	}
	noLink(t, nl, "br")
}

// TestSameTwice: what is already as wanted is neither changed nor taken back, and is noted.
func TestSameTwice(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	prepared(t, rich(ns, "p"))
	was := state(t, nl, "p")
	c := rich(ns, "p")
	var notes []string
	c.Logf = func(format string, args ...any) { notes = append(notes, sprintf(format, args...)) }
	d := mustOpen(t, c)
	if n := len(d.settings.undo); n != 0 {
		t.Errorf("%d changes: %+v", n, d.settings.undo)
	}
	want := []string{"p: address 10.0.6.1/24 is there already", "p: address 10.1.0.1/16 is there already", "p: address fd00::1/64 is there already",
		"p: route 10.6.0.0/16 is there already", "p: route fd06::/64 is there already", "p: route 10.7.0.0/16 via 10.0.6.2 metric 3 is there already"}
	if !slices.Equal(notes, want) {
		t.Errorf("notes %q", notes)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if now := state(t, nl, "p"); now != was {
		t.Errorf("before: %s\nafter:  %s", was, now)
	}
}

// TestOthersChanges: what somebody else changed after us is left as it is.
func TestOthersChanges(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	prepared(t, Config{Name: "p", NetNS: ns})
	d := mustOpen(t, Config{Name: "p", NetNS: ns, MTU: 1400, TxQueueLen: 88, FlagsSet: unix.IFF_UP, Addrs: []Address{address("10.0.6.1/24")}})
	l := linkOf(t, nl, "p")
	if err := nl.LinkSetMTU(l, 1300); err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr("10.0.6.1/24")
	if err := nl.AddrDel(l, addr); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if a := linkOf(t, nl, "p").Attrs(); a.MTU != 1300 || a.TxQLen != 500 || a.Flags&net.FlagUp != 0 {
		t.Errorf("mtu %d, qlen %d, flags %s", a.MTU, a.TxQLen, a.Flags)
	}
}

// TestPersist: persistence changes only on request.
func TestPersist(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	prepared(t, Config{Name: "p", NetNS: ns, MTU: 1400, Addrs: []Address{address("10.0.6.1/24")}})
	if got := addrsOf(t, nl, "p"); got != "10.0.6.1/24" {
		t.Errorf("addresses %q", got)
	}
	if err := mustOpen(t, Config{Name: "p", NetNS: ns}).Close(); err != nil {
		t.Error(err)
	}
	linkOf(t, nl, "p")
	if err := mustOpen(t, Config{Name: "p", NetNS: ns, Persist: new(false)}).Close(); err != nil {
		t.Error(err)
	}
	noLink(t, nl, "p")

	d := mustOpen(t, Config{Name: "q", NetNS: ns})
	for _, on := range []bool{true, false, true} {
		if err := d.SetPersist(on); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	linkOf(t, nl, "q")
}

// TestSetters changes settings of an open device; Close takes them back.
func TestSetters(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	prepared(t, Config{Name: "p", Kind: TAP, NetNS: ns})
	was := state(t, nl, "p")
	d := mustOpen(t, Config{Name: "p", Kind: TAP, NetNS: ns, VNetHdr: true})
	for what, err := range map[string]error{
		"mtu":      d.SetMTU(1300),
		"qlen":     d.SetTxQueueLen(9),
		"up":       d.SetUp(true),
		"mac":      d.SetMAC(net.HardwareAddr{2, 0, 0, 0, 0, 5}),
		"flags":    d.SetFlags(unix.IFF_PROMISC, 0),
		"address":  d.AddAddress(address("10.0.6.1/24")),
		"offload":  d.SetOffload(OffloadCsum | OffloadTSO4 | OffloadTSO6 | OffloadTSOECN),
		"none":     d.SetOffload(0),
		"sndbuf":   d.SetSendBuffer(1 << 20),
		"carrier":  d.SetCarrier(false),
		"carrier2": d.SetCarrier(true),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := d.AddRoute(Route{Dst: prefix("10.9.0.0/16")}); err != nil {
		t.Error(err)
	}
	if flags, err := d.Flags(); err != nil || flags&(unix.IFF_UP|unix.IFF_PROMISC) != unix.IFF_UP|unix.IFF_PROMISC {
		t.Errorf("flags %s, %v", flagNames(flags), err)
	}
	if got := state(t, nl, "p"); !strings.Contains(got, "mtu 1300 qlen 9 mac 02:00:00:00:00:05") || !strings.Contains(got, "10.9.0.0/16 via") {
		t.Error(got)
	}
	for what, err := range map[string]error{
		"offload without checksum": d.SetOffload(OffloadTSO4), "unknown offload": d.SetOffload(1 << 30), "mtu": d.SetMTU(1), "mac": d.SetMAC(nil),
		"address": d.AddAddress(Address{}), "route": d.AddRoute(Route{}), "flags": d.SetFlags(1, 1), "sndbuf": d.SetSendBuffer(0), "qlen": d.SetTxQueueLen(-1),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if now := state(t, nl, "p"); now != was {
		t.Errorf("before: %s\nafter:  %s", was, now)
	}
}

// TestCarrier: the host's view follows SetCarrier.
func TestCarrier(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	d := mustOpen(t, Config{Name: "c", NetNS: ns, FlagsSet: unix.IFF_UP})
	for _, on := range []bool{true, false, true} {
		if err := d.SetCarrier(on); err != nil {
			t.Fatal(err)
		}
		if got := linkOf(t, nl, "c").Attrs().RawFlags&unix.IFF_LOWER_UP != 0; got != on {
			t.Errorf("carrier %t, want %t", got, on)
		}
	}
}

// TestStaleOffload: what a program before us has left on is off.
func TestStaleOffload(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	d := mustOpen(t, Config{Name: "o", NetNS: ns, VNetHdr: true, Persist: new(true)})
	if err := d.SetOffload(OffloadCsum | OffloadTSO4); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = mustOpen(t, Config{Name: "o", NetNS: ns, VNetHdr: true, FlagsSet: unix.IFF_UP, Addrs: []Address{address("10.0.6.1/24")}})
	c := exchange(t, ns, "10.0.6.2:9")
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	for {
		n, err := d.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n > 10 && isUDP4(buf[10:n]) {
			break
		}
	}
	if buf[0]&1 != 0 {
		t.Error("the packet's checksum is unfinished")
	}
	if err := d.SetOffload(0); err != nil {
		t.Error(err)
	}
	plain := mustOpen(t, Config{NetNS: ns})
	if err := plain.SetOffload(OffloadCsum); err == nil {
		t.Error("offload without header: no error")
	}
}
