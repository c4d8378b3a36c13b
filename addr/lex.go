package addr

import "fmt"

// Theory of operation
//
// One lexer serves the address, the command of EXEC and option values. It cuts
// a token at the first of a set of separators that stands outside quotes and
// brackets, and removes one level of quoting on the way:
//
//	'...'        hard quote: only the backslash and the closing ' mean something
//	"..."        soft quote: hard quotes and brackets inside still nest
//	(...) [...] {...}   nest: separators inside do not split, the brackets stay
//	\n \t \r \a \b \f \v   the control character; \ before any other: that character
//
// Quotes at the top vanish; quotes inside another quote or a bracket stay, for
// whoever reads the text next (EXEC runs the same lexer over its command, so
// EXEC:'prog "a b"' gives prog one argument). A closing bracket without an
// opening one is plain text. Unlike a shell's, a hard quote honours the
// backslash, and a soft quote minds an apostrophe: "don't" is not closed.
//
// All of this is how socat 1.7.4.4 acts. Where socat reads on past the end of
// its argument (an open quote or bracket, a last backslash) this is an error.

const (
	maxAddress = 1 << 20 // bytes; Linux takes at most 128 KiB in one argument (MAX_ARG_STRLEN)
	maxNesting = 64      // quotes and brackets inside each other
)

// separators is the set of texts that end a token at the top level.
type separators uint8

const (
	sepColon  separators = 1 << iota // :
	sepComma                         // ,
	sepEquals                        // =
	sepSpace                         // the space character alone: a tab does not split
	sepDual                          // !!
)

// at tells whether one of the separators begins at s[i].
func (set separators) at(s string, i int) bool {
	switch s[i] {
	case ':':
		return set&sepColon != 0
	case ',':
		return set&sepComma != 0
	case '=':
		return set&sepEquals != 0
	case ' ':
		return set&sepSpace != 0
	case '!':
		return set&sepDual != 0 && i+1 < len(s) && s[i+1] == '!'
	}
	return false
}

type lexer struct {
	src  string
	what string // what src is, for messages: "address", "command"
	pos  int    // next byte to read
	out  []byte // the unquoted token so far
}

// at tells whether sep is what comes next.
func (l *lexer) at(sep separators) bool { return l.pos < len(l.src) && sep.at(l.src, l.pos) }

// fail makes the error for the place pos.
func (l *lexer) fail(pos int, format string, args ...any) *SyntaxError {
	return &SyntaxError{Arg: l.src, Pos: pos, Msg: fmt.Sprintf(format, args...)}
}

// token reads up to the first of the separators, which is left unread, or to
// the end, and returns the text without its quoting.
func (l *lexer) token(ends separators) (string, error) {
	l.out = l.out[:0]
	for l.pos < len(l.src) && !ends.at(l.src, l.pos) {
		if err := l.element(0, 0); err != nil {
			return "", err
		}
	}
	return string(l.out), nil
}

// element reads one character, escape, quote or bracketed text inside the quote
// or bracket that opened with open; 0 at the top level.
func (l *lexer) element(open byte, depth int) error {
	c := l.src[l.pos]
	switch {
	case c == 0:
		return l.fail(l.pos, "a zero byte cannot stand in %s", article(l.what))
	case c == '\\':
		return l.escape()
	case open == '\'':
	case c == '\'', c == '"':
		return l.group(c, c, open, depth+1)
	case c == '(':
		return l.group(c, ')', open, depth+1)
	case c == '[':
		return l.group(c, ']', open, depth+1)
	case c == '{':
		return l.group(c, '}', open, depth+1)
	}
	l.out = append(l.out, c)
	l.pos++
	return nil
}

