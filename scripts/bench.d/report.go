package main

import (
	"encoding/json"
	"fmt"
	"io"
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
}

// samples are the values of one figure of one program, a value a round.
type samples struct {
	Case, Figure, Program string
	More                  bool `json:"MoreIsBetter"`
	Values                []float64
	Error                 string `json:",omitempty"` // the last reason for a missing value
}

func newReport(seconds time.Duration, rounds int) *report {
	return &report{Date: time.Now().UTC().Format(time.RFC3339), Machine: machine(), Seconds: seconds.Seconds(), Rounds: rounds}
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

func (r *report) find(c, f, p string) *samples {
	i := slices.IndexFunc(r.Samples, func(s *samples) bool { return s.Case == c && s.Figure == f && s.Program == p })
	if i < 0 {
		return nil
	}
	return r.Samples[i]
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
			s.Error = err.Error()
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

// table prints a row a figure: ours, the ratio to the best peer, then every other program. A ratio is ours divided by the peer's, whether more or less is better.
func (r *report) table(w io.Writer, cases []benchCase, programs []*program) {
	fmt.Fprintf(w, "%s; %s; %d rounds of %g s; medians (least..most)\n\n", r.Date, r.Machine, r.Rounds, r.Seconds)
	fmt.Fprintln(w, "| case | figure | tunsplice | to the best peer | peers |\n|---|---|---|---|---|")
	for _, c := range cases {
		for _, name := range r.figures(c.name) {
			mine, ratio := "-", "-"
			var best *samples
			var others []string
			for _, p := range programs {
				s := r.find(c.name, name, p.name)
				if s == nil || len(s.Values) == 0 {
					continue
				}
				text := fmt.Sprintf("%s (%s..%s)", digits(s.median()), digits(slices.Min(s.Values)), digits(slices.Max(s.Values)))
				if p.name == ours {
					mine = text
					continue
				}
				others = append(others, p.name+" "+text)
				if !p.reference && (best == nil || s.More == (s.median() > best.median())) {
					best = s
				}
			}
			if s := r.find(c.name, name, ours); s != nil && len(s.Values) > 0 && best != nil && best.median() > 0 {
				ratio = digits(s.median()/best.median()) + " x " + best.Program
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", c.name, name, mine, ratio, strings.Join(others, "; "))
		}
	}
	for _, s := range r.Samples {
		if s.Error != "" {
			fmt.Fprintf(w, "\n%s with %s gave no figure at least once: %s\n", s.Case, s.Program, s.Error)
		}
	}
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
