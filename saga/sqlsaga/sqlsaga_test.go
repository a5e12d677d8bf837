package sqlsaga_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func dialects(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Helper()
	for name, open := range map[string]func(testing.TB) *sqldb.DB{
		"sqlite": func(t testing.TB) *sqldb.DB {
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
		},
		"postgres": pgtest.DB,
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			up := func() {
				if err := migrate.Up(t.Context(), db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)); err != nil {
					t.Fatal(err)
				}
			}
			up()
			for range 2 { // both migrations
				if err := migrate.Down(t.Context(), db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)); err != nil {
					t.Fatal(err)
				}
			}
			up()
			test(t, db)
		})
	}
}

var at = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func instance(id string) *saga.Instance {
	return &saga.Instance{
		ID: id, Name: "work", Version: 2, Status: saga.StatusRunning, State: []byte(`{"a":1}`),
		DueAt: at, DeadlineAt: at.Add(time.Hour), CreatedAt: at, UpdatedAt: at,
		Progress: saga.Progress{Steps: map[string]*saga.StepRecord{"one": {Status: saga.StepAttempted, Running: true}}},
	}
}

func store(t *testing.T, db *sqldb.DB) saga.Store {
	t.Helper()
	s, err := sqlsaga.New(db, &sqlsaga.Config{Now: func() time.Time { return at }, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tx(t *testing.T, s saga.Store, fn func(ctx context.Context, tx sqldb.Tx) error) {
	t.Helper()
	if err := s.InTx(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestAnInstanceIsKept(t *testing.T) {
	dialects(t, func(t *testing.T, db *sqldb.DB) {
		s := store(t, db)
		tx(t, s, func(ctx context.Context, tx sqldb.Tx) error {
			for i, want := range []bool{true, false} {
				got, err := s.Insert(ctx, tx, instance("x"), []saga.Entry{{At: at, Kind: saga.EntryStarted, Actor: "n"}})
				if got != want || err != nil {
					t.Errorf("insert %d: %v, %v", i, got, err)
				}
			}
			return nil
		})
		var stale *saga.Instance
		tx(t, s, func(ctx context.Context, tx sqldb.Tx) (err error) {
			stale, err = s.Lock(ctx, tx, "x")
			return err
		})
		if r := stale.Steps["one"]; stale.Revision != 1 || !r.Running || !stale.DeadlineAt.Equal(at.Add(time.Hour)) || string(stale.State) != `{"a":1}` {
			t.Errorf("locked %+v", stale)
		}
		tx(t, s, func(ctx context.Context, tx sqldb.Tx) error {
			in, err := s.Lock(ctx, tx, "x")
			if err != nil {
				return err
			}
			in.Status, in.Owner, in.Epoch, in.DueAt = saga.StatusStuck, "gone", 7, time.Time{}
			return s.Save(ctx, tx, in, []saga.Entry{{At: at, Kind: saga.EntryStuck, Step: "one", Detail: "bad \x00 \xff text"}, {At: at, Kind: saga.EntryRetried}})
		})
		// What was read before must not be written any more.
		if err := s.InTx(t.Context(), func(ctx context.Context, tx sqldb.Tx) error { return s.Save(ctx, tx, stale, nil) }); !errors.Is(err, saga.ErrConflict) {
			t.Errorf("a stale revision: %v", err)
		}
		in, err := s.Get(t.Context(), "x")
		if err != nil || in.Revision != 2 || in.Epoch != 7 || !in.DueAt.IsZero() {
			t.Errorf("got %+v, %v", in, err)
		}
		log, err := s.History(t.Context(), "x")
		if err != nil || len(log) != 3 || log[1].Revision != 2 || log[2].Index != 1 {
			t.Errorf("history %v, %v", log, err)
		}
		if _, err := s.Get(t.Context(), "y"); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("get of nothing: %v", err)
		}
		if n, stuck, err := sqlsaga.Unfinished(t.Context(), db); n != 1 || stuck != 1 || err != nil {
			t.Errorf("unfinished %d, stuck %d, %v", n, stuck, err)
		}
	})
}

func TestWhatIsDueAndWhatIsAbandoned(t *testing.T) {
	dialects(t, func(t *testing.T, db *sqldb.DB) {
		s := store(t, db)
		member, err := s.Join(t.Context(), "alive", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		tx(t, s, func(ctx context.Context, tx sqldb.Tx) error {
			for id, owner := range map[string]string{"free": "", "mine": member.ID(), "orphan": "dead-node"} {
				in := instance(id)
				in.Owner = owner
				if _, err := s.Insert(ctx, tx, in, nil); err != nil {
					return err
				}
			}
			later := instance("later")
			later.DueAt = at.Add(time.Second)
			_, err := s.Insert(ctx, tx, later, nil)
			return err
		})
		serves := []saga.Ref{{Name: "other", Version: 1}, {Name: "work", Version: 2}}
		if ids, err := s.Due(t.Context(), at, serves, 10); len(ids) != 3 || err != nil {
			t.Errorf("due %v, %v", ids, err)
		}
		for _, refs := range [][]saga.Ref{nil, {{Name: "work", Version: 1}}} {
			if ids, err := s.Due(t.Context(), at, refs, 10); len(ids) != 0 || err != nil {
				t.Errorf("due of what is not served: %v, %v", ids, err)
			}
		}
		gone, err := s.Abandoned(t.Context(), 10)
		if err != nil || len(gone) != 1 || gone[0] != (saga.Abandoned{ID: "orphan", Owner: "dead-node"}) {
			t.Errorf("abandoned %v, %v", gone, err)
		}
		if err := member.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if gone, err := s.Abandoned(t.Context(), 10); len(gone) != 2 || err != nil {
			t.Errorf("after leaving %v, %v", gone, err)
		}
		if err := member.Beat(t.Context()); !errors.Is(err, saga.ErrLost) {
			t.Errorf("a beat after leaving: %v", err)
		}
	})
}

func TestMessagesAreBuffered(t *testing.T) {
	dialects(t, func(t *testing.T, db *sqldb.DB) {
		s := store(t, db)
		tx(t, s, func(ctx context.Context, tx sqldb.Tx) error {
			for _, m := range []saga.Message{
				{ID: "2", Name: "a", Body: []byte("second"), At: at.Add(time.Second)},
				{ID: "1", Name: "a", Body: []byte("first"), At: at},
				{ID: "1", Name: "a", Body: []byte("again"), At: at},
				{ID: "3", Name: "b", Body: []byte("other"), At: at},
			} {
				m.SagaID, m.Kind = "x", saga.MessageSignal
				if err := s.Buffer(ctx, tx, m); err != nil {
					return err
				}
			}
			for _, want := range []string{"first", "second", ""} {
				got, err := s.Take(ctx, tx, "x", saga.MessageSignal, "a")
				if err != nil {
					return err
				}
				if (want == "") != (len(got) == 0) || (want != "" && string(got[0].Body) != want) {
					t.Errorf("took %v, want %q", got, want)
				}
			}
			got, err := s.Take(ctx, tx, "x", saga.MessageSignal, "")
			if len(got) != 1 {
				t.Errorf("took %v", got)
			}
			return err
		})
	})
}

// A process that stops inside a transaction of the coordinator's own must not
// keep its row locks.
func TestAStoppedTransactionIsEnded(t *testing.T) {
	db := pgtest.DB(t)
	if err := migrate.Up(t.Context(), db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	s, err := sqlsaga.New(db, &sqlsaga.Config{IdleTimeout: 1234 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	tx(t, s, func(ctx context.Context, tx sqldb.Tx) error {
		if _, err := s.Insert(ctx, tx, instance("x"), nil); err != nil {
			return err
		}
		if _, err := s.Lock(ctx, tx, "x"); err != nil {
			return err
		}
		var setting string
		err := tx.QueryRow(ctx, `SHOW idle_in_transaction_session_timeout`).Scan(&setting)
		if setting != "1234ms" {
			t.Errorf("the timeout is %q", setting)
		}
		return err
	})
	var setting string
	if err := db.Write.QueryRowContext(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&setting); err != nil || setting == "1234ms" {
		t.Errorf("after the transaction it is %q, %v", setting, err)
	}
}

func TestList(t *testing.T) {
	dialects(t, func(t *testing.T, db *sqldb.DB) {
		s := store(t, db)
		tx(t, s, func(ctx context.Context, tx sqldb.Tx) error {
			for i, id := range []string{"a", "b", "c"} {
				in := instance(id)
				in.CreatedAt = at.Add(time.Duration(i) * time.Second)
				if id == "b" {
					in.Status, in.EndedAt, in.Name = saga.StatusCompleted, at, "other"
				}
				if _, err := s.Insert(ctx, tx, in, nil); err != nil {
					return err
				}
			}
			return nil
		})
		for want, f := range map[string]saga.Filter{
			"cba": {}, "ca": {Status: saga.StatusRunning}, "b": {Name: "other"}, "a": {Before: at.Add(time.Second)}, "c": {Limit: 1},
		} {
			got := ""
			found, err := s.List(t.Context(), f)
			for _, in := range found {
				got += in.ID
			}
			if got != want || err != nil {
				t.Errorf("%+v: %q, want %q, %v", f, got, want, err)
			}
		}
		counts, err := s.Counts(t.Context())
		if err != nil || counts[saga.StatusRunning] != 2 || counts[saga.StatusCompleted] != 1 {
			t.Errorf("counts %v, %v", counts, err)
		}
	})
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	if _, err := sqlsaga.New(nil, nil); err == nil {
		t.Error("a store without a database")
	}
}
