package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// A package with migrations is in migrationSets, or named here with the reason why not.
func TestNoSetIsForgotten(t *testing.T) {
	known := map[string]string{"internal/lease": "its tables come with each set that needs them"}
	for _, s := range migrationSets {
		known[s.pkg] = s.name
		if !strings.HasPrefix(s.name, "napkin_") {
			t.Errorf("set %s of %s does not begin with napkin_", s.name, s.pkg)
		}
	}
	root := filepath.Join("..", "..")
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			_, noMod := os.Stat(filepath.Join(path, "go.mod"))
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || noMod == nil) {
				return filepath.SkipDir // another module, or none
			}
			return nil
		}
		pkg, _, ok := strings.Cut(rel, "/migrations/")
		if ok && strings.HasSuffix(rel, ".sql") {
			seen[pkg] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range seen {
		if known[pkg] == "" {
			t.Errorf("%s has migrations, which napkin migrate does not know: add it to migrationSets", pkg)
		}
	}
	for pkg := range known {
		if !seen[pkg] {
			t.Errorf("%s has no migrations", pkg)
		}
	}
}

// Every set goes up, down without a rest, and up again to the same schema, alone and beside the others.
func TestSetsGoUpDownUp(t *testing.T) {
	sets := append(slices.Clone(migrationSets), migrationSet{lease.Set, "internal/lease", lease.Migrations})
	one := func(t *testing.T, db *sqldb.DB, sets []migrationSet) {
		up := func() {
			t.Helper()
			for _, s := range sets {
				if err := migrate.Up(t.Context(), db, s.name, s.migrations(db.Dialect)); err != nil {
					t.Fatal(err)
				}
				if err := migrate.Check(t.Context(), db, s.name, s.migrations(db.Dialect)); err != nil {
					t.Fatal(err)
				}
			}
		}
		up()
		first := schema(t, db)
		for _, s := range slices.Backward(sets) {
			if err := migrate.Down(t.Context(), db, s.name, s.migrations(db.Dialect)); err != nil {
				t.Fatal(err)
			}
		}
		for _, line := range schema(t, db) {
			if !strings.Contains(line, "napkin_nodes") && !strings.Contains(line, "napkin_leases") { // shared, so they stay
				t.Errorf("down left behind: %s", line)
			}
		}
		up()
		if second := schema(t, db); !slices.Equal(first, second) {
			t.Errorf("up again gave another schema:\n%s\nat first:\n%s", strings.Join(second, "\n"), strings.Join(first, "\n"))
		}
	}
	all := func(t *testing.T, open func(t *testing.T) *sqldb.DB) {
		for _, s := range sets {
			t.Run(s.name, func(t *testing.T) { one(t, open(t), []migrationSet{s}) })
		}
		t.Run("together", func(t *testing.T) { one(t, open(t), migrationSets) })
	}
	t.Run("sqlite", func(t *testing.T) { all(t, file) })
	t.Run("postgres", func(t *testing.T) {
		pgtest.URL(t) // keeps one server for all
		all(t, func(t *testing.T) *sqldb.DB { return pgtest.DB(t) })
	})
}

func file(t *testing.T) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "m.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// schema lists tables, columns, indexes and functions, but for those of the migrations themselves.
func schema(t *testing.T, db *sqldb.DB) []string {
	t.Helper()
	query := `SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE '%migration%' AND name NOT LIKE 'sqlite_%' ORDER BY 1`
	if db.Dialect == sqldb.Postgres {
		query = `SELECT * FROM (
SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '') AS line FROM information_schema.columns
WHERE table_schema = 'public' AND table_name NOT LIKE '%migration%'
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE '%migration%'
UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'public'
UNION ALL SELECT 'sequence ' || sequence_name FROM information_schema.sequences WHERE sequence_name NOT LIKE '%migration%'
UNION ALL SELECT 'trigger ' || tgname || ' ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal
) s ORDER BY 1`
	}
	rows, err := db.Write.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestMigrateOfAnOperator(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { migrateOfAnOperator(t, filepath.Join(t.TempDir(), "order.db")) })
	t.Run("postgres", func(t *testing.T) { migrateOfAnOperator(t, pgtest.URL(t)) })
}

func migrateOfAnOperator(t *testing.T, database string) {
	m := func(args ...string) ran {
		return napkin(t, []string{"NAPKIN_DATABASE=" + database}, append([]string{"migrate"}, args...)...)
	}
	m("up").expect(t, 2, "name the sets with --set: napkin_outbox")
	m("up", "--set", "order").expect(t, 2, "there is no set napkin_order")
	m("up", "--set", "outbox", "--set", "napkin_idempotency").expect(t, 0, "napkin_idempotency is at version")
	m("status", "--set", "outbox").expect(t, 0, "00002_outbox.sql")
	m("status").expect(t, 1, "napkin_inbox lacks a migration")
	m("down", "--set", "idempotency").expect(t, 2, "add --yes")
	m("down", "--set", "idempotency", "--yes").expect(t, 0, "napkin_idempotency is taken back")
	m("status", "--set", "idempotency").expect(t, 1, "napkin_idempotency lacks a migration")

	db, err := openDatabase(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// A service that starts now says what is missing, in the words of this program.
	if err := sqlidempotency.Check(t.Context(), db); err == nil || !strings.Contains(err.Error(), "napkin migrate up --set "+sqlidempotency.Set) {
		t.Errorf("start-up without the tables: %v", err)
	}

	// Replicas and jobs at once; a SQLite file belongs to one process.
	jobs := 1
	if db.Dialect == sqldb.Postgres {
		jobs = 4
	}
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() { m("up", "--set", "all").expect(t, 0, "napkin_saga_participant is at version") })
	}
	wg.Wait()
	m("status").expect(t, 0, "napkin_saga_participant")
	if err := sqlidempotency.Check(t.Context(), db); err != nil {
		t.Error(err)
	}

	// The service's own set, and one that was changed after it was applied.
	dir := t.TempDir()
	orders := filepath.Join(dir, "00001_orders.sql")
	write(t, orders, "-- +goose Up\nCREATE TABLE orders (id TEXT PRIMARY KEY);\n-- +goose Down\nDROP TABLE orders;\n")
	m("up", "--dir", dir).expect(t, 2, "--dir is one set")
	m("up", "--dir", dir, "--set", "order").expect(t, 0, "order is at version 1")
	write(t, orders, "-- +goose Up\nCREATE TABLE orders (id TEXT PRIMARY KEY, total BIGINT);\n-- +goose Down\nDROP TABLE orders;\n")
	m("status", "--dir", dir, "--set", "order").expect(t, 1, "was changed")
	m("up", "--dir", dir, "--set", "order").expect(t, 2, "was changed")
}

func TestMigratePrint(t *testing.T) {
	m := func(args ...string) ran { return napkin(t, nil, append([]string{"migrate", "print"}, args...)...) }
	for _, s := range migrationSets {
		m("--dialect", "postgres").expect(t, 0, "-- set "+s.name+", file 0000")
	}
	m("--dialect", "sqlite", "--set", "idempotency").expect(t, 0, "CREATE TABLE napkin_idempotency (")
	m("--dialect", "mysql").expect(t, 2, "--dialect")
	m().expect(t, 2, "--dialect")
}
