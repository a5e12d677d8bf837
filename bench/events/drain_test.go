package events

import (
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// BenchmarkDrainInTurns drains an outbox that is plain, one that still holds a
// million published rows, and one on a server with an old snapshot open, in turns:
// a disk that is slow for a while is slow for all.
func BenchmarkDrainInTurns(b *testing.B) {
	kept := open(b, database(b))
	keptOutbox := producer(b, kept)
	keptStream := jetStream(b) // a new one would have its relay publish the retained rows again
	start := time.Now()
	fill(b, kept, keptOutbox, *retained)
	filled := time.Since(start)
	pass(b, kept, keptOutbox, *retained)
	fmt.Printf("retained: %d rows appended in %.1f s, passed by a relay without a broker in %.1f s\n", *retained, filled.Seconds(), (time.Since(start) - filled).Seconds())
	fmt.Printf("drain: %d events, %d keys, 200 bytes each\n", *drained, keys)
	ways := []struct {
		name string
		run  func(b testing.TB) figures
	}{
		{"plain", func(b testing.TB) figures { return fresh(b, many, 1) }},
		{"retained", func(b testing.TB) figures {
			fill(b, kept, keptOutbox, *drained)
			return drain(b, kept, keptOutbox, keptStream, *drained, many, 1)
		}},
		{"snapshot", func(b testing.TB) figures {
			db := open(b, database(b))
			ob := producer(b, db)
			defer snapshot(b, db)()
			fill(b, db, ob, *drained)
			return drain(b, db, ob, jetStream(b), *drained, many, 1)
		}},
	}
	for b.Loop() {
		took := make(map[string][]figures)
		for round := range *rounds {
			for i := range ways {
				w := ways[(round+i)%len(ways)] // none always follows the same
				f := apart(b, w.run)
				took[w.name] = append(took[w.name], f)
				fmt.Printf("drain %s: %.0f events/s, the first after %.2f s\n", w.name, f.rate, f.startup)
			}
		}
		plain := median(took["plain"])
		for _, w := range ways {
			f := median(took[w.name])
			f.report(b, w.name+"-")
			b.ReportMetric(f.rate/plain.rate, w.name+"/plain")
		}
	}
}

// median is the run with the median rate.
func median(all []figures) figures {
	slices.SortFunc(all, func(x, y figures) int { return int(x.rate - y.rate) })
	return all[len(all)/2]
}

// fresh drains a new outbox.
func fresh(b testing.TB, h handling, relays int) figures {
	b.Helper()
	db := open(b, database(b))
	ob := producer(b, db)
	fill(b, db, ob, *drained)
	return drain(b, db, ob, jetStream(b), *drained, h, relays)
}

// snapshot holds a transaction open that has read, so that nothing committed from
// now on may be cleaned up, until the returned func is called.
func snapshot(b testing.TB, db *sqldb.DB) (end func()) {
	b.Helper()
	tx, err := db.Write.BeginTx(b.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	must(b, err)
	var n int
	must(b, tx.QueryRowContext(b.Context(), `SELECT count(*) FROM napkin_outbox`).Scan(&n))
	return func() { must(b, tx.Rollback()) }
}

// BenchmarkDrain has the other forms: a handler for each event, and two relays
// that share the blocks.
func BenchmarkDrain(b *testing.B) {
	for _, form := range []struct {
		name   string
		h      handling
		relays int
	}{{"many", many, 1}, {"one", one, 1}, {"two-relays", many, 2}} {
		b.Run(form.name, func(b *testing.B) {
			for b.Loop() {
				apart(b, func(b testing.TB) figures { return fresh(b, form.h, form.relays) }).report(b, "")
			}
		})
	}
}
