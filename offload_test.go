package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"tunsplice/tundev"

	"golang.org/x/sys/unix"
)

// Every offload on, between two ends of ours and over framings where packets go complete. A capture on a device shows unfinished checksums of packets that are nobody's fault, so the
// far host forwards everything to a third one over a wire without offloads: there the kernel must have finished what travelled unfinished, and each checksum must be right.

// beyond adds a host behind host b: 10.9.9.2 and fd99::2, reached from host a through the tunnel. It returns its namespace.
func (l *lab) beyond(mtu string) string {
	l.t.Helper()
	c := strings.TrimSuffix(l.b, "b") + "c"
	l.run("ip", "netns", "add", c)
	l.t.Cleanup(func() { exec.Command("ip", "netns", "del", c).Run() })
	l.run("ip", "link", "add", "out", "netns", l.b, "type", "veth", "peer", "name", "in", "netns", c)
	for _, end := range [][3]string{{l.b, "out", "1"}, {c, "in", "2"}} {
		l.run("ip", "-n", end[0], "addr", "add", "10.9.9."+end[2]+"/24", "dev", end[1])
		l.run("ip", "-n", end[0], "addr", "add", "fd99::"+end[2]+"/64", "dev", end[1], "nodad")
		l.run("ip", "-n", end[0], "link", "set", end[1], "up", "mtu", mtu)
	}
	l.run("ip", "-n", c, "route", "add", "default", "via", "10.9.9.1")
	l.run("ip", "-n", c, "route", "add", "default", "via", "fd99::1")
	l.run(on(l.b, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")...)
	for _, ns := range []string{l.a, c} {
		l.run(on(ns, "sysctl", "-q", "-w", "net.ipv4.tcp_ecn=1")...)
	}
	// ETHTOOL_STXCSUM (include/uapi/linux/ethtool.h): without it segmentation goes too
	if err := tundev.InNetNS(l.b, func() error { return ethtoolSet("out", 0x17, 0) }); err != nil {
		l.t.Fatal("tx checksum of the wire:", err)
	}
	return c
}

// ethtoolSet runs an ioctl of ethtool whose argument is one number.
func ethtoolSet(iface string, cmd, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	data := [2]uint32{cmd, value} // struct ethtool_value
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:], iface)
	ifr.data = unsafe.Pointer(&data)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		return errno
	}
	return nil
}

// control makes a Control function of sockets.
func control(set func(fd int) error) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		if cerr := raw.Control(func(fd uintptr) { err = set(int(fd)) }); cerr != nil {
			return cerr
		}
		return err
	}
}

// destinationOptions is an IPv6 extension header of padding (RFC 8200, 4.6).
const destinationOptions = "\x00\x00\x01\x04\x00\x00\x00\x00"

