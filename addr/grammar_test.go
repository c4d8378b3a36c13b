package addr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// shape writes what was understood, one word a bracket, so that tables read easily.
func shape(s *Spec) string {
	var parts []string
	for _, p := range s.Parts {
		b := fmt.Sprintf("<%s>", p.Keyword)
		for _, w := range p.Params {
			b += fmt.Sprintf("(%s)", w.Text)
		}
		for _, o := range p.Options {
			b += fmt.Sprintf(" %s", o.Name)
			if o.HasValue {
				b += fmt.Sprintf("=(%s)", o.Value)
			}
		}
		parts = append(parts, b)
	}
	return strings.Join(parts, " !! ")
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`STDIO`, `<STDIO>`},
		{`tcp-l:40839,reuseaddr`, `<tcp-l>(40839) reuseaddr`},
		{`TUN:172.0.0.1/24,iff-no-pi,up,tun-type=tap`, `<TUN>(172.0.0.1/24) iff-no-pi up tun-type=(tap)`},
		{`TCP6:[::1]:80`, `<TCP6>([::1])(80)`},
		{`TUN:[fd00::1]/64`, `<TUN>([fd00::1]/64)`},
		{`TCP-L:80,fork,range=[::1]/128`, `<TCP-L>(80) fork range=([::1]/128)`},
		{`TCP:h:1,bind=:80`, `<TCP>(h)(1) bind=(:80)`},
		{`TCP-L:1,setsockopt-int=1:2:3`, `<TCP-L>(1) setsockopt-int=(1:2:3)`},
		// The number of parameters, seen with socat: "wrong number of parameters (1 instead of 2)".
		{`TCP`, `<TCP>`},
		{`TCP:`, `<TCP>()`},
		{`TCP::`, `<TCP>()()`},
		{`TCP:a:b:c`, `<TCP>(a)(b)(c)`},
		// Short forms, seen with socat; the last three are its short forms, too.
		{`-`, `<STDIO>`},
		{`-,raw`, `<STDIO> raw`},
		{`-:x`, `<STDIO>(x)`},
		{`3`, `<FD>(3)`},
		{`3,cloexec`, `<FD>(3) cloexec`},
		{`3:4`, `<FD>(3)(4)`},
		{`12`, `<FD>(12)`}, // socat: a single digit only
		{`/tmp/x,append`, `<GOPEN>(/tmp/x) append`},
		{`./f`, `<GOPEN>(./f)`},
		{`a/b:c`, `<GOPEN>(a/b)(c)`},
		{`3/x`, `<GOPEN>(3/x)`},
		{`a=/b`, `<GOPEN>(a=/b)`},
		{`/q/{a:b}`, `<GOPEN>(/q/{a:b})`},
		{`//tmp/"a b"/c`, `<GOPEN>(//tmp/a b/c)`},
		{`a:b/c`, `<a>(b/c)`},
		{`foo,bar/x`, `<foo> bar/x`},
		{`"-"`, `<STDIO>`},
		{`\3`, `<FD>(3)`},
		{`x\/y`, `<GOPEN>(x/y)`},
		// Not short forms, seen with socat: unknown device/address.
		{`3x`, `<3x>`},
		{`+3`, `<+3>`},
		{`3!x`, `<3!x>`},
		{`[::1]:80`, `<[::1]>(80)`},
		{`TCP=x:3`, `<TCP=x>(3)`},
		{` EXEC:a`, `< EXEC>(a)`},
		{`"EXEC":a`, `<EXEC>(a)`},
		{`EX\EC:a`, `<EXEC>(a)`},
		// Dual addresses.
		{`-!!EXEC:cat`, `<STDIO> !! <EXEC>(cat)`},
		{`STDIO!!FILE:x`, `<STDIO> !! <FILE>(x)`},
		{`-,a=b!!/x,c`, `<STDIO> a=(b) !! <GOPEN>(/x) c`},
		{`a!!!b`, `<a> !! <!b>`},
		{`OPEN:f,rdonly!!-`, `<OPEN>(f) rdonly !! <STDIO>`},
		{`OPEN:"a!!b",x=[!!]`, `<OPEN>(a!!b) x=([!!])`},
		// Options, seen with socat.
		{`-,`, `<STDIO>`},
		{`-,,`, `<STDIO>`},
		{`-,,rdonly,,x,`, `<STDIO> rdonly x`},
		{`-,!!-`, `<STDIO> !! <STDIO>`},
		{`-, rdonly`, `<STDIO>  rdonly`},
		{`-,user=`, `<STDIO> user=()`},
		{`-,user=a=b`, `<STDIO> user=(a=b)`},
		{`-,user=a:b`, `<STDIO> user=(a:b)`},
		{`-,user="a"=b`, `<STDIO> user=(a=b)`},
		{`-,user= x `, `<STDIO> user=( x )`},
		{`-,user="a,b",user='a,b',user=[a,b],user=a\,b`, `<STDIO> user=(a,b) user=(a,b) user=([a,b]) user=(a,b)`},
		{`-,user=a{"b"}c`, `<STDIO> user=(a{"b"}c)`},
		{`-,"us"er=x,USER`, `<STDIO> user=(x) USER`},
		{`-,[a=b]=x`, `<STDIO> [a=b]=(x)`},
		{`-,foo\=x=y`, `<STDIO> foo=x=(y)`},
		{`-,"=x"`, `<STDIO> =x`},
		{`-,foo:bar=1`, `<STDIO> foo:bar=(1)`},
	} {
		spec, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := shape(spec); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.in, got, c.want)
		}
		check(t, spec)
	}
}