// group reads from the opening character at l.pos to its end, inside what the
// character outer opened; 0 at the top level. Brackets, and quotes that are not
// at the top level, belong to the text.
func (l *lexer) group(open, end, outer byte, depth int) error {
	start := l.pos
	keep := open != end || outer != 0
	if depth > maxNesting {
		return l.fail(start, "quotes and brackets are nested more than %d deep", maxNesting)
	}
	if keep {
		l.out = append(l.out, open)
	}
	l.pos++
	for l.pos < len(l.src) && l.src[l.pos] != end {
		if err := l.element(open, depth); err != nil {
			return err
		}
	}
	if l.pos == len(l.src) {
		kind := "bracket"
		if open == end {
			kind = "quote"
		}
		where := "here"
		if outer != 0 { // often the outer one is what lacks its partner: "(a"
			where = fmt.Sprintf("here inside %c", outer)
		}
		return l.fail(start, "unexpected end of %s: %s %c opened %s is not closed", l.what, kind, open, where).withHint("close it with %c, or write \\%c where the character itself is meant", end, open)
	}
	if keep {
		l.out = append(l.out, end)
	}
	l.pos++
	return nil
}

// controlEscapes pairs the letter after a backslash with what it stands for.
// Seen with socat: \e \x41 \101 are the bare characters e x41 101.
const controlEscapes = "n\nt\tr\ra\ab\bf\fv\v"

func (l *lexer) escape() error {
	if l.pos+1 == len(l.src) {
		return l.fail(l.pos, "unexpected end of %s: nothing follows the backslash", l.what).withHint(`write \\ where a backslash is meant`)
	}
	c := l.src[l.pos+1]
	switch c {
	case 0:
		return l.fail(l.pos+1, "a zero byte cannot stand in %s", article(l.what))
	case '0':
		// socat makes a zero byte, which silently ends its C string there.
		return l.fail(l.pos, `\0 is a zero byte, which cannot stand in %s`, article(l.what))
	}
	for i := 0; i < len(controlEscapes); i += 2 {
		if controlEscapes[i] == c {
			c = controlEscapes[i+1]
			break
		}
	}
	l.out = append(l.out, c)
	l.pos += 2
	return nil
}

func article(what string) string {
	if what[0] == 'a' {
		return "an " + what
	}
	return "a " + what
}

// SplitCommand splits the command of an EXEC address, already unquoted once by
// Parse, at spaces into the argument vector of the program. Quotes, brackets and
// backslashes act as in an address: EXEC:'printf "%s" {a b}' gives printf, %s
// and {a b}. An empty or blank command gives an empty vector. The error is a
// *SyntaxError whose Arg is s.
//
// socat 1.7.4.4 passes one empty argument more when the command begins or ends
// with spaces; here only "" or ” makes an empty argument.
func SplitCommand(s string) ([]string, error) {
	var argv []string
	l := lexer{src: s, what: "command"}
	for {
		for l.at(sepSpace) {
			l.pos++
		}
		if l.pos == len(s) {
			return argv, nil
		}
		arg, err := l.token(sepSpace)
		if err != nil {
			return nil, err
		}
		argv = append(argv, arg)
	}
}

// SplitValue cuts the value of an option or parameter such as "1:2:x01",
// "[::1]:80" or `6:13:"a:b"` at the colons outside quotes and brackets. The
// value has been unquoted by Parse: what quoting is left belongs to the text
// (ParseDalan reads it) and stays in the pieces, so that joining them with ":"
// gives s again. A quote or bracket without its partner is plain text, a
// backslash protects only inside a quote. The result has at least one piece.
func SplitValue(s string) []string {
	var pieces []string
	l := lexer{src: s, what: "value"}
	start := 0
	for l.pos < len(s) {
		if l.at(sepColon) {
			pieces = append(pieces, s[start:l.pos])
			l.pos++
			start = l.pos
			continue
		}
		at := l.pos
		l.out = l.out[:0]
		// The bounded nesting bounds the reading ahead of unclosed brackets, too.
		if s[at] == '\\' || l.element(0, 0) != nil {
			l.pos = at + 1
		}
	}
	return append(pieces, s[start:])
}
