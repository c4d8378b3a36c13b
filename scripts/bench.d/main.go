// Command bench measures tunsplice beside its peers. scripts/bench starts it inside the first of two network namespaces joined by a veth; it starts the programs, makes the load and
// reads the meters.
//
// A case measures one program and gives figures. Rounds are interleaved: each round runs every case with every program once, so that a disturbance of the machine meets all of
// them alike. The report has medians, and ratios between medians of one run; absolute figures of different runs are not comparable.
//
//	main.go              options, rounds
//	proc.go, group.go    starting and ending programs; processor time and memory by control group
//	tunnel.go            cases through a tunnel; datagram.go: their datagrams
//	tunnelends.go        how each program makes a tunnel
//	relay.go             cases of throughput through a relay; connections.go: rates, delays, memory; tls.go
//	relayends.go         how each program relays
//	report.go, plot.go   medians, ratios, aims, table, JSON, page
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"
)

// A program is one contender. Command is what stands in front of socat-like addresses; a program without that language has a nil command and functions of its own.
type program struct {
	name    string
	command []string
	// tunnel starts both ends of a tunnel and returns them; nil: not for tunnels. Carries tells which ones it can make.
	tunnel  tunnel
	carries func(tunnelCase) bool
	// relay starts a relay between sockets, for a program without the language; nil: none.
	relay func(*bench, relayTask) (*proc, error)
	// variant marks a peer that is a program measured already with another setting, and differs from it only where bytes are copied.
	variant bool
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
	// peers names the case whose figures of the peers stand for this one too; "": its own.
	peers string
	aims  []aim
}

type bench struct {
	work, near, far string
	seconds         time.Duration
	port            int
	group           *group
	programs        []*program

	mu    sync.Mutex // held for ever once a signal has come: nothing starts any more
	procs []*proc    // running; ended after each measurement

	identities map[string]*identity
}

