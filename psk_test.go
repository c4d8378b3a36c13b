package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tunsplice/tundev"
)

// Tunnels under a key, and what strangers, recordings and broken lines do to them.

// makeKey makes a key file in the lab's directory.
func (l *lab) makeKey(name string) string {
	l.t.Helper()
	file := filepath.Join(l.dir, name)
	l.run("tunsplice", "keygen", file)
	return file
}

func TestKeyedTunnels(t *testing.T) {
	for _, c := range []struct{ name, a, b, kind string }{
		{"tcp tun", "TCP-LISTEN:40839,reuseaddr", "TCP:10.74.68.1:40839,retry=100,interval=0.05", "tun"},
		{"tcp tap", "TCP-LISTEN:40839,reuseaddr,fork", "TCP:10.74.68.1:40839,retry=100,interval=0.05", "tap"},
		{"udp tun", "UDP-LISTEN:40839", "UDP:10.74.68.1:40839", "tun"},
		{"udp tap", "UDP-SENDTO:10.74.68.100:40839,bind=:40839", "UDP-SENDTO:10.74.68.1:40839,bind=:40839", "tap"},
		{"program", "", "", "tun"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			key := ",psk=" + l.makeKey("key")
			devA := "TUN:172.0.0.1/24,iff-no-pi,up,tun-name=ts0,tun-type=" + c.kind
			devB := "TUN:172.0.0.2/24,iff-no-pi,up,tun-name=ts0,tun-type=" + c.kind
			if strings.HasPrefix(c.name, "udp") { // what the path takes without fragments
				devA, devB = devA+",mtu=1430", devB+",mtu=1430"
			}
			var a, b *background
			if c.a == "" {
				a = l.start(on(l.a, "tunsplice", "-d", "-d", devA, "EXEC:nsenter --net=/run/netns/"+l.b+" tunsplice -lp inner STDIO\\"+key+" "+devB+key)...)
				b = a
			} else {
				a = l.start(on(l.a, "tunsplice", "-d", "-d", c.a+key, devA)...)
				b = l.start(on(l.b, "tunsplice", "-d", "-d", devB, c.b+key)...)
			}
			say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
			l.ping("172.0.0.1", say, 56, 1472, 8000)
			if !strings.Contains(a.output()+b.output(), "is up, packets are framed") && !strings.HasPrefix(c.name, "udp") {
				t.Error(say())
			}
			l.transfer(20<<20, say)
			if strings.Contains(a.output()+b.output(), " W ") || strings.Contains(a.output()+b.output(), " E ") {
				t.Error(say())
			}
			if status := a.stop(syscall.SIGTERM); status != 143 {
				t.Errorf("exit status %d after SIGTERM\n%s", status, say())
			}
			if strings.HasPrefix(c.name, "udp") {
				b.stop(syscall.SIGTERM)
			} else if status := b.ended(); status != 0 && b != a && !strings.Contains(b.output(), "write: ") { // a packet may have been on its way to the end that went
				t.Errorf("exit status %d after the other end went\n%s", status, say())
			}
		})
	}
}

// TestKeyMissing joins a tunnel end with a key to one with another key, and to one with none: both say so in words within a second or two, and no packet passes.
func TestKeyMissing(t *testing.T) {
	for _, c := range []struct {
		name, a, b   string // K is the key, X another one
		sayA, sayB   string
		listens, dev string
	}{
		{"tcp other", "TCP-LISTEN:40839,reuseaddrK", "TCP:10.74.68.1:40839X", "peer refused: the peer has another key, or none", "another key, or none", "40839", "tun"},
		{"tcp none at the client", "TCP-LISTEN:40839,reuseaddrK", "TCP:10.74.68.1:40839", "peer refused: the peer has no key: it speaks the link protocol", "without a word: if it has a key", "40839", "tun"},
		{"tcp none at the server", "TCP-LISTEN:40839,reuseaddr", "TCP:10.74.68.1:40839K", "tunsplice with a key, which is missing here", "has no key: it speaks the link protocol|has another key, or none", "40839", "tap"},
		{"udp other", "UDP-LISTEN:40839K", "UDP:10.74.68.1:40839X", "refused: the peer has another key, or none", "has another key, or none", "40839", "tun"},
		{"udp none at the client", "UDP-LISTEN:40839K", "UDP:10.74.68.1:40839", "refused: the peer has no key: it speaks the link protocol", "", "40839", "tap"},
		{"udp none at the server", "UDP-LISTEN:40839", "UDP:10.74.68.1:40839K", "tunsplice with a key, which is missing here", "no answer to the handshake so far", "40839", "tap"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			put := strings.NewReplacer("K", ",psk="+l.makeKey("key"), "X", ",psk="+l.makeKey("other")).Replace
			fix := put
			a := l.start(on(l.a, "tunsplice", fix(c.a), "TUN:172.0.0.1/24,iff-no-pi,up,tun-name=ts0,tun-type="+c.dev)...)
			l.listening(l.a, c.listens)
			b := l.start(on(l.b, "tunsplice", "TUN:172.0.0.2/24,iff-no-pi,up,tun-name=ts0,tun-type="+c.dev, fix(c.b))...)
			began := time.Now()
			say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
			eventually(t, "words at both ends", func() bool {
				return strings.Contains(a.output(), c.sayA) && regexp.MustCompile(c.sayB).MatchString(b.output())
			}, say)
			if took := time.Since(began); took > 4*time.Second { // a race build on a busy machine
				t.Errorf("it took %s\n%s", took, say())
			}
			if out, err := exec.Command("ip", "-n", l.a, "link", "show", "dev", "ts0").CombinedOutput(); err == nil && strings.Contains(c.a, "K") {
				t.Errorf("the device was made: %s", out)
			}
		})
	}
}

