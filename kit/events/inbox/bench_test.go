package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// BenchmarkPipeline drains a full outbox through JetStream into an inbox whose
// handler writes one row, everything in this process on one database.
func BenchmarkPipeline(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		db, err := sqlitedb.Open(b.Context(), filepath.Join(b.TempDir(), "bench.db"), nil)
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		pipeline(b, migrated(b, db))
	})
	b.Run("postgres", func(b *testing.B) { pipeline(b, migrated(b, pgtest.DB(b))) })
}

func pipeline(b *testing.B, db *sqldb.DB) {
	if err := migrate.Up(b.Context(), db, "napkin_outbox", outbox.Migrations(db.Dialect)); err != nil {
		b.Fatal(err)
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		b.Fatal(err)
	}
	broker := connect(b, natstest.Start(b))
	if err := broker.EnsureTopics(b.Context(), "orders"); err != nil {
		b.Fatal(err)
	}
	for at := 0; at < b.N; at += 500 {
		err := sqldb.InTx(b.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
			for i := at; i < min(at+500, b.N); i++ {
				if err := ob.Append(ctx, tx, event(fmt.Sprintf("k%d", i%1000), i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	var published time.Time
	relay, err := outbox.NewRelay(db, ob, broker, &outbox.RelayConfig{Logger: quiet, Hooks: outbox.RelayHooks{
		AfterCursor: func(context.Context, int64) { published = time.Now() },
	}})
	if err != nil {
		b.Fatal(err)
	}
	acked, last := make(chan struct{}, b.N), 0
	c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), broker, &inbox.ConsumerConfig{Logger: quiet, Hooks: inbox.Hooks{
		AfterAck: func(context.Context, string, events.Event) { acked <- struct{}{} },
	}})
	if err != nil {
		b.Fatal(err)
	}
	c.Handle("orders", happened, func(ctx context.Context, tx *sql.Tx, e events.Event) error { return effect(ctx, tx, e) })
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 2)
	b.ResetTimer()
	start := time.Now()
	go func() { done <- relay.Run(ctx) }()
	go func() { done <- c.Run(ctx) }()
	for ; last < b.N; last++ {
		<-acked
	}
	b.StopTimer()
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(b.N)/published.Sub(start).Seconds(), "published/s")
}
