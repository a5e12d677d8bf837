package pgxdb_test

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func TestConfigNamesTheField(t *testing.T) {
	for want, cfg := range map[string]pgxdb.Config{
		"MaxConns -1":          {MaxConns: -1},
		"MaxConnLifetime -1ns": {MaxConnLifetime: -1},
		"ConnectTimeout -1ns":  {ConnectTimeout: -1},
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
