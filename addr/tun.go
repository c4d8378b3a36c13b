package addr

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"tunsplice/relay"
	"tunsplice/tundev"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// TUN and TAP devices: the options of the INTERFACE group, and the types. The device itself is package tundev's business; how its packets get into and out of the relay
// is in netdev.go.

var (
	optTunDevice = declare(kindString, Option{Name: "tun-device", Groups: GINTERFACE, Phase: PhOpen, Doc: "device node that makes devices (default /dev/net/tun)"})
	optTunName   = declare(kindString, Option{Name: "tun-name", Groups: GINTERFACE, Phase: PhFD,
		Doc: "name of the device, at most 15 characters; tap%d takes the first free number (default: the kernel's choice)"})
	optTunType = declare(kindTunType, Option{Name: "tun-type", Groups: GINTERFACE, Phase: PhFD,
		Doc: "tun for IP packets, tap for Ethernet frames (default tun)"})
	optNoPI = declare(kindBool, Option{Name: "iff-no-pi", Aliases: "no-pi tun-no-pi", Groups: GINTERFACE, Phase: PhFD,
		Doc: "packets without the 4 bytes of packet information in front"})
	optIfMTU = declare(kindUint, Option{Name: "interface-mtu", Aliases: "if-mtu mtu", Groups: GINTERFACE, Phase: PhLate, Doc: "MTU of the device in bytes"})

	optAddr = declare(kindPrefix, Option{Name: "addr", Aliases: "address", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "a further address of the device with its prefix length, IPv4 or IPv6; may be repeated"})
	optPeer = declare(kindIP, Option{Name: "peer", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "address of the other end, for a point-to-point address; belongs to the first address of its family"})
	optRoute = declare(kindRoute, Option{Name: "route", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "a route through the device, as 10.0.0.0/8, or with gateway and metric 10.0.0.0/8 via 10.0.6.2 metric 5; default stands for 0.0.0.0/0; may be repeated"})
	optMAC = declare(kindMAC, Option{Name: "mac", Aliases: "lladdr", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "MAC address of a tap device (default: the kernel's choice)"})
	optMultiQueue = declare(kindBool, Option{Name: "multi-queue", Aliases: "tun-multi-queue iff-multi-queue", Groups: GINTERFACE, Phase: PhFD, Ours: true,
		Doc: "several programs, or sessions of one with fork, may open the device at the same time, and the kernel spreads the flows over them: a tunnel of several connections"})
	optTxQueueLen = declare(kindUint, Option{Name: "txqueuelen", Aliases: "txqlen", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "how many packets wait in the device to be read (default: the kernel's, 500 or 1000)"})
	optBridge = declare(kindString, Option{Name: "bridge", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "bridge that a tap device joins; it is made if it does not exist"})
	optPersist = declare(kindBool, Option{Name: "persist", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "the device stays after the program's end (persist=0: it goes); without this option nothing changes"})
	optTunOwner = declare(kindUID, Option{Name: "owner", Aliases: "user uid", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "user who may open the device later without privilege, by name or number"})
	optTunGroup = declare(kindGID, Option{Name: "group", Aliases: "gid", Groups: GINTERFACE, Phase: PhLate, Ours: true,
		Doc: "group whose members may open the device later, by name or number"})
)

// iffFlags are the options that set or clear an interface flag.
var iffFlags = []struct {
	key Key[bool]
	bit uint32
}{
	{iff("iff-up", "up", "the device is up"), unix.IFF_UP},
	{iff("iff-broadcast", "", "there is a broadcast address"), unix.IFF_BROADCAST},
	{iff("iff-debug", "", "the driver writes debugging messages"), unix.IFF_DEBUG},
	{iff("iff-loopback", "loopback", "the device is a loopback"), unix.IFF_LOOPBACK},
	{iff("iff-pointopoint", "pointopoint", "the device is one end of a point-to-point link"), unix.IFF_POINTOPOINT},
	{iff("iff-notrailers", "notrailers", "no trailers"), unix.IFF_NOTRAILERS},
	{iff("iff-running", "running", "resources are allocated"), unix.IFF_RUNNING},
	{iff("iff-noarp", "noarp", "no ARP on this device"), unix.IFF_NOARP},
	{iff("iff-promisc", "promisc", "the device takes packets for others too"), unix.IFF_PROMISC},
	{iff("iff-allmulti", "allmulti", "the device takes all multicast packets"), unix.IFF_ALLMULTI},
	{iff("iff-master", "master", "the device is master of a bundle"), unix.IFF_MASTER},
	{iff("iff-slave", "slave", "the device is slave of a bundle"), unix.IFF_SLAVE},
	{iff("iff-multicast", "multicast", "the device can do multicast"), unix.IFF_MULTICAST},
	{iff("iff-portsel", "portsel", "the medium can be selected"), unix.IFF_PORTSEL},
	{iff("iff-automedia", "automedia", "the medium is selected automatically"), unix.IFF_AUTOMEDIA},
}

