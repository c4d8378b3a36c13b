package addr

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated pages anew")

// TestReferencePages makes docs/addresses.md and docs/options.md from the tables and compares them with what is there; -update writes them.
func TestReferencePages(t *testing.T) {
	for name, write := range map[string]func(*bytes.Buffer){"addresses.md": writeAddressPage, "options.md": writeOptionPage} {
		var page bytes.Buffer
		write(&page)
		path := filepath.Join("..", "docs", name)
		if *update {
			if err := os.WriteFile(path, page.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		there, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(there, page.Bytes()) {
			t.Errorf("docs/%s is stale: go test ./addr -run TestReferencePages -update", name)
		}
	}
}

const generated = "<!-- made from the tables in addr/ by \"go test ./addr -run TestReferencePages -update\" -->\n\n"

func writeAddressPage(w *bytes.Buffer) {
	fmt.Fprint(w, "# Address types\n\n", generated)
	fmt.Fprint(w, "An address is `KEYWORD:parameter:parameter,option,option=value,...`; keywords in any case. `-` is `STDIO`, a number `N` is `FD:N`, a path with `/` is\n",
		"`GOPEN:path`; `A!!B` is read from A and written to B. The options are explained in [options.md](options.md).\n\n")
	fmt.Fprint(w, "| address | what it is |\n|---|---|\n")
	for _, t := range Types() {
		fmt.Fprintf(w, "| [%s](#%s) | %s |\n", code(t.Synopsis()), strings.ToLower(t.Name), cell(t.Summary))
	}
	for _, t := range Types() {
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n%s\n", t.Name, code(t.Synopsis()), sentence(t.Summary))
		var facts []string
		if a := t.AliasList(); len(a) > 0 {
			facts = append(facts, "Other names: "+codes(a)+".")
		}
		if t.Can != ReadWrite {
			facts = append(facts, "For "+t.Can.String()+" only.")
		}
		if t.Ours {
			facts = append(facts, "Not known to socat.")
		}
		if len(facts) > 0 {
			fmt.Fprintf(w, "%s\n", strings.Join(facts, " "))
		}
		if t.Doc != "" {
			fmt.Fprintf(w, "\n%s\n", t.Doc)
		}
		fmt.Fprintln(w)
		for _, e := range t.Examples {
			fmt.Fprintf(w, "- %s: %s.\n", code("tunsplice "+e.Args), e.Does)
		}
		fmt.Fprint(w, "\nOptions, besides those of every address:\n\n")
		for _, g := range t.OptionGroups() {
			if g.Name == groupEvery {
				continue
			}
			var names []string
			for _, o := range g.Options {
				names = append(names, fmt.Sprintf("[%s](options.md#%s)", code(o.Name), anchor(o)))
			}
			fmt.Fprintf(w, "- %s: %s\n", g.Name, strings.Join(names, ", "))
		}
	}
}

func writeOptionPage(w *bytes.Buffer) {
	fmt.Fprint(w, "# Options of addresses\n\n", generated)
	fmt.Fprint(w, "A bool or a number in brackets may be left out and is 1 then. Numbers are decimal, `0x` hexadecimal or `0` octal; times are seconds with an optional fraction.\n",
		"The phase says when an option acts; its place in the address does not matter.\n\n")
	fmt.Fprint(w, "| option | what it does | phase |\n|---|---|---|\n")
	for _, o := range Options() {
		doc := cell(o.Doc)
		if a := o.AliasList(); len(a) > 0 {
			doc += "; also " + codes(a)
		}
		if o.Groups&GINTERFACE != 0 {
			doc += " (TUN, TAP, INTERFACE)"
		}
		if o.Ours {
			doc += "; not known to socat"
		}
		fmt.Fprintf(w, "| <a id=%q></a>%s | %s | %s |\n", anchor(o), code(o.Usage()), doc, o.Phase)
	}
}

// anchor is where an option stands on its page; a device's own option may share its name with a descriptor's.
func anchor(o *Option) string {
	if len(LookupOptions(o.Name)) > 1 && o.Groups&GINTERFACE != 0 {
		return o.Name + "-of-devices"
	}
	return o.Name
}

func code(s string) string { return "`" + strings.ReplaceAll(s, "|", "\\|") + "`" }

func codes(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = code(s)
	}
	return strings.Join(out, ", ")
}

// cell is a text for a cell of a table.
func cell(s string) string { return strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(s) }
