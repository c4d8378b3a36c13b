package main

import (
	"os"
	"runtime"

	"tunsplice/relay"
)

// useProcessors lets the program run Go code on one processor at a time where that serves a tunnel better, unless the user has said how many (variable GOMAXPROCS, see package runtime).
func useProcessors(left, right *relay.Endpoint) {
	if os.Getenv("GOMAXPROCS") == "" && oneIsEnough(left, right, runtime.NumCPU()) {
		runtime.GOMAXPROCS(1)
	}
}

// oneIsEnough says whether a session is a tunnel over a plain stream on a machine with so few processors that those who use the tunnel want the other one: its two directions do not
// keep two busy then, and waking a second thread costs more than it brings. Encryption does keep them busy. docs/performance.md has the figures.
func oneIsEnough(left, right *relay.Endpoint, processors int) bool {
	if processors > 2 {
		return false
	}
	dev, over := left, right
	if right.IsDevice() {
		dev, over = right, left
	}
	_, plain := over.R.(*relay.File)
	return dev.IsDevice() && over.Traffic == relay.Stream && plain
}