func TestParsePlaces(t *testing.T) {
	arg := `-!!EXEC:'a b':"c",pty,user="x y"`
	spec, err := Parse(arg)
	if err != nil {
		t.Fatal(err)
	}
	left, right := spec.Parts[0], spec.Parts[1]
	if left.Short != ShortDash || left.Text != "-" || right.Short != NotShort {
		t.Errorf("short forms: %+v", spec.Parts)
	}
	if right.Pos != 3 || right.KeywordPos != 3 || right.Text != arg[3:] || right.RawParams != `'a b':"c"` || right.ParamText() != "a b:c" {
		t.Errorf("right: %+v", right)
	}
	if got, want := right.Params[1], (Word{Text: "c", Pos: 14, Raw: `"c"`}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want := []OptionWord{
		{Name: "pty", Pos: 18, Raw: "pty", ValuePos: 21},
		{Name: "user", Value: "x y", HasValue: true, Pos: 22, Raw: `user="x y"`, ValuePos: 27, RawValue: `"x y"`},
	}
	if !slices.Equal(right.Options, want) {
		t.Errorf("got %+v, want %+v", right.Options, want)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct {
		in   string
		pos  int
		want string
	}{
		{``, 0, `unknown device/address ""`},
		{`:x`, 0, `unknown device/address ""`},
		{`,x`, 0, `unknown device/address ""`},
		{`""`, 0, `unknown device/address ""`},
		{`-!!`, 3, `unknown device/address ""`},
		{`!!-`, 0, `unknown device/address ""`},
		{`a!!!!b`, 3, `unknown device/address ""`},
		{`-!!-!!-`, 4, `not more`},
		{`EXEC:"a`, 5, `unexpected end of address: quote " opened here is not closed`},
		{`EXEC:'a`, 5, `unexpected end of address: quote ' opened here is not closed`},
		{`-,user="a`, 7, `unexpected end of address: quote " opened here`},
		{`-,us"er`, 4, `unexpected end of address: quote " opened here`},
		{`T"CP:a`, 1, `unexpected end of address: quote " opened here`},
		{`EXEC:"don't"`, 9, `unexpected end of address: quote ' opened here inside " is not`}, // as in socat
		{`EXEC:"[a"]"b"`, 12, `unexpected end of address: quote " opened here inside [ is`},   // as in socat
		{`OPEN:a(b,c`, 6, `unexpected end of address: bracket ( opened here`},                 // here on, socat reads on beyond the argument
		{`OPEN:(a]`, 5, `unexpected end of address: bracket ( opened here`},
		{`OPEN:a\`, 6, `unexpected end of address: nothing follows the backslash`},
		{`OPEN:a\0b`, 6, `\0 is a zero byte`},
		{"OPEN:a\x00b", 6, `a zero byte cannot stand in an address`},
		{`-,=x`, 2, `name of the option is missing`},
		{`-,"",x`, 2, `name of the option is missing`},
		{`OPEN:` + strings.Repeat("(", 65) + strings.Repeat(")", 65), 69, `nested more than 64 deep`},
		{strings.Repeat("a", maxAddress+1), maxAddress, `longer than`},
	} {
		name := c.in[:min(len(c.in), 40)]
		_, err := Parse(c.in)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%q: got %v", name, err)
			continue
		}
		if syntax.Pos != c.pos || !strings.Contains(syntax.Msg, c.want) || syntax.Arg != c.in {
			t.Errorf("%q: got %q at %d, want %q at %d", name, syntax.Msg, syntax.Pos, c.want, c.pos)
		}
		if lines := strings.Split(syntax.Pointer(), "\n"); len(lines) != 2 || len(lines[0]) > 200 {
			t.Errorf("%q: pointer %q", name, lines)
		}
	}
	if _, err := Parse(strings.Repeat("a", maxAddress)); err != nil {
		t.Errorf("the longest address: %v", err)
	}
}

func TestSyntaxErrorText(t *testing.T) {
	_, err := Parse(`EXEC:"cat`)
	want := `"EXEC:"cat": unexpected end of address: quote " opened here is not closed (at character 6)`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestPointAt(t *testing.T) {
	long := strings.Repeat("x", 100) + "Y" + strings.Repeat("z", 100)
	for _, c := range []struct {
		arg      string
		pos, end int
		want     string
	}{
		{"", 0, 0, "\n^"},
		{"abc", 1, 1, "abc\n ^"},
		{"abc", 3, 3, "abc\n   ^"},
		{"abcd", 1, 3, "abcd\n ^^"},
		{"abcd", 1, 9, "abcd\n ^^^"},
		{"ä\tb", 3, 4, `ä\tb` + "\n   ^"},
		{"a\xff\x1bb", 3, 4, `a\xff\x1bb` + "\n         ^"},
		{long, 100, 101, "..." + long[40:160] + "...\n" + strings.Repeat(" ", 63) + "^"},
	} {
		if got := PointAt(c.arg, c.pos, c.end); got != c.want {
			t.Errorf("%q %d-%d:\n%s\nwant\n%s", c.arg, c.pos, c.end, got, c.want)
		}
	}
}

func TestSpecString(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`-,raw!!3`, `STDIO,raw!!FD:3`},
		{`"/a b",x="1,2"`, `GOPEN:/a b,x='1,2'`},
		{`TCP6:[::1]:80,,bind=[::1]:1,`, `TCP6:[::1]:80,bind=[::1]:1`},
		{`EXEC:"it\'s, ok"`, `EXEC:it\'s\, ok`},
		{`EXEC:"a \"b c\""`, `EXEC:'a "b c"'`},
		{`OPEN:a\!!!b`, `OPEN:'a!'!!b`},
		{`-,x=`, `STDIO,x=`},
	} {
		spec, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := spec.String(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.in, got, c.want)
		}
	}
}

// check holds for every Spec: the canonical text means the same and is its own
// canonical text, and all places point at what they say.
func check(t *testing.T, spec *Spec) {
	t.Helper()
	again, err := Parse(spec.String())
	if err != nil {
		t.Fatalf("%q: canonical %q: %v", spec.Text, spec.String(), err)
	}
	if shape(again) != shape(spec) || again.String() != spec.String() {
		t.Fatalf("%q: canonical %q means %s, not %s", spec.Text, spec.String(), shape(again), shape(spec))
	}
	at := func(pos int, raw string) {
		t.Helper()
		if pos < 0 || pos > len(spec.Text) || !strings.HasPrefix(spec.Text[pos:], raw) {
			t.Fatalf("%q: %q does not stand at %d", spec.Text, raw, pos)
		}
	}
	for _, s := range spec.Parts {
		at(s.Pos, s.Text)
		at(s.KeywordPos, "")
		for _, p := range s.Params {
			at(p.Pos, p.Raw)
		}
		if len(s.Params) > 0 {
			at(s.Params[0].Pos, s.RawParams)
		}
		for _, o := range s.Options {
			at(o.Pos, o.Raw)
			at(o.ValuePos, o.RawValue)
		}
	}
}

// FuzzParse starts from the command lines of the README and socat's manual page.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`TUN:10.0.6.1/24,tun-type=tap,up`, `EXEC:'hexdump -C'`, `TUN:10.0.7.1/24,iff-no-pi,up`, `tcp-l:40839,reuseaddr`,
		`TUN:172.0.0.1/24,iff-no-pi,up,tun-type=tap`, `tcp:10.74.68.100:40839`, `EXEC:'ssh host tunsplice STDIO TUN:...'`,
		`-`, `TCP-LISTEN:8080,fork,reuseaddr`, `UNIX-LISTEN:/tmp/s,fork,unlink-early`, `SYSTEM:'a | b'`, `A!!B`, `TUN:[fd00::1]/64`,
		`READLINE,history=$HOME/.http_history`, `TCP4:www.domain.org:www,crnl`,
		`TCP4-LISTEN:80,bind=myaddr1,reuseaddr,fork,su=nobody,range=10.0.0.0/8`,
		`EXEC:/bin/myscript,chroot=/home/sandbox,su-d=sandbox,pty,stderr`,
		`EXEC:"mail.sh target@domain.com",fdin=3,fdout=4`, `-,escape=0x0f`, `/dev/ttyS0,rawer,crnl`,
		`SOCKS4:host.victim.org:127.0.0.1:6000,socksuser=nobody,sourceport=20`, `/tmp/readdata,seek-end=0,ignoreeof`,
		`EXEC:"ssh modemserver.us.org socat - /dev/ttyS0,nonblock,rawer"`, `PROXY:proxy:www.domain.org:22,proxyport=3128,proxyauth=user:pass`,
		`OPENSSL-LISTEN:4443,reuseaddr,pf=ip4,fork,cert=server.pem,cafile=client.crt`, `system:'filan -i 0 -s >&2',nofork`,
		`SOCKET-DATAGRAM:2:2:17:x007bxc0a80100x0000000000000000,bind=x007bx00000000x0000000000000000,setsockopt-int=1:6:1,range=x0000xc0a80100x0000000000000000:x0000xffffff00x0000000000000000`,
		`UDP4-DATAGRAM:224.255.0.1:6666,bind=:6666,ip-add-membership=224.255.0.1:eth0`,
		`SYSTEM:echo -e "\"HTTP/1.0 200 OK\\nDocumentType: text/plain\\n\\ndate: $\(date\)\\nserver:$SOCAT_SOCKADDR:$SOCAT_SOCKPORT\\n\""; cat; echo -e "\"\\n\""`,
		`UDP4-RECVFROM:9999,so-broadcast,ip-recvttl!!-`, `OPEN:a\!!!b`, `-,x=\'(`, `-,a b=[{("'`, `3,,x=,`, `a'b"c':(")")`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		spec, err := Parse(arg)
		var syntax *SyntaxError
		if err != nil {
			if !errors.As(err, &syntax) || syntax.Pos < 0 || syntax.Pos > len(arg) {
				t.Fatalf("%q: %#v", arg, err)
			}
			if lines := strings.Count(syntax.Pointer(), "\n"); lines != 1 || strings.Contains(syntax.Error(), "\n") {
				t.Fatalf("%q: %q, %q", arg, syntax.Error(), syntax.Pointer())
			}
			return
		}
		check(t, spec)
		for _, s := range spec.Parts {
			text := s.ParamText()
			if got := strings.Join(SplitValue(text), ":"); got != text {
				t.Fatalf("%q: split values of %q join to %q", arg, text, got)
			}
			if argv, err := SplitCommand(text); err != nil && !errors.As(err, &syntax) {
				t.Fatalf("%q: %q, %v", arg, argv, err)
			}
			if data, err := ParseDalan(text); err != nil && (!errors.As(err, &syntax) || syntax.Pos > len(text)) {
				t.Fatalf("%q: %q, %v", arg, data, err)
			}
		}
	})
}
