package addr

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"tunsplice/relay"
	"tunsplice/relay/secure"

	"github.com/pkg/errors"
)

// Bound is one address with every word checked and every value converted; nothing is open yet. It may be opened many times, also at
// the same time.
type Bound struct {
	*Type
	Spec   *Single
	Params []string
	Mode   Mode // how the session uses it

	settings     []setting
	passedOver   []string    // names of options that were taken by -g and can't do anything
	optionFailed func(error) // BindConfig.OptionFailed
	key          *secure.Key // nil: none
	tls          *tlsSetup   // of a TLS address: what its options come to; nil: there is no TLS
}

// setting is one option as given.
type setting struct {
	opt   *Option
	value any
	word  OptionWord
	used  atomic.Bool // somebody acted on it
	taken atomic.Bool // an opener does what it says, not Bound.apply
}

// Address is a bound command line argument: one address for both directions, or two joined by "!!".
type Address struct {
	Text  string
	Read  *Bound // nil if the session does not read from the address
	Write *Bound // equal to Read unless dual; nil if the session does not write to it
}

// BindConfig says how addresses are checked.
type BindConfig struct {
	Mode       Mode // the directions the session needs
	AnyOptions bool // -g: options of foreign groups are taken, and named in a warning where they mean nothing
	// OptionFailed takes the error of an option that is wrong or that the kernel refuses; the address goes on without it (-s). nil: such an error ends the address.
	OptionFailed func(error)
}

// Mistake is an error in an argument of the command line.
type Mistake struct {
	Arg  string // the whole argument
	Pos  int    // offset of the wrong word in it, -1 for none
	Msg  string
	hint string
}

// Error names the argument and the place.
func (m *Mistake) Error() string {
	if m.Pos <= 0 {
		return fmt.Sprintf("%q: %s", m.Arg, m.Msg)
	}
	return fmt.Sprintf("%q: %s (at character %d)", m.Arg, m.Msg, m.Pos+1)
}

// Address returns the argument.
func (m *Mistake) Address() string { return m.Arg }

// Hint says how to mend the argument; it may be empty.
func (m *Mistake) Hint() string { return m.hint }

// withHint is an error that knows a cure.
type withHint struct {
	error
	hint string
}

func (w withHint) Hint() string  { return w.hint }
func (w withHint) Unwrap() error { return w.error }

// Hint returns the cure that err, or an error inside it, knows; "" if none.
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// Bind checks an address against the tables. The error is a *Mistake.
func Bind(spec *Spec, c BindConfig) (*Address, error) {
	a := &Address{Text: spec.Text}
	if len(spec.Parts) == 1 {
		b, err := bindSingle(spec, &spec.Parts[0], c.Mode, c)
		if err != nil {
			return nil, err
		}
		if c.Mode&Read != 0 {
			a.Read = b
		}
		if c.Mode&Write != 0 {
			a.Write = b
		}
		return a, nil
	}
	// Both parts are checked, but a direction that the session does not use is not opened.
	r, err := bindSingle(spec, &spec.Parts[0], Read, c)
	if err != nil {
		return nil, err
	}
	w, err := bindSingle(spec, &spec.Parts[1], Write, c)
	if err != nil {
		return nil, err
	}
	for i, b := range []*Bound{r, w} {
		if b.isHub() {
			return nil, &Mistake{Arg: spec.Text, Pos: spec.Parts[i].Pos, Msg: "a hub can't be one half of a dual address", hint: "with -u or -U it is used in one direction"}
		}
	}
	if c.Mode&Read != 0 {
		a.Read = r
	}
	if c.Mode&Write != 0 {
		a.Write = w
	}
	return a, nil
}

// bounds returns the addresses to open: none, one or two.
func (a *Address) bounds() []*Bound {
	switch {
	case a.Read == nil && a.Write == nil:
		return nil
	case a.Read == nil || a.Read == a.Write:
		return []*Bound{a.Write}
	case a.Write == nil:
		return []*Bound{a.Read}
	}
	return []*Bound{a.Read, a.Write}
}

