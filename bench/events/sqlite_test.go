package events

import (
	"fmt"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

// BenchmarkSQLite drains an outbox in one file into an inbox in another, beside
// what the driver commits: single rows, each in its own transaction.
func BenchmarkSQLite(b *testing.B) {
	b.Run("driver", func(b *testing.B) {
		db := sqlite(b)
		effects(b, db)
		for b.Loop() {
			start, n := time.Now(), 0
			for time.Since(start) < time.Second {
				_, err := db.Write.ExecContext(b.Context(), `INSERT INTO effect (k, seq) VALUES ($1, $2)`, fmt.Sprintf("o-%d", n%keys), n)
				must(b, err)
				n++
			}
			b.ReportMetric(float64(n)/time.Since(start).Seconds(), "commits/s")
		}
	})
	b.Run("jetstream", func(b *testing.B) {
		drainLite(b, func(b testing.TB) events.Broker { return nats(b, jetStream(b)) })
	})
	b.Run("memory", func(b *testing.B) {
		drainLite(b, func(b testing.TB) events.Broker {
			broker := memevents.New(nil)
			b.Cleanup(func() { broker.Close() })
			must(b, broker.EnsureTopics(b.Context(), topic))
			return broker
		})
	})
}

func drainLite(b *testing.B, broker func(testing.TB) events.Broker) {
	b.Helper()
	for b.Loop() {
		f := apart(b, func(b testing.TB) figures {
			out, in := sqlite(b), sqlite(b)
			ob := producer(b, out)
			subscriber(b, in)
			fill(b, out, ob, *lite)
			via := broker(b)
			a := awaiting(*lite)
			start := time.Now()
			stop := background(b, liteConsumer(b, in, via, a), relay(b, out, ob, via))
			defer stop()
			a.wait(b, 2*time.Minute)
			stop()
			expect(b, in.Read, *lite, `SELECT count(*) FROM effect`)
			expect(b, in.Read, *lite, `SELECT count(*) FROM (SELECT DISTINCT k, seq FROM effect)`)
			return figures{rate: float64(*lite) / a.last.Sub(start).Seconds()}
		})
		b.ReportMetric(f.rate, "events/s")
	}
}
