package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"testing"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// BenchmarkDrain publishes a full outbox to JetStream.
func BenchmarkDrain(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { drain(b, migrated(b, sqlite(b))) })
	b.Run("postgres", func(b *testing.B) { drain(b, migrated(b, pgtest.DB(b))) })
}

func drain(b *testing.B, db *sqldb.DB) {
	ob := newOutbox(b, db)
	broker, err := natsevents.Connect(b.Context(), natstest.Start(b).Conn(b), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer broker.Close()
	if err := broker.EnsureTopics(b.Context(), "orders"); err != nil {
		b.Fatal(err)
	}
	fill(b, db, ob, b.N)
	left, all := b.N, make(chan struct{})
	relay, err := outbox.NewRelay(db, ob, broker, &outbox.RelayConfig{Logger: slog.New(slog.DiscardHandler), Hooks: outbox.RelayHooks{
		AfterCursor: func(_ context.Context, passed int64) {
			if left -= int(passed); left <= 0 && all != nil {
				close(all)
				all = nil
			}
		},
	}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done, recorded := make(chan error, 1), all
	b.ResetTimer()
	go func() { done <- relay.Run(ctx) }()
	<-recorded
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// fill appends n events of a thousand keys, in large transactions.
func fill(t testing.TB, db *sqldb.DB, ob *outbox.Outbox, n int) {
	t.Helper()
	for at := 0; at < n; at += 1000 {
		err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
			evs := make([]events.Event, 0, 1000)
			for i := at; i < min(at+1000, n); i++ {
				evs = append(evs, event(fmt.Sprintf("k%d", i%1000), i))
			}
			return ob.Append(ctx, tx, evs...)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
