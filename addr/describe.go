package addr

import (
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
)

// What help and the reference pages say, made from the two tables.

// HasOption says whether the table has an option of that name or alias.
func HasOption(name string) bool {
	_, exists := lookupOption(name, ^Group(0))
	return exists
}

// LookupOptions returns the options of that name or alias, in any case: more than one where a name means different things for different types of address.
func LookupOptions(name string) []*Option {
	lookupOption(name, 0) // makes the index
	return optionsByName[strings.ToLower(name)]
}

// OptionNames lists every name and alias of the option table, for suggestions.
func OptionNames() (names []string) {
	for _, o := range allOptions {
		names = append(append(names, o.Name), o.AliasList()...)
	}
	return names
}

// TypeNames lists every keyword, for suggestions.
func TypeNames() []string { return typeNames() }

// OwnOptions returns the options that the type takes but not every address does, and EveryOptions those that every address takes; both sorted by name. An option
// whose name another option of the type has by right is left out.
func (t *Type) OwnOptions() []*Option { return optionsOf(t.Groups&^gEvery, t.Groups) }

// EveryOptions returns the options that every address type takes.
func EveryOptions() []*Option { return optionsOf(gEvery, gEvery) }

func optionsOf(groups, all Group) (opts []*Option) {
	for _, o := range Options() {
		if o.Groups&groups == 0 {
			continue
		}
		if found, _ := lookupOption(o.Name, all); found == o {
			opts = append(opts, o)
		}
	}
	return opts
}

// TypesWith returns the address types that take the option, sorted by name.
func (o *Option) TypesWith() (types []*Type) {
	for _, t := range Types() {
		if found, _ := lookupOption(o.Name, t.Groups); found == o {
			types = append(types, t)
		}
	}
	return types
}

// Usage is the option with the form of its value: "interval=<seconds>".
func (o *Option) Usage() string {
	return o.Name + valueForms[o.Kind()]
}

// valueForms are the forms of values, by kind.
var valueForms = map[string]string{
	"CONST": "", "BOOL": "[=<bool>]", "INT": "[=<number>]", "INT/NULL": "=[<number>]", "UNSIGNED-INT": "=<number>", "BYTE": "=<0-255>", "UNSIGNED-SHORT": "=<0-65535>",
	"SIZE_T": "=<size>", "OFF64_T": "=<offset>", "STRING": "=<text>", "STRING-NULL": "[=<text>]", "STRUCT-TIMEVAL": "=<seconds>", "MODE_T": "=<mode>",
	"UID_T": "=<user>", "GID_T": "=<group>", "BIN": "=<data>",
	"INT:INT:INT": "=<level>:<name>:<number>", "INT:INT:BIN": "=<level>:<name>:<data>", "INT:INT:STRING": "=<level>:<name>:<text>",
	"INT:INT": "=<request>:<number>", "INT:INTP": "=<request>:<number>", "INT:BIN": "=<request>:<data>", "INT:STRING": "=<request>:<text>",
	"STRUCT-IP_MREQN": "=<group>:<interface>", "IP-MREQ-SOURCE": "=<group>:<interface>:<sender>",
	"FRAMING": "=<framing>", "MIN:MAX": "[=<seconds>[:<seconds>]]", "ADDRESS": "=<address>", "ADDRESS/BITS": "=<address>/<bits>", "MAC": "=<mac-address>",
	"FINGERPRINT": "=SHA256:<hex>", "RATE": "=<number>[/<seconds>]",
	"NETWORK [via ADDRESS] [metric N]": "=<network>[ via <address>][ metric <n>]",
}

