package addr

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tunsplice/relay"
)

// accessCase is two tables and whom they let in.
type accessCase struct {
	allow, deny string
	in, out     string // addresses of peers
}

var accessCases = []accessCase{
	{"", "", "127.0.0.1 127.0.0.9", ""},
	{"", "ALL: ALL", "", "127.0.0.1 127.0.0.9"},
	{"svc: 127.0.0.1\n", "ALL: ALL", "127.0.0.1", "127.0.0.9"},
	{"other: ALL\n", "svc: 127.0.0.9", "127.0.0.1", "127.0.0.9"},
	{"SVC : 127.0.0.1 , 127.0.0.2", "all : all", "127.0.0.1 127.0.0.2", "127.0.0.9"},
	{"other, svc other2: 127.0.0.0/255.255.255.252", "ALL: ALL", "127.0.0.1 127.0.0.3", "127.0.0.9"},
	{"svc: 127.0.0.0/30", "ALL: ALL", "127.0.0.1 127.0.0.3", "127.0.0.9"},
	{"svc: 127.0.", "ALL: ALL", "127.0.0.1 127.0.0.3", "127.1.0.9"},
	{"svc: 127.0.0.?", "ALL: ALL", "127.0.0.9", "127.0.0.10"},
	{"svc: 127.*.9", "ALL: ALL", "127.0.0.9 127.3.4.9", "127.0.0.10"},
	{"ALL: ALL EXCEPT 127.0.0.8/29", "ALL: ALL", "127.0.0.1", "127.0.0.9"},
	{"ALL: ALL EXCEPT 127.0.0.8/29 EXCEPT 127.0.0.9", "ALL: ALL", "127.0.0.1 127.0.0.9", "127.0.0.10"},
	{"ALL EXCEPT svc: ALL", "ALL: 127.0.0.9", "127.0.0.1", "127.0.0.9"},
	{"# svc: ALL\n\nsvc: \\\n127.0.0.1", "ALL: ALL", "127.0.0.1", "127.0.0.9"},
	{"svc: 127.0.0.9: deny\nsvc: ALL: ALLOW", "ALL: ALL", "127.0.0.1", "127.0.0.9"},
	{"", "svc: 127.0.0.9: allow\nALL: ALL", "127.0.0.9", "127.0.0.1"},
}

func (c *accessCase) write(t *testing.T) (dir string) {
	dir = t.TempDir()
	for name, text := range map[string]string{"hosts.allow": c.allow, "hosts.deny": c.deny} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTCPWrap(t *testing.T) {
	for _, c := range accessCases {
		b := mustBind(t, "TCP-LISTEN:1,tcpwrap=svc,tcpwrap-etc="+c.write(t), ReadWrite).Read
		f := b.peerFilter(&Env{})
		for want, peers := range map[bool]string{true: c.in, false: c.out} {
			for text := range strings.FieldsSeq(peers) {
				peer := inetSockaddr(netip.MustParseAddr(text), 9, 0)
				mapped := inetSockaddr(netip.AddrFrom16(netip.MustParseAddr(text).As16()), 9, 0)
				for _, p := range []sockaddr{peer, mapped} {
					if got := f.refuses(nil, &p) == ""; got != want {
						t.Errorf("%q %q: %s let in: %t", c.allow, c.deny, p.text(), got)
					}
				}
			}
		}
	}
}

// TestTCPWrapAsSocat asks plain socat about the same tables.
func TestTCPWrapAsSocat(t *testing.T) {
	for _, c := range accessCases {
		dir, port := c.write(t), freePort(t, "tcp")
		s := plainSocat(t, "TCP4-LISTEN:"+port+",fork,reuseaddr,tcpwrap=svc,tcpwrap-etc="+dir, "SYSTEM:echo in")
		s.stderr.wait(t, "listening on")
		for want, peers := range map[bool]string{true: c.in, false: c.out} {
			for text := range strings.FieldsSeq(peers) {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(text)}}
				conn, err := d.DialContext(context.Background(), "tcp", "127.0.0.1:"+port)
				if err != nil {
					t.Fatal(err)
				}
				conn.SetReadDeadline(time.Now().Add(testTimeout))
				n, _ := conn.Read(make([]byte, 2))
				conn.Close()
				if got := n > 0; got != want {
					t.Errorf("%q %q: socat lets %s in: %t\n%s", c.allow, c.deny, text, got, s.stderr.String())
				}
			}
		}
	}
}

