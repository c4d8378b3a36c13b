package tundev

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Error is an error of the kernel together with what was tried and, where one is known, a cure.
type Error struct {
	Op   string // what was tried, with its object: "open /dev/net/tun", "tap0: set mtu 70000"
	Err  error  // wraps a unix.Errno
	hint string
}

func newError(op string, err error, hint string) *Error { return &Error{op, err, hint} }

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap gives the error of the kernel.
func (e *Error) Unwrap() error { return e.Err }

// Hint says in a sentence or two, without a full stop, what is probably wrong or how to cure it; empty: not known.
func (e *Error) Hint() string { return e.hint }

// Advice returns the hint of an error of this package, however it is wrapped, or "".
func Advice(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.hint
	}
	return ""
}

// IsGone reports whether err, from reading or writing, says that the interface was deleted (EBADFD). Nothing but
// Close makes sense afterwards.
func IsGone(err error) bool { return errors.Is(err, unix.EBADFD) }

// PerPacket reports whether err, from writing, concerns this one packet only, so that the next may well succeed: the
// interface is down (EIO), the packet is too short, of unknown IP version or has a wrong header (EINVAL), or memory is
// short (ENOBUFS, ENOMEM). EMSGSIZE is counted among them though no kernel so far gives it.
func PerPacket(err error) bool {
	for _, e := range []error{unix.EIO, unix.EINVAL, unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// adviseClone explains why the clone device could not be opened.
func adviseClone(path string, err error) string {
	switch {
	case errors.Is(err, unix.ENOENT) && path == DefaultClonePath:
		return "there is no such node: modprobe tun, or mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200; " +
			"a container wants --device /dev/net/tun"
	case errors.Is(err, unix.ENOENT):
		return "there is no such node; the usual one is " + DefaultClonePath
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "the kernel's tun module is not loaded or the node has the wrong numbers (10, 200 are right): " +
			"modprobe tun, for a container on its host; after an upgrade of the kernel reboot first"
	case errors.Is(err, unix.EACCES):
		return "the node's mode or owner keeps this user out; it should be 0666: chmod 0666 " + path
	case errors.Is(err, unix.EPERM):
		return "the device rules of the control group forbid it: docker and podman want --device /dev/net/tun " +
			"(a volume is not enough), LXC lxc.cgroup2.devices.allow = c 10:200 rwm"
	}
	return ""
}

// adviseAttach explains why TUNSETIFF failed. It must run in the namespace in which the clone device was opened.
func adviseAttach(c *Config, err error) string {
	there := lookUp(c.Name)
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EBADFD):
		return c.clonePath() + " is not the TUN/TAP clone device (a character device, major 10, minor 200)"
	case errors.Is(err, unix.EPERM) && there != nil:
		return fmt.Sprintf("%s belongs to %s, this process runs as user %d: "+
			"use it as its owner, or with CAP_NET_ADMIN", c.Name, ownerText(there.tun), os.Geteuid())
	case errors.Is(err, unix.EPERM):
		return fmt.Sprintf("making a device needs CAP_NET_ADMIN in this network namespace: be root, "+
			"or setcap cap_net_admin+ep PROGRAM, or in a container --cap-add NET_ADMIN, or in namespaces of one's own unshare -Urn; "+
			"or let the administrator prepare one: ip tuntap add dev %s mode %s user %d", exampleName(c), c.Kind, os.Geteuid())
	case errors.Is(err, unix.EBUSY) && c.Exclusive:
		return c.Name + " exists already, and a new device was asked for"
	case errors.Is(err, unix.EBUSY):
		return c.Name + " can be used by one process at a time and is in use by " + holders(c.Name)
	case errors.Is(err, unix.EINVAL) && there != nil && there.kind == "":
		return c.Name + " is the name of an interface that is no tun or tap device"
	case errors.Is(err, unix.EINVAL) && there != nil && there.kind != "tun":
		return c.Name + " is the name of an interface of another kind, " + there.kind
	case errors.Is(err, unix.EINVAL) && there != nil && there.tun.kind != c.Kind:
		return fmt.Sprintf("%s is a %s device, and a %s device was asked for", c.Name, there.tun.kind, c.Kind)
	case errors.Is(err, unix.EINVAL) && there != nil && there.tun.multiQueue != c.MultiQueue:
		if c.MultiQueue {
			return c.Name + " was made with a single queue, and several were asked for (ip tuntap add ... multi_queue makes one that has them)"
		}
		return c.Name + " was made with multi-queue, which must be asked for"
	case errors.Is(err, unix.E2BIG):
		return c.Name + " has as many queues as the kernel allows (256)"
	case errors.Is(err, unix.ENFILE):
		return "no number is free for the name pattern"
	}
	return ""
}

// lookUp returns the interface of that name, nil if there is none or it can't be seen.
func lookUp(name string) *linkState {
	if name == "" || strings.Contains(name, "%") {
		return nil
	}
	rt, err := openRtnl()
	if err != nil {
		return nil
	}
	defer rt.close()
	l, err := rt.linkByName(name)
	if err != nil {
		return nil
	}
	return l
}

func exampleName(c *Config) string {
	if c.Name == "" || strings.Contains(c.Name, "%") {
		return c.Kind.String() + "0"
	}
	return c.Name
}

func ownerText(t tunState) string {
	var words []string
	if t.owner != nil {
		words = append(words, "user "+strconv.FormatUint(uint64(*t.owner), 10))
	}
	if t.group != nil {
		words = append(words, "group "+strconv.FormatUint(uint64(*t.group), 10))
	}
	if words == nil {
		return "nobody"
	}
	return strings.Join(words, ", ")
}

// adviseChange explains why a setting of an interface could not be changed; fix is the ip(8) command that does it.
func adviseChange(err error, fix string) string {
	if errors.Is(err, unix.EPERM) {
		return "this needs CAP_NET_ADMIN; the administrator can prepare the device: ip " + fix
	}
	return ""
}

func adviseAddr(name string, mtu int, a Address, err error) string {
	if a.Prefix.Addr().Is6() {
		switch {
		case errors.Is(err, unix.EINVAL) && mtu < 1280:
			return fmt.Sprintf("IPv6 needs an MTU of at least 1280, and %s has %d", name, mtu)
		case errors.Is(err, unix.EACCES):
			return "IPv6 is switched off here: sysctl -w net.ipv6.conf." + name + ".disable_ipv6=0"
		case errors.Is(err, unix.EOPNOTSUPP):
			return "the kernel runs without IPv6"
		}
	}
	return adviseChange(err, "addr add "+a.String()+" dev "+name)
}

func adviseRoute(name string, r Route, err error) string {
	switch {
	case errors.Is(err, unix.ENETDOWN):
		return "routes need the interface to be up"
	case errors.Is(err, unix.EEXIST):
		return "there is such a route already, through another interface: give this one another metric"
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL) && r.Via.IsValid():
		return "the gateway must lie in a network of the interface: give it an address there first"
	}
	return adviseChange(err, "route add "+r.String()+" dev "+name)
}