func main() {
	b := &bench{port: 4100, identities: map[string]*identity{}}
	rounds := flag.Int("rounds", 5, "how often each case is measured with each program")
	only := flag.String("only", "", "names of cases, separated by commas; a name may end in * (default: all)")
	list := flag.Bool("list", false, "list the cases and end")
	jsonFile := flag.String("json", "", "write all samples and aims to this `file`")
	plotFile := flag.String("plot", "", "write a page with bars to this `file`, HTML that needs nothing else")
	seconds := flag.Float64("seconds", 1.5, "how long one measurement lasts, where it has no end of its own; whole seconds with iperf3, rounded up")
	flag.StringVar(&b.work, "work", "", "set by scripts/bench: directory with the built program")
	flag.StringVar(&b.near, "near", "", "set by scripts/bench: name of this namespace")
	flag.StringVar(&b.far, "far", "", "set by scripts/bench: name of the other namespace")
	var extra []*program
	flag.Func("peer", "`name=command`: one more program that takes socat-like addresses, after its command or where {args} stands; may be repeated", func(s string) error {
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
	cases := allCases()
	if *list {
		for _, c := range cases {
			fmt.Printf("%-16s %s\n", c.name, c.doc)
		}
		return
	}
	b.seconds = time.Duration(*seconds * float64(time.Second))
	if err := b.main(cases, *only, *rounds, *jsonFile, *plotFile, extra, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func allCases() []benchCase {
	return slices.Concat(tunnelCases(), relayCases(), connectionCases(), tlsCases())
}

func (b *bench) main(cases []benchCase, only string, rounds int, jsonFile, plotFile string, extra []*program, rest []string) error {
	if len(rest) > 0 {
		return errors.Errorf("what is %q? (options only)", rest[0])
	}
	if b.work == "" || b.near == "" || b.far == "" {
		return errors.New("start it by scripts/bench")
	}
	if rounds < 1 {
		return errors.New("rounds: at least 1")
	}
	if b.seconds < time.Second || b.seconds > time.Hour {
		return errors.New("seconds: at least 1, at most 3600")
	}
	cases, err := choose(cases, only)
	if err != nil {
		return err
	}
	b.programs = append(b.installed(), extra...)
	if b.group, err = newGroup(b.far); err != nil {
		return err
	}
	defer b.group.remove()
	b.endOnSignal()

	r := newReport(b.seconds, rounds)
	for round := range rounds {
		for _, c := range cases {
			for i := range b.programs {
				p := b.programs[(i+round)%len(b.programs)] // each begins in turn: who comes after an idle moment may be better off
				if !c.suits(p) {
					continue
				}
				figures, err := c.run(b, p)
				b.endAll()
				r.add(c.name, p.name, figures, err)
				fmt.Fprintf(os.Stderr, "round %d/%d  %-16s %-14s %s\n", round+1, rounds, c.name, p.name, line(figures, err))
			}
		}
	}
	r.judge(cases, b.programs)
	r.table(os.Stdout, cases, b.programs)
	if jsonFile != "" {
		if err := r.writeJSON(jsonFile); err != nil {
			return err
		}
	}
	if plotFile != "" {
		return r.writePlot(plotFile, cases, b.programs)
	}
	return nil
}

// choose returns the cases that were asked for, in their order, and those whose peers they refer to.
func choose(all []benchCase, only string) ([]benchCase, error) {
	if only == "" {
		return all, nil
	}
	wanted := map[string]bool{}
	for _, name := range strings.Split(only, ",") {
		prefix, star := strings.CutSuffix(name, "*")
		found := false
		for _, c := range all {
			if c.name == name || star && strings.HasPrefix(c.name, prefix) {
				found, wanted[c.name] = true, true
				if c.peers != "" {
					wanted[c.peers] = true
				}
			}
		}
		if !found {
			return nil, errors.Errorf("no case %q; --list shows them", name)
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(c benchCase) bool { return !wanted[c.name] }), nil
}

// endOnSignal ends the bench and all it started when a signal comes. scripts/bench takes away the namespaces, and with them what is left inside.
func (b *bench) endOnSignal() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() { // lives as long as the process
		s := <-stop
		b.mu.Lock() // for ever
		for _, p := range b.procs {
			syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		}
		b.group.kill(syscall.SIGKILL)
		until("the end of the programs", 2*time.Second, b.group.empty)
		b.group.remove()
		fmt.Fprintln(os.Stderr, "bench: ended by signal:", s)
		os.Exit(128 + int(s.(syscall.Signal)))
	}()
}

// installed returns tunsplice and the peers found on this machine.
func (b *bench) installed() []*program {
	ps := []*program{speaker(ours, tunnelTCP, b.work+"/tunsplice")}
	plain := func(t tunnelCase) bool { return t.secret == "" && t.framing == "" }
	if path, err := exec.LookPath("socat"); err == nil {
		socat := speaker("socat", tunnelUDP, path) // TUN over TCP kills socat: there are no borders between packets
		// tunnel-l3 is over UDP already, and of the others it has nothing of its own to show.
		socat.carries = func(t tunnelCase) bool { return plain(t) && !t.udp && !t.edge && t.streams == 0 }
		large := speaker("socat -b 262144", nil, path, "-b", "262144")
		large.variant = true
		ps = append(ps, socat, large)
	}
	add := func(name, file string, make func(path string) *program) {
		if path, err := exec.LookPath(file); err == nil {
			p := make(path)
			p.name = name
			ps = append(ps, p)
		} else {
			fmt.Fprintf(os.Stderr, "bench: no %s here (--install fetches it)\n", file)
		}
	}
	add("vtun", "vtund", func(path string) *program { return &program{tunnel: tunnelVtun(path), carries: plain} })
	add("openvpn", "openvpn", func(path string) *program {
		return &program{tunnel: tunnelOpenVPN(path), carries: func(t tunnelCase) bool { return t.framing == "" }}
	})
	add("wireguard-go", "wireguard-go", func(path string) *program {
		return &program{tunnel: tunnelWireGuard(path), carries: func(t tunnelCase) bool { return t.framing == "" && !t.tap }}
	})
	add("nginx", "nginx", func(path string) *program { return &program{relay: relayNginx(path)} })
	add("haproxy", "haproxy", func(path string) *program { return &program{relay: relayHAProxy(path)} })
	return append(ps, &program{name: "direct", tunnel: tunnelNone, relay: relayNone, reference: true,
		carries: func(t tunnelCase) bool { return t.secret == "" && t.framing == "" }})
}

const ours = "tunsplice"

// speaker returns a program that takes socat-like addresses; with kind nil it is not measured as a tunnel.
func speaker(name string, kind func(*program) tunnel, command ...string) *program {
	p := &program{name: name, command: command, carries: func(tunnelCase) bool { return true }}
	if kind != nil {
		p.tunnel = kind(p)
	}
	return p
}

// with returns the command with arguments behind it; `{args}` in the command stands for them.
func (p *program) with(args ...string) []string {
	var words []string
	placed := false
	for _, w := range p.command {
		if w == "{args}" {
			words, placed = append(words, args...), true
		} else if strings.Contains(w, "{args}") {
			words, placed = append(words, strings.ReplaceAll(w, "{args}", strings.Join(args, " "))), true
		} else {
			words = append(words, w)
		}
	}
	if !placed {
		words = append(words, args...)
	}
	return words
}

// wholeSeconds rounds up, for programs that take no fractions.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
