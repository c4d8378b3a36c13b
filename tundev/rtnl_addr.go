package tundev

import (
	"net/netip"

	"github.com/pkg/errors"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func family(ip netip.Addr) int {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addrs returns the addresses of an interface, both IP versions.
func (r *rtnl) addrs(index int) ([]Address, error) {
	// no filter by interface: kernels before 5.0 ignore it
	msgs, err := r.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, err
	}
	var all []Address
	for _, m := range msgs {
		if len(m) < unix.SizeofIfAddrmsg {
			return nil, errors.New("rtnetlink message is cut short")
		}
		msg := nl.DeserializeIfAddrmsg(m)
		if int(msg.Index) != index {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
		if err != nil {
			return nil, errors.Wrap(err, "parse rtnetlink message")
		}
		// IFA_ADDRESS is the peer's where there is one, else the same as IFA_LOCAL; IPv6 then has no IFA_LOCAL
		var local, remote netip.Addr
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(a.Value)
			case unix.IFA_ADDRESS:
				remote, _ = netip.AddrFromSlice(a.Value)
			}
		}
		if !local.IsValid() {
			local = remote
		}
		a := Address{Prefix: netip.PrefixFrom(local, int(msg.Prefixlen))}
		if remote != local {
			a.Peer = remote
		}
		all = append(all, a)
	}
	return all, nil
}

// tentative says whether an interface has IPv6 addresses that are not usable yet.
func (r *rtnl) tentative(index int) (bool, error) {
	msgs, err := r.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfAddrmsg(unix.AF_INET6))
	if err != nil {
		return false, err
	}
	for _, m := range msgs {
		if len(m) < unix.SizeofIfAddrmsg {
			return false, errors.New("rtnetlink message is cut short")
		}
		msg := nl.DeserializeIfAddrmsg(m)
		if int(msg.Index) == index && msg.Flags&unix.IFA_F_NODAD != 0 && msg.Flags&unix.IFA_F_TENTATIVE != 0 {
			return true, nil
		}
	}
	return false, nil
}

func (r *rtnl) addAddr(index int, kind Kind, a Address) error {
	return r.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, addrParts(index, kind, a)...)
}

func (r *rtnl) deleteAddr(index int, kind Kind, a Address) error {
	return r.change(unix.RTM_DELADDR, 0, addrParts(index, kind, a)...)
}

func addrParts(index int, kind Kind, a Address) []nl.NetlinkRequestData {
	ip := a.Prefix.Addr()
	msg := nl.NewIfAddrmsg(family(ip))
	msg.Index = uint32(index)
	msg.Prefixlen = uint8(a.Prefix.Bits())
	if ip.Is6() {
		// Usable at once, without the second of duplicate address detection
		msg.Flags = unix.IFA_F_NODAD
	}
	remote := ip
	if a.Peer.IsValid() {
		remote = a.Peer
	}
	parts := []nl.NetlinkRequestData{msg,
		nl.NewRtAttr(unix.IFA_LOCAL, ip.AsSlice()),
		nl.NewRtAttr(unix.IFA_ADDRESS, remote.AsSlice())}
	// As SIOCSIFADDR does: broadcast on Ethernet, none on a point-to-point link nor with /31 and /32 (RFC 3021)
	if kind == TAP && ip.Is4() && !a.Peer.IsValid() && a.Prefix.Bits() < 31 {
		b := ip.As4()
		for i := a.Prefix.Bits(); i < 32; i++ {
			b[i/8] |= 0x80 >> (i % 8)
		}
		parts = append(parts, nl.NewRtAttr(unix.IFA_BROADCAST, b[:]))
	}
	return parts
}

// routes returns the unicast routes of one IP version in the main table that lead to one interface.
func (r *rtnl) routes(index, family int) ([]Route, error) {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}}
	msgs, err := r.request(unix.RTM_GETROUTE, unix.NLM_F_DUMP, msg)
	if err != nil {
		return nil, err
	}
	var all []Route
	for _, m := range msgs {
		if len(m) < unix.SizeofRtMsg {
			return nil, errors.New("rtnetlink message is cut short")
		}
		msg := nl.DeserializeRtMsg(m)
		if int(msg.Family) != family || msg.Table != unix.RT_TABLE_MAIN || msg.Type != unix.RTN_UNICAST {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
		if err != nil {
			return nil, errors.Wrap(err, "parse rtnetlink message")
		}
		dst, out := netip.IPv6Unspecified(), 0
		if family == unix.AF_INET {
			dst = netip.IPv4Unspecified()
		}
		var route Route
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.RTA_DST:
				dst, _ = netip.AddrFromSlice(a.Value)
			case unix.RTA_GATEWAY:
				route.Via, _ = netip.AddrFromSlice(a.Value)
			case unix.RTA_PRIORITY:
				route.Metric = int(u32(a.Value))
			case unix.RTA_OIF:
				out = int(u32(a.Value))
			}
		}
		if out == index {
			route.Dst = netip.PrefixFrom(dst, int(msg.Dst_len))
			all = append(all, route)
		}
	}
	return all, nil
}

func (r *rtnl) addRoute(index int, route Route) error {
	return r.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, routeParts(index, route)...)
}

func (r *rtnl) deleteRoute(index int, route Route) error {
	return r.change(unix.RTM_DELROUTE, 0, routeParts(index, route)...)
}

func routeParts(index int, route Route) []nl.NetlinkRequestData {
	msg := nl.NewRtMsg() // main table, unicast, universe
	msg.Family = uint8(family(route.Dst.Addr()))
	msg.Protocol = unix.RTPROT_STATIC
	msg.Dst_len = uint8(route.Dst.Bits())
	parts := []nl.NetlinkRequestData{msg,
		nl.NewRtAttr(unix.RTA_DST, route.Dst.Addr().AsSlice()),
		nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index)))}
	if route.Via.IsValid() {
		parts = append(parts, nl.NewRtAttr(unix.RTA_GATEWAY, route.Via.AsSlice()))
	} else if route.Dst.Addr().Is4() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	if route.Metric != 0 {
		parts = append(parts, nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(route.Metric))))
	}
	return parts
}
