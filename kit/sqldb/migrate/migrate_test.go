package migrate_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func both(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "t.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		test(t, db)
	})
	t.Run("postgres", func(t *testing.T) { test(t, pgtest.DB(t)) })
}

const (
	one = "-- +goose Up\nCREATE TABLE one (n BIGINT);\n-- +goose Down\nDROP TABLE one;\n"
	two = "-- +goose Up\nALTER TABLE one ADD COLUMN m BIGINT;\n-- +goose Down\nALTER TABLE one DROP COLUMN m;\n"
	bad = "-- +goose Up\nCREATE TABLE three (n BIGINT);\nINSERT INTO nowhere VALUES (1);\n-- +goose Down\nDROP TABLE three;\n"
)

func files(texts ...string) fs.FS {
	m := fstest.MapFS{}
	for i, text := range texts {
		m[string(rune('1'+i))+"_step.sql"] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUpDownUp(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		must(t, migrate.Up(ctx, db, "shop", files(one)))
		must(t, migrate.Up(ctx, db, "shop", files(one))) // nothing to do
		if err := migrate.Check(ctx, db, "shop", files(one, two)); !errors.Is(err, migrate.ErrPending) || !strings.Contains(err.Error(), "2_step.sql") {
			t.Fatalf("a missing migration is not named: %v", err)
		}
		must(t, migrate.Up(ctx, db, "shop", files(one, two)))
		must(t, migrate.Check(ctx, db, "shop", files(one, two)))
		states, err := migrate.Status(ctx, db, "shop", files(one, two))
		must(t, err)
		if len(states) != 2 || !states[1].Applied || states[1].Version != 2 || states[1].File != "2_step.sql" || states[1].At.IsZero() {
			t.Fatalf("status %+v", states)
		}
		must(t, migrate.Down(ctx, db, "shop", files(one, two)))
		if _, err := db.Write.ExecContext(ctx, `SELECT * FROM one`); err == nil {
			t.Fatal("the table is still there")
		}
		must(t, migrate.Up(ctx, db, "shop", files(one, two)))
		_, err = db.Write.ExecContext(ctx, `INSERT INTO one (n, m) VALUES (1, 2)`)
		must(t, err)
	})
}

func TestSetsAreApart(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		must(t, migrate.Up(ctx, db, "a", files(one)))
		if err := migrate.Check(ctx, db, "b", files(one)); !errors.Is(err, migrate.ErrPending) {
			t.Fatalf("got %v", err)
		}
		must(t, migrate.Up(ctx, db, "b", files(strings.ReplaceAll(one, "one", "uno"))))
	})
}

func TestChangedTextIsRefused(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		must(t, migrate.Up(ctx, db, "shop", files(one)))
		changed := strings.ReplaceAll(one, "n BIGINT", "n BIGINT, extra TEXT")
		for name, err := range map[string]error{
			"up":    migrate.Up(ctx, db, "shop", files(changed, two)),
			"check": migrate.Check(ctx, db, "shop", files(changed)),
		} {
			if !errors.Is(err, migrate.ErrChanged) || !strings.Contains(err.Error(), "1_step.sql") {
				t.Errorf("%s: %v", name, err)
			}
		}
		must(t, migrate.Up(ctx, db, "shop", files(strings.ReplaceAll(one, "\n", "\r\n")))) // a checkout's line ends
		must(t, migrate.Down(ctx, db, "shop", files(one)))
		must(t, migrate.Up(ctx, db, "shop", files(changed))) // not applied, so free to change
	})
}

func TestFailedMigrationLeavesNothing(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		if err := migrate.Up(ctx, db, "shop", files(one, two, bad)); err == nil {
			t.Fatal("a bad migration was applied")
		}
		if _, err := db.Write.ExecContext(ctx, `SELECT * FROM three`); err == nil {
			t.Fatal("half a migration stayed")
		}
		must(t, migrate.Up(ctx, db, "shop", files(one, two)))
	})
}

// Replicas that start together.
func TestReplicasWaitForEachOther(t *testing.T) {
	url := pgtest.URL(t)
	var wg sync.WaitGroup
	for range 6 {
		db, err := pgxdb.Open(t.Context(), url, &pgxdb.Config{MaxConns: 3})
		must(t, err)
		defer db.Close()
		wg.Go(func() {
			if err := migrate.Up(t.Context(), db, "shop", files(one, two)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestLockIsBoundedByTheContext(t *testing.T) {
	db := pgtest.DB(t)
	must(t, migrate.Up(t.Context(), db, "shop", files(one)))
	holder, err := db.Write.Conn(t.Context())
	must(t, err)
	defer holder.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = holder.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, migrate.LockID("shop")) // another replica
	must(t, err)
	done := make(chan error)
	go func() { done <- migrate.Up(ctx, db, "shop", files(one, two)) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestPrintAndNames(t *testing.T) {
	var b bytes.Buffer
	must(t, migrate.Print(&b, "shop", files(one, two)))
	if !strings.Contains(b.String(), "-- set shop, file 1_step.sql\n-- +goose Up") || strings.Index(b.String(), "1_step") > strings.Index(b.String(), "2_step") {
		t.Error(b.String())
	}
	both(t, func(t *testing.T, db *sqldb.DB) {
		for _, set := range []string{"", "A", "x; DROP", "1x", strings.Repeat("x", 41)} {
			if err := migrate.Up(t.Context(), db, set, files(one)); err == nil {
				t.Errorf("set %q was accepted", set)
			}
		}
	})
}