func iff(name, alias, doc string) Key[bool] {
	return declare(kindBool, Option{Name: name, Aliases: alias, Groups: GINTERFACE, Phase: PhOffset, Doc: "interface flag: " + doc})
}

// interfaceFlags returns the flags that the options set and clear.
func (b *Bound) interfaceFlags() (set, clear uint32) {
	for _, f := range iffFlags {
		if on, given := f.key.Get(b); given && on {
			set |= f.bit
		} else if given {
			clear |= f.bit
		}
	}
	return set, clear
}

var (
	kindTunType = kindOf[tundev.Kind]{"STRING", need(func(s string) (tundev.Kind, error) {
		switch strings.ToLower(s) {
		case "tun":
			return tundev.TUN, nil
		case "tap":
			return tundev.TAP, nil
		}
		return 0, errors.Errorf("unknown type of device %q (tun or tap)", s)
	})}
	kindPrefix = kindOf[netip.Prefix]{"ADDRESS/BITS", need(parsePrefix)}
	kindIP     = kindOf[netip.Addr]{"ADDRESS", need(func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(unbracket(s))
		if err != nil {
			return a, errors.Errorf("%q is no IP address", s)
		}
		return a.Unmap(), nil
	})}
	kindMAC = kindOf[net.HardwareAddr]{"MAC", need(func(s string) (net.HardwareAddr, error) {
		m, err := net.ParseMAC(s)
		if err != nil || len(m) != 6 {
			return nil, errors.Errorf("%q is no MAC address (as 02:00:00:00:00:01)", s)
		}
		return m, nil
	})}
	kindRoute = kindOf[tundev.Route]{"NETWORK [via ADDRESS] [metric N]", need(parseRoute)}
)

// unbracket takes the brackets off an IPv6 address that has them.
func unbracket(s string) string {
	if strings.HasPrefix(s, "[") {
		return strings.Replace(s[1:], "]", "", 1)
	}
	return s
}

// parsePrefix reads 10.0.6.1/24, [fd00::1]/64, fd00::1/64 or 10.0.6.1:255.255.255.0.
func parsePrefix(text string) (netip.Prefix, error) {
	s := unbracket(text)
	if a, mask, ok := strings.Cut(s, ":"); ok && !strings.Contains(mask, ":") {
		if m, err := netip.ParseAddr(mask); err == nil && m.Is4() {
			ones, bits := net.IPMask(m.AsSlice()).Size()
			if bits == 0 {
				return netip.Prefix{}, errors.Errorf("%q is no network mask", mask)
			}
			ip, err := netip.ParseAddr(a)
			if err != nil {
				return netip.Prefix{}, errors.Errorf("%q is no IPv4 address", a)
			}
			return netip.PrefixFrom(ip, ones), nil
		}
	}
	p, err := netip.ParsePrefix(s)
	if err == nil {
		return p, nil
	}
	if a, aerr := netip.ParseAddr(s); aerr == nil {
		bits := "/24"
		if a.Is6() {
			bits = "/64"
		}
		return p, withHint{errors.Errorf("address %q has no prefix length", text), "write " + text + bits + ", say, for the network that the device reaches"}
	}
	return p, errors.Errorf("%q is no address with prefix length (as 10.0.6.1/24 or [fd00::1]/64)", text)
}