// WriteSocatList writes the address heads, and with options also the option names, in the form that scripts read from socat's -h: level 1 addresses, 2 options, 3 the
// aliases of both too.
func WriteSocatList(w io.Writer, level int) {
	fmt.Fprint(w, "   address-head:\n")
	var heads []string
	for _, t := range allTypes {
		line := strings.ToLower(t.Name) + strings.TrimPrefix(t.Synopsis(), t.Name) + "\tgroups=" + (t.Groups &^ gEvery).String()
		heads = append(heads, line)
		if level >= 3 {
			for _, a := range t.AliasList() {
				heads = append(heads, strings.ToLower(a)+" is an alias for "+strings.ToLower(t.Name))
			}
		}
	}
	writeSorted(w, heads)
	if level < 2 {
		return
	}
	fmt.Fprint(w, "   opts:\n      <opt>{,<opts>}:\n   opt:\n")
	var opts []string
	for _, o := range allOptions {
		opts = append(opts, fmt.Sprintf("%s\tgroups=%s\tphase=%s\ttype=%s", o.Name, o.groupText(), o.Phase, o.Kind()))
		if level >= 3 {
			for _, a := range o.AliasList() {
				opts = append(opts, a+" is an alias for "+o.Name)
			}
		}
	}
	writeSorted(w, opts)
}

// groupText is the groups as socat shows them: an option of PROCESS or APPL is for all.
func (o *Option) groupText() string {
	if o.Groups&gEvery != 0 {
		return "(all)"
	}
	return o.Groups.String()
}

func writeSorted(w io.Writer, lines []string) {
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintf(w, "      %s\n", l)
	}
}

// WriteTypeList writes a line for each address type: its form and what it is.
func WriteTypeList(w io.Writer) {
	for _, t := range Types() {
		WriteColumns(w, "  ", t.Synopsis(), 36, t.Summary)
	}
}

// lineWidth is the length that lines of help are broken at.
const lineWidth = 110

// WriteColumns writes a form and, from the given column on, what is to be said of it; on a line of its own if the form takes more than its place.
func WriteColumns(w io.Writer, indent, form string, column int, text string) {
	line := indent + form
	if len(line)+2 > column {
		fmt.Fprintln(w, line)
		line = ""
	}
	line += strings.Repeat(" ", column-len(line))
	filled := false // the line holds a word of the text
	for _, word := range strings.Fields(text) {
		switch {
		case filled && len(line)+1+len(word) > lineWidth:
			fmt.Fprintln(w, line)
			line = strings.Repeat(" ", column)
		case filled:
			line += " "
		}
		line += word
		filled = true
	}
	fmt.Fprintln(w, line)
}

// Describe writes all there is to say about an address type.
func (t *Type) Describe(w io.Writer) {
	fmt.Fprintf(w, "%s[,option...]\n%s\n", t.Synopsis(), indent(sentence(t.Summary)))
	if a := t.AliasList(); len(a) > 0 {
		fmt.Fprintf(w, "    Other names: %s\n", strings.Join(a, ", "))
	}
	if t.Can != ReadWrite {
		fmt.Fprintf(w, "    For %s only\n", t.Can)
	}
	if t.Ours {
		fmt.Fprintf(w, "    Not known to socat\n")
	}
	if t.Doc != "" {
		fmt.Fprintf(w, "\n%s\n", indent(t.Doc))
	}
	fmt.Fprintf(w, "\nExamples\n")
	for _, e := range t.Examples {
		fmt.Fprintf(w, "    tunsplice %s\n        %s\n", e.Args, e.Does)
	}
	for _, g := range t.OptionGroups() {
		fmt.Fprintf(w, "\nOptions of %s\n", g.Name)
		for _, o := range g.Options {
			WriteColumns(w, "    ", o.Usage(), 34, o.docAndAliases())
		}
	}
}

// groupEvery is the name of the last group.
const groupEvery = "every address"

// OptionGroup is a list of options under the name of what they belong to.
type OptionGroup struct {
	Name    string
	Options []*Option
}

