// Package chaos kills the store where it hurts, and then compares every ledger with every other.
//
// NAPKIN_CRASH_FULL=1 visits every point and lets the store settle more often. NAPKIN_CRASH_SEED repeats a
// run's choices, NAPKIN_CRASH_ONLY visits the points whose name has that in it, and NAPKIN_CRASH_LIST writes
// all names to a file.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/examples/shop/check"
	"github.com/napkin-kit/napkin/examples/shop/shoptest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	shoptest.Clean()
	os.Exit(code)
}

// full asks for every point rather than one of each kind.
func full() bool { return os.Getenv("NAPKIN_CRASH_FULL") != "" }

// seeded returns the source of a run's choices, and says how to repeat them.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("NAPKIN_CRASH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("NAPKIN_CRASH_SEED: %v", err)
		}
	}
	t.Logf("NAPKIN_CRASH_SEED=%d repeats this run's choices", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// patience is how long one story may take, with the store killed in the middle of it: a claim on a call to
// the provider lapses after 14 s, one on a notification after 30 s.
const patience = 100 * time.Second

// TestCrashOneProcess kills the store in one process at each of its named points, in the middle of orders,
// and starts it again on the same data.
func TestCrashOneProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a store some seventy times; make test-crash runs it")
	}
	d := newDrill(t)
	points := d.rehearse(t)
	points = d.choose(t, points)
	for _, group := range groups(points) {
		d.visit(t, group)
	}
	d.print(t)
}

// drill is a store in one process with its outsiders, and what became of it at each point.
type drill struct {
	*world
	store  *shoptest.Store
	ctl    *control
	rec    record
	choice *rand.Rand
	rows   []*row
	report check.Report
	others map[string][]point // of the same kind as a chosen one
}

// row is one line of the drill's report.
type row struct {
	point
	nth      int
	kills    int
	orders   int
	breaches int
	took     time.Duration
	stories  []*story
}

