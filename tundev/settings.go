package tundev

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/pkg/errors"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Theory of operation. A setting is changed only if it differs from what is wanted. Each change of a device that stays
// is recorded with the way back; the way back looks first whether the setting is still as we made it, so that a change
// that somebody else made meanwhile survives. A device we made needs no record: it goes with its descriptor. A bridge
// we made is remembered apart, because it can go only after the device has left it. Nothing is taken back while other
// queues are in use: all who opened one have wanted the settings.

// settings are the changeable properties of an interface.
type settings struct {
	rt     *rtnl
	queue  *Queue
	index  int
	kind   Kind
	logf   func(string, ...any)
	warnf  func(string, ...any)
	record bool // the device was there before us

	mu     sync.Mutex // held by whoever changes settings or the fields below
	undo   []change   // in the order in which the changes were made
	bridge int        // index of the bridge we made; 0: none
}

// change is the way back from one change.
type change struct {
	what string
	back func() error
}

func (s *settings) name() string { return s.queue.name }

func (s *settings) note(format string, args ...any) {
	if s.logf != nil {
		s.logf("%s: "+format, append([]any{s.name()}, args...)...)
	}
}

func (s *settings) warn(format string, args ...any) {
	if s.warnf == nil {
		s.note(format, args...)
		return
	}
	s.warnf("%s: "+format, append([]any{s.name()}, args...)...)
}

func (s *settings) changed(what string, back func() error) {
	if s.record {
		s.undo = append(s.undo, change{what, back})
	}
}

func (s *settings) fail(what string, err error, hint string) error {
	return newError(s.name()+": "+what, err, hint)
}

// apply brings the interface from the state in link to the one c wants. Addresses come before up, so that whoever
// waits for the interface to be up finds it complete; routes need it up. Persistence is last: once set, it would
// survive the failure of anything after it.
func (s *settings) apply(c *Config, link *linkState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.applyLink(c, link); err != nil {
		return err
	}
	if err := s.addAddrs(c.Addrs, link); err != nil {
		return err
	}
	if err := s.setFlags(link, c.FlagsSet, c.FlagsClear); err != nil {
		return err
	}
	if err := s.addRoutes(c.Routes); err != nil {
		return err
	}
	if err := s.awaitAddrs(c); err != nil {
		return err
	}
	return s.applyTenure(c, link)
}

// tentativeTime bounds the wait of awaitAddrs.
const tentativeTime = time.Second

// awaitAddrs waits until IPv6 addresses are usable. They are exempt from duplicate address detection, but the kernel finds that out in a work queue (addrconf_dad_work in net/ipv6/addrconf.c),
// and until then answers nothing that is sent to them.
func (s *settings) awaitAddrs(c *Config) error {
	if c.FlagsSet&unix.IFF_UP == 0 || !slices.ContainsFunc(c.Addrs, func(a Address) bool { return a.Prefix.Addr().Is6() }) {
		return nil
	}
	for limit := time.Now().Add(tentativeTime); ; time.Sleep(time.Millisecond) {
		waiting, err := s.rt.tentative(s.index)
		if err != nil {
			return s.fail("look at the addresses", err, "")
		}
		if !waiting || time.Now().After(limit) { // without carrier they stay so
			return nil
		}
	}
}

// applyLink sets what one RTM_NEWLINK could set in one message; it takes several, so that an error names its cause.
func (s *settings) applyLink(c *Config, link *linkState) error {
	if c.MTU != 0 {
		if err := s.setMTU(link, c.MTU); err != nil {
			return err
		}
	}
	if c.TxQueueLen != 0 {
		if err := s.setTxQueueLen(link, c.TxQueueLen); err != nil {
			return err
		}
	}
	if len(c.MAC) != 0 {
		if err := s.setMAC(link, c.MAC); err != nil {
			return err
		}
	}
	if c.Bridge != "" {
		return s.join(link, c.Bridge)
	}
	return nil
}

// applyTenure sets whose the device is and whether it stays. No privilege beyond having the device open is needed.
func (s *settings) applyTenure(c *Config, link *linkState) error {
	ids := []struct {
		what string
		req  uint
		want *int
		is   *uint32
	}{
		{"owner", unix.TUNSETOWNER, c.Owner, link.tun.owner},
		{"group", unix.TUNSETGROUP, c.Group, link.tun.group},
	}
	for _, id := range ids {
		if id.want == nil || id.is != nil && int64(*id.is) == int64(*id.want) {
			continue
		}
		if err := s.queue.control(func(fd int) error { return unix.IoctlSetInt(fd, id.req, *id.want) }); err != nil {
			s.restoreIDs(c, link)
			hint := ""
			if errors.Is(err, unix.EINVAL) {
				hint = "this ID does not exist in the present user namespace"
			}
			return s.fail(fmt.Sprintf("set %s %d", id.what, *id.want), err, hint)
		}
	}
	if c.Persist == nil || *c.Persist == link.tun.persist {
		return nil
	}
	if err := s.queue.setPersist(*c.Persist); err != nil {
		s.restoreIDs(c, link)
		return err
	}
	return nil
}