// parseRoute reads "10.0.0.0/8", "default via 10.0.6.2", "fd00::/8 metric 5", with spaces or underscores between the words.
func parseRoute(text string) (r tundev.Route, err error) {
	words := strings.Fields(strings.ReplaceAll(text, "_", " "))
	if len(words) == 0 {
		return r, errors.New("empty route")
	}
	gateway := ""
	for i := 1; i < len(words); i += 2 {
		if i+1 == len(words) {
			return r, errors.Errorf("%q wants a value", words[i])
		}
		switch words[i] {
		case "via":
			gateway = words[i+1]
			if r.Via, err = netip.ParseAddr(unbracket(gateway)); err != nil {
				return r, errors.Errorf("%q is no IP address", gateway)
			}
		case "metric":
			n, err := parseUint(words[i+1], 1<<31-1)
			if err != nil {
				return r, errors.Wrap(err, "metric")
			}
			r.Metric = int(n)
		default:
			return r, errors.Errorf("unknown word %q (via or metric)", words[i])
		}
	}
	dst := unbracket(words[0])
	switch {
	case dst == "default" && r.Via.Is6():
		dst = "::/0"
	case dst == "default":
		dst = "0.0.0.0/0"
	case !strings.Contains(dst, "/") && strings.Contains(dst, ":"):
		dst += "/128"
	case !strings.Contains(dst, "/"):
		dst += "/32"
	}
	if r.Dst, err = netip.ParsePrefix(dst); err != nil {
		return r, errors.Errorf("%q is no network (as 10.0.0.0/8)", words[0])
	}
	return r, nil
}

var _ = addType(Type{
	Name: "TUN", Params: []Param{{Name: "address/bits", Optional: true}}, Tail: true,
	Groups: GFD | GCHR | GOPEN | GINTERFACE | GHUB, Can: ReadWrite,
	Summary: "TUN or TAP network device, with optional address",
	Doc: "Opens a TUN device (IP packets), or with tun-type=tap a TAP device (Ethernet frames), and makes it if it does not exist. Each read is one packet that the host sends " +
		"through the device, each write is one that the host receives. A device that was made here goes with the program unless persist says otherwise; on one that existed " +
		"before, what was changed is put back at the end. Without iff-no-pi four bytes of packet information stand in front of each packet, as in socat. " +
		"Joined to a byte stream, packets are framed (option framing of the stream's address). Making a device needs CAP_NET_ADMIN; the owner of a device prepared " +
		"with \"ip tuntap add NAME mode tap user USER\" needs no privilege to use it.",
	Examples: []Example{
		{`-u TUN:10.0.6.1/24,tun-type=tap,up EXEC:'hexdump -C'`, "shows the frames that the host sends through a new tap device"},
		{`TCP-LISTEN:40839,reuseaddr TUN:172.0.0.1/24,iff-no-pi,up,tun-type=tap`, "waits for the other end of an L2 tunnel over TCP"},
		{`TCP:192.0.2.1:40839 TUN:172.0.0.2/24,iff-no-pi,up,tun-type=tap`, "is the other end"},
	},
	Check: func(b *Bound) error { _, err := b.tunConfig(); return err },
	Open:  openTun,
})

var _ = addType(Type{
	Name: "TAP", Params: []Param{{Name: "address/bits", Optional: true}}, Tail: true,
	Groups: GFD | GCHR | GOPEN | GINTERFACE | GHUB, Can: ReadWrite, Ours: true,
	Summary: "TAP network device: TUN with tun-type=tap,iff-no-pi",
	Doc:     "A TAP device whose frames have no packet information in front. All else is as for TUN.",
	Examples: []Example{
		{`TCP-LISTEN:40839 TAP:172.0.0.1/24,up`, "waits for the other end of an L2 tunnel over TCP"},
		{`TAP,up,bridge=br0 TCP:192.0.2.1:40839`, "joins the bridge br0 to the other end's network"},
	},
	Check: func(b *Bound) error { _, err := b.tunConfig(); return err },
	Open:  openTun,
})