// moveTCP sends bytes from one host to another, set preparing the sender's socket, and compares what arrives.
func (l *lab) moveTCP(from, to, address string, size int, set func(fd int) error) {
	l.t.Helper()
	var ln net.Listener
	if err := tundev.InNetNS(to, func() (err error) { ln, err = net.Listen("tcp", address); return err }); err != nil {
		l.t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		b, _ := io.ReadAll(c) // an error shows by what is missing
		got <- b
	}()
	var c net.Conn
	if err := tundev.InNetNS(from, func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		if set != nil {
			d.Control = control(set)
		}
		c, err = d.Dial("tcp", ln.Addr().String())
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	if _, err := c.Write(data); err != nil {
		l.t.Error(err)
	}
	c.Close()
	if b := <-got; sha256.Sum256(b) != sha256.Sum256(data) {
		l.t.Errorf("TCP to %s: %d of %d bytes arrived, or others were sent", address, len(b), size)
	}
}

// moveUDP sends one message of size bytes; with segment it leaves as that many bytes a datagram, in one GSO packet where the device takes such, else as fragments.
func (l *lab) moveUDP(from, to, address string, size, segment int, set func(fd int) error) {
	l.t.Helper()
	var r net.PacketConn
	if err := tundev.InNetNS(to, func() (err error) { r, err = net.ListenPacket("udp", address); return err }); err != nil {
		l.t.Fatal(err)
	}
	defer r.Close()
	var c net.Conn
	if err := tundev.InNetNS(from, func() (err error) {
		d := net.Dialer{Control: control(func(fd int) error {
			if segment > 0 {
				if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, segment); err != nil {
					return err
				}
			}
			if set != nil {
				return set(fd)
			}
			return nil
		})}
		c, err = d.Dial("udp", r.LocalAddr().String())
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(data)
	if _, err := c.Write(data); err != nil {
		l.t.Fatalf("UDP to %s: %v", address, err)
	}
	r.SetDeadline(time.Now().Add(10 * time.Second))
	var got []byte
	for buf := make([]byte, 65536); len(got) < size; {
		n, _, err := r.ReadFrom(buf)
		if err != nil {
			l.t.Errorf("UDP to %s, %d bytes in segments of %d: %d arrived: %v", address, size, segment, len(got), err)
			return
		}
		if segment > 0 && n > segment {
			l.t.Errorf("UDP to %s: a datagram of %d bytes, not %d", address, n, segment)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, data) {
		l.t.Errorf("UDP to %s: other bytes arrived", address)
	}
}

func TestOffloads(t *testing.T) {
	// pi names the hosts whose device has packet information, edge those where an INTERFACE is the tunnel's end. u16 and qemu are the same code.
	for _, c := range []struct{ framing, kind, pi, edge string }{
		{"link", "tun", "", ""}, {"link", "tap", "", ""}, {"u16", "tun", "", ""}, {"qemu", "tap", "", ""}, {"udp", "tun", "", ""},
		{"link", "tun", "ab", ""}, {"link", "tun", "b", ""}, {"link", "tap", "a", ""}, {"u16", "tun", "ab", ""}, {"udp", "tap", "ab", ""},
		{"link", "tap", "", "ab"}, {"link", "tap", "", "b"}, {"qemu", "tap", "", "ab"},
	} {
		framing, kind := c.framing, c.kind
		noPI := func(host string) string {
			if strings.Contains(c.pi, host) {
				return ""
			}
			return ",iff-no-pi"
		}
		name := strings.TrimSpace(framing + " " + kind + " " + c.pi)
		if c.edge != "" {
			name += " interface " + c.edge
		}
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			mtu, streamA, streamB := "1500", "TCP-LISTEN:4200,framing="+framing, "TCP:10.74.68.1:4200,retry=100,interval=0.05,framing="+framing
			if framing == "udp" {
				mtu, streamA, streamB = "1400", "UDP-DATAGRAM:10.74.68.100:4200,bind=:4200", "UDP-DATAGRAM:10.74.68.1:4200,bind=:4200"
			}
			behind := l.beyond(mtu) // a smaller one on the way would cost the first long datagram
			dev := func(host string, number int) string {
				if strings.Contains(c.edge, host) {
					return l.edge(host, number)
				}
				return fmt.Sprintf("TUN:172.0.0.%d/24,addr=[fd07::%[1]d]/64%s,up,tun-name=ts0,tun-type=%s,mtu=%s", number, noPI(host), kind, mtu)
			}
			a := l.start(on(l.a, "tunsplice", "-d", "-d", "--statistics", streamA, dev("a", 1))...)
			b := l.start(on(l.b, "tunsplice", "-d", "-d", "--statistics", streamB, dev("b", 2))...)
			say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
			if c.edge != "" && framing == "link" { // what an interface receives earlier is nobody's
				eventually(t, "a link", func() bool { return strings.Count(say(), "packets are framed") == 2 }, say)
			}
			for i, host := range []string{l.a, l.b} {
				if strings.Contains(c.edge, "ab"[i:i+1]) {
					l.run(on(host, "sysctl", "-q", "-w", "net.ipv6.conf.ts0.disable_ipv6=0")...)
					l.run("ip", "-n", host, "addr", "add", fmt.Sprintf("fd07::%d/64", i+1), "dev", "ts0", "nodad")
				}
			}
			l.ping("172.0.0.1", say)
			l.run("ip", "-n", l.a, "route", "add", "10.9.9.0/24", "via", "172.0.0.2")
			l.run("ip", "-n", l.a, "route", "add", "fd99::/64", "via", "fd07::2")
			eventually(t, "IPv6 through the tunnel", func() bool {
				argv := on(l.a, "ping", "-q", "-c", "1", "-W", "1", "fd99::2")
				return exec.Command(argv[0], argv[1:]...).Run() == nil
			}, say)

			pcap := filepath.Join(l.dir, "behind")
			dump := l.start(on(behind, "tcpdump", "-i", "in", "-Q", "in", "-U", "-B", "65536", "-s", "0", "-w", pcap)...)
			eventually(t, "tcpdump listens", func() bool { return strings.Contains(dump.output(), "listening on") }, dump.output)

			v4Options := func(fd int) error {
				return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x01")
			}
			v6Options := func(fd int) error {
				return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, destinationOptions)
			}
			// Linux 6.18 takes GSO packets with extension headers that fit the MTU exactly for too big when it forwards them, over any device, and the sender tries long.
			v6Shorter := func(fd int) error {
				if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_MAXSEG, 1300); err != nil {
					return err
				}
				return v6Options(fd)
			}
			const size = 1 << 20
			l.moveTCP(l.a, behind, "10.9.9.2:0", size, nil)
			l.moveTCP(behind, l.a, "172.0.0.1:0", size, nil)
			l.moveTCP(l.a, behind, "[fd99::2]:0", size, nil)
			l.moveTCP(behind, l.a, "[fd07::1]:0", size, nil)
			l.moveTCP(l.a, behind, "10.9.9.2:0", size/4, v4Options)
			l.moveTCP(l.a, behind, "[fd99::2]:0", size/4, v6Shorter)
			for _, to := range [][2]string{{behind, "10.9.9.2:0"}, {behind, "[fd99::2]:0"}, {l.a, "172.0.0.1:0"}, {l.a, "[fd07::1]:0"}} {
				from := l.a
				if to[0] == l.a {
					from = behind
				}
				l.moveUDP(from, to[0], to[1], 20000, 1200, nil) // UDP GSO
				l.moveUDP(from, to[0], to[1], 20000, 0, nil)    // fragments
				l.moveUDP(from, to[0], to[1], 333, 0, nil)      // an odd length
			}
			l.moveUDP(l.a, behind, "[fd99::2]:0", 1000, 0, v6Options)
			l.moveUDP(l.a, behind, "10.9.9.2:0", 1000, 0, v4Options)
			if framing == "link" {
				l.nothingLost("ts0", "ts0", say) // elsewhere packets are split and merged
			}
			l.vlan(behind)
			if strings.Contains(say(), "packet lost") {
				t.Error(say())
			}
			l.run(on(l.a, "ping", "-q", "-c", "1", "-p", "656e64", "10.9.9.2")...)
			eventually(t, "the capture is whole", func() bool {
				b, _ := os.ReadFile(pcap)
				return bytes.Contains(b, []byte("endendendend"))
			}, dump.output)
			dump.stop(syscall.SIGTERM)
			checkCapture(t, pcap, size)
			if framing == "udp" {
				return // the end that ends first leaves the other what it still had to say
			}
			l.run("ip", "-n", l.a, "link", "set", "ts0", "down")
			l.run("ip", "-n", l.b, "link", "set", "ts0", "down")
			a.stop(syscall.SIGTERM)
			b.ended()
			sent, received := countOf(a, "right to left"), countOf(b, "left to right")
			if len(c.pi) == 1 { // the bytes are counted as each device has them
				sent, _, _ = strings.Cut(sent, ",")
				received, _, _ = strings.Cut(received, ",")
			}
			if sent == "" || sent != received {
				t.Errorf("host a sent %s, host b received %s", sent, received)
			}
		})
	}
}

