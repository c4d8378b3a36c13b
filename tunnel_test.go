package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tunsplice/tundev"

	"golang.org/x/sys/unix"
)

// The tutorials' tunnels between two hosts made of network namespaces, over every transport, alone and with plain socat at one end.

// lab is two hosts with a wire between them: 10.74.68.1 on a, 10.74.68.100 on b.
type lab struct {
	t    *testing.T
	a, b string // names of network namespaces
	dir  string
}

var labs = 0

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces with names need root")
	}
	labs++
	l := &lab{t: t, dir: t.TempDir()}
	for i, ns := range []*string{&l.a, &l.b} {
		*ns = fmt.Sprintf("ts%d-%d%c", os.Getpid(), labs, 'a'+i)
		l.run("ip", "netns", "add", *ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", *ns).Run() })
		l.run("ip", "-n", *ns, "link", "set", "lo", "up")
	}
	l.run("ip", "link", "add", "wire", "netns", l.a, "type", "veth", "peer", "name", "wire", "netns", l.b)
	for ns, ip := range map[string]string{l.a: "10.74.68.1/24", l.b: "10.74.68.100/24"} {
		l.run("ip", "-n", ns, "addr", "add", ip, "dev", "wire")
		l.run("ip", "-n", ns, "link", "set", "wire", "up")
	}
	return l
}

// run runs a command that must succeed.
func (l *lab) run(argv ...string) string {
	l.t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// on returns the command line that runs argv on a host.
func on(ns string, argv ...string) []string {
	return append([]string{"ip", "netns", "exec", ns}, argv...)
}

// background is a program that runs in the background.
type background struct {
	t    *testing.T
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer // both outputs
	done chan struct{}
	err  error
}

// Write collects output.
func (p *background) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *background) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start starts a program that is killed at the end of the test if it is still there.
func (l *lab) start(argv ...string) *background {
	l.t.Helper()
	p := &background{t: l.t, cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.Dir = l.dir
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	l.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if strings.Contains(p.output(), "DATA RACE") {
			l.t.Errorf("%s:\n%s", p.cmd, p.output())
		}
	})
	return p
}

// stop ends the program with a signal and returns its exit status.
func (p *background) stop(sig os.Signal) int {
	p.t.Helper()
	p.cmd.Process.Signal(sig)
	return p.ended()
}

// ended waits for the end of the program and returns its exit status.
func (p *background) ended() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		p.cmd.Process.Signal(syscall.SIGQUIT)
		<-p.done
		p.t.Fatalf("%s does not end:\n%s", p.cmd, p.output())
		return -1
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool, say func() string) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s\n%s", what, say())
		}
	}
}

// ping pings from host b until an answer comes, then with the given sizes, which must all be answered.
func (l *lab) ping(to string, say func() string, sizes ...int) {
	l.t.Helper()
	eventually(l.t, "an answer to ping", func() bool {
		return exec.Command("ip", on(l.b, "ping", "-q", "-c", "1", "-W", "1", to)[1:]...).Run() == nil
	}, say)
	for _, size := range sizes {
		argv := on(l.b, "ping", "-q", "-c", "3", "-i", "0.05", "-W", "5", "-s", fmt.Sprint(size), to)
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			l.t.Fatalf("ping with %d bytes: %v\n%s\n%s", size, err, out, say())
		}
	}
}

// transfer sends size bytes by TCP in each direction at once between 172.0.0.1 on host a and host b, and compares checksums.
func (l *lab) transfer(size int, say func() string) {
	l.t.Helper()
	var ln net.Listener
	if err := tundev.InNetNS(l.a, func() (err error) { ln, err = net.Listen("tcp4", "172.0.0.1:5001"); return err }); err != nil {
		l.t.Fatal(err)
	}
	defer ln.Close()
	var client net.Conn
	if err := tundev.InNetNS(l.b, func() (err error) {
		client, err = (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp4", "172.0.0.1:5001")
		return err
	}); err != nil {
		l.t.Fatalf("%v\n%s", err, say())
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		l.t.Fatal(err)
	}
	defer server.Close()
	var wg sync.WaitGroup
	for i, way := range [][2]net.Conn{{client, server}, {server, client}} {
		for _, c := range way {
			c.SetDeadline(time.Now().Add(90 * time.Second))
		}
		sent, got := sha256.New(), sha256.New()
		var arrived int64
		both := &sync.WaitGroup{}
		both.Add(2)
		wg.Add(1)
		go func() {
			defer both.Done()
			r := rand.NewChaCha8([32]byte{byte(i)})
			if _, err := io.Copy(io.MultiWriter(way[0], sent), io.LimitReader(r, int64(size))); err != nil {
				l.t.Errorf("sending: %v", err)
			}
			way[0].(*net.TCPConn).CloseWrite()
		}()
		go func() {
			defer both.Done()
			var err error
			if arrived, err = io.Copy(got, way[1]); err != nil {
				l.t.Errorf("receiving: %v", err)
			}
		}()
		go func() {
			defer wg.Done()
			both.Wait()
			if arrived != int64(size) || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				l.t.Errorf("%d of %d bytes arrived, or others were sent\n%s", arrived, size, say())
			}
		}()
	}
	wg.Wait()
}

