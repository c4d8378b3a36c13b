package addr

import (
	"context"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// From the text of hosts and ports to socket addresses. Numbers are never asked of a name server, and the check at Bind time finds what is wrong with them.

var (
	optPF = declare(kindFamily, Option{Name: "protocol-family", Aliases: "pf", Groups: GSOCKET, Phase: PhPresocket,
		Doc: "address family: ip4, ip6, unix or a number (default as the address says)"})
	optAddrConfig = declare(kindBool, Option{Name: "ai-addrconfig", Aliases: "addrconfig", Groups: GIP4 | GIP6, Phase: PhOffset,
		Doc: "resolve only to IP versions that the host has an address of besides loopback"})
	optPassive = declare(kindBool, Option{Name: "ai-passive", Aliases: "passive", Groups: GIP4 | GIP6, Phase: PhOffset,
		Doc: "an empty host means any local address instead of loopback"})
	optV4Mapped = declare(kindBool, Option{Name: "ai-v4mapped", Aliases: "v4mapped", Groups: GIP4 | GIP6, Phase: PhOffset,
		Doc: "with IPv6 asked for, a host without IPv6 address is reached by its IPv4 address mapped into IPv6"})
	optAIAll = declare(kindBool, Option{Name: "ai-all", Groups: GIP4 | GIP6, Phase: PhOffset,
		Doc: "with ai-v4mapped, use IPv4 addresses also where there are IPv6 ones"})
)

// kindFamily is an address family by number or by one of the names that socat knows.
var kindFamily = kindOf[int]{"STRING", need(func(s string) (int, error) {
	switch strings.ToLower(s) {
	case "ip4", "ipv4", "inet", "inet4":
		return unix.AF_INET, nil
	case "ip6", "ipv6", "inet6":
		return unix.AF_INET6, nil
	case "unix", "local":
		return unix.AF_UNIX, nil
	}
	n, err := parseUint(s, 0xffff)
	if err != nil {
		return 0, errors.Errorf("unknown protocol family %q (ip4, ip6, unix or a number)", s)
	}
	return int(n), nil
})}

// ipFamily returns the address family that an address is bound to by option pf or by its type, AF_UNSPEC for either.
func (b *Bound) ipFamily(ofType int) int { return optPF.Or(b, ofType) }

// checkHost finds what is wrong with a host without asking a name server.
func (b *Bound) checkHost(host string, family int) error {
	ip, literal, err := parseIP(host)
	if err != nil || !literal {
		return err
	}
	return b.fits(ip, host, family)
}

// fits says whether a literal address may be used with the address family.
func (b *Bound) fits(ip netip.Addr, text string, family int) error {
	switch {
	case family == unix.AF_INET && !ip.Is4():
		return withHint{errors.Errorf("%s is no IPv4 address", text), "use an address type for IPv6, or option pf=ip6"}
	case family == unix.AF_INET6 && ip.Is4() && !optV4Mapped.Or(b, false):
		return withHint{errors.Errorf("%s is no IPv6 address", text), "use an address type for IPv4, or option pf=ip4; or ai-v4mapped"}
	}
	return nil
}

// parseIP reads an IP address: dotted IPv4 in the forms of inet_aton(3), or IPv6, in brackets or not, with zone. literal is false if it is a name.
func parseIP(host string) (ip netip.Addr, literal bool, err error) {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if ip, err = netip.ParseAddr(inner); err != nil || !ok || ip.Is4() {
			return ip, true, errors.Errorf("%q is no IPv6 address", host)
		}
		return ip, true, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip, true, nil
	}
	if ip, ok := inetAton(host); ok {
		return ip, true, nil
	}
	if strings.ContainsAny(host, " \t\r\n/@,") {
		return ip, false, errors.Errorf("%q is no host name", host)
	}
	return ip, false, nil
}

// inetAton reads IPv4 addresses of fewer than four parts, the last of which fills the rest, in decimal, octal and hexadecimal: 127.1, 0, 0x7f000001.
func inetAton(host string) (netip.Addr, bool) {
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, p := range parts {
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts))
		}
		if p == "" || p[0] < '0' || p[0] > '9' || strings.Contains(p, "_") {
			return netip.Addr{}, false
		}
		n, err := strconv.ParseUint(p, 0, bits)
		if err != nil {
			return netip.Addr{}, false
		}
		value = value<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

// parsePort reads a port number or the name of a service (network: "tcp" or "udp").
func parsePort(network, text string) (uint16, error) {
	if text == "" {
		return 0, errors.New("port is missing")
	}
	if n, err := ParseNumber(text); err == nil { // as socat has it 0x50 is port 80, and so is 0120
		if n < 0 || n > math.MaxUint16 {
			return 0, errors.Errorf("port %s out of range (0 to 65535)", text)
		}
		return uint16(n), nil
	}
	n, err := net.LookupPort(network, text)
	if err != nil {
		return 0, withHint{errors.Errorf("unknown service %q", text), "give the port as a number, or a name from /etc/services"}
	}
	return uint16(n), nil
}

