package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/resilience"
)

func TestMain(m *testing.M) {
	name, value, _ := strings.Cut(asProcess, "=")
	if os.Getenv(name) == value {
		main() // a process of the demo; it does not return
	}
	goleak.VerifyTestMain(m)
}

func play(t *testing.T, sc Scenario) (r *Result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, err = Run(sc); err != nil {
			t.Fatal(err)
		}
	})
	return r
}

// seeds returns how many to play: one where -short is given, with its race
// detector on two cores.
func seeds(full uint64) uint64 {
	if testing.Short() {
		return 1
	}
	return full
}

func TestWithoutTheLibraryAStallHasNoEnd(t *testing.T) {
	after := 300 * time.Second
	if testing.Short() {
		after = 60 * time.Second
	}
	for _, name := range []string{"retries", "in-flight", "deposits"} {
		t.Run(name, func(t *testing.T) {
			for seed := range seeds(3) {
				r := play(t, stallScenario(configuration(name), seed, after))
				if before := r.Goodput(5*time.Second, stallAt); before < 0.99 {
					t.Errorf("seed %d: goodput %.3f before the stall: not much of a world", seed, before)
				}
				d, ok := r.Recovery()
				if last := r.Goodput(r.Scenario.Until-20*time.Second, r.Scenario.Until); ok || last > 0.05 {
					t.Errorf("seed %d: recovered %t after %v, goodput %.3f in the end: want a metastable failure", seed, ok, d, last)
				}
			}
		})
	}
}

// The promise: with the defaults on both sides a stall of ten seconds is over two
// seconds after it is over, whether or not the server could refuse meanwhile.
func TestWithTheLibraryAStallEndsWithIt(t *testing.T) {
	eachStall(t, func(t *testing.T, sc Scenario) {
		for seed := range seeds(10) {
			sc.Seed = seed
			r := play(t, sc)
			if d, ok := r.Recovery(); !ok || d > 2*time.Second {
				t.Errorf("seed %d: recovered %t after %v, want 2s at most", seed, ok, d)
			}
			checkAfterStall(t, r)
			if a := netAmplification(r, sc.StallAt, sc.StallAt+sc.Stall); a > 1.11 {
				t.Errorf("seed %d: %.3f requests per call in the stall, want 1.1 and what chance adds", seed, a)
			}
		}
	})
}

// Nor does it matter how long the stall was: no length meets a breaker at an
// unlucky moment. In a second after it that happens to bring more calls than the
// capacity, some are refused, since the budget has just been spent.
func TestTheLengthOfAStallDoesNotMatter(t *testing.T) {
	if testing.Short() {
		t.Skip("one length is played by TestWithTheLibraryAStallEndsWithIt")
	}
	eachStall(t, func(t *testing.T, sc Scenario) {
		for seed := range seeds(3) {
			for s := range 15 {
				sc := sc
				sc.Seed, sc.Stall = seed, time.Duration(s+1)*time.Second
				checkAfterStall(t, play(t, sc))
			}
		}
	})
}

// eachStall is for each way to use the library on both sides, and each kind of
// stall.
func eachStall(t *testing.T, f func(*testing.T, Scenario)) {
	for _, name := range []string{"both", "untouched"} {
		for _, freeze := range []bool{false, true} {
			t.Run(name+map[bool]string{true: "/frozen", false: "/stalled"}[freeze], func(t *testing.T) {
				sc := stallScenario(configuration(name), 0, 35*time.Second)
				sc.Freeze = freeze
				f(t, sc)
			})
		}
	}
}

func checkAfterStall(t *testing.T, r *Result) {
	t.Helper()
	end := r.Scenario.StallAt + r.Scenario.Stall
	if good := r.Goodput(end+2*time.Second, end+30*time.Second); good < 0.99 {
		t.Errorf("seed %d, %v: goodput %.4f after the stall, want 0.99", r.Scenario.Seed, r.Scenario.Stall, good)
	}
	checkBudget(t, r, r.Scenario.StallAt, end)
}

// Nothing but the budget keeps a retry from being sent here. It is not enough to
// end the failure, but it bounds it.
func TestTheBudgetBoundsWhatAFailureCosts(t *testing.T) {
	for seed := range seeds(6) {
		r := play(t, stallScenario(configuration("budget"), seed, 60*time.Second))
		for from := stallAt; from < r.Scenario.Until; from += 10 * time.Second {
			checkBudget(t, r, from, from+10*time.Second)
			if a := netAmplification(r, from, from+10*time.Second); a > 1.11 {
				t.Errorf("seed %d: %.3f requests per call in the ten seconds from %v, want 1.1 and what chance adds", seed, a, from)
			}
		}
		if _, ok := r.Recovery(); ok {
			t.Errorf("seed %d: a budget alone ended the failure: the documentation says otherwise", seed)
		}
	}
}

const budgetTTL = 10 * time.Second

// checkBudget checks what the budget promises for the time between from and to:
// retries are a tenth of the calls, those of the last 10 s before included, and
// one per second with its reserve of 10 s.
func checkBudget(t *testing.T, r *Result, from, to time.Duration) {
	t.Helper()
	now, paid := r.span(from, to), r.span(max(from-budgetTTL, 0), to)
	retries, floor := float64(now.Attempts-now.Offered), (to - from + budgetTTL).Seconds()
	if most := 0.1*float64(paid.Offered) + floor; retries > most {
		t.Errorf("seed %d, %v: %.0f retries from %v to %v, want %.0f at most", r.Scenario.Seed, r.Scenario.Stall, retries, from, to, most)
	}
}

