package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func sqlite(t testing.TB) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(context.Background(), filepath.Join(t.TempDir(), "t.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// runner is a Runner whose handler sees a sqldb.Tx, whatever it opens.
type runner interface {
	inTx(ctx context.Context, fn func(ctx context.Context, tx sqldb.Tx) error) error
}

type anyRunner[T any] struct{ r sqldb.Runner[T] }

func (a anyRunner[T]) inTx(ctx context.Context, fn func(context.Context, sqldb.Tx) error) error {
	return a.r.InTx(ctx, func(ctx context.Context, tx T) error { return fn(ctx, a.r.Wrap(tx)) })
}

// all runs a test over every Runner, with a table t (k TEXT PRIMARY KEY, n BIGINT, b bytes).
func all(t *testing.T, test func(t *testing.T, db *sqldb.DB, r runner)) {
	table := func(t *testing.T, db *sqldb.DB) {
		bytes := map[sqldb.Dialect]string{sqldb.Postgres: "BYTEA", sqldb.SQLite: "BLOB"}[db.Dialect]
		if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE t (k TEXT PRIMARY KEY, n BIGINT, b `+bytes+`)`); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		db := sqlite(t)
		table(t, db)
		test(t, db, anyRunner[*sql.Tx]{sqldb.Std(db)})
	})
	t.Run("postgres", func(t *testing.T) {
		db := pgtest.DB(t)
		table(t, db)
		test(t, db, anyRunner[*sql.Tx]{sqldb.Std(db)})
	})
	t.Run("pgx", func(t *testing.T) {
		pool, err := pgxpool.New(t.Context(), pgtest.URL(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		db := pgxdb.DB(pool)
		t.Cleanup(func() { db.Close() })
		table(t, db)
		test(t, db, anyRunner[pgx.Tx]{pgxdb.Pool(pool)})
	})
}

func rows(t *testing.T, db *sqldb.DB, want int) {
	t.Helper()
	var n int
	if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM t`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	if n != want {
		t.Fatalf("%d rows, want %d", n, want)
	}
}

func insert(ctx context.Context, tx sqldb.Execer, k string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO t (k, n, b) VALUES ($1, $2, $3)`, k, int64(1), []byte{0, 255})
	return err
}

func TestCommitThenAfterCommit(t *testing.T) {
	all(t, func(t *testing.T, db *sqldb.DB, r runner) {
		var order []string
		err := r.inTx(t.Context(), func(ctx context.Context, tx sqldb.Tx) error {
			for _, name := range []string{"a", "b"} {
				if !sqldb.AfterCommit(ctx, func() {
					rows(t, db, 1) // committed by now
					order = append(order, name)
				}) {
					t.Error("AfterCommit found no transaction")
				}
			}
			if !sqldb.Running(ctx) {
				t.Error("not running inside")
			}
			return insert(ctx, tx, "k")
		})
		if err != nil || !slices.Equal(order, []string{"a", "b"}) {
			t.Fatalf("%v, %v", order, err)
		}
	})
}

func TestEveryOtherEndRollsBack(t *testing.T) {
	crash := errors.New("crash")
	ends := map[string]func(t *testing.T, run func(end func()) error){
		"error": func(t *testing.T, run func(func()) error) {},
		"panic": func(t *testing.T, run func(func()) error) {
			defer func() {
				if recover() != crash { //nolint:errorlint // the very same value
					t.Error("the panic was swallowed")
				}
			}()
			run(func() { panic(crash) })
		},
		"goexit": func(t *testing.T, run func(func()) error) {
			var wg sync.WaitGroup
			wg.Go(func() { run(runtime.Goexit) })
			wg.Wait()
		},
	}
	all(t, func(t *testing.T, db *sqldb.DB, r runner) {
		for name, end := range ends {
			run := func(how func()) error {
				return r.inTx(t.Context(), func(ctx context.Context, tx sqldb.Tx) error {
					sqldb.AfterCommit(ctx, func() { t.Errorf("%s: after-commit ran without a commit", name) })
					if err := insert(ctx, tx, "k"); err != nil {
						t.Error(err)
					}
					how()
					return crash
				})
			}
			if name == "error" {
				if err := run(func() {}); !errors.Is(err, crash) {
					t.Errorf("the error of fn became %v", err)
				}
			}
			end(t, run)
			rows(t, db, 0)
		}
		// The connection is usable again.
		if err := r.inTx(t.Context(), func(ctx context.Context, tx sqldb.Tx) error { return insert(ctx, tx, "k") }); err != nil {
			t.Fatal(err)
		}
		rows(t, db, 1)
	})
}

// A transaction whose context has ended is rolled back by the time InTx
// returns, so that the next attempt meets none of its locks.
func TestCancelledTransactionIsGoneOnReturn(t *testing.T) {
	all(t, func(t *testing.T, db *sqldb.DB, r runner) {
		gone := errors.New("the client is gone")
		for i := range 20 {
			ctx, cancel := context.WithCancelCause(t.Context())
			err := r.inTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
				err := insert(ctx, tx, "k")
				cancel(gone)
				return err
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
			rows(t, db, 0)
			if db.Dialect == sqldb.Postgres {
				var n int
				if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'RowExclusiveLock'`).Scan(&n); err != nil || n != 0 {
					t.Fatalf("round %d: %d locks are left, %v", i, n, err)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := r.inTx(ctx, func(context.Context, sqldb.Tx) error { t.Error("ran"); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("begin with an ended context: %v", err)
		}
	})
}

func TestNestedIsRefused(t *testing.T) {
	all(t, func(t *testing.T, db *sqldb.DB, r runner) {
		other := sqlite(t)
		err := r.inTx(t.Context(), func(ctx context.Context, _ sqldb.Tx) error {
			if err := r.inTx(ctx, func(context.Context, sqldb.Tx) error { return nil }); !errors.Is(err, sqldb.ErrNested) {
				t.Errorf("got %v", err)
			}
			// Another database is another matter, but does not hide the first.
			return sqldb.InTx(ctx, other, func(ctx context.Context, _ *sql.Tx) error {
				if err := r.inTx(ctx, func(context.Context, sqldb.Tx) error { return nil }); !errors.Is(err, sqldb.ErrNested) {
					t.Errorf("through another database: got %v", err)
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestContextOfAnEndedTransaction(t *testing.T) {
	all(t, func(t *testing.T, db *sqldb.DB, r runner) {
		var kept context.Context
		if err := r.inTx(t.Context(), func(ctx context.Context, _ sqldb.Tx) error { kept = ctx; return nil }); err != nil {
			t.Fatal(err)
		}
		if sqldb.Running(kept) || sqldb.AfterCommit(kept, func() {}) {
			t.Error("an ended transaction still takes after-commit functions")
		}
		if err := r.inTx(kept, func(context.Context, sqldb.Tx) error { return nil }); err != nil {
			t.Errorf("a new transaction under an old context: %v", err)
		}
	})
	if sqldb.AfterCommit(t.Context(), func() {}) {
		t.Error("AfterCommit found a transaction where there is none")
	}
}

func TestTxReads(t *testing.T) {
	all(t, func(t *testing.T, db *sqldb.DB, r runner) {
		err := r.inTx(t.Context(), func(ctx context.Context, tx sqldb.Tx) error {
			for _, k := range []string{"a", "b", "c"} {
				if err := insert(ctx, tx, k); err != nil {
					return err
				}
			}
			var n int64
			if err := tx.QueryRow(ctx, `SELECT n FROM t WHERE k = $1`+db.Dialect.ForUpdate(), "none").Scan(&n); err != sql.ErrNoRows { //nolint:errorlint // exactly this one is promised
				return fmt.Errorf("no row: %w", err)
			}
			// Placeholders are numbered, also out of order and twice.
			rows, err := tx.Query(ctx, `SELECT k, b FROM t WHERE k >= $2 AND k <= $1 AND k <> $2 ORDER BY k`+db.Dialect.ForUpdateSkipLocked(), "c", "a")
			if err != nil {
				return err
			}
			defer rows.Close()
			var got []string
			for rows.Next() {
				var k string
				var b []byte
				if err := rows.Scan(&k, &b); err != nil {
					return err
				}
				got = append(got, k+string(b))
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil {
				return err
			}
			if !slices.Equal(got, []string{"b\x00\xff", "c\x00\xff"}) {
				return fmt.Errorf("read %q", got)
			}
			res, err := tx.ExecContext(ctx, `INSERT INTO t (k) VALUES ($1) ON CONFLICT DO NOTHING`, "a")
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n != 0 {
				return fmt.Errorf("%d rows affected, %w", n, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestDatabaseClock(t *testing.T) {
	for name, db := range map[string]*sqldb.DB{"sqlite": sqlite(t), "postgres": pgtest.DB(t)} {
		var us int64
		if err := db.Read.QueryRowContext(t.Context(), `SELECT `+db.Dialect.NowMicros()).Scan(&us); err != nil {
			t.Fatal(name, err)
		}
		if d := time.Since(sqldb.FromMicros(us)); d < -time.Second || d > time.Minute {
			t.Errorf("%s: the clock is off by %v", name, d)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Int64Range(-1<<50, 1<<50).Draw(t, "us")
		if got := sqldb.Micros(sqldb.FromMicros(us)); got != us {
			t.Fatalf("%d became %d", us, got)
		}
	})
}

func TestClassifyErrors(t *testing.T) {
	all(t, func(t *testing.T, db *sqldb.DB, r runner) {
		err := r.inTx(t.Context(), func(ctx context.Context, tx sqldb.Tx) error {
			return errors.Join(insert(ctx, tx, "k"), insert(ctx, tx, "k"))
		})
		if !sqldb.IsUnique(err) || sqldb.IsRetryable(err) || sqldb.IsUnavailable(err) {
			t.Errorf("a duplicate: %v", err)
		}
		err = r.inTx(t.Context(), func(ctx context.Context, tx sqldb.Tx) error {
			_, err := tx.ExecContext(ctx, `SELECT nonsense`)
			return err
		})
		if err == nil || sqldb.IsUnique(err) || sqldb.IsRetryable(err) || sqldb.IsUnavailable(err) {
			t.Errorf("nonsense: %v", err)
		}
	})
	for _, err := range []error{nil, io.EOF, context.Canceled, context.DeadlineExceeded, errors.New("x")} {
		if sqldb.IsUnique(err) || sqldb.IsRetryable(err) || sqldb.IsUnavailable(err) {
			t.Errorf("%v was classified", err)
		}
	}
	for _, err := range []error{io.ErrUnexpectedEOF, sql.ErrConnDone} {
		if !sqldb.IsUnavailable(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v is not unavailable", err)
		}
	}
	db := sqlite(t)
	db.Close()
	if err := db.Ping(t.Context()); !sqldb.IsUnavailable(err) {
		t.Errorf("a closed database: %v", err)
	}
	if _, err := pgxdb.Open(t.Context(), "postgres://u@127.0.0.1:1/x?sslmode=disable", nil); !sqldb.IsUnavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
}

// Two transactions that lock two rows crosswise: one is told to run again.
func TestDeadlockIsRetryable(t *testing.T) {
	db := pgtest.DB(t)
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE t (k TEXT); INSERT INTO t VALUES ('a'), ('b')`); err != nil {
		t.Fatal(err)
	}
	var locked, wg sync.WaitGroup
	locked.Add(2)
	errs := make([]error, 2)
	for i, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		wg.Go(func() {
			errs[i] = sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `UPDATE t SET k = k WHERE k = $1`, order[0])
				locked.Done()
				locked.Wait()
				if err == nil {
					_, err = tx.ExecContext(ctx, `UPDATE t SET k = k WHERE k = $1`, order[1])
				}
				return err
			})
		})
	}
	wg.Wait()
	if sqldb.IsRetryable(errs[0]) == sqldb.IsRetryable(errs[1]) {
		t.Fatalf("want one deadlock: %v", errs)
	}
}

func TestDialect(t *testing.T) {
	if sqldb.Postgres.String() != "postgres" || sqldb.SQLite.String() != "sqlite" || sqldb.Dialect(9).String() != "sqldb.Dialect(9)" {
		t.Error("names")
	}
	if sqldb.SQLite.ForUpdate() != "" || sqldb.Postgres.ForUpdate() != " FOR UPDATE" || sqldb.Dialect(0).Valid() {
		t.Error("clauses")
	}
}
