package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// batch is what one pass read.
type batch struct {
	retries []row // stalled rows whose time has come
	rows    []row // rows not seen before, by id: those that filled holes, then those past the cursor
	cursor  int64
	holes   []hole // what remains of the known holes
	opened  []hole // new ones, without a bound yet
	full    bool   // there may be more to read at once
}

// pass reads a batch, publishes it and records how far it came. stop ends it
// between two publications.
func (r *Relay) pass(stop, ctx context.Context, s *state) (more bool, err error) {
	b, err := r.read(ctx, s)
	if err != nil {
		return false, fmt.Errorf("outbox: read: %w", err)
	}
	out, err := r.publish(stop, ctx, s, b)
	if err != nil {
		return false, err
	}
	if out.regressed != "" {
		return true, r.checkStream(ctx, s, out.regressed, out.regressedTo)
	}
	if err := r.record(ctx, s, b, out); err != nil {
		return false, fmt.Errorf("outbox: record: %w", err)
	}
	return b.full || len(out.resolved) > 0, nil
}

func (r *Relay) read(ctx context.Context, s *state) (*batch, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	b := &batch{cursor: s.cursor, holes: s.holes}
	if len(s.stalled) > 0 {
		// An operator may have discarded some.
		if err := s.loadStalled(ctx, r.db.Read); err != nil {
			return nil, err
		}
		if err := r.readRetries(ctx, s, b); err != nil {
			return nil, err
		}
	}
	// Three statements see three snapshots, so their order matters.
	//
	// The fence comes before the holes: a transaction that it counts as ended has
	// ended for the later statement too, so its rows are visible there.
	//
	// The holes come after the rows past the cursor: a row in a hole that
	// committed before one of those of the same key is then seen as well. The
	// other way round, both could commit in between, and the later one overtake.
	var fence int64
	if len(s.holes) > 0 {
		err := r.db.Read.QueryRowContext(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint`).Scan(&fence)
		if err != nil {
			return nil, err
		}
	}
	if len(s.stalled) < r.cfg.MaxStalled {
		if err := r.readAhead(ctx, b); err != nil {
			return nil, err
		}
	}
	if len(s.holes) > 0 {
		if err := r.readHoles(ctx, s, b, fence); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// readAhead reads the rows past the cursor and notes the ids between them.
func (r *Relay) readAhead(ctx context.Context, b *batch) error {
	n := 0
	err := each(ctx, r.db.Read, func(rows *sql.Rows) error {
		x, err := scanRow(rows)
		if err != nil {
			return err
		}
		if x.id > b.cursor+1 && r.db.Dialect == sqldb.Postgres {
			b.opened = append(b.opened, hole{lo: b.cursor + 1, hi: x.id - 1})
		}
		b.rows = append(b.rows, x)
		b.cursor = x.id
		n++
		return nil
	}, `SELECT `+rowColumns+` FROM napkin_outbox o WHERE o.id > $1 ORDER BY o.id LIMIT $2`, b.cursor, r.cfg.BatchSize)
	b.full = n == r.cfg.BatchSize
	return err
}

// readHoles reads the rows that have appeared in holes and forgets the holes
// that nothing can fill any more.
func (r *Relay) readHoles(ctx context.Context, s *state, b *batch, fence int64) error {
	var filled []row
	err := each(ctx, r.db.Read, func(rows *sql.Rows) error {
		x, err := scanRow(rows)
		if err == nil {
			filled = append(filled, x)
		}
		return err
	}, `SELECT `+rowColumns+` FROM napkin_outbox_hole h JOIN napkin_outbox o ON o.id BETWEEN h.lo AND h.hi
		ORDER BY o.id LIMIT $1`, r.cfg.BatchSize)
	if err != nil {
		return err
	}
	complete := len(filled) < r.cfg.BatchSize
	ids := make([]int64, len(filled))
	for i, x := range filled {
		ids[i] = x.id
	}
	b.holes = remaining(s.holes, ids, func(h hole) bool { return complete && fence >= h.bound })
	if !complete {
		// What was not read may come before rows past the cursor: those wait.
		b.rows, b.opened, b.cursor, b.full = filled, nil, s.cursor, true
		return nil
	}
	b.rows = append(filled, b.rows...)
	return nil
}

// remaining returns what is left of holes (ascending) once the ids (ascending)
// have appeared and the rest of a hole for which forget holds is given up.
func remaining(holes []hole, ids []int64, forget func(hole) bool) []hole {
	var out []hole
	for _, h := range holes {
		gone := forget(h)
		lo := h.lo
		for len(ids) > 0 && ids[0] <= h.hi {
			if ids[0] > lo && !gone {
				out = append(out, hole{lo, ids[0] - 1, h.bound})
			}
			lo = ids[0] + 1
			ids = ids[1:]
		}
		if lo <= h.hi && !gone {
			out = append(out, hole{lo, h.hi, h.bound})
		}
	}
	return out
}

// maxRetries bounds the stalled rows that one pass tries.
const maxRetries = 100

func (r *Relay) readRetries(ctx context.Context, s *state, b *batch) error {
	now := r.cfg.Now().UnixMicro()
	due := make(map[orderKey]bool)
	var ids []any
	for _, x := range s.stalled { // by id, so the first of a key comes first
		k := x.orderKey()
		if _, seen := due[k]; !seen {
			due[k] = x.retryAt <= now
		}
		if due[k] && len(ids) < maxRetries {
			ids = append(ids, x.id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	marks := make([]string, len(ids))
	for i := range ids {
		marks[i] = fmt.Sprintf("$%d", i+1)
	}
	return each(ctx, r.db.Read, func(rows *sql.Rows) error {
		x, err := scanRow(rows)
		if err == nil {
			b.retries = append(b.retries, x)
		}
		return err
	}, `SELECT `+rowColumns+` FROM napkin_outbox o WHERE o.id IN (`+strings.Join(marks, ",")+`) ORDER BY o.id`, ids...)
}

// record commits what a pass did. Nothing is written where it did nothing.
func (r *Relay) record(ctx context.Context, s *state, b *batch, out *outcome) error {
	sameHoles := slices.Equal(s.holes, b.holes)
	checkpoints := r.dueCheckpoints(s)
	if b.cursor == s.cursor && sameHoles && len(out.resolved)+len(out.failed)+len(out.waiting) == 0 && len(out.topics) == 0 && len(checkpoints) == 0 {
		return nil
	}
	if f := r.cfg.Hooks.BeforeCursor; f != nil {
		f(ctx, b.cursor)
	}
	next := *s
	next.cursor = b.cursor
	next.holes = slices.Clone(b.holes)
	err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_relay SET cursor_id = $1 WHERE name = 'outbox' AND epoch = $2`, b.cursor, s.epoch)
		if err := fenced(res, err); err != nil {
			return err
		}
		if !sameHoles {
			if err := replaceHoles(ctx, tx, s.holes, b.holes); err != nil {
				return err
			}
		}
		if len(b.opened) > 0 {
			if err := openHoles(ctx, tx, b.opened, &next); err != nil {
				return err
			}
		}
		if len(out.resolved)+len(out.failed)+len(out.waiting) > 0 {
			if err := r.recordStalled(ctx, tx, out); err != nil {
				return err
			}
			if err := next.loadStalled(ctx, tx); err != nil {
				return err
			}
		}
		return r.recordMarks(ctx, tx, &next, out.topics, checkpoints)
	})
	if err != nil {
		return err
	}
	r.checkpointed(s, checkpoints)
	*s = next
	if f := r.cfg.Hooks.AfterCursor; f != nil {
		f(ctx, b.cursor)
	}
	return nil
}

