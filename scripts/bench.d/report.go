package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A report holds every sample of a run.
type report struct {
	Date    string
	Machine string
	Seconds float64 // length of one measurement
	Rounds  int
	Samples []*samples
	Aims    []verdict
	took    func() time.Duration
}

// samples are the values of one figure of one program, a value a round.
type samples struct {
	Case, Figure, Program string
	More                  bool `json:"MoreIsBetter"`
	Values                []float64
	Errors                []string `json:",omitempty"` // why a round has no value; these stand under the figure ""
}

// An aim says what is to be reached: a figure of ours at least (less is better: at most) so many times that of somebody.
type aim struct {
	figure string
	of     string // a program, or one of the two below
	factor float64
}

const (
	best   = "best"   // the best of the peers, references left out
	itself = "itself" // no ratio: the figure itself
)

// A verdict is what came of an aim.
type verdict struct {
	Case, Figure, Of string
	More             bool `json:"MoreIsBetter"`
	Factor           float64
	Ratio            float64 // or the figure, where the aim is of itself
	Known, Met       bool    // not known: a figure is missing
}

func newReport(seconds time.Duration, rounds int) *report {
	begin := time.Now()
	return &report{Date: begin.UTC().Format(time.RFC3339), Machine: machine(), Seconds: seconds.Seconds(), Rounds: rounds,
		took: func() time.Duration { return time.Since(begin).Round(time.Second) }}
}

func machine() string {
	var u syscall.Utsname
	syscall.Uname(&u)
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	model := "unknown processor"
	text, _ := os.ReadFile("/proc/cpuinfo")
	if _, rest, ok := strings.Cut(string(text), "model name\t: "); ok {
		model, _, _ = strings.Cut(rest, "\n")
	}
	load, _ := os.ReadFile("/proc/loadavg")
	words := append(strings.Fields(string(load)), "?")
	return fmt.Sprintf("Linux %s %s, %d x %s, load at the start %s", release, runtime.GOARCH, runtime.NumCPU(), model, words[0])
}

// find returns the samples, nil if there are none.
func (r *report) find(c, f, p string) *samples {
	i := slices.IndexFunc(r.Samples, func(s *samples) bool { return s.Case == c && s.Figure == f && s.Program == p })
	if i < 0 {
		return nil
	}
	return r.Samples[i]
}

// values returns the samples of a program, from the case that stands for the peers if it has none of its own, and nil where there is no value.
func (r *report) values(c benchCase, f, p string) *samples {
	s := r.find(c.name, f, p)
	if s == nil && c.peers != "" && p != ours {
		s = r.find(c.peers, f, p)
	}
	if s == nil || len(s.Values) == 0 {
		return nil
	}
	return s
}

func (r *report) add(c, p string, figures []figure, err error) {
	if err != nil {
		figures = []figure{{name: ""}}
	}
	for _, f := range figures {
		s := r.find(c, f.name, p)
		if s == nil {
			s = &samples{Case: c, Figure: f.name, Program: p, More: f.more}
			r.Samples = append(r.Samples, s)
		}
		if err != nil {
			s.Errors = append(s.Errors, err.Error())
			continue
		}
		s.Values = append(s.Values, f.value)
	}
}

func (s *samples) median() float64 { return quantile(s.Values, 0.5) }

// quantile returns the value below which the part q of the values lies; the median of an even number is the mean of the middle two.
func quantile(values []float64, q float64) float64 {
	v := slices.Sorted(slices.Values(values))
	at := q * float64(len(v)-1)
	low := int(at)
	if low+1 >= len(v) {
		return v[len(v)-1]
	}
	return v[low] + (v[low+1]-v[low])*(at-float64(low))
}

// bestPeer returns the samples with the best median, nil if there are none.
func (r *report) bestPeer(c benchCase, f string, programs []*program) (found *samples) {
	for _, p := range programs {
		if p.name == ours || p.reference {
			continue
		}
		if s := r.values(c, f, p.name); s != nil && (found == nil || better(s.median(), found.median(), s.More)) {
			found = s
		}
	}
	return found
}

func better(a, b float64, more bool) bool {
	if more {
		return a > b
	}
	return a < b
}

// ratio returns a divided by b; nothing to nothing is equal.
func ratio(a, b float64) float64 {
	switch {
	case b != 0:
		return a / b
	case a == 0:
		return 1
	}
	return math.Inf(1)
}

// judge compares the figures with the aims.
func (r *report) judge(cases []benchCase, programs []*program) {
	for _, c := range cases {
		for _, a := range c.aims {
			v := verdict{Case: c.name, Figure: a.figure, Of: a.of, Factor: a.factor}
			mine, other := r.values(c, a.figure, ours), (*samples)(nil)
			if a.of == best {
				other = r.bestPeer(c, a.figure, programs)
			} else if a.of != itself {
				other = r.values(c, a.figure, a.of)
			}
			if mine != nil && (other != nil || a.of == itself) {
				v.Known, v.More, v.Ratio = true, mine.More, mine.median()
				if other != nil {
					v.Ratio = ratio(mine.median(), other.median())
				}
				v.Met = v.Ratio == v.Factor || better(v.Ratio, v.Factor, v.More)
			}
			if math.IsInf(v.Ratio, 1) {
				v.Ratio = math.MaxFloat64 // JSON has no infinity
			}
			r.Aims = append(r.Aims, v)
		}
	}
}

