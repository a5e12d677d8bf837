package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/napkin-kit/napkin/resilience"
)

// run is a configuration with what came of it.
type run struct {
	Configuration
	*Result
}

// writeStallTable writes one line per configuration: how the stall went by.
func writeStallTable(w io.Writer, runs []run) error {
	fmt.Fprintf(w, "A server for %d requests/s is asked for %d/s, and stalls for %s. Clients wait for %s.\n\n", capacity, offered, seconds(stallLength), seconds(timeout))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tgoodput\t\t\trequests per call\t\trecovery")
	fmt.Fprintln(t, "configuration\tbefore\tnext 10 s\tlast 20 s\tin the stall\tnext 10 s\tto 99 %")
	for _, r := range runs {
		end := r.Scenario.StallAt + r.Scenario.Stall
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.2f\t%.2f\t%s\n", r.Label,
			percent(r.Goodput(5*time.Second, r.Scenario.StallAt)),
			percent(r.Goodput(end, end+10*time.Second)),
			percent(r.Goodput(r.Scenario.Until-20*time.Second, r.Scenario.Until)),
			r.Amplification(r.Scenario.StallAt, end),
			r.Amplification(end, end+10*time.Second),
			recovery(r.Result))
	}
	return t.Flush()
}

func recovery(r *Result) string {
	d, ok := r.Recovery()
	if !ok {
		return "never in " + seconds(r.Scenario.Until-r.Scenario.StallAt-r.Scenario.Stall)
	}
	return seconds(d)
}

// writeOverloadTable writes one line per configuration: who was served.
func writeOverloadTable(w io.Writer, runs []run) error {
	fmt.Fprintf(w, "The same server is asked for %d/s, of which %.0f/s are CRITICAL and the rest SHEDDABLE.\n\n", 10*capacity, overload[0].PerSecond)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "configuration\tgoodput of capacity\tCRITICAL served\tSHEDDABLE served\trequests/s")
	for _, r := range runs {
		s := r.span(overloadFrom, overloadFrom+overloadLength)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.0f\n", r.Label,
			percent(s.goodputOfCapacity(overloadLength)),
			percent(s.goodputOf(resilience.Critical)), percent(s.goodputOf(resilience.Sheddable)),
			float64(s.Attempts)/overloadLength.Seconds())
	}
	return t.Flush()
}

func (s *Second) goodputOfCapacity(over time.Duration) float64 {
	return float64(s.Good) / over.Seconds() / capacity
}

func (s *Second) goodputOf(c resilience.Criticality) float64 {
	return float64(s.GoodOf[c]) / float64(max(s.OfferedOf[c], 1))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }

func percent(f float64) string { return fmt.Sprintf("%.1f %%", 100*f) }
