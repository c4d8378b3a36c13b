package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tunsplice/tundev"

	"golang.org/x/sys/unix"
)

// A tunnel of several connections (option streams).

// queues waits until the device of each host has so many queues that somebody reads.
func (p *pair) queues(n int) {
	p.t.Helper()
	for _, ns := range []string{p.a, p.b} {
		eventually(p.t, fmt.Sprintf("%d queues of the device in %s", n, ns), func() bool {
			out, err := exec.Command("ip", "-n", ns, "-d", "link", "show", "ts0").Output()
			return err == nil && strings.Contains(string(out), fmt.Sprintf("numqueues %d ", n))
		}, p.say)
	}
}

// cut resets one connection of the tunnel, as a middlebox does, and waits until it is gone.
func (p *pair) cut(port string) {
	p.t.Helper()
	established := func() []string {
		return strings.Fields(p.run(on(p.b, "ss", "-Htn", "state", "established", "dport", "= :"+port)...))
	}
	before := established()
	if len(before) < 3 {
		p.t.Fatalf("no connection: %v\n%s", before, p.say())
	}
	local := before[2]
	p.run(on(p.b, "ss", "-K", "src", local)...)
	eventually(p.t, "the connection "+local+" to go", func() bool { return !strings.Contains(strings.Join(established(), " "), local) }, p.say)
}

