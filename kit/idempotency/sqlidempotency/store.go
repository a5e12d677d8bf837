// Package sqlidempotency keeps idempotency keys in the service's own database,
// PostgreSQL or SQLite.
//
// [Store] is the transactional mode: the result is a row of the transaction that
// holds the effect. On PostgreSQL a transaction-level advisory lock keeps two
// requests with one key apart; on SQLite the write transaction, which excludes
// every other, does. In both the primary key has the last word.
//
// [Leased] is for handlers without a transaction.
//
// Apply [Migrations] first (napkin migrate up --set napkin_idempotency), which
// [Check] checks, and run [Store.Sweep] now and then to delete what
// has expired.
package sqlidempotency

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Set is the name of the migrations' set for migrate.Up.
const Set = "napkin_idempotency"

//go:embed migrations
var migrations embed.FS

// Migrations returns the tables' migrations for goose.
func Migrations(d sqldb.Dialect) fs.FS {
	sub, err := fs.Sub(migrations, "migrations/"+d.String())
	if err != nil {
		panic(err) // fs.Sub fails for an invalid path only, and ours are constant
	}
	return sub
}

// Config tunes [New] and [NewLeased]. The zero value is ready to use.
type Config struct {
	// TTL is how long a result is kept. A request that is retried later than
	// that runs again, so keep it above the longest retry, a stuck saga's
	// included. Defaults to 7 days.
	TTL time.Duration
	// MaxBody bounds a stored body, in bytes. Defaults to 64 KiB.
	// Headers are bounded to 16 KiB.
	MaxBody int
	// Wait is how long Begin waits for another transaction that works on the
	// same key, so that the caller gets the result instead of a 409. It holds a
	// connection meanwhile. Defaults to 0, not at all. On SQLite the second
	// transaction has waited already, until it could begin.
	Wait time.Duration
	// Now replaces the clock, for tests.
	Now func() time.Time
}

func (c *Config) resolve() (Config, error) {
	var r Config
	if c != nil {
		r = *c
	}
	switch {
	case r.TTL < 0:
		return r, fmt.Errorf("sqlidempotency: Config.TTL %v: must not be negative", r.TTL)
	case r.MaxBody < 0:
		return r, fmt.Errorf("sqlidempotency: Config.MaxBody %d: must not be negative", r.MaxBody)
	case r.Wait < 0:
		return r, fmt.Errorf("sqlidempotency: Config.Wait %v: must not be negative", r.Wait)
	}
	if r.TTL == 0 {
		r.TTL = 7 * 24 * time.Hour
	}
	if r.MaxBody == 0 {
		r.MaxBody = 64 << 10
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	return r, nil
}

// Store is an idempotency.TxStore. It is safe for concurrent use.
type Store struct {
	dialect sqldb.Dialect
	cfg     Config
}

var _ idempotency.TxStore = (*Store)(nil)

// New returns a store for databases of dialect d.
func New(d sqldb.Dialect, cfg *Config) (*Store, error) {
	if !d.Valid() {
		return nil, fmt.Errorf("sqlidempotency: unknown dialect %v", d)
	}
	c, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	return &Store{dialect: d, cfg: c}, nil
}

// Begin takes the key for the rest of the transaction: see [idempotency.TxStore].
// Call it before the effect.
func (s *Store) Begin(ctx context.Context, tx sqldb.Tx, k idempotency.Key) (*idempotency.Response, error) {
	if err := k.Validate(); err != nil {
		return nil, err
	}
	if s.dialect != sqldb.Postgres {
		return s.read(ctx, tx, k)
	}
	const firstPause, maxPause = 2 * time.Millisecond, 50 * time.Millisecond
	var deadline time.Time
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		var mine bool
		err := tx.QueryRow(ctx, `SELECT napkin_idempotency_begin($1, $2, $3, $4, $5)`,
			lockID(k), k.Scope, k.Operation, k.Value, sqldb.Micros(s.cfg.Now())).Scan(&mine)
		if err != nil {
			return nil, failed("take the key", err)
		}
		if mine {
			return nil, nil
		}
		if stored, err := s.read(ctx, tx, k); err != nil || stored != nil {
			return stored, err
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(s.cfg.Wait)
		}
		if !time.Now().Add(pause).Before(deadline) {
			return nil, idempotency.ErrInProgress
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("sqlidempotency: wait for the key: %w", ctx.Err())
		case <-t.C:
		}
	}
}

// lockID is the advisory lock's number: 64 bits of a hash, in which two keys of
// one moment practically never meet, and if they did one would see a 409.
func lockID(k idempotency.Key) int64 {
	h := idempotency.Fingerprint([]byte("napkin idempotency"), []byte(k.Scope), []byte(k.Operation), []byte(k.Value))
	return int64(binary.BigEndian.Uint64(h[:8])) //nolint:gosec // any 64 bits will do
}

// querier is a transaction, or a pool outside of any.
type querier interface {
	QueryRow(ctx context.Context, query string, args ...any) sqldb.Row
}

type pool struct{ *sql.DB }

func (p pool) QueryRow(ctx context.Context, query string, args ...any) sqldb.Row {
	return p.QueryRowContext(ctx, query, args...)
}

// read returns the stored response; nil where there is none.
func (s *Store) read(ctx context.Context, tx querier, k idempotency.Key) (*idempotency.Response, error) {
	row := tx.QueryRow(ctx, `SELECT fingerprint, code, header, content_type, body FROM napkin_idempotency
WHERE scope = $1 AND operation = $2 AND key = $3 AND expires > $4`, k.Scope, k.Operation, k.Value, sqldb.Micros(s.cfg.Now()))
	var found found
	err := row.Scan(&found.fingerprint, &found.r.Code, &found.header, &found.r.ContentType, &found.r.Body)
	return found.response(err, k)
}

