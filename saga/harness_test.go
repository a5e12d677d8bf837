package saga_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

func TestMain(m *testing.M) {
	if database := os.Getenv(nodeDatabase); database != "" { // this process is a part of a test
		if err := runNode(database); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(pgtest.Main(m))
}

func openSQLite(t testing.TB) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "saga.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// dialects runs a test on both databases.
func dialects(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	for name, open := range map[string]func(testing.TB) *sqldb.DB{"sqlite": openSQLite, "postgres": pgtest.DB} {
		t.Run(name, func(t *testing.T) { test(t, newEnv(t, open(t))) })
	}
}

// env is a service: a database, a clock, an outbox.
type env struct {
	t  testing.TB
	db *sqldb.DB

	mu   sync.Mutex
	at   time.Time
	sent []events.Event
}

func newEnv(t testing.TB, db *sqldb.DB) *env {
	t.Helper()
	e := &env{t: t, db: db, at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	if err := migrate.Up(t.Context(), db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE orders (id TEXT NOT NULL PRIMARY KEY, status TEXT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *env) now() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at
}

func (e *env) pass(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at = e.at.Add(d)
}

// Append is the outbox: events are sent once their transaction has committed.
func (e *env) Append(ctx context.Context, _ sqldb.Execer, evs ...events.Event) error {
	for _, ev := range evs {
		if err := ev.Validate(); err != nil && ev.Source != "" {
			return err
		}
	}
	sqldb.AfterCommit(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.sent = append(e.sent, evs...)
	})
	return nil
}

// take returns what was sent since the last time.
func (e *env) take() []events.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.sent
	e.sent = nil
	return out
}

func (e *env) coordinator(edit ...func(*saga.Config)) *saga.Coordinator {
	e.t.Helper()
	store, err := sqlsaga.New(e.db, &sqlsaga.Config{Now: e.now, Shared: true})
	if err != nil {
		e.t.Fatal(err)
	}
	cfg := &saga.Config{Outbox: e, Now: e.now, Logger: slog.New(slog.DiscardHandler), Attempts: 3, Node: "test"}
	for _, f := range edit {
		f(cfg)
	}
	c, err := saga.NewCoordinator(store, cfg)
	if err != nil {
		e.t.Fatal(err)
	}
	return c
}

func register[S any](t testing.TB, c *saga.Coordinator, d saga.Definition[S]) *saga.Handle[S] {
	t.Helper()
	h, err := saga.Register(c, d)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (e *env) tx(fn func(ctx context.Context, tx sqldb.Tx) error) {
	e.t.Helper()
	if err := e.try(fn); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) try(fn func(ctx context.Context, tx sqldb.Tx) error) error {
	return sqldb.Std(e.db).InTx(e.t.Context(), func(ctx context.Context, tx stdTx) error { return fn(ctx, sqldb.StdTx(tx)) })
}

func start[S any](e *env, h *saga.Handle[S], id string, s S) {
	e.t.Helper()
	e.tx(func(ctx context.Context, tx sqldb.Tx) error { return h.Start(ctx, tx, id, s) })
}

// run drives until nothing is due.
func (e *env) run(c *saga.Coordinator) {
	e.t.Helper()
	for range 50 {
		n, err := c.RunDue(e.t.Context())
		if err != nil {
			e.t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
	e.t.Fatal("something is due for ever")
}

// answer handles the reply to a command.
func (e *env) answer(c *saga.Coordinator, cmd events.Event, outcome, reason string) {
	e.t.Helper()
	e.tx(func(ctx context.Context, tx sqldb.Tx) error {
		return c.HandleReply(ctx, tx, reply(cmd, outcome, reason))
	})
}

func reply(cmd events.Event, outcome, reason string) events.Event {
	return events.Event{
		ID: "reply-to-" + cmd.ID, Source: "other", Type: "Answered", Topic: "other", Data: []byte(cmd.Type),
		Extensions: map[string]string{
			saga.ExtID: cmd.Extension(saga.ExtID), saga.ExtStep: cmd.Extension(saga.ExtStep),
			saga.ExtPhase: cmd.Extension(saga.ExtPhase), saga.ExtOutcome: outcome, saga.ExtReason: reason,
		},
	}
}

func (e *env) status(c *saga.Coordinator, id string) saga.Status {
	e.t.Helper()
	in, err := c.Get(e.t.Context(), id)
	if err != nil {
		e.t.Fatal(err)
	}
	return in.Status
}

func (e *env) expect(c *saga.Coordinator, id string, want saga.Status) *saga.Instance {
	e.t.Helper()
	in, err := c.Get(e.t.Context(), id)
	if err != nil {
		e.t.Fatal(err)
	}
	if in.Status != want {
		log, _ := c.History(e.t.Context(), id)
		for _, l := range log {
			e.t.Logf("%v %s %s %s", l.At, l.Kind, l.Step, l.Detail)
		}
		e.t.Fatalf("%s is %s (%s), want %s", id, in.Status, in.StuckReason, want)
	}
	return in
}

// kinds lists the history as "kind step".
func (e *env) kinds(c *saga.Coordinator, id string) []string {
	e.t.Helper()
	log, err := c.History(e.t.Context(), id)
	if err != nil {
		e.t.Fatal(err)
	}
	out := make([]string, 0, len(log))
	for _, l := range log {
		s := string(l.Kind)
		if l.Step != "" {
			s += " " + l.Step
		}
		out = append(out, s)
	}
	return out
}
