// Command bars reads the raw output of `go test -bench` and prints one line per
// bar of an area:
//
//	BAR <name> <value> <op> <limit> ok|short
//
//	go run ./bars -area resilience results/resilience.txt
//
// Values are medians over the runs (-count) in the file, so a bar is computed
// from what was just measured and from nothing else. A benchmark that is not in
// the file makes its bars "missing … short". Bars that fall short do not fail
// the command: it exits with 2 if it cannot read the file or does not know the
// area, else with 0.
//
// An area is a function in a file of its own, entered in areas.
package main

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// areas has the bars of each area, entered by the area's file.
var areas = map[string]func(r Results) []Bar{}

// Bar is one number to reach.
type Bar struct {
	Name  string // without spaces; its last part is the unit
	Value float64
	Op    string // "<=" or ">="
	Limit float64
}

// AtMost is reached if value ≤ limit.
func AtMost(name string, value, limit float64) Bar { return Bar{name, value, "<=", limit} }

// AtLeast is reached if value ≥ limit.
func AtLeast(name string, value, limit float64) Bar { return Bar{name, value, ">=", limit} }

// OK reports whether the bar is reached. NaN, which stands for a benchmark that
// is missing, reaches none.
func (b Bar) OK() bool {
	switch b.Op {
	case "<=":
		return b.Value <= b.Limit
	case ">=":
		return b.Value >= b.Limit
	}
	return false
}

func (b Bar) String() string {
	verdict := "short"
	if b.OK() {
		verdict = "ok"
	}
	return fmt.Sprintf("BAR %s %s %s %s %s", b.Name, number(b.Value), b.Op, number(b.Limit), verdict)
}

// number has four digits, as many as a benchmark is worth.
func number(v float64) string {
	if math.IsNaN(v) {
		return "missing"
	}
	if math.Abs(v) >= 1000 {
		return strconv.FormatFloat(math.Round(v), 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bars", flag.ContinueOnError)
	flags.SetOutput(stderr)
	name := flags.String("area", "", "one of "+known())
	if err := flags.Parse(args); err != nil {
		return 2
	}
	area, ok := areas[*name]
	if !ok || flags.NArg() != 1 {
		fmt.Fprintf(stderr, "bars: usage: bars -area <area> <file>, where the area is one of %s\n", known())
		return 2
	}
	f, err := os.Open(flags.Arg(0))
	if err != nil {
		fmt.Fprintf(stderr, "bars: %v\n", err)
		return 2
	}
	defer f.Close()
	results, err := Parse(f)
	if err != nil {
		fmt.Fprintf(stderr, "bars: %s: %v\n", flags.Arg(0), err)
		return 2
	}
	for _, bar := range area(results) {
		fmt.Fprintln(stdout, bar)
	}
	return 0
}

func known() string { return strings.Join(slices.Sorted(maps.Keys(areas)), ", ") }
