package addr

import (
	"encoding/binary"
	"math"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"
)

// valueKind is how the text of an option's value becomes a value.
type valueKind interface {
	kindName() string
	parseValue(text string, given bool) (any, error)
}

// kindOf is a valueKind whose values are of type T.
type kindOf[T any] struct {
	name  string
	parse func(text string, given bool) (T, error)
}

func (k kindOf[T]) kindName() string { return k.name }

func (k kindOf[T]) parseValue(text string, given bool) (any, error) { return k.parse(text, given) }

var errValueRequired = errors.New("value required")

// need turns a parser of a text into one that demands a value.
func need[T any](parse func(string) (T, error)) func(string, bool) (T, error) {
	return func(text string, given bool) (T, error) {
		if !given {
			var zero T
			return zero, errValueRequired
		}
		return parse(text)
	}
}

// The kinds of values. Numbers are as strtoul(3) with base 0 reads them: decimal, 0x hex, leading 0 octal.
var (
	kindConst    = kindOf[bool]{"CONST", parseConst}
	kindBool     = kindOf[bool]{"BOOL", parseBool}
	kindInt      = kindOf[int]{"INT", parseOptInt}
	kindUint     = kindOf[uint]{"UNSIGNED-INT", need(func(s string) (uint, error) { n, err := parseUint(s, math.MaxUint32); return uint(n), err })}
	kindByte     = kindOf[int]{"BYTE", need(func(s string) (int, error) { n, err := parseUint(s, math.MaxUint8); return int(n), err })}
	kindUshort   = kindOf[int]{"UNSIGNED-SHORT", need(func(s string) (int, error) { n, err := parseUint(s, math.MaxUint16); return int(n), err })}
	kindSize     = kindOf[int64]{"SIZE_T", need(func(s string) (int64, error) { n, err := parseUint(s, math.MaxInt64); return int64(n), err })}
	kindOffset   = kindOf[int64]{"OFF64_T", need(ParseNumber)}
	kindString   = kindOf[string]{"STRING", need(func(s string) (string, error) { return s, nil })}
	kindStringOr = kindOf[string]{"STRING-NULL", func(s string, _ bool) (string, error) { return s, nil }}
	kindDuration = kindOf[time.Duration]{"STRUCT-TIMEVAL", need(ParseSeconds)}
	kindMode     = kindOf[uint32]{"MODE_T", need(parseMode)}
	kindUID      = kindOf[int]{"UID_T", need(parseUID)}
	kindGID      = kindOf[int]{"GID_T", need(parseGID)}
	kindBin      = kindOf[[]byte]{"BIN", need(parseBin)}
)

func parseConst(_ string, given bool) (bool, error) {
	if given {
		return false, errors.New("takes no value")
	}
	return true, nil
}

func parseBool(text string, given bool) (bool, error) {
	if !given {
		return true, nil
	}
	n, err := ParseNumber(text)
	if err != nil {
		return false, err
	}
	return n != 0, nil
}

// parseOptInt reads an int option: without a value it is 1.
func parseOptInt(text string, given bool) (int, error) {
	if !given {
		return 1, nil
	}
	return parseInt32(text)
}

// parseInt32 reads a number of 32 bits, signed or not: 0xffffffff is -1.
func parseInt32(text string) (int, error) {
	n, err := ParseNumber(text)
	if err == nil && (n > math.MaxUint32 || n < math.MinInt32) {
		err = errors.New("number out of range (32 bits)")
	}
	return int(int32(n)), err
}

