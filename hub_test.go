package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/errors"
)

// Several peers on one device, and at a meeting point without one. Host a has the hub, at 172.0.0.1; the peers are hosts 2, 3 and 4.

type hubLab struct {
	*lab
	server *background
	hosts  []string // names of network namespaces, of 172.0.0.1 and so on
	peers  []*background
}

// newHubLab starts a hub, of the given address, and three peers.
func newHubLab(t *testing.T, listen, hub, peer string) *hubLab {
	l := &hubLab{lab: newLab(t)}
	l.hosts = []string{l.a, l.b}
	for i := range 2 {
		ns := fmt.Sprintf("%s%d", l.a, i)
		l.run("ip", "netns", "add", ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		l.run("ip", "-n", ns, "link", "set", "lo", "up")
		l.hosts = append(l.hosts, ns)
	}
	l.server = l.start(on(l.a, "tunsplice", "-d", "-d", "--statistics", "UNIX-LISTEN:s,fork"+listen, hub)...)
	for i, ns := range l.hosts[1:] {
		l.peers = append(l.peers, l.start(on(ns, "tunsplice", "-d", "-d", "UNIX:s,retry=200,interval=0.05"+listen, fmt.Sprintf(peer, i+2))...))
	}
	return l
}

func (l *hubLab) say() string {
	text := "hub:\n" + l.server.output()
	for _, p := range l.peers {
		text += "\npeer:\n" + p.output()
	}
	return text
}

// reaches says that a ping from one host to another is answered.
func (l *hubLab) reaches(from, to int) bool {
	argv := on(l.hosts[from-1], "ping", "-q", "-c", "1", "-W", "1", fmt.Sprintf("172.0.0.%d", to))
	return exec.Command(argv[0], argv[1:]...).Run() == nil
}

// reach waits until each of the hosts can be reached from each other one.
func (l *hubLab) reach(hosts ...int) {
	l.t.Helper()
	for _, from := range hosts {
		for _, to := range hosts {
			if from != to {
				eventually(l.t, fmt.Sprintf("host %d reaches host %d", from, to), func() bool { return l.reaches(from, to) }, l.say)
			}
		}
	}
}

// statistics asks for the hub's counts and returns what the log says then.
func (l *hubLab) statistics(pattern string) []string {
	l.t.Helper()
	re := regexp.MustCompile(pattern)
	before := len(l.server.output())
	l.server.cmd.Process.Signal(syscall.SIGUSR1)
	var found []string
	eventually(l.t, "statistics like "+pattern, func() bool {
		found = re.FindStringSubmatch(l.server.output()[before:])
		return found != nil
	}, l.say)
	return found
}

func TestHubTAP(t *testing.T) {
	for _, framing := range []string{"", ",framing=u16"} {
		t.Run("framing"+framing, func(t *testing.T) {
			l := newHubLab(t, framing, "TAP:172.0.0.1/24,up,hub,tun-name=ts0", "TAP:172.0.0.%d/24,up,tun-name=ts0")
			l.reach(1, 2, 3, 4)
			size := 100 << 20
			if testing.Short() || framing != "" {
				size = 10 << 20
			}
			l.transfer(size, l.say)
			// A peer that does not read slows nobody: broadcasts fill its queue and are dropped, and the others go on.
			stopped := l.peers[2].cmd.Process
			stopped.Signal(syscall.SIGSTOP)
			storm := on(l.hosts[1], "sh", "-c", "for i in $(seq 6); do ping -q -b -c 300 -l 300 -i 0.001 -w 1 -s 1400 172.0.0.255 >/dev/null 2>&1 & done; wait")
			exec.Command(storm[0], storm[1:]...).Run()
			l.reach(1, 2, 3)
			l.transfer(5<<20, l.say)
			stopped.Signal(syscall.SIGCONT)
			l.reach(1, 2, 3, 4)
			l.statistics(`port 0, ts0: in \d+ packet.*, 1 address`)
			if status := l.server.stop(syscall.SIGTERM); status != 143 {
				t.Errorf("exit status %d\n%s", status, l.say())
			}
			for _, p := range l.peers {
				p.ended()
			}
		})
	}
}

func TestHubIsolate(t *testing.T) {
	l := newHubLab(t, "", "TAP:172.0.0.1/24,up,hub,isolate,tun-name=ts0", "TAP:172.0.0.%d/24,up,tun-name=ts0")
	for host := 2; host <= 4; host++ {
		l.reach(1, host)
	}
	if l.reaches(2, 3) {
		t.Errorf("peers reach one another\n%s", l.say())
	}
}

func TestHubTUN(t *testing.T) {
	l := newHubLab(t, "", "TUN:172.0.0.1/24,up,hub,tun-name=ts0", "TUN:172.0.0.%d/24,iff-no-pi,up,tun-name=ts0")
	for host := 4; host >= 2; host-- { // who wants to be found has to say something first
		eventually(t, "the hub's host answers", func() bool { return l.reaches(host, 1) }, l.say)
	}
	l.reach(1, 2, 3, 4)
	l.transfer(20<<20, l.say)
	l.peers[1].stop(syscall.SIGTERM)
	l.reach(1, 2, 4)
	// The device goes: the hub and all its peers end, and say why.
	l.run("ip", "-n", l.a, "link", "del", "ts0")
	if status := l.server.ended(); status != 1 || !strings.Contains(l.server.output(), "the device was deleted") {
		t.Errorf("exit status %d\n%s", status, l.say())
	}
	l.peers[0].ended()
}

// A HUB and its peers need no privilege: each peer has a device in a network namespace of its own.
func TestHubWithoutDevice(t *testing.T) {
	l := newHubLab(t, "", "HUB", "TAP:172.0.0.%d/24,up,tun-name=ts0")
	l.reach(2, 3, 4)
	need(t, "unshare")
	if exec.Command("unshare", "-Urn", "true").Run() != nil {
		t.Skip("kernel lacks user namespaces")
	}
	p := l.start("unshare", "-Urn", "sh", "-c", "tunsplice UNIX:s TAP:172.0.0.9/24,up,tun-name=ts0 & trap 'kill $!' EXIT; "+
		"for i in $(seq 50); do ping -c 1 -W 1 172.0.0.2 && exit 0; done; exit 1")
	if status := p.ended(); status != 0 {
		t.Errorf("a peer in a user namespace: status %d\n%s\n%s", status, p.output(), l.say())
	}
}

// A device of a fixed name can be opened once: the second peer of a listener without hub is told how several can share it.
func TestHubHint(t *testing.T) {
	l := newHubLab(t, "", "TAP:172.0.0.1/24,up,tun-name=ts0", "TAP:172.0.0.%d/24,up,tun-name=ts0")
	eventually(t, "a hint", func() bool { return strings.Contains(l.server.output(), "option hub") }, l.say)
}

// TestHubChurn lets 200 peers come and go at random: nothing is left of them.
func TestHubChurn(t *testing.T) {
	dir := t.TempDir()
	l := &lab{t: t, dir: dir}
	server := l.start("tunsplice", "-lf", "log", "UNIX-LISTEN:s,fork,backlog=300,framing=u16", "HUB,hub-table=1000,hub-queue=262144")
	path := filepath.Join(dir, "s")
	eventually(t, "the socket", func() bool { _, err := os.Stat(path); return err == nil }, server.output)
	proc := fmt.Sprintf("/proc/%d", server.cmd.Process.Pid)
	descriptors := func() int {
		entries, err := os.ReadDir(proc + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	memory := func() int {
		text, err := os.ReadFile(proc + "/status")
		if err != nil {
			t.Fatal(err)
		}
		kib, _ := strconv.Atoi(regexp.MustCompile(`VmRSS:\s+(\d+)`).FindStringSubmatch(string(text))[1])
		return kib
	}
	var mu sync.Mutex
	var received int
	churn := func(d time.Duration) {
		end := time.Now().Add(d)
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(i)))
				for time.Now().Before(end) {
					n, err := visit(path, r)
					if err != nil {
						t.Errorf("peer %d: %v", i, err)
						return
					}
					mu.Lock()
					received += n
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	settled := func(what string, want int) {
		eventually(t, what, func() bool { return descriptors() <= want }, func() string { return fmt.Sprintf("%d descriptors", descriptors()) })
	}
	begin := descriptors()
	var kib []int
	for range 3 {
		churn(time.Second)
		settled("the descriptors of all peers are closed", begin+2)
		kib = append(kib, memory())
	}
	t.Logf("memory in KiB: %d", kib)
	if kib[2] > kib[1]+kib[1]/2+64<<10 {
		t.Errorf("memory in KiB grows: %d", kib)
	}
	if received == 0 {
		t.Error("no peer has heard another")
	}
	if status := server.stop(syscall.SIGTERM); status != 143 {
		t.Errorf("exit status %d\n%s", status, server.output())
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "log")); strings.Contains(string(text), " E ") {
		t.Errorf("%.2000s", text)
	}
}

// visit joins the hub, sends frames from made-up addresses to all and to others, reads what comes or nothing, and leaves.
func visit(path string, r *rand.Rand) (received int, err error) {
	conn, err := net.Dial("unix", path)
	if errors.Is(err, syscall.EAGAIN) {
		return 0, nil // many come at once
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if r.IntN(10) == 0 {
		return 0, nil // says nothing
	}
	var out []byte
	for range r.IntN(12) {
		f := make([]byte, 60+r.IntN(1400))
		binary.BigEndian.PutUint16(f[12:], 0x88b6)
		f[0], f[6] = 2, 2
		f[5], f[11] = byte(r.IntN(250)), byte(r.IntN(250))
		f[10] = byte(r.IntN(100)) // many addresses
		if r.IntN(3) == 0 {
			copy(f, "\xff\xff\xff\xff\xff\xff")
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(f))), f...)
	}
	conn.SetDeadline(time.Now().Add(time.Duration(100+r.IntN(1000)) * time.Millisecond))
	if _, err := conn.Write(out); err != nil {
		return 0, nil // time is up
	}
	if r.IntN(8) > 0 {
		n, _ := io.Copy(io.Discard, conn) // until time is up
		received = int(n)
	}
	return received, nil
}

// A hub over UDP, with a key: all peers come from one host, each from a port of its own, and one that was killed is back at once.
func TestHubKeyedDatagrams(t *testing.T) {
	l := &hubLab{lab: newLab(t)}
	l.hosts = []string{l.a}
	key := filepath.Join(l.dir, "key")
	l.run("tunsplice", "keygen", key)
	l.server = l.start(on(l.a, "tunsplice", "-d", "-d", "--statistics", "UDP-LISTEN:40839,fork,reuseaddr,psk="+key, "TAP:172.0.0.1/24,up,hub,tun-name=ts0")...)
	eventually(t, "the listener", func() bool { return strings.Contains(l.server.output(), "listening on") }, l.server.output)
	join := func(i int) *background {
		return l.start(on(l.hosts[i-1], "tunsplice", "-d", "-d", "UDP:10.74.68.1:40839,reconnect,heartbeat=0.3,netns="+l.b+",psk="+key, fmt.Sprintf("TAP:172.0.0.%d/24,up,tun-name=ts0", i))...)
	}
	for i := 2; i <= 3; i++ {
		ns := fmt.Sprintf("%s%d", l.a, i)
		l.run("ip", "netns", "add", ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		l.hosts = append(l.hosts, ns)
		l.peers = append(l.peers, join(i))
	}
	l.reach(1, 2, 3)
	l.peers[0].stop(syscall.SIGKILL)
	l.peers[0] = join(2)
	l.reach(1, 2, 3)
	if status := l.server.stop(syscall.SIGTERM); status != 143 {
		t.Errorf("exit status %d\n%s", status, l.say())
	}
}