// inOrder sends numbered datagrams in several flows from host b to host a, and looks whether those of each come in their order.
func (p *pair) inOrder() {
	p.t.Helper()
	var sink net.PacketConn
	if err := tundev.InNetNS(p.a, func() (err error) { sink, err = net.ListenPacket("udp4", "172.0.0.1:5002"); return err }); err != nil {
		p.t.Fatal(err)
	}
	defer sink.Close()
	const flows, each = 8, 2000
	var conns [flows]net.Conn
	for i := range conns {
		if err := tundev.InNetNS(p.b, func() (err error) { conns[i], err = net.Dial("udp4", "172.0.0.1:5002"); return err }); err != nil {
			p.t.Fatal(err)
		}
		defer conns[i].Close()
	}
	over, sent := make(chan struct{}), make(chan struct{})
	defer func() { close(over); <-sent }()
	go func() {
		defer close(sent)
		for n := range each {
			for _, c := range conns {
				c.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
			}
		}
		for { // where a queue was full the last one is lost
			for _, c := range conns {
				c.Write(binary.BigEndian.AppendUint32(nil, each))
			}
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	last := map[string]uint32{}
	sink.SetReadDeadline(time.Now().Add(20 * time.Second))
	for ended := map[string]bool{}; len(ended) < flows; {
		buf := make([]byte, 16)
		n, from, err := sink.ReadFrom(buf)
		if err != nil || n != 4 {
			p.t.Fatalf("%d bytes, %v\n%s", n, err, p.say())
		}
		number := binary.BigEndian.Uint32(buf)
		if number < last[from.String()] {
			p.t.Fatalf("datagram %d of a flow came after %d\n%s", number, last[from.String()], p.say())
		}
		last[from.String()] = number
		if number == each {
			ended[from.String()] = true
		}
	}
}

func TestStreams(t *testing.T) {
	for _, c := range []struct {
		name, kind, a, b string
		queues           int
	}{
		{"tun", "tun", "TCP-LISTEN:40839,reuseaddr,streams=3", "TCP:10.74.68.1:40839,retry=100,interval=0.05,streams=2", 2},
		{"as many as can be", "tun", "TCP-LISTEN:40839,reuseaddr,streams=64", "TCP:10.74.68.1:40839,retry=100,interval=0.05,streams=64", 64},
		{"tap with a key", "tap", "TCP-LISTEN:40839,reuseaddr,psk-env=KEY,streams=2", "TCP:10.74.68.1:40839,retry=100,interval=0.05,psk-env=KEY,streams=4", 2},
		{"unix", "tun", "UNIX-LISTEN:s,streams=2", "UNIX-CONNECT:s,retry=100,interval=0.05,streams=2", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("KEY", strings.Repeat("c0ffee99", 8))
			p := startPair(newLab(t), c.kind, c.a, c.b)
			p.queues(c.queues)
			for range 20 { // each is a flow; that all of them go one way does not happen
				p.transfer(1<<16, p.say)
			}
			p.transfer(20<<20, p.say)
			p.inOrder()
			if p.endB.stop(syscall.SIGTERM) != 143 || p.endA.ended() != 0 {
				t.Errorf("did not end in order\n%s", p.say())
			}
			if strings.Contains(p.say(), "packet lost") {
				t.Error(p.say())
			}
		})
	}
}

// Flows go over what is left of the tunnel when a connection is lost, over all again with reconnect, and without it the tunnel ends with its last connection.
func TestStreamsLost(t *testing.T) {
	l := newLab(t)
	p := startPair(l, "tun", "TCP-LISTEN:40839,reuseaddr,streams=2", "TCP:10.74.68.1:40839,retry=100,interval=0.05,streams=2")
	p.queues(2)
	p.cut("40839")
	p.queues(1)
	for range 5 {
		p.transfer(1<<16, p.say)
	}
	if !strings.Contains(p.endB.output(), "it goes on with 1") {
		t.Errorf("no word of the lost connection\n%s", p.say())
	}
	p.cut("40839")
	if a, b := p.endA.ended(), p.endB.ended(); b != 1 {
		t.Errorf("exit status %d and %d\n%s", a, b, p.say())
	}
}

func TestStreamsReconnect(t *testing.T) {
	p := startPair(newLab(t), "tap", "TCP-LISTEN:40839,reuseaddr,reconnect,heartbeat=0.3,streams=2", "TCP:10.74.68.1:40839,reconnect,heartbeat=0.3,streams=2")
	p.queues(2)
	carrier := func(ns string) bool {
		return strings.Contains(p.run("ip", "-n", ns, "link", "show", "dev", "ts0"), "LOWER_UP")
	}
	for range 2 {
		p.cut("40839")
		p.flows("after the loss of a connection")
		p.queues(2)
	}
	p.endA.stop(syscall.SIGKILL)
	eventually(t, "the carrier to go", func() bool { return !carrier(p.b) }, p.say)
	p.startA()
	p.flows("after kill -9 of the listening end")
	p.queues(2)
	p.endB.stop(syscall.SIGKILL)
	p.startB()
	p.flows("after kill -9 of the connecting end")
	p.queues(2)
	for _, ns := range []string{p.a, p.b} {
		p.run("ip", "-n", ns, "link", "del", "ts0")
		p.flows("after the device was deleted")
		p.queues(2)
	}
	p.transfer(1<<20, p.say)

	// A stranger with as many connections finds the tunnel in use.
	stranger := p.start(on(p.b, "tunsplice", "-d", "-d", "TCP:10.74.68.1:40839,streams=2", "TAP,up,tun-name=ts1")...)
	if status := stranger.ended(); status != 1 || !strings.Contains(stranger.output(), "in use by another peer") {
		t.Errorf("a second peer: exit status %d\n%s\n%s", status, stranger.output(), p.say())
	}
	p.queues(2)
	if p.endB.stop(syscall.SIGTERM) != 143 || p.endA.stop(syscall.SIGTERM) != 143 {
		t.Errorf("did not end in order\n%s", p.say())
	}
}

// Where only one end knows of several connections the tunnel has one.
func TestStreamsAtOneEnd(t *testing.T) {
	for _, c := range []struct{ name, a, b, want string }{
		{"connecting", "TCP-LISTEN:40839,reuseaddr", "TCP:10.74.68.1:40839,retry=100,interval=0.05,streams=2", "the peer takes 1 of the 2 connections"},
		{"listening", "TCP-LISTEN:40839,reuseaddr,streams=2", "TCP:10.74.68.1:40839,retry=100,interval=0.05", ""},
		{"unframed", "TCP-LISTEN:40839,reuseaddr,framing=none", "TCP:10.74.68.1:40839,retry=100,interval=0.05,streams=2,hello-timeout=0.1", "the peer takes 1 of the 2 connections"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPair(newLab(t), "tun", c.a, c.b)
			eventually(t, "the warning", func() bool { return strings.Contains(p.endB.output(), c.want) }, p.say)
			if c.name != "unframed" {
				p.transfer(1<<16, p.say)
			}
			if p.endB.stop(syscall.SIGTERM) != 143 || p.endA.ended() != 0 {
				t.Errorf("did not end in order\n%s", p.say())
			}
		})
	}
}

// A device that can't be made again ends the program with its error, though other connections end in order after it.
func TestStreamsDeviceLost(t *testing.T) {
	l := newLab(t)
	clone := filepath.Join(l.dir, "clone")
	if err := unix.Mknod(clone, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
		t.Fatal(err)
	}
	a := l.start(on(l.a, "tunsplice", "-d", "-d", "TCP-LISTEN:40839,reuseaddr,reconnect,streams=4", "TUN:172.0.0.1/24,up,iff-no-pi")...)
	b := l.start(on(l.b, "tunsplice", "-d", "-d", "TCP:10.74.68.1:40839,reconnect,streams=4", "TUN:172.0.0.2/24,up,iff-no-pi,tun-name=ts0,tun-device="+clone)...)
	say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
	eventually(t, "four connections", func() bool { return strings.Count(b.output(), "is up") == 4 }, say)
	if err := os.Remove(clone); err != nil {
		t.Fatal(err)
	}
	l.run("ip", "-n", l.b, "link", "del", "ts0")
	if status := b.ended(); status != 1 || !strings.Contains(b.output(), ": open "+clone) {
		t.Errorf("exit status %d\n%s", status, say())
	}
}
