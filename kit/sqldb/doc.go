// Package sqldb is the small vocabulary with which Napkin's packages speak to
// a service's own database: PostgreSQL or SQLite, through database/sql or pgx.
//
// It holds no driver. Open a database with one of the leaves:
//
//	db, err := sqlitedb.Open(ctx, "order.db", nil)
//	db, err := pgxdb.Open(ctx, "postgres://order@localhost/order", nil)
//
// # Writing into the caller's transaction
//
// Packages that add a row to a transaction somebody else runs (an outbox
// event, an inbox mark, an idempotency result) ask for an [Execer] only. A
// [*database/sql.Tx] is one, and pgxdb.Tx makes one of a pgx.Tx. Packages that
// also read inside it ask for a [Tx].
//
// # Opening transactions
//
// Packages that open a transaction and hand it to your code take a [Runner].
// [Std] gives the handler a *sql.Tx, pgxdb.Pool a pgx.Tx:
//
//	err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
//		if _, err := tx.ExecContext(ctx, `UPDATE orders SET …`); err != nil {
//			return err // rolls back
//		}
//		sqldb.AfterCommit(ctx, relay.Wake) // runs once the commit succeeded
//		return nil
//	})
//
// Use the ctx that the function receives for everything inside: it carries the
// transaction's after-commit list, and opening a second transaction on the same
// database with it is refused with [ErrNested] instead of deadlocking on
// SQLite's single writer.
//
// # One SQL text for two databases
//
// Statements are written once: $1 placeholders, times as BIGINT microseconds
// since the Unix epoch ([Micros], [FromMicros]), identifiers as TEXT, payloads
// as BYTEA or BLOB, ON CONFLICT DO NOTHING and RETURNING. Where the dialects
// differ, [Dialect] says how.
//
// # Errors
//
// [IsUnique], [IsRetryable] and [IsUnavailable] classify what a driver
// returned, without importing the driver.
package sqldb