// splitHostPort takes a value of option bind apart: host, host:port, :port, [v6]:port.
func splitHostPort(text string) (host, port string) {
	if strings.HasPrefix(text, "[") {
		if i := strings.LastIndexByte(text, ']'); i >= 0 {
			return text[:i+1], strings.TrimPrefix(text[i+1:], ":")
		}
	}
	if i := strings.IndexByte(text, ':'); i >= 0 && i == strings.LastIndexByte(text, ':') {
		return text[:i], text[i+1:]
	}
	return text, ""
}

// resolve returns the socket addresses of a host, in the order to try them; at least one. An empty host is the own one.
func (b *Bound) resolve(ctx context.Context, env *Env, host string, port uint16, family int) ([]sockaddr, error) {
	ips, err := b.lookup(ctx, env, host, family)
	if err != nil {
		return nil, err
	}
	ips = preferred(ips, env.ResolveIP)
	var list []sockaddr
	for _, ip := range ips {
		var zone uint32
		if ip.Zone() != "" {
			err := b.inside(func() (err error) { zone, err = interfaceIndex(ip.Zone()); return err })
			if err != nil {
				return nil, errors.Wrap(err, ip.String())
			}
		}
		if family == unix.AF_INET6 && ip.Is4() {
			ip = netip.AddrFrom16(ip.As16())
		}
		list = append(list, inetSockaddr(ip, port, zone))
	}
	return list, nil
}

// preferred moves the addresses of the preferred IP version to the front; the order is kept otherwise.
func preferred(ips []netip.Addr, version byte) []netip.Addr {
	if version != '4' && version != '6' {
		return ips
	}
	var first, rest []netip.Addr
	for _, ip := range ips {
		if ip.Is4() == (version == '4') {
			first = append(first, ip)
		} else {
			rest = append(rest, ip)
		}
	}
	return append(first, rest...)
}

// lookup returns the IP addresses of a host that the address family admits.
func (b *Bound) lookup(ctx context.Context, env *Env, host string, family int) ([]netip.Addr, error) {
	if host == "" {
		return b.ownAddresses(env, family), nil
	}
	ip, literal, err := parseIP(host)
	switch {
	case err != nil:
		return nil, err
	case literal:
		return []netip.Addr{ip}, b.fits(ip, host, family)
	}
	network := "ip"
	switch {
	case family == unix.AF_INET:
		network = "ip4"
	case family == unix.AF_INET6 && !optV4Mapped.Or(b, false):
		network = "ip6"
	}
	ips, err := b.resolver().LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, resolveError(host, err)
	}
	var have4, have6 bool
	for i := range ips {
		ips[i] = ips[i].Unmap()
		have4 = have4 || ips[i].Is4()
		have6 = have6 || ips[i].Is6()
	}
	if optAddrConfig.Or(b, false) {
		if has4, has6, err := b.ownVersions(); err == nil {
			ips = keep(ips, has4, has6)
		}
	}
	if family == unix.AF_INET6 && have6 && !optAIAll.Or(b, false) {
		ips = keep(ips, false, true)
	}
	if len(ips) == 0 {
		return nil, resolveError(host, &net.DNSError{IsNotFound: true})
	}
	return ips, nil
}

// keep returns the addresses of the wanted IP versions.
func keep(ips []netip.Addr, v4, v6 bool) (kept []netip.Addr) {
	for _, ip := range ips {
		if ip.Is4() && v4 || ip.Is6() && v6 {
			kept = append(kept, ip)
		}
	}
	return kept
}

// ownAddresses returns what an empty host means.
func (b *Bound) ownAddresses(env *Env, family int) []netip.Addr {
	ips := []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if optPassive.Or(b, false) {
		ips = []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()}
	}
	return keep(ips, family != unix.AF_INET6, family != unix.AF_INET)
}

// ownVersions says which IP versions the host has addresses of, loopback aside.
func (b *Bound) ownVersions() (v4, v6 bool, err error) {
	err = b.inside(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() {
				v4 = v4 || n.IP.To4() != nil
				v6 = v6 || n.IP.To4() == nil
			}
		}
		return err
	})
	return v4, v6, err
}

// resolver asks the name servers from within the network namespace of the address.
func (b *Bound) resolver() *net.Resolver {
	if !optNetns.Given(b) {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, server string) (conn net.Conn, err error) {
		err = b.inside(func() error {
			// A literal address: the dialer makes its socket on this thread.
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, server)
			return err
		})
		return conn, err
	}}
}

// resolveError puts the texts of gai_strerror(3), which scripts look for, into errors of the resolver.
func resolveError(host string, err error) error {
	text := err.Error()
	hint := "see /etc/resolv.conf and /etc/hosts"
	var de *net.DNSError
	if errors.As(err, &de) {
		switch {
		case de.IsNotFound:
			text, hint = "Name or service not known", "check the spelling of the host name; "+hint
		case de.IsTemporary, de.IsTimeout:
			text = "Temporary failure in name resolution"
		default:
			text = de.Err
		}
	}
	return withHint{errors.Errorf("getaddrinfo %q: %s", host, text), hint}
}

// interfaceIndex returns the number of a network interface that is given by name or number, in the network namespace of the calling thread.
func interfaceIndex(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return uint32(n), nil
	}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return 0, errors.Wrapf(unix.ENODEV, "network interface %s", name)
	}
	return uint32(ifi.Index), nil
}
