package tundev

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Kind is the kind of a device: which packets it carries.
type Kind int

const (
	TUN Kind = iota // IP packets
	TAP             // Ethernet frames
)

// String returns "tun" or "tap".
func (k Kind) String() string {
	if k == TAP {
		return "tap"
	}
	return "tun"
}

// DefaultClonePath is the device node that makes TUN/TAP devices: a character device, major 10, minor 200.
const DefaultClonePath = "/dev/net/tun"

// Config says what device Open opens and how it is to be. The zero value is a TUN device with a name of the kernel's
// choice, without packet information and otherwise as the kernel makes it.
type Config struct {
	// Name is the interface's name, at most 15 bytes. A name with %d ("tap%d") takes the first free number. Empty
	// stands for "tun%d" or "tap%d".
	Name string
	Kind Kind
	// ClonePath is the device node to open. Empty stands for DefaultClonePath.
	ClonePath string

	PI         bool // 4 bytes of packet information in front of each packet; false sets IFF_NO_PI
	VNetHdr    bool // 10 bytes of virtio-net header, little-endian, in front of each packet and after PI
	MultiQueue bool // more than one queue may be attached (Linux 3.8), see Device.OpenQueue
	Exclusive  bool // the device must be new; an existing name is an error (EBUSY)

	// NetNS is the network namespace the device lives in: a name as known to ip-netns(8), a path (it holds a
	// slash) or a process ID in decimal. Empty is the caller's. Read and Write work from anywhere.
	NetNS string

	// Persist makes the device stay after it is closed, or not. Nil leaves this as it is: a new device goes, an
	// existing one stays. See the package documentation for what true means to Close.
	Persist *bool
	// Owner and Group are the numeric user and group who may open the device without privilege later. Nil leaves
	// them alone. They are lasting: Close does not take them back.
	Owner, Group *int

	Addrs  []Address
	Routes []Route

	MAC        net.HardwareAddr // of a TAP device, 6 bytes; empty leaves it alone (the kernel invents one)
	NewMAC     net.HardwareAddr // the same, but only of a device that Open makes; it gives way to MAC
	MTU        int              // bytes, 68 to 65535 (TAP: 65521); 0 leaves it alone
	TxQueueLen int              // packets waiting to be read; the kernel drops beyond it; 0 leaves it alone

	// Bridge is the bridge that a TAP device joins. It is made and set up if absent; a bridge so made is removed
	// by Close unless other ports have joined.
	Bridge string

	// FlagsSet and FlagsClear are interface flags (unix.IFF_UP, IFF_PROMISC, IFF_NOARP, ...) to be on and off; all
	// others are left alone. Some flags are the kernel's to decide (IFF_RUNNING, IFF_POINTOPOINT, ...): to ask
	// for one that differs is no error, but is said through Warnf.
	FlagsSet, FlagsClear uint32

	// Logf takes notes for the user, for instance that an address was there already. Nil drops them.
	Logf func(format string, args ...any)
	// Warnf takes what was asked for and can't be had. Nil stands for Logf.
	Warnf func(format string, args ...any)
}

// Address is an address of the interface.
type Address struct {
	Prefix netip.Prefix // the address with the length of its network: 10.0.6.1/24, fd00::1/64
	Peer   netip.Addr   // the address at the other end of a point-to-point link; zero: none. The prefix length is then the peer's
}

// String returns "10.0.6.1/24" or "10.0.6.1/32 peer 10.0.6.2".
func (a Address) String() string {
	if a.Peer.IsValid() {
		return a.Prefix.String() + " peer " + a.Peer.String()
	}
	return a.Prefix.String()
}

// Route is a route through the interface, in the main table.
type Route struct {
	Dst    netip.Prefix // 10.0.0.0/8; 0.0.0.0/0 and ::/0 are default routes
	Via    netip.Addr   // the gateway; zero: Dst is reached directly
	Metric int          // lower wins; 0 is the kernel's default (0 for IPv4, 1024 for IPv6)
}

// String returns the words that ip-route(8) would take: "10.0.0.0/8 via 10.0.6.2 metric 5".
func (r Route) String() string {
	s := r.Dst.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Metric != 0 {
		s += " metric " + strconv.Itoa(r.Metric)
	}
	return s
}

const (
	maxName = unix.IFNAMSIZ - 1
	minMTU  = 68 // net/ipv4: the least MTU IPv4 can live with, RFC 791
	maxMTU  = 65535

	maxTapMTU = maxMTU - 14 // the Ethernet header counts (tun_net_init in drivers/net/tun.c)
)

// Validate finds every mistake that can be found without opening anything. The error names the field and its value.
func (c *Config) Validate() error {
	if c.Kind != TUN && c.Kind != TAP {
		return errors.Errorf("kind %d: neither TUN nor TAP", int(c.Kind))
	}
	if c.Name != "" {
		if err := checkName("name", c.Name); err != nil {
			return err
		}
	}
	if i := strings.IndexByte(c.Name, '%'); i >= 0 && (!strings.HasPrefix(c.Name[i:], "%d") || strings.Contains(c.Name[i+2:], "%")) {
		return errors.Errorf("name %q: a pattern holds one %%d and no other %%", c.Name)
	}
	for _, id := range []struct {
		field string
		value *int
	}{{"owner", c.Owner}, {"group", c.Group}} {
		// 0xffffffff is "no ID" to the kernel
		if id.value != nil && (*id.value < 0 || int64(*id.value) >= 0xffffffff) {
			return errors.Errorf("%s %d: not a user or group ID", id.field, *id.value)
		}
	}
	if both := c.FlagsSet & c.FlagsClear; both != 0 {
		return errors.Errorf("interface flags %s: both set and cleared", flagNames(both))
	}
	if c.TxQueueLen < 0 {
		return errors.Errorf("txqueuelen %d: less than nothing", c.TxQueueLen)
	}
	if err := c.checkLink(); err != nil {
		return err
	}
	return c.checkNet()
}

