package events

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

const (
	topic = "orders"
	typ   = "bench.order.v1.OrderPlaced"
	keys  = 10_000
)

// order is an event that carries when it happened, in 200 bytes.
func order(key int, at time.Time) events.Event {
	data := make([]byte, 200)
	binary.BigEndian.PutUint64(data, uint64(at.UnixNano())) //nolint:gosec // after 1970
	return events.Event{Topic: topic, Type: typ, Key: fmt.Sprintf("o-%d", key), DataContentType: "application/octet-stream", Data: data}
}

// fill appends n events in transactions of a thousand. Four writers have keys of
// their own each; SQLite has one writer.
func fill(b testing.TB, db *sqldb.DB, ob *outbox.Outbox, n int) {
	b.Helper()
	writers := 4
	if db.Dialect == sqldb.SQLite {
		writers = 1
	}
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			from, to := n*w/writers, n*(w+1)/writers
			for at := from; at < to; at += 1000 {
				err := sqldb.InTx(b.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
					evs := make([]events.Event, 0, 1000)
					for i := at; i < min(at+1000, to); i++ {
						evs = append(evs, order(i%(keys/writers)*writers+w, time.Now()))
					}
					return ob.Append(ctx, tx, evs...)
				})
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range writers {
		must(b, <-errs)
	}
}

// pass lets a relay pass by the n events that are in the outbox, as published.
func pass(b testing.TB, db *sqldb.DB, ob *outbox.Outbox, n int) {
	b.Helper()
	left, all := int64(n), make(chan struct{})
	relay, err := outbox.NewRelay(db, ob, nowhere{}, &outbox.RelayConfig{Logger: quiet, BatchSize: 10_000, Hooks: outbox.RelayHooks{
		AfterCursor: func(_ context.Context, passed int64) {
			if left -= passed; left <= 0 && left+passed > 0 {
				close(all)
			}
		},
	}})
	must(b, err)
	stop := background(b, relay.Run)
	defer stop()
	select {
	case <-all:
	case <-time.After(5 * time.Minute):
		b.Fatal("the retained rows were not passed within 5 minutes")
	}
}

// nowhere takes everything and keeps nothing.
type nowhere struct{}

func (nowhere) Publish(context.Context, ...events.Event) error { return nil }

// background runs each until the returned func is called.
func background(b testing.TB, runs ...func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	errs := make(chan error, len(runs))
	for _, run := range runs {
		go func() { errs <- run(ctx) }()
	}
	return sync.OnceFunc(func() {
		cancel()
		for range runs {
			if err := <-errs; err != nil {
				b.Error(err)
			}
		}
	})
}

// applied watches a consumer: how many effects have committed and, in the order
// of their commits, how long after the event.
type applied struct {
	want  int64
	n     atomic.Int64
	warm  atomic.Int64 // events of the epoch, which only warm up
	took  []time.Duration
	first atomic.Int64
	all   chan struct{}
	last  time.Time
}

func awaiting(n int) *applied {
	return &applied{want: int64(n), took: make([]time.Duration, n), all: make(chan struct{})}
}

func (a *applied) committed(_ context.Context, _ string, e events.Event) {
	now := time.Now()
	at := time.Unix(0, int64(binary.BigEndian.Uint64(e.Data))) //nolint:gosec // order made it
	if at.UnixNano() == 0 {
		a.warm.Add(1)
		return
	}
	a.first.CompareAndSwap(0, now.UnixNano())
	n := a.n.Add(1)
	if n > a.want {
		return // expect will tell
	}
	a.took[n-1] = now.Sub(at)
	if n == a.want {
		a.last = now
		close(a.all)
	}
}

func (a *applied) wait(b testing.TB, most time.Duration) {
	b.Helper()
	select {
	case <-a.all:
	case <-time.After(most):
		b.Fatalf("%d of %d events applied within %v", a.n.Load(), a.want, most)
	}
}

// percentile is of all latencies; call it after wait.
func (a *applied) percentile(p float64) float64 {
	sorted := slices.Sorted(slices.Values(a.took))
	return float64(sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]) / float64(time.Millisecond)
}

// handling is the form of the handler.
type handling bool