// netAmplification is how many requests were sent per call, without what the
// budget's minimum rate and its reserve allow.
func netAmplification(r *Result, from, to time.Duration) float64 {
	s := r.span(from, to)
	return (float64(s.Attempts) - (to - from + budgetTTL).Seconds()) / float64(s.Offered)
}

func TestOverloadServesTheCriticalAtFullCapacity(t *testing.T) {
	judged := overloadLength
	if testing.Short() {
		judged = 5 * time.Second
	}
	for seed := range seeds(4) {
		sc := overloadScenario(configuration("both"), seed)
		sc.Until += judged - overloadLength
		r := play(t, sc)
		s := r.span(overloadFrom, overloadFrom+judged)
		if c := s.goodputOfCapacity(judged); c < 0.9 {
			t.Errorf("seed %d: goodput is %.3f of the capacity, want 0.9", seed, c)
		}
		if good := s.goodputOf(resilience.Critical); good < 0.99 {
			t.Errorf("seed %d: %.3f of the CRITICAL calls were served, want 0.99: they alone fit", seed, good)
		}
		if good := s.goodputOf(resilience.Sheddable); good > 0.1 {
			t.Errorf("seed %d: %.3f of the SHEDDABLE calls were served: where is the overload?", seed, good)
		}
	}
	if testing.Short() {
		return
	}
	sc := overloadScenario(configuration("both"), 1)
	sc.Streams = []Stream{{10 * capacity, resilience.Critical}}
	s := play(t, sc).span(overloadFrom, overloadFrom+judged)
	if c := s.goodputOfCapacity(judged); c < 0.9 {
		t.Errorf("all CRITICAL: goodput is %.3f of the capacity, want 0.9", c)
	}
}

// Dropping what is late is not enough under overload: what just makes it to the
// worker is late when it is done.
func TestDroppingWantsAMargin(t *testing.T) {
	if testing.Short() {
		t.Skip("the documentation's table, not a promise of the library")
	}
	for name, want := range map[string]func(float64) bool{
		"late":   func(c float64) bool { return c < 0.1 },
		"margin": func(c float64) bool { return c > 0.9 },
	} {
		s := play(t, overloadScenario(configuration(name), 1)).span(overloadFrom, overloadFrom+overloadLength)
		if c := s.goodputOfCapacity(overloadLength); !want(c) {
			t.Errorf("%s: goodput is %.3f of the capacity", name, c)
		}
	}
}

// With service times that vary more, busy seconds at 93 % load are shed a little
// at any time; a stall still leaves nothing behind.
func TestVaryingServiceTimes(t *testing.T) {
	for seed := range seeds(10) {
		sc := stallScenario(configuration("both"), seed, 60*time.Second)
		sc.Server.Exponential = true
		r := play(t, sc)
		if good := r.Goodput(stallAt+stallLength+2*time.Second, sc.Until); good < 0.98 {
			t.Errorf("seed %d: goodput %.4f after the stall, want 0.98", seed, good)
		}
	}
}

func TestSimulateWritesTablesAndPlot(t *testing.T) {
	if testing.Short() {
		t.Skip("all configurations")
	}
	var out strings.Builder
	svg := t.TempDir() + "/plot.svg"
	one := func(sc Scenario) (*Result, error) { return play(t, sc), nil }
	if err := simulate(&out, one, 1, 20*time.Second, svg); err != nil {
		t.Fatal(err)
	}
	for _, c := range configurations() {
		if !strings.Contains(out.String(), c.Label) {
			t.Errorf("%s is missing in\n%s", c.Label, out.String())
		}
	}
	checkPlot(t, svg)
}

func TestPlot(t *testing.T) {
	var runs []run
	for _, name := range inPlot {
		sc := stallScenario(configuration(name), 1, 0)
		runs = append(runs, run{configuration(name), &Result{Scenario: sc, Seconds: make([]Second, 60)}})
	}
	name := t.TempDir() + "/plot.svg"
	if err := writeFile(name, func(w io.Writer) error { return plot(w, runs) }); err != nil {
		t.Fatal(err)
	}
	checkPlot(t, name)
}

func checkPlot(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
		}
	}
	if want := 3 * len(inPlot); lines != want {
		t.Errorf("%d lines, want %d", lines, want)
	}
	if info, err := f.Stat(); err != nil || info.Size() > 100<<10 {
		t.Errorf("%d bytes, %v: too big to be kept", info.Size(), err)
	}
}

// The same with real processes and gRPC: once without the library, once with it.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("two runs of half a minute")
	}
	d := demo{
		capacity: 150, offered: 140, clients: 2,
		before: 6 * time.Second, stall: 5 * time.Second, after: 15 * time.Second,
	}
	end := d.before + d.stall
	results := map[string]*Result{}
	for _, policy := range []string{policyPlain, policyNapkin} {
		r, err := d.run(policy, 1, func(i int, s Second) {
			t.Logf("%s, second %d: %d calls, %d succeeded, %d requests", policy, i, s.Offered, s.Good, s.Attempts)
		})
		if err != nil {
			t.Fatal(err)
		}
		results[policy] = r
	}
	if good := results[policyPlain].Goodput(end+3*time.Second, d.length()); good > 0.3 {
		t.Errorf("plain: goodput %.2f after the stall, want a metastable failure", good)
	}
	if good := results[policyNapkin].Goodput(end+3*time.Second, d.length()); good < 0.8 {
		t.Errorf("napkin: goodput %.2f after the stall, want 0.8", good)
	}
	if a := results[policyPlain].Amplification(end, d.length()); a < 2 {
		t.Errorf("plain: %.2f requests per call after the stall, want retries to multiply", a)
	}
	if a := results[policyNapkin].Amplification(d.before, d.length()); a > 1.5 {
		t.Errorf("napkin: %.2f requests per call from the stall on, want a tenth more", a)
	}
}