// restoreIDs gives a device its former owner and group back after a failure. Only who had none can't be given back:
// the kernel takes no ID for "none".
func (s *settings) restoreIDs(c *Config, link *linkState) {
	if c.Owner != nil && link.tun.owner != nil {
		_ = s.queue.set(unix.TUNSETOWNER, int(*link.tun.owner), "restore owner")
	}
	if c.Group != nil && link.tun.group != nil {
		_ = s.queue.set(unix.TUNSETGROUP, int(*link.tun.group), "restore group")
	}
}

func (q *Queue) setPersist(on bool) error {
	if on {
		return q.set(unix.TUNSETPERSIST, 1, "make persistent")
	}
	return q.set(unix.TUNSETPERSIST, 0, "end persistence")
}

func (s *settings) setMTU(link *linkState, mtu int) error {
	return s.setNumber("mtu", unix.IFLA_MTU, link.mtu, mtu, func(l *linkState) int { return l.mtu })
}

func (s *settings) setTxQueueLen(link *linkState, n int) error {
	return s.setNumber("txqueuelen", unix.IFLA_TXQLEN, link.txqlen, n, func(l *linkState) int { return l.txqlen })
}

// setNumber sets a property that is a 32 bit attribute; what is also its name for ip-link(8).
func (s *settings) setNumber(what string, attr, was, want int, get func(*linkState) int) error {
	if was == want {
		return nil
	}
	set := func(v int) error { return s.rt.setLink(s.index, nl.NewRtAttr(attr, nl.Uint32Attr(uint32(v)))) }
	if err := set(want); err != nil {
		return s.fail(fmt.Sprintf("set %s %d", what, want), err,
			adviseChange(err, fmt.Sprintf("link set dev %s %s %d", s.name(), what, want)))
	}
	s.changed(what, s.ifStill(func(l *linkState) bool { return get(l) == want }, func(*linkState) error { return set(was) }))
	return nil
}

// ifStill makes a way back that looks at the interface first.
func (s *settings) ifStill(ours func(*linkState) bool, back func(*linkState) error) func() error {
	return func() error {
		l, err := s.rt.linkByIndex(s.index)
		if err != nil || !ours(l) {
			return err
		}
		return back(l)
	}
}

func (s *settings) setMAC(link *linkState, mac net.HardwareAddr) error {
	if slices.Equal(link.mac, mac) {
		return nil
	}
	if err := s.queue.setMAC(mac); err != nil {
		return s.fail("set mac "+mac.String(), err, adviseChange(err, "link set dev "+s.name()+" address "+mac.String()))
	}
	was, want := slices.Clone(link.mac), slices.Clone(mac)
	s.changed("mac", s.ifStill(func(l *linkState) bool { return slices.Equal(l.mac, want) },
		func(*linkState) error { return s.queue.setMAC(was) }))
	return nil
}

// setMAC goes through the device's descriptor, because there the owner of the device may do it without privilege. The
// kernel marks the address as set by hand (addr_assign_type 3), and udev then keeps its hands off.
func (q *Queue) setMAC(mac net.HardwareAddr) error {
	// struct ifreq: name, then struct sockaddr (family, address), padded to the size of the union
	var ifr struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		addr   [22]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], q.name)
	ifr.family = unix.ARPHRD_ETHER
	copy(ifr.addr[:], mac)
	return q.control(func(fd int) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
			return errno
		}
		return nil
	})
}

// flagsOfUser are the interface flags that can be changed from outside (__dev_change_flags in net/core/dev.c); others
// show the driver's nature or state, and the kernel ignores the wish.
const flagsOfUser = unix.IFF_UP | unix.IFF_DEBUG | unix.IFF_NOTRAILERS | unix.IFF_NOARP | unix.IFF_PROMISC |
	unix.IFF_ALLMULTI | unix.IFF_MULTICAST | unix.IFF_PORTSEL | unix.IFF_AUTOMEDIA | unix.IFF_DYNAMIC

func (s *settings) setFlags(link *linkState, set, clear uint32) error {
	differ := set&^link.flags | clear&link.flags
	if fixed := differ &^ flagsOfUser; fixed != 0 {
		s.warn("interface flags %s are the kernel's to decide and stay as they are", flagNames(fixed))
	}
	mask := differ & flagsOfUser
	if mask == 0 {
		return nil
	}
	if err := s.rt.setFlags(s.index, set&mask, mask); err != nil {
		return s.fail("set interface flags "+flagWords(set&mask, clear&mask), err, adviseChange(err, s.flagCommand(set&mask, mask)))
	}
	s.changed("interface flags", func() error {
		l, err := s.rt.linkByIndex(s.index)
		if err != nil {
			return err
		}
		if ours := mask &^ (l.flags ^ set); ours != 0 { // those still as we left them
			return s.rt.setFlags(s.index, ^set&ours, ours)
		}
		return nil
	})
	return nil
}

