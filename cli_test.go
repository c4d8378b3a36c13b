package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tunsplice/relay"
)

// TestShortForms looks that every short form stands for a flag that exists, and that no short form hides another.
func TestShortForms(t *testing.T) {
	var c commandLine
	flags := newParser(&c).Model.Flags
	for i, f := range shortForms {
		name, _, hasValue := strings.Cut(strings.TrimPrefix(f.long, "--"), "=")
		found := false
		for _, flag := range flags {
			if flag.Name == name {
				found = true
				if takes := !flag.IsBool() && !flag.IsCounter(); takes != hasValue {
					t.Errorf("%s: does %s take a value?", f.short, name)
				}
			}
		}
		if !found {
			t.Errorf("%s: no flag %s", f.short, f.long)
		}
		for _, earlier := range shortForms[:i] {
			if strings.HasPrefix(f.short, earlier.short) {
				t.Errorf("%s is hidden by %s", f.short, earlier.short)
			}
		}
	}
	for _, flag := range flags {
		if flag.Help == "" || flag.Group == nil {
			t.Errorf("--%s: no help or no group", flag.Name)
		}
	}
}

func TestLongForms(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"- -", "relay -- - -"},
		{"-d -d - -", "--level=2 relay -- - -"},
		{"-ddd -u -,raw -!!-", "--left-to-right --level=3 relay -- -,raw -!!-"},
		{"-d0 -d -- -u -", "--level=1 relay -- -u -"},
		{"-dddddd", "--level=4 relay"},
		{"-lf a -lyb -ly -lm -ls -lp c -lpd", "--log=file:a --log=syslog:b --log=syslog:daemon --log=mixed:daemon --log=stderr --program-name=c --program-name=d relay"},
		{"-T1 -t 2 -b3 -4", "--idle=1 --linger=2 --buffer=3 --ip-version=4 relay"},
		{"--lock -x --lock=y -: z", "--lock=-x --lock=y relay -- -: z"},
		{"-h -??", "--help=1 --help=2 relay"},
		{"-u help TUN", "--left-to-right help TUN"},
		{"./help -", "relay -- ./help -"},
		{"", "relay"},
	} {
		got, err := longForms(strings.Fields(c.in), func(name string) bool { return name == "lock" }, func(name string) bool { return name == "help" })
		if want := strings.Fields(c.want); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v %q, want %q", c.in, err, got, want)
		}
	}
}

// FuzzArgs looks that no command line is a surprise: it is read or refused in words.
func FuzzArgs(f *testing.F) {
	for _, seed := range []string{"- -", "-d3 -lf log - -", "-vx", "--lock=a - -", "-hh", "help TUN", "-S0x3 -T1e9", "-", "--", "-b-1", "--log", "-lp -lp -lp"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		var c commandLine
		args := strings.Split(line, " ")
		_, err := parseArgs(&c, args)
		if err != nil && (err.Error() == "" || strings.ContainsRune(err.Error(), '\n') && !strings.ContainsRune(line, '\n')) {
			t.Errorf("%q: %q", args, err)
		}
		if err == nil && len(c.Relay.Addresses) > len(args) {
			t.Errorf("%q: addresses %q", args, c.Relay.Addresses)
		}
	})
}

func TestRawName(t *testing.T) {
	p := &invocation{sink: &logSink{name: "prog"}}
	t.Setenv("DIR", "/d")
	now := time.Date(2026, 11, 21, 4, 5, 6, 7000, time.UTC)
	for in, want := range map[string]string{
		"plain":                        "plain",
		"$DIR/${PROGNAME}x":            "/d/progx",
		"$TIMESTAMP.$MICROS":           "20261121T040506.000007",
		"a$NO_SUCH_VARIABLE_HERE.b":    "a.b",
		"$SOCAT_PEERADDR-$SOCAT_OTHER": ".._x-",
	} {
		if got := p.rawName(in, now, []string{"PEERADDR=../x"}); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// TestSyslogLevels reads what goes to the system log at each level.
func TestSyslogLevels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w, err := dialSyslog("unixgram", path, facilities["local0"], "prog")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := &logSink{name: "prog", out: os.Stderr}
	s.useSyslog(w, false)
	// local0 is facility 16; severities are those of RFC 5424
	for level, want := range map[relay.Level]string{relay.Debug: "<135>", relay.Info: "<134>", relay.Notice: "<133>", relay.Warn: "<132>", relay.Error: "<131>", relay.Fatal: "<130>"} {
		s.write(level, "text")
		buf := make([]byte, 1000)
		l.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(buf[:n], []byte(want)) || !bytes.HasSuffix(bytes.TrimSpace(buf[:n]), []byte{':', ' ', level.Letter(), ' ', 't', 'e', 'x', 't'}) {
			t.Errorf("%c: %q", level.Letter(), buf[:n])
		}
	}
}

// BenchmarkParse is the part of the start-up time that the command line takes.
func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		var c commandLine
		if _, err := parseArgs(&c, []string{"-d", "-d", "-u", "-lf", "log", "-t3", "/dev/null", "/dev/null"}); err != nil {
			b.Fatal(err)
		}
	}
}
