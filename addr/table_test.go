package addr

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What must hold for every row of the two tables.

func TestTypeTable(t *testing.T) {
	seen := map[string]*Type{}
	for _, row := range Types() {
		for _, name := range append([]string{row.Name}, row.AliasList()...) {
			if name != strings.ToUpper(name) {
				t.Errorf("%s: name %s is not in capitals", row.Name, name)
			}
			if other := seen[name]; other != nil {
				t.Errorf("%s is a name of %s and of %s", name, other.Name, row.Name)
			}
			seen[name] = row
			if LookupType(strings.ToLower(name)) != row {
				t.Errorf("%s is not found by %s", row.Name, name)
			}
		}
		checkLine(t, row.Name+": summary", row.Summary)
		if len(row.Examples) < 2 {
			t.Errorf("%s: %d examples, wanted 2", row.Name, len(row.Examples))
		}
		for _, e := range row.Examples {
			checkLine(t, row.Name+": example", e.Does)
		}
		if row.Can == 0 || row.Can&^ReadWrite != 0 {
			t.Errorf("%s: can be used for %d", row.Name, row.Can)
		}
		if row.Groups&^gEvery == 0 {
			t.Errorf("%s: in no group", row.Name)
		}
		if row.Open == nil {
			t.Errorf("%s: cannot be opened", row.Name)
		}
		optional := false
		for _, p := range row.Params {
			if optional && !p.Optional {
				t.Errorf("%s: parameter %s comes after an optional one", row.Name, p.Name)
			}
			optional = p.Optional
		}
	}
	if !slices.IsSortedFunc(Types(), func(a, b *Type) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("Types is not sorted")
	}
}

// checkLine checks a line of documentation: one sentence without a full stop.
func checkLine(t *testing.T, what, text string) {
	t.Helper()
	switch {
	case text == "":
		t.Errorf("%s: empty", what)
	case strings.ContainsAny(text, "\n\t"):
		t.Errorf("%s: more than one line: %q", what, text)
	case strings.HasSuffix(text, ".") || strings.Contains(text, ". "):
		t.Errorf("%s: not one sentence without a full stop: %q", what, text)
	case strings.TrimSpace(text) != text:
		t.Errorf("%s: space around %q", what, text)
	}
}

func TestOptionTable(t *testing.T) {
	named := map[string][]*Option{}
	for _, row := range Options() {
		checkLine(t, row.Name+": doc", row.Doc)
		if row.Groups == 0 {
			t.Errorf("%s: in no group", row.Name)
		}
		if row.kind == nil || row.Kind() == "" {
			t.Errorf("%s: no kind", row.Name)
		}
		if _, known := valueForms[row.Kind()]; !known {
			t.Errorf("%s: help knows no form for values of kind %s", row.Name, row.Kind())
		}
		if row.Phase > PhSpecific {
			t.Errorf("%s: unknown phase %d", row.Name, row.Phase)
		}
		if len(row.TypesWith()) == 0 {
			t.Errorf("%s: no address type takes it", row.Name)
		}
		for _, name := range append([]string{row.Name}, row.AliasList()...) {
			if name != strings.ToLower(name) || strings.ContainsAny(name, "=, :") {
				t.Errorf("%s: %q is no name for an option", row.Name, name)
			}
			named[name] = append(named[name], row)
		}
	}
	if !slices.IsSortedFunc(Options(), func(a, b *Option) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("Options is not sorted")
	}
	// A name may stand for two options if it is plain which one an address means: the device's own goes before the descriptor's.
	for name, rows := range named {
		for i, a := range rows {
			for _, b := range rows[i+1:] {
				if a.Groups&b.Groups != 0 {
					t.Errorf("%s and %s share the name %s and the groups %s", a.Name, b.Name, name, a.Groups&b.Groups)
				}
				for _, typ := range Types() {
					if a.Groups&typ.Groups != 0 && b.Groups&typ.Groups != 0 && (a.Groups&GINTERFACE != 0) == (b.Groups&GINTERFACE != 0) {
						t.Errorf("%s: name %s means %s (%s) and %s (%s)", typ.Name, name, a.Name, a.Groups, b.Name, b.Groups)
					}
				}
			}
		}
	}
}

