package walsource_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/events/outbox/walsource"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

// BenchmarkLive measures from the commit to the publication of what another process
// commits, by the source, by NOTIFY and by the poll: eight writers, fsync on.
func BenchmarkLive(b *testing.B) {
	server, err := pgtest.Start("", 0)
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { _ = server.Close() })
	for i, by := range []string{"wal", "notify", "poll"} {
		b.Run(by, func(b *testing.B) {
			name := fmt.Sprintf("live%d_%d", i, b.N)
			if err := server.CreateDatabase(b.Context(), name); err != nil {
				b.Fatal(err)
			}
			live(b, server.URL(name), by)
		})
	}
}

func live(b *testing.B, at, by string) {
	db, err := pgxdb.Open(b.Context(), at, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := migrate.Up(b.Context(), db, outbox.Set, outbox.Migrations(db.Dialect)); err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	took, all := make([]time.Duration, 0, b.N), make(chan struct{})
	p := publisher(func(_ context.Context, evs ...events.Event) error {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		for _, e := range evs {
			if took = append(took, now.Sub(e.Time)); len(took) == b.N {
				close(all)
			}
		}
		return nil
	})
	w, held := &watched{}, make(chan struct{}, 64)
	cfg := &outbox.RelayConfig{Blocks: 1, Logger: quiet, Hooks: outbox.RelayHooks{Holding: func(context.Context, events.Block, bool) { held <- struct{}{} }}}
	switch by {
	case "wal":
		defer start(b, db, at, p, w, &walsource.Config{}, cfg)()
		eventually(b, "the source streams", func() bool { return w.on.Load() == 1 })
	case "notify":
		cfg.Listen = pgxdb.Listen(at)
		defer run(b, db, p, cfg)()
		<-held
	default:
		defer run(b, db, p, cfg)()
		<-held
	}
	ob := newOutbox(b, db)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if by == "notify" {
		wg.Go(func() { _ = ob.Notify(ctx, db, 0) })
	}
	b.ResetTimer()
	var writers sync.WaitGroup
	for k := range 8 {
		writers.Go(func() {
			for i := k; i < b.N; i += 8 {
				err := sqldb.InTx(b.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
					e := event(fmt.Sprintf("k%d-%d", k, i%50), i)
					e.Time = time.Now()
					return ob.Append(ctx, tx, e)
				})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	<-all
	b.StopTimer()
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
}
