package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// congestion returns the congestion controls of the connections of a host with this port on either side, as ss shows them.
func (l *lab) congestion(ns, port string) string {
	l.t.Helper()
	var names []string
	for _, line := range strings.Split(l.run(on(ns, "ss", "-Htino", "sport = "+port+" or dport = "+port)...), "\n") {
		for _, word := range strings.Fields(line) {
			if word == "bbr" || word == "reno" || word == "cubic" {
				names = append(names, word)
			}
		}
	}
	return strings.Join(names, " ")
}

// Where the system's congestion control is bbr, near peers are served without its timers, and have it as soon as a queue stands on the path.
func TestCongestionControl(t *testing.T) {
	l := newLab(t)
	for _, ns := range []string{l.a, l.b} {
		if out, err := exec.Command("ip", "netns", "exec", ns, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=bbr").CombinedOutput(); err != nil {
			t.Skipf("this kernel has no bbr: %s", out)
		}
	}
	const far = "10.74.68.100"
	// 4 MB, and when somebody opens the FIFO, as much as goes.
	source := func(fifo string) string {
		l.run("mkfifo", filepath.Join(l.dir, fifo))
		return "SYSTEM:head -c 4000000 /dev/zero && cat " + fifo + " && exec cat /dev/zero"
	}
	goOn := func(fifo string) {
		f, err := os.OpenFile(filepath.Join(l.dir, fifo), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	programs := []*background{
		l.start(on(l.b, "tunsplice", "-u", "TCP-LISTEN:7001,fork,reuseaddr", "/dev/null")...),
		l.start(on(l.a, "tunsplice", "-U", "TCP-LISTEN:7002,fork,reuseaddr", source("server"))...),
	}
	say := func() string {
		text := l.run(on(l.a, "ss", "-tino")...)
		for _, p := range programs {
			text += p.output()
		}
		return text
	}
	l.listening(l.b, "7001")
	l.listening(l.a, "7002")
	moved := func(port, bytes string) func() bool { // so many digits at least have been acknowledged
		return func() bool {
			_, text, _ := strings.Cut(l.run(on(l.a, "ss", "-Htino", "sport = "+port+" or dport = "+port)...), "bytes_acked:")
			digits, _, _ := strings.Cut(text, " ")
			return len(digits) > len(bytes) || len(digits) == len(bytes) && digits >= bytes
		}
	}

	client := l.start(on(l.a, "tunsplice", "-u", source("client"), "TCP:"+far+":7001")...)
	server := l.start(on(l.b, "tunsplice", "-u", "TCP:10.74.68.1:7002", "/dev/null")...)
	programs = append(programs, client, server)
	eventually(t, "4 MB from the client", moved("7001", "4000000"), say)
	eventually(t, "4 MB from the server", moved("7002", "4000000"), say)
	if got := l.congestion(l.a, "7001") + ", " + l.congestion(l.a, "7002"); got != "reno, reno" {
		t.Errorf("on a wire without a bottleneck: %s", got)
	}

	l.run("tc", "-n", l.a, "qdisc", "add", "dev", "wire", "root", "tbf", "rate", "50mbit", "burst", "32k", "latency", "200ms")
	goOn("client")
	goOn("server")
	eventually(t, "bbr once a queue stands on the path", func() bool { return l.congestion(l.a, "7001")+l.congestion(l.a, "7002") == "bbrbbr" }, say)

	l.start(on(l.a, "tunsplice", "-u", "/dev/zero", "TCP:"+far+":7001,tcp-congestion=reno,sourceport=7003")...)
	eventually(t, "a queue that reno made", moved("7003", "800000"), say)
	if got := l.congestion(l.a, "7003"); got != "reno" {
		t.Errorf("with tcp-congestion=reno: %q", got)
	}
	// The handshake of this one goes through the queue.
	l.start(on(l.a, "tunsplice", "-u", "UDP-RECV:7005", "TCP:"+far+":7001,sourceport=7004")...)
	eventually(t, "bbr where the handshake took long", func() bool { return l.congestion(l.a, "7004") == "bbr" }, say)
}
