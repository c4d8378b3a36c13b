package main

import (
	"testing"

	"tunsplice/relay"
)

func TestOneIsEnough(t *testing.T) {
	tap := &relay.Endpoint{Traffic: relay.TAP}
	tcp := &relay.Endpoint{R: &relay.File{}}
	encrypted := &relay.Endpoint{R: struct{ relay.Reader }{}}
	udp := &relay.Endpoint{R: &relay.File{}, Traffic: relay.Datagrams}
	for _, c := range []struct {
		name        string
		left, right *relay.Endpoint
		processors  int
		want        bool
	}{
		{"tunnel", tap, tcp, 2, true},
		{"the other way round", tcp, tap, 1, true},
		{"with processors to spare", tap, tcp, 4, false},
		{"encrypted", tap, encrypted, 2, false},
		{"over datagrams", tap, udp, 2, false},
		{"between devices", tap, tap, 2, false},
		{"relay", tcp, tcp, 2, false},
	} {
		if got := oneIsEnough(c.left, c.right, c.processors); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
