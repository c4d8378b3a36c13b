package addr

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Options of IP sockets. Network interfaces are looked up when the option is set, in the network namespace of the address.

func ip4Int(opt int, o Option) *Option {
	o.Groups = GIP4 | GIP6
	if o.Phase == 0 {
		o.Phase = PhPastsocket
	}
	return sockInt(unix.SOL_IP, opt, o)
}

func ip6Int(opt int, o Option) *Option {
	if o.Groups == 0 {
		o.Groups = GIP6
	}
	if o.Phase == 0 {
		o.Phase = PhPastsocket
	}
	return sockInt(unix.SOL_IPV6, opt, o)
}

var _ = []*Option{
	ip4Int(unix.IP_FREEBIND, Option{Name: "ip-freebind", Aliases: "freebind ipfreebind", Doc: "1: bind to an address that no interface has yet (default 0)"}),
	ip4Int(unix.IP_MTU_DISCOVER, Option{Name: "ip-mtu-discover", Aliases: "ipmtudiscover mtudiscover",
		Doc: "path MTU discovery: 0 never, 1 as the route says, 2 always (don't fragment), 3 always but ignore the path MTU"}),
	ip4Int(unix.IP_TOS, Option{Name: "ip-tos", Aliases: "iptos tos", Doc: "type of service byte of IPv4 packets (DSCP times 4)"}),
	ip4Int(unix.IP_TTL, Option{Name: "ip-ttl", Aliases: "ipttl ttl", Doc: "time to live of IPv4 packets, 1 to 255 (default 64)"}),
	ip4Int(unix.IP_TRANSPARENT, Option{Name: "ip-transparent", Aliases: "transparent", Phase: PhPrebind,
		Doc: "1: bind to, and take packets for, addresses of other hosts (needs CAP_NET_ADMIN; default 0)"}),
	ip4Int(unix.IP_MULTICAST_LOOP, Option{Name: "ip-multicast-loop", Aliases: "ipmulticastloop mcloop multicast-loop multicastloop",
		Doc: "0: this host does not get the multicast packets that it sends (default 1)"}),
	ip4Int(unix.IP_MULTICAST_TTL, Option{Name: "ip-multicast-ttl", Aliases: "ipmulticastttl multicast-ttl multicastttl",
		Doc: "time to live of multicast packets, 0 to 255 (default 1)"}),
	row(kindBin, Option{Name: "ip-options", Aliases: "ipoptions", Groups: GIP4 | GIP6, Phase: PhPastsocket, Doc: "IP options of outgoing packets, as bytes"},
		func(fd int, data []byte) error {
			return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, string(data))
		}),
	row(kindString, Option{Name: "ip-multicast-if", Aliases: "multicast-if", Groups: GIP4 | GIP6, Phase: PhPastsocket,
		Doc: "network interface that multicast packets leave by: its name, number or address"}, setMulticastInterface),
	row(kindMembership, Option{Name: "ip-add-membership", Aliases: "add-membership ip-membership membership", Groups: GIP4 | GIP6, Phase: PhPastsocket,
		Doc: "join an IPv4 multicast group: group:interface, the interface by name, number or address"}, joinGroup4),
	row(kindSourceMembership, Option{Name: "ip-add-source-membership", Aliases: "add-source-membership source-membership", Groups: GIP4 | GIP6,
		Phase: PhPastsocket, Doc: "join an IPv4 multicast group for packets of one sender: group:interface:sender"}, joinSourceGroup(unix.SOL_IP)),

	ip6Int(unix.IPV6_V6ONLY, Option{Name: "ipv6-v6only", Aliases: "ipv6only v6only", Phase: PhPrebind,
		Doc: "1: an IPv6 socket takes no IPv4 peers, 0: it does (default: sysctl net.ipv6.bindv6only)"}),
	ip6Int(unix.IPV6_MTU_DISCOVER, Option{Name: "ipv6-mtu-discover", Aliases: "mtudiscover6", Groups: GIP4 | GIP6,
		Doc: "path MTU discovery over IPv6: 0 never, 1 as the route says, 2 always, 3 always but ignore the path MTU"}),
	ip6Int(unix.IPV6_MULTICAST_LOOP, Option{Name: "ipv6-multicast-loop", Aliases: "ipv6-mcloop mcloop6",
		Doc: "0: this host does not get the IPv6 multicast packets that it sends (default 1)"}),
	ip6Int(unix.IPV6_TCLASS, Option{Name: "ipv6-tclass", Doc: "traffic class of IPv6 packets (DSCP times 4)"}),
	ip6Int(unix.IPV6_UNICAST_HOPS, Option{Name: "ipv6-unicast-hops", Aliases: "unicast-hops", Doc: "hop limit of IPv6 packets, 0 to 255 (default 64)"}),
	row(kindMembership, Option{Name: "ipv6-join-group", Aliases: "ipv6-add-membership join-group", Groups: GIP6, Phase: PhPastsocket,
		Doc: "join an IPv6 multicast group: [group]:interface, the interface by name or number"}, joinGroup6),
	row(kindSourceMembership, Option{Name: "ipv6-join-source-group", Aliases: "ipv6-add-source-membership join-source-group", Groups: GIP6,
		Phase: PhPastsocket, Doc: "join an IPv6 multicast group for packets of one sender: [group]:interface:[sender]"}, joinSourceGroup(unix.SOL_IPV6)),
}

