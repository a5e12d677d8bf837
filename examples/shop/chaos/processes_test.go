package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/examples/shop/shoptest"
)

// TestCrashProcesses kills each service's process alone, at random moments and at named points, then the
// broker and the database server, all under load.
func TestCrashProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("nine processes; make test-crash runs it")
	}
	d := newClusterDrill(t)
	stop := d.load(t, 3)
	rounds := 1
	if full() {
		rounds = 5
	}
	for range rounds {
		names := shop.Names()
		d.choice.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			d.pause(t, 200*time.Millisecond, 1500*time.Millisecond)
			d.cluster.Services[name].Kill()
			d.restart(t, name, "at a random moment")
		}
	}
	for _, name := range shop.Names() {
		d.atPoints(t, name)
	}
	for range rounds {
		d.pause(t, 200*time.Millisecond, time.Second)
		d.cluster.NATS.Kill()
		d.pause(t, 200*time.Millisecond, 2*time.Second)
		d.cluster.StartNATS(t)
		d.note("nats-server", "at a random moment")

		d.pause(t, time.Second, 2*time.Second)
		if err := d.cluster.Postgres.Crash(); err != nil {
			t.Fatal(err)
		}
		d.pause(t, 200*time.Millisecond, time.Second)
		if err := d.cluster.Postgres.Restart(); err != nil {
			t.Fatal(err)
		}
		d.note("PostgreSQL", "at a random moment")
	}
	d.pause(t, time.Second, 2*time.Second)
	told := stop()
	for name, p := range d.cluster.Services {
		select {
		case <-p.Done():
			t.Errorf("%s has ended:\n%s", name, p.Output())
		default:
		}
	}
	d.judge(t, told)
}

type clusterDrill struct {
	*world
	cluster *shoptest.Cluster
	choice  *rand.Rand
	dir     string
	ctl     map[string]*control
	kills   []kill
}

// kill is one line of the report.
type kill struct{ what, where string }