// counters are an interface's packets.
type counters struct {
	RX, TX count
}

type count struct{ Packets, Dropped, Errors uint64 }

func (l *lab) counters(ns, dev string) (c counters) {
	var links []struct {
		Stats64 counters `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(l.run("ip", "-n", ns, "-s", "-j", "link", "show", "dev", dev)), &links); err != nil {
		l.t.Fatal(err)
	}
	return links[0].Stats64
}

// nothingLost waits until each device has received what the other has sent.
func (l *lab) nothingLost(devA, devB string, say func() string) {
	l.t.Helper()
	var a, b counters
	eventually(l.t, "equal counters of both devices", func() bool {
		a, b = l.counters(l.a, devA), l.counters(l.b, devB)
		return a.TX.Packets == b.RX.Packets && b.TX.Packets == a.RX.Packets
	}, func() string { return fmt.Sprintf("%+v\n%+v\n%s", a, b, say()) })
	if a.RX.Dropped+b.RX.Dropped+a.RX.Errors+b.RX.Errors > 0 {
		l.t.Errorf("a device refused packets: %+v %+v", a, b)
	}
}

// transports are the ways between the two hosts: what stands for the stream at host a and at host b.
var transports = []struct {
	name, a, b string
	datagrams  bool
}{
	{"tcp", "tcp-l:40839,reuseaddr", "tcp:10.74.68.1:40839,retry=100,interval=0.05", false},
	{"unix", "UNIX-LISTEN:s", "UNIX-CONNECT:s,retry=100,interval=0.05", false},
	{"udp", "UDP-LISTEN:40839", "UDP:10.74.68.1:40839", true},
	{"udp sendto", "UDP-DATAGRAM:10.74.68.100:40839,bind=:40839", "UDP-SENDTO:10.74.68.1:40839,bind=:40839", true},
	{"pipes", "STDIO", "STDIO", false},
	{"program", "", "", false},
}

func TestTunnels(t *testing.T) {
	for _, tr := range transports {
		for _, kind := range []string{"tun", "tap"} {
			for _, bare := range [][2]string{{",iff-no-pi", ",iff-no-pi"}, {"", ",iff-no-pi"}, {",iff-no-pi", ""}, {"", ""}} {
				name := tr.name + " " + kind
				if bare != [2]string{",iff-no-pi", ",iff-no-pi"} {
					if tr.name != "tcp" && tr.name != "udp" {
						continue
					}
					name += fmt.Sprintf(" pi %v %v", bare[0] == "", bare[1] == "")
				}
				t.Run(name, func(t *testing.T) {
					l := newLab(t)
					devA := fmt.Sprintf("TUN:172.0.0.1/24%s,up,tun-type=%s,tun-name=ts0", bare[0], kind)
					devB := fmt.Sprintf("TUN:172.0.0.2/24%s,up,tun-type=%s,tun-name=ts0", bare[1], kind)
					var a, b *background
					switch tr.name {
					case "pipes":
						for _, p := range []string{"ab", "ba"} {
							if err := unix.Mkfifo(filepath.Join(l.dir, p), 0o600); err != nil {
								t.Fatal(err)
							}
						}
						a = l.start(on(l.a, "sh", "-c", "exec tunsplice -d -d STDIO "+devA+" <ba >ab")...)
						b = l.start(on(l.b, "sh", "-c", "exec tunsplice -d -d "+devB+" STDIO >ba <ab")...)
					case "program":
						a = l.start(on(l.a, "tunsplice", "-d", "-d", devA, "EXEC:nsenter --net=/run/netns/"+l.b+" tunsplice -lp inner STDIO "+devB)...)
						b = a
					default:
						a = l.start(on(l.a, "tunsplice", "-d", "-d", tr.a, devA)...)
						b = l.start(on(l.b, "tunsplice", "-d", "-d", devB, tr.b)...)
					}
					say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
					l.ping("172.0.0.1", say, 56, 1472, 8000)
					size := 200 << 20
					if tr.datagrams || strings.Contains(name, "pi ") {
						size = 20 << 20
					}
					if testing.Short() {
						size = 5 << 20
					}
					l.transfer(size, say)
					if !tr.datagrams {
						l.nothingLost("ts0", "ts0", say)
					}
					if kind == "tap" {
						l.framesPass(l.a, "ts0", l.b, say)
					}
					if status := a.stop(syscall.SIGTERM); status != 143 {
						t.Errorf("exit status %d after SIGTERM\n%s", status, say())
					}
					if tr.datagrams {
						b.stop(syscall.SIGTERM)
					} else if status := b.ended(); status != 0 && b != a {
						t.Errorf("exit status %d after the other end went\n%s", status, say())
					}
					for _, ns := range []string{l.a, l.b} {
						if out, err := exec.Command("ip", "-n", ns, "link", "show", "dev", "ts0").CombinedOutput(); err == nil {
							t.Errorf("the device is still there: %s", out)
						}
					}
				})
			}
		}
	}
}

// framesPass sends odd frames through an interface of one host and looks for them, byte for byte, at ts0 of the other.
func (l *lab) framesPass(from, iface, to string, say func() string) {
	l.t.Helper()
	pcap := filepath.Join(l.dir, "pcap")
	dump := l.start(on(to, "tcpdump", "-i", "ts0", "--immediate-mode", "-U", "-w", pcap, "-s", "0")...)
	eventually(l.t, "tcpdump listens", func() bool { return strings.Contains(dump.output(), "listening on") }, dump.output)
	frames := map[string]string{
		"VLAN":                "ffffffffffff 020000000001 8100 0064 0800 4500001c000100004011" + "0000 0a000001 0a000002 00010002 0008 0000",
		"double VLAN":         "ffffffffffff 020000000001 88a8 0064 8100 0065 88b6 746167676564",
		"IPv6 multicast":      "333300000001 020000000001 86dd 600000000004 3a 01 fe800000000000000000000000000001 ff020000000000000000000000000001 80000000",
		"LLDP":                "0180c200000e 020000000001 88cc 0207040200000000010403050000 0602 0078 0000",
		"STP":                 "0180c2000000 020000000001 0026 424203 0000000000000000000000000000000000000000000000000000000000000000000000",
		"802.1X":              "0180c2000003 020000000001 888e 01010000",
		"no payload":          "ffffffffffff 020000000001 88b6",
		"a hello of no one's": "0180c200000e 020000000001 88b5 6e6f2068656c6c6f",
	}
	fd := -1
	if err := tundev.InNetNS(from, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		ifi, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifi.Index})
	}); err != nil {
		l.t.Fatal(err)
	}
	defer unix.Close(fd)
	for name, text := range frames {
		frame, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			l.t.Fatal(name, err)
		}
		if _, err := unix.Write(fd, frame); err != nil {
			l.t.Fatalf("%s: %v", name, err)
		}
		eventually(l.t, name+" frame arrives unchanged", func() bool {
			b, _ := os.ReadFile(pcap)
			return bytes.Contains(b, frame)
		}, say)
	}
}

// A device whose packets, with all headers, are longer than the path's MTU: which MTU it should have is said, and with that one nothing is.
func TestFragmentsAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ dev, ip6, key, mtu string }{
		"tun":       {",iff-no-pi", "", "", "1472"},
		"pi":        {"", "", "", "1468"},
		"tap":       {",tun-type=tap,iff-no-pi", "", "", "1458"},
		"tun key":   {",iff-no-pi", "", "key", "1444"},
		"tun IPv6":  {",iff-no-pi", "6", "", "1452"},
		"tun lower": {",iff-no-pi,mtu=1472", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			to, key := "10.74.68.1", ""
			if c.ip6 != "" {
				l.run("ip", "-n", l.a, "addr", "add", "fd68::1/64", "dev", "wire", "nodad")
				l.run("ip", "-n", l.b, "addr", "add", "fd68::2/64", "dev", "wire", "nodad")
				to = "[fd68::1]"
			}
			if c.key != "" {
				key = ",psk=" + l.makeKey(c.key)
			}
			a := l.start(on(l.a, "tunsplice", "UDP"+c.ip6+"-LISTEN:4200"+key, "TUN:172.0.0.1/24,up,tun-name=ts0"+c.dev)...)
			b := l.start(on(l.b, "tunsplice", "TUN:172.0.0.2/24,up,tun-name=ts0"+c.dev, "UDP"+c.ip6+":"+to+":4200"+key)...)
			say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
			l.ping("172.0.0.1", say)
			for _, p := range []*background{a, b} {
				if c.mtu == "" && strings.Contains(p.output(), "fragments") || c.mtu != "" && !strings.Contains(p.output(), "mtu="+c.mtu+" on the device avoids it") {
					t.Error(say())
				}
			}
		})
	}
}