func bindSingle(spec *Spec, s *Single, mode Mode, c BindConfig) (*Bound, error) {
	mistake := func(pos int, hint, format string, args ...any) error {
		return &Mistake{Arg: spec.Text, Pos: pos, Msg: fmt.Sprintf(format, args...), hint: hint}
	}
	t := LookupType(s.Keyword)
	if t == nil {
		hint := "\"tunsplice -h\" lists the address types"
		if isTypeNotYet(s.Keyword) {
			return nil, mistake(s.KeywordPos, hint, "unknown device/address %q%s", s.Keyword, notYet)
		}
		if near := Suggest(strings.ToUpper(s.Keyword), typeNames()); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, mistake(s.KeywordPos, hint, "unknown device/address %q", s.Keyword)
	}
	b := &Bound{Type: t, Spec: s, Mode: mode, optionFailed: c.OptionFailed}
	if t.Tail {
		s = rejoinCommand(t, s)
		b.Spec = s
	}
	for _, p := range s.Params {
		b.Params = append(b.Params, p.Text)
	}
	if least, most := t.paramRange(); len(b.Params) < least || len(b.Params) > most {
		want := fmt.Sprint(least)
		if most != least {
			want = fmt.Sprintf("%d to %d", least, most)
		}
		return nil, mistake(s.Pos, "the form is "+t.Synopsis(), "%s: wrong number of parameters (%d instead of %s)", s.Keyword, len(b.Params), want)
	}
	b.settings = make([]setting, 0, len(s.Options))
	for _, w := range s.Options {
		if err := b.bindOption(w, c, mistake); err != nil {
			if c.OptionFailed == nil {
				return nil, err
			}
			c.OptionFailed(err)
		}
	}
	if missing := mode &^ t.Can; missing != 0 {
		return nil, mistake(s.Pos, "it can be used for "+t.Can.String()+" only: see -u, -U and dual addresses (A!!B)", "%s is no address for %s", t.Name, missing)
	}
	if t.Check != nil {
		if err := t.Check(b); err != nil {
			return nil, mistake(s.Pos, Hint(err), "%s: %s", s.Keyword, relay.ErrorText(err))
		}
	}
	if err := b.checkEvery(); err != nil {
		return nil, mistake(s.Pos, Hint(err), "%s: %s", s.Keyword, relay.ErrorText(err))
	}
	return b, nil
}

func (b *Bound) bindOption(w OptionWord, c BindConfig, mistake func(int, string, string, ...any) error) error {
	opt, exists := lookupOption(w.Name, b.Groups)
	switch {
	case !exists:
		hint := fmt.Sprintf("\"tunsplice help %s\" lists the options", b.Name)
		if isOptionNotYet(w.Name) {
			return mistake(w.Pos, hint, "unknown option %q%s", w.Name, notYet)
		}
		if near := Suggest(strings.ToLower(w.Name), b.optionNames()); near != "" {
			hint = "did you mean " + near + "?"
		}
		return mistake(w.Pos, hint, "unknown option %q", w.Name)
	case opt == nil && c.AnyOptions:
		// What acts on a descriptor is tried, if the address has such a phase. The rest would mean something to openers that do not expect it.
		if opt, _ = lookupOption(w.Name, ^Group(0)); opt.do == nil {
			b.passedOver = append(b.passedOver, w.Name)
			return nil
		}
	case opt == nil:
		other, _ := lookupOption(w.Name, ^Group(0))
		return mistake(w.Pos, fmt.Sprintf("it is for addresses of the groups %s", other.Groups), "option %q is not for %s addresses", w.Name, b.Name)
	}
	v, err := opt.kind.parseValue(w.Value, w.HasValue)
	if err != nil {
		return mistake(w.Pos, fmt.Sprintf("%s: %s", opt.Name, opt.Doc), "option %q: %s", w.Raw, err)
	}
	b.settings = append(b.settings, setting{opt: opt, value: v, word: w})
	return nil
}

// optionNames lists the names of the options that the address takes, for suggestions.
func (b *Bound) optionNames() []string {
	var names []string
	for _, o := range allOptions {
		if o.Groups&b.Groups != 0 {
			names = append(append(names, o.Name), o.AliasList()...)
		}
	}
	return names
}

// unused returns the options that nobody acted on in an address that has been opened.
func (b *Bound) unused() (names []string) {
	names = slices.Clone(b.passedOver)
	for i := range b.settings {
		if s := &b.settings[i]; !s.used.Load() && !slices.Contains(names, s.word.Name) {
			names = append(names, s.word.Name)
		}
	}
	return names
}

// Param returns parameter i, or "" if it was left out.
func (b *Bound) Param(i int) string {
	if i < len(b.Params) {
		return b.Params[i]
	}
	return ""
}

// Label names the address in messages: keyword and parameters, as "TCP-LISTEN:80".
func (b *Bound) Label() string {
	return strings.Join(append([]string{b.Name}, b.Params...), ":")
}

// rejoinCommand gives a last parameter its colons back: "TUN:fd00::1/64", "EXEC:ssh host tunsplice - TUN:10.0.0.1/24,up,pty". socat refuses such lines. If some of the words
// after the first comma of a program's command line are no options of the address, the command goes on to the last of these.
func rejoinCommand(t *Type, s *Single) *Single {
	if len(s.Params) <= 1 {
		return s
	}
	r := *s
	last := -1
	for i, w := range s.Options {
		if opt, _ := lookupOption(w.Name, t.Groups); opt == nil && t.Groups&GFORK != 0 && !isOptionNotYet(w.Name) {
			last = i
		}
	}
	command := s.Params[0]
	var sb strings.Builder
	sb.WriteString(s.ParamText())
	for _, w := range s.Options[:last+1] {
		sb.WriteByte(',')
		sb.WriteString(w.Name)
		if w.HasValue {
			sb.WriteString("=" + w.Value)
		}
	}
	command.Text = sb.String()
	r.Params = []Word{command}
	r.Options = s.Options[last+1:]
	return &r
}
