// Package pgxdb joins sqldb to PostgreSQL through pgx: as a database/sql pool
// ([Open]), or on a pgxpool that you already have ([Pool], [DB], [Tx]).
package pgxdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Config tunes [Open]. The zero value is ready to use.
type Config struct {
	// MaxConns bounds the pool. Defaults to 8 or four for each CPU, whichever
	// is more. The sum over all replicas must stay below the server's
	// max_connections.
	MaxConns int
	// MaxConnLifetime is how long a connection is reused, so that replicas
	// move to a server that was added behind a balancer. Defaults to 1 h.
	MaxConnLifetime time.Duration
	// ConnectTimeout bounds the making of a connection where the URL does not
	// say connect_timeout. Defaults to 5 s.
	ConnectTimeout time.Duration
	// IdleInTransaction ends a transaction whose process has gone silent inside
	// it (stopped, or cut off from the server), so that its locks do not outlive
	// its leases; its next statement fails, see sqldb.IsRetryable. Rounded to
	// milliseconds. Defaults to 1 min.
	IdleInTransaction time.Duration
}

// Open opens the database that url names (a PostgreSQL URL or keyword string)
// and checks that it answers. One pool serves as both Write and Read.
func Open(ctx context.Context, url string, cfg *Config) (*sqldb.DB, error) {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	switch {
	case c.MaxConns < 0:
		return nil, fmt.Errorf("pgxdb: MaxConns %d: must not be negative", c.MaxConns)
	case c.MaxConnLifetime < 0:
		return nil, fmt.Errorf("pgxdb: MaxConnLifetime %v: must not be negative", c.MaxConnLifetime)
	case c.ConnectTimeout < 0:
		return nil, fmt.Errorf("pgxdb: ConnectTimeout %v: must not be negative", c.ConnectTimeout)
	case c.IdleInTransaction < 0:
		return nil, fmt.Errorf("pgxdb: IdleInTransaction %v: must not be negative", c.IdleInTransaction)
	}
	if c.IdleInTransaction == 0 {
		c.IdleInTransaction = time.Minute
	}
	if c.MaxConns == 0 {
		c.MaxConns = max(8, 4*runtime.NumCPU())
	}
	if c.MaxConnLifetime == 0 {
		c.MaxConnLifetime = time.Hour
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	idle := fmt.Sprintf("SET idle_in_transaction_session_timeout = %d", max(1, c.IdleInTransaction.Milliseconds()))
	pc, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("pgxdb: the database URL does not parse: %w", err) // pgx masks the password
	}
	if pc.ConnectTimeout == 0 {
		pc.ConnectTimeout = c.ConnectTimeout
	}
	// A statement, since poolers refuse start-up parameters that they do not know.
	pool := stdlib.OpenDB(*pc, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, idle)
		return err
	}))
	pool.SetMaxOpenConns(c.MaxConns)
	pool.SetMaxIdleConns(c.MaxConns)
	pool.SetConnMaxLifetime(c.MaxConnLifetime)
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("pgxdb: connect to %s at %s: %w", pc.Database, pc.Host, err), pool.Close())
	}
	return &sqldb.DB{Write: pool, Read: pool, Dialect: sqldb.Postgres}, nil
}

// DB makes a sqldb.DB on a pgxpool, for relays and coordinators that read
// through database/sql. Closing it leaves the pool open.
func DB(pool *pgxpool.Pool) *sqldb.DB {
	db := stdlib.OpenDBFromPool(pool)
	return &sqldb.DB{Write: db, Read: db, Dialect: sqldb.Postgres}
}

// Tx makes a sqldb.Tx of a pgx.Tx.
func Tx(tx pgx.Tx) sqldb.Tx { return pgxTx{tx} }

type pgxTx struct{ tx pgx.Tx }

func (t pgxTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	tag, err := t.tx.Exec(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return result{tag}, nil
}

func (t pgxTx) QueryRow(ctx context.Context, query string, args ...any) sqldb.Row {
	return pgxRow{t.tx.QueryRow(ctx, query, args...)}
}

func (t pgxTx) Query(ctx context.Context, query string, args ...any) (sqldb.Rows, error) {
	rows, err := t.tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgxRows{rows}, nil
}

type result struct{ tag pgconn.CommandTag }

func (r result) RowsAffected() (int64, error) { return r.tag.RowsAffected(), nil }
func (r result) LastInsertId() (int64, error) {
	return 0, errors.New("pgxdb: PostgreSQL has no LastInsertId; use RETURNING")
}

type pgxRow struct{ row pgx.Row }

func (r pgxRow) Scan(dest ...any) error {
	err := r.row.Scan(dest...)
	if errors.Is(err, pgx.ErrNoRows) {
		return sql.ErrNoRows
	}
	return err
}

type pgxRows struct{ pgx.Rows }

func (r pgxRows) Close() error {
	r.Rows.Close()
	return r.Err()
}

// Pool returns the Runner that hands out pgx.Tx.
func Pool(pool *pgxpool.Pool) sqldb.Runner[pgx.Tx] { return runner{pool} }

type runner struct{ pool *pgxpool.Pool }

func (r runner) Dialect() sqldb.Dialect  { return sqldb.Postgres }
func (r runner) Wrap(tx pgx.Tx) sqldb.Tx { return Tx(tx) }

func (r runner) InTx(ctx context.Context, fn func(context.Context, pgx.Tx) error) error {
	ctx, scope, err := sqldb.NewScope(ctx, r.pool)
	if err != nil {
		return err
	}
	defer scope.Discard() // a no-op after Committed
	tx, err := r.pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("pgxdb: begin: %w", err)
	}
	committed := false
	defer func() {
		// Runs on an error, a panic and runtime.Goexit alike.
		if committed {
			return
		}
		ctx, cancel := sqldb.RollbackContext(ctx)
		defer cancel()
		_ = tx.Rollback(ctx) // its failure would hide the reason for it; pgx closes the connection
	}()
	if err := fn(ctx, tx); err != nil {
		return err
	}
	if ctx.Err() != nil { // a COMMIT under an ended context would cost the connection
		if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
			return fmt.Errorf("pgxdb: not committed: %w: %w", ctx.Err(), cause)
		}
		return fmt.Errorf("pgxdb: not committed: %w", ctx.Err())
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("pgxdb: commit: %w", err)
	}
	committed = true
	scope.Committed()
	return nil
}