func newDrill(t *testing.T) *drill {
	t.Helper()
	dir := t.TempDir()
	bin := shoptest.Build(t, "crashpoints")
	out := shoptest.StartOutsiders(t, bin, dir)
	d := &drill{
		store: shoptest.NewStore(t, bin, filepath.Join(dir, "data"), out), choice: seeded(t),
		others: map[string][]point{},
		ctl:    newControl(filepath.Join(dir, "control")), rec: record{filepath.Join(dir, "record")},
	}
	d.world = &world{
		base: d.store.URL, out: out, ledger: newLedger(),
		control: func(string) *control { return d.ctl },
		record:  func(string) record { return d.rec },
	}
	d.boot(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := d.populate(ctx); err != nil {
		t.Fatal(err)
	}
	d.settle(t, ctx)
	return d
}

func (d *drill) boot(t *testing.T) {
	t.Helper()
	d.store.Boot(t, "SHOP_CRASH_CONTROL="+d.ctl.path, "SHOP_CRASH_RECORD="+d.rec.path)
}

// settle waits until nothing is under way, and compares the ledgers.
func (d *drill) settle(t *testing.T, ctx context.Context) check.Report {
	t.Helper()
	r, err := shop.Check(ctx, shop.CheckOptions{
		Data: d.store.Data, Wait: patience,
		ProviderURL: d.out.ProviderURL, ProviderKey: shoptest.ProviderKey, MessagesURL: d.out.MessageURL,
	}, os.Getenv)
	if err != nil {
		t.Fatalf("shop check: %v", err)
	}
	if !r.Quiescent() || r.Breaches() > 0 || r.Stuck > 0 {
		var text strings.Builder
		r.Print(&text)
		t.Errorf("shop check:\n%s", text.String())
	}
	d.report = r
	return r
}

// rehearse tells every scenario once, one after another, and returns the points that were passed, each with
// the cheapest scenario that passes it.
func (d *drill) rehearse(t *testing.T) []point {
	t.Helper()
	d.calm = true
	defer func() { d.calm = false }()
	var points []point
	at := map[string]bool{}
	for _, s := range scenarios {
		started := time.Now()
		from := d.rec.end()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := s.tell(ctx, d.world); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		d.settle(t, ctx)
		cancel()
		lines, _ := d.rec.since(d.quietSince(t, from))
		counts := map[string]int{}
		for _, l := range lines {
			counts[l]++
		}
		added := 0
		for name, n := range counts {
			if !at[name] {
				at[name] = true
				points = append(points, point{name: name, scenario: s.name, passes: n})
				added++
			}
		}
		t.Logf("rehearsed %-20s %5.1f s, %3d points, %3d of them new", s.name, time.Since(started).Seconds(), len(counts), added)
	}
	slices.SortFunc(points, func(a, b point) int { return strings.Compare(a.name, b.name) })
	if list := os.Getenv("NAPKIN_CRASH_LIST"); list != "" {
		var text strings.Builder
		for _, p := range points {
			fmt.Fprintf(&text, "%-80s %3d × %s\n", p.name, p.passes, p.scenario)
		}
		if err := os.WriteFile(list, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, must := range required {
		if !slices.ContainsFunc(points, func(p point) bool { return strings.HasPrefix(p.name, must) }) {
			t.Errorf("no scenario passes by %s", must)
		}
	}
	return points
}

// quietSince waits until no point was passed for a moment, acknowledgements included, and returns from.
func (d *drill) quietSince(t *testing.T, from int) int {
	t.Helper()
	last, quiet := -1, 0
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; quiet < 4 && i < 100; i++ {
		if end := d.rec.end(); end == last {
			quiet++
		} else {
			last, quiet = end, 0
		}
		<-tick.C
	}
	return from
}

// choose takes one point of each kind, or all.
func (d *drill) choose(t *testing.T, points []point) []point {
	t.Helper()
	if only := os.Getenv("NAPKIN_CRASH_ONLY"); only != "" {
		points = slices.DeleteFunc(points, func(p point) bool { return !strings.Contains(p.name, only) })
	}
	if full() {
		return points
	}
	kinds := map[string][]point{}
	var order []string
	for _, p := range points {
		if kinds[p.kind()] == nil {
			order = append(order, p.kind())
		}
		kinds[p.kind()] = append(kinds[p.kind()], p)
	}
	var chosen []point
	for _, k := range order {
		of := kinds[k]
		d.choice.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		chosen = append(chosen, of[0])
		d.others[of[0].name] = of[1:]
	}
	t.Logf("%d points, of %d kinds: one of each kind is visited (all with NAPKIN_CRASH_FULL=1)", len(points), len(kinds))
	return chosen
}

// groups says how far the store may fall behind before it is given the time to recover, which takes it half
// a minute where a call to the outside was cut off. Those are visited last, all together.
func groups(points []point) (out [][]point) {
	size := 27
	if full() {
		size = 4
	}
	outside := func(p point) bool { return strings.Contains(p.name, "/outside/") }
	inside := slices.DeleteFunc(slices.Clone(points), outside)
	out = slices.Collect(slices.Chunk(inside, size))
	return slices.AppendSeq(out, slices.Chunk(slices.DeleteFunc(slices.Clone(points), func(p point) bool { return !outside(p) }), size))
}

// visit kills the store at each point of a group while it takes orders, the later ones while it recovers
// from the earlier ones, and then waits for the end of everything that was begun.
func (d *drill) visit(t *testing.T, group []point) {
	t.Helper()
	var rows []*row
	for _, p := range group {
		r := &row{point: p}
		rows = append(rows, r)
		d.kill(t, r)
	}
	killed := time.Now()
	for _, r := range rows {
		for _, s := range r.stories {
			<-s.done
			r.orders += s.ledger.orders()
			if s.err != nil {
				r.breaches++
				t.Errorf("during %s: %v", r.name, s.err)
			}
		}
	}
	ended := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	report := d.settle(t, ctx)
	t.Logf("every order had ended %.1f s after the last kill, everything else %.1f s later",
		ended.Sub(killed).Seconds(), time.Since(ended).Seconds())
	last := rows[len(rows)-1] // what is wrong in the end may be due to any of them
	last.breaches += report.Breaches() + report.Stuck
	for _, l := range d.ledger.takeLosses() {
		last.breaches++
		t.Errorf("up to %s: %s", last.name, l)
	}
	total := 0
	for _, n := range report.Orders {
		total += n
	}
	if want := d.ledger.orders(); total != want {
		last.breaches++
		t.Errorf("up to %s: customers were promised %d orders, the store has %d", last.name, want, total)
	}
	for _, r := range rows {
		if r.kills == 0 {
			t.Errorf("%s: the store was not killed there", r.name)
		}
		t.Logf("%-74s #%d %d killed, %d orders, %.1f s", r.name, r.nth, r.kills, r.orders, r.took.Seconds())
	}
	d.rows = append(d.rows, rows...)
	if t.Failed() {
		d.print(t)
		t.FailNow()
	}
}

// kill has the point's story told with the point armed, and starts the store again when it has died there.
func (d *drill) kill(t *testing.T, r *row) {
	t.Helper()
	started := time.Now()
	others := d.others[r.name]
	for attempt := 0; attempt < 6 && r.kills == 0; attempt++ {
		if attempt == 3 && len(others) > 0 {
			t.Logf("%s is not passed this time, %s is of the same kind", r.name, others[0].name)
			r.point = others[0]
		}
		r.nth = 1
		if attempt == 0 {
			r.nth += d.choice.IntN(min(r.passes, 3))
		}
		d.ctl.arm(t, r.name, r.nth)
		s := begin(t.Context(), d.world, r.scenario, "confirmed", "confirmed")
		r.stories = append(r.stories, s)
		died := d.dies(t, s)
		d.ctl.arm(t, "", 0)
		if !died {
			continue
		}
		r.kills++
		if lines, _ := d.rec.since(0); lines[len(lines)-1] != fmt.Sprintf("killed %s#%d", r.name, r.nth) {
			t.Fatalf("%s: the store was killed, but not there\n%s", r.name, d.store.Output())
		}
		d.boot(t)
	}
	r.took = time.Since(started)
}

// story is scenarios under way.
type story struct {
	ledger *ledger
	done   chan struct{}
	err    error // once done
}

// begin tells scenarios side by side.
func begin(ctx context.Context, w *world, names ...string) *story {
	s := &story{done: make(chan struct{}), ledger: &ledger{whole: w.ledger, accepted: map[string]string{}}}
	w = w.with(s.ledger)
	ctx, cancel := context.WithTimeout(ctx, patience)
	go func() {
		defer close(s.done)
		defer cancel()
		s.err = tell(ctx, w, names...)
	}()
	return s
}

func tell(ctx context.Context, w *world, names ...string) error {
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, name := range names {
		wg.Go(func() {
			if err := scenarioNamed(name).tell(ctx, w); err != nil {
				errs[i] = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// dies waits until the store has killed itself, or the story has ended without that.
func (d *drill) dies(t *testing.T, s *story) bool {
	t.Helper()
	select {
	case <-d.store.Done():
	case <-s.done:
		select { // what follows the story, such as a notification, may still come by
		case <-d.store.Done():
		case <-time.After(3 * time.Second):
			return false
		}
	}
	if !d.store.Killed() {
		t.Fatalf("the store ended by itself:\n%s", d.store.Output())
	}
	return true
}

// print writes the drill's report.
func (d *drill) print(t *testing.T) {
	t.Helper()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POINT\tPASS\tSCENARIO\tKILLS\tORDERS\tBREACHES")
	kills, orders, breaches := 0, 0, 0
	for _, r := range d.rows {
		fmt.Fprintf(w, "%s\t#%d\t%s\t%d\t%d\t%d\n", r.name, r.nth, r.scenario, r.kills, r.orders, r.breaches)
		kills, orders, breaches = kills+r.kills, orders+r.orders, breaches+r.breaches
	}
	fmt.Fprintf(w, "%d points\t\t\t%d\t%d\t%d\n", len(d.rows), kills, orders, breaches)
	_ = w.Flush()
	d.report.Print(&text)
	t.Log("\n" + text.String())
}

// required begin the names of points without which the rehearsal has a gap: each step of the sagas in each
// direction that it has, and each side of each call to the outside.
var required = []string{
	"order/saga/after-commit/checkout.saga.start",
	"order/saga/after-commit/checkout.reserve-stock.do", "order/saga/after-commit/checkout.reserve-stock.undo",
	"order/saga/after-commit/checkout.authorize-payment.do", "order/saga/after-commit/checkout.authorize-payment.undo",
	"order/saga/after-commit/checkout.commit-stock.do", "order/saga/after-commit/checkout.commit-stock.undo",
	"order/saga/after-commit/checkout.capture-payment.do", "order/saga/after-commit/checkout.confirm-order.do",
	"order/saga/after-commit/checkout.saga.cancel",
	"order/saga/after-commit/refund.refund-payment.do", "order/saga/after-commit/refund.restock.do", "order/saga/after-commit/refund.mark-refunded.do",
	"payment/outside/payment.authorize.", "payment/outside/payment.capture.", "payment/outside/payment.void.", "payment/outside/payment.refund.",
	"notification/outside/email.", "notification/outside/sms.", "notification/outside/push.",
}
