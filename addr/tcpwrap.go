package addr

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// Access control by the tables hosts.allow and hosts.deny, as hosts_access(5) describes it: a peer is let in if a rule of the first table fits it, else kept out if one of the second
// does, else let in. The tables are read again whenever they have changed. What the language has and this does not is found when the address is opened: user names, netgroups, names of
// the server's own addresses, and options that run commands. If a table turns bad later, everybody is kept out until it is mended.

var (
	optTCPWrap = declare(kindStringOr, Option{Name: "tcpwrappers", Aliases: "libwrap tcpwrap tcpwrapper wrap", Groups: GRANGE, Phase: PhAccept,
		Doc: "take only peers that hosts.allow and hosts.deny let in, under this name of a service (default the program's)"})
	optTCPWrapEtc = declare(kindString, Option{Name: "tcpwrap-etc", Aliases: "tcpwrap-dir", Groups: GRANGE, Phase: PhAccept,
		Doc: "directory of hosts.allow and hosts.deny (default /etc)"})
	optAllowTable = declare(kindString, Option{Name: "tcpwrap-hosts-allow-table", Aliases: "allow-table hosts-allow", Groups: GRANGE, Phase: PhAccept,
		Doc: "take only peers that the tables let in, this file for hosts.allow"})
	optDenyTable = declare(kindString, Option{Name: "tcpwrap-hosts-deny-table", Aliases: "deny-table hosts-deny", Groups: GRANGE, Phase: PhAccept,
		Doc: "take only peers that the tables let in, this file for hosts.deny"})
)

// hostsAccess decides by the two tables.
type hostsAccess struct {
	daemon      string // "" until it is known: the program's name
	allow, deny *watchedTable
	lookup      func(ip netip.Addr) peerName
	complaints  relay.Limiter
}

// hostsAccess returns what the options about the tables come to, nil if there are none.
func (b *Bound) hostsAccess() *hostsAccess {
	name, wrap := optTCPWrap.Get(b)
	etc, haveEtc := optTCPWrapEtc.Get(b)
	allow, haveAllow := optAllowTable.Get(b)
	deny, haveDeny := optDenyTable.Get(b)
	if !wrap && !haveEtc && !haveAllow && !haveDeny {
		return nil
	}
	if !haveEtc {
		etc = "/etc"
	}
	if !haveAllow {
		allow = filepath.Join(etc, "hosts.allow")
	}
	if !haveDeny {
		deny = filepath.Join(etc, "hosts.deny")
	}
	return &hostsAccess{daemon: name, allow: &watchedTable{path: allow}, deny: &watchedTable{path: deny}, lookup: lookupPeer}
}

// warn says which of the tables that the user has named are not there: that lets in more than a wrong word in them would.
func (h *hostsAccess) warn(log *relay.Log, b *Bound) {
	if h == nil {
		return
	}
	for _, t := range []struct {
		given bool
		name  string
		path  string
	}{{optAllowTable.Given(b), optAllowTable.opt.Name, h.allow.path}, {optDenyTable.Given(b), optDenyTable.opt.Name, h.deny.path}} {
		if _, err := os.Stat(t.path); t.given && os.IsNotExist(err) {
			log.Warnf("option %s: there is no file %s: until there is, it counts as an empty one", t.name, t.path)
		}
	}
}

// check reads both tables.
func (h *hostsAccess) check() error {
	if h == nil {
		return nil
	}
	for _, t := range []*watchedTable{h.allow, h.deny} {
		if _, err := t.rules(); err != nil {
			return err
		}
	}
	return nil
}

// lets says whether the tables let a peer in.
func (h *hostsAccess) lets(log *relay.Log, program string, peer *sockaddr) bool {
	ip := peer.ip().Unmap()
	if !ip.IsValid() {
		return false // the tables are about hosts: nobody else is known to be welcome
	}
	q := &accessQuery{daemon: h.daemon, ip: ip.WithZone(""), lookup: h.lookup}
	if q.daemon == "" {
		q.daemon = program
	}
	for _, t := range []struct {
		*watchedTable
		lets bool
	}{{h.allow, true}, {h.deny, false}} {
		rules, err := t.rules()
		if err != nil {
			if ok, _ := h.complaints.Allow(); ok {
				log.Warnf("%s: nobody is let in", err)
			}
			return false
		}
		for _, r := range rules {
			if r.fits(q) {
				return r.decides(t.lets)
			}
		}
	}
	return true
}

