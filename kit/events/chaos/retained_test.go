//go:build unix

package chaos

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Relays and consumers need no more memory, and no more time, with a million
// retained rows, marks and messages than with ten thousand.
func TestRetainedRowsTakeNoMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some minutes")
	}
	pg, db := server(t)
	_, url, _ := broker(t)
	b := join(t, url)
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	env := []string{envDatabase + "=" + pg.URL("postgres"), envBroker + "=" + url, envFew + "=1"}
	written := 0
	fill := func(until int) {
		for written < until {
			written += appendMany(t, db, written)
		}
	}
	const burst = 20_000
	measure := func(retained int) (m [2]struct{ heap, resident int64 }, rate float64) {
		r, c := start(t, "relay", env...), start(t, "consumer", env...)
		defer r.kill()
		defer c.kill()
		fill(retained)
		handled(t, db, b, written, 15*time.Minute)
		r.kill() // what is measured is theirs alone who see nothing but the retained rows and the burst
		c.kill()
		fill(retained + burst)
		r, c = start(t, "relay", env...), start(t, "consumer", env...)
		handled(t, db, b, written, 5*time.Minute)
		// From its first effect to its last: without the processes' start and the
		// leases of those before them.
		if err := db.Read.QueryRowContext(t.Context(), `SELECT $1 / extract(epoch FROM max(at) - min(at))::float8 FROM (
			SELECT at FROM effect ORDER BY n DESC LIMIT $1) AS x`, burst).Scan(&rate); err != nil {
			t.Fatal(err)
		}
		for i, p := range []*process{r, c} {
			m[i].heap, m[i].resident = p.memory(t)
			p.kill()
		}
		return m, rate
	}
	few, fewRate := measure(10_000)
	many, manyRate := measure(1_000_000)
	for i, part := range []string{"relay", "consumer"} {
		t.Logf("%-8s resident %.1f MiB with 10,000 retained rows, %.1f MiB with 1,000,000 (%+.1f %%); live heap %.1f and %.1f MiB", part,
			mib(few[i].resident), mib(many[i].resident), 100*(float64(many[i].resident)/float64(few[i].resident)-1), mib(few[i].heap), mib(many[i].heap))
		if few[i].resident > 0 && float64(many[i].resident) > 1.1*float64(few[i].resident) {
			t.Errorf("%s: resident memory rose by more than a tenth", part)
		}
	}
	t.Logf("%.0f events/s with 10,000 retained rows, %.0f with 1,000,000", fewRate, manyRate)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// appendMany writes events in one transaction and returns how many.
func appendMany(t testing.TB, db *sqldb.DB, from int) int {
	t.Helper()
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		t.Fatal(err)
	}
	evs := make([]events.Event, 1000)
	for i := range evs {
		evs[i] = events.Event{ID: fmt.Sprint(from + i), Type: happened, Topic: "orders", Key: fmt.Sprint("key", (from+i)%5000), Data: make([]byte, 100)}
	}
	if err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error { return ob.Append(ctx, tx, evs...) }); err != nil {
		t.Fatal(err)
	}
	return len(evs)
}

// handled waits until the first consumer has had as many effects.
func handled(t testing.TB, db *sqldb.DB, b *natsevents.Broker, effects int, within time.Duration) {
	t.Helper()
	n := 0
	for end := time.Now().Add(within); time.Now().Before(end); wait(t.Context(), 50*time.Millisecond) {
		// The identity counts effects that were rolled back too: at least so many.
		if err := db.Read.QueryRowContext(t.Context(), `SELECT coalesce(max(n), 0) FROM effect`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n < effects {
			continue
		}
		if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM effect`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if p, err := b.Pending(t.Context(), consumers[0]); n >= effects && err == nil && p == 0 {
			return
		}
	}
	t.Fatalf("%d of %d effects within %v", n, effects, within)
}
