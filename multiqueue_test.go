package main

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// A tunnel of two connections over one device of two queues: flows go over both, and when one connection ends, over the one that is left.
func TestMultiQueue(t *testing.T) {
	for _, c := range []struct{ name, kind, fork string }{{"programs", "tun", ""}, {"sessions", "tap", ",fork"}} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			dev := func(host string) string {
				return "TUN:172.0.0." + host + "/24,up,iff-no-pi,tun-name=ts0,multi-queue,tun-type=" + c.kind
			}
			var near, far [2]*background
			for i, port := range []string{"4201", "4202"} {
				if c.fork != "" {
					port = "4201"
				}
				if near[i] = near[0]; i == 0 || c.fork == "" {
					near[i] = l.start(on(l.a, "tunsplice", "-d", "-d", "--statistics", "TCP-LISTEN:"+port+c.fork, dev("1"))...)
				}
				far[i] = l.start(on(l.b, "tunsplice", "-d", "-d", "--statistics", "TCP:10.74.68.1:"+port+",retry=100,interval=0.05", dev("2"))...)
			}
			say := func() string {
				return "a:\n" + near[0].output() + near[1].output() + "\nb:\n" + far[0].output() + far[1].output()
			}
			eventually(t, "two queues at each end", func() bool {
				for _, ns := range []string{l.a, l.b} {
					out, err := exec.Command("ip", "-n", ns, "-d", "link", "show", "ts0").Output()
					if err != nil || !strings.Contains(string(out), "numqueues 2") {
						return false
					}
				}
				return true
			}, say)
			l.ping("172.0.0.1", say)
			for range 20 { // each is a flow; that all of them go one way does not happen
				l.transfer(1<<16, say)
			}
			far[0].stop(os.Interrupt)
			if c.fork == "" {
				near[0].ended()
			}
			l.ping("172.0.0.1", say)
			l.transfer(1<<20, say)
			far[1].stop(os.Interrupt)
			if c.fork == "" {
				near[1].ended()
			} else {
				near[0].stop(os.Interrupt)
			}
			for _, p := range far {
				if n, _ := strconv.Atoi(strings.Fields(countOf(p, "left to right") + " 0")[0]); n < 20 {
					t.Errorf("%d packets came over one of the connections\n%s", n, say())
				}
			}
			if strings.Contains(say(), "packet lost") {
				t.Error(say())
			}
		})
	}
}

// With reconnect a program whose connection is away leaves its flows to the others.
func TestMultiQueueReconnect(t *testing.T) {
	l := newLab(t)
	var ends [2][2]*background
	for i, port := range []string{"4201", "4202"} {
		dev := func(host string) string { return "TUN:172.0.0." + host + "/24,up,iff-no-pi,tun-name=ts0,multi-queue" }
		ends[0][i] = l.start(on(l.a, "tunsplice", "-d", "-d", "TCP-LISTEN:"+port+",reuseaddr,reconnect", dev("1"))...)
		ends[1][i] = l.start(on(l.b, "tunsplice", "-d", "-d", "TCP:10.74.68.1:"+port+",reconnect", dev("2"))...)
	}
	say := func() string {
		return ends[0][0].output() + ends[0][1].output() + ends[1][0].output() + ends[1][1].output()
	}
	queues := func(n string) {
		t.Helper()
		eventually(t, n+" queues at each end", func() bool {
			for _, ns := range []string{l.a, l.b} {
				out, err := exec.Command("ip", "-n", ns, "-d", "link", "show", "ts0").Output()
				if err != nil || !strings.Contains(string(out), "numqueues "+n+" ") {
					return false
				}
			}
			return true
		}, say)
	}
	queues("2")
	l.ping("172.0.0.1", say)
	ends[1][0].stop(os.Kill)
	queues("1")
	for range 5 {
		l.transfer(1<<16, say)
	}
	for _, ns := range ends {
		for _, p := range ns {
			if p != ends[1][0] && p.stop(os.Interrupt) != 130 {
				t.Errorf("did not end in order\n%s", say())
			}
		}
	}
}
