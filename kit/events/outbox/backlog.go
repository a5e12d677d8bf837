package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Backlog is what an outbox still has to publish.
type Backlog struct {
	// Unpublished counts the committed events that are not known to be
	// published, Stalled among them.
	Unpublished int
	// Stalled counts the events that were refused or wait behind one of their
	// key that was.
	Stalled int
	// OpenHoles counts the ranges of ids that the relay passed and that a
	// transaction still running may fill. Always 0 on SQLite.
	OpenHoles int
	// Oldest is when the oldest unpublished event was appended; zero where
	// there is none.
	Oldest time.Time
	// Trimmed is when published rows were last removed; zero where they never
	// were.
	Trimmed time.Time
	// SlotLag is how many bytes of the write-ahead log the replication slot of
	// package walsource keeps; 0 where there is none, on a standby and on SQLite.
	SlotLag int64
}

// Empty reports whether everything appended so far is published.
func (b Backlog) Empty() bool { return b.Unpublished == 0 && b.OpenHoles == 0 }

// An event may be in several of them: a row that appeared in a hole may be of a
// topic that is behind.
const backlogSQL = `WITH pending AS (
	SELECT o.part, o.id, o.created FROM napkin_outbox_cursor c %[1]s napkin_outbox o WHERE o.part = c.part AND o.id > c.cursor_id%[2]s
	UNION
	SELECT o.part, o.id, o.created FROM napkin_outbox_behind c %[1]s napkin_outbox o WHERE o.part = c.part AND o.id > c.cursor_id AND o.topic = c.topic%[2]s
	UNION
	SELECT o.part, o.id, o.created FROM napkin_outbox_hole c %[1]s napkin_outbox o WHERE o.part = c.part AND o.id BETWEEN c.lo AND c.hi%[2]s
	UNION
	SELECT o.part, o.id, o.created FROM napkin_outbox_stalled c %[1]s napkin_outbox o WHERE o.part = c.part AND o.id = c.id%[2]s)
SELECT (SELECT count(*) FROM pending), (SELECT min(created) FROM pending),
	(SELECT count(*) FROM napkin_outbox_hole), (SELECT count(*) FROM napkin_outbox_stalled),
	(SELECT max(emptied) FROM napkin_outbox_segment), %[3]s`

const slotLagSQL = `(SELECT coalesce(max(CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) END), 0)::bigint
	FROM pg_replication_slots WHERE database = current_database() AND slot_name LIKE 'napkin\_outbox\_%')`

// backlogQuery keeps PostgreSQL from reading all rows for the few beyond the
// cursors: it looks into the index for each partition.
func backlogQuery(d sqldb.Dialect) string {
	if d == sqldb.Postgres {
		return fmt.Sprintf(backlogSQL, `CROSS JOIN LATERAL (SELECT * FROM`, ` OFFSET 0) AS o`, slotLagSQL)
	}
	return fmt.Sprintf(backlogSQL, `CROSS JOIN`, ``, `0`)
}

// ReadBacklog reads what the outbox in db still has to publish. It needs no
// relay, so an operator's command can call it.
func ReadBacklog(ctx context.Context, db *sqldb.DB) (Backlog, error) {
	var b Backlog
	var oldest, trimmed sql.NullInt64
	tx, err := db.Read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return Backlog{}, fmt.Errorf("outbox: read the backlog: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // it wrote nothing
	if db.Dialect == sqldb.Postgres {
		// The planner overrates it, and compiling takes far longer than reading.
		_, err = tx.ExecContext(ctx, `SET LOCAL jit = off`)
	}
	if err == nil {
		err = tx.QueryRowContext(ctx, backlogQuery(db.Dialect)).Scan(&b.Unpublished, &oldest, &b.OpenHoles, &b.Stalled, &trimmed, &b.SlotLag)
	}
	if err != nil {
		return Backlog{}, fmt.Errorf("outbox: read the backlog: %w", err)
	}
	if oldest.Valid {
		b.Oldest = sqldb.FromMicros(oldest.Int64)
	}
	if trimmed.Int64 > 0 {
		b.Trimmed = sqldb.FromMicros(trimmed.Int64)
	}
	return b, nil
}

// StalledEvent is an event that the broker refused, or that waits behind one.
type StalledEvent struct {
	// RowID names it in [DiscardStalled].
	RowID                     int64
	EventID, Type, Topic, Key string
	// Attempts counts the failed publications; 0 where it only waits.
	Attempts int
	// Cause is the last failure.
	Cause string
}

const stalledSQL = `SELECT s.part, s.id, o.event_id, o.attributes, s.topic, s.key, s.attempts, s.cause
FROM napkin_outbox_stalled s JOIN napkin_outbox o ON o.part = s.part AND o.id = s.id ORDER BY o.created, s.part, s.id LIMIT $1`

// ReadStalled lists up to limit stalled events, oldest first.
func ReadStalled(ctx context.Context, db *sqldb.DB, limit int) ([]StalledEvent, error) {
	rows, err := db.Read.QueryContext(ctx, stalledSQL, limit)
	if err != nil {
		return nil, fmt.Errorf("outbox: read the stalled events: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err below tells
	var out []StalledEvent
	for rows.Next() {
		var s StalledEvent
		var part, id int64
		var attributes []byte
		if err := rows.Scan(&part, &id, &s.EventID, &attributes, &s.Topic, &s.Key, &s.Attempts, &s.Cause); err != nil {
			return nil, fmt.Errorf("outbox: read the stalled events: %w", err)
		}
		s.RowID = id*events.Partitions + part
		s.Type = attributeType(attributes)
		out = append(out, s)
	}
	return out, rows.Err()
}

// ErrNotStalled is returned by [DiscardStalled] where no stalled event has the
// id, or it only waits behind another one.
var ErrNotStalled = errors.New("outbox: no event with this id was refused")

// DiscardStalled gives up a refused event for good: it is never published, and
// the events behind it go on. It is an operator's act.
func DiscardStalled(ctx context.Context, db *sqldb.DB, rowID int64) error {
	id, part := rowID/events.Partitions, rowID%events.Partitions
	tables := []string{"napkin_outbox"}
	if db.Dialect == sqldb.Postgres {
		tables = nil
		for i := range segments {
			tables = append(tables, fmt.Sprintf("napkin_outbox_%d", i))
		}
	}
	err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM napkin_outbox_stalled WHERE part = $1 AND id = $2 AND attempts > 0`, part, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(ErrNotStalled, err)
		}
		// The event too, or a relay that goes back would find it again.
		for _, table := range tables {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE part = $1 AND id = $2`, part, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("outbox: discard: %w", err)
	}
	return nil
}
