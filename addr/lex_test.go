package addr

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// unquoteCases were all seen with socat 1.7.4.4 (OPEN of a path that does not
// exist prints the path it read); TestUnquoteAsSocat sees them again.
var unquoteCases = []struct{ in, want string }{
	{`a b`, `a b`},
	{`a b `, `a b `},
	{`"a b"`, `a b`},
	{`'a b'`, `a b`},
	{`'a"b"'`, `a"b"`},
	{`"a'b'c"`, `a'b'c`},
	{`('a')`, `('a')`},
	{`("a")`, `("a")`},
	{`"(a)"`, `(a)`},
	{`'(a'`, `(a`},
	{`'a\nb'`, "a\nb"},
	{`"a\nb"`, "a\nb"},
	{`(a\nb)`, "(a\nb)"},
	{`(a\)b)`, `(a)b)`},
	{`[a:b,c!!d]`, `[a:b,c!!d]`},
	{`a'b:c'd`, `ab:cd`},
	{`a\x41`, `ax41`},
	{`a\101`, `a101`},
	{`a\ab\ec\fd\ve\r\t`, "a\abec\fd\ve\r\t"},
	{`a\qb\\c`, `aqb\c`},
	{`"a'"b"'c"`, `a'"b"'c`},
	{`"(')')"`, `(')')`},
	{`"a\'b"`, `a'b`},
	{`'a\'b'`, `a'b`},
	{`"a\"b"`, `a"b`},
	{`a!b`, `a!b`},
	{`a\!!b`, `a!!b`},
	{`a!\!b`, `a!!b`},
	{`"a!!b"`, `a!!b`},
	{`a\:b\,c`, `a:b,c`},
	{`)`, `)`},
	{`}`, `}`},
	{`(a)b)`, `(a)b)`},
	{`[a{b]c}d]`, `[a{b]c}d]`},
	{`a=b`, `a=b`},
	{``, ``},
	{`a''b`, `ab`},
	{`"''"`, `''`},
	{`"('a')"`, `('a')`},
	{`(a 'b)' c)`, `(a 'b)' c)`},
	{`(a "b)" c)`, `(a "b)" c)`},
	{`("a\n")`, "(\"a\n\")"},
	{`"\("`, `(`},
	{`"a{\"b}"`, `a{"b}`},
	{`{a\'b}`, `{a'b}`},
	{`\"a`, `"a`},
}