// membership is the value of the options that join a multicast group.
type membership struct {
	group  netip.Addr
	ifname string // name, number or IPv4 address; "" lets the kernel choose
	source netip.Addr
}

var (
	kindMembership = kindOf[membership]{"STRUCT-IP_MREQN", need(func(s string) (membership, error) {
		f := splitColons(s)
		if len(f) == 3 { // group:address:interface, as the members of struct ip_mreqn
			f = []string{f[0], f[2]}
		}
		if len(f) != 2 {
			return membership{}, errors.New("wanted group:interface")
		}
		return parseMembership(f)
	})}
	kindSourceMembership = kindOf[membership]{"IP-MREQ-SOURCE", need(func(s string) (membership, error) {
		f := splitColons(s)
		if len(f) != 3 {
			return membership{}, errors.New("wanted group:interface:sender")
		}
		return parseMembership(f)
	})}
)

// splitColons splits at colons outside brackets.
func splitColons(s string) (parts []string) {
	depth, start := 0, 0
	for i, c := range s {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == ':' && depth == 0:
			parts, start = append(parts, s[start:i]), i+1
		}
	}
	return append(parts, s[start:])
}

func parseMembership(f []string) (m membership, err error) {
	literal := false
	if m.group, literal, err = parseIP(f[0]); err != nil || !literal || !m.group.IsMulticast() {
		return m, errors.Errorf("%q is no multicast address", f[0])
	}
	m.ifname = f[1]
	if len(f) == 3 {
		if m.source, literal, err = parseIP(f[2]); err != nil || !literal || m.source.Is4() != m.group.Is4() {
			return m, errors.Errorf("%q is no address of a sender to %s", f[2], m.group)
		}
	}
	return m, nil
}

// multicastInterface returns struct ip_mreqn for an interface given by name, number or address.
func multicastInterface(name string) (mreq unix.IPMreqn, err error) {
	if ip, err := netip.ParseAddr(name); err == nil && ip.Is4() {
		mreq.Address = ip.As4()
		return mreq, nil
	}
	if name == "" {
		return mreq, nil
	}
	index, err := interfaceIndex(name)
	mreq.Ifindex = int32(index)
	return mreq, err
}

func setMulticastInterface(fd int, name string) error {
	mreq, err := multicastInterface(name)
	if err != nil {
		return err
	}
	return unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_MULTICAST_IF, &mreq)
}

func joinGroup4(fd int, m membership) error {
	if !m.group.Is4() {
		return errors.Errorf("%s is no IPv4 group", m.group)
	}
	mreq, err := multicastInterface(m.ifname)
	if err != nil {
		return err
	}
	mreq.Multiaddr = m.group.As4()
	return unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, &mreq)
}

func joinGroup6(fd int, m membership) error {
	if m.group.Is4() {
		return errors.Errorf("%s is no IPv6 group", m.group)
	}
	mreq := unix.IPv6Mreq{Multiaddr: m.group.As16()}
	if m.ifname != "" {
		index, err := interfaceIndex(m.ifname)
		if err != nil {
			return err
		}
		mreq.Interface = index
	}
	return unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, &mreq)
}

// joinSourceGroup joins by struct group_source_req (RFC 3678), which is the same for both IP versions.
func joinSourceGroup(level int) func(fd int, m membership) error {
	const (
		joinSource = 46  // MCAST_JOIN_SOURCE_GROUP in linux/in.h
		storage    = 128 // struct sockaddr_storage
		word       = 8   // the interface number, padded
	)
	return func(fd int, m membership) error {
		if m.group.Is4() != (level == unix.SOL_IP) {
			return errors.Errorf("%s is a group of the other IP version", m.group)
		}
		index, err := sourceInterface(m.ifname)
		if err != nil {
			return err
		}
		var req [word + 2*storage]byte
		binary.NativeEndian.PutUint32(req[:], index)
		group, source := inetSockaddr(m.group, 0, 0), inetSockaddr(m.source, 0, 0)
		copy(req[word:], group.b[:])
		copy(req[word+storage:], source.b[:])
		return unix.SetsockoptString(fd, level, joinSource, string(req[:]))
	}
}

// sourceInterface returns the number of an interface given by name, number or address.
func sourceInterface(name string) (uint32, error) {
	ip := net.ParseIP(strings.Trim(name, "[]"))
	if ip == nil {
		if name == "" {
			return 0, nil
		}
		return interfaceIndex(name)
	}
	list, err := net.Interfaces()
	if err != nil {
		return 0, errors.Wrap(err, "network interfaces")
	}
	for _, ifi := range list {
		addrs, err := ifi.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return uint32(ifi.Index), nil
			}
		}
	}
	return 0, errors.Wrapf(unix.ENODEV, "network interface with address %s", name)
}
