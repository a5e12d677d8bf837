package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
)

// sqlState is how pgx (pgconn.PgError) and lib/pq tell an error's SQLSTATE.
type sqlState interface{ SQLState() string }

// sqliteCode is how modernc.org/sqlite tells an (extended) result code.
type sqliteCode interface{ Code() int }

// SQLite result codes, https://www.sqlite.org/rescode.html.
const (
	sqliteError      = 1
	sqliteBusy       = 5
	sqliteLocked     = 6
	sqliteIOErr      = 10
	sqliteFull       = 13
	sqliteCantOpen   = 14
	sqliteUnique     = 2067
	sqlitePrimaryKey = 1555
	sqliteRowID      = 2579
)

// SQLState returns the SQLSTATE of a PostgreSQL error in err's tree, or "".
func SQLState(err error) string {
	var e sqlState
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

func sqliteResult(err error) (code int, ok bool) {
	var e sqliteCode
	if errors.As(err, &e) {
		return e.Code(), true
	}
	return 0, false
}

// IsUnique reports whether err is the violation of a unique constraint or a
// primary key.
func IsUnique(err error) bool {
	if SQLState(err) == "23505" {
		return true
	}
	code, ok := sqliteResult(err)
	return ok && (code == sqliteUnique || code == sqlitePrimaryKey || code == sqliteRowID)
}

// IsNoTable reports whether err says that a table does not exist, as where its
// migrations were not applied.
func IsNoTable(err error) bool {
	if SQLState(err) == "42P01" {
		return true
	}
	// SQLite has no code of its own for it.
	code, ok := sqliteResult(err)
	return ok && code == sqliteError && strings.Contains(err.Error(), "no such table")
}

// IsRetryable reports whether err proves that the database rolled the
// transaction back for a reason that may be gone the next time: a
// serialization failure, a deadlock, a lock that was not available in time, a
// process that was silent for too long, a busy SQLite file. The whole transaction may then be run again.
//
// A lost connection is not retryable in this sense, because its transaction
// may have committed: see [IsUnavailable].
func IsRetryable(err error) bool {
	switch SQLState(err) {
	case "40001", "40P01", "55P03", "25P03", "25P04":
		return true
	}
	code, ok := sqliteResult(err)
	return ok && (code&0xff == sqliteBusy || code&0xff == sqliteLocked)
}

// IsUnavailable reports whether err says that the database could not be
// reached, was shutting down, or lacked a resource (connections, disk), as
// opposed to refusing the statement. The outcome of a commit that fails so is
// unknown. Consumers pause on such an error instead of counting it against a
// message. A context error is not counted here.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if state := SQLState(err); state != "" {
		switch state[:2] {
		case "08", "53", "58": // connection exception, insufficient resources, system error
			return true
		}
		return strings.HasPrefix(state, "57P0") // shutdown, crash, cannot connect now
	}
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return true
	}
	if code, ok := sqliteResult(err); ok {
		switch code & 0xff {
		case sqliteIOErr, sqliteFull, sqliteCantOpen:
			return true
		}
		return false
	}
	text := err.Error()
	// pgconn and database/sql say these without a type of their own.
	return strings.Contains(text, "conn closed") || strings.Contains(text, "sql: database is closed") ||
		strings.Contains(text, "failed to connect to") || strings.Contains(text, "closed pool")
}