func (s *settings) addAddrs(want []Address, link *linkState) error {
	if len(want) == 0 {
		return nil
	}
	var there []Address
	if s.record { // a new device has none
		var err error
		if there, err = s.rt.addrs(s.index); err != nil {
			return s.fail("list addresses", err, "")
		}
	}
	for _, a := range want {
		if slices.Contains(there, a) {
			s.note("address %s is there already", a)
			continue
		}
		if err := s.rt.addAddr(s.index, s.kind, a); err != nil {
			// Who opened another queue at the same moment may have been faster.
			if now, lerr := s.rt.addrs(s.index); lerr == nil && errors.Is(err, unix.EEXIST) && slices.Contains(now, a) {
				continue
			}
			return s.fail("add address "+a.String(), err, adviseAddr(s.name(), s.mtuNow(link), a, err))
		}
		s.changed("address "+a.String(), func() error { return s.rt.deleteAddr(s.index, s.kind, a) })
	}
	return nil
}

// mtuNow returns the MTU, which may have been changed since link was read.
func (s *settings) mtuNow(link *linkState) int {
	if l, err := s.rt.linkByIndex(s.index); err == nil {
		return l.mtu
	}
	return link.mtu
}

func (s *settings) addRoutes(want []Route) error {
	there := map[int][]Route{} // by address family
	for _, r := range want {
		family := family(r.Dst.Addr())
		if _, read := there[family]; !read && s.record {
			var err error
			if there[family], err = s.rt.routes(s.index, family); err != nil {
				return s.fail("list routes", err, "")
			}
		}
		if slices.ContainsFunc(there[family], func(t Route) bool { return sameRoute(t, r) }) {
			s.note("route %s is there already", r)
			continue
		}
		if err := s.rt.addRoute(s.index, r); err != nil {
			if now, lerr := s.rt.routes(s.index, family); lerr == nil && errors.Is(err, unix.EEXIST) &&
				slices.ContainsFunc(now, func(t Route) bool { return sameRoute(t, r) }) {
				continue
			}
			return s.fail("add route "+r.String(), err, adviseRoute(s.name(), r, err))
		}
		s.changed("route "+r.String(), func() error { return s.rt.deleteRoute(s.index, r) })
	}
	return nil
}

// sameRoute compares a route of the kernel with one asked for.
func sameRoute(kernel, asked Route) bool {
	if asked.Metric == 0 && asked.Dst.Addr().Is6() {
		asked.Metric = 1024 // IP6_RT_PRIO_USER in include/uapi/linux/ipv6_route.h
	}
	return kernel == asked
}

// join makes the device a port of a bridge, which is made if absent.
func (s *settings) join(link *linkState, bridge string) error {
	b, err := s.rt.linkByName(bridge)
	if errors.Is(err, unix.ENODEV) {
		if err := s.rt.addBridge(bridge); err != nil {
			return s.fail("make bridge "+bridge, err, adviseChange(err, "link add "+bridge+" type bridge"))
		}
		if b, err = s.rt.linkByName(bridge); err == nil {
			s.bridge = b.index
		}
	}
	if err != nil {
		return s.fail("look up bridge "+bridge, err, "")
	}
	if b.kind != "bridge" {
		return s.fail("join bridge "+bridge, unix.EINVAL, bridge+" is an interface but not a bridge")
	}
	if link.master == b.index {
		return nil
	}
	setMaster := func(index int) error {
		return s.rt.setLink(s.index, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(index))))
	}
	if err := setMaster(b.index); err != nil {
		return s.fail("join bridge "+bridge, err, adviseChange(err, "link set dev "+s.name()+" master "+bridge))
	}
	was := link.master
	s.changed("bridge port", s.ifStill(func(l *linkState) bool { return l.master == b.index },
		func(*linkState) error { return setMaster(was) }))
	return nil
}

// revert takes the recorded changes back, last first, and returns what could not be taken back.
func (s *settings) revert() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []string
	var first error
	for _, c := range slices.Backward(s.undo) {
		err := c.back()
		// no interface, no such address, no such route: somebody did it for us
		if err == nil || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ESRCH) {
			continue
		}
		failed = append(failed, c.what)
		if first == nil {
			first = err
		}
	}
	s.undo = nil
	if first == nil {
		return nil
	}
	return s.fail("take back "+strings.Join(failed, ", "), first, adviseUndo(first))
}

// removeBridge removes the bridge we made, unless it has ports. Ours must have left it before.
func (s *settings) removeBridge() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bridge == 0 {
		return nil
	}
	links, err := s.rt.links()
	if err != nil {
		return s.fail("list the ports of the bridge", err, "")
	}
	if slices.ContainsFunc(links, func(l *linkState) bool { return l.master == s.bridge }) {
		s.note("the bridge stays, for it has other ports")
		return nil
	}
	if err := s.rt.deleteLink(s.bridge); err != nil && !errors.Is(err, unix.ENODEV) {
		return s.fail("remove the bridge", err, adviseUndo(err))
	}
	s.bridge = 0
	return nil
}

func adviseUndo(err error) string {
	if errors.Is(err, unix.EPERM) {
		return "the process gave up CAP_NET_ADMIN after it had changed the device"
	}
	return ""
}