func TestUnquote(t *testing.T) {
	for _, c := range unquoteCases {
		spec, err := Parse("OPEN:" + c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := spec.Parts[0].Params[0].Text; len(spec.Parts) != 1 || len(spec.Parts[0].Params) != 1 || got != c.want {
			t.Errorf("%s: got %q, want %q in %+v", c.in, got, c.want, spec.Parts)
		}
	}
}

// socat runs plain socat and returns what it wrote to both streams.
func socat(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("socat")
	if err != nil {
		t.Skip("plain socat, the oracle, is not installed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("socat %q does not end: %v", args, err)
	}
	return string(out)
}

func TestUnquoteAsSocat(t *testing.T) {
	for _, c := range unquoteCases {
		out := socat(t, "-u", "OPEN:/nonexistent/"+c.in, "OPEN:/dev/null")
		if want := `open("/nonexistent/` + c.want + `", `; !strings.Contains(out, want) {
			t.Errorf("%s: socat does not say %q: %s", c.in, want, out)
		}
	}
}

// commandCases were all seen with socat 1.7.4.4, except where a comment says so.
var commandCases = []struct {
	in     string
	want   []string
	differ bool // from socat
}{
	{in: `a b`, want: []string{"a", "b"}},
	{in: `'a  b' c`, want: []string{"a", "b", "c"}},
	{in: `"a  b" c`, want: []string{"a", "b", "c"}},
	{in: `\"a  b\" c`, want: []string{"a  b", "c"}},
	{in: `\\"a  b\\" c`, want: []string{"\a", "b c"}},
	{in: `\\\"a  b\\\" c`, want: []string{`"a`, `b"`, "c"}},
	{in: `\'a  b\' c`, want: []string{"a  b", "c"}},
	{in: `'"a  b" c'`, want: []string{"a  b", "c"}},
	{in: `'\"a  b\" c'`, want: []string{"a  b", "c"}},
	{in: `"'a  b' c"`, want: []string{"a  b", "c"}},
	{in: `"\"x y\" {a b}"`, want: []string{"x y", "{a b}"}},
	{in: `{a b} c`, want: []string{"{a b}", "c"}},
	{in: `'(a b) [c d]'`, want: []string{"(a b)", "[c d]"}},
	{in: `\{a b\}`, want: []string{"{a b}"}},
	{in: `\\{a b\\}`, want: []string{"{a", "b}"}},
	{in: `\{a \"b c\"\}`, want: []string{`{a "b c"}`}},
	{in: `a\,b a\:b`, want: []string{"a,b", "a:b"}},
	{in: `a\\ b`, want: []string{"a b"}},
	{in: `a\ b`, want: []string{"a", "b"}},
	{in: "a\tb\nc", want: []string{"a\tb\nc"}},
	{in: `'"" b'`, want: []string{"", "b"}},
	{in: `'a"b c"d'`, want: []string{"ab cd"}},
	{in: `a  b  `, want: []string{"a", "b"}, differ: true}, // socat adds an empty argument
	{in: ``, want: []string{}, differ: true},               // the same
	{in: `a:b`, want: []string{"a:b"}, differ: true},       // socat refuses the second parameter
}

func TestSplitCommand(t *testing.T) {
	for _, c := range commandCases {
		spec, err := Parse("EXEC:printf <%s>\\\\n " + c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		argv, err := SplitCommand(spec.Parts[0].ParamText())
		if want := append([]string{"printf", "<%s>\n"}, c.want...); err != nil || !slices.Equal(argv, want) {
			t.Errorf("%s: got %q, %v, want %q", c.in, argv, err, want)
		}
	}
	for _, s := range []string{"", " ", "   "} {
		if argv, err := SplitCommand(s); len(argv) != 0 || err != nil {
			t.Errorf("%q: got %q, %v", s, argv, err)
		}
	}
	for _, s := range []string{`a "b`, `a 'b`, `a (b`, `a \`, `("a)" b`} {
		_, err := SplitCommand(s)
		if err == nil || !strings.Contains(err.Error(), "unexpected end of command") {
			t.Errorf("%s: got %v", s, err)
		}
	}
}

func TestSplitCommandAsSocat(t *testing.T) {
	for _, c := range commandCases {
		if c.differ {
			continue
		}
		out := socat(t, "-u", "EXEC:printf <%s>\\\\n "+c.in, "-")
		if want := "<" + strings.Join(c.want, ">\n<") + ">\n"; out != want {
			t.Errorf("%s: socat gives %q, want %q", c.in, out, want)
		}
	}
}

func TestSplitValue(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{``, []string{""}},
		{`a`, []string{"a"}},
		{`1:2:3`, []string{"1", "2", "3"}},
		{`:80`, []string{"", "80"}},
		{`1:`, []string{"1", ""}},
		{`[::1]:80`, []string{"[::1]", "80"}},
		{`[fd00::]:[ffff::]`, []string{"[fd00::]", "[ffff::]"}},
		{`6:13:"a:b"`, []string{"6", "13", `"a:b"`}},
		{`1:"a\":b":2`, []string{"1", `"a\":b"`, "2"}},
		{`1:':':2`, []string{"1", "':'", "2"}},
		{`it's:2`, []string{"it's", "2"}}, // partnerless: plain text
		{`a[b:c`, []string{"a[b", "c"}},
		{`a\:b`, []string{`a\`, "b"}},
		{`a\'b:c'`, []string{`a\'b:c'`}},
		{"\x00:a", []string{"\x00", "a"}},
	} {
		if got := SplitValue(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.in, got, c.want)
		}
	}
}

// Openers without an end must not make the splitting quadratic.
func TestSplitValueHostile(t *testing.T) {
	for _, unit := range []string{"(", `("`, `"'`, "[a:", "{'"} {
		s := strings.Repeat(unit, 20_000)
		if got := strings.Join(SplitValue(s), ":"); got != s {
			t.Errorf("%s...: joined pieces differ from the value", unit)
		}
	}
}