// ParseNumber reads a whole number as strtoul(3) with base 0 does: decimal, hexadecimal after 0x, octal after 0, with an optional sign and spaces in front. What follows the
// number is an error, and so is what does not fit into 64 bits.
func ParseNumber(text string) (int64, error) {
	s := strings.TrimLeft(text, " \t\n\v\f\r")
	digits := strings.TrimLeft(s, "+-")
	sign := s[:len(s)-len(digits)]
	if len(sign) > 1 || digits == "" || digits[0] < '0' || digits[0] > '9' {
		return 0, errors.New("missing numerical value")
	}
	base := 10
	switch {
	case strings.HasPrefix(digits, "0x"), strings.HasPrefix(digits, "0X"):
		digits, base = digits[2:], 16
	case digits[0] == '0':
		base = 8
	}
	if strings.HasPrefix(digits, "+") || strings.HasPrefix(digits, "-") { // behind 0x
		return 0, errors.New("trailing garbage after the number")
	}
	n, err := strconv.ParseInt(sign+digits, base, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, errors.New("number out of range")
	case err != nil:
		return 0, errors.New("trailing garbage after the number")
	}
	return n, nil
}

func parseUint(text string, most uint64) (uint64, error) {
	n, err := ParseNumber(text)
	if err != nil {
		return 0, err
	}
	if n < 0 || uint64(n) > most {
		return 0, errors.Errorf("number out of range (0 to %d)", most)
	}
	return uint64(n), nil
}

// ParseSeconds reads a time in seconds with optional fraction.
func ParseSeconds(text string) (time.Duration, error) {
	f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	switch {
	case err != nil || math.IsNaN(f):
		return 0, errors.New("missing numerical value (seconds, as 0.5)")
	case f < 0:
		return 0, errors.New("a time can't be negative")
	case f > float64(math.MaxInt64)/1e9:
		return math.MaxInt64, nil // some use 1e10 for "never"
	}
	return time.Duration(f * 1e9), nil
}

func parseMode(text string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 8, 32)
	if err != nil || n > 0o7777 {
		return 0, errors.New("not a file mode (octal, as 0660)")
	}
	return uint32(n), nil
}

func parseUID(text string) (int, error) {
	if n, err := parseUint(text, math.MaxUint32); err == nil {
		return int(n), nil
	}
	u, err := user.Lookup(text)
	if err != nil {
		return 0, errors.Errorf("unknown user %q", text)
	}
	return strconv.Atoi(u.Uid)
}

func parseGID(text string) (int, error) {
	if n, err := parseUint(text, math.MaxUint32); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(text)
	if err != nil {
		return 0, errors.Errorf("unknown group %q", text)
	}
	return strconv.Atoi(g.Gid)
}

func parseBin(text string) ([]byte, error) { return ParseDalan(text) }

// triple is the value of the generic setsockopt and ioctl options: level (or request) and name, then data.
type triple struct {
	level, name int
	data        []byte
}

// fields splits a value at its colons and checks their number.
func fields(text string, n int, shape string) ([]string, error) {
	f := strings.SplitN(text, ":", n)
	if len(f) != n {
		return nil, errors.Errorf("%d of %d parts given, wanted %s", len(f), n, shape)
	}
	return f, nil
}

func parseTriple(shape string, data func(string) ([]byte, error)) func(string) (triple, error) {
	return func(text string) (t triple, err error) {
		f, err := fields(text, 3, shape)
		if err != nil {
			return t, err
		}
		for i, dst := range []*int{&t.level, &t.name} {
			if *dst, err = parseInt32(f[i]); err != nil {
				return t, errors.Wrapf(err, "%q", f[i])
			}
		}
		t.data, err = data(f[2])
		return t, err
	}
}

var (
	kindIntIntInt = kindOf[triple]{"INT:INT:INT", need(parseTriple("level:name:number", func(s string) ([]byte, error) {
		n, err := parseInt32(s)
		return binary.NativeEndian.AppendUint32(nil, uint32(n)), err
	}))}
	kindIntIntBin    = kindOf[triple]{"INT:INT:BIN", need(parseTriple("level:name:data", parseBin))}
	kindIntIntString = kindOf[triple]{"INT:INT:STRING", need(parseTriple("level:name:text", func(s string) ([]byte, error) { return append([]byte(s), 0), nil }))} // a C string
)
