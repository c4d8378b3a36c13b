package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Tunnels with other programs at the far end, and what needs no tunnel.

// need skips a test that talks to a program which is not installed.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
}

// Plain socat at one end: the hello does it no harm, one warning is printed, ping works, and what socat sends in bulk through a TUN arrives whole.
func TestPlainSocatPeer(t *testing.T) {
	need(t, "socat")
	for _, kind := range []string{"tun", "tap"} {
		for _, tr := range transports[:3] {
			for _, socatAt := range []string{"a", "b"} {
				t.Run(kind+" over "+tr.name+" socat at "+socatAt, func(t *testing.T) {
					l := newLab(t)
					program := map[string]string{"a": "tunsplice", "b": "tunsplice"}
					program[socatAt] = "socat"
					opts := ",iff-no-pi,up,tun-type=" + kind + ",tun-name=ts0"
					a := l.start(on(l.a, program["a"], "-d", "-d", tr.a, "TUN:172.0.0.1/24"+opts)...)
					if tr.datagrams { // socat gives up if nobody listens yet
						eventually(t, "the listener", func() bool { return strings.Contains(a.output(), "listening on") }, a.output)
					}
					b := l.start(on(l.b, program["b"], "-d", "-d", "TUN:172.0.0.2/24"+opts, tr.b)...)
					say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
					l.ping("172.0.0.1", say, 56, 1400)
					ours := a
					if socatAt == "a" {
						ours = b
					}
					if warned := strings.Count(ours.output(), "packets go unframed"); !tr.datagrams && warned != 1 {
						t.Errorf("%d warnings that the peer does not frame\n%s", warned, say())
					}
					if ours.stop(syscall.SIGTERM) != 143 {
						t.Errorf("did not end in order\n%s", say())
					}
				})
			}
		}
	}
}

// Bulk data that plain socat merges and cuts arrive whole in a TUN device: each packet is found by its length.
func TestBulkFromPlainSocat(t *testing.T) {
	need(t, "socat")
	l := newLab(t)
	a := l.start(on(l.a, "tunsplice", "-d", "-d", "tcp-l:40839,reuseaddr", "TUN:172.0.0.1/24,iff-no-pi,up,tun-name=ts0")...)
	b := l.start(on(l.b, "socat", "TUN:172.0.0.2/24,iff-no-pi,up,tun-name=ts0", "tcp:10.74.68.1:40839,retry=100,interval=0.05")...)
	say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
	l.ping("172.0.0.1", say, 56)
	// UDP, so that nothing is repeated: what socat was given must come out.
	l.run(on(l.b, "sh", "-c", "ping -q -f -c 3000 -s 1400 172.0.0.1 || true")...)
	eventually(t, "every packet that socat took is received", func() bool {
		return l.counters(l.a, "ts0").RX.Packets == l.counters(l.b, "ts0").TX.Packets
	}, say)
	if c := l.counters(l.a, "ts0"); c.RX.Dropped+c.RX.Errors > 0 {
		t.Errorf("the device refused packets: %+v\n%s", c, say())
	}
}

// QEMU's framing with passt, which is a QEMU network backend on a UNIX socket.
func TestPasst(t *testing.T) {
	need(t, "passt")
	l := newLab(t)
	l.run("ip", "-n", l.a, "route", "add", "default", "via", "10.74.68.100")
	if err := os.Chmod(l.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(l.dir, "passt.sock")
	p := l.start(on(l.a, "passt", "-f", "-s", sock, "--runas", "0:0")...)
	eventually(t, "passt's socket", func() bool { _, err := os.Stat(sock); return err == nil }, p.output)
	g := l.start(on(l.b, "tunsplice", "-d", "-d", "TAP:10.74.69.1/24,up,tun-name=ts0", "UNIX-CONNECT:"+sock+",framing=qemu")...)
	say := func() string { return p.output() + g.output() }
	eventually(t, "passt answers ARP", func() bool {
		exec.Command("ip", on(l.b, "ping", "-c", "1", "-W", "1", "10.74.69.2")[1:]...).Run()
		out, _ := exec.Command("ip", "-n", l.b, "neigh", "show", "dev", "ts0").Output()
		return strings.Contains(string(out), "lladdr")
	}, say)
	g.stop(syscall.SIGTERM)
}

// The tutorial's look at frames, with the output in a file and the end by a signal: the child writes out what it holds.
func TestLookAtFrames(t *testing.T) {
	need(t, "hexdump")
	for _, c := range []struct{ spec, ping, want string }{
		{"TUN:10.0.6.1/24,tun-type=tap,up,tun-name=ts0", "10.0.6.2", "00 00 08 06 ff ff ff ff"}, // packet information, then a broadcast
		{"TUN:10.0.7.1/24,iff-no-pi,up,tun-name=ts0", "10.0.7.2", "45 00 00 54"},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			l := newLab(t)
			out := filepath.Join(l.dir, "out")
			p := l.start(on(l.a, "sh", "-c", "exec tunsplice -u "+c.spec+" EXEC:'hexdump -C' >"+out)...)
			eventually(t, "the device is up", func() bool {
				o, _ := exec.Command("ip", "-n", l.a, "-br", "link", "show", "dev", "ts0").Output()
				return strings.Contains(string(o), "LOWER_UP")
			}, p.output)
			l.run(on(l.a, "sh", "-c", "sysctl -qw net.ipv6.conf.ts0.disable_ipv6=1; ping -q -c 1 -W 1 "+c.ping+" || true")...)
			if status := p.stop(sig); status != 128+int(sig) {
				t.Errorf("exit status %d\n%s", status, p.output())
			}
			b, err := os.ReadFile(out)
			if err != nil || !strings.Contains(dumped(string(b)), c.want) {
				t.Errorf("%s: no packet that begins %q in:\n%s%s", c.spec, c.want, b, p.output())
			}
		}
	}
}

