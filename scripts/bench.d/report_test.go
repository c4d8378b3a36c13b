package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{3}, 0.99, 3},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{4, 1, 3, 2}, 0, 1},
		{[]float64{4, 1, 3, 2}, 1, 4},
		{[]float64{0, 10}, 0.9, 9},
	} {
		if got := quantile(c.values, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
}

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.0526: "0.053", 0.9941: "0.994", 1.234: "1.23", 12.34: "12.3", 99.96: "100", 123456.7: "123457"} {
		if got := digits(v); got != want {
			t.Errorf("digits(%v) = %s, want %s", v, got, want)
		}
	}
}

// sampleReport has a case of two figures and one that takes its peers from the first.
func sampleReport() (*report, []benchCase, []*program) {
	programs := []*program{{name: ours}, {name: "socat"}, {name: "vtun"}, {name: "direct", reference: true}}
	cases := []benchCase{
		{name: "first", aims: []aim{{gbits, best, 3}, {gbits, "direct", 0.5}, {gbits, "nginx", 1}, {cpuGB, "socat", 0.5}, {cpuGB, itself, 0.1}, {"loss %", "socat", 1}}},
		{name: "second", peers: "first", aims: []aim{{gbits, best, 5}}},
	}
	r := newReport(time.Second, 3)
	for round := range 3 {
		x := float64(round)
		r.add("first", ours, []figure{{gbits, 12 + x, true}, {cpuGB, 0.2, false}, {"loss %", 0, false}}, nil)
		r.add("first", "socat", []figure{{gbits, 4 - x, true}, {cpuGB, 0.8, false}, {"loss %", 0, false}}, nil)
		r.add("first", "direct", []figure{{gbits, 40, true}}, nil)
		if round == 0 {
			r.add("first", "vtun", nil, errors.New("stalls: no byte"))
		} else {
			r.add("first", "vtun", []figure{{gbits, 2, true}}, nil)
		}
		r.add("second", ours, []figure{{gbits, 30, true}}, nil)
	}
	r.judge(cases, programs)
	return r, cases, programs
}

func TestJudge(t *testing.T) {
	r, _, _ := sampleReport()
	want := []string{
		"≥ 3.00 x best: 4.33, met",
		"≥ 0.500 x direct: 0.325, **not met**",
		"1.00 x nginx: no figure",
		"≤ 0.500 x socat: 0.250, met",
		"≤ 0.100: 0.200, **not met**",
		"≤ 1.00 x socat: 1.00, met",
		"≥ 5.00 x best: 10.0, met",
	}
	for i, v := range r.Aims {
		if v.String() != want[i] {
			t.Errorf("aim %d: %s, want %s", i, v, want[i])
		}
	}
}

func TestTable(t *testing.T) {
	r, cases, programs := sampleReport()
	var out bytes.Buffer
	r.table(&out, cases, programs)
	for _, want := range []string{
		"| first | Gbit/s ↑ | 13.0 (12.0..14.0) | 4.33 x socat |",
		"| socat 3.00 (2.00..4.00); vtun 2.00 (2.00..2.00) stalls 1 of 3; direct 40.0 (40.0..40.0) |",
		"| first | CPU s/GB ↓ | 0.200 (0.200..0.200) | 0.250 x socat |",
		"| second | Gbit/s ↑ | 30.0 (30.0..30.0) | 10.0 x socat |",
		"7 aims: 4 met, 2 not met, 1 without a figure.",
		"first with vtun gave no figure in 1 of 3 rounds: stalls: no byte",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestZeroPeer(t *testing.T) {
	r := newReport(time.Second, 1)
	r.add("c", ours, []figure{{"loss %", 1, false}}, nil)
	r.add("c", "socat", []figure{{"loss %", 0, false}}, nil)
	cases, programs := []benchCase{{name: "c", aims: []aim{{"loss %", "socat", 1}}}}, []*program{{name: ours}, {name: "socat"}}
	r.judge(cases, programs)
	if v := r.Aims[0]; v.Met || !v.Known {
		t.Errorf("a loss where the peer has none: %+v", v)
	}
	if err := r.writeJSON(filepath.Join(t.TempDir(), "out.json")); err != nil {
		t.Error(err)
	}
	r.table(&bytes.Buffer{}, cases, programs)
}

func TestFiles(t *testing.T) {
	r, cases, programs := sampleReport()
	dir := t.TempDir()
	if err := r.writeJSON(dir + "/out.json"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(dir + "/out.json")
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(text, &back); err != nil || len(back.Samples) != len(r.Samples) || len(back.Aims) != len(r.Aims) {
		t.Errorf("%d samples and %d aims came back: %v", len(back.Samples), len(back.Aims), err)
	}
	if err := r.writePlot(dir+"/out.html", cases, programs); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(dir + "/out.html")
	if err != nil {
		t.Fatal(err)
	}
	if s := string(page); strings.Count(s, "<svg") != strings.Count(s, "</svg>") || strings.Contains(s, "<script") || strings.Contains(s, "http") || strings.Contains(s, "NaN") {
		t.Errorf("the page:\n%s", s)
	}
}

// Every aim must name a figure and a program that exist as far as tables tell; a misspelt one would stay without a figure for ever.
func TestCases(t *testing.T) {
	seen := map[string]bool{}
	known := map[string]bool{best: true, itself: true, "socat": true, "socat -b 262144": true, "direct": true, "nginx": true, "haproxy": true, "openvpn": true, "wireguard-go": true}
	figures := map[string]bool{}
	for _, name := range []string{gbits, cpuGB, cpuBothGB, idleMedian, loadedMedian, loadedWorst, perSecond, "CPU µs/packet", "loss %", "MiB taken", "connections/s", "µs, median", "µs, 99 %",
		"requests/s", "worst µs", "KiB/connection", "wake-ups/s", "ms, median"} {
		figures[name] = true
	}
	for _, c := range allCases() {
		if seen[c.name] {
			t.Errorf("two cases %s", c.name)
		}
		seen[c.name] = true
		if c.peers != "" && !seen[c.peers] {
			t.Errorf("%s refers to %s, which is not before it", c.name, c.peers)
		}
		for _, a := range c.aims {
			if !known[a.of] || !figures[a.figure] {
				t.Errorf("%s: aim of %q, %q", c.name, a.figure, a.of)
			}
		}
	}
	if cases, err := choose(allCases(), "tunnel-qemu,relay-tcp*"); err != nil || len(cases) != 6 {
		t.Errorf("%d cases chosen, %v", len(cases), err)
	}
	if _, err := choose(allCases(), "nothing"); err == nil {
		t.Error("a case that does not exist was chosen")
	}
}

func TestTail(t *testing.T) {
	var l tail
	for range 10000 {
		l.Write([]byte("a line\n"))
	}
	l.Write([]byte("2026/01/01 00:00:00 program[1] E the reason\nthe end\n"))
	if s := l.String(); len(s) != 2*tailSize || lastLine(s) != "2026/01/01 00:00:00 program[1] E the reason" {
		t.Errorf("%d bytes, last line %q", len(s), lastLine(s))
	}
}

func TestWith(t *testing.T) {
	for command, want := range map[string]string{"socat": "socat a b", "socat -b 1": "socat -b 1 a b", "time {args} end": "time a b end", "sh x={args}": "sh x=a b"} {
		if got := strings.Join(speaker("p", nil, strings.Fields(command)...).with("a", "b"), " "); got != want {
			t.Errorf("%q: %q, want %q", command, got, want)
		}
	}
}
