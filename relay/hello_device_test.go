package relay

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The hello in front of real kernels: taken by the device, answered by nothing, kept
// on its wire by a bridge, and survived by plain socat.

// inNetNS runs f on a thread of its own in a fresh network namespace, which vanishes
// with the thread.
func inNetNS(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun: ", err)
	}
	sameDescriptors(t)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends here
		var err error
		defer func() { done <- err }() // t.Fatal ends the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f(t)
		}
	}()
	if err := <-done; err != nil {
		t.Skip("no network namespace: ", err)
	}
}

// sameDescriptors fails the test if it ends with other descriptors than it has now.
func sameDescriptors(t *testing.T) {
	t.Helper()
	r, w, err := os.Pipe() // makes the runtime open what it keeps for itself
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	before := descriptors(t)
	t.Cleanup(func() {
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

// descriptors counts those that are open.
func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// openDevice makes a device that is up and, if cidr is not empty, has an address.
func openDevice(t *testing.T, name string, kind DeviceKind, pi bool, cidr string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	flags := uint16(unix.IFF_TUN)
	if kind == DeviceTAP {
		flags = unix.IFF_TAP
	}
	if !pi {
		flags |= unix.IFF_NO_PI
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	dev := os.NewFile(uintptr(fd), name) // after TUNSETIFF, so that it can be polled
	t.Cleanup(func() { dev.Close() })
	setUp(t, name, cidr)
	if err := dev.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return dev
}

func setUp(t *testing.T, name, cidr string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if cidr != "" {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
}

// probe returns a packet that the host 10.9.0.1 answers, and says of a packet whether it
// is that answer.
func probe(kind DeviceKind) (pkt []byte, answers func(pkt []byte) bool) {
	if kind == DeviceTAP {
		arp := []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" +
			"\x02\x00\x00\x00\x00\x02\x0a\x09\x00\x02\x00\x00\x00\x00\x00\x00\x0a\x09\x00\x01")
		return arp, func(p []byte) bool {
			return len(p) >= 42 && bytes.Equal(p[12:22], []byte("\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02"))
		}
	}
	echo := ip4(28)
	copy(echo[12:], []byte{10, 9, 0, 2, 10, 9, 0, 1})
	echo[9], echo[10], echo[11] = 1, 0, 0
	sum := ipv4Checksum(echo[:20])
	echo[10], echo[11] = byte(sum>>8), byte(sum)
	copy(echo[20:], []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}) // echo request, with its checksum
	return echo, func(p []byte) bool { return len(p) >= 28 && p[0]>>4 == 4 && p[9] == 1 && p[20] == 0 }
}

// ofItself says whether a kernel sends pkt without being asked: IPv6 neighbour
// discovery and MLD.
func ofItself(kind DeviceKind, pkt []byte) bool {
	if kind == DeviceTAP {
		return len(pkt) >= 14 && pkt[12] == 0x86 && pkt[13] == 0xdd
	}
	return len(pkt) > 0 && pkt[0]>>4 == 6
}

// headOf is the packet information of a probe.
func headOf(kind DeviceKind, pi bool) []byte {
	switch {
	case !pi:
		return nil
	case kind == DeviceTAP:
		return []byte{0, 0, 8, 6}
	}
	return []byte{0, 0, 8, 0}
}

func TestKernelTakesTheHelloAndIsSilent(t *testing.T) {
	for _, h := range allForms() {
		t.Run(fmt.Sprintf("%s pi %v", h.Kind, h.PI), func(t *testing.T) {
			inNetNS(t, func(t *testing.T) {
				dev := openDevice(t, "hello0", h.Kind, h.PI, "10.9.0.1/24")
				h.Reason, h.Refuse = "with all that it may have", true
				if _, err := dev.Write(mustPacket(t, h)); err != nil {
					t.Fatalf("the kernel refuses the hello: %v", err)
				}
				// The device answers in order, so what comes before the answer
				// to a question asked afterwards would be to the hello.
				question, answers := probe(h.Kind)
				if _, err := dev.Write(append(headOf(h.Kind, h.PI), question...)); err != nil {
					t.Fatal(err)
				}
				expectOnly(t, dev, h, answers)
			})
		})
	}
}

// expectOnly reads from dev until the answer; anything else but the kernel's own IPv6 is an
// error. It also shows each packet to Foreign, as a peer's first.
func expectOnly(t *testing.T, dev io.Reader, h Hello, answers func([]byte) bool) {
	t.Helper()
	buf := make([]byte, MaxPacket)
	for {
		n, err := dev.Read(buf)
		if err != nil {
			t.Fatalf("no answer to the question: %v", err)
		}
		pkt := buf[:n]
		if h.PI {
			pkt = pkt[piLen:]
		}
		if name := Foreign(pkt, h.Kind); name != "" {
			t.Errorf("the kernel's % x is named %q", pkt, name)
		}
		if answers(pkt) {
			return
		}
		if !ofItself(h.Kind, pkt) {
			t.Errorf("answer to the hello: % x", pkt)
		}
	}
}

func TestBridgeKeepsTheHello(t *testing.T) {
	inNetNS(t, func(t *testing.T) {
		in := openDevice(t, "in0", DeviceTAP, false, "")
		out := openDevice(t, "out0", DeviceTAP, false, "")
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			t.Skip("no bridge here: ", err)
		}
		for _, name := range []string{"in0", "out0"} {
			port, err := netlink.LinkByName(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetMaster(port, bridge); err != nil {
				t.Fatal(err)
			}
		}
		setUp(t, "br0", "")
		if _, err := in.Write(mustPacket(t, hello(DeviceTAP, false))); err != nil {
			t.Fatal(err)
		}
		question, _ := probe(DeviceTAP) // a broadcast, which a bridge does forward
		if _, err := in.Write(question); err != nil {
			t.Fatal(err)
		}
		expectOnly(t, out, hello(DeviceTAP, false), func(p []byte) bool { return bytes.Equal(p, question) })
	})
}

func TestPlainSocatSurvivesTheHello(t *testing.T) {
	socat, err := exec.LookPath("socat")
	if err != nil {
		t.Skip("needs plain socat: ", err)
	}
	for _, h := range allForms() {
		t.Run(fmt.Sprintf("%s pi %v", h.Kind, h.PI), func(t *testing.T) {
			inNetNS(t, func(t *testing.T) {
				address := fmt.Sprintf("TUN:10.9.0.1/24,up,tun-type=%s", h.Kind)
				if !h.PI {
					address += ",iff-no-pi"
				}
				conn := startSocat(t, socat, address)
				if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write(mustPacket(t, h)); err != nil {
					t.Fatal(err)
				}
				question, answers := probe(h.Kind)
				if _, err := conn.Write(append(headOf(h.Kind, h.PI), question...)); err != nil {
					t.Fatal(err)
				}
				expectOnly(t, conn, h, answers)
			})
		})
	}
}

// startSocat runs plain socat between a device and a datagram socket, in the network
// namespace of the thread, and returns the other end of the socket. What is written there
// waits in the socket until socat is ready.
func startSocat(t *testing.T, socat, address string) *os.File {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine, its := os.NewFile(uintptr(pair[0]), "mine"), os.NewFile(uintptr(pair[1]), "its")
	t.Cleanup(func() { mine.Close() })
	cmd := exec.Command(socat, "-b", "70000", address, "FD:3")
	cmd.ExtraFiles = []*os.File{its}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Start()
	its.Close()
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		select {
		case err := <-exited:
			t.Errorf("socat ended by itself: %v: %s", err, stderr.Bytes())
		default:
			cmd.Process.Kill()
			<-exited
		}
	})
	return mine
}
