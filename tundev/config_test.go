package tundev

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestValidate(t *testing.T) {
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	peer := func(a, p string) Address { return Address{prefix(a), netip.MustParseAddr(p)} }
	for _, test := range []struct {
		config Config
		want   string // part of the error; empty: valid
	}{
		{Config{}, ""},
		{Config{Name: "tap%d", Kind: TAP}, ""},
		{Config{Name: "fifteen-bytes-x"}, ""},
		{Config{Name: "sixteen-bytes-xx"}, `name "sixteen-bytes-xx": 16 bytes long`},
		{Config{Name: "a/b"}, `byte '/'`},
		{Config{Name: "a b"}, `byte ' '`},
		{Config{Name: "a:b"}, `byte ':'`},
		{Config{Name: "a\x00b"}, `byte '\x00'`},
		{Config{Name: ".."}, `name ".."`},
		{Config{Name: "a%s"}, "pattern"},
		{Config{Name: "a%d%d"}, "pattern"},
		{Config{Name: "a%"}, "pattern"},
		{Config{Kind: 7}, "kind 7"},
		{Config{MTU: 67}, "mtu 67"},
		{Config{MTU: 65536}, "mtu 65536"},
		{Config{Kind: TAP, MTU: 65522}, "mtu 65522: a tap device takes at most 65521"},
		{Config{MTU: -1}, "mtu -1"},
		{Config{TxQueueLen: -1}, "txqueuelen -1"},
		{Config{Owner: new(-1)}, "owner -1"},
		{Config{Group: new(1 << 32)}, "group 4294967296"},
		{Config{MAC: mac("02:00:00:00:00:01")}, "mac 02:00:00:00:00:01: a tun device"},
		{Config{Kind: TAP, MAC: mac("02:00:00:00:00:01")}, ""},
		{Config{Kind: TAP, MAC: mac("03:00:00:00:00:01")}, "multicast"},
		{Config{Kind: TAP, MAC: mac("00:00:00:00:00:00")}, "all zero"},
		{Config{Kind: TAP, MAC: mac("02:00:00:00:00:00:00:01")}, "8 bytes"},
		{Config{Bridge: "br0"}, "bridge br0: only a tap"},
		{Config{Kind: TAP, Bridge: "br0"}, ""},
		{Config{Kind: TAP, Bridge: "br%d"}, "pattern"},
		{Config{Kind: TAP, Bridge: "x", Name: "x"}, "name of the device"},
		{Config{FlagsSet: unix.IFF_UP | unix.IFF_PROMISC, FlagsClear: unix.IFF_PROMISC}, "flags promisc: both"},
		{Config{Addrs: []Address{{}}}, "no address"},
		{Config{Addrs: []Address{address("10.0.0.1/24"), address("fd00::1/64")}}, ""},
		{Config{Addrs: []Address{address("10.0.0.1/24"), address("10.0.0.1/24")}}, "given twice"},
		{Config{Addrs: []Address{address("0.0.0.0/24")}}, "not an address of one host"},
		{Config{Addrs: []Address{address("224.0.0.1/24")}}, "not an address of one host"},
		{Config{Addrs: []Address{address("::ffff:10.0.0.1/120")}}, "in IPv6 form"},
		{Config{Addrs: []Address{peer("10.0.0.1/32", "fd00::1")}}, "other IP version"},
		{Config{Addrs: []Address{peer("fd00::1/128", "fe80::1%eth0")}}, "zone"},
		{Config{Routes: []Route{{}}}, "no network"},
		{Config{Routes: []Route{{Dst: prefix("10.0.0.1/8")}}}, "10.0.0.0/8 is the network"},
		{Config{Routes: []Route{{Dst: prefix("10.0.0.0/8"), Via: netip.MustParseAddr("fd00::1")}}}, "other IP version"},
		{Config{Routes: []Route{{Dst: prefix("10.0.0.0/8"), Metric: -1}}}, "metric"},
		{Config{Routes: []Route{{Dst: prefix("10.0.0.0/8")}, {Dst: prefix("10.0.0.0/8")}}}, "given twice"},
		{Config{Routes: []Route{{Dst: prefix("0.0.0.0/0"), Metric: 5}, {Dst: prefix("::/0")}}}, ""},
	} {
		err := test.config.Validate()
		switch {
		case err == nil && test.want != "":
			t.Errorf("%+v: valid, want an error with %q", test.config, test.want)
		case err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%+v: %v, want %q", test.config, err, test.want)
		}
	}
}

func TestStrings(t *testing.T) {
	for got, want := range map[string]string{
		TUN.String() + " " + TAP.String():                                                                                               "tun tap",
		Address{prefix("10.0.0.1/32"), netip.MustParseAddr("10.0.0.2")}.String():                                                        "10.0.0.1/32 peer 10.0.0.2",
		Route{prefix("10.0.0.0/8"), netip.MustParseAddr("10.0.0.2"), 5}.String():                                                        "10.0.0.0/8 via 10.0.0.2 metric 5",
		flagNames(unix.IFF_UP | unix.IFF_NOARP | 1<<31):                                                                                 "up,noarp,0x80000000",
		(&settings{queue: &Queue{name: "t"}}).flagCommand(unix.IFF_NOARP|unix.IFF_PROMISC, unix.IFF_NOARP|unix.IFF_UP|unix.IFF_PROMISC): "link set dev t down arp off promisc on",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
