package events

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

// writers is how many commit single events side by side.
const writers = 16

// warm is how many events go before those that are measured.
const warm = 256

// BenchmarkLive has writers, a relay and a consumer at work at once. A writer's
// transaction appends one event and does nothing else.
func BenchmarkLive(b *testing.B) {
	// full: the next as soon as the last has committed. The rate is from the first
	// event's start to the last effect's commit.
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			f := apart(b, func(b testing.TB) figures { return live(b, *written, 0) })
			f.report(b, "")
			f.latency(b)
		}
	})
	// paced: latencies are from the moment at which the event was due, so that a
	// writer that is late delays nobody's clock but its own.
	b.Run("paced", func(b *testing.B) {
		for b.Loop() {
			f := apart(b, func(b testing.TB) figures { return live(b, *paced, time.Millisecond) })
			f.report(b, "")
			f.latency(b)
		}
	})
}

// live writes n events, one every so often.
func live(b testing.TB, n int, every time.Duration) figures {
	b.Helper()
	outURL, inURL := database(b), database(b)
	out, in := open(b, outURL), open(b, inURL)
	ob := producer(b, out)
	subscriber(b, in)
	broker := nats(b, jetStream(b))
	p := pool(b, outURL)
	a := awaiting(n)
	stop := background(b, consumer(b, inURL, broker, many, a), relay(b, out, ob, broker))
	defer stop()
	write := func(key int, at time.Time) error {
		return pgxdb.Pool(p).InTx(b.Context(), func(ctx context.Context, tx pgx.Tx) error {
			return ob.Append(ctx, pgxdb.Tx(tx), order(key, at))
		})
	}
	// Until all blocks are held: what comes after that is measured.
	for i := range warm {
		must(b, write(i, time.Unix(0, 0)))
	}
	for a.warm.Load() < warm {
		time.Sleep(time.Millisecond)
	}
	due := make(chan time.Time, n)
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			var err error
			for i := w; err == nil; i += writers {
				at, ok := <-due
				if !ok {
					break
				}
				if every == 0 {
					at = time.Now()
				}
				err = write(i%keys, at)
			}
			errs <- err
		}()
	}
	before, start := count(b, in), time.Now()
	for i := range n {
		at := start.Add(time.Duration(i) * every)
		time.Sleep(time.Until(at))
		due <- at
	}
	close(due)
	for range writers {
		must(b, <-errs)
	}
	written := time.Since(start)
	a.wait(b, 2*time.Minute)
	after := count(b, in)
	stop()
	expect(b, in.Read, warm+n, `SELECT count(*) FROM effect`)
	expect(b, in.Read, warm+n, `SELECT count(DISTINCT (k, seq)) FROM effect`)
	if every == 0 {
		fmt.Printf("live: %.0f events/s committed, %.0f applied\n", float64(n)/written.Seconds(), float64(n)/a.last.Sub(start).Seconds())
	}
	f := after.since(before, n)
	f.rate = float64(n) / a.last.Sub(start).Seconds()
	f.p50, f.p99 = a.percentile(0.5), a.percentile(0.99)
	return f
}

func (f figures) latency(b *testing.B) {
	b.Helper()
	b.ReportMetric(f.p50, "p50-ms")
	b.ReportMetric(f.p99, "p99-ms")
}
