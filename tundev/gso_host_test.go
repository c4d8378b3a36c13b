package tundev

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// gsoHost is a network namespace with one device.
type gsoHost struct {
	ns  int
	dev *os.File
	uso bool // the kernel has UDP_L4
}

// inNS runs fn on a thread inside the namespace; the thread ends with it.
func inNS(ns int, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that no other goroutine meets the foreign namespace
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("setns: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// sameDescriptors fails a test that, after all its clean-up, has left descriptors open; to be called before the clean-up is registered.
func sameDescriptors(t *testing.T) {
	t.Helper()
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	if r, w, err := os.Pipe(); err == nil { // has the runtime open its poller, which stays
		r.Close()
		w.Close()
	}
	before := count()
	t.Cleanup(func() {
		if after := count(); after != before {
			t.Errorf("%d descriptors open, %d before", after, before)
		}
	})
}

// newGSOHost makes a host with the addresses 10.9.8.number and fd09::number, to last as long as the test.
func newGSOHost(t *testing.T, tap bool, number byte) *gsoHost {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces and devices")
	}
	h := &gsoHost{}
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Skipf("no network namespace to be had: %v", err)
	}
	t.Cleanup(func() { unix.Close(h.ns) })
	if fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		t.Skipf("/dev/net/tun: %v", err)
	} else {
		unix.Close(fd)
	}
	t.Cleanup(func() {
		if h.dev != nil {
			h.dev.Close()
		}
	})
	if err := inNS(h.ns, func() error { return h.open(tap) }); err != nil {
		t.Fatal(err)
	}
	if err := h.configure(number); err != nil {
		t.Fatal(err)
	}
	return h
}

func gsoDeviceFlags(tap bool) uint16 {
	if tap {
		return unix.IFF_NO_PI | unix.IFF_TAP
	}
	return unix.IFF_NO_PI | unix.IFF_TUN
}

// open makes the device with all offloads the kernel has; to be called in the namespace.
func (h *gsoHost) open(tap bool) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq("gso0")
	if err != nil {
		return err
	}
	ifr.SetUint16(gsoDeviceFlags(tap) | unix.IFF_VNET_HDR)
	const tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1)
	}
	if err == nil {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso|unix.TUN_F_USO4|unix.TUN_F_USO6); err == nil {
			h.uso = true
		} else {
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso)
		}
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	h.dev = os.NewFile(uintptr(fd), "gso0")
	// Explicit congestion notification (RFC 3168), so that the flag CWR turns up.
	return os.WriteFile("/proc/sys/net/ipv4/tcp_ecn", []byte("1"), 0)
}

func (h *gsoHost) configure(number byte) error {
	nl, err := netlink.NewHandleAt(netns.NsHandle(h.ns))
	if err != nil {
		return err
	}
	defer nl.Close()
	link, err := nl.LinkByName("gso0")
	if err != nil {
		return err
	}
	for _, a := range []*net.IPNet{
		{IP: net.IPv4(10, 9, 8, number), Mask: net.CIDRMask(24, 32)},
		{IP: net.IP{0xfd, 9, 15: number}, Mask: net.CIDRMask(64, 128)},
	} {
		if err := nl.AddrAdd(link, &netlink.Addr{IPNet: a, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("%v: %w", a, err)
		}
	}
	return nl.LinkSetUp(link)
}

// openPlain makes a second device in the namespace, without any offload.
func (h *gsoHost) openPlain(tap bool) (dev *os.File, err error) {
	err = inNS(h.ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("plain0")
		if err == nil {
			ifr.SetUint16(gsoDeviceFlags(tap))
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		dev = os.NewFile(uintptr(fd), "plain0")
		return nil
	})
	return dev, err
}

// counters returns what must stay zero: the device's errors and drops on reception, and the protocols' complaints about headers and checksums.
func (h *gsoHost) counters(t *testing.T) map[string]uint64 {
	t.Helper()
	bad := map[string]uint64{}
	nl, err := netlink.NewHandleAt(netns.NsHandle(h.ns))
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	link, err := nl.LinkByName("gso0")
	if err != nil {
		t.Fatal(err)
	}
	s := link.Attrs().Statistics
	bad["device rx_errors"], bad["device rx_dropped"], bad["device rx_frame_errors"] = s.RxErrors, s.RxDropped, s.RxFrameErrors
	err = inNS(h.ns, func() error {
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for sc := bufio.NewScanner(bytes.NewReader(snmp)); sc.Scan(); {
			f := strings.Fields(sc.Text())
			if names == nil {
				names = f
				continue
			}
			for i, n := range names[1:] {
				switch n {
				case "InHdrErrors", "InCsumErrors", "InErrs":
					var v uint64
					fmt.Sscan(f[i+1], &v)
					bad[f[0]+n] = v
				}
			}
			names = nil
		}
		snmp6, err := os.ReadFile("/proc/thread-self/net/snmp6")
		for sc := bufio.NewScanner(bytes.NewReader(snmp6)); sc.Scan(); {
			var n string
			var v uint64
			fmt.Sscan(sc.Text(), &n, &v)
			switch n {
			case "Ip6InHdrErrors", "Ip6InTruncatedPkts", "Udp6InCsumErrors":
				bad[n] = v
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bad
}

// routeToPlain brings the second device up, makes the namespace a router, and leads the test packets' source and destination.
func (h *gsoHost) routeToPlain() error {
	nl, err := netlink.NewHandleAt(netns.NsHandle(h.ns))
	if err != nil {
		return err
	}
	defer nl.Close()
	for name, dsts := range map[string][][]byte{"gso0": {testSrc4, testSrc6}, "plain0": {testDst4, testDst6}} {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		if err := nl.LinkSetUp(link); err != nil {
			return err
		}
		for _, dst := range dsts {
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: dst, Mask: net.CIDRMask(len(dst)*8, len(dst)*8)}}
			if err := nl.RouteAdd(route); err != nil {
				return fmt.Errorf("route %v: %w", dst, err)
			}
		}
	}
	return inNS(h.ns, func() error {
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// bridgeToPlain joins both devices by a bridge.
func (h *gsoHost) bridgeToPlain() error {
	nl, err := netlink.NewHandleAt(netns.NsHandle(h.ns))
	if err != nil {
		return err
	}
	defer nl.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = "br0"
	if err := nl.LinkAdd(bridge); err != nil {
		return err
	}
	if err := nl.LinkSetUp(bridge); err != nil {
		return err
	}
	for _, name := range []string{"gso0", "plain0"} {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		if err := nl.LinkSetMaster(link, bridge); err != nil {
			return err
		}
		if err := nl.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}
