package main

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Tunnels that stay up: whatever happens to either end or to the way between them, traffic flows again without a hand on it.

// pair is a tunnel in a lab whose ends can be started again.
type pair struct {
	*lab
	argvA, argvB []string
	endA, endB   *background
}

// startPair starts both ends, with heartbeats fast enough for a test, and waits for the tunnel.
func startPair(l *lab, kind, wayA, wayB string) *pair {
	dev := ",iff-no-pi,up,carrier,tun-name=ts0,tun-type=" + kind
	p := &pair{lab: l,
		argvA: on(l.a, "tunsplice", "-d", "-d", wayA, "TUN:172.0.0.1/24"+dev),
		argvB: on(l.b, "tunsplice", "-d", "-d", "TUN:172.0.0.2/24"+dev, wayB)}
	p.startA()
	p.startB()
	p.flows("at the start")
	return p
}

func (p *pair) startA() { p.endA = p.start(p.argvA...) }
func (p *pair) startB() { p.endB = p.start(p.argvB...) }

func (p *pair) say() string { return "a:\n" + p.endA.output() + "\nb:\n" + p.endB.output() }

// flows waits until a ping is answered, in both directions.
func (p *pair) flows(when string) {
	p.t.Helper()
	began := time.Now()
	for ns, to := range map[string]string{p.b: "172.0.0.1", p.a: "172.0.0.2"} {
		eventually(p.t, "traffic "+when, func() bool {
			return exec.Command("ip", on(ns, "ping", "-q", "-c", "1", "-W", "0.2", to)[1:]...).Run() == nil
		}, p.say)
	}
	p.t.Logf("%s: traffic after %s", when, time.Since(began).Round(10*time.Millisecond))
}

// stops waits until a ping is not answered.
func (p *pair) stops(when string) {
	p.t.Helper()
	eventually(p.t, "no traffic "+when, func() bool {
		return exec.Command("ip", on(p.b, "ping", "-q", "-c", "1", "-W", "0.1", "172.0.0.1")[1:]...).Run() != nil
	}, p.say)
}

func TestReconnect(t *testing.T) {
	for _, way := range []struct{ name, kind, a, b string }{
		{"tcp", "tun", "TCP-LISTEN:40839,reuseaddr,reconnect,heartbeat=0.3", "TCP:10.74.68.1:40839,reconnect,heartbeat=0.3"},
		{"udp", "tap", "UDP-LISTEN:40839,reuseaddr,reconnect,heartbeat=0.3", "UDP:10.74.68.1:40839,reconnect,heartbeat=0.3"},
	} {
		t.Run(way.name, func(t *testing.T) {
			p := startPair(newLab(t), way.kind, way.a, way.b)

			if p.endA.stop(syscall.SIGTERM) != 143 {
				t.Errorf("the listening end did not end in order\n%s", p.say())
			}
			p.startA()
			p.flows("after a restart of the listening end")
			if p.endB.stop(syscall.SIGTERM) != 143 {
				t.Errorf("the connecting end did not end in order\n%s", p.say())
			}
			p.startB()
			p.flows("after a restart of the connecting end")
			p.endA.stop(syscall.SIGKILL)
			p.startA()
			p.flows("after kill -9 of the listening end")
			p.endB.stop(syscall.SIGKILL)
			p.startB()
			p.flows("after kill -9 of the connecting end")

			p.run("ip", "-n", p.b, "link", "set", "wire", "down")
			eventually(t, "the connecting end notices", func() bool { return strings.Contains(p.endB.output(), "trying again") }, p.say)
			p.run("ip", "-n", p.b, "link", "set", "wire", "up")
			p.flows("after the link was down")

			p.run("ip", "-n", p.b, "addr", "add", "10.74.68.77/24", "dev", "wire")
			p.run("ip", "-n", p.b, "addr", "del", "10.74.68.100/24", "dev", "wire")
			p.run("ip", "-n", p.b, "addr", "replace", "10.74.68.77/24", "dev", "wire") // it was a secondary address, which goes with the primary one
			p.flows("after a change of the connecting end's address")

			for _, ns := range []string{p.a, p.b} {
				p.run("ip", "-n", ns, "link", "set", "ts0", "down")
				p.stops("through a device that is down")
				p.run("ip", "-n", ns, "link", "set", "ts0", "up")
				p.flows("after the device was down and up")
				p.run("ip", "-n", ns, "link", "set", "ts0", "mtu", "1400")
				p.flows("after a change of the MTU")
				p.run("ip", "-n", ns, "link", "del", "ts0")
				p.flows("after the device was deleted")
			}
			p.endA.stop(syscall.SIGTERM)
			p.endB.stop(syscall.SIGTERM)
		})
	}
}

// The carrier of a device with option carrier is that of the tunnel, and what the host sent without a tunnel does not arrive late.
func TestCarrier(t *testing.T) {
	p := startPair(newLab(t), "tap", "TCP-LISTEN:40839,reuseaddr,reconnect", "TCP:10.74.68.1:40839,reconnect")
	carrier := func(ns string) bool {
		return strings.Contains(p.run("ip", "-n", ns, "link", "show", "dev", "ts0"), "LOWER_UP")
	}
	if !carrier(p.a) || !carrier(p.b) {
		t.Errorf("no carrier though the tunnel is up")
	}
	p.endA.stop(syscall.SIGTERM)
	eventually(t, "the carrier to go", func() bool { return !carrier(p.b) }, p.say)
	p.startA()
	p.flows("after a restart")
	if !carrier(p.b) {
		t.Errorf("no carrier though the tunnel is up again")
	}
}

// A peer whose connection died without a word takes its old place at once when it comes again; a stranger does not.
func TestTakeOver(t *testing.T) {
	p := startPair(newLab(t), "tun", "TCP-LISTEN:40839,reuseaddr,reconnect,heartbeat=0", "TCP:10.74.68.1:40839,reconnect,heartbeat=0")
	// A second peer finds the place taken.
	stranger := p.start(on(p.b, "tunsplice", "-d", "-d", "TCP:10.74.68.1:40839", "TUN,iff-no-pi,up,tun-name=ts1")...)
	if status := stranger.ended(); status != 1 || !strings.Contains(stranger.output(), "in use by another peer") {
		t.Errorf("a second peer: exit status %d\n%s\n%s", status, stranger.output(), p.say())
	}
	p.flows("after a stranger has tried")
	// The wire goes, and with it the peer: nobody tells the listening end.
	p.run("ip", "-n", p.b, "link", "set", "wire", "down")
	p.endB.stop(syscall.SIGKILL)
	p.run("ip", "-n", p.b, "link", "set", "wire", "up")
	p.run("ip", "netns", "exec", p.b, "sysctl", "-qw", "net.ipv4.tcp_rmem=4096 131072 6291456")
	p.startB()
	p.flows("after a new connection of the same peer")
}

// What the options refuse.
func TestReconnectRefuses(t *testing.T) {
	for _, c := range []struct{ left, right, want string }{
		{"TCP:127.0.0.1:1,reconnect", "STDIO", "needs a TUN, TAP or INTERFACE address"},
		{"TCP:127.0.0.1:1,reconnect=2:1", "TAP", "MAX"},
		{"TCP-LISTEN:1,fork,reconnect", "TAP", "choose one"},
		{"TCP:127.0.0.1:1,reconnect=x", "TAP", "seconds"},
	} {
		out, err := exec.Command("tunsplice", c.left, c.right).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s %s: %v\n%s", c.left, c.right, err, out)
		}
	}
}