// TestExamples binds the addresses of every example: each keyword, parameter and option must be right.
func TestExamples(t *testing.T) {
	for _, row := range Types() {
		used := false
		for _, e := range row.Examples {
			words, err := SplitCommand(e.Args)
			if err != nil {
				t.Errorf("%s: %s: %v", row.Name, e.Args, err)
				continue
			}
			left, right := ReadWrite, ReadWrite
			var addresses []string
			for _, w := range words {
				switch {
				case w == "-u":
					left, right = Read, Write
				case w == "-U":
					left, right = Write, Read
				case strings.HasPrefix(w, "-") && len(addresses) == 0 && len(w) > 1 && !strings.ContainsAny(w[1:2], ",:!"):
				default:
					addresses = append(addresses, w)
				}
			}
			if len(addresses) != 2 {
				t.Errorf("%s: %s: %d addresses: %q", row.Name, e.Args, len(addresses), addresses)
				continue
			}
			for i, mode := range []Mode{left, right} {
				spec, err := Parse(addresses[i])
				if err != nil {
					t.Errorf("%s: %s: %v", row.Name, e.Args, err)
					continue
				}
				for _, part := range spec.Parts {
					used = used || LookupType(part.Keyword) == row
				}
				if _, err := Bind(spec, BindConfig{Mode: mode}); err != nil && !missingHere(err) {
					t.Errorf("%s: %s: %v", row.Name, e.Args, err)
				}
			}
		}
		if !used {
			t.Errorf("%s: no example uses it by its name or an alias", row.Name)
		}
	}
}

// missingHere says that an example names a program, file or descriptor that this machine lacks.
func missingHere(err error) bool {
	text := fmt.Sprint(err)
	return strings.Contains(text, "not found") || strings.Contains(text, "No such file") || strings.Contains(text, "is not open")
}

func TestGroupNames(t *testing.T) {
	for i, name := range groupNames {
		if groupTitles[1<<i] == "" && Group(1<<i)&gEvery == 0 {
			t.Errorf("group %s has no title", name)
		}
	}
	if got := (GFD | GTCP).String(); got != "FD,TCP" {
		t.Error(got)
	}
	if len(phaseNames) != int(PhSpecific)+1 {
		t.Errorf("%d names for %d phases", len(phaseNames), PhSpecific+1)
	}
}

// TestOptionGroups looks that help shows each option of a type exactly once.
func TestOptionGroups(t *testing.T) {
	for _, typ := range Types() {
		shown := map[*Option]int{}
		for _, g := range typ.OptionGroups() {
			if g.Name == "" {
				t.Errorf("%s: a group without a name", typ.Name)
			}
			for _, o := range g.Options {
				shown[o]++
			}
		}
		for _, o := range Options() {
			found, _ := lookupOption(o.Name, typ.Groups)
			if want := 0; found == o {
				want = 1
				if shown[o] != want {
					t.Errorf("%s: option %s is shown %d times", typ.Name, o.Name, shown[o])
				}
			} else if shown[o] != want {
				t.Errorf("%s: option %s is shown, but means another one", typ.Name, o.Name)
			}
		}
	}
}

// What is in the tables is no more among the words that are not here yet.
func TestNotYet(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range strings.Fields(typesNotYet) {
		if LookupType(name) != nil || seen[name] || name != strings.ToUpper(name) {
			t.Errorf("%s is no address type to come", name)
		}
		seen[name] = true
	}
	clear(seen)
	for _, name := range strings.Fields(optionsNotYet) {
		if _, exists := lookupOption(name, 0); exists || seen[name] || name != strings.ToLower(name) {
			t.Errorf("%s is no option to come", name)
		}
		seen[name] = true
	}
}