// String shows an aim and what came of it.
func (v verdict) String() string {
	if v.Known && !v.Met {
		return v.plain() + ", **not met**"
	}
	return v.plain()
}

// plain is String without marks of the table.
func (v verdict) plain() string {
	bound, times := "≤ ", ""
	if v.More {
		bound = "≥ "
	}
	if v.Of != itself {
		times = " x " + v.Of
	}
	switch {
	case !v.Known:
		return digits(v.Factor) + times + ": no figure"
	case v.Ratio == math.MaxFloat64:
		return bound + digits(v.Factor) + times + ": that is 0"
	case v.Met:
		return bound + digits(v.Factor) + times + ": " + digits(v.Ratio) + ", met"
	}
	return bound + digits(v.Factor) + times + ": " + digits(v.Ratio)
}

// table prints a row a figure: ours, the ratio to the best peer, the aims, then every other program. A ratio is ours divided by the peer's; an arrow says whether more or less is better.
func (r *report) table(w io.Writer, cases []benchCase, programs []*program) {
	fmt.Fprintf(w, "%s; %s; rounds: %d of %g s, in all %v; medians (least..most)\n\n", r.Date, r.Machine, r.Rounds, r.Seconds, r.took())
	fmt.Fprintln(w, "| case | figure | tunsplice | to the best peer | aims | others |\n|---|---|---|---|---|---|")
	for _, c := range cases {
		for _, name := range r.figures(c.name) {
			mine, toBest, arrow := r.cell(c, name, ours), "-", "↓"
			var others, aims []string
			for _, p := range programs {
				if text := r.cell(c, name, p.name); p.name != ours && text != "-" {
					others = append(others, p.name+" "+text)
				}
				if s := r.values(c, name, p.name); s != nil && s.More {
					arrow = "↑"
				}
			}
			if s, peer := r.values(c, name, ours), r.bestPeer(c, name, programs); s != nil && peer != nil {
				if x := ratio(s.median(), peer.median()); !math.IsInf(x, 1) {
					toBest = digits(x) + " x " + peer.Program
				}
			}
			for _, v := range r.Aims {
				if v.Case == c.name && v.Figure == name {
					aims = append(aims, v.String())
				}
			}
			fmt.Fprintf(w, "| %s | %s %s | %s | %s | %s | %s |\n", c.name, name, arrow, mine, toBest, strings.Join(aims, "; "), strings.Join(others, "; "))
		}
	}
	met, missed, unknown := 0, []string{}, []string{}
	for _, v := range r.Aims {
		text := v.Case + ", " + v.Figure + ": " + v.String()
		switch {
		case !v.Known:
			unknown = append(unknown, text)
		case v.Met:
			met++
		default:
			missed = append(missed, text)
		}
	}
	fmt.Fprintf(w, "\n%d aims: %d met, %d not met, %d without a figure.\n", len(r.Aims), met, len(missed), len(unknown))
	for _, text := range append(missed, unknown...) {
		fmt.Fprintf(w, "- %s\n", text)
	}
	for _, s := range r.Samples {
		if n := len(s.Errors); n > 0 {
			fmt.Fprintf(w, "\n%s with %s gave no figure in %d of %d rounds: %s\n", s.Case, s.Program, n, r.Rounds, s.Errors[n-1])
		}
	}
}

// cell shows the median and the spread of a program, and what came instead in other rounds; "-": it took no part.
func (r *report) cell(c benchCase, figure, program string) string {
	var words []string
	if s := r.values(c, figure, program); s != nil {
		words = append(words, digits(s.median()))
		if len(s.Values) > 1 {
			words = append(words, fmt.Sprintf("(%s..%s)", digits(slices.Min(s.Values)), digits(slices.Max(s.Values))))
		}
	}
	if s := r.find(c.name, "", program); s != nil {
		word, _, _ := strings.Cut(s.Errors[0], ":")
		if word != stalls && word != notAvailable {
			word = "fails"
		}
		if len(s.Errors) < r.Rounds {
			word += fmt.Sprintf(" %d of %d", len(s.Errors), r.Rounds)
		}
		words = append(words, word)
	}
	if words == nil {
		return "-"
	}
	return strings.Join(words, " ")
}

// figures returns the names of a case's figures in the order they came.
func (r *report) figures(c string) []string {
	var names []string
	for _, s := range r.Samples {
		if s.Case == c && s.Figure != "" && !slices.Contains(names, s.Figure) {
			names = append(names, s.Figure)
		}
	}
	return names
}

func (r *report) writeJSON(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// digits shows three significant digits, and whole numbers from 100 on.
func digits(v float64) string {
	switch {
	case v >= 99.5:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.95:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.995 || v == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func line(figures []figure, err error) string {
	if err != nil {
		return "none: " + err.Error()
	}
	var words []string
	for _, f := range figures {
		words = append(words, digits(f.value)+" "+f.name)
	}
	return strings.Join(words, ", ")
}