// OptionGroups returns all options of the type, those that are most its own first and those of every address last.
func (t *Type) OptionGroups() (groups []OptionGroup) {
	for i := range groupNames {
		i = (2*len(groupNames) - 2 - i) % len(groupNames) // from the last but one down to the first, then the last: packets
		var opts []*Option
		for _, o := range t.OwnOptions() {
			if shared := o.Groups & t.Groups &^ gEvery; bits.Len64(uint64(shared)) == i+1 {
				opts = append(opts, o)
			}
		}
		if len(opts) > 0 {
			groups = append(groups, OptionGroup{groupTitles[1<<i], opts})
		}
	}
	return append(groups, OptionGroup{groupEvery, EveryOptions()})
}

// groupTitles say what the options of a group belong to.
var groupTitles = map[Group]string{
	GFD: "descriptors", GFIFO: "pipes", GCHR: "character devices", GBLK: "block devices", GREG: "regular files", GSOCKET: "sockets", GREADLINE: "line editing",
	GNAMED: "entries in the file system", GOPEN: "open(2)", GEXEC: "programs without a shell", GFORK: "programs", GLISTEN: "listening", GSHELL: "programs by a shell",
	GCHILD: "serving many", GRETRY: "trying again", GTERMIOS: "terminals", GRANGE: "choosing peers", GPTY: "pseudo terminals", GPARENT: "programs and us",
	GUNIX: "UNIX sockets", GIP4: "IPv4", GIP6: "IPv6", GINTERFACE: "network interfaces", GUDP: "UDP", GTCP: "TCP", GSOCKS: "SOCKS", GOPENSSL: "TLS", GHTTP: "HTTP",
	GPOSIXMQ: "message queues", GSCTP: "SCTP", GDCCP: "DCCP", GUDPLITE: "UDP-Lite", GHUB: "several peers on one device",
	GPACKETS: "packets over a byte stream",
	GSTREAMS: "tunnels of several connections",
}

// docAndAliases is the option's line of documentation with its other names.
func (o *Option) docAndAliases() string {
	if o.Aliases == "" {
		return o.Doc
	}
	return o.Doc + " [also: " + strings.Join(o.AliasList(), ", ") + "]"
}

// Describe writes all there is to say about an option.
func (o *Option) Describe(w io.Writer) {
	fmt.Fprintf(w, "%s\n%s\n", o.Usage(), indent(sentence(o.Doc)))
	if a := o.AliasList(); len(a) > 0 {
		fmt.Fprintf(w, "    Other names: %s\n", strings.Join(a, ", "))
	}
	fmt.Fprintf(w, "    Kind of value: %s, phase: %s, groups: %s\n", o.Kind(), o.Phase, o.Groups)
	if o.Ours {
		fmt.Fprintf(w, "    Not known to socat\n")
	}
	if o.Groups&gEvery != 0 {
		fmt.Fprintf(w, "    For every address\n")
		return
	}
	var names []string
	for _, t := range o.TypesWith() {
		names = append(names, t.Name)
	}
	fmt.Fprintf(w, "    For:\n%s\n", indent(strings.Join(names, ", ")))
}

// sentence begins a text with a capital letter and ends it with a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	if word, _, _ := strings.Cut(s, " "); word == strings.ToLower(word) && !strings.ContainsAny(word, "-_=/0123456789") {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	return strings.TrimSuffix(s, ".") + "."
}

// indent breaks a text into lines of at most 96 bytes, indented by four.
func indent(text string) string {
	var sb strings.Builder
	for paragraph := range strings.SplitSeq(text, "\n") {
		width := 0
		for _, word := range strings.Fields(paragraph) {
			switch {
			case width == 0:
				sb.WriteString("    ")
			case width+1+len(word) > 92:
				sb.WriteString("\n    ")
				width = 0
			default:
				sb.WriteByte(' ')
				width++
			}
			sb.WriteString(word)
			width += len(word)
		}
		sb.WriteByte('\n')
	}
	return strings.TrimRight(sb.String(), "\n")
}