// tunConfig makes a device's configuration of parameters and options.
func (b *Bound) tunConfig() (c tundev.Config, err error) {
	c = tundev.Config{
		Name:       optTunName.Or(b, ""),
		Kind:       optTunType.Or(b, tundev.TUN),
		ClonePath:  optTunDevice.Or(b, ""),
		PI:         !optNoPI.Or(b, b.isHub()),
		NetNS:      optNetns.Or(b, ""),
		Routes:     optRoute.All(b),
		MAC:        optMAC.Or(b, nil),
		MTU:        int(optIfMTU.Or(b, 0)),
		TxQueueLen: int(optTxQueueLen.Or(b, 0)),
		MultiQueue: optMultiQueue.Or(b, false),
		Bridge:     optBridge.Or(b, ""),
	}
	if b.Type.Name == "TAP" {
		if k, given := optTunType.Get(b); given && k != tundev.TAP {
			return c, errors.New("tun-type=tun contradicts the address type TAP: write TUN")
		}
		c.Kind, c.PI = tundev.TAP, !optNoPI.Or(b, true)
	}
	// Zero and nothing leave these alone in a Config: who writes them means something else.
	switch {
	case optIfMTU.Given(b) && c.MTU == 0:
		return c, errors.New("mtu 0: no packet is that short")
	case optTxQueueLen.Given(b) && c.TxQueueLen == 0:
		return c, errors.New("txqueuelen 0: no packet would ever wait to be read, and so none would be sent")
	case optBridge.Given(b) && c.Bridge == "":
		return c, errors.New("bridge is empty: the name of one is wanted")
	}
	c.FlagsSet, c.FlagsClear = b.interfaceFlags()
	if v, given := optPersist.Get(b); given {
		c.Persist = &v
	}
	if v, given := optTunOwner.Get(b); given {
		c.Owner = &v
	}
	if v, given := optTunGroup.Get(b); given {
		c.Group = &v
	}
	prefixes := optAddr.All(b)
	if p := b.Param(0); p != "" {
		first, err := parsePrefix(p)
		if err != nil {
			return c, err
		}
		prefixes = append([]netip.Prefix{first}, prefixes...)
	}
	for _, p := range prefixes {
		c.Addrs = append(c.Addrs, tundev.Address{Prefix: p})
	}
	for _, peer := range optPeer.All(b) {
		if err := setPeer(c.Addrs, peer); err != nil {
			return c, err
		}
	}
	c.VNetHdr = true
	return c, c.Validate()
}

// setPeer gives the first address of the peer's family, that has none yet, its peer.
func setPeer(addrs []tundev.Address, peer netip.Addr) error {
	for i := range addrs {
		if a := &addrs[i]; a.Prefix.Addr().Is4() == peer.Is4() && !a.Peer.IsValid() {
			a.Peer = peer
			return nil
		}
	}
	return errors.Errorf("peer %s: the device has no address of this kind to be the other end of", peer)
}

func openTun(_ context.Context, b *Bound, env *Env) (Source, error) {
	c, err := b.tunConfig()
	if err != nil {
		return nil, err
	}
	c.Logf, c.Warnf = env.Log.Infof, env.Log.Warnf
	c.MultiQueue = c.MultiQueue || env.Queues > 1
	if c.Kind == tundev.TAP && c.Name != "" && !strings.Contains(c.Name, "%") {
		c.NewMAC = env.MAC
	}
	var dev *tundev.Device
	err = b.insideFS(func() (err error) {
		dev, err = tundev.Open(c)
		return err
	})
	if err != nil {
		return nil, busyDevice(err)
	}
	mtu, err := dev.MTU()
	if err != nil {
		dev.Close()
		return nil, err
	}
	env.Log.Noticef("%s device %s is open", dev.Kind(), dev.Name())
	prefixes := prefixTexts(c.Addrs)
	if len(prefixes) == 0 { // somebody else may have set it up
		prefixes = interfaceAddrs(b, dev.Name())
	}
	ep := &relay.Endpoint{Label: dev.Name(), Traffic: relay.TUN, PI: c.PI, MTU: mtu, OnePack: onePacketOfDevice, Close: dev.Close,
		Env: deviceEnv(dev.Name(), mtu, prefixes)}
	if c.Kind == tundev.TAP {
		ep.Traffic = relay.TAP
	}
	d := &queues{ep: ep, dev: dev, config: &c, carrier: optCarrier.Or(b, false), mode: b.Mode}
	if err = d.attach(ep, dev.Queue); err == nil && c.MultiQueue && env.Queues > 0 {
		err = d.lend(env.Queues)
	}
	if err != nil {
		dev.Close()
		return nil, err
	}
	env.reach(StateDevice, ep.Env...)
	return b.deviceSource(ep, env)
}

// deviceEnv returns what programs get to know of a device: its name, its MTU in bytes, and its addresses separated by spaces.
func deviceEnv(name string, mtu int, prefixes []string) []string {
	return []string{"IFACE=" + name, "MTU=" + strconv.Itoa(mtu), "ADDR=" + strings.Join(prefixes, " ")}
}

func prefixTexts(addrs []tundev.Address) (texts []string) {
	for _, a := range addrs {
		texts = append(texts, a.Prefix.String())
	}
	return texts
}
