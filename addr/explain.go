package addr

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"tunsplice/relay"
)

// Forks says that the address will yield an endpoint for each of many peers.
func (a *Address) Forks() bool {
	return slices.ContainsFunc(a.bounds(), func(b *Bound) bool {
		on, _ := b.setting(optFork.opt).(bool)
		return on
	})
}

// Explain writes what an address means: its type, the direction it is used in, and its parameters and options by their full names. It opens nothing.
func (a *Address) Explain(w io.Writer) {
	bs := a.bounds()
	if len(bs) == 0 {
		fmt.Fprintf(w, "  not used\n")
		return
	}
	for _, b := range bs {
		fmt.Fprintf(w, "  %s: %s, for %s\n", b.Name, b.Summary, b.Mode)
		for i, p := range b.Params {
			fmt.Fprintf(w, "    <%s> %s\n", b.Type.Params[i].Name, quoteIfNeeded(p))
		}
		for i := range b.settings {
			s := &b.settings[i]
			fmt.Fprintf(w, "    %s: %s\n", s.given(), s.opt.Doc)
		}
	}
}

// given is the option with its canonical name and the value as the program understood it.
func (s *setting) given() string {
	switch v := s.value.(type) {
	case bool:
		if v {
			return s.opt.Name
		}
		return s.opt.Name + "=0"
	case string:
		return s.opt.Name + "=" + quoteIfNeeded(v)
	case []byte:
		return fmt.Sprintf("%s=x%x", s.opt.Name, v)
	case fmt.Stringer:
		return s.opt.Name + "=" + v.String()
	}
	if !s.word.HasValue {
		return s.opt.Name
	}
	return s.opt.Name + "=" + s.word.Value
}

func quoteIfNeeded(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r > '~' }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// isDevice says that the address carries the packets of a network device.
func (b *Bound) isDevice() bool { return b.Groups&(GINTERFACE|GHUB) != 0 }

// ExplainFraming says how packets will travel between two addresses, "" if neither is a device.
func ExplainFraming(left, right *Address) string {
	for _, pair := range [][2]*Address{{left, right}, {right, left}} {
		dev, over := pair[0].bounds(), pair[1].bounds()
		if len(dev) == 0 || len(over) == 0 || !dev[0].isDevice() || over[0].isDevice() {
			continue
		}
		both := pair[0].Read != nil && pair[0].Write != nil
		name := pair[1].Text
		switch framing := optFraming.Or(over[0], relay.FramingUnset); {
		case over[0].Groups&GPACKETS == 0:
			return "each packet is one datagram"
		case framing == relay.FramingUnset && both:
			return fmt.Sprintf("framing=auto if something at the far end of %q can answer, else none: packets are framed if the peer is a tunsplice too", name)
		case framing == relay.FramingUnset || framing == relay.FramingAuto && !both:
			return "framing=none: in one direction only nobody can answer, packets go as they are"
		case framing == relay.FramingAuto:
			return "framing=auto: packets are framed if the peer is a tunsplice too"
		default:
			return fmt.Sprintf("framing=%s, as %q says", framing, name)
		}
	}
	return ""
}