// edge makes ts0 of a host one end of a wire, and returns the address of the other end, which is in a namespace where nobody else sends. IPv6 is off at both.
func (l *lab) edge(host string, number int) string {
	l.t.Helper()
	ns := map[string]string{"a": l.a, "b": l.b}[host]
	edge := ns + "e"
	l.run("ip", "netns", "add", edge)
	l.t.Cleanup(func() { exec.Command("ip", "netns", "del", edge).Run() })
	l.run(on(edge, "sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1")...)
	l.run("ip", "link", "add", "ts0", "netns", ns, "type", "veth", "peer", "name", "edge", "netns", edge)
	l.run(on(ns, "sysctl", "-q", "-w", "net.ipv6.conf.ts0.disable_ipv6=1")...)
	l.run("ip", "-n", ns, "addr", "add", fmt.Sprintf("172.0.0.%d/24", number), "dev", "ts0")
	l.run("ip", "-n", ns, "link", "set", "ts0", "up")
	l.run("ip", "-n", edge, "link", "set", "edge", "up")
	return "INTERFACE:edge,netns=" + edge
}

// vlan sends over a VLAN on the TAP device too, where the kernel has such devices.
func (l *lab) vlan(c string) {
	if strings.Contains(l.t.Name(), "tun") {
		return
	}
	for i, ns := range []string{l.a, l.b} {
		if out, err := exec.Command("ip", "-n", ns, "link", "add", "link", "ts0", "name", "v5", "type", "vlan", "id", "5").CombinedOutput(); err != nil {
			l.t.Logf("no VLAN devices here: %s", out)
			return
		}
		l.run("ip", "-n", ns, "addr", "add", fmt.Sprintf("192.168.55.%d/24", i+1), "dev", "v5")
		l.run("ip", "-n", ns, "link", "set", "v5", "up")
	}
	l.run("ip", "-n", c, "addr", "add", "10.9.10.2/32", "dev", "in")
	l.run("ip", "-n", l.a, "route", "add", "10.9.10.2", "via", "192.168.55.2")
	l.run("ip", "-n", l.b, "route", "add", "10.9.10.2", "dev", "out")
	l.moveTCP(l.a, c, "10.9.10.2:0", 1<<19, nil)
}