func replaceHoles(ctx context.Context, tx *sql.Tx, old, now []hole) error {
	for _, h := range old {
		if !slices.Contains(now, h) {
			if _, err := tx.ExecContext(ctx, `DELETE FROM napkin_outbox_hole WHERE lo = $1`, h.lo); err != nil {
				return err
			}
		}
	}
	for _, h := range now {
		if !slices.Contains(old, h) {
			if _, err := tx.ExecContext(ctx, `INSERT INTO napkin_outbox_hole (lo, hi, bound) VALUES ($1, $2, $3)`, h.lo, h.hi, h.bound); err != nil {
				return err
			}
		}
	}
	return nil
}

// openHoles stores new holes. Their bound is this transaction's own xid: every
// writer that holds an id of theirs took its xid before that id, and that id
// before a higher one was seen, so its xid is lower. (The snapshot's xmax would
// not do: it is the next xid after the latest that *completed*, and a writer
// still running may be above it.)
func openHoles(ctx context.Context, tx *sql.Tx, opened []hole, next *state) error {
	var bound int64
	if err := tx.QueryRowContext(ctx, `SELECT pg_current_xact_id()::text::bigint`).Scan(&bound); err != nil {
		return err
	}
	for _, h := range opened {
		h.bound = bound
		if _, err := tx.ExecContext(ctx, `INSERT INTO napkin_outbox_hole (lo, hi, bound) VALUES ($1, $2, $3)`, h.lo, h.hi, h.bound); err != nil {
			return err
		}
		next.holes = append(next.holes, h)
	}
	return nil
}

