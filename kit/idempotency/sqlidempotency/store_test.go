package sqlidempotency_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/idempotencytest"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func both(t *testing.T, test func(t *testing.T, open func(t *testing.T) *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		test(t, func(t *testing.T) *sqldb.DB {
			t.Helper()
			db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "keys.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			up(t, db)
			return db
		})
	})
	t.Run("postgres", func(t *testing.T) {
		test(t, func(t *testing.T) *sqldb.DB {
			t.Helper()
			db := pgtest.DB(t)
			up(t, db)
			return db
		})
	})
}

func up(t *testing.T, db *sqldb.DB) {
	t.Helper()
	if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
}

func newStore(t *testing.T, d sqldb.Dialect, cfg *sqlidempotency.Config) *sqlidempotency.Store {
	t.Helper()
	s, err := sqlidempotency.New(d, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func key(value, request string) idempotency.Key {
	return idempotency.Key{Value: value, Scope: "user-1", Operation: "POST /orders", Fingerprint: idempotency.Fingerprint([]byte(request))}
}

func TestMigrationsUpDownUp(t *testing.T) {
	both(t, func(t *testing.T, open func(t *testing.T) *sqldb.DB) {
		db := open(t)
		if err := migrate.Down(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
			t.Fatal(err)
		}
		up(t, db)
		if _, err := newStore(t, db.Dialect, nil).Peek(t.Context(), db, key("k", "r")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTransactionalConformance(t *testing.T) {
	both(t, func(t *testing.T, open func(t *testing.T) *sqldb.DB) {
		idempotencytest.TestTxStore(t, func(t *testing.T, now func() time.Time) (*sqldb.DB, idempotency.TxStore) {
			db := open(t)
			return db, newStore(t, db.Dialect, &sqlidempotency.Config{TTL: time.Hour, Now: now})
		})
	})
}

func TestLeasedConformance(t *testing.T) {
	both(t, func(t *testing.T, open func(t *testing.T) *sqldb.DB) {
		idempotencytest.TestStore(t, func(t *testing.T, now func() time.Time) idempotency.Store {
			s, err := sqlidempotency.NewLeased(open(t), &sqlidempotency.Config{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	})
}

// The database's own clock, which the suite replaces.
func TestLeasedOnTheDatabasesClock(t *testing.T) {
	both(t, func(t *testing.T, open func(t *testing.T) *sqldb.DB) {
		ctx := t.Context()
		s, err := sqlidempotency.NewLeased(open(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Claim(ctx, key("k", "r"), time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Claim(ctx, key("k", "r"), time.Minute); !errors.Is(err, idempotency.ErrInProgress) {
			t.Fatalf("got %v", err)
		}
		if _, _, err := s.Claim(ctx, key("k2", "r"), 0); err != nil {
			t.Fatal(err)
		}
		c, _, err := s.Claim(ctx, key("k2", "r"), time.Minute)
		if err != nil {
			t.Fatalf("a lease of no time is still held: %v", err)
		}
		if err := s.Complete(ctx, c, idempotency.Response{Code: 200}); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Sweep(ctx); err != nil || n != 0 {
			t.Fatalf("swept %d live keys, %v", n, err)
		}
	})
}

// The same through pgx itself, as adopters with a pgxpool use it.
func TestTransactionalOnPgx(t *testing.T) {
	url := pgtest.URL(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	db := pgxdb.DB(pool)
	defer db.Close()
	up(t, db)
	s := newStore(t, sqldb.Postgres, nil)
	want := idempotency.Response{Code: 201, Body: []byte{0, 1, 0xff}, Header: map[string][]string{"Etag": {`"x"`}}}
	for i := range 3 {
		got, replayed, err := idempotency.Do(t.Context(), s, pgxdb.Pool(pool), key("k", "r"),
			func(ctx context.Context, tx pgx.Tx) (idempotency.Response, error) { return want, nil })
		if err != nil {
			t.Fatal(err)
		}
		if replayed != (i > 0) || string(got.Body) != string(want.Body) || got.Header["Etag"][0] != `"x"` {
			t.Fatalf("request %d: replayed %v, %+v", i, replayed, got)
		}
	}
}

// With Wait every duplicate gets the answer, none a 409.
func TestWaitForTheResult(t *testing.T) {
	both(t, func(t *testing.T, open func(t *testing.T) *sqldb.DB) {
		db := open(t)
		s := newStore(t, db.Dialect, &sqlidempotency.Config{Wait: time.Minute})
		var wg sync.WaitGroup
		var mu sync.Mutex
		ran := 0
		for range 20 {
			wg.Go(func() {
				resp, _, err := idempotency.Do(t.Context(), s, sqldb.Std(db), key("k", "r"),
					func(context.Context, *sql.Tx) (idempotency.Response, error) {
						mu.Lock()
						defer mu.Unlock()
						ran++
						return idempotency.Response{Code: 201, Body: []byte("once")}, nil
					})
				if err != nil || string(resp.Body) != "once" {
					t.Errorf("got %q, %v", resp.Body, err)
				}
			})
		}
		wg.Wait()
		if ran != 1 {
			t.Errorf("ran %d times", ran)
		}
	})
}

func TestInProgressWithoutWait(t *testing.T) {
	db := pgtest.DB(t)
	up(t, db)
	s := newStore(t, db.Dialect, nil)
	err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := s.Begin(ctx, sqldb.StdTx(tx), key("k", "r")); err != nil {
			return err
		}
		second, err := db.Write.BeginTx(t.Context(), nil)
		if err != nil {
			return err
		}
		defer second.Rollback()
		if _, err := s.Begin(t.Context(), sqldb.StdTx(second), key("other", "r")); err != nil {
			return fmt.Errorf("another key is held up: %w", err)
		}
		if _, err := s.Begin(t.Context(), sqldb.StdTx(second), key("k", "r")); !errors.Is(err, idempotency.ErrInProgress) {
			t.Errorf("got %v, want ErrInProgress", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// In REPEATABLE READ the look-up cannot see what the lock's former holder
// committed; the primary key then refuses the second result.
func TestPrimaryKeyHasTheLastWord(t *testing.T) {
	db := pgtest.DB(t)
	up(t, db)
	s := newStore(t, db.Dialect, nil)
	late, err := db.Write.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer late.Rollback()
	if _, err := late.ExecContext(t.Context(), `SELECT 1`); err != nil { // takes the snapshot
		t.Fatal(err)
	}
	run := func(context.Context, *sql.Tx) (idempotency.Response, error) {
		return idempotency.Response{Code: 201}, nil
	}
	if _, _, err := idempotency.Do(t.Context(), s, sqldb.Std(db), key("k", "r"), run); err != nil {
		t.Fatal(err)
	}
	if stored, err := s.Begin(t.Context(), sqldb.StdTx(late), key("k", "r")); err != nil || stored != nil {
		t.Fatalf("got %v, %v: the snapshot is not old, the test proves nothing", stored, err)
	}
	if err := s.Complete(t.Context(), late, key("k", "r"), idempotency.Response{Code: 201}); err == nil {
		t.Fatal("a second result was stored")
	}
}

func TestBoundsAndConfig(t *testing.T) {
	both(t, func(t *testing.T, open func(t *testing.T) *sqldb.DB) {
		db := open(t)
		s := newStore(t, db.Dialect, &sqlidempotency.Config{MaxBody: 3})
		err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
			return s.Complete(ctx, tx, key("k", "r"), idempotency.Response{Body: []byte("four")})
		})
		if !errors.Is(err, idempotency.ErrTooLarge) {
			t.Fatalf("got %v", err)
		}
	})
	for want, cfg := range map[string]sqlidempotency.Config{
		"sqlidempotency: Config.TTL -1ns: must not be negative":   {TTL: -1},
		"sqlidempotency: Config.MaxBody -1: must not be negative": {MaxBody: -1},
		"sqlidempotency: Config.Wait -1ns: must not be negative":  {Wait: -1},
	} {
		if _, err := sqlidempotency.New(sqldb.SQLite, &cfg); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := sqlidempotency.New(0, nil); err == nil {
		t.Error("an unknown dialect was accepted")
	}
}

func TestSweep(t *testing.T) {
	both(t, func(t *testing.T, open func(t *testing.T) *sqldb.DB) {
		db, clock := open(t), idempotencytest.NewClock()
		s := newStore(t, db.Dialect, &sqlidempotency.Config{TTL: time.Hour, Now: clock.Now})
		store := func(value string) {
			err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
				return s.Complete(ctx, tx, key(value, "r"), idempotency.Response{Code: 200})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
			for i := range 1500 { // more than a batch
				if err := s.Complete(ctx, tx, key(fmt.Sprint("old", i), "r"), idempotency.Response{Code: 200}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		clock.Add(time.Hour)
		store("young")
		if n, err := s.Sweep(t.Context(), db); err != nil || n != 1500 {
			t.Fatalf("swept %d, %v", n, err)
		}
		if r, err := s.Peek(t.Context(), db, key("young", "r")); err != nil || r == nil {
			t.Fatalf("the young key is gone: %v", err)
		}
	})
}

// Any sequence of requests, with crashes, ends as a model says: one effect for
// each key that ever succeeded, and every answer that of its effect.
func TestRandomHistories(t *testing.T) {
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "keys.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	up(t, db)
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE effects (n INTEGER PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, sqldb.SQLite, nil)
	crash := errors.New("crash")
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		count := func() (n int) {
			if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM effects`).Scan(&n); err != nil {
				rt.Fatal(err)
			}
			return n
		}
		before := count()
		type outcome struct{ request, answer string }
		model := map[string]outcome{}
		for range rapid.IntRange(1, 20).Draw(rt, "requests") {
			value := fmt.Sprintf("%d-%s", round, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "key"))
			request := rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "request")
			crashes := rapid.Bool().Draw(rt, "crashes")
			resp, replayed, err := idempotency.Do(t.Context(), s, sqldb.Std(db), key(value, request),
				func(ctx context.Context, tx *sql.Tx) (idempotency.Response, error) {
					var n int
					if err := tx.QueryRowContext(ctx, `INSERT INTO effects DEFAULT VALUES RETURNING n`).Scan(&n); err != nil {
						return idempotency.Response{}, err
					}
					if crashes {
						return idempotency.Response{}, crash
					}
					return idempotency.Response{Body: fmt.Append(nil, n)}, nil
				})
			had, done := model[value]
			switch {
			case done && had.request != request:
				if !errors.Is(err, idempotency.ErrMismatch) {
					rt.Fatalf("another request: %v", err)
				}
			case done:
				if err != nil || !replayed || string(resp.Body) != had.answer {
					rt.Fatalf("replay: %q, %v, %v; want %q", resp.Body, replayed, err, had.answer)
				}
			case crashes:
				if !errors.Is(err, crash) {
					rt.Fatalf("crash: %v", err)
				}
			default:
				if err != nil || replayed {
					rt.Fatalf("first: %v, %v", replayed, err)
				}
				model[value] = outcome{request, string(resp.Body)}
			}
		}
		if n := count() - before; n != len(model) {
			rt.Fatalf("%d effects for %d keys that succeeded", n, len(model))
		}
		for value, had := range model {
			var n int
			if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM effects WHERE n = CAST($1 AS INTEGER)`, had.answer).Scan(&n); err != nil || n != 1 {
				rt.Fatalf("key %s: the effect of its answer is there %d times, %v", value, n, err)
			}
		}
	})
}