const (
	many handling = true  // inbox.HandleBatch: one statement for the events of a transaction
	one  handling = false // inbox.Handle: one statement each
)

// consumer on PostgreSQL: one small insert for each event.
func consumer(b testing.TB, url string, sub events.Subscriber, h handling, a *applied) func(context.Context) error {
	b.Helper()
	p := pool(b, url)
	c, err := inbox.NewConsumer("mail", pgxdb.DB(p), pgxdb.Pool(p), sub, &inbox.ConsumerConfig{Logger: quiet, Hooks: inbox.Hooks{AfterCommit: a.committed}})
	must(b, err)
	if h == many {
		c.HandleBatch(topic, typ, func(ctx context.Context, tx pgx.Tx, evs []events.Event) error {
			ks, seqs := make([]string, len(evs)), make([]int64, len(evs))
			for i, e := range evs {
				ks[i], seqs[i] = e.Key, e.KeySeq
			}
			_, err := tx.Exec(ctx, `INSERT INTO effect (k, seq) SELECT * FROM unnest($1::text[], $2::bigint[])`, ks, seqs)
			return err
		})
	} else {
		c.Handle(topic, typ, func(ctx context.Context, tx pgx.Tx, e events.Event) error {
			_, err := tx.Exec(ctx, `INSERT INTO effect (k, seq) VALUES ($1, $2)`, e.Key, e.KeySeq)
			return err
		})
	}
	return c.Run
}

// liteConsumer is consumer on SQLite.
func liteConsumer(b testing.TB, db *sqldb.DB, sub events.Subscriber, a *applied) func(context.Context) error {
	b.Helper()
	c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), sub, &inbox.ConsumerConfig{Logger: quiet, Hooks: inbox.Hooks{AfterCommit: a.committed}})
	must(b, err)
	c.Handle(topic, typ, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO effect (k, seq) VALUES ($1, $2)`, e.Key, e.KeySeq)
		return err
	})
	return c.Run
}

func relay(b testing.TB, db *sqldb.DB, ob *outbox.Outbox, p events.Publisher) func(context.Context) error {
	b.Helper()
	r, err := outbox.NewRelay(db, ob, p, &outbox.RelayConfig{Logger: quiet})
	must(b, err)
	return r.Run
}

// figures are of one run.
type figures struct{ rate, startup, wal, commits, cpu, p50, p99 float64 }

func (f figures) report(b *testing.B, prefix string) {
	b.Helper()
	b.ReportMetric(f.rate, prefix+"events/s")
	b.ReportMetric(f.wal, prefix+"wal-bytes/event")
	b.ReportMetric(f.commits, prefix+"commits/event")
	b.ReportMetric(f.cpu, prefix+"cpu-us/event")
}

// drain lets relays and a consumer, which has a new database, work off n events
// that are in the outbox. The time counts from their start, leases and all, to the
// last commit.
func drain(b testing.TB, db *sqldb.DB, ob *outbox.Outbox, js *natstest.Server, n int, h handling, relays int) figures {
	b.Helper()
	url := database(b)
	in := open(b, url)
	subscriber(b, in)
	broker := nats(b, js)
	a := awaiting(n)
	runs := []func(context.Context) error{consumer(b, url, broker, h, a)}
	for range relays {
		runs = append(runs, relay(b, db, ob, broker))
	}
	before, start := count(b, in), time.Now()
	stop := background(b, runs...)
	defer stop()
	a.wait(b, 5*time.Minute)
	after := count(b, in)
	stop()
	expect(b, in.Read, n, `SELECT count(*) FROM effect`)
	expect(b, in.Read, n, `SELECT count(DISTINCT (k, seq)) FROM effect`)
	expect(b, in.Read, n, `SELECT count(*) FROM napkin_inbox`)
	f := after.since(before, n)
	f.rate = float64(n) / a.last.Sub(start).Seconds()
	f.startup = time.Unix(0, a.first.Load()).Sub(start).Seconds()
	return f
}

// apart runs a part of a benchmark on an otherwise empty server.
func apart(b *testing.B, run func(testing.TB) figures) figures {
	b.Helper()
	s := &scope{B: b}
	defer s.end()
	return run(s)
}
