package tundev

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// asChild names what a copy of the test binary does in place of the tests, started by runChild.
const asChild = "TUNDEV_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(asChild); name != "" {
		if err := children[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			if hint := Advice(err); hint != "" {
				fmt.Fprintln(os.Stderr, "hint:", hint)
			}
			os.Exit(1)
		}
		os.Exit(0)
	}
	// the runtime's poller opens descriptors at its first use; let them not look like leaks
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	os.Exit(m.Run())
}

// runChild runs one of children in the namespace ns with the given attributes and returns what it printed.
func runChild(t *testing.T, ns, name string, attr *syscall.SysProcAttr, env ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	var err error
	within(t, ns, func() {
		cmd := exec.Command("/proc/self/exe") // the binary's directory may be closed to other users
		cmd.Env = append(os.Environ(), asChild+"="+name)
		cmd.Env = append(cmd.Env, env...)
		cmd.SysProcAttr = attr
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = &out, &out
		err = cmd.Run()
	})
	return out.String(), err
}

// needDevices skips the test where devices can't be made, and checks at its end that it left nothing behind.
func needDevices(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces and devices")
	}
	fd, err := unix.Open(DefaultClonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs %s: %v", DefaultClonePath, err)
	}
	unix.Close(fd)
	fds, goroutines := openFDs(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		// a goroutine may still be on its way out after it gave its result
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > goroutines && time.Now().Before(deadline) {
			runtime.Gosched()
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%d goroutines before, %d after", goroutines, n)
		}
		if after := openFDs(t); len(after) != len(fds) {
			t.Errorf("open descriptors before: %v\nafter: %v", fds, after)
		}
	})
}

func openFDs(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var fds []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			fds = append(fds, e.Name()+" "+target)
		}
	}
	return fds
}

// newNS makes a network namespace that lives until the end of the test, and returns its path.
func newNS(t testing.TB) string {
	t.Helper()
	type result struct {
		ns  netns.NsHandle
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		ns, err := netns.New()
		made <- result{ns, err}
	}()
	r := <-made
	if r.err != nil {
		t.Skipf("needs network namespaces: %v", r.err)
	}
	t.Cleanup(func() { r.ns.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", int(r.ns))
}

// within runs fn in the namespace; it may end the test.
func within(t testing.TB, ns string, fn func()) {
	t.Helper()
	err := InNetNS(ns, func() error { fn(); return nil })
	switch {
	case err == errEnded && t.Skipped():
		t.SkipNow()
	case err == errEnded:
		t.FailNow()
	case err != nil:
		t.Fatal(err)
	}
}

// oracle is another implementation's view into a namespace.
func oracle(t testing.TB, ns string) *netlink.Handle {
	t.Helper()
	h, err := netns.GetFromPath(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	nl, err := netlink.NewHandleAt(h, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nl.Close)
	return nl
}

func mustOpen(t testing.TB, c Config) *Device {
	t.Helper()
	d, err := Open(c)
	if err != nil {
		t.Fatalf("%v (%s)", err, Advice(err))
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func linkOf(t testing.TB, nl *netlink.Handle, name string) netlink.Link {
	t.Helper()
	l, err := nl.LinkByName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return l
}

func noLink(t testing.TB, nl *netlink.Handle, name string) {
	t.Helper()
	if _, err := nl.LinkByName(name); err == nil {
		t.Errorf("interface %s is there", name)
	}
}

// addrsOf returns the interface's addresses but link-local ones as "10.0.0.1/24" or "10.0.0.1 peer 10.0.0.2/32".
func addrsOf(t testing.TB, nl *netlink.Handle, name string) string {
	t.Helper()
	list, err := nl.AddrList(linkOf(t, nl, name), netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, a := range list {
		switch {
		case a.IP.IsLinkLocalUnicast():
		case a.Peer != nil && !a.Peer.IP.Equal(a.IP):
			words = append(words, a.IP.String()+" peer "+a.Peer.String())
		default:
			words = append(words, a.IPNet.String())
		}
	}
	return strings.Join(words, ", ")
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func address(s string) Address { return Address{Prefix: prefix(s)} }

// exchange is a UDP socket in a device's namespace that talks to an address behind the device.
func exchange(t testing.TB, ns, to string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	within(t, ns, func() {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
		if err != nil {
			t.Fatal(err)
		}
		c = conn
	})
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// isUDP4 reports whether an IP packet is IPv4 with UDP; others (neighbour discovery, multicast reports) come unasked.
func isUDP4(p []byte) bool { return len(p) >= 28 && p[0] == 0x45 && p[9] == unix.IPPROTO_UDP }

// reflect turns an IPv4 UDP packet into one from its receiver to its sender. No checksum changes by that.
func reflect(p []byte) {
	for i := range 4 {
		p[12+i], p[16+i] = p[16+i], p[12+i]
	}
	p[20], p[21], p[22], p[23] = p[22], p[23], p[20], p[21]
}