// listening waits until a TCP or UDP port is bound in a namespace.
func (l *lab) listening(ns, port string) {
	l.t.Helper()
	eventually(l.t, "port "+port, func() bool {
		return strings.Contains(l.run("ip", "netns", "exec", ns, "ss", "-Htuln"), ":"+port)
	}, func() string { return "" })
}

// TestKeyedReplay records a tunnel's session in both directions and plays it to a fresh server: nothing is taken.
func TestKeyedReplay(t *testing.T) {
	l := newLab(t)
	key := ",psk=" + l.makeKey("key")
	serve := func() *background {
		a := l.start(on(l.a, "tunsplice", "-d", "-d", "TCP-LISTEN:40839,reuseaddr"+key, "TUN:172.0.0.1/24,iff-no-pi,up,tun-name=ts0")...)
		l.listening(l.a, "40839")
		return a
	}
	a := serve()
	var there, back bytes.Buffer
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var relaying sync.WaitGroup
	relaying.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		var s net.Conn
		if err := tundev.InNetNS(l.a, func() (err error) { s, err = net.Dial("tcp4", "10.74.68.1:40839"); return err }); err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		relaying.Go(func() { io.Copy(io.MultiWriter(c, &back), s); c.(*net.TCPConn).CloseWrite() })
		io.Copy(io.MultiWriter(s, &there), c)
		s.(*net.TCPConn).CloseWrite()
	})
	b := l.start("tunsplice", "TUN:172.0.0.2/24,iff-no-pi,up,tun-name=ts0,netns="+l.b, fmt.Sprintf("TCP:%s%s", ln.Addr(), key))
	l.ping("172.0.0.1", func() string { return a.output() + b.output() }, 56)
	b.stop(syscall.SIGTERM)
	a.ended()
	relaying.Wait()
	if there.Len() < 500 || back.Len() < 500 || bytes.Contains(there.Bytes(), []byte{172, 0, 0, 2}) {
		t.Fatalf("recorded %d and %d bytes, or they are in clear text", there.Len(), back.Len())
	}
	for _, recorded := range [][]byte{there.Bytes(), back.Bytes()} {
		a := serve()
		var c net.Conn
		if err := tundev.InNetNS(l.a, func() (err error) { c, err = net.Dial("tcp4", "10.74.68.1:40839"); return err }); err != nil {
			t.Fatal(err)
		}
		c.Write(recorded)
		eventually(t, "the recording is refused", func() bool { return strings.Contains(a.output(), "peer refused: the peer has another key, or none") }, a.output)
		c.Close()
		if out, err := exec.Command("ip", "-n", l.a, "link", "show", "dev", "ts0").CombinedOutput(); err == nil {
			t.Errorf("the device was made: %s", out)
		}
		a.stop(syscall.SIGTERM)
	}
}

