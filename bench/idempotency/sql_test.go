package idempotency

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// postgres starts a server of its own, with the shipped settings: fsync on.
func postgres(b *testing.B) *sqldb.DB {
	b.Helper()
	s, err := pgtest.Start("", 0)
	if errors.Is(err, pgtest.ErrNotInstalled) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	db, err := pgxdb.Open(b.Context(), s.URL("postgres"), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	prepare(b, db)
	for _, name := range []string{"fsync", "synchronous_commit", "wal_sync_method", "full_page_writes"} {
		var v string
		if err := db.Read.QueryRowContext(b.Context(), `SHOW `+name).Scan(&v); err != nil {
			b.Fatal(err)
		}
		fmt.Printf("postgres %s: %s\n", name, v)
	}
	return db
}

// lite opens a file in a folder of a disk, with the shipped settings or with
// every commit on the disk.
func lite(b *testing.B, full bool) *sqldb.DB {
	b.Helper()
	dir, err := os.MkdirTemp("", "napkin-bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	db, err := sqlitedb.Open(b.Context(), filepath.Join(dir, "b.db"), &sqlitedb.Config{FullSync: full})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	prepare(b, db)
	var mode, sync string
	if err := errors.Join(db.Write.QueryRowContext(b.Context(), `PRAGMA journal_mode`).Scan(&mode),
		db.Write.QueryRowContext(b.Context(), `PRAGMA synchronous`).Scan(&sync)); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("sqlite journal_mode: %s, synchronous: %s (1 NORMAL, 2 FULL)\n", mode, sync)
	return db
}

func prepare(b *testing.B, db *sqldb.DB) {
	b.Helper()
	if err := migrate.Up(b.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		b.Fatal(err)
	}
	for _, q := range []string{
		`CREATE TABLE orders (id BIGINT PRIMARY KEY, item TEXT NOT NULL)`,
		`CREATE TABLE keys_by_hand (key TEXT PRIMARY KEY, status INTEGER NOT NULL, body TEXT NOT NULL)`,
	} {
		if _, err := db.Write.ExecContext(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
}

var ids atomic.Int64

// insert is the effect: one row.
func insert(ctx context.Context, x sqldb.Execer) error {
	_, err := x.ExecContext(ctx, `INSERT INTO orders (id, item) VALUES ($1, $2)`, ids.Add(1), "mug-blue")
	return err
}

// created is the answer of every handler here.
func created() idempotency.Response {
	return idempotency.Response{
		Code: http.StatusCreated, ContentType: "application/json", Body: answer,
		Header: map[string][]string{"Location": location},
	}
}

// write is one way to write an order.
type write struct {
	name string
	once func() error
}

// writes are the ways to write an order into db.
func writes(b *testing.B, db *sqldb.DB) []write {
	b.Helper()
	ctx := b.Context()
	keys, err := sqlidempotency.New(db.Dialect, nil)
	if err != nil {
		b.Fatal(err)
	}
	store, err := sqlidempotency.NewLeased(db, nil)
	if err != nil {
		b.Fatal(err)
	}
	leases, err := idempotency.NewLeases(store, nil)
	if err != nil {
		b.Fatal(err)
	}
	key := func() idempotency.Key {
		v := "8e03978e-" + strconv.FormatInt(ids.Add(1), 10)
		return idempotency.Key{Value: v, Scope: "user:7", Operation: "POST /v1/orders", Fingerprint: idempotency.Fingerprint([]byte(order))}
	}
	bare := func() error {
		return sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error { return insert(ctx, tx) })
	}
	byHand := func() error {
		return sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, `INSERT INTO keys_by_hand VALUES ($1, 201, $2) ON CONFLICT DO NOTHING`, key().Value, string(answer))
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n != 1 {
				return fmt.Errorf("%d rows, %w", n, err)
			}
			return insert(ctx, tx)
		})
	}
	fresh := func(replayed bool, err error) error {
		if replayed {
			return errors.New("a fresh key was replayed")
		}
		return err
	}
	transactional := func(k idempotency.Key) (bool, error) {
		_, replayed, err := idempotency.Do(ctx, keys, sqldb.Std(db), k, func(ctx context.Context, tx *sql.Tx) (idempotency.Response, error) {
			return created(), insert(ctx, tx)
		})
		return replayed, err
	}
	leased := func(effect func(ctx context.Context) error) (bool, error) {
		_, replayed, err := leases.Do(ctx, key(), func(ctx context.Context) (idempotency.Response, error) {
			return created(), effect(ctx)
		})
		return replayed, err
	}
	done := key()
	return []write{
		// What the handler would do without keys.
		{"bare", bare},
		{"bare-autocommit", func() error { return insert(ctx, db.Write) }},
		// What one writes by hand: the key's row first, a conflict read as "seen". It
		// has no fingerprint, no scope, no expiry, no stored headers, and a duplicate
		// waits for as long as the first runs.
		{"by-hand", byHand},
		{"transactional", func() error { return fresh(transactional(key())) }},
		// The leased mode is for handlers without a transaction: the effect is one
		// statement that commits by itself. Around a transaction it is reported apart.
		{"leased", func() error {
			return fresh(leased(func(ctx context.Context) error { return insert(ctx, db.Write) }))
		}},
		{"leased-around-transaction", func() error { return fresh(leased(func(context.Context) error { return bare() })) }},
		{"replay", func() error { _, err := transactional(done); return err }},
	}
}

// warm prepares statements and grows files.
func warm(b *testing.B, w write) {
	b.Helper()
	for range 100 {
		if err := w.once(); err != nil {
			b.Fatal(err)
		}
	}
}

// apart runs each write by itself, one client.
func apart(b *testing.B, db *sqldb.DB) {
	for _, w := range writes(b, db) {
		b.Run(w.name, func(b *testing.B) {
			warm(b, w)
			b.ReportAllocs()
			for b.Loop() {
				if err := w.once(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// inTurns runs the writes in turns and reports each one's median as a multiple of
// the bare transaction's: a disk that is slow for a while is slow for all.
func inTurns(b *testing.B, db *sqldb.DB) {
	all := writes(b, db)
	for _, w := range all {
		warm(b, w)
	}
	took := make([][]float64, len(all))
	for b.Loop() {
		for i, w := range all {
			start := time.Now()
			if err := w.once(); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], float64(time.Since(start)))
		}
	}
	median := func(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }
	bare := median(took[0])
	b.ReportMetric(bare, "bare-ns")
	for i, w := range all[1:] {
		b.ReportMetric(median(took[i+1])/bare, w.name+"/bare")
	}
}

func BenchmarkPostgres(b *testing.B)          { apart(b, postgres(b)) }
func BenchmarkPostgresInTurns(b *testing.B)   { inTurns(b, postgres(b)) }
func BenchmarkSQLite(b *testing.B)            { apart(b, lite(b, false)) }
func BenchmarkSQLiteInTurns(b *testing.B)     { inTurns(b, lite(b, false)) }
func BenchmarkSQLiteFull(b *testing.B)        { apart(b, lite(b, true)) }
func BenchmarkSQLiteFullInTurns(b *testing.B) { inTurns(b, lite(b, true)) }
