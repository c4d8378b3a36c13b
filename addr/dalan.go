package addr

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// dalanTypes maps a letter of the data language to the bytes of its number. A
// C long of Linux has the size of a pointer, as Go's int.
var dalanTypes = map[byte]int{
	'b': 1, 'B': 1,
	's': 2, 'S': 2,
	'i': 4, 'I': 4,
	'l': strconv.IntSize / 8, 'L': strconv.IntSize / 8,
}

// ParseDalan reads socat's data language and returns the bytes it describes, for
// generic socket addresses and binary option values:
//
//	x7f000001     hexadecimal digits, two a byte
//	i-1 s2 l3 b4  decimal number as int, short, long, byte in host byte order;
//	              I S L B the same unsigned
//	"text\n"      the characters, with \n \r \t \f \b \a \e \0
//	'c'           one character, same escapes
//
// Items follow each other directly or after white space; after white space a
// number or hex item may repeat without its letter ("i1 2 3"), and the first
// one without a letter is an int. The empty text has no bytes. s must be
// unquoted by Parse already. The error is a *SyntaxError whose Arg is s.
//
// Two differences from socat 1.7.4.4, which writes b as two bytes and '\0' as
// the digit, against its manual; and what does not fit, or is no item at all,
// is an error where socat wraps, writes zeros or never returns.
func ParseDalan(s string) ([]byte, error) {
	d := dalan{src: s, kind: 'i', out: []byte{}}
	for {
		d.skipSpace()
		if d.pos == len(s) {
			return d.out, nil
		}
		if err := d.item(); err != nil {
			return nil, err
		}
	}
}

type dalan struct {
	src  string
	pos  int
	kind byte // of an item without a letter; 0 where the letter is required
	out  []byte
}

func (d *dalan) fail(pos int, format string, args ...any) error {
	return &SyntaxError{Arg: d.src, Pos: pos, Msg: fmt.Sprintf(format, args...)}
}

func (d *dalan) skipSpace() {
	for d.pos < len(d.src) && isDalanSpace(d.src[d.pos]) {
		d.pos++
	}
}

func isDalanSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// item reads one item, d.pos being before its end.
func (d *dalan) item() error {
	start := d.pos
	switch c := d.src[d.pos]; {
	case c == '"':
		d.kind = 0
		return d.text()
	case c == '\'':
		d.kind = 0
		return d.character()
	case c == 'x' || dalanTypes[c] != 0:
		d.kind = c
		d.pos++
		d.skipSpace()
	case d.kind == 0 || start > 0 && !isDalanSpace(d.src[start-1]):
		return d.fail(start, `data: a letter of x i I l L s S b B, or a quote, should begin this item`)
	}
	if d.kind == 'x' {
		return d.hex(start)
	}
	return d.number(start)
}

// run moves over the bytes of set and returns them.
func (d *dalan) run(set string) string {
	start := d.pos
	for d.pos < len(d.src) && strings.IndexByte(set, d.src[d.pos]) >= 0 {
		d.pos++
	}
	return d.src[start:d.pos]
}

func (d *dalan) hex(start int) error {
	digits := d.run("0123456789abcdefABCDEF")
	if len(digits)%2 != 0 {
		return d.fail(d.pos, "data: an odd number of hexadecimal digits")
	}
	// "x" alone is no bytes; without the x some digits must be there to move on.
	if digits == "" && d.src[start] != 'x' {
		return d.fail(d.pos, "data: hexadecimal digits expected")
	}
	var err error
	d.out, err = hex.AppendDecode(d.out, []byte(digits))
	return err
}

// number reads a decimal number that fits the width of d.kind, as signed or as
// unsigned: the letters I S L B have the same bytes as i s l b, and -1 is a
// common way to say all ones.
func (d *dalan) number(start int) error {
	at := d.pos
	sign := d.pos
	if d.pos < len(d.src) && (d.src[d.pos] == '-' || d.src[d.pos] == '+') {
		d.pos++
	}
	negative := d.pos > sign && d.src[sign] == '-'
	digits := d.run("0123456789")
	if digits == "" {
		return d.fail(at, "data: missing numerical value")
	}
	size := dalanTypes[d.kind]
	limit := uint64(math.MaxUint64) >> (64 - 8*size)
	if negative {
		limit = 1 << (8*size - 1)
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > limit {
		return d.fail(start, "data: %s does not fit in %d bytes", d.src[at:d.pos], size)
	}
	if negative {
		n = -n
	}
	var b [8]byte
	switch size {
	case 1:
		b[0] = byte(n)
	case 2:
		binary.NativeEndian.PutUint16(b[:], uint16(n))
	case 4:
		binary.NativeEndian.PutUint32(b[:], uint32(n))
	case 8:
		binary.NativeEndian.PutUint64(b[:], n)
	}
	d.out = append(d.out, b[:size]...)
	return nil
}

func (d *dalan) text() error {
	start := d.pos
	for d.pos++; d.pos < len(d.src); {
		if d.src[d.pos] == '"' {
			d.pos++
			return nil
		}
		if err := d.char(); err != nil {
			return err
		}
	}
	return d.fail(start, `data: unexpected end: quote " opened here is not closed`)
}

func (d *dalan) character() error {
	start := d.pos
	d.pos++
	if d.pos < len(d.src) && d.src[d.pos] == '\'' {
		return d.fail(start, "data: a character is missing between the quotes")
	}
	if d.pos < len(d.src) {
		if err := d.char(); err != nil {
			return err
		}
	}
	if d.pos == len(d.src) {
		return d.fail(start, "data: unexpected end: quote ' opened here is not closed")
	}
	if d.src[d.pos] != '\'' {
		return d.fail(d.pos, `data: only one byte can stand between ' and ', use " for text`)
	}
	d.pos++
	return nil
}

// dalanEscapes pairs the letter after a backslash with what it stands for. The
// set differs from the address's: \e and \0 are known, \v is not.
const dalanEscapes = "n\nr\rt\tf\fb\ba\ae\x1b0\x00"

// char reads one byte of a text, escaped or not.
func (d *dalan) char() error {
	c := d.src[d.pos]
	if c == '\\' {
		if d.pos+1 == len(d.src) {
			return d.fail(d.pos, "data: unexpected end: nothing follows the backslash")
		}
		d.pos++
		c = d.src[d.pos]
		for i := 0; i < len(dalanEscapes); i += 2 {
			if dalanEscapes[i] == c {
				c = dalanEscapes[i+1]
				break
			}
		}
	}
	d.out = append(d.out, c)
	d.pos++
	return nil
}
