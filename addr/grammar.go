package addr

import "strings"

// Theory of operation
//
//	spec    = single [ "!!" single ]
//	single  = keyword { ":" param } { "," [ option ] }
//	        | "-" ...          STDIO
//	        | digits ...       FD:digits
//	        | path/with ...    GOPEN:path/with
//	option  = name [ "=" value ]
//
// Parse turns one argument into a Spec and knows no keyword and no option: it
// finds the words, removes one level of quoting (lex.go) and remembers where
// each word stood. Nothing is trimmed and nothing changes case: TCP is not
// " TCP", as in socat. Keyword and option name end before what separates them,
// so IPv6 addresses go in brackets, and a value may hold ":" and "=".

// A Spec is one address of the command line.
type Spec struct {
	Text  string   // the argument as given
	Parts []Single // one, or two for A!!B: A is read from, B is written to
}

// Short says in which short form an address was written.
type Short uint8

const (
	NotShort  Short = iota // with its keyword
	ShortDash              // "-" for STDIO
	ShortFD                // "3" for FD:3
	ShortPath              // "./f" for GOPEN:./f
)

// A Single is one half of a Spec, or the whole of it.
type Single struct {
	Text string // as written, from the keyword to the last option
	Pos  int    // byte offset of Text in the argument

	Keyword    string // unquoted, case as written; of a short form STDIO, FD or GOPEN
	KeywordPos int    // byte offset of the keyword in the argument
	Short      Short

	// Params are the words between colons: none for "TCP", one empty one for
	// "TCP:". The number or path of a short form is its first one.
	Params []Word
	// RawParams is what was written from the first parameter to the last, colons
	// and quotes included; it begins at Params[0].Pos.
	RawParams string

	Options []OptionWord // in order; empty ones (",,") are left out
}

// A Word is a piece of an address after removal of one level of quoting.
type Word struct {
	Text string // never holds a zero byte
	Pos  int    // byte offset in the argument
	Raw  string // as written
}

// An OptionWord is one option as written: "name", "name=" or "name=value".
type OptionWord struct {
	Name     string // unquoted, case as written, never empty
	Value    string // unquoted; without a zero byte
	HasValue bool   // there was a "="
	Pos      int    // byte offset of the option in the argument
	Raw      string // the whole option as written
	ValuePos int    // byte offset of the value; of the option's end without one
	RawValue string // the value as written
}

// ParamText returns the parameters joined by colons, as one text: what a
// command (EXEC:prog a:b) or path means that holds an unquoted colon.
func (s *Single) ParamText() string {
	texts := make([]string, len(s.Params))
	for i, p := range s.Params {
		texts[i] = p.Text
	}
	return strings.Join(texts, ":")
}

// Parse reads one address argument. The error is a *SyntaxError.
func Parse(arg string) (*Spec, error) {
	p := parser{lexer{src: arg, what: "address"}}
	if len(arg) > maxAddress {
		return nil, p.fail(maxAddress, "the address is longer than %d bytes", maxAddress)
	}
	spec := &Spec{Text: arg}
	for {
		single, err := p.single()
		if err != nil {
			return nil, err
		}
		spec.Parts = append(spec.Parts, single)
		if !p.at(sepDual) {
			return spec, nil
		}
		if len(spec.Parts) == 2 {
			// socat ignores the third address without a word.
			return nil, p.fail(p.pos, "a dual address joins two addresses by !!, not more").withHint(`write \!\! where the characters themselves are meant`)
		}
		p.pos += len("!!")
	}
}

type parser struct{ lexer }

// word reads one token and where it stood.
func (p *parser) word(ends separators) (Word, error) {
	start := p.pos
	text, err := p.token(ends)
	return Word{Text: text, Pos: start, Raw: p.src[start:p.pos]}, err
}

