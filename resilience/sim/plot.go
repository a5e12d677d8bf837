package main

import (
	"bufio"
	"fmt"
	"html"
	"io"
)

// The plot is one panel per configuration, all to the same scale, since six
// lines in one would hide each other. It is a few dozen lines of SVG by hand: a
// chart library would be a module that every user of the library takes on.
const (
	panelWidth, panelHeight = 440, 216 // with its margins
	plotLeft, plotTop       = 52, 36
	plotWidth, plotHeight   = 370, 130
	columns                 = 2
	header                  = 78
	plotted                 = 180 // seconds
	ceiling                 = 1200
)

const (
	colorGood    = "#0072b2" // colours that differ also to the colour-blind (Okabe and Ito)
	colorSent    = "#d55e00"
	colorOffered = "#666666"
	colorStall   = "#e8e8e8"
)

var inPlot = []string{"no-retries", "retries", "in-flight", "client", "server", "both"}

func plot(out io.Writer, runs []run) error {
	w := bufio.NewWriter(out)
	rows := (len(inPlot) + columns - 1) / columns
	width, height := columns*panelWidth, header+rows*panelHeight
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12" fill="#222">`+"\n", width, height, width, height)
	fmt.Fprintf(w, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(w, `<text x="%d" y="24" font-size="16" font-weight="bold">A stall of %.0f s in a server that is asked for %.0f %% of what it can do</text>`+"\n",
		plotLeft, stallLength.Seconds(), 100*float64(offered)/capacity)
	legend(w)
	drawn := 0
	for _, name := range inPlot {
		for _, r := range runs {
			if r.Name == name {
				panel(w, drawn%columns*panelWidth, header+drawn/columns*panelHeight, r)
				drawn++
			}
		}
	}
	fmt.Fprintln(w, "</svg>")
	return w.Flush()
}

func legend(w io.Writer) {
	x := plotLeft
	for _, l := range []struct {
		color, dash, text string
		width             int
	}{
		{colorGood, "", "calls that succeed", 150},
		{colorSent, "", "requests sent, retries included", 225},
		{colorOffered, "4 3", "calls", 75},
	} {
		fmt.Fprintf(w, `<path d="M%d 46h24" stroke="%s" stroke-width="2.5" stroke-dasharray="%s"/><text x="%d" y="50">%s</text>`+"\n", x, l.color, l.dash, x+30, l.text)
		x += l.width
	}
	fmt.Fprintf(w, `<rect x="%d" y="38" width="24" height="16" fill="%s"/><text x="%d" y="50">the server stalls</text>`+"\n", x, colorStall, x+30)
}

// panel draws one configuration with its upper left corner at x, y.
func panel(w io.Writer, x, y int, r run) {
	px := func(second float64) float64 { return float64(plotLeft) + second/plotted*plotWidth }
	py := func(n float64) float64 { return float64(plotTop) + (1-min(n, ceiling)/ceiling)*plotHeight }
	fmt.Fprintf(w, `<g transform="translate(%d %d)">`+"\n", x, y)
	fmt.Fprintf(w, `<text x="%d" y="%d" font-size="13" font-weight="bold">%s</text>`, plotLeft, plotTop-20, html.EscapeString(r.Label))
	fmt.Fprintf(w, `<text x="%d" y="%d">99 %% goodput after: %s</text>`+"\n", plotLeft, plotTop-6, recovery(r.Result))
	from, to := px(r.Scenario.StallAt.Seconds()), px((r.Scenario.StallAt + r.Scenario.Stall).Seconds())
	fmt.Fprintf(w, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", from, plotTop, to-from, plotHeight, colorStall)
	for n := 0; n <= ceiling; n += 300 {
		fmt.Fprintf(w, `<path d="M%d %.1fh%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%d</text>`+"\n", plotLeft, py(float64(n)), plotWidth, plotLeft-6, py(float64(n))+4, n)
	}
	for s := 0; s <= plotted; s += 30 {
		fmt.Fprintf(w, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`, px(float64(s)), plotTop+plotHeight+16, s)
	}
	fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="middle">time in seconds</text>`, plotLeft+plotWidth/2, plotTop+plotHeight+32)
	fmt.Fprintf(w, `<text transform="translate(14 %d) rotate(-90)" text-anchor="middle">per second</text>`+"\n", plotTop+plotHeight/2)
	line := func(color, dash string, value func(Second) int) {
		fmt.Fprintf(w, `<polyline fill="none" stroke="%s" stroke-width="1.8" stroke-dasharray="%s" points="`, color, dash)
		for i, s := range r.Seconds[:min(plotted, len(r.Seconds))] {
			fmt.Fprintf(w, "%.1f,%.1f ", px(float64(i)+0.5), py(float64(value(s))))
		}
		fmt.Fprintln(w, `"/>`)
	}
	line(colorSent, "", func(s Second) int { return s.Attempts })
	line(colorOffered, "4 3", func(s Second) int { return s.Offered })
	line(colorGood, "", func(s Second) int { return s.Good })
	fmt.Fprintf(w, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#999"/></g>`+"\n", plotLeft, plotTop, plotWidth, plotHeight)
}