func newClusterDrill(t *testing.T) *clusterDrill {
	t.Helper()
	d := &clusterDrill{choice: seeded(t), dir: t.TempDir(), ctl: map[string]*control{}}
	for _, name := range shop.Names() {
		d.ctl[name] = newControl(filepath.Join(d.dir, name+".control"))
	}
	d.cluster = shoptest.StartClusterWith(t, "crashpoints", func(service string) []string {
		return []string{"SHOP_CRASH_CONTROL=" + d.ctl[service].path, "SHOP_CRASH_RECORD=" + d.record(service).path}
	})
	d.world = &world{
		base: d.cluster.URL, out: d.cluster.Out, ledger: newLedger(),
		control: func(service string) *control { return d.ctl[service] },
		record:  d.record,
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := d.populate(ctx); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *clusterDrill) record(service string) record {
	return record{filepath.Join(d.dir, service+".record")}
}

func (d *clusterDrill) note(what, where string) { d.kills = append(d.kills, kill{what, where}) }

// pause waits for a random time within bounds.
func (d *clusterDrill) pause(t *testing.T, least, most time.Duration) {
	t.Helper()
	select {
	case <-time.After(least + time.Duration(d.choice.Int64N(int64(most-least)))):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// restart starts a service that was killed, after a while.
func (d *clusterDrill) restart(t *testing.T, name, where string) {
	t.Helper()
	p := d.cluster.Services[name]
	if !p.Killed() {
		t.Fatalf("%s ended by itself:\n%s", name, p.Output())
	}
	d.note(name, where)
	d.pause(t, 0, 700*time.Millisecond)
	d.cluster.StartService(t, name)
	d.cluster.WaitReady(t, name)
}

// atPoints kills a service at a sample of its points: one of each component, or in the full form one of each
// kind.
func (d *clusterDrill) atPoints(t *testing.T, service string) {
	t.Helper()
	lines, _ := d.record(service).since(0)
	counts := map[string]int{}
	for _, l := range lines {
		if !strings.HasPrefix(l, "killed ") {
			counts[l]++
		}
	}
	samples := map[string][]string{}
	for name := range counts {
		p := point{name: name}
		group := p.kind()
		if !full() {
			group = strings.Join(strings.SplitN(name, "/", 3)[:2], "/")
		}
		samples[group] = append(samples[group], name)
	}
	for _, group := range slices.Sorted(maps.Keys(samples)) {
		names := samples[group]
		slices.Sort(names)
		d.choice.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		// What the load comes by often, it will come by again soon.
		slices.SortStableFunc(names, func(a, b string) int { return min(counts[b], 5) - min(counts[a], 5) })
		if !slices.ContainsFunc(names[:min(len(names), 4)], func(name string) bool { return d.atPoint(t, service, name, counts[name]) }) {
			t.Errorf("%s: %s was not killed at any of %v", group, service, names)
		}
	}
}

// atPoint arms one point, which the load has come by so often, and reports whether the process has killed
// itself there.
func (d *clusterDrill) atPoint(t *testing.T, service, name string, count int) bool {
	t.Helper()
	d.ctl[service].arm(t, name, 1+d.choice.IntN(min(3, 1+count/20)))
	defer d.ctl[service].arm(t, "", 0)
	select {
	case <-d.cluster.Services[service].Done():
	case <-time.After(time.Minute):
		d.ctl[service].arm(t, "", 0)
		select {
		case <-d.cluster.Services[service].Done(): // at the last moment
		case <-time.After(100 * time.Millisecond):
			return false
		}
	}
	d.ctl[service].arm(t, "", 0)
	d.restart(t, service, name)
	return true
}

// load has customers tell random stories until stop is called, which waits for the end of those that were
// begun and returns how many there were, and what went wrong.
func (d *clusterDrill) load(t *testing.T, customers int) (stop func() map[string]int) {
	t.Helper()
	const patience = 4 * time.Minute // the store is hardly ever whole
	var wg sync.WaitGroup
	var mu sync.Mutex
	told := map[string]int{}
	var errs []error
	done := make(chan struct{})
	for i := range customers {
		choice := rand.New(rand.NewPCG(d.choice.Uint64(), uint64(i)))
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				s := scenarios[choice.IntN(len(scenarios))]
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				err := s.tell(ctx, d.world)
				cancel()
				mu.Lock()
				told[s.name]++
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
				}
				mu.Unlock()
			}
		})
	}
	return func() map[string]int {
		close(done)
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		return told
	}
}

// judge waits until nothing is under way, compares the ledgers and prints the report.
func (d *clusterDrill) judge(t *testing.T, told map[string]int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	r, err := shop.Check(ctx, shop.CheckOptions{External: true, Wait: patience}, d.cluster.Getenv)
	if err != nil {
		t.Fatalf("shop check: %v", err)
	}
	breaches := r.Breaches() + r.Stuck
	for _, l := range d.ledger.takeLosses() {
		breaches++
		t.Error(l)
	}
	total := 0
	for _, n := range r.Orders {
		total += n
	}
	if want := d.ledger.orders(); total != want {
		breaches++
		t.Errorf("customers were promised %d orders, the store has %d", want, total)
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROCESS\tKILLED\tKILLS")
	counts := map[kill]int{}
	for _, k := range d.kills {
		counts[k]++
	}
	for _, k := range slices.SortedFunc(maps.Keys(counts), func(a, b kill) int { return strings.Compare(a.what+a.where, b.what+b.where) }) {
		fmt.Fprintf(w, "%s\t%s\t%d\n", k.what, k.where, counts[k])
	}
	_ = w.Flush()
	stories := 0
	for _, n := range told {
		stories += n
	}
	fmt.Fprintf(&text, "%d kills, %d stories, %d orders, %d breaches\n", len(d.kills), stories, d.ledger.orders(), breaches)
	r.Print(&text)
	t.Log("\n" + text.String())
	if breaches > 0 || !r.Quiescent() {
		t.Errorf("%d breaches; still under way: %v", breaches, r.Waiting)
	}
}
