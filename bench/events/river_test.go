package events

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// BenchmarkRiver is river as the queue of the events, on the same server: jobs,
// which keep no order, worked by 200 workers that fetch every 2 ms at most (its
// defaults are 100 ms between fetches). "effect" commits one small insert for each
// job in another database: at least once, without an inbox.
func BenchmarkRiver(b *testing.B) {
	for _, form := range []struct {
		name   string
		effect bool
	}{{"drain-empty", false}, {"drain-effect", true}} {
		b.Run(form.name, func(b *testing.B) {
			for b.Loop() {
				apart(b, func(b testing.TB) figures { return riverDrain(b, form.effect) }).reportRate(b)
			}
		})
	}
}

// placed are the arguments of a job.
type placed struct {
	Key  string `json:"key"`
	Seq  int    `json:"seq"`
	Data []byte `json:"data"`
}

func (placed) Kind() string { return typ }

type worker struct {
	river.WorkerDefaults[placed]
	effects *pgxpool.Pool // nil: none
	worked  atomic.Int64
	want    int64
	all     chan struct{}
}

func (w *worker) Work(ctx context.Context, j *river.Job[placed]) error {
	if w.effects != nil {
		if _, err := w.effects.Exec(ctx, `INSERT INTO effect (k, seq) VALUES ($1, $2)`, j.Args.Key, j.Args.Seq); err != nil {
			return err
		}
	}
	if w.worked.Add(1) == w.want {
		close(w.all)
	}
	return nil
}

func riverDrain(b testing.TB, effect bool) figures {
	b.Helper()
	ctx, n := b.Context(), *jobs
	queue, in := pool(b, database(b)), database(b)
	effects(b, open(b, in))
	migrator, err := rivermigrate.New(riverpgxv5.New(queue), &rivermigrate.Config{Logger: quiet})
	must(b, err)
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	must(b, err)
	w := &worker{want: int64(n), all: make(chan struct{})}
	if effect {
		w.effects = pool(b, in)
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	client, err := river.NewClient[pgx.Tx](riverpgxv5.New(queue), &river.Config{
		Logger: quiet, Workers: workers,
		FetchCooldown: 2 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 200}},
	})
	must(b, err)
	for at := 0; at < n; at += 1000 {
		many := make([]river.InsertManyParams, 0, 1000)
		for i := at; i < min(at+1000, n); i++ {
			e := order(i%keys, time.Now())
			many = append(many, river.InsertManyParams{Args: placed{Key: e.Key, Seq: i, Data: e.Data}})
		}
		_, err := client.InsertManyFast(ctx, many)
		must(b, err)
	}
	start := time.Now()
	must(b, client.Start(ctx))
	select {
	case <-w.all:
	case <-time.After(2 * time.Minute):
		b.Fatalf("%d of %d jobs within 2 minutes", w.worked.Load(), n)
	}
	must(b, client.Stop(ctx)) // has written what is completed
	return figures{rate: float64(n) / time.Since(start).Seconds()}
}
