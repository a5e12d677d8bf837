package sqlitedb_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string, cfg *sqlitedb.Config) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func pragma(t *testing.T, pool *sql.DB, name string) string {
	t.Helper()
	var v string
	if err := pool.QueryRowContext(t.Context(), `PRAGMA `+name).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSettings(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "odd ?#%41 name")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a?b.db")
	db := open(t, path, &sqlitedb.Config{BusyTimeout: 7 * time.Second})
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the file is not where it was asked for: %v", err)
	}
	for _, c := range []struct {
		pool       *sql.DB
		name, want string
	}{
		{db.Write, "journal_mode", "wal"}, {db.Write, "synchronous", "1"}, {db.Write, "foreign_keys", "1"},
		{db.Write, "busy_timeout", "7000"}, {db.Write, "query_only", "0"},
		{db.Read, "query_only", "1"}, {db.Read, "foreign_keys", "1"}, {db.Read, "busy_timeout", "7000"},
	} {
		if got := pragma(t, c.pool, c.name); got != c.want {
			t.Errorf("%s is %s, want %s", c.name, got, c.want)
		}
	}
	if _, err := db.Read.ExecContext(t.Context(), `CREATE TABLE t (n)`); err == nil {
		t.Error("the read pool writes")
	}
	full := open(t, filepath.Join(t.TempDir(), "full.db"), &sqlitedb.Config{FullSync: true})
	if got := pragma(t, full.Write, "synchronous"); got != "2" {
		t.Errorf("FullSync gives synchronous %s", got)
	}
}

// Readers see the last commit and do not wait for a writer; writers queue.
func TestReadersDoNotWaitAndWritersQueue(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "t.db"), nil)
	ctx := t.Context()
	if _, err := db.Write.ExecContext(ctx, `CREATE TABLE t (n BIGINT); INSERT INTO t VALUES (0)`); err != nil {
		t.Fatal(err)
	}
	err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE t SET n = 1`); err != nil {
			return err
		}
		var n int
		if err := db.Read.QueryRowContext(ctx, `SELECT n FROM t`).Scan(&n); err != nil || n != 0 {
			t.Errorf("a reader beside the writer saw %d, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Read, then write what was read: without BEGIN IMMEDIATE updates are lost or busy.
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
				var n int
				if err := tx.QueryRowContext(ctx, `SELECT n FROM t`).Scan(&n); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, `UPDATE t SET n = $1`, n+1)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var n int
	if err := db.Read.QueryRowContext(ctx, `SELECT n FROM t`).Scan(&n); err != nil || n != 51 {
		t.Fatalf("counted to %d, %v", n, err)
	}
}

// A second process (here: a second handle) that holds the write lock is waited
// for, and then named as retryable.
func TestBusyIsRetryable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	a := open(t, path, nil)
	b := open(t, path, &sqlitedb.Config{BusyTimeout: time.Millisecond})
	err := sqldb.InTx(t.Context(), a, func(ctx context.Context, _ *sql.Tx) error {
		return sqldb.InTx(ctx, b, func(context.Context, *sql.Tx) error { return nil })
	})
	if !sqldb.IsRetryable(err) {
		t.Fatalf("got %v", err)
	}
}

func TestConfigNamesTheField(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.db")
	for _, c := range []struct {
		path string
		cfg  sqlitedb.Config
		want string
	}{
		{":memory:", sqlitedb.Config{}, "name a file"},
		{"", sqlitedb.Config{}, "name a file"},
		{filepath.Join(t.TempDir(), "no", "t.db"), sqlitedb.Config{}, "its folder does not exist"},
		{file, sqlitedb.Config{BusyTimeout: -1}, "BusyTimeout -1ns"},
		{file, sqlitedb.Config{MaxReaders: -1}, "MaxReaders -1"},
	} {
		if _, err := sqlitedb.Open(t.Context(), c.path, &c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %+v: got %v, want %q in it", c.path, c.cfg, err, c.want)
		}
	}
	bad := filepath.Join(t.TempDir(), "bad.db")
	if err := os.WriteFile(bad, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitedb.Open(t.Context(), bad, nil); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("a file that is no database: %v", err)
	}
}
