package main

import (
	"tunsplice/addr"

	"github.com/pkg/errors"
)

// The two addresses of the command line, and whether they go together.

// bind checks both addresses, so that nothing is opened unless the whole command line is right.
func (p *invocation) bind(args []string) (left, right *addr.Address, err error) {
	specs := make([]*addr.Spec, len(args))
	for i, arg := range args {
		if specs[i], err = addr.Parse(arg); err != nil {
			return nil, nil, err
		}
	}
	if !p.LeftToRight && !p.RightToLeft {
		p.chooseDirection(specs[0], specs[1])
	}
	leftMode, rightMode := addr.ReadWrite, addr.ReadWrite
	switch {
	case p.LeftToRight:
		leftMode, rightMode = addr.Read, addr.Write
	case p.RightToLeft:
		leftMode, rightMode = addr.Write, addr.Read
	}
	for i, dst := range []**addr.Address{&left, &right} {
		c := addr.BindConfig{Mode: []addr.Mode{leftMode, rightMode}[i], AnyOptions: p.AnyOptions}
		if p.Sloppy {
			c.OptionFailed = func(err error) { p.log.Errorf("%s", err) }
		}
		if *dst, err = addr.Bind(specs[i], c); err != nil {
			return nil, nil, err
		}
	}
	if err := p.checkFollowing(left, right); err != nil {
		return nil, nil, err
	}
	if left.Forks() && right.Forks() {
		return nil, nil, hinted{errors.Errorf("%q and %q: only one of the addresses can have option fork", left.Text, right.Text), "each peer of the one is joined to the other, opened anew for it"}
	}
	if err := checkLasting(left, right); err != nil {
		return nil, nil, err
	}
	p.warnLonelyHub(left, right)
	p.warnLonelyHub(right, left)
	return left, right, nil
}

// warnLonelyHub says that a hub has one peer at a time unless the address on the other side serves many.
func (p *invocation) warnLonelyHub(hub, way *addr.Address) {
	if hub.Shares() && way.Listens() && !way.Forks() {
		p.log.Warnf("%q is a hub, but %q serves one peer only: option fork lets many in", hub.Text, way.Text)
	}
}

// chooseDirection makes the transfer one-way, and says so, if one of the addresses can be used in one direction only and the other one in the opposite direction.
func (p *invocation) chooseDirection(left, right *addr.Spec) {
	l, r := addr.Directions(left), addr.Directions(right)
	narrow, can := left, l
	if l == addr.ReadWrite {
		narrow, can = right, r
	}
	way := "left to right"
	switch {
	case l == addr.ReadWrite && r == addr.ReadWrite || l == r: // both ways, or none that works: Bind finds that
		return
	case l == addr.Read || r == addr.Write:
		p.LeftToRight = true
	default:
		p.RightToLeft = true
		way = "right to left"
	}
	p.log.Warnf("%q is for %s only: data go from %s", narrow.Text, can, way)
}
