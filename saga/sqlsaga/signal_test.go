package sqlsaga_test

import (
	"context"
	"database/sql"
	"log/slog"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

// A signal finds no instance and is kept, while the instance is started and comes
// to its signal step before that commits. It must not be overlooked.
func TestASignalThatRacesWithTheStartIsNotLost(t *testing.T) {
	db := pgtest.DB(t)
	ctx := t.Context()
	if err := migrate.Up(ctx, db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	store, err := sqlsaga.New(db, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := saga.NewCoordinator(store, &saga.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	type state struct{}
	h, err := saga.Register(c, saga.Definition[state]{Name: "wait", Steps: []saga.Step[state]{&saga.Signal[state]{Name: "go"}}})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.Write.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }() // after an error
	if err := h.Signal(ctx, sqldb.StdTx(tx), "x", "go", nil); err != nil {
		t.Fatal(err)
	}
	driven := make(chan error, 1)
	go func() {
		err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			return h.Start(ctx, sqldb.StdTx(tx), "x", state{})
		})
		if err == nil {
			_, err = c.RunDue(ctx)
		}
		driven <- err
	}()
	// Either the start has waited for the signal, or it has come to the step.
	waits := func() (n int) {
		if err := db.Read.QueryRowContext(ctx, `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for done := false; !done && waits() == 0; {
		select {
		case err := <-driven:
			driven <- err
			done = true
		case <-tick.C:
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-driven; err != nil {
		t.Fatal(err)
	}
	if _, err := c.RunDue(ctx); err != nil {
		t.Fatal(err)
	}
	in, err := c.Get(ctx, "x")
	if err != nil || in.Status != saga.StatusCompleted {
		t.Errorf("%+v, %v", in, err)
	}
}