// countOf returns what the statistics of a program say of a direction.
func countOf(p *background, direction string) string {
	_, rest, _ := strings.Cut(p.output(), "STATISTICS: "+direction+": ")
	count, _, _ := strings.Cut(strings.SplitN(rest, "\n", 2)[0], ", by ")
	return count
}

var (
	badSum  = regexp.MustCompile(`(?m)^.*(\(incorrect|bad udp cksum|bad cksum|bad-len|bad hdr|truncated).*$`)
	goodTCP = regexp.MustCompile(`cksum 0x[0-9a-f]{4} \(correct\)`)
	goodUDP = regexp.MustCompile(`udp sum ok`)
)

// checkCapture reads a capture and complains of wrong checksums, and of a capture that shows too little to tell.
func checkCapture(t *testing.T, pcap string, size int) {
	t.Helper()
	out, err := exec.Command("tcpdump", "-nn", "-vv", "-r", pcap).Output()
	if err != nil {
		t.Fatal(err)
	}
	if bad := badSum.FindAll(out, 5); len(bad) > 0 {
		t.Errorf("wrong packets, the first:\n%s", bytes.Join(bad, []byte("\n")))
	}
	if n := len(goodTCP.FindAll(out, -1)); n < 2*size/1500 {
		t.Errorf("only %d TCP packets with a right checksum were seen", n)
	}
	if n := len(goodUDP.FindAll(out, -1)); n < 34 {
		t.Errorf("only %d UDP packets with a right checksum were seen", n)
	}
	for _, want := range []string{"DSTOPT", "options (NOP,NOP,NOP,NOP)", "tos 0x2,ECT(0)", "frag"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no packet with %q was seen", want)
		}
	}
}
