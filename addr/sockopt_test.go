package addr

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Each mechanical socket option, as given on the command line and as the kernel has it afterwards.
func TestSocketOptions(t *testing.T) {
	needRoot(t) // so-debug, ip-transparent, priorities
	const any = -1
	port := freePort(t, "tcp")
	newHost(t).source("TCP-LISTEN:"+port+",backlog=16", ReadWrite)
	client := "TCP4:127.0.0.1:" + port
	tcp4, tcp6, udp4, udp6 := "TCP4-LISTEN:0", "TCP6-LISTEN:0", "UDP4-RECV:0", "UDP6-RECV:0"
	for _, c := range []struct {
		address, option  string
		level, opt, want int // want any: is set to something else than before
	}{
		{tcp4, "so-reuseport", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{udp4, "broadcast", unix.SOL_SOCKET, unix.SO_BROADCAST, 1},
		{udp4, "broadcast=0", unix.SOL_SOCKET, unix.SO_BROADCAST, 0},
		{tcp4, "so-debug", unix.SOL_SOCKET, unix.SO_DEBUG, 1},
		{udp4, "dontroute", unix.SOL_SOCKET, unix.SO_DONTROUTE, 1},
		{tcp4, "oobinline", unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{udp4, "priority=5", unix.SOL_SOCKET, unix.SO_PRIORITY, 5},
		{udp4, "nocheck", unix.SOL_SOCKET, unix.SO_NO_CHECK, 1},
		{udp4, "sndbuf=10000", unix.SOL_SOCKET, unix.SO_SNDBUF, 20000},
		{udp4, "sndbuf-late=10000", unix.SOL_SOCKET, unix.SO_SNDBUF, 20000},
		{udp4, "rcvbuf=10000", unix.SOL_SOCKET, unix.SO_RCVBUF, 20000},
		{udp4, "so-rcvbuf-late=0x2710", unix.SOL_SOCKET, unix.SO_RCVBUF, 20000},
		{tcp4, "rcvlowat=7", unix.SOL_SOCKET, unix.SO_RCVLOWAT, 7},
		{udp4, "rcvtimeo=7.5", unix.SOL_SOCKET, unix.SO_RCVTIMEO, 7},
		{udp4, "sndtimeo=8", unix.SOL_SOCKET, unix.SO_SNDTIMEO, 8},
		{tcp4, "linger=3", unix.SOL_SOCKET, unix.SO_LINGER, 1},
		{udp4, "so-bindtodevice=lo", unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, 1},
		{udp4, "keepalive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{udp4, "so-protocol=17", unix.SOL_SOCKET, unix.SO_PROTOCOL, 17},
		{udp4, "setsockopt=1:12:x03000000", unix.SOL_SOCKET, unix.SO_PRIORITY, 3},
		{udp4, "setsockopt-bin=1:12:i4", unix.SOL_SOCKET, unix.SO_PRIORITY, 4},
		{udp4, "setsockopt-int=1:12:2", unix.SOL_SOCKET, unix.SO_PRIORITY, 2},
		{udp4, "setsockopt-string=1:25:lo", unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, 1},
		{udp4, "setsockopt-connected=1:12:i1", unix.SOL_SOCKET, unix.SO_PRIORITY, 1},
		{tcp4, "setsockopt-listen=1:12:i6", unix.SOL_SOCKET, unix.SO_PRIORITY, 6},
		{tcp4, "setsockopt-socket=1:12:i6", unix.SOL_SOCKET, unix.SO_PRIORITY, 6},

		{tcp4, "nodelay", unix.SOL_TCP, unix.TCP_NODELAY, 1},
		{client, "nodelay", unix.SOL_TCP, unix.TCP_NODELAY, 1},
		{client, "keepalive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{client, "framing=u16", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{client, "framing=qemu", unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 25000},
		{client, "reconnect", unix.SOL_TCP, unix.TCP_KEEPIDLE, 10},
		{client, "reconnect,keepalive=0", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0},
		{client, "reconnect,user-timeout=777", unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 777},
		{tcp4, "cork", unix.SOL_TCP, unix.TCP_CORK, 1},
		{tcp4, "defer-accept=3", unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 3},
		{tcp4, "keepcnt=4", unix.SOL_TCP, unix.TCP_KEEPCNT, 4},
		{tcp4, "keepidle=50", unix.SOL_TCP, unix.TCP_KEEPIDLE, 50},
		{tcp4, "keepintvl=6", unix.SOL_TCP, unix.TCP_KEEPINTVL, 6},
		{tcp4, "linger2=7", unix.SOL_TCP, unix.TCP_LINGER2, 7},
		{tcp4, "mss=800", unix.SOL_TCP, unix.TCP_MAXSEG, any},
		{client, "quickack=0", unix.SOL_TCP, unix.TCP_QUICKACK, 0},
		{tcp4, "syncnt=3", unix.SOL_TCP, unix.TCP_SYNCNT, 3},
		{tcp4, "window-clamp=9000", unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, 9000},
		{tcp6, "user-timeout=1234", unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 1234},
		{tcp4, "notsent-lowat=131072", unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, 131072},

		{tcp4, "freebind", unix.SOL_IP, unix.IP_FREEBIND, 1},
		{udp4, "mtudiscover=2", unix.SOL_IP, unix.IP_MTU_DISCOVER, 2},
		{udp4, "tos=0x10", unix.SOL_IP, unix.IP_TOS, 16},
		{udp4, "ttl=9", unix.SOL_IP, unix.IP_TTL, 9},
		{tcp4, "ip-transparent", unix.SOL_IP, unix.IP_TRANSPARENT, 1},
		{udp4, "mcloop=0", unix.SOL_IP, unix.IP_MULTICAST_LOOP, 0},
		{udp4, "multicast-ttl=7", unix.SOL_IP, unix.IP_MULTICAST_TTL, 7},
		{udp4, "ip-options=x01010100", unix.SOL_IP, unix.IP_OPTIONS, 0x00010101},
		{udp4, "multicast-if=127.0.0.1", unix.SOL_IP, unix.IP_MULTICAST_IF, int(binary.NativeEndian.Uint32([]byte{127, 0, 0, 1}))},

		{tcp6, "ipv6only", unix.SOL_IPV6, unix.IPV6_V6ONLY, 1},
		{tcp6, "v6only=0", unix.SOL_IPV6, unix.IPV6_V6ONLY, 0},
		{udp6, "ipv6-mtu-discover=2", unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, 2},
		{udp6, "mcloop6=0", unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
		{udp6, "ipv6-tclass=32", unix.SOL_IPV6, unix.IPV6_TCLASS, 32},
		{udp6, "unicast-hops=9", unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, 9},
	} {
		t.Run(c.option, func(t *testing.T) {
			h := newHost(t)
			mode := ReadWrite
			if strings.Contains(c.address, "RECV") {
				mode = Read
			}
			read := func(address string) (v int) {
				src := h.source(address, mode)
				defer src.Close()
				s := src.(*watched)
				get := func(fd int) (err error) { v, err = unix.GetsockoptInt(fd, c.level, c.opt); return err }
				var err error
				switch s := s.Source.(type) {
				case *listener:
					err = onFile(s.file, get)
				case *one:
					err = onFile(fileOf(s.ep), get)
				}
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			got := read(c.address + "," + c.option)
			if c.want == any && got == read(c.address) || c.want != any && got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestSocketOptionMistakes(t *testing.T) {
	for arg, want := range map[string]string{
		"UDP-RECV:1,ip-add-membership=10.0.0.1:lo":            "no multicast address",
		"UDP-RECV:1,ip-add-membership=239.1.1.1":              "wanted group:interface",
		"UDP-RECV:1,ip-add-source-membership=239.1.1.1:lo":    "wanted group:interface:sender",
		"UDP-RECV:1,ip-add-source-membership=239.1.1.1:lo:::": "wanted group:interface:sender",
		"UDP-RECV:1,setsockopt-int=1:2":                       "2 of 3 parts",
		"UDP-RECV:1,setsockopt-int=1:2:x":                     "missing numerical value",
		"UDP-RECV:1,nodelay":                                  "not for UDP-RECV",
		"TCP4:127.0.0.1:1,ipv6-v6only":                        "not for TCP4-CONNECT",
		"UDP-RECV:1,sndbuf=1x":                                "trailing garbage",
	} {
		spec, err := Parse(arg)
		if err == nil {
			_, err = Bind(spec, BindConfig{Mode: Read})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", arg, err, want)
		}
	}
	h := newHost(t)
	for _, arg := range []string{"UDP-RECV:0,ip-add-membership=239.1.1.1:nosuchif", "UDP-RECV:0,so-bindtodevice=nosuchif", "UDP-RECV:0,multicast-if=nosuchif",
		"UDP6-RECV:0,ipv6-join-group=[ff02::1]:nosuchif", "UDP-RECV:0,ip-add-source-membership=239.1.1.1:10.99.99.99:10.0.0.1"} {
		if _, err := mustBind(t, arg, Read).Open(h.ctx, h.env); err == nil || !strings.Contains(err.Error(), "no such device") {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestRange(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.1.2.3 !11.0.0.0 !::1 ::ffff:10.0.0.1", "10.0.0.0:255.0.0.0": "10.1.2.3 !11.0.0.0", "10.0.0.5:255.0.0.255": "10.9.9.5 !10.9.9.6",
		"10.1.2.3": "10.1.2.3 !10.1.2.4", "0.0.0.0/0": "1.2.3.4 !::1", "[fd00::]/8": "fd12::1 !fe80::1 !10.0.0.1", "[::1]": "::1 !::2", "[::]/0": "fe80::1 !1.2.3.4",
		"127.1/32": "127.0.0.1 !127.0.0.2", "192.168.7.0/25": "192.168.7.127 !192.168.7.128",
	} {
		r, err := parseRange(text)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, ip := range strings.Fields(want) {
			ip, not := strings.CutPrefix(ip, "!")
			if r.holds(netip.MustParseAddr(ip)) == not {
				t.Errorf("%s: %s", text, ip)
			}
		}
	}
	for _, text := range []string{"", "x", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0:255", "::1", "[::1", "[::1]/129", "[fe80::1%lo]/64", "10.0.0.0/8/8", "10.0.0.0:::1"} {
		if r, err := parseRange(text); err == nil {
			t.Errorf("%q is taken for %v", text, r)
		}
	}
}
