package addr

import (
	"net/netip"
	"strconv"
	"strings"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// Which peers an address takes.
var (
	optRange = declare(kindRange, Option{Name: "range", Groups: GRANGE, Phase: PhAccept,
		Doc: "take peers from this range of addresses only: 10.0.0.0/8, 10.0.0.0:255.0.0.0 or [fd00::]/8; SOCKET-* types also take data:mask, as x0000x0a000000:x0000xff000000"})
	optSourcePort = declare(kindUshort, Option{Name: "sourceport", Aliases: "sp", Groups: GUDP | GTCP, Phase: PhLate,
		Doc: "client: local port; server: take only peers with this port"})
	optLowPort = declare(kindBool, Option{Name: "lowport", Groups: GUDP | GTCP, Phase: PhLate,
		Doc: "client: use a free local port from 640 to 1023; server: take only peers with a port below 1024"})
)

// addrRange is the addresses that equal addr in the bits of mask. The mask may have holes.
type addrRange struct {
	v4         bool
	addr, mask [16]byte
	raw        *rawRange // not nil: this instead
}

// rawRange is a range of socket addresses of any family, in the bytes behind the family. Mask and data are equally long.
type rawRange struct{ data, mask []byte }

var kindRange = kindOf[addrRange]{"STRING", need(parseRange)}

func parseRange(text string) (r addrRange, err error) {
	bad := func(why string) (addrRange, error) {
		return addrRange{}, withHint{errors.Errorf("%q is no range of addresses: %s", text, why), "write 10.0.0.0/8, 10.0.0.0:255.0.0.0 or [fd00::]/8"}
	}
	host, suffix := text, ""
	if i := strings.LastIndexAny(text, "/]:"); i >= 0 && text[i] != ']' {
		host, suffix = text[:i], text[i:]
	}
	ip, literal, err := parseIP(host)
	if err != nil || !literal || ip.Zone() != "" {
		if raw, ok := parseRawRange(text); ok {
			return addrRange{raw: raw}, nil
		}
		return bad("no IP address in front")
	}
	r = addrRange{v4: ip.Is4(), addr: ip.As16()}
	bits := 128
	switch {
	case strings.HasPrefix(suffix, "/"):
		n, err := strconv.ParseUint(suffix[1:], 10, 8)
		if err != nil || int(n) > ip.BitLen() {
			return bad("the number of bits is 0 to " + strconv.Itoa(ip.BitLen()))
		}
		bits = 128 - ip.BitLen() + int(n)
	case suffix != "":
		mask, err := netip.ParseAddr(suffix[1:])
		if err != nil || mask.Is4() != r.v4 {
			return bad("no mask behind the colon")
		}
		r.mask = mask.As16()
		for i := range 12 {
			if r.v4 {
				r.mask[i] = 0xff
			}
		}
		return r, nil
	}
	for i := range bits {
		r.mask[i/8] |= 0x80 >> (i % 8)
	}
	return r, nil
}

// parseRawRange parses two texts of the data language with a colon between them.
func parseRawRange(text string) (r *rawRange, ok bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return nil, false
	}
	data, err := ParseDalan(text[:i])
	if err != nil {
		return nil, false
	}
	mask, err := ParseDalan(text[i+1:])
	if err != nil || len(mask) != len(data) || len(mask) == 0 {
		return nil, false
	}
	return &rawRange{data, mask}, true
}

// checkRange refuses ranges that only addresses of the SOCKET-* types can have.
func (b *Bound) checkRange() error {
	r, given := optRange.peek(b)
	if last := len(b.Type.Params) - 1; !given || r.raw == nil || last >= 0 && (b.Type.Params[last] == paramLocal || b.Type.Params[last] == paramRemote) {
		return nil
	}
	return withHint{errors.Errorf("option range: data and mask are for the SOCKET-* types, %s wants IP addresses", b.Name), "write 10.0.0.0/8, 10.0.0.0:255.0.0.0 or [fd00::]/8"}
}

// holdsPeer says whether the address of a peer is in the range.
func (r *addrRange) holdsPeer(peer *sockaddr) bool {
	if r.raw == nil {
		return r.holds(peer.ip())
	}
	for i, m := range r.raw.mask {
		at := sizeofFamily + i
		if at >= int(peer.n) || (peer.b[at]^r.raw.data[i])&m != 0 {
			return false
		}
	}
	return true
}

// holds says whether ip is in the range. An IPv4 address mapped into IPv6 counts as what it is.
func (r *addrRange) holds(ip netip.Addr) bool {
	ip = ip.Unmap()
	if !ip.IsValid() || ip.Is4() != r.v4 {
		return false
	}
	a := ip.As16()
	for i, m := range r.mask {
		if (a[i]^r.addr[i])&m != 0 {
			return false
		}
	}
	return true
}

// peerFilter holds the options that refuse peers.
type peerFilter struct {
	within     *addrRange // nil: any
	sourcePort int        // -1: any
	low        bool
	hosts      *hostsAccess // nil: the tables are not asked
	program    string       // our name, as the tables may have it
}

// peerFilter returns the filter of an address that waits for peers, nil if every peer is welcome.
func (b *Bound) peerFilter(env *Env) *peerFilter {
	f := &peerFilter{sourcePort: optSourcePort.Or(b, -1), low: optLowPort.Or(b, false), hosts: b.hostsAccess(), program: env.Program}
	if r, ok := optRange.Get(b); ok {
		f.within = &r
	}
	f.hosts.warn(env.Log, b)
	if f.within == nil && f.sourcePort < 0 && !f.low && f.hosts == nil {
		return nil
	}
	return f
}

// rangeFilter returns the filter of an address whose options about ports mean its own one.
func (b *Bound) rangeFilter(env *Env) *peerFilter {
	f := &peerFilter{sourcePort: -1, hosts: b.hostsAccess(), program: env.Program}
	if r, ok := optRange.Get(b); ok {
		f.within = &r
	}
	f.hosts.warn(env.Log, b)
	if f.within == nil && f.hosts == nil {
		return nil
	}
	return f
}

// refuses returns the name of the option that refuses the peer, "" if it is welcome.
func (f *peerFilter) refuses(log *relay.Log, peer *sockaddr) string {
	switch {
	case f == nil:
	case f.within != nil && !f.within.holdsPeer(peer):
		return optRange.opt.Name
	case f.sourcePort >= 0 && int(peer.port()) != f.sourcePort:
		return optSourcePort.opt.Name
	case f.low && peer.port() >= 1024:
		return optLowPort.opt.Name
	case f.hosts != nil && !f.hosts.lets(log, f.program, peer):
		return optTCPWrap.opt.Name
	}
	return ""
}

// admit asks the filter and logs what it says; what is "connection" or "packet".
func (f *peerFilter) admit(log *relay.Log, what string, peer *sockaddr) bool {
	if f == nil {
		return true
	}
	if opt := f.refuses(log, peer); opt != "" {
		log.Warnf("refusing %s from %s due to %s option", what, peer, opt)
		return false
	}
	log.Infof("permitting %s from %s", what, peer)
	return true
}

// forPackets returns the filter as a question about the sender of each packet, nil if every sender is welcome. Of a sender's packets in a row
// only the first refusal is logged.
func (f *peerFilter) forPackets(log *relay.Log) func(from *sockaddr) bool {
	if f == nil {
		return nil
	}
	var last sockaddr
	return func(from *sockaddr) bool {
		opt := f.refuses(log, from)
		if opt == "" {
			return true
		}
		if *from != last {
			last = *from
			log.Warnf("refusing packets from %s due to %s option", from, opt)
		}
		return false
	}
}
