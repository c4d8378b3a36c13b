package main

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tunsplice/relay"
	"tunsplice/tundev"
)

// What peers and circumstances do to a tunnel that stays up: each fault ends in a known state with a line of log, and the honest peer is served again.

// connect opens a TCP connection from a host of the lab, as a stranger would.
func (l *lab) connect(ns, to string) *net.TCPConn {
	l.t.Helper()
	var c net.Conn
	err := tundev.InNetNS(ns, func() (err error) {
		c, err = net.DialTimeout("tcp", to, 5*time.Second)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// openFiles counts the descriptors of a process.
func (p *background) openFiles() int {
	out, err := exec.Command("sh", "-c", "ls /proc/"+strconv.Itoa(p.cmd.Process.Pid)+"/fd | wc -l").Output()
	n, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || n == 0 {
		p.t.Fatalf("count of descriptors: %v %q", err, out)
	}
	return n
}

func TestFaults(t *testing.T) {
	const port = "10.74.68.1:40839"
	p := startPair(newLab(t), "tun", "TCP-LISTEN:40839,reuseaddr,reconnect,heartbeat=0.3", "TCP:"+port+",reconnect,heartbeat=0.3")
	files := p.endA.openFiles()
	away := func() { // the honest peer is not there
		p.endB.stop(syscall.SIGKILL)
	}
	back := func(when string) {
		p.startB()
		p.flows(when)
	}

	t.Run("a peer that stops", func(t *testing.T) {
		p.endB.cmd.Process.Signal(syscall.SIGSTOP)
		eventually(t, "the listening end notices", func() bool { return strings.Contains(p.endA.output(), "the peer is silent") }, p.say)
		p.endB.cmd.Process.Signal(syscall.SIGCONT)
		p.flows("after SIGSTOP and SIGCONT of the connecting end")
		p.endA.cmd.Process.Signal(syscall.SIGSTOP)
		eventually(t, "the connecting end notices", func() bool { return strings.Contains(p.endB.output(), "the peer is silent") }, p.say)
		p.endA.cmd.Process.Signal(syscall.SIGCONT)
		p.flows("after SIGSTOP and SIGCONT of the listening end")
	})
	t.Run("a stranger that says nothing, and one that says a byte", func(t *testing.T) {
		away()
		p.connect(p.b, port)
		c := p.connect(p.b, port)
		c.Write([]byte{0x45})
		back("beside strangers")
	})
	t.Run("a hello and then garbage", func(t *testing.T) {
		away()
		c := p.connect(p.b, port)
		hello, err := (&relay.Hello{Kind: relay.DeviceTUN, Nonce: relay.NewNonce(), MTU: 1500, Software: "stranger"}).AppendPacket(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(hello)
		c.Write([]byte(strings.Repeat("\xff\x00garbage", 1000)))
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("the listening end does not close a connection with garbage: %v", err)
		}
		back("after garbage")
	})
	t.Run("connections that are aborted at once", func(t *testing.T) {
		err := tundev.InNetNS(p.lab.b, func() error {
			for range 1000 {
				c, err := net.DialTimeout("tcp", port, 5*time.Second)
				if err != nil {
					return err
				}
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		p.flows("after 1000 connections that were aborted")
	})
	t.Run("silent connections", func(t *testing.T) {
		away()
		err := tundev.InNetNS(p.lab.b, func() error {
			for range 500 {
				c, err := net.DialTimeout("tcp", port, 5*time.Second)
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		back("beside 500 silent connections")
	})
	eventually(t, fmt.Sprintf("no more than the %d descriptors of the beginning, and those of the last strangers", files), func() bool { return p.endA.openFiles() <= files+40 }, p.say)
	if p.endA.stop(syscall.SIGTERM) != 143 {
		t.Errorf("did not end in order\n%s", p.say())
	}
}

// A namespace whose name is deleted lives as long as the device that is open in it, and so the tunnel goes on, and ends in order.
func TestNamespaceDeleted(t *testing.T) {
	l := newLab(t)
	gone := newLab(t)
	p := l.start(on(l.a, "tunsplice", "-d", "-d", "TCP-LISTEN:40839,reuseaddr,reconnect", "TUN:172.0.0.1/24,iff-no-pi,up,netns="+gone.a)...)
	q := l.start(on(l.b, "tunsplice", "TCP:10.74.68.1:40839,reconnect", "TUN:172.0.0.2/24,iff-no-pi,up")...)
	eventually(t, "the tunnel", func() bool { return strings.Contains(p.output(), "is up") }, func() string { return p.output() + q.output() })
	l.run("ip", "netns", "del", gone.a)
	q.stop(syscall.SIGTERM)
	q = l.start(on(l.b, "tunsplice", "-d", "-d", "TCP:10.74.68.1:40839,reconnect", "TUN:172.0.0.2/24,iff-no-pi,up")...)
	eventually(t, "the tunnel again", func() bool { return strings.Contains(q.output(), "is up") }, func() string { return p.output() + q.output() })
	l.ping("172.0.0.1", func() string { return p.output() + q.output() }, 56)
	if status := p.stop(syscall.SIGTERM); status != 143 {
		t.Errorf("exit status %d\n%s", status, p.output())
	}
}

// A connection to a tunnel for which nothing comes is closed.
func TestHandshakeTimeout(t *testing.T) {
	l := newLab(t)
	p := l.start(on(l.a, "tunsplice", "-d", "-d", "TCP-LISTEN:40839,reuseaddr,reconnect,handshake-timeout=0.3,hello-timeout=5", "TUN:172.0.0.1/24,iff-no-pi,up")...)
	eventually(t, "the listener", func() bool { return strings.Contains(p.output(), "listening on") }, p.output)
	c := l.connect(l.b, "10.74.68.1:40839")
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection is not closed: %v", err)
	}
	eventually(t, "the log to say why", func() bool { return strings.Contains(p.output(), "handshake-timeout") }, p.output)
}