func TestTCPWrapNames(t *testing.T) {
	for _, c := range []struct {
		pattern string
		name    peerName
		want    bool
	}{
		{".example.org", peerName{"a.Example.org", false}, true},
		{".example.org", peerName{"example.org", false}, false},
		{"a.example.org", peerName{"A.example.org", false}, true},
		{"*.ex?mple.org", peerName{"a.example.org", false}, true},
		{".example.org", peerName{"a.example.org", true}, false},
		{"LOCAL", peerName{"host", false}, true},
		{"LOCAL", peerName{"host.example.org", false}, false},
		{"local", peerName{}, false},
		{"KNOWN", peerName{"host", false}, true},
		{"KNOWN", peerName{"host", true}, false},
		{"UNKNOWN", peerName{}, true},
		{"PARANOID", peerName{"host", true}, true},
		{"[fd00::]/16", peerName{}, true},
		{"[fd01::]/16", peerName{}, false},
		{"[fd00::7]", peerName{}, true},
		{"fd00::", peerName{}, false}, // colons end a field: this is "fd00"
	} {
		r, err := parseAccessRule("svc: " + c.pattern)
		if err != nil {
			if c.want {
				t.Errorf("%s: %v", c.pattern, err)
			}
			continue
		}
		q := &accessQuery{daemon: "svc", ip: netip.MustParseAddr("fd00::7"), lookup: func(netip.Addr) peerName { return c.name }}
		if got := r.fits(q); got != c.want {
			t.Errorf("%s: %t for %+v", c.pattern, got, c.name)
		}
	}
	q := &accessQuery{ip: netip.MustParseAddr("10.0.0.1"), lookup: func(netip.Addr) peerName { t.Error("asked for a name"); return peerName{} }}
	for _, p := range []string{"10.0.0.2", "10.1.", "10.1.0.0/16", "10.1.*", "192.168.?.1", "[::1]"} {
		if q.client(p) {
			t.Errorf("%s fits", p)
		}
	}
	if n := lookupPeer(netip.MustParseAddr("127.0.0.1")); n.host == "" || n.paranoid {
		t.Errorf("127.0.0.1 is %+v", n)
	}
}

func TestTCPWrapMistakes(t *testing.T) {
	dir := t.TempDir()
	table := filepath.Join(dir, "table")
	for text, want := range map[string]string{
		"svc ALL":                     "table: line 1: there is no colon",
		"\n\nsvc: @admins":            "line 3: \"@admins\": netgroups are not known here",
		"svc: root@ALL":               "names of users are not asked for",
		"svc@10.0.0.1: ALL":           "own addresses",
		"svc: ALL: spawn (/bin/date)": "would run a command",
		"svc: ALL: twist /bin/date":   "would run a command",
		"svc: ALL: deny: severity x":  "deny must be the last option",
		"svc: 10.0.0.0/33":            "the number of bits is 0 to 32",
		"svc: EXCEPT 10.0.0.1":        "a list is empty",
		"svc:":                        "a list is empty",
		"svc: /nowhere":               "no such file",
	} {
		if err := os.WriteFile(table, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, option := range []string{"allow-table", "deny-table"} {
			spec, err := Parse("TCP-LISTEN:1,tcpwrap-etc=" + dir + "," + option + "=" + table)
			if err == nil {
				_, err = Bind(spec, BindConfig{Mode: ReadWrite})
			}
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
}

// TestTCPWrapChanges edits a table under a listener.
func TestTCPWrapChanges(t *testing.T) {
	dir := t.TempDir()
	deny := filepath.Join(dir, "hosts.deny")
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port+",fork,tcpwrap,tcpwrap-etc="+dir, ReadWrite)
	next := func() *relay.Endpoint {
		got := accepting(h, src)
		dialTest(t, "127.0.0.1:"+port, "")
		ep := <-got
		if ep == nil {
			t.Fatal("nobody was let in")
		}
		return ep
	}
	next().Close()
	for _, text := range []string{"tunsplice: 127.0.0.1", "a line that is none"} {
		if err := os.WriteFile(deny, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := accepting(h, src)
		ended(t, dialTest(t, "127.0.0.1:"+port, ""))
		h.waitLog("refusing connection from AF=2 127.0.0.1:")
		os.Remove(deny)
		dialTest(t, "127.0.0.1:"+port, "")
		ep := <-got
		if ep == nil {
			t.Fatal("nobody was let in")
		}
		ep.Close()
	}
	h.waitLog("there is no colon between services and clients: nobody is let in")
	src.Close()
}

func FuzzAccessTable(f *testing.F) {
	for _, c := range accessCases {
		f.Add(c.allow)
	}
	f.Add("ALL: [fe80::]/10 .example.org LOCAL EXCEPT PARANOID : severity auth.info : deny")
	f.Add("a\\:b: *?*?*: allow")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "/") && strings.Contains(text, ": /") {
			return // files of this machine
		}
		rules, err := parseAccessTable(text)
		if err != nil {
			return
		}
		for _, ip := range []string{"127.0.0.1", "fd00::1"} {
			q := &accessQuery{daemon: "svc", ip: netip.MustParseAddr(ip), lookup: func(netip.Addr) peerName { return peerName{host: "a.example.org"} }}
			for _, r := range rules {
				r.fits(q)
			}
		}
	})
}