// checkName says whether the kernel would take an interface name (dev_valid_name in net/core/dev.c).
func checkName(field, name string) error {
	switch {
	case name == "":
		return errors.Errorf("%s is empty", field)
	case len(name) > maxName:
		return errors.Errorf("%s %q: %d bytes long, at most %d are allowed", field, name, len(name), maxName)
	case name == "." || name == "..":
		return errors.Errorf("%s %q: not usable", field, name)
	}
	for i := range len(name) {
		switch b := name[i]; b {
		case '/', ':', ' ', '\t', '\n', '\v', '\f', '\r', 0, 0xa0:
			return errors.Errorf("%s %q: byte %q is not allowed in an interface name", field, name, b)
		}
	}
	return nil
}

func (c *Config) checkLink() error {
	if len(c.NewMAC) > 0 && (c.Kind != TAP || len(c.NewMAC) != 6 || c.NewMAC[0]&1 != 0) {
		return errors.Errorf("NewMAC %s: not an address that a tap device can have", c.NewMAC)
	}
	if len(c.MAC) > 0 {
		switch {
		case c.Kind != TAP:
			return errors.Errorf("mac %s: a tun device has no MAC address", c.MAC)
		case len(c.MAC) != 6:
			return errors.Errorf("mac %s: %d bytes long, 6 are needed", c.MAC, len(c.MAC))
		case c.MAC[0]&1 != 0:
			return errors.Errorf("mac %s: a multicast address cannot be an interface's own", c.MAC)
		case [6]byte(c.MAC) == [6]byte{}:
			return errors.Errorf("mac %s: all zero", c.MAC)
		}
	}
	if c.MTU != 0 {
		if err := checkMTU(c.MTU); err != nil {
			return err
		}
		if c.Kind == TAP && c.MTU > maxTapMTU {
			return errors.Errorf("mtu %d: a tap device takes at most %d", c.MTU, maxTapMTU)
		}
	}
	if c.Bridge != "" {
		if c.Kind != TAP {
			return errors.Errorf("bridge %s: only a tap device can join a bridge", c.Bridge)
		}
		if strings.ContainsRune(c.Bridge, '%') {
			return errors.Errorf("bridge %q: must be a name, not a pattern", c.Bridge)
		}
		if err := checkName("bridge", c.Bridge); err != nil {
			return err
		}
		if c.Bridge == c.Name {
			return errors.Errorf("bridge %s: has the name of the device itself", c.Bridge)
		}
	}
	return nil
}

func checkMTU(mtu int) error {
	if mtu < minMTU || mtu > maxMTU {
		return errors.Errorf("mtu %d: out of range %d to %d", mtu, minMTU, maxMTU)
	}
	return nil
}

func (c *Config) checkNet() error {
	seen := map[string]bool{}
	for _, a := range c.Addrs {
		ip := a.Prefix.Addr()
		switch {
		case !a.Prefix.IsValid():
			return errors.Errorf("address %s: no address with prefix length", a.Prefix)
		case ip.Is4In6() || a.Peer.Is4In6():
			return errors.Errorf("address %s: an IPv4 address in IPv6 form", a)
		case ip.IsUnspecified() || ip.IsMulticast():
			return errors.Errorf("address %s: not an address of one host", a)
		case a.Peer.IsValid() && a.Peer.Is4() != ip.Is4():
			return errors.Errorf("address %s: the peer is of the other IP version", a)
		case a.Peer.Zone() != "":
			return errors.Errorf("address %s: the peer's zone is this interface already", a)
		case seen[a.String()]:
			return errors.Errorf("address %s: given twice", a)
		}
		seen[a.String()] = true
	}
	for _, r := range c.Routes {
		switch {
		case !r.Dst.IsValid():
			return errors.Errorf("route %s: no network with prefix length", r)
		case r.Dst.Addr().Is4In6() || r.Via.Is4In6():
			return errors.Errorf("route %s: an IPv4 address in IPv6 form", r)
		case r.Dst != r.Dst.Masked():
			return errors.Errorf("route %s: bits beyond the prefix are set, %s is the network", r, r.Dst.Masked())
		case r.Via.IsValid() && r.Via.Is4() != r.Dst.Addr().Is4():
			return errors.Errorf("route %s: the gateway is of the other IP version", r)
		case r.Via.Zone() != "":
			return errors.Errorf("route %s: the gateway's zone is this interface already", r)
		case r.Metric < 0 || int64(r.Metric) > 0xffffffff:
			return errors.Errorf("route %s: the metric is out of range", r)
		case seen[r.String()]:
			return errors.Errorf("route %s: given twice", r)
		}
		seen[r.String()] = true
	}
	return nil
}
