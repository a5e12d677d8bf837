package saga_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

var errBlip = errors.New("connection lost")

// blipStore loses one commit's connection: before it, or after it with the
// answer lost.
type blipStore struct {
	saga.Store
	commit atomic.Int32 // that ends so
	after  bool
}

func (s *blipStore) InTx(ctx context.Context, fn func(context.Context, sqldb.Tx) error) error {
	blip := false
	err := s.Store.InTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
		if err := fn(ctx, tx); err != nil {
			return err
		}
		if blip = s.commit.Add(-1) == 0; blip && !s.after {
			return errBlip
		}
		return nil
	})
	if err == nil && blip {
		return errBlip
	}
	return err
}

// A call is owned by a living node that no longer makes it, because the database
// was away for a moment at its claim's or at its outcome's commit. The same node
// takes it up again; others need not wait for its death.
func TestACallThatNobodyMakesAnyMoreIsTakenUpAgain(t *testing.T) {
	for name, c := range map[string]struct {
		commit int32
		after  bool
	}{"claim committed, answer lost": {1, true}, "outcome not committed": {2, false}, "outcome committed, answer lost": {2, true}} {
		t.Run(name, func(t *testing.T) {
			dialects(t, func(t *testing.T, e *env) {
				inner, err := sqlsaga.New(e.db, &sqlsaga.Config{Shared: true})
				if err != nil {
					t.Fatal(err)
				}
				store := &blipStore{Store: inner, after: c.after}
				co, err := saga.NewCoordinator(store, &saga.Config{Logger: slog.New(slog.DiscardHandler), PollEvery: 5 * time.Millisecond, BackoffMin: time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				var calls atomic.Int32
				ended := make(chan struct{})
				h := register(t, co, saga.Definition[state]{Name: "work", Steps: []saga.Step[state]{
					&saga.Call[state]{Name: "call", Kind: saga.Pivot, Do: func(context.Context, *state) error { calls.Add(1); return nil }},
				}, OnCompleted: func(ctx context.Context, _ sqldb.Tx, _ *state) error {
					sqldb.AfterCommit(ctx, func() { close(ended) })
					return nil
				}})
				start(e, h, "x", state{})
				store.commit.Store(c.commit)
				ctx, cancel := context.WithCancel(t.Context())
				ran := make(chan error, 1)
				go func() { ran <- co.Run(ctx) }()
				select {
				case <-ended:
				case <-time.After(10 * time.Second):
					in, err := co.Get(t.Context(), "x")
					t.Errorf("the saga hangs: %+v, %v", in, err)
				}
				cancel()
				if err := <-ran; err != nil {
					t.Error(err)
				}
				if n := calls.Load(); n < 1 || n > 2 {
					t.Errorf("%d calls", n)
				}
			})
		})
	}
}

// The caller's code may end its goroutine (as t.FailNow does): that is a failed
// attempt, not the end of the drive.
func TestAFunctionThatEndsItsGoroutineHasFailed(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	tries := map[string]int{}
	once := func(name string) {
		if tries[name]++; tries[name] == 1 {
			runtime.Goexit()
		}
	}
	c := e.coordinator()
	h := register(t, c, saga.Definition[state]{Name: "work", Steps: []saga.Step[state]{
		&saga.Call[state]{Name: "call", Kind: saga.Pivot, Do: func(context.Context, *state) error { once("call"); return nil }},
		&saga.Local[state]{Name: "local", Kind: saga.Retriable, Do: func(context.Context, sqldb.Tx, *state) error { once("local"); return nil }},
	}, OnCompleted: func(context.Context, sqldb.Tx, *state) error { once("end"); return nil }})
	start(e, h, "x", state{})
	for range 4 {
		e.run(c)
		e.pass(time.Minute)
	}
	e.expect(c, "x", saga.StatusCompleted)
	// The closing callback took the local step, in one transaction, back with it.
	if tries["call"] != 2 || tries["local"] != 3 || tries["end"] != 2 {
		t.Errorf("tried %v", tries)
	}
}
