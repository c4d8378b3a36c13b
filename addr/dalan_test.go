package addr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestParseDalan(t *testing.T) {
	i := func(n uint32) string { return string(binary.NativeEndian.AppendUint32(nil, n)) }
	s := func(n uint16) string { return string(binary.NativeEndian.AppendUint16(nil, n)) }
	l := func(n uint64) string { return string(binary.NativeEndian.AppendUint64(nil, n)) }
	// Seen with socat 1.7.4.4: strace shows the value of ip-options.
	for _, c := range []struct{ in, want string }{
		{``, ""}, {` `, ""}, {`x`, ""},
		{`x01020304`, "\x01\x02\x03\x04"}, {`x0102 03`, "\x01\x02\x03"}, {`x0102 x03`, "\x01\x02\x03"},
		{"x01\tx02", "\x01\x02"}, {`x 01`, "\x01"}, {` x01 `, "\x01"}, {`xaAbB`, "\xaa\xbb"},
		{`x007bxc0a80100x0000`, "\x00\x7b\xc0\xa8\x01\x00\x00\x00"},
		{`1`, i(1)}, {`01`, i(1)}, {`i1`, i(1)}, {`i-1000`, i(math.MaxUint32 - 999)}, {`i010`, i(10)}, {`i+1`, i(1)},
		{`i1 2`, i(1) + i(2)}, {`i1 i2`, i(1) + i(2)}, {`i1i2`, i(1) + i(2)}, {`i 1`, i(1)},
		{`I-1`, i(math.MaxUint32)}, {`I4294967295`, i(math.MaxUint32)}, {`i2147483648`, i(1 << 31)},
		{`l1`, l(1)}, {`l-1`, l(math.MaxUint64)}, {`L1`, l(1)}, {`l9223372036854775807`, l(math.MaxInt64)},
		{`s1`, s(1)}, {`s-1`, s(math.MaxUint16)}, {`S65535`, s(math.MaxUint16)}, {`s1 2`, s(1) + s(2)}, {`s32768`, s(1 << 15)},
		{`B255`, "\xff"}, {`B-1`, "\xff"}, {`x01i1`, "\x01" + i(1)}, {`x01 02 i1 2`, "\x01\x02" + i(1) + i(2)}, {`5x01`, i(5) + "\x01"}, {`0x01`, i(0) + "\x01"},
		{`"ab"`, "ab"}, {`"a b"`, "a b"}, {`"a:b,c"`, "a:b,c"}, {`"a\n"`, "a\n"}, {`"\0"`, "\x00"}, {`"a\"b"`, `a"b`}, {`""`, ""},
		{`"\e\a\b\r\t\f\v\q"`, "\x1b\a\b\r\t\fvq"}, {`"a\x41"`, "ax41"}, {`"a""b"`, "ab"}, {`"a" "b"`, "ab"}, {`"a"x01`, "a\x01"},
		{`'a'`, "a"}, {`'a''b'`, "ab"}, {`'\n'`, "\n"}, {`'\''`, "'"}, {`'\\'`, `\`}, {`'"'`, `"`},
		// Here on, other than socat: it writes b as two bytes, '\0' as a digit, and the largest long as half of it.
		{`b1`, "\x01"}, {`b-1`, "\xff"}, {`b1 2 3`, "\x01\x02\x03"}, {`'\0'`, "\x00"}, {`L18446744073709551615`, l(math.MaxUint64)},
	} {
		got, err := ParseDalan(c.in)
		if err != nil || !bytes.Equal(got, []byte(c.want)) {
			t.Errorf("%s: got %x, %v, want %x", c.in, got, err, c.want)
		}
	}
	for _, c := range []struct {
		in   string
		pos  int
		want string
	}{
		{`x1`, 2, "odd number"}, {`x012`, 4, "odd number"}, {`x0 1`, 2, "odd number"}, {`"a`, 0, "unexpected end"}, {`'a`, 0, "unexpected end"},
		{`'`, 0, "unexpected end"}, {`"\`, 1, "unexpected end"}, {`'\`, 1, "unexpected end"}, {`'ab'`, 2, "only one byte"}, {`''`, 0, "missing"},
		{`"a"5`, 3, "a letter of"}, {`i1 "a" 2`, 7, "a letter of"},
		// Here on, other than socat: it wraps the number, fills 256 zero bytes, or never ends.
		{`xzz`, 1, "a letter of"}, {`x zz`, 2, "digits expected"}, {`x01 zz`, 4, "digits expected"}, {`x01z`, 3, "a letter of"}, {`i`, 1, "missing numerical"}, {`i-`, 1, "missing numerical"}, {`i--1`, 1, "missing numerical"},
		{`i1z`, 2, "a letter of"}, {`i1-2`, 2, "a letter of"}, {`h1`, 0, "missing numerical"}, {`i4294967296`, 0, "does not fit in 4 bytes"},
		{`i-2147483649`, 0, "does not fit"}, {`s65536`, 0, "does not fit"}, {`b256`, 0, "does not fit"}, {`x01:x02`, 3, "a letter of"},
		{`L18446744073709551616`, 0, "does not fit in 8 bytes"}, {`l-9223372036854775809`, 0, "does not fit"},
	} {
		_, err := ParseDalan(c.in)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax.Pos != c.pos || !strings.Contains(syntax.Msg, c.want) {
			t.Errorf("%s: got %#v, want %q at %d", c.in, err, c.want, c.pos)
		}
	}
}
