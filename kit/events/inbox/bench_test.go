package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
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

// BenchmarkDrain drains a stream that is full already: JetStream to PostgreSQL,
// each event's mark and one row as its effect, acknowledged. one has a handler for
// each event, many one for those of a transaction.
func BenchmarkDrain(b *testing.B) {
	for name, many := range map[string]bool{"one": false, "many": true} {
		b.Run(name, func(b *testing.B) { drain(b, migrated(b, pgtest.DB(b)), many) })
	}
}

func drain(b *testing.B, db *sqldb.DB, many bool) {
	broker := connect(b, natstest.Start(b))
	if err := broker.EnsureTopics(b.Context(), "orders"); err != nil {
		b.Fatal(err)
	}
	for at := 0; at < b.N; at += 200 {
		var evs []events.Event
		for i := at; i < min(at+200, b.N); i++ {
			evs = append(evs, event(fmt.Sprintf("k%d", i%1000), i))
		}
		if err := broker.Publish(b.Context(), evs...); err != nil {
			b.Fatal(err)
		}
	}
	acked := make(chan struct{}, b.N)
	c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), broker, &inbox.ConsumerConfig{Logger: slog.New(slog.DiscardHandler), Hooks: inbox.Hooks{
		AfterAck: func(context.Context, string, events.Event) { acked <- struct{}{} },
	}})
	if err != nil {
		b.Fatal(err)
	}
	var calls atomic.Int64
	if many {
		c.HandleBatch("orders", happened, func(ctx context.Context, tx *sql.Tx, evs []events.Event) error {
			calls.Add(1)
			keys, seqs := make([]string, len(evs)), make([]int64, len(evs))
			for i, e := range evs {
				keys[i], seqs[i] = e.Key, e.KeySeq
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO effect (k, seq) SELECT * FROM unnest($1::text[], $2::bigint[])`, keys, seqs)
			return err
		})
	} else {
		c.Handle("orders", happened, func(ctx context.Context, tx *sql.Tx, e events.Event) error { return effect(ctx, tx, e) })
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	b.ResetTimer()
	go func() { done <- c.Run(ctx) }()
	for range b.N {
		<-acked
	}
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	if n := calls.Load(); n > 0 {
		b.ReportMetric(float64(b.N)/float64(n), "events/call")
	}
}
