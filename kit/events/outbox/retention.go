package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// trim removes what was published longer than the retention ago. The relay that
// holds partition 0 does it for all.
func (r *Relay) trim(stop, ctx context.Context, s *state) error {
	now := r.cfg.Now()
	before := now.Add(-r.o.cfg.Retention).UnixMicro()
	var err error
	if r.db.Dialect == sqldb.Postgres {
		err = r.trimRing(ctx, now.UnixMicro(), before)
	} else {
		err = r.trimRows(stop, ctx, s, now.UnixMicro(), before)
	}
	if err == nil {
		err = r.thinCheckpoints(ctx, now.UnixMicro(), before)
	}
	if err != nil {
		return fmt.Errorf("outbox: trim: %w", err)
	}
	return nil
}

// thinCheckpoints keeps one for each minute of those that are a while old.
func (r *Relay) thinCheckpoints(ctx context.Context, now, before int64) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	const minute = 60_000_000
	_, err := r.db.Write.ExecContext(ctx, `DELETE FROM napkin_outbox_checkpoint WHERE created < $1 OR created < $2 AND EXISTS (
		SELECT 1 FROM napkin_outbox_checkpoint n WHERE n.first = napkin_outbox_checkpoint.first AND n.size = napkin_outbox_checkpoint.size
			AND n.topic = napkin_outbox_checkpoint.topic AND n.seq > napkin_outbox_checkpoint.seq
			AND n.created / 60000000 = napkin_outbox_checkpoint.created / 60000000)`, before-2*r.o.cfg.Retention.Microseconds(), now-10*minute)
	return err
}

// highSQL is the highest id of each partition in a segment, in the order of the
// partitions: 64 looks into its index.
const highSQL = `SELECT n AS part, coalesce((SELECT max(id) FROM napkin_outbox_%[1]d WHERE part = n), 0) AS id FROM generate_series(0, 63) AS n`

// sealSQL notes a segment as published up to its present end, unless that is noted
// already or it holds something that is not published. Where no hole lies below
// its end, nothing can appear there later.
var sealSQL = perSegment(`WITH high AS (` + highSQL + `), text AS (SELECT json_agg(id ORDER BY part)::text AS high FROM high)
UPDATE napkin_outbox_segment AS s SET published = $1, high = text.high FROM text
WHERE s.segment = %[1]d AND (s.published = 0 OR s.high <> text.high)
	AND NOT EXISTS (SELECT 1 FROM high JOIN napkin_outbox_cursor c USING (part) WHERE high.id > c.cursor_id)
	AND NOT EXISTS (SELECT 1 FROM high JOIN napkin_outbox_hole h USING (part) WHERE high.id >= h.lo)
	AND NOT EXISTS (SELECT 1 FROM high JOIN napkin_outbox_behind b USING (part) WHERE high.id > b.cursor_id)
	AND NOT EXISTS (SELECT 1 FROM high JOIN napkin_outbox_stalled x USING (part) WHERE high.id >= x.id)`)

// dueSQL finds a segment that was published long enough ago and holds something,
// and keeps a relay that goes back from doing so meanwhile.
var dueSQL = perSegment(`SELECT 1 FROM napkin_outbox_segment WHERE segment = %[1]d AND published > 0 AND published <= $1
	AND EXISTS (SELECT 1 FROM napkin_outbox_%[1]d) FOR UPDATE`)

// unchangedSQL says whether the segment still ends where it did when it was noted.
var unchangedSQL = perSegment(`WITH high AS (` + highSQL + `)
SELECT s.high = (SELECT json_agg(id ORDER BY part)::text FROM high) FROM napkin_outbox_segment s WHERE s.segment = %[1]d`)

// trimRing empties the segments that were published before the given time.
func (r *Relay) trimRing(ctx context.Context, now, before int64) error {
	for i := range segments {
		err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, `SET LOCAL jit = off`); err != nil { // see ReadBacklog
				return err
			}
			_, err := tx.ExecContext(ctx, sealSQL[i], now)
			return err
		})
		if err != nil {
			return err
		}
		err = r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error { return emptySegment(ctx, tx, i, now, before) })
		if sqldb.SQLState(err) == lockNotAvailable {
			r.cfg.Logger.DebugContext(ctx, "outbox: a segment is in use; it is emptied later", "segment", i)
			continue
		}
		if err != nil {
			return fmt.Errorf("empty segment %d: %w", i, err)
		}
	}
	return nil
}

const lockNotAvailable = "55P03"

// emptySegment truncates a segment if, under a lock that keeps every writer and
// reader out, it is as it was when all of it was published. The lock is waited for
// so briefly because others queue behind who waits.
func emptySegment(ctx context.Context, tx *sql.Tx, segment int, now, before int64) error {
	var ok bool
	err := tx.QueryRowContext(ctx, dueSQL[segment], before).Scan(new(int))
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `SET LOCAL lock_timeout = '50ms'; SET LOCAL jit = off`); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`LOCK TABLE napkin_outbox_%d IN ACCESS EXCLUSIVE MODE`, segment)); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, unchangedSQL[segment]).Scan(&ok); err != nil || !ok {
		return err // written to meanwhile: it is noted anew
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`TRUNCATE napkin_outbox_%d`, segment)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE napkin_outbox_segment SET published = 0, high = '', emptied = $1 WHERE segment = $2`, now, segment)
	return err
}

// trimRows deletes rows on SQLite, a bounded batch at a time; the file's free
// pages are used again. Rows up to a point are noted as published sixteen times
// within the retention.
func (r *Relay) trimRows(stop, ctx context.Context, s *state, now, before int64) error {
	const batchRows = 1000
	upTo := s.frontierOfAll()
	var high int64
	err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO napkin_outbox_segment (segment, published, high, emptied)
			SELECT coalesce(max(segment), 0) + 1, $1, $2, 0 FROM napkin_outbox_segment
			HAVING coalesce(max(CASE WHEN segment > 0 THEN published END), 0) <= $3
				AND coalesce(max(CASE WHEN published > 0 THEN CAST(high AS INTEGER) END), 0) < $2`,
			now, upTo, now-r.o.cfg.Retention.Microseconds()/16)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT coalesce(max(CAST(high AS INTEGER)), 0) FROM napkin_outbox_segment
			WHERE segment > 0 AND published BETWEEN 1 AND $1`, before).Scan(&high)
	})
	if err != nil || high == 0 {
		return err
	}
	high = min(high, upTo)
	for stop.Err() == nil {
		done := false
		err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, `DELETE FROM napkin_outbox WHERE id IN (SELECT id FROM napkin_outbox WHERE id <= $1 ORDER BY id LIMIT $2)`, high, batchRows)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			if n > 0 {
				if _, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_segment SET emptied = $1 WHERE segment = 0`, now); err != nil {
					return err
				}
			}
			if done = n < batchRows; done {
				_, err = tx.ExecContext(ctx, `DELETE FROM napkin_outbox_segment WHERE segment > 0 AND published <= $1`, before)
			}
			return err
		})
		if err != nil || done {
			return err
		}
	}
	return nil
}

// frontierOfAll is the id on SQLite up to which everything is published, as
// recorded.
func (s *state) frontierOfAll() int64 {
	upTo := s.parts[0].cursor
	for _, x := range s.behind {
		upTo = min(upTo, x.at[0])
	}
	for _, x := range s.stalled {
		upTo = min(upTo, x.id-1)
	}
	return upTo
}
