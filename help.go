package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"tunsplice/addr"

	"github.com/pkg/errors"
)

const introduction = `tunsplice joins any two endpoints, as socat does: it opens two addresses and moves bytes between
them in both directions, or packets where an end is a TUN or TAP device.

Usage: tunsplice [options] ADDRESS ADDRESS
       tunsplice help [ADDRESS-TYPE | ADDRESS-OPTION]
       tunsplice keygen [FILE]

  tunsplice - TCP:www.example.org:80                          talk to a server
  tunsplice TCP-LISTEN:8080,fork,reuseaddr TCP:10.0.0.5:80    forward a port
  tunsplice TCP-LISTEN:4083,reuseaddr TAP:172.16.0.1/24,up    one end of an Ethernet tunnel
  tunsplice TCP:192.0.2.1:4083 TAP:172.16.0.2/24,up           the other end
`

const addressGrammar = `Addresses: KEYWORD:parameter:parameter,option,option=value,...
  in any case; "-" is STDIO, a number N is FD:N, a path with "/" is GOPEN:path; A!!B reads from A and
  writes to B. Quotes '' "" and \ take the meaning from : and , in parameters and values.
`

// showHelp prints what -h (level 1), -hh (2) and -hhh (3) print.
func showHelp(w io.Writer, level int) error {
	b := bufio.NewWriter(w)
	fmt.Fprint(b, introduction)
	group := ""
	var c commandLine
	for _, f := range newParser(&c).Model.Flags {
		if f.Group != nil && f.Group.Title != group {
			group = f.Group.Title
			fmt.Fprintf(b, "\n%s\n", group)
		}
		value := ""
		if !f.IsBool() && !f.IsCounter() {
			value = f.PlaceHolder
		}
		forms := shortsOf(f.Name, value)
		long := "--" + f.Name
		if value != "" {
			long += "=" + value
		}
		addr.WriteColumns(b, "  ", strings.Join(append(forms, long), ", "), 38, f.Help)
	}
	fmt.Fprintf(b, "\n%s\nAddress types (\"tunsplice help TCP-LISTEN\" says more about one, with its options)\n", addressGrammar)
	addr.WriteTypeList(b)
	fmt.Fprintln(b, "\nFor scripts, as socat has it")
	addr.WriteSocatList(b, level)
	return b.Flush()
}

// shortsOf returns socat's short forms of a long flag, with the name of its value.
func shortsOf(name, value string) (forms []string) {
	for _, f := range shortForms {
		long, fixed, _ := strings.Cut(f.long, "=")
		if long != "--"+name {
			continue
		}
		switch {
		case f.arg == attached:
			forms = append(forms, f.short+"["+"FACILITY"+"]")
		case f.arg == following && fixed != "":
			forms = append(forms, f.short+" FILE")
		case f.arg == following:
			forms = append(forms, f.short+" "+value)
		default:
			forms = append(forms, f.short)
		}
	}
	return forms
}

// showHelpFor prints what there is to know about an address type or an option; without a name what -h prints.
func showHelpFor(w io.Writer, name string) error {
	if name == "" {
		return showHelp(w, 1)
	}
	t, opts := addr.LookupType(name), addr.LookupOptions(name)
	if t == nil && len(opts) == 0 {
		err := errors.Errorf("no address type and no option is called %q%s", name, addr.NotYet(name))
		if near := addr.Suggest(name, append(addr.TypeNames(), addr.OptionNames()...)); near != "" {
			return hinted{err, "did you mean " + near + "?"}
		}
		return hinted{err, `"tunsplice -h" lists the address types, "tunsplice -hh" the options too`}
	}
	b := bufio.NewWriter(w)
	if t != nil {
		t.Describe(b)
	}
	for i, o := range opts {
		if t != nil || i > 0 {
			fmt.Fprintln(b)
		}
		o.Describe(b)
	}
	return b.Flush()
}
