package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Dialect names the database a statement is meant for.
type Dialect int

const (
	// Postgres is PostgreSQL 13 or newer.
	Postgres Dialect = iota + 1
	// SQLite is SQLite 3.42 or newer (RETURNING, subsecond clock).
	SQLite
)

// String returns "postgres" or "sqlite".
func (d Dialect) String() string {
	switch d {
	case Postgres:
		return "postgres"
	case SQLite:
		return "sqlite"
	default:
		return fmt.Sprintf("sqldb.Dialect(%d)", int(d))
	}
}

// Valid reports whether d is one of the known dialects.
func (d Dialect) Valid() bool { return d == Postgres || d == SQLite }

// ForUpdate returns the clause that locks the rows of a SELECT, with a leading
// space: " FOR UPDATE" on PostgreSQL, nothing on SQLite, whose write
// transaction already excludes every other writer.
func (d Dialect) ForUpdate() string {
	if d == Postgres {
		return " FOR UPDATE"
	}
	return ""
}

// ForUpdateSkipLocked is [Dialect.ForUpdate] for queues: rows that another
// transaction holds are left out instead of waited for.
func (d Dialect) ForUpdateSkipLocked() string {
	if d == Postgres {
		return " FOR UPDATE SKIP LOCKED"
	}
	return ""
}

// Execer executes a statement; it is all that is needed to write into a caller's
// transaction. *sql.Tx and pgxdb.Tx are Execers. So is *sql.DB, but it is no
// transaction: what is to commit with an effect does not belong there.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Row is the result of a query for one row.
type Row interface {
	// Scan copies the row's columns. It returns sql.ErrNoRows where there is
	// no row, whichever driver is beneath.
	Scan(dest ...any) error
}

// Rows is the result of a query for any number of rows. Close it.
type Rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close() error
}

// Tx is a running transaction that can be read and written. Like the driver's
// own transaction, it is not safe for concurrent use.
type Tx interface {
	Execer
	QueryRow(ctx context.Context, query string, args ...any) Row
	Query(ctx context.Context, query string, args ...any) (Rows, error)
}

// StdTx makes a Tx of a *sql.Tx.
func StdTx(tx *sql.Tx) Tx { return stdTx{tx} }

type stdTx struct{ *sql.Tx }

func (t stdTx) QueryRow(ctx context.Context, query string, args ...any) Row {
	return t.QueryRowContext(ctx, query, args...)
}

func (t stdTx) Query(ctx context.Context, query string, args ...any) (Rows, error) {
	return t.QueryContext(ctx, query, args...) //nolint:rowserrcheck // the caller reads them
}

// DB is one service's database.
//
// On SQLite, Write has a single connection whose transactions begin IMMEDIATE,
// and Read is a pool of read-only connections. On PostgreSQL both are the same
// pool. A DB is safe for concurrent use; do not change its fields after it is
// shared.
type DB struct {
	Write, Read *sql.DB
	Dialect     Dialect
}

// Close closes both pools.
func (db *DB) Close() error {
	err := db.Write.Close()
	if db.Read != nil && db.Read != db.Write {
		err = errors.Join(err, db.Read.Close())
	}
	return err
}

// Ping checks that both pools reach the database.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.Write.PingContext(ctx); err != nil {
		return fmt.Errorf("sqldb: ping: %w", err)
	}
	if db.Read != nil && db.Read != db.Write {
		if err := db.Read.PingContext(ctx); err != nil {
			return fmt.Errorf("sqldb: ping the read pool: %w", err)
		}
	}
	return nil
}

// Micros returns t as Napkin's tables store it: microseconds since the Unix
// epoch.
func Micros(t time.Time) int64 { return t.UnixMicro() }

// FromMicros is the inverse of [Micros], in UTC.
func FromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// NowMicros returns the SQL expression for the database's own clock in
// microseconds since the Unix epoch. Replicas that compare times among one
// another use it, since their own clocks differ. It moves within a
// transaction. SQLite's has a resolution of a millisecond.
func (d Dialect) NowMicros() string {
	if d == Postgres {
		return "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
	}
	return "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
}