// watchedTable is a table that is read when it has changed. A file that is not there is an empty table.
type watchedTable struct {
	path string

	mu    sync.Mutex
	seen  os.FileInfo // of the file that was read, nil: none
	read  bool
	table []accessRule
	err   error
}

func (t *watchedTable) rules() ([]accessRule, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, err := os.Stat(t.path)
	if err != nil && !os.IsNotExist(err) {
		t.read = false
		return nil, err
	}
	if t.read && sameVersion(now, t.seen) {
		return t.table, t.err
	}
	t.read, t.seen, t.table, t.err = true, now, nil, nil
	if now == nil {
		return nil, nil
	}
	text, err := readLimited(t.path)
	if err == nil {
		t.table, err = parseAccessTable(string(text))
	}
	t.err = errors.Wrap(err, t.path)
	return t.table, t.err
}

// sameVersion says that a file is the one that was read. An edit within the clock's tick that keeps the size would be missed.
func sameVersion(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// accessRule is a line of a table.
type accessRule struct {
	daemons, clients accessList
	verdict          string // "allow" or "deny" as the last option of the line (hosts_options(5)), "" for what the table is about
}

func (r *accessRule) fits(q *accessQuery) bool {
	return r.daemons.fits(func(p string) bool { return p == "ALL" || strings.EqualFold(p, q.daemon) }) && r.clients.fits(q.client)
}

func (r *accessRule) decides(table bool) bool {
	if r.verdict != "" {
		return r.verdict == "allow"
	}
	return table
}

// accessList is "a b c EXCEPT d e EXCEPT f".
type accessList struct {
	items  []string
	except *accessList // nil: no exception
}

func (l *accessList) fits(one func(pattern string) bool) bool {
	return slices.ContainsFunc(l.items, one) && (l.except == nil || !l.except.fits(one))
}

// parseAccessTable reads a table in the language of hosts_access(5).
func parseAccessTable(text string) (rules []accessRule, err error) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		number, line := i+1, lines[i]
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			i++
			line = line[:len(line)-1] + lines[i]
		}
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		rule, err := parseAccessRule(line)
		if err != nil {
			return nil, errors.Wrapf(err, "line %d", number)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func parseAccessRule(line string) (r accessRule, err error) {
	fields := splitAccessFields(line)
	if len(fields) < 2 {
		return r, errors.New("there is no colon between services and clients")
	}
	if r.daemons, err = parseAccessList(fields[0], checkDaemon); err != nil {
		return r, err
	}
	if r.clients, err = parseAccessList(fields[1], checkClient); err != nil {
		return r, err
	}
	for i, option := range fields[2:] {
		word, _, _ := strings.Cut(strings.TrimSpace(option), " ")
		switch strings.ToLower(word) {
		case "allow", "deny":
			if i != len(fields)-3 {
				return r, errors.Errorf("%s must be the last option", word)
			}
			r.verdict = strings.ToLower(word)
		case "severity", "keepalive", "linger", "nice", "rfc931", "umask":
			// About a process or a log of its own, which there is none of; whom to let in does not depend on it.
		default:
			return r, withHint{errors.Errorf("option %q would run a command or more: that is not done here", strings.TrimSpace(option)), "allow and deny are options that are known"}
		}
	}
	return r, nil
}

// splitAccessFields splits a line at its colons, but for those in brackets (IPv6) and behind a backslash.
func splitAccessFields(line string) (fields []string) {
	var sb strings.Builder
	depth := 0
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line) && line[i+1] == ':':
			i++
			sb.WriteByte(':')
		case c == ':' && depth == 0:
			fields = append(fields, sb.String())
			sb.Reset()
		default:
			switch c {
			case '[':
				depth++
			case ']':
				depth = max(depth-1, 0)
			}
			sb.WriteByte(c)
		}
	}
	return append(fields, sb.String())
}

func parseAccessList(text string, check func(item string) error) (l accessList, err error) {
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == '\r' })
	list := &l
	for _, w := range words {
		if strings.EqualFold(w, "EXCEPT") {
			list.except = &accessList{}
			list = list.except
			continue
		}
		if strings.EqualFold(w, "ALL") {
			w = "ALL"
		}
		if err := check(w); err != nil {
			return l, err
		}
		list.items = append(list.items, w)
	}
	for list := &l; list != nil; list = list.except {
		if len(list.items) == 0 {
			return l, errors.New("a list is empty")
		}
	}
	return l, nil
}

func checkDaemon(item string) error {
	if strings.Contains(item, "@") {
		return errors.Errorf("%q: the server's own addresses can't be told apart here", item)
	}
	return nil
}

