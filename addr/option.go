package addr

import (
	"slices"
	"strings"

	"github.com/pkg/errors"
)

// Option is one row of the option table.
type Option struct {
	Name    string
	Aliases string // separated by spaces
	Groups  Group  // the address types it applies to
	Phase   Phase  // when it acts
	Doc     string // one sentence, without a full stop; says units and the default
	Ours    bool   // socat has no such option

	kind valueKind
	do   func(fd int, value any) error // a mechanical option: what it does to the descriptor; nil: an opener reads it through its Key
}

// Kind names the type of the option's value, as in socat's help.
func (o *Option) Kind() string { return o.kind.kindName() }

// AliasList returns the other names of the option.
func (o *Option) AliasList() []string { return strings.Fields(o.Aliases) }

// allOptions is the option table, in the order of declaration. optionsByName holds each name and alias; options that share a name differ in their groups.
var (
	allOptions    []*Option
	optionsByName map[string][]*Option
)

// Options returns the option table sorted by name.
func Options() []*Option {
	return slices.SortedFunc(slices.Values(allOptions), func(a, b *Option) int { return strings.Compare(a.Name, b.Name) })
}

// Key is how an opener reads an option: an option without one does not compile, one that nobody reads is an unused variable.
type Key[T any] struct{ opt *Option }

// declare adds a row whose value openers read through the returned key.
func declare[T any](kind kindOf[T], o Option) Key[T] {
	o.kind = kind
	allOptions = append(allOptions, &o)
	return Key[T]{&o}
}

// keyedRow adds a mechanical option that some openers take instead (Key.Take).
func keyedRow[T any](kind kindOf[T], o Option, do func(fd int, value T) error) Key[T] {
	return Key[T]{row(kind, o, do)}
}

// row adds a mechanical option: at its phase, do is called with the descriptor and the value.
func row[T any](kind kindOf[T], o Option, do func(fd int, value T) error) *Option {
	o.kind = kind
	o.do = func(fd int, value any) error { return do(fd, value.(T)) }
	allOptions = append(allOptions, &o)
	return &o
}

// Get returns the value given last, and whether the option was given at all.
func (k Key[T]) Get(b *Bound) (value T, given bool) {
	for i := range b.settings {
		if s := &b.settings[i]; s.opt == k.opt {
			s.used.Store(true)
			value, given = s.value.(T), true
		}
	}
	return value, given
}

// peek is Get for those who ask but do nothing about it: the option does not count as acted upon.
func (k Key[T]) peek(b *Bound) (value T, given bool) {
	for i := range b.settings {
		if s := &b.settings[i]; s.opt == k.opt {
			value, given = s.value.(T), true
		}
	}
	return value, given
}

// Or returns the value given last, else otherwise.
func (k Key[T]) Or(b *Bound, otherwise T) T {
	if v, ok := k.Get(b); ok {
		return v
	}
	return otherwise
}

// Take is Get for an opener that does itself what a mechanical option would do to the descriptor: Bound.apply passes it over from then on.
func (k Key[T]) Take(b *Bound) (value T, given bool) {
	for i := range b.settings {
		if s := &b.settings[i]; s.opt == k.opt {
			s.taken.Store(true)
		}
	}
	return k.Get(b)
}

// Given says whether the option was given.
func (k Key[T]) Given(b *Bound) bool {
	_, ok := k.Get(b)
	return ok
}

// All returns the values of a repeatable option in the order given.
func (k Key[T]) All(b *Bound) (values []T) {
	for i := range b.settings {
		if s := &b.settings[i]; s.opt == k.opt {
			s.used.Store(true)
			values = append(values, s.value.(T))
		}
	}
	return values
}

// lookupOption finds the option of that name for an address type in the given groups. If a name stands for several options, the one that is most
// specific to the type wins: the one with the fewest groups that the type shares with it beyond FD, NAMED and the like.
func lookupOption(name string, groups Group) (opt *Option, exists bool) {
	if optionsByName == nil {
		optionsByName = make(map[string][]*Option, 2*len(allOptions))
		for _, o := range allOptions {
			optionsByName[o.Name] = append(optionsByName[o.Name], o)
			for _, a := range o.AliasList() {
				optionsByName[a] = append(optionsByName[a], o)
			}
		}
	}
	named := optionsByName[strings.ToLower(name)]
	for _, o := range named {
		if o.Groups&groups == 0 {
			continue
		}
		// The device's own option (mtu, group, owner) goes before the descriptor's.
		if opt == nil || o.Groups&groups&GINTERFACE != 0 {
			opt = o
		}
	}
	return opt, len(named) > 0
}

// apply does what the mechanical options of the phase say, in the order given.
func (b *Bound) apply(phase Phase, fd int) error {
	for i := range b.settings {
		s := &b.settings[i]
		if s.opt.Phase != phase || s.opt.do == nil || s.taken.Load() {
			continue
		}
		s.used.Store(true)
		if err := s.opt.do(fd, s.value); err != nil {
			if b.optionFailed != nil {
				b.optionFailed(errors.Wrapf(err, "%s: option %s", b.Label(), s.word.Name))
				continue
			}
			return errors.Wrapf(err, "option %s", s.word.Name)
		}
	}
	return nil
}

// applyAll calls apply for several phases in turn.
func (b *Bound) applyAll(fd int, phases ...Phase) error {
	for _, p := range phases {
		if err := b.apply(p, fd); err != nil {
			return err
		}
	}
	return nil
}
