package saga_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// eventually waits for a condition under a deadline.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// running runs a coordinator until the test ends; stop ends it earlier.
func running(t *testing.T, c *saga.Coordinator) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	eventually(t, "the coordinator runs", func() bool { return c.Ready(ctx) == nil })
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func realTime(cfg *saga.Config) { cfg.Now = nil }

func TestRunDrivesAtOnceAfterCommit(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		e.at = time.Now() // leases go by e.now
		c := e.coordinator(realTime, func(cfg *saga.Config) { cfg.PollEvery = time.Hour; cfg.LeaseTTL = time.Hour })
		ended := make(chan string, 1)
		h := register(t, c, saga.Definition[state]{Name: "quick", Steps: []saga.Step[state]{
			&saga.Call[state]{Name: "call", Kind: saga.Pivot, Do: nothing},
			&saga.Local[state]{Name: "local", Kind: saga.Retriable, Do: setStatus("done")},
		}, OnCompleted: func(ctx context.Context, _ sqldb.Tx, s *state) error {
			sqldb.AfterCommit(ctx, func() { ended <- s.Order })
			return nil
		}})
		if err := c.Ready(t.Context()); err == nil {
			t.Error("ready before Run")
		}
		stop := running(t, c)
		if err := c.Run(t.Context()); err == nil {
			t.Error("Run runs twice")
		}
		start(e, h, "x", state{Order: "x"})
		select {
		case id := <-ended:
			if id != "x" {
				t.Errorf("%q ended", id)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the poll would have been needed")
		}
		stop()
		if n, err := c.Pending(t.Context()); n != 0 || err != nil {
			t.Errorf("pending %d, %v", n, err)
		}
	})
}

func TestASlowOrFailingStepDelaysNoOtherSaga(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	c := e.coordinator(realTime, func(cfg *saga.Config) { cfg.Concurrency = 2; cfg.LeaseTTL = time.Hour })
	release := make(chan struct{})
	var slow atomic.Int32
	h := register(t, c, saga.Definition[state]{Name: "mixed", Steps: []saga.Step[state]{
		&saga.Call[state]{Name: "call", Kind: saga.Pivot, Timeout: time.Minute, Do: func(_ context.Context, s *state) error {
			switch s.A {
			case "slow":
				slow.Add(1)
				<-release
			case "failing":
				return errors.New("fails")
			}
			return nil
		}},
	}})
	stop := running(t, c)
	for i := range 8 {
		start(e, h, fmt.Sprintf("slow-%d", i), state{A: "slow"})
		start(e, h, fmt.Sprintf("failing-%d", i), state{A: "failing"})
	}
	eventually(t, "the slow calls are in flight", func() bool { return slow.Load() == 8 })
	start(e, h, "quick", state{})
	eventually(t, "the quick saga ends", func() bool { return e.status(c, "quick") == saga.StatusCompleted })
	close(release)
	stop()
	for i := range 8 { // calls in flight were let to end
		e.expect(c, fmt.Sprintf("slow-%d", i), saga.StatusCompleted)
	}
}

// Three coordinators share one PostgreSQL database; each effect happens once.
func TestManyCoordinatorsShareADatabase(t *testing.T) {
	e := newEnv(t, pgtest.DB(t))
	if _, err := e.db.Write.ExecContext(t.Context(), `CREATE TABLE effects (key TEXT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	var calls sync.Map
	definition := saga.Definition[state]{Name: "shared", Steps: []saga.Step[state]{
		&saga.Local[state]{Name: "local", Do: func(ctx context.Context, tx sqldb.Tx, _ *state) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO effects (key) VALUES ($1)`, saga.StepKey(ctx))
			return err
		}, Undo: func(ctx context.Context, tx sqldb.Tx, _ *state) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM effects WHERE key = $1`, saga.DoKey(ctx))
			return err
		}},
		saga.Parallel[state]("calls",
			&saga.Call[state]{Name: "one", Do: nothing, Undo: nothing},
			&saga.Call[state]{Name: "two", Do: nothing, Undo: nothing},
		),
		&saga.Call[state]{Name: "decide", Kind: saga.Pivot, Do: func(ctx context.Context, s *state) error {
			if _, again := calls.LoadOrStore(saga.StepKey(ctx), true); again {
				t.Errorf("%s was called twice without a failure", saga.StepKey(ctx))
			}
			if s.A == "refuse" {
				return saga.Refuse("no")
			}
			return nil
		}},
	}}
	var handles []*saga.Handle[state]
	var first *saga.Coordinator
	for range 3 {
		c := e.coordinator(realTime, func(cfg *saga.Config) { cfg.PollEvery = 5 * time.Millisecond; cfg.LeaseTTL = time.Hour })
		handles = append(handles, register(t, c, definition))
		running(t, c)
		first = c
	}
	const n = 60
	for i := range n {
		s := state{}
		if i%3 == 0 {
			s.A = "refuse"
		}
		start(e, handles[i%3], fmt.Sprintf("s-%d", i), s)
	}
	eventually(t, "every saga ends", func() bool {
		pending, err := first.Pending(t.Context())
		return err == nil && pending == 0
	})
	counts, err := first.Counts(t.Context())
	if err != nil || counts[saga.StatusCompleted] != n*2/3 || counts[saga.StatusCompensated] != n/3 {
		t.Errorf("ended as %v, %v", counts, err)
	}
	var rows, keys int
	if err := e.db.Read.QueryRowContext(t.Context(), `SELECT count(*), count(DISTINCT key) FROM effects`).Scan(&rows, &keys); err != nil {
		t.Fatal(err)
	}
	if rows != n*2/3 || keys != rows {
		t.Errorf("%d effects under %d keys, want %d", rows, keys, n*2/3)
	}
}
