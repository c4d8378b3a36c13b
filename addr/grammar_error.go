package addr

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A SyntaxError says what is wrong with the spelling of an argument, and where.
type SyntaxError struct {
	Arg string // the text that was being read, as given
	Pos int    // byte offset in Arg, 0..len(Arg)
	Msg string // lower case, without the argument and the position

	hint string
}

// Hint says how to mend the argument; it may be empty.
func (e *SyntaxError) Hint() string { return e.hint }

// withHint adds a cure to the error.
func (e *SyntaxError) withHint(format string, args ...any) *SyntaxError {
	e.hint = fmt.Sprintf(format, args...)
	return e
}

// Error names the argument, then what is wrong, then the place as a count of
// characters from 1.
func (e *SyntaxError) Error() string {
	left, right := window(e.Arg, e.Pos)
	shown := visible(e.Arg[left:right])
	if left > 0 {
		shown = ellipsis + shown
	}
	if right < len(e.Arg) {
		shown += ellipsis
	}
	return fmt.Sprintf("\"%s\": %s (at character %d)", shown, e.Msg, utf8.RuneCountInString(e.Arg[:e.Pos])+1)
}

// Pointer returns two lines: the argument, and a caret under the place.
func (e *SyntaxError) Pointer() string { return PointAt(e.Arg, e.Pos, e.Pos) }

const (
	ellipsis    = "..."
	windowBytes = 60 // shown on either side of the place, so that both lines fit a terminal
)

// PointAt returns two lines without a final newline: arg, and carets under the
// bytes from pos to end; one caret where end is not beyond pos. A long arg is
// shown in part, unprintable characters as Go escapes. Columns are counted one
// to a character: under wide characters the carets stand too far left.
func PointAt(arg string, pos, end int) string {
	left, right := window(arg, pos)
	end = min(max(end, pos), right)
	var prefix, suffix string
	if left > 0 {
		prefix = ellipsis
	}
	if right < len(arg) {
		suffix = ellipsis
	}
	before, under, after := visible(arg[left:pos]), visible(arg[pos:end]), visible(arg[end:right])
	indent := len(prefix) + utf8.RuneCountInString(before)
	carets := max(1, utf8.RuneCountInString(under))
	return prefix + before + under + after + suffix + "\n" +
		strings.Repeat(" ", indent) + strings.Repeat("^", carets)
}

// window returns the bounds of the part of s around pos that is worth showing,
// moved outward to whole characters.
func window(s string, pos int) (left, right int) {
	left, right = max(0, pos-windowBytes), min(len(s), pos+windowBytes)
	for left > 0 && !utf8.RuneStart(s[left]) {
		left--
	}
	for right < len(s) && !utf8.RuneStart(s[right]) {
		right++
	}
	return left, right
}

// visible replaces what a terminal would not show, or would obey, by escapes.
func visible(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := fmt.Sprintf("%q", r) // 'x' with its quotes
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += size
	}
	return b.String()
}
