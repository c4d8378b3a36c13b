package tundev

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestOpenNew sees every field of a configuration back through another netlink library.
func TestOpenNew(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	mac := net.HardwareAddr{2, 0, 0, 0, 0xab, 1}
	d := mustOpen(t, Config{
		Name: "mytap", Kind: TAP, NetNS: ns, VNetHdr: true, MultiQueue: true, Exclusive: true,
		Owner: new(1001), Group: new(1002),
		Addrs: []Address{address("10.0.6.1/24"), address("10.0.7.1/16"), address("fd00::1/64"),
			{prefix("10.9.0.1/32"), netip.MustParseAddr("10.9.0.2")}, {prefix("fd01::1/128"), netip.MustParseAddr("fd01::2")}},
		Routes: []Route{{Dst: prefix("192.168.7.0/24")}, {prefix("192.168.8.0/24"), netip.MustParseAddr("10.0.6.2"), 7},
			{Dst: prefix("fd07::/64")}, {prefix("::/0"), netip.MustParseAddr("fd00::2"), 9}},
		MAC: mac, MTU: 1400, TxQueueLen: 77, Bridge: "br7",
		FlagsSet: unix.IFF_UP | unix.IFF_PROMISC | unix.IFF_ALLMULTI | unix.IFF_NOARP | unix.IFF_DEBUG, FlagsClear: unix.IFF_MULTICAST,
	})
	if !d.Created() || d.Name() != "mytap" || d.Kind() != TAP {
		t.Errorf("created %t, name %s, kind %s", d.Created(), d.Name(), d.Kind())
	}
	l := linkOf(t, nl, "mytap")
	a := l.Attrs()
	if d.Index() != a.Index || a.MTU != 1400 || a.TxQLen != 77 || a.HardwareAddr.String() != mac.String() {
		t.Errorf("index %d, link %+v", d.Index(), a)
	}
	const want = unix.IFF_UP | unix.IFF_PROMISC | unix.IFF_ALLMULTI | unix.IFF_NOARP | unix.IFF_DEBUG
	if got := a.RawFlags & (want | unix.IFF_MULTICAST); got != want {
		t.Errorf("flags %s, want %s", flagNames(got), flagNames(want))
	}
	if a.MasterIndex != linkOf(t, nl, "br7").Attrs().Index {
		t.Errorf("master %d", a.MasterIndex)
	}
	if linkOf(t, nl, "br7").Attrs().Flags&net.FlagUp == 0 {
		t.Error("the bridge is down")
	}
	tt := l.(*netlink.Tuntap)
	if tt.Owner != 1001 || tt.Group != 1002 || tt.Mode != netlink.TUNTAP_MODE_TAP || !tt.NonPersist ||
		tt.Flags&netlink.TUNTAP_NO_PI == 0 || tt.Flags&netlink.TUNTAP_VNET_HDR == 0 || tt.Flags&netlink.TUNTAP_MULTI_QUEUE == 0 {
		t.Errorf("tuntap %+v", tt)
	}
	addrs := "10.9.0.1 peer 10.9.0.2/32, 10.0.6.1/24, 10.0.7.1/16, fd00::1/64, fd01::1 peer fd01::2/128"
	if got := addrsOf(t, nl, "mytap"); !sameWords(got, addrs) {
		t.Errorf("addresses %s, want %s", got, addrs)
	}
	within(t, ns, func() {
		for _, c := range []struct{ command, want string }{
			{"ip -4 route show 192.168.7.0/24", "192.168.7.0/24 dev mytap proto static scope link"},
			{"ip -4 route show 192.168.8.0/24", "192.168.8.0/24 via 10.0.6.2 dev mytap proto static metric 7"},
			{"ip -4 route show 10.0.6.0/24", "10.0.6.0/24 dev mytap proto kernel scope link src 10.0.6.1"},
			{"ip -6 route show default", "default via fd00::2 dev mytap proto static metric 9"},
			{"ip -6 route show fd07::/64", "fd07::/64 dev mytap proto static metric 1024"},
			{"ip -6 route show fd00::/64", "fd00::/64 dev mytap proto kernel metric 256"},
			{"ip -4 addr show to 10.0.6.1", "inet 10.0.6.1/24 brd 10.0.6.255 scope global mytap"},
		} {
			out, err := exec.Command("sh", "-c", c.command).CombinedOutput()
			if err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%s: %v, %swant %s", c.command, err, out, c.want)
			}
		}
		// usable at once
		c, err := net.ListenPacket("udp", "[fd00::1]:0")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
	got, err := d.HardwareAddr()
	if mtu, err2 := d.MTU(); err != nil || err2 != nil || got.String() != mac.String() || mtu != 1400 {
		t.Errorf("mac %s, mtu %d: %v, %v", got, mtu, err, err2)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	noLink(t, nl, "mytap")
	noLink(t, nl, "br7")
}

func sameWords(a, b string) bool {
	count := map[string]int{}
	for _, w := range strings.Split(a, ", ") {
		count[w]++
	}
	for _, w := range strings.Split(b, ", ") {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestOpenPlain(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	d := mustOpen(t, Config{NetNS: ns, PI: true})
	if d.Name() != "tun0" {
		t.Errorf("name %s", d.Name())
	}
	tt := linkOf(t, nl, "tun0").(*netlink.Tuntap)
	if tt.Flags != 0 || tt.Mode != netlink.TUNTAP_MODE_TUN {
		t.Errorf("tuntap %+v", tt)
	}
	if mac, err := d.HardwareAddr(); err != nil || len(mac) != 0 {
		t.Errorf("mac %s, %v", mac, err)
	}
	for _, want := range []string{"lan0", "lan1"} {
		if d := mustOpen(t, Config{NetNS: ns, Name: "lan%d"}); d.Name() != want {
			t.Errorf("name %s, want %s", d.Name(), want)
		}
	}
}

// TestOpenFails: what goes wrong half way leaves nothing behind, and says what it was.
func TestOpenFails(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}}); err != nil {
		t.Skipf("needs bridges: %v", err)
	}
	other := linkOf(t, nl, "other")
	if err := nl.LinkSetUp(other); err != nil {
		t.Fatal(err)
	}
	taken := prefix("192.168.9.0/24")
	if err := nl.RouteAdd(&netlink.Route{LinkIndex: other.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: taken.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, Config{NetNS: ns, Name: "busy"})
	mustOpen(t, Config{NetNS: ns, Name: "many", MultiQueue: true})
	links, _ := nl.LinkList()
	for _, test := range []struct {
		name        string
		config      Config
		errno       error
		words, hint string
	}{
		{"clone node missing", Config{ClonePath: "/dev/net/no"}, unix.ENOENT, "open /dev/net/no: no such file", "/dev/net/tun"},
		{"clone node is another", Config{ClonePath: "/dev/null"}, unix.ENOTTY, "make tun device", "not the TUN/TAP clone device"},
		{"busy", Config{Name: "busy"}, unix.EBUSY, "attach tun device busy", "in use by this process"},
		{"exclusive", Config{Name: "busy", Exclusive: true}, unix.EBUSY, "busy", "exists already"},
		{"kind swapped", Config{Name: "busy", Kind: TAP}, unix.EINVAL, "attach tap device busy", "busy is a tun device, and a tap"},
		{"single for many", Config{Name: "many"}, unix.EINVAL, "many", "was made with multi-queue"},
		{"many for single", Config{Name: "busy", MultiQueue: true}, unix.EINVAL, "busy", "ip tuntap add ... multi_queue"},
		{"another kind", Config{Name: "other"}, unix.EINVAL, "other", "of another kind, bridge"},
		{"hardware", Config{Name: "lo"}, unix.EINVAL, "lo", "no tun or tap device"},
		{"bridge is none", Config{Name: "x", Kind: TAP, Bridge: "busy"}, unix.EINVAL, "join bridge busy", "not a bridge"},
		{"IPv6 on a small MTU", Config{Name: "x", MTU: 1000, Addrs: []Address{address("fd00::1/64")}}, unix.EINVAL, "add address fd00::1/64", "MTU of at least 1280"},
		{"route while down", Config{Name: "x", Kind: TAP, Bridge: "br9", Routes: []Route{{Dst: prefix("10.0.0.0/8")}}}, unix.ENETDOWN, "add route 10.0.0.0/8", "to be up"},
		{"route of another", Config{Name: "x", FlagsSet: unix.IFF_UP, Routes: []Route{{Dst: taken}}}, unix.EEXIST, "route 192.168.9.0/24", "another metric"},
		{"gateway out of reach", Config{Name: "x", Kind: TAP, Bridge: "br9", FlagsSet: unix.IFF_UP, Persist: new(true),
			Routes: []Route{{Dst: prefix("10.0.0.0/8"), Via: netip.MustParseAddr("10.66.0.1")}}}, unix.ENETUNREACH, "via 10.66.0.1", "give it an address"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.config.NetNS = ns
			d, err := Open(test.config)
			if err == nil {
				d.Close()
				t.Fatal("no error")
			}
			if !errors.Is(err, test.errno) || !strings.Contains(err.Error(), test.words) || !strings.Contains(Advice(err), test.hint) {
				t.Errorf("%v (%s), want %q with %q", err, Advice(err), test.words, test.hint)
			}
			if after, _ := nl.LinkList(); len(after) != len(links) {
				t.Errorf("%d interfaces before, %d after", len(links), len(after))
			}
		})
	}
	if _, err := Open(Config{MTU: 5}); err == nil || !strings.Contains(err.Error(), "mtu 5") {
		t.Errorf("mtu 5: %v", err)
	}
}

func TestIPv6Disabled(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	within(t, ns, func() {
		// the setting is read through the namespace of the thread that opens the file
		out, err := exec.Command("sysctl", "-w", "net.ipv6.conf.default.disable_ipv6=1").CombinedOutput()
		if err != nil {
			t.Skipf("needs sysctl: %v %s", err, out)
		}
	})
	d, err := Open(Config{NetNS: ns, Addrs: []Address{address("fd00::1/64")}})
	if err == nil {
		d.Close()
		t.Fatal("no error")
	}
	if !errors.Is(err, unix.EACCES) || !strings.Contains(Advice(err), "disable_ipv6") {
		t.Errorf("%v (%s)", err, Advice(err))
	}
}

// TestBridge: a bridge that others use stays, one that was there is left as it was.
func TestBridge(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	a := mustOpen(t, Config{NetNS: ns, Name: "a", Kind: TAP, Bridge: "br"})
	b := mustOpen(t, Config{NetNS: ns, Name: "b", Kind: TAP, Bridge: "br"})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	linkOf(t, nl, "br")
	noLink(t, nl, "a")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	linkOf(t, nl, "br") // b found it there
	c := mustOpen(t, Config{NetNS: ns, Name: "c", Kind: TAP, Bridge: "br", Persist: new(true)})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if linkOf(t, nl, "c").Attrs().MasterIndex != linkOf(t, nl, "br").Attrs().Index {
		t.Error("the persistent device has left the bridge")
	}
}

// TestFixedFlags: a flag that is the kernel's to decide is noted and no error.
func TestFixedFlags(t *testing.T) {
	needDevices(t)
	for _, warns := range []bool{false, true} {
		var notes []string
		note := func(format string, args ...any) { notes = append(notes, sprintf(format, args...)) }
		c := Config{NetNS: newNS(t), Name: "x", FlagsSet: unix.IFF_UP | unix.IFF_LOOPBACK, FlagsClear: unix.IFF_POINTOPOINT, Logf: note}
		if warns {
			c.Logf, c.Warnf = func(string, ...any) { t.Error("a wish that is not granted is no note") }, note
		}
		mustOpen(t, c)
		if got := strings.Join(notes, "\n"); got != "x: interface flags loopback,pointopoint are the kernel's to decide and stay as they are" {
			t.Errorf("notes %q", got)
		}
	}
}