// TestKeyedSilence has a thousand connections that say nothing, and a thousand that say nonsense, before an honest peer comes.
func TestKeyedSilence(t *testing.T) {
	l := newLab(t)
	key := ",psk=" + l.makeKey("key")
	a := l.start(on(l.a, "tunsplice", "TCP-LISTEN:40839,reuseaddr,backlog=4096"+key, "SYSTEM:echo welcome")...)
	l.listening(l.a, "40839")
	if err := tundev.InNetNS(l.a, func() error {
		for i := range 2000 {
			c, err := net.Dial("tcp4", "10.74.68.1:40839")
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			if i%2 == 0 {
				io.WriteString(c, "nonsense")
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b := l.start(on(l.b, "tunsplice", "-", "TCP:10.74.68.1:40839"+key)...)
	if status := b.ended(); status != 0 || !strings.Contains(b.output(), "welcome") {
		t.Errorf("status %d\n%s\n%s", status, b.output(), a.output())
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the honest peer waited %s", took)
	}
	a.ended()
	if n := strings.Count(a.output(), "\n"); n > 12 {
		t.Errorf("%d lines of log:\n%s", n, a.output())
	}
}

// TestKeyedCut cuts a session in the middle: what came is delivered, and the end is an error.
func TestKeyedCut(t *testing.T) {
	l := newLab(t)
	key := ",psk=" + l.makeKey("key")
	sock := filepath.Join(l.dir, "sock")
	a := l.start("tunsplice", "UNIX-LISTEN:"+sock+key, "SYSTEM:cat >&2; sleep 100")
	eventually(t, "the socket", func() bool { return exec.Command("test", "-S", sock).Run() == nil }, a.output)
	b := l.start("tunsplice", "SYSTEM:echo some data; sleep 100", "UNIX-CONNECT:"+sock+key)
	eventually(t, "data", func() bool { return strings.Contains(a.output(), "some data") }, a.output)
	b.stop(syscall.SIGKILL)
	if status := a.ended(); status != 1 || !strings.Contains(a.output(), "the stream was cut off") {
		t.Errorf("status %d\n%s", status, a.output())
	}
}

// TestOpenTunnelWarning looks that a tunnel which waits for peers in clear text says so once, unless nobody else can reach it.
func TestOpenTunnelWarning(t *testing.T) {
	l := newLab(t)
	key := ",psk=" + l.makeKey("key")
	const tun = "TUN:172.0.0.1/24,iff-no-pi"
	for _, c := range []struct {
		left, right string
		warns       int
	}{
		{"TCP-LISTEN:40839", tun, 1},
		{tun, "UDP-LISTEN:40840,bind=10.74.68.1", 1},
		{"TCP6-LISTEN:40841", tun, 1},
		{"TCP-LISTEN:40842" + key, tun, 0},
		{"TCP-LISTEN:40843,bind=127.0.0.1", tun, 0},
		{"TCP6-LISTEN:40844,bind=[::1]", tun, 0},
		{"TCP-LISTEN:40845", "EXEC:cat", 0},
	} {
		p := l.start(on(l.a, "tunsplice", "-d", "-d", c.left, c.right)...)
		eventually(t, "it listens", func() bool { return strings.Contains(p.output(), "listening on") }, p.output)
		p.stop(syscall.SIGTERM)
		if n := strings.Count(p.output(), "can join this tunnel"); n != c.warns {
			t.Errorf("%s %s: %d warnings\n%s", c.left, c.right, n, p.output())
		}
	}
}

// TestKeyedDatagramsRestart kills either end of a tunnel over UDP and starts it again: packets flow again without a hand on the other end.
func TestKeyedDatagramsRestart(t *testing.T) {
	l := newLab(t)
	key := ",psk=" + l.makeKey("key")
	server := func() *background {
		return l.start(on(l.a, "tunsplice", "-d", "-d", "-d", "UDP-LISTEN:40839"+key, "TUN:172.0.0.1/24,iff-no-pi,up,tun-name=ts0")...)
	}
	client := func() *background {
		return l.start(on(l.b, "tunsplice", "-d", "-d", "-d", "TUN:172.0.0.2/24,iff-no-pi,up,tun-name=ts0", "UDP:10.74.68.1:40839,sourceport=40840"+key)...)
	}
	l.survivesKills(server, client)
}

// survivesKills starts both ends of a tunnel, kills each and starts it again: packets flow again in time.
func (l *lab) survivesKills(server, client func() *background) {
	l.t.Helper()
	a, b := server(), client()
	say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
	l.ping("172.0.0.1", say, 56)
	for _, end := range []string{"server", "client"} {
		began := time.Now()
		if end == "server" {
			a.stop(syscall.SIGKILL)
			a = server()
		} else {
			b.stop(syscall.SIGKILL)
			b = client()
		}
		l.ping("172.0.0.1", say, 56, 1000)
		if took := time.Since(began); took > 6*time.Second {
			l.t.Errorf("%s: packets flow after %s\n%s", end, took, say())
		}
	}
}

// TestKeyedReconnect kills either end of a tunnel with reconnect and a key; meanwhile a stranger with another key keeps dialling.
func TestKeyedReconnect(t *testing.T) {
	l := newLab(t)
	key, other := ",psk="+l.makeKey("key"), ",psk="+l.makeKey("other")
	server := func() *background {
		return l.start(on(l.a, "tunsplice", "-d", "-d", "TCP-LISTEN:40839,reuseaddr,reconnect"+key, "TUN:172.0.0.1/24,iff-no-pi,up,tun-name=ts0")...)
	}
	client := func() *background {
		return l.start(on(l.b, "tunsplice", "-d", "-d", "TUN:172.0.0.2/24,iff-no-pi,up,tun-name=ts0", "TCP:10.74.68.1:40839,reconnect"+key)...)
	}
	stranger := l.start(on(l.b, "tunsplice", "TUN:172.9.0.1/24,iff-no-pi,up,tun-name=ts1", "TCP:10.74.68.1:40839,reconnect=0.01:0.05"+other)...)
	l.survivesKills(server, client)
	stranger.stop(syscall.SIGTERM)
	if n := strings.Count(stranger.output(), "another key, or none"); n == 0 || n > 3 {
		t.Errorf("the stranger says %d times why it is refused\n%s", n, stranger.output())
	}
}