// found is what a row holds.
type found struct {
	fingerprint, header []byte
	r                   idempotency.Response
}

// response makes the stored response of what was scanned with err; nil where there
// was no row.
func (f *found) response(err error, k idempotency.Key) (*idempotency.Response, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("read the key", err)
	}
	if !bytes.Equal(f.fingerprint, k.Fingerprint) {
		return nil, idempotency.ErrMismatch
	}
	if err := json.Unmarshal(f.header, &f.r.Header); err != nil {
		return nil, fmt.Errorf("sqlidempotency: the stored header of key %q of operation %q does not parse; delete its row to let the request run again: %w", k.Value, k.Operation, err)
	}
	return &f.r, nil
}

// failed names what is missing where a statement failed for want of a migration.
func failed(what string, err error) error {
	const noFunction = "42883"
	if sqldb.IsNoTable(err) || sqldb.SQLState(err) == noFunction {
		return fmt.Errorf("sqlidempotency: %s: a migration of the set "+Set+" is missing: apply it with \"napkin migrate up --set "+Set+"\" or migrate.Up(ctx, db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)): %w", what, err)
	}
	return fmt.Errorf("sqlidempotency: %s: %w", what, err)
}

// Check returns an error that names the missing migration and the command that
// applies it, where the tables are not there. Call it when the service starts;
// requests meet the same error otherwise. Any other failure of the database is
// returned too.
func Check(ctx context.Context, db *sqldb.DB) error {
	queries := []string{
		`SELECT count(*) FROM (SELECT 1 FROM napkin_idempotency LIMIT 1) t`,
		`SELECT count(*) FROM (SELECT 1 FROM napkin_idempotency_leased LIMIT 1) t`,
	}
	if db.Dialect == sqldb.Postgres {
		queries = append(queries, `SELECT count('napkin_idempotency_begin(bigint,text,text,text,bigint)'::regprocedure)`)
	}
	for _, q := range queries {
		var n int
		if err := db.Write.QueryRowContext(ctx, q).Scan(&n); err != nil {
			return failed("check the tables", err)
		}
	}
	return nil
}

// Complete stores the result: see [idempotency.TxStore].
func (s *Store) Complete(ctx context.Context, tx sqldb.Execer, k idempotency.Key, r idempotency.Response) error {
	if err := k.Validate(); err != nil {
		return err
	}
	header, err := s.cfg.encode(r)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	res, err := tx.ExecContext(ctx, `INSERT INTO napkin_idempotency AS have
(scope, operation, key, fingerprint, code, header, content_type, body, expires)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (scope, operation, key) DO UPDATE SET fingerprint = excluded.fingerprint, code = excluded.code,
header = excluded.header, content_type = excluded.content_type, body = excluded.body, expires = excluded.expires
WHERE have.expires <= $10`,
		k.Scope, k.Operation, k.Value, k.Fingerprint, r.Code, header, r.ContentType, nonNil(r.Body),
		sqldb.Micros(now.Add(s.cfg.TTL)), sqldb.Micros(now))
	if err != nil {
		return failed("store the result", err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return fmt.Errorf("sqlidempotency: store the result: %w", err)
	} else if n == 0 {
		return idempotency.ErrInProgress
	}
	return nil
}

// maxHeader bounds the stored headers, in bytes.
const maxHeader = 16 << 10

// encode checks the bounds of a response and returns its header as it is stored.
func (c *Config) encode(r idempotency.Response) ([]byte, error) {
	if len(r.Body) > c.MaxBody {
		return nil, fmt.Errorf("%w: %d bytes, Config.MaxBody is %d", idempotency.ErrTooLarge, len(r.Body), c.MaxBody)
	}
	if len(r.Header) == 0 {
		return []byte("null"), nil
	}
	header, err := json.Marshal(r.Header)
	if err != nil {
		return nil, fmt.Errorf("sqlidempotency: encode the header: %w", err)
	}
	if len(header) > maxHeader {
		return nil, fmt.Errorf("%w: its headers have %d bytes, %d are stored", idempotency.ErrTooLarge, len(header), maxHeader)
	}
	return header, nil
}

// nonNil keeps an empty body from being stored as NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Peek returns the stored response, or nil: see [idempotency.TxStore].
func (s *Store) Peek(ctx context.Context, db *sqldb.DB, k idempotency.Key) (*idempotency.Response, error) {
	if err := k.Validate(); err != nil {
		return nil, err
	}
	return s.read(ctx, pool{db.Read}, k)
}

// sweepBatch bounds the rows that one statement of a sweep deletes, and so how
// long it holds its locks.
const sweepBatch = 1000

// Sweep deletes results that have expired, in small transactions, and returns
// how many.
func (s *Store) Sweep(ctx context.Context, db *sqldb.DB) (int, error) {
	return sweep(ctx, db, "napkin_idempotency", "expires <= "+strconv.FormatInt(sqldb.Micros(s.cfg.Now()), 10))
}

func sweep(ctx context.Context, db *sqldb.DB, table, expired string) (int, error) {
	var total int
	for {
		res, err := db.Write.ExecContext(ctx, `DELETE FROM `+table+` WHERE (scope, operation, key) IN
(SELECT scope, operation, key FROM `+table+` WHERE `+expired+` ORDER BY expires LIMIT $1) AND `+expired, sweepBatch)
		if err != nil {
			return total, fmt.Errorf("sqlidempotency: sweep: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return total, fmt.Errorf("sqlidempotency: sweep: %w", err)
		}
		total += int(n)
		if n < sweepBatch {
			return total, nil
		}
	}
}