// dumped returns the bytes of hexdump's output, "00 01 02 ...", without offsets and text.
func dumped(out string) string {
	var bytes []string
	for _, line := range strings.Split(out, "\n") {
		hex, _, _ := strings.Cut(line, "|")
		if f := strings.Fields(hex); len(f) > 1 {
			bytes = append(bytes, f[1:]...)
		}
	}
	return strings.Join(bytes, " ")
}

// An ordinary user makes devices in a user and network namespace of its own, or uses one that was prepared.
func TestOrdinaryUser(t *testing.T) {
	need(t, "setpriv")
	l := newLab(t)
	for dir := l.dir; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	node := filepath.Join(l.dir, "tun")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		t.Skipf("no device node can be made: %v", err)
	}
	os.Chmod(node, 0o666)
	binary, err := exec.LookPath("tunsplice")
	if err != nil {
		t.Fatal(err)
	}
	// The binary under test may lie where the user can't go.
	ours := filepath.Join(l.dir, "tunsplice")
	l.run("cp", binary, ours)
	os.Chmod(ours, 0o755)
	nobody := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}

	l.run("ip", "-n", l.a, "tuntap", "add", "dev", "ts0", "mode", "tap", "user", "65534")
	l.run("ip", "-n", l.a, "addr", "add", "172.0.0.1/24", "dev", "ts0")
	l.run("ip", "-n", l.a, "link", "set", "ts0", "up")
	p := l.start(on(l.a, append(nobody, ours, "-d", "-d", "-u", "TUN:172.0.0.1/24,tun-name=ts0,tun-type=tap,iff-no-pi,up,tun-device="+node, "/dev/null")...)...)
	eventually(t, "the prepared device is in use", func() bool { return strings.Contains(p.output(), "starting data transfer") }, p.output)
	if status := p.stop(syscall.SIGTERM); status != 143 {
		t.Errorf("exit status %d\n%s", status, p.output())
	}
	l.run("ip", "-n", l.a, "link", "show", "dev", "ts0")

	q := l.start(append(nobody, "unshare", "-Urn", ours, "-d", "-d", "-u", "TUN:10.0.6.1/24,tun-type=tap,up,tun-device="+node, "/dev/null")...)
	eventually(t, "a device in a user namespace", func() bool { return strings.Contains(q.output(), "starting data transfer") }, q.output)
	if status := q.stop(syscall.SIGTERM); status != 143 {
		t.Errorf("exit status %d\n%s", status, q.output())
	}

	r := l.start(append(nobody, ours, "-u", "TUN:10.0.6.1/24,tun-device="+node, "/dev/null")...)
	if status := r.ended(); status != 1 || !strings.Contains(r.output(), "hint:") {
		t.Errorf("without privilege: exit status %d\n%s", status, r.output())
	}
}

// A hostile or mistaken peer ends in words at both ends.
func TestTunAgainstTap(t *testing.T) {
	l := newLab(t)
	a := l.start(on(l.a, "tunsplice", "tcp-l:40839,reuseaddr", "TUN:172.0.0.1/24,iff-no-pi,up")...)
	b := l.start(on(l.b, "tunsplice", "TAP:172.0.0.2/24,up", "tcp:10.74.68.1:40839,retry=100,interval=0.05")...)
	for _, p := range []*background{a, b} {
		if status := p.ended(); status != 1 || !strings.Contains(p.output(), "tun device") || !strings.Contains(p.output(), "tap device") {
			t.Errorf("exit status %d\n%s", status, p.output())
		}
	}
}

// An interface is joined to a device in another namespace: what the interface receives goes there whole, unfinished checksums and GSO packets of a local sender finished.
func TestInterface(t *testing.T) {
	l := newLab(t)
	far := *l
	far.a = l.a + "c"
	l.run("ip", "netns", "add", far.a)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", far.a).Run() })
	l.run("ip", "-n", l.a, "addr", "flush", "dev", "wire")
	l.run("ip", "-n", l.b, "addr", "add", "172.0.0.2/24", "dev", "wire")
	p := l.start(on(l.a, "tunsplice", "-d", "-d", "INTERFACE:wire,promisc", "TAP:172.0.0.1/24,up,tun-name=ts0,netns="+far.a)...)
	far.ping("172.0.0.1", p.output, 56, 1472, 8000)
	far.transfer(20<<20, p.output)
	far.framesPass(l.b, "wire", far.a, p.output)
	if out := l.run("ip", "-n", l.a, "-d", "link", "show", "dev", "wire"); !strings.Contains(out, "PROMISC") && !strings.Contains(out, "promiscuity 1") {
		t.Errorf("option promisc did nothing:\n%s", out)
	}
	if status := p.stop(syscall.SIGTERM); status != 143 {
		t.Errorf("exit status %d\n%s", status, p.output())
	}
	if out := l.run("ip", "-n", l.a, "link", "show", "dev", "wire"); strings.Contains(out, "PROMISC") {
		t.Errorf("the interface was left promiscuous:\n%s", out)
	}
	q := l.start(on(l.a, "tunsplice", "INTERFACE:nosuch0", "-")...)
	if status := q.ended(); status != 1 || !strings.Contains(q.output(), "No such device") {
		t.Errorf("exit status %d\n%s", status, q.output())
	}
}
