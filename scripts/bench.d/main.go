// Command bench measures tunsplice beside its peers. scripts/bench starts it inside the first of two network namespaces joined by a veth; it starts the programs, makes the load and
// reads the meters.
//
// A case measures one program and gives figures. Rounds are interleaved: each round runs every case with every program once, so that a disturbance of the machine meets all of
// them alike. The report has medians, and ratios between medians of one run; absolute figures of different runs are not comparable.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
)

// A program is one contender. Command is what stands in front of socat-like addresses; a program without that language has a nil Command and a tunnel only.
type program struct {
	name    string
	command []string
	// tunnel starts both ends of a tunnel and returns them; nil: not for tunnels.
	tunnel tunnel
	// reference marks what is no peer but the bound: it is shown and takes no part in the ratio.
	reference bool
}

// A figure is one measured number. Names are the same for all programs of a case.
type figure struct {
	name  string // with the unit, as shown
	value float64
	more  bool // more is better
}

// A benchCase is one thing to measure.
type benchCase struct {
	name, doc string
	suits     func(p *program) bool
	run       func(b *bench, p *program) ([]figure, error)
}

type bench struct {
	work, far string
	seconds   time.Duration
	port      int
	procs     []*proc // running; ended after each measurement
	programs  []*program
}

func main() {
	b := &bench{port: 4100}
	rounds := flag.Int("rounds", 5, "how often each case is measured with each program")
	only := flag.String("only", "", "names of cases, separated by commas (default: all)")
	list := flag.Bool("list", false, "list the cases and end")
	jsonFile := flag.String("json", "", "write all samples to this `file`")
	flag.DurationVar(&b.seconds, "time", 2*time.Second, "how long one measurement lasts, where it has no end of its own")
	flag.StringVar(&b.work, "work", "", "set by scripts/bench: directory with the built program")
	flag.StringVar(&b.far, "far", "", "set by scripts/bench: name of the other namespace")
	var extra []*program
	flag.Func("peer", "`name=command`: one more program that takes socat-like addresses after its command; may be repeated", func(s string) error {
		name, command, ok := strings.Cut(s, "=")
		words := strings.Fields(command)
		if !ok || name == "" || len(words) == 0 {
			return errors.New("not of the form name=command")
		}
		extra = append(extra, speaker(name, tunnelTCP, words...))
		return nil
	})
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: scripts/bench [--install] [options], as root")
		flag.PrintDefaults()
	}
	flag.Parse()
	cases := append(tunnelCases(), relayCases()...)
	if *list {
		for _, c := range cases {
			fmt.Printf("%-15s %s\n", c.name, c.doc)
		}
		return
	}
	if err := b.main(cases, *only, *rounds, *jsonFile, extra, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) main(cases []benchCase, only string, rounds int, jsonFile string, extra []*program, rest []string) error {
	if len(rest) > 0 {
		return errors.Errorf("what is %q? (options only)", rest[0])
	}
	if b.work == "" || b.far == "" {
		return errors.New("start it by scripts/bench")
	}
	if rounds < 1 {
		return errors.New("rounds: at least 1")
	}
	if only != "" {
		all := cases
		cases = nil
		for _, name := range strings.Split(only, ",") {
			i := slices.IndexFunc(all, func(c benchCase) bool { return c.name == name })
			if i < 0 {
				return errors.Errorf("no case %q; --list shows them", name)
			}
			cases = append(cases, all[i])
		}
	}
	b.programs = append(b.installed(), extra...)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	r := newReport(b.seconds, rounds)
	for round := range rounds {
		for _, c := range cases {
			for _, p := range b.programs {
				if !c.suits(p) {
					continue
				}
				figures, err := c.run(b, p)
				b.endAll()
				select {
				case s := <-stop:
					return errors.Errorf("ended by signal: %v", s)
				default:
				}
				r.add(c.name, p.name, figures, err)
				fmt.Fprintf(os.Stderr, "round %d/%d  %-14s %-14s %s\n", round+1, rounds, c.name, p.name, line(figures, err))
			}
		}
	}
	r.table(os.Stdout, cases, b.programs)
	if jsonFile != "" {
		return r.writeJSON(jsonFile)
	}
	return nil
}

// installed returns tunsplice and the peers found on this machine.
func (b *bench) installed() []*program {
	ps := []*program{speaker(ours, tunnelTCP, b.work+"/tunsplice")}
	if path, err := exec.LookPath("socat"); err == nil {
		ps = append(ps,
			speaker("socat", tunnelUDP, path), // TUN over TCP kills socat: there are no borders between packets
			speaker("socat -b 262144", nil, path, "-b", "262144"))
	}
	if path, err := exec.LookPath("vtund"); err == nil {
		ps = append(ps, &program{name: "vtun", tunnel: tunnelVtun(path)})
	}
	if path, err := exec.LookPath("openvpn"); err == nil {
		ps = append(ps, &program{name: "openvpn", tunnel: tunnelOpenVPN(path)})
	}
	return append(ps, &program{name: "direct", tunnel: tunnelNone, reference: true})
}

const ours = "tunsplice"

// speaker returns a program that takes socat-like addresses; with kind nil it is not measured as a tunnel.
func speaker(name string, kind func(*program) tunnel, command ...string) *program {
	p := &program{name: name, command: command}
	if kind != nil {
		p.tunnel = kind(p)
	}
	return p
}
