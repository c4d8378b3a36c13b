package addr

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSockaddrText(t *testing.T) {
	for _, c := range []struct {
		s    sockaddr
		text string
		env  string
	}{
		{inetSockaddr(netip.MustParseAddr("10.1.2.3"), 80, 0), "AF=2 10.1.2.3:80", "PEERADDR=10.1.2.3 PEERPORT=80"},
		{inetSockaddr(netip.MustParseAddr("fe80::1"), 65535, 2), "AF=10 [fe80:0000:0000:0000:0000:0000:0000:0001]:65535",
			"PEERADDR=[fe80:0000:0000:0000:0000:0000:0000:0001] PEERPORT=65535"},
		{inetSockaddr(netip.MustParseAddr("::ffff:10.1.2.3"), 1, 0), "AF=10 [0000:0000:0000:0000:0000:ffff:0a01:0203]:1",
			"PEERADDR=[0000:0000:0000:0000:0000:ffff:0a01:0203] PEERPORT=1"},
		{unixSockaddr("/run/s", false, true), `AF=1 "/run/s"`, "PEERADDR=/run/s"},
		{unixSockaddr("/run/s", false, false), `AF=1 "/run/s"`, "PEERADDR=/run/s"},
		{unixSockaddr("foo", true, true), `AF=1 "\0foo"`, "PEERADDR=@foo"},
		{unixSockaddr("a\x00b\n", true, true), `AF=1 "\0a\x00b\n"`, "PEERADDR=@a@b\n"},
		{unixSockaddr("", false, true), `AF=1 "<anon>"`, "PEERADDR=<anon>"},
		{sockaddr{}, "AF=0 none", ""},
	} {
		if got := c.s.String(); got != c.text {
			t.Errorf("%s, want %s", got, c.text)
		}
		if got := strings.Join(c.s.env(nil, "PEER"), " "); got != c.env {
			t.Errorf("%q, want %q", got, c.env)
		}
	}
	var odd sockaddr
	odd.setFamily(unix.AF_VSOCK, 4)
	odd.b[2] = 0xab
	if got := odd.String(); got != "AF=40 xab00" {
		t.Error(got)
	}
	// Shorter than its family's.
	short := inetSockaddr(netip.MustParseAddr("10.1.2.3"), 80, 0)
	short.n = 3
	if short.ip().IsValid() {
		t.Error("an address out of nothing")
	}
	_ = short.text()
}

func TestParseIP(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "127.1": "127.0.0.1", "0": "0.0.0.0", "0x7f000001": "127.0.0.1", "1.2.772": "1.2.3.4", "[::1]": "::1", "[fe80::1%lo]": "fe80::1%lo", "::1": "::1",
		"localhost": "name", "1.2.3.4.5": "name", "256.1.1.1": "name", "a.b": "name", "": "name",
		"[::1": "error", "[1.2.3.4]": "error", "[]": "error", "a b": "error", "a/b": "error",
	} {
		ip, literal, err := parseIP(text)
		got := "name"
		switch {
		case err != nil:
			got = "error"
		case literal:
			got = ip.String()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestSplitHostPort(t *testing.T) {
	for text, want := range map[string][2]string{
		"host": {"host", ""}, "host:1": {"host", "1"}, ":1": {"", "1"}, "[::1]": {"[::1]", ""}, "[::1]:1": {"[::1]", "1"}, "::1": {"::1", ""}, "": {"", ""},
	} {
		if h, p := splitHostPort(text); h != want[0] || p != want[1] {
			t.Errorf("%q: %q, %q", text, h, p)
		}
	}
}

func TestResolve(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct {
		address   string
		resolveIP byte
		host      string
		family    int
		want      string
	}{
		{"TCP:x:1", '4', "", 0, "127.0.0.1:1 [0000:0000:0000:0000:0000:0000:0000:0001]:1"},
		{"TCP:x:1", '6', "", 0, "[0000:0000:0000:0000:0000:0000:0000:0001]:1 127.0.0.1:1"},
		{"TCP:x:1,ai-passive", '4', "", unix.AF_INET, "0.0.0.0:1"},
		{"TCP:x:1", '0', "10.2.3.4", 0, "10.2.3.4:1"},
		{"TCP:x:1,pf=ip6,ai-v4mapped", '4', "10.2.3.4", unix.AF_INET6, "[0000:0000:0000:0000:0000:ffff:0a02:0304]:1"},
		{"TCP:x:1", '4', "[fe80::1%lo]", 0, "[fe80:0000:0000:0000:0000:0000:0000:0001]:1"},
		{"TCP:x:1", '4', "localhost", unix.AF_INET, "127.0.0.1:1"},
	} {
		b := mustBind(t, c.address, ReadWrite).Read
		h.env.ResolveIP = c.resolveIP
		list, err := b.resolve(h.ctx, h.env, c.host, 1, c.family)
		var got []string
		for i := range list {
			got = append(got, list[i].text())
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	b := mustBind(t, "TCP:nosuchhost.invalid:1", ReadWrite)
	_, err := b.Open(h.ctx, h.env)
	if err == nil || !strings.HasPrefix(err.Error(), `TCP-CONNECT:nosuchhost.invalid:1: getaddrinfo "nosuchhost.invalid": `) || Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, Hint(err))
	}
	if _, err := mustBind(t, "TCP:[fe80::1%nosuchif]:1", ReadWrite).Open(h.ctx, h.env); err == nil || !strings.Contains(err.Error(), "network interface nosuchif") {
		t.Errorf("error %v", err)
	}
}

// Every example of the socket types is a command line that the tables take.
func TestSocketExamples(t *testing.T) {
	for _, typ := range Types() {
		if family, _, _ := strings.Cut(typ.Name, "-"); !slices.Contains([]string{"TCP", "TCP4", "TCP6", "UDP", "UDP4", "UDP6", "UNIX", "ABSTRACT", "SOCKET"}, family) {
			continue
		}
		if len(typ.Examples) < 2 || typ.Summary == "" || strings.ContainsAny(typ.Summary+typ.Doc, "{}") {
			t.Errorf("%s: documentation is incomplete", typ.Name)
		}
		for _, e := range typ.Examples {
			words, err := SplitCommand(e.Args)
			if err != nil {
				t.Fatal(err)
			}
			modes := []Mode{ReadWrite, ReadWrite}
			if i := slices.Index(words, "-u"); i >= 0 {
				modes = []Mode{Read, Write}
				words = slices.Delete(words, i, i+1)
			}
			words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "-T") || strings.HasPrefix(w, "-t") })
			if len(words) != 2 {
				t.Errorf("%s: %s: %d addresses", typ.Name, e.Args, len(words))
				continue
			}
			for i, w := range words {
				spec, err := Parse(w)
				if err == nil {
					_, err = Bind(spec, BindConfig{Mode: modes[i]})
				}
				if err != nil && LookupType(spec.Parts[0].Keyword) != nil {
					t.Errorf("%s: %s: %v", typ.Name, e.Args, err)
				}
			}
		}
	}
}
