package main

import (
	"bytes"
	"fmt"
	"html"
	"os"
	"slices"
)

// The page has a drawing for each figure: a bar a program up to its median, a thin line from the least to the most, and a point for each round.

const (
	labelWidth, barWidth, valueWidth, barHeight = 150, 480, 130, 18
)

func (r *report) writePlot(file string, cases []benchCase, programs []*program) error {
	var page bytes.Buffer
	text := html.EscapeString
	fmt.Fprintf(&page, `<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>tunsplice bench</title>
<style>
body { font: 14px/1.4 sans-serif; margin: 2em; max-width: 60em }
h2 { margin: 1.6em 0 0 } h3 { margin: .8em 0 .2em; font-weight: normal } p { margin: .2em 0 }
text { font: 12px sans-serif } .met { color: #18703c } .missed { color: #b3261e }
.peer { fill: #9db2c9 } .ours { fill: #2e6db4 } .reference { fill: #d9d9d9 } .spread { stroke: #333 } circle { fill: #333; fill-opacity: .5 }
</style>
<h1>tunsplice beside its peers</h1>
<p>%s; %s; rounds: %d of %g s. Bars are medians, lines go from the least to the most, points are rounds.</p>
`, text(r.Date), text(r.Machine), r.Rounds, r.Seconds)
	for _, c := range cases {
		names := r.figures(c.name)
		if len(names) == 0 {
			continue
		}
		fmt.Fprintf(&page, "<h2 id=\"%s\">%s</h2>\n<p>%s</p>\n", text(c.name), text(c.name), text(c.doc))
		for _, name := range names {
			r.plotFigure(&page, c, name, programs)
		}
	}
	page.WriteString("</html>\n")
	return os.WriteFile(file, page.Bytes(), 0o644)
}

func (r *report) plotFigure(page *bytes.Buffer, c benchCase, name string, programs []*program) {
	var shown []*program
	most, more := 0.0, false
	for _, p := range programs {
		if s := r.values(c, name, p.name); s != nil {
			shown = append(shown, p)
			most, more = max(most, slices.Max(s.Values)), s.More
		}
	}
	if most == 0 {
		most = 1
	}
	direction := "less is better"
	if more {
		direction = "more is better"
	}
	fmt.Fprintf(page, "<h3>%s (%s)</h3>\n", html.EscapeString(name), direction)
	height := len(shown) * (barHeight + 4)
	fmt.Fprintf(page, "<svg width=\"%d\" height=\"%d\" role=\"img\">\n", labelWidth+barWidth+valueWidth, height)
	for i, p := range shown {
		s := r.values(c, name, p.name)
		class := "peer"
		if p.name == ours {
			class = "ours"
		} else if p.reference {
			class = "reference"
		}
		x := func(v float64) float64 { return labelWidth + barWidth*v/most }
		top, middle := i*(barHeight+4), i*(barHeight+4)+barHeight/2
		fmt.Fprintf(page, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", labelWidth-8, middle+4, html.EscapeString(p.name))
		fmt.Fprintf(page, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>", class, labelWidth, top, x(s.median())-labelWidth, barHeight)
		fmt.Fprintf(page, "<line class=\"spread\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x(slices.Min(s.Values)), x(slices.Max(s.Values)), middle, middle)
		for _, v := range s.Values {
			fmt.Fprintf(page, "<circle cx=\"%.1f\" cy=\"%d\" r=\"2.5\"/>", x(v), middle)
		}
		fmt.Fprintf(page, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", x(slices.Max(s.Values))+8, middle+4, digits(s.median()))
	}
	page.WriteString("</svg>\n")
	for _, v := range r.Aims {
		if v.Case == c.name && v.Figure == name {
			class := "met"
			if !v.Met {
				class = "missed"
			}
			fmt.Fprintf(page, "<p class=\"%s\">aim: %s</p>\n", class, html.EscapeString(v.plain()))
		}
	}
}
