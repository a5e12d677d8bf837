package pgxdb_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func TestConfigNamesTheField(t *testing.T) {
	for want, cfg := range map[string]pgxdb.Config{
		"MaxConns -1":          {MaxConns: -1},
		"MaxConnLifetime -1ns": {MaxConnLifetime: -1},
		"ConnectTimeout -1ns":  {ConnectTimeout: -1},
		"IdleInTransaction -1": {IdleInTransaction: -1},
	} {
		if _, err := pgxdb.Open(t.Context(), "postgres://x", &cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
}

func TestOpenNamesWhereButNotThePassword(t *testing.T) {
	for _, url := range []string{
		"postgres://u:hunter2@127.0.0.1:1/shop?sslmode=disable",
		"postgres://u:hunter2@127.0.0.1:bad/shop",
	} {
		_, err := pgxdb.Open(t.Context(), url, nil)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", url, err)
		}
	}
	_, err := pgxdb.Open(t.Context(), "postgres://u:hunter2@127.0.0.1:1/shop?sslmode=disable", nil)
	if err == nil || !strings.Contains(err.Error(), "connect to shop at 127.0.0.1") {
		t.Errorf("got %v", err)
	}
}

func TestOpenBoundsThePool(t *testing.T) {
	db, err := pgxdb.Open(t.Context(), pgtest.URL(t), &pgxdb.Config{MaxConns: 3, MaxConnLifetime: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if n := db.Write.Stats().MaxOpenConnections; n != 3 || db.Read != db.Write {
		t.Errorf("%d connections, one pool %v", n, db.Read == db.Write)
	}
}

// A process that is stopped inside a transaction must not keep its locks.
func TestASilentTransactionIsEnded(t *testing.T) {
	ctx := t.Context()
	db, err := pgxdb.Open(ctx, pgtest.URL(t), &pgxdb.Config{IdleInTransaction: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Write.ExecContext(ctx, `CREATE TABLE x (id int PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	silent, err := db.Write.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Rollback() }() // the server has done it
	if _, err := silent.ExecContext(ctx, `INSERT INTO x VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := db.Write.ExecContext(waiting, `INSERT INTO x VALUES (1)`); err != nil {
		t.Fatalf("the lock outlived its holder: %v", err)
	}
	if _, err := silent.ExecContext(ctx, `INSERT INTO x VALUES (2)`); !sqldb.IsRetryable(err) && !sqldb.IsUnavailable(err) {
		t.Errorf("the next statement: %v", err)
	}
}
