package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func main() {
	var (
		seed     = flag.Uint64("seed", 1, "seed of arrivals and service times")
		after    = flag.Duration("after", 300*time.Second, "virtual time to watch after the stall; 20s or more")
		svg      = flag.String("svg", "", "file to plot to, as SVG")
		loopback = flag.Bool("loopback", false, "instead: real processes, over gRPC on loopback, in real time")
		role     = flag.String("role", "", "a process of -loopback: server or client")
		policy   = flag.String("policy", "", "of a process of -loopback: plain or napkin")
		addr     = flag.String("addr", "", "of a client of -loopback: the server's address")
	)
	flag.Parse()
	var err error
	switch {
	case *after < 20*time.Second:
		err = fmt.Errorf("-after is %v: set it to 20s or more", *after)
	case *role != "":
		err = serveRole(*role, *policy, *addr, *seed)
	case *loopback:
		err = demonstrate(os.Stdout, fullDemo, *seed)
	default:
		inVirtualTime(func(play player) { exit(simulate(os.Stdout, play, *seed, *after, *svg)) })
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// player plays a scenario in virtual time.
type player func(Scenario) (*Result, error)

// simulate plays all configurations and writes tables and plot.
func simulate(w io.Writer, play player, seed uint64, after time.Duration, svg string) error {
	var stalls, overloads []run
	for _, c := range configurations() {
		r, err := play(stallScenario(c, seed, after))
		if err != nil {
			return err
		}
		stalls = append(stalls, run{c, r})
		if slices.Contains(inOverload, c.Name) {
			if r, err = play(overloadScenario(c, seed)); err != nil {
				return err
			}
			overloads = append(overloads, run{c, r})
		}
	}
	if err := writeStallTable(w, stalls); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := writeOverloadTable(w, overloads); err != nil || svg == "" {
		return err
	}
	return writeFile(svg, func(w io.Writer) error { return plot(w, stalls) })
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// inVirtualTime gives f a player whose scenarios run in bubbles of
// testing/synctest: five minutes of the library's own timers take a second. A
// bubble wants a *testing.T, which outside of go test only testing.Main gives;
// f ends the program before that reports on a test.
func inVirtualTime(f func(player)) {
	all := func(_, _ string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "sim", F: func(t *testing.T) {
		f(func(sc Scenario) (r *Result, err error) {
			synctest.Test(t, func(*testing.T) { r, err = Run(sc) })
			return r, err
		})
	}}}, nil, nil)
}
