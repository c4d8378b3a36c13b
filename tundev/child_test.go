package tundev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// children are what copies of the test binary do as another user, or in a namespace of their own.
var children = map[string]func() error{
	"owner":    beOwner,
	"try":      beStranger,
	"rootless": beRootless,
}

const (
	ownerID = 12345
	nodeEnv = "TUNDEV_TEST_NODE"
)

// node makes a clone device that everybody may open, in a directory that everybody may enter.
func node(t *testing.T, mode uint32) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tundev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tun")
	if err := unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(10, 200))); err != nil {
		t.Skipf("needs to make a device node: %v", err)
	}
	if err := os.Chmod(path, os.FileMode(mode)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs a file system with device nodes: %v", err)
	}
	unix.Close(fd)
	return path
}

func asUser(id uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
}

// forOwner is what the administrator prepares in TestUnprivilegedOwner.
func forOwner() Config {
	return Config{Name: "own", Kind: TAP, Owner: new(ownerID), FlagsSet: unix.IFF_UP, MTU: 1400,
		Addrs:  []Address{address("10.0.6.1/24"), address("fd00::1/64")},
		Routes: []Route{{Dst: prefix("10.7.0.0/16")}, {Dst: prefix("fd07::/64")}}}
}

// beOwner uses the prepared device fully.
func beOwner() error {
	if os.Geteuid() != ownerID {
		return fmt.Errorf("user %d", os.Geteuid())
	}
	c := forOwner()
	c.ClonePath = os.Getenv(nodeEnv)
	c.MAC = []byte{2, 0, 0, 0, 0, 7}
	d, err := Open(c)
	if err != nil {
		return err
	}
	if d.Created() {
		return errors.New("it was made anew")
	}
	if _, err := d.Counters(); err != nil {
		return err
	}
	// a frame of an experimental EtherType, to itself
	frame := append([]byte{2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 8, 0x88, 0xb5}, make([]byte, 50)...)
	if n, err := d.Write(frame); err != nil || n != len(frame) {
		return fmt.Errorf("wrote %d: %v", n, err)
	}
	if err := d.SetCarrier(false); err != nil {
		return err
	}
	if err := d.SetMTU(1300); !errors.Is(err, unix.EPERM) || !strings.Contains(Advice(err), "ip link set dev own mtu 1300") {
		return fmt.Errorf("set mtu: %v (%s)", err, Advice(err))
	}
	if err := d.SetUp(false); !errors.Is(err, unix.EPERM) || !strings.Contains(Advice(err), "ip link set dev own down") {
		return fmt.Errorf("set down: %v (%s)", err, Advice(err))
	}
	if err := d.AddAddress(address("10.0.8.1/24")); !errors.Is(err, unix.EPERM) || !strings.Contains(Advice(err), "ip addr add 10.0.8.1/24 dev own") {
		return fmt.Errorf("add address: %v (%s)", err, Advice(err))
	}
	return d.Close()
}

// beStranger opens "own", or what the environment says, and reports why it can't.
func beStranger() error {
	d, err := Open(Config{Name: os.Getenv("TUNDEV_TEST_NAME"), Kind: TAP, ClonePath: os.Getenv(nodeEnv), NetNS: os.Getenv("TUNDEV_TEST_NETNS")})
	if err != nil {
		return err
	}
	return d.Close()
}

// beRootless makes devices as root of a user namespace only.
func beRootless() error {
	d, err := Open(Config{Kind: TAP, ClonePath: os.Getenv(nodeEnv), Bridge: "br0", FlagsSet: unix.IFF_UP, MTU: 1400,
		Addrs: []Address{address("10.0.6.1/24"), address("fd00::1/64")}, Routes: []Route{{Dst: prefix("10.7.0.0/16")}}})
	if err != nil {
		return err
	}
	_, err = Open(Config{ClonePath: os.Getenv(nodeEnv), Owner: new(0), Group: new(77), Persist: new(true)})
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "set group 77") || Advice(err) == "" {
		return fmt.Errorf("group outside the user namespace: %v (%s)", err, Advice(err))
	}
	list, err := List()
	if err != nil {
		return err
	}
	if len(list) != 1 || list[0].Name != "tap0" || list[0].MTU != 1400 {
		return fmt.Errorf("devices %+v", list)
	}
	return d.Close()
}

// TestUnprivilegedOwner: an ordinary user can use what the administrator prepared for him, and nobody else can.
func TestUnprivilegedOwner(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	nl := oracle(t, ns)
	c := forOwner()
	c.NetNS = ns
	prepared(t, c)
	was := state(t, nl, "own")
	path := node(t, 0o666)
	if out, err := runChild(t, ns, "owner", asUser(ownerID), nodeEnv+"="+path); err != nil {
		t.Errorf("owner: %v, %s", err, out)
	}
	now := state(t, nl, "own")
	if i, j := strings.Index(was, " mac"), strings.Index(now, " mac"); was[:i] != now[:j] || !strings.Contains(now, "routes 10.0.6.0/24 via <nil> metric 0, 10.7.0.0/16") {
		t.Errorf("before: %s\nafter:  %s", was, now)
	}

	for _, test := range []struct {
		name, device, node, words, hint string
		attr                            *syscall.SysProcAttr
		ns                              string
	}{
		{"not the owner", "own", path, "attach tap device own: operation not permitted", "own belongs to user 12345, this process runs as user 54321", asUser(54321), ""},
		{"no device", "new", path, "make tap device new: operation not permitted", "ip tuntap add dev new mode tap user 54321", asUser(54321), ""},
		{"no device, no name", "", path, "make tap device: operation not permitted", "dev tap0 mode tap", asUser(54321), ""},
		{"node closed", "own", node(t, 0o600), "permission denied", "chmod 0666", asUser(54321), ""},
		{"namespace of another", "", path, "open network namespace 1: permission denied", "belongs to another user", asUser(54321), "1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runChild(t, ns, "try", test.attr, nodeEnv+"="+test.node, "TUNDEV_TEST_NAME="+test.device, "TUNDEV_TEST_NETNS="+test.ns)
			if err == nil || !strings.Contains(out, test.words) || !strings.Contains(out, test.hint) {
				t.Errorf("%v, %s\nwant %q, %q", err, out, test.words, test.hint)
			}
		})
	}
}

// TestNamespaceClosed: to see a namespace is not enough to enter it.
func TestNamespaceClosed(t *testing.T) {
	needDevices(t)
	name := fmt.Sprintf("tundev-closed-%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("needs ip netns: %v %s", err, out)
	}
	defer netns.DeleteNamed(name)
	out, err := runChild(t, "", "try", asUser(54321), nodeEnv+"="+node(t, 0o666), "TUNDEV_TEST_NETNS="+name)
	if err == nil || !strings.Contains(out, "enter network namespace "+name+": operation not permitted") || !strings.Contains(out, "CAP_SYS_ADMIN") {
		t.Errorf("%v, %s", err, out)
	}
}

// ownUserNS makes the child root of new user and network namespaces, and user id outside.
func ownUserNS(t *testing.T, id int) *syscall.SysProcAttr {
	t.Helper()
	if b, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || strings.TrimSpace(string(b)) == "0" {
		t.Skip("needs user namespaces")
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
	return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true}}
}

// TestRootless: an ordinary user in namespaces of his own, as by unshare -Urn, makes devices freely.
func TestRootless(t *testing.T) {
	needDevices(t)
	out, err := runChild(t, "", "rootless", ownUserNS(t, ownerID), nodeEnv+"="+node(t, 0o666))
	if err != nil {
		t.Errorf("%v, %s", err, out)
	}
}