func checkClient(item string) error {
	switch {
	case strings.HasPrefix(item, "@"):
		return errors.Errorf("%q: netgroups are not known here", item)
	case strings.Contains(item, "@"):
		return errors.Errorf("%q: names of users are not asked for", item)
	case strings.HasPrefix(item, "/"):
		_, err := readLimited(item)
		return err
	case strings.HasPrefix(item, "["), strings.Contains(item, "/"):
		if _, err := parseNetwork(item); err != nil {
			return err
		}
	}
	return nil
}

// parseNetwork reads 10.0.0.0/255.0.0.0, 10.0.0.0/8, [fd00::]/8 and [fd00::1].
func parseNetwork(item string) (r addrRange, err error) {
	net, mask, masked := strings.Cut(item, "/")
	text := net
	if masked {
		if strings.Contains(mask, ".") {
			text += ":" + mask
		} else {
			text += "/" + mask
		}
	}
	return parseRange(text)
}

// accessQuery is a peer that is looked up in the tables.
type accessQuery struct {
	daemon string
	ip     netip.Addr
	lookup func(netip.Addr) peerName
	named  bool // name is known
	name   peerName
}

// peerName is what name servers say of a peer.
type peerName struct {
	host     string // "" if there is none
	paranoid bool   // the name is not that of the address
}

// peerName asks for the name once, and only if a pattern wants it.
func (q *accessQuery) peerName() peerName {
	if !q.named {
		q.named, q.name = true, q.lookup(q.ip)
	}
	return q.name
}

// client says whether a pattern fits the peer. An IPv6 address may be written in any form.
func (q *accessQuery) client(p string) bool {
	switch strings.ToUpper(p) {
	case "ALL":
		return true
	case "LOCAL":
		n := q.peerName()
		return n.host != "" && !n.paranoid && !strings.Contains(n.host, ".")
	case "KNOWN":
		n := q.peerName()
		return n.host != "" && !n.paranoid
	case "UNKNOWN":
		n := q.peerName()
		return n.host == "" && !n.paranoid
	case "PARANOID":
		return q.peerName().paranoid
	}
	switch {
	case strings.HasPrefix(p, "/"):
		return q.inFile(p)
	case strings.HasPrefix(p, "["), strings.Contains(p, "/"):
		r, err := parseNetwork(p)
		return err == nil && r.holds(q.ip)
	case strings.HasSuffix(p, "."):
		return strings.HasPrefix(q.ip.String(), p)
	case strings.HasPrefix(p, "."):
		return q.hostFits(func(host string) bool { return strings.HasSuffix(host, strings.ToLower(p)) })
	case strings.ContainsAny(p, "*?"):
		return matchWild(p, q.ip.String()) || !isAddressPattern(p) && q.hostFits(func(host string) bool { return matchWild(strings.ToLower(p), host) })
	}
	if ip, err := netip.ParseAddr(p); err == nil {
		return ip.Unmap() == q.ip
	}
	return q.hostFits(func(host string) bool { return host == strings.ToLower(p) })
}

func (q *accessQuery) hostFits(fits func(host string) bool) bool {
	n := q.peerName()
	return n.host != "" && !n.paranoid && fits(strings.ToLower(n.host))
}

// isAddressPattern says that a pattern with wildcards can fit addresses only, so that no name is asked for.
func isAddressPattern(p string) bool { return strings.Trim(p, "0123456789.*?:") == "" }

// inFile says whether a pattern in a file fits. Files in files are not followed.
func (q *accessQuery) inFile(path string) bool {
	text, err := readLimited(path)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(strings.Fields(string(text)), func(p string) bool { return !strings.HasPrefix(p, "/") && q.client(p) })
}

// matchWild matches "*" with any text and "?" with any one byte, in time that grows with the product of the lengths.
func matchWild(pattern, text string) bool {
	p, t, star, mark := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// nameLookupTime is how long name servers have to name a peer. Other peers wait meanwhile: tables with addresses ask for no names.
const nameLookupTime = 2 * time.Second

// lookupPeer asks for the name of a peer, and whether the name has that address.
func lookupPeer(ip netip.Addr) peerName {
	ctx, cancel := context.WithTimeout(context.Background(), nameLookupTime)
	defer cancel()
	names, err := net.DefaultResolver.LookupAddr(ctx, ip.String())
	if err != nil || len(names) == 0 {
		return peerName{}
	}
	host := strings.TrimSuffix(names[0], ".")
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	matches := err == nil && slices.ContainsFunc(ips, func(a netip.Addr) bool { return a.Unmap() == ip })
	return peerName{host, !matches}
}
