package addr

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// Mode says in which directions an address is used, or can be.
type Mode uint8

// The directions: Read means that data come from the address.
const (
	Read Mode = 1 << iota
	Write
	ReadWrite = Read | Write
)

// String names the mode for messages.
func (m Mode) String() string { return [...]string{"", "reading", "writing", "reading and writing"}[m] }

// Param describes one parameter of an address type.
type Param struct {
	Name     string // as in the documentation: host, port, filename
	Optional bool
}

// Example is a command line that works as printed, and what it does.
type Example struct {
	Args string // what stands after the program's name, quoted for a shell
	Does string // one sentence without a full stop
}

// Type is one row of the table of address types.
type Type struct {
	Name     string
	Aliases  string // separated by spaces
	Params   []Param
	Groups   Group
	Can      Mode
	Summary  string // one line, for lists
	Doc      string // more, for the manual; may be empty
	Examples []Example
	Ours     bool // socat has no such type
	Tail     bool // the parameter takes the whole text, colons included (a command line, an IPv6 address)

	complete func() // puts the texts of a template into their final form, once; nil: they are written out

	// narrow says what of Can is left for the descriptor that the address names; nil: all.
	narrow func(s *Single) Mode
	// Check finds mistakes in parameters and options that can be found without opening anything; nil: there are none to find.
	Check func(b *Bound) error
	// Open opens the address, or begins to listen.
	Open func(ctx context.Context, b *Bound, env *Env) (Source, error)
}

// AliasList returns the other names of the type.
func (t *Type) AliasList() []string { return strings.Fields(t.Aliases) }

// Synopsis returns the form of the address: "TCP-CONNECT:<host>:<port>".
func (t *Type) Synopsis() string {
	var sb strings.Builder
	sb.WriteString(t.Name)
	for _, p := range t.Params {
		if p.Optional {
			sb.WriteString("[:<" + p.Name + ">]")
		} else {
			sb.WriteString(":<" + p.Name + ">")
		}
	}
	return sb.String()
}

// paramRange returns how many parameters the type takes.
func (t *Type) paramRange() (least, most int) {
	for _, p := range t.Params {
		if !p.Optional {
			least++
		}
	}
	return least, len(t.Params)
}

var (
	allTypes    []*Type
	typesByName map[string]*Type
)

// addType adds a row to the table of address types.
func addType(t Type) *Type {
	t.Groups |= gEvery
	allTypes = append(allTypes, &t)
	return &t
}

// template marks Summary, Doc and Examples as texts with words to be replaced: pairs as for strings.NewReplacer. That happens when the type is first asked for, so that a start of the
// program does not pay for the texts of all types.
func (t *Type) template(pairs ...string) {
	t.complete = sync.OnceFunc(func() {
		put := strings.NewReplacer(pairs...).Replace
		t.Summary, t.Doc = put(t.Summary), put(t.Doc)
		examples := make([]Example, len(t.Examples))
		for i, e := range t.Examples {
			examples[i] = Example{put(e.Args), put(e.Does)}
		}
		t.Examples = examples
	})
}

// Types returns the table of address types sorted by name.
func Types() []*Type {
	for _, t := range allTypes {
		if t.complete != nil {
			t.complete()
		}
	}
	return slices.SortedFunc(slices.Values(allTypes), func(a, b *Type) int { return strings.Compare(a.Name, b.Name) })
}

// LookupType finds an address type by name or alias, in any case; nil if there is none.
func LookupType(keyword string) *Type {
	if typesByName == nil {
		typesByName = make(map[string]*Type, 3*len(allTypes))
		for _, t := range allTypes {
			typesByName[t.Name] = t
			for _, a := range t.AliasList() {
				typesByName[a] = t
			}
		}
	}
	t := typesByName[strings.ToUpper(keyword)]
	if t != nil && t.complete != nil {
		t.complete()
	}
	return t
}

// typeNames returns every keyword, for suggestions.
func typeNames() []string {
	var names []string
	for _, t := range allTypes {
		names = append(append(names, t.Name), t.AliasList()...)
	}
	return names
}