func (r *Relay) recordStalled(ctx context.Context, tx *sql.Tx, out *outcome) error {
	for _, id := range out.resolved {
		if _, err := tx.ExecContext(ctx, `DELETE FROM napkin_outbox_stalled WHERE id = $1`, id); err != nil {
			return err
		}
	}
	const insert = `INSERT INTO napkin_outbox_stalled (id, topic, key, attempts, retry_at, cause) VALUES ($1, $2, $3, $4, $5, $6)`
	for _, f := range out.failed {
		var err error
		if f.again {
			// Not an upsert: an operator may have discarded it meanwhile.
			_, err = tx.ExecContext(ctx, `UPDATE napkin_outbox_stalled SET attempts = $2, retry_at = $3, cause = $4 WHERE id = $1`, f.id, f.attempts, f.retryAt, f.cause)
		} else {
			_, err = tx.ExecContext(ctx, insert, f.id, f.topic, f.key, f.attempts, f.retryAt, f.cause)
		}
		if err != nil {
			return err
		}
	}
	for _, w := range out.waiting {
		if _, err := tx.ExecContext(ctx, insert, w.id, w.event.Topic, w.event.Key, 0, 0, ""); err != nil {
			return err
		}
	}
	return nil
}

// trim removes published rows past the retention, a bounded batch at a time.
// Nothing at or above an open hole or a stalled row is touched.
func (r *Relay) trim(stop, ctx context.Context, s *state) error {
	const batchRows = 1000
	before := r.cfg.Now().Add(-r.cfg.Retention).UnixMicro()
	for stop.Err() == nil {
		n, err := r.trimBatch(ctx, s, before, batchRows)
		if err != nil {
			return fmt.Errorf("outbox: trim: %w", err)
		}
		if n == 0 {
			break
		}
	}
	return nil
}

func (r *Relay) trimBatch(ctx context.Context, s *state, before int64, limit int) (int64, error) {
	var upTo, n int64
	err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// The inner query reads the oldest rows only, however many are kept.
		err := tx.QueryRowContext(ctx, `SELECT id FROM (
				SELECT id, created FROM napkin_outbox WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3) AS oldest
			WHERE created < $4 ORDER BY id DESC LIMIT 1`, s.trimmed, s.frontier(), limit, before).Scan(&upTo)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_relay SET trimmed = $1 WHERE name = 'outbox' AND epoch = $2`, upTo, s.epoch)
		if err := fenced(res, err); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM napkin_outbox_checkpoint WHERE created < $1`, before); err != nil {
			return err
		}
		res, err = tx.ExecContext(ctx, `DELETE FROM napkin_outbox WHERE id > $1 AND id <= $2`, s.trimmed, upTo)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	if err == nil && upTo > s.trimmed {
		s.trimmed = upTo
	}
	return n, err
}

// isRejected reports whether a failure is about the one event.
func isRejected(err error) bool { return errors.Is(err, events.ErrRejected) }
