package main

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"tunsplice/addr"
)

// explain says what would be opened, in which order, and how the two would be joined.
func (p *invocation) explain(w io.Writer, left, right *addr.Address) error {
	b := bufio.NewWriter(w)
	for _, side := range []struct {
		name string
		*addr.Address
	}{{"left", left}, {"right", right}} {
		fmt.Fprintf(b, "%s address: %s\n", side.name, side.Text)
		side.Explain(b)
	}
	fmt.Fprintf(b, "together:\n")
	switch {
	case p.LeftToRight:
		fmt.Fprintf(b, "  data go from left to right\n")
	case p.RightToLeft:
		fmt.Fprintf(b, "  data go from right to left\n")
	default:
		fmt.Fprintf(b, "  data go both ways; after the end of one the other may be idle for %s\n", time.Duration(p.Linger))
	}
	switch {
	case left.Forks():
		fmt.Fprintf(b, "  for each peer of the left address the right one is opened anew\n")
	case right.Forks():
		fmt.Fprintf(b, "  for each peer of the right address the left one is opened anew\n")
	case lasts(left, right):
		fmt.Fprintf(b, "  the device is opened first, and stays as long as the program\n")
	default:
		fmt.Fprintf(b, "  the left address is opened first, the right one when the left has its peer\n")
	}
	if text := p.privileges.explain(); text != "" {
		fmt.Fprintf(b, "  %s\n", text)
	}
	if p.Idle > 0 {
		fmt.Fprintf(b, "  the session ends after %s without traffic\n", time.Duration(p.Idle))
	}
	if text := addr.ExplainFraming(left, right); text != "" {
		fmt.Fprintf(b, "  %s\n", text)
	}
	return b.Flush()
}