func (p *parser) single() (Single, error) {
	const ends = sepColon | sepComma | sepDual
	start := p.pos
	keyword, err := p.word(ends)
	if err != nil {
		return Single{}, err
	}
	s := Single{Pos: start, Keyword: keyword.Text, KeywordPos: start}
	switch {
	case keyword.Text == "":
		return Single{}, p.fail(start, `unknown device/address "": an address begins with its type, as in TCP:host:port`)
	case keyword.Text == "-":
		s.Keyword, s.Short = "STDIO", ShortDash
	case isNumber(keyword.Text):
		// socat 1.7.4.4 takes a single digit only, though its manual says number.
		s.Keyword, s.Short, s.Params = "FD", ShortFD, []Word{keyword}
	case strings.Contains(keyword.Text, "/"):
		s.Keyword, s.Short, s.Params = "GOPEN", ShortPath, []Word{keyword}
	}
	for p.at(sepColon) {
		p.pos++
		param, err := p.word(ends)
		if err != nil {
			return Single{}, err
		}
		s.Params = append(s.Params, param)
	}
	if len(s.Params) > 0 {
		s.RawParams = p.src[s.Params[0].Pos:p.pos]
	}
	for p.at(sepComma) {
		p.pos++
		if p.pos == len(p.src) || p.at(sepComma|sepDual) {
			continue // an empty option means nothing, as in socat
		}
		option, err := p.option()
		if err != nil {
			return Single{}, err
		}
		s.Options = append(s.Options, option)
	}
	s.Text = p.src[start:p.pos]
	return s, nil
}

func (p *parser) option() (OptionWord, error) {
	name, err := p.word(sepComma | sepEquals | sepDual)
	if err != nil {
		return OptionWord{}, err
	}
	if name.Text == "" {
		// socat ignores it, and every option after it, without a word.
		return OptionWord{}, p.fail(name.Pos, "the name of the option is missing").withHint("an option is written NAME or NAME=VALUE")
	}
	o := OptionWord{Name: name.Text, Pos: name.Pos, ValuePos: p.pos}
	if p.at(sepEquals) {
		p.pos++
		value, err := p.word(sepComma | sepDual)
		if err != nil {
			return OptionWord{}, err
		}
		o.HasValue, o.Value, o.ValuePos, o.RawValue = true, value.Text, value.Pos, value.Raw
	}
	o.Raw = p.src[o.Pos:p.pos]
	return o, nil
}

func isNumber(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// String returns the address in canonical spelling: long form, quotes only where
// they are needed. It parses to the same keywords, parameters and options, as
// long as it is not longer than Parse accepts.
func (s *Spec) String() string {
	var b strings.Builder
	for i := range s.Parts {
		if i > 0 {
			b.WriteString("!!")
		}
		b.WriteString(s.Parts[i].String())
	}
	return b.String()
}

// String returns the half in canonical spelling, see Spec.String.
func (s *Single) String() string {
	const ends = sepColon | sepComma | sepDual
	var b strings.Builder
	b.WriteString(quote(s.Keyword, ends))
	for _, p := range s.Params {
		b.WriteByte(':')
		b.WriteString(quote(p.Text, ends))
	}
	for _, o := range s.Options {
		b.WriteByte(',')
		b.WriteString(o.String())
	}
	return b.String()
}

// String returns the option in canonical spelling, see Spec.String.
func (o *OptionWord) String() string {
	name := quote(o.Name, sepComma|sepEquals|sepDual)
	if !o.HasValue {
		return name
	}
	return name + "=" + quote(o.Value, sepComma|sepDual)
}

// quote spells text so that the lexer gives it back before any of ends: as it
// is if that works, else in hard quotes, else with backslashes.
func quote(text string, ends separators) string {
	l := lexer{src: text, what: "address"}
	read, err := l.token(ends)
	// Two ! are a separator, and the next thing may begin with one.
	if err == nil && l.pos == len(text) && read == text && !strings.HasSuffix(text, "!") {
		return text
	}
	if !strings.ContainsAny(text, `'\`) {
		return "'" + text + "'"
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if strings.IndexByte(`\'"([{:,=!`, text[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
