package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// blockRecord is how napkin_outbox_block is written; see Relay.records.
type blockRecord struct {
	F int    `json:"f"`
	N int    `json:"n"`
	E int64  `json:"e"`
	C string `json:"c"`
	S string `json:"s"`
}

var blockColumns = []string{"f bigint", "n bigint", "e bigint", "c text", "s text"}

type holeRecord struct {
	Part  int   `json:"part"`
	Lo    int64 `json:"lo"`
	Hi    int64 `json:"hi"`
	Bound int64 `json:"bound"`
}

var holeColumns = []string{"part bigint", "lo bigint", "hi bigint", "bound bigint"}

func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // only numbers and strings are given
	}
	return string(text)
}

// record commits how far the blocks are published, and lets go of those that
// another relay has taken over. Nothing is written where nothing has changed.
func (l *leader) record(ctx context.Context, s *state, out *outcome) error {
	due := l.dueCheckpoints(s)
	if len(s.blocks) == 0 || !s.dirty && out.empty() && len(due) == 0 && !s.behindChanged() {
		return nil
	}
	r := l.r
	if f := r.cfg.Hooks.BeforeCursor; f != nil {
		f(ctx, s.passed)
	}
	recs := make([]blockRecord, len(s.blocks))
	for i, b := range s.blocks {
		cursors := make([]int64, b.size)
		for n := range cursors {
			cursors[n] = s.parts[b.first+n].cursor
		}
		recs[i] = blockRecord{b.first, b.size, b.epoch, jsonText(cursors), jsonText(b.streams)}
	}
	var bound int64
	ours := make(map[int]bool)
	update := func(ctx context.Context, q querier) error {
		xid := `0`
		if r.db.Dialect == sqldb.Postgres {
			xid = `pg_current_xact_id()::text::bigint`
		}
		return each(ctx, q, func(rows *sql.Rows) error {
			var first int
			err := rows.Scan(&first, &bound)
			ours[first] = true
			return err
		}, `UPDATE napkin_outbox_block SET cursors = x.c, streams = x.s FROM `+r.records(blockColumns...)+`
			WHERE first = x.f AND size = x.n AND epoch = x.e RETURNING first, `+xid, jsonText(recs))
	}
	var closed, opened []holeRecord
	for i, p := range s.parts {
		if p != nil && !slices.Equal(p.holes, p.kept) {
			closed, opened = diffHoles(i, p.kept, p.holes, closed, opened)
		}
	}
	one := len(closed)+len(opened)+len(due) == 0 && out.empty() && !s.behindChanged()
	var err error
	if one {
		ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
		err = update(ctx, r.db.Write) // one statement, one round trip
		cancel()
	} else {
		err = r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
			if err := update(ctx, tx); err != nil {
				return err
			}
			var kept parts
			for _, b := range s.blocks {
				for i := b.first; ours[b.first] && i < b.first+b.size; i++ {
					kept = kept.with(i)
				}
			}
			w := &recording{r: r, tx: tx, kept: kept, bound: bound}
			w.holes(ctx, closed, opened)
			w.stalled(ctx, out)
			w.behind(ctx, s)
			w.checkpoints(ctx, s, out, due)
			return w.err
		})
	}
	if err != nil {
		return err
	}
	for _, b := range slices.Clone(s.blocks) {
		if !ours[b.first] {
			r.cfg.Logger.InfoContext(ctx, "outbox: another relay has taken over", "block", b.Block.String())
			l.release(ctx, s, b)
		}
	}
	for _, p := range s.parts {
		if p == nil {
			continue
		}
		for i := range p.holes {
			if p.holes[i].bound == 0 {
				p.holes[i].bound = bound
			}
		}
		p.kept = slices.Clone(p.holes)
	}
	for _, d := range due {
		d.block.checkpoints[d.topic] = checkpoint{d.seq, r.cfg.Now().UnixMicro()}
	}
	for _, x := range s.behind {
		x.changed = false
	}
	passed := s.passed
	s.caughtUp, s.dirty, s.passed, s.recorded = nil, false, 0, time.Now()
	if len(out.resolved)+len(out.failed)+len(out.waiting) > 0 {
		reading, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
		defer cancel()
		if err := s.reloadStalled(reading, r.db.Write); err != nil {
			return err
		}
	}
	if f := r.cfg.Hooks.AfterCursor; f != nil {
		f(ctx, passed)
	}
	return nil
}

func (s *state) behindChanged() bool {
	for _, x := range s.behind {
		if x.changed {
			return true
		}
	}
	return len(s.caughtUp) > 0
}

// diffHoles adds what makes the database's holes of a partition those in memory.
func diffHoles(part int, kept, now []hole, closed, opened []holeRecord) (_, _ []holeRecord) {
	for _, h := range kept {
		if !slices.Contains(now, h) {
			closed = append(closed, holeRecord{part, h.lo, h.hi, h.bound})
		}
	}
	for _, h := range now {
		if !slices.Contains(kept, h) {
			opened = append(opened, holeRecord{part, h.lo, h.hi, h.bound})
		}
	}
	return closed, opened
}

// recording writes what goes with the cursors, for the partitions that are still
// this relay's. It does nothing after the first failure.
type recording struct {
	r     *Relay
	tx    *sql.Tx
	kept  parts
	bound int64
	err   error
}

func write[T any](ctx context.Context, w *recording, recs []T, query string) {
	if w.err == nil && len(recs) > 0 {
		_, w.err = w.tx.ExecContext(ctx, query, jsonText(recs))
	}
}

// holes stores the changes. The bound of a new hole is this transaction's own
// xid: every writer that holds an id of its partition there took its xid before
// that id, and that id before a higher one was seen, so its xid is lower. (The
// snapshot's xmax would not do: it is the next xid after the latest that
// *completed*, and a writer still running may be above it.)
func (w *recording) holes(ctx context.Context, closed, opened []holeRecord) {
	gone := func(h holeRecord) bool { return !w.kept.has(h.Part) }
	closed, opened = slices.DeleteFunc(closed, gone), slices.DeleteFunc(opened, gone)
	for i := range opened {
		if opened[i].Bound == 0 {
			opened[i].Bound = w.bound
		}
	}
	table := w.r.records(holeColumns...)
	write(ctx, w, closed, `DELETE FROM napkin_outbox_hole WHERE (part, lo) IN (SELECT x.part, x.lo FROM `+table+`)`)
	write(ctx, w, opened, `INSERT INTO napkin_outbox_hole (part, lo, hi, bound) SELECT x.part, x.lo, x.hi, x.bound FROM `+table)
}

type stalledRecord struct {
	Part     int    `json:"part"`
	ID       int64  `json:"id"`
	Topic    string `json:"topic"`
	Key      string `json:"key"`
	Attempts int    `json:"attempts"`
	RetryAt  int64  `json:"retry_at"`
	Cause    string `json:"cause"`
}

var stalledColumns = []string{"part bigint", "id bigint", "topic text", "key text", "attempts bigint", "retry_at bigint", "cause text"}

func (w *recording) stalled(ctx context.Context, out *outcome) {
	var resolved, again, fresh []stalledRecord
	for _, x := range out.resolved {
		if w.kept.has(x.part) {
			resolved = append(resolved, stalledRecord{Part: x.part, ID: x.id})
		}
	}
	for _, f := range out.failed {
		x := stalledRecord{f.part, f.id, f.topic, f.key, f.attempts, f.retryAt, strings.ToValidUTF8(strings.ReplaceAll(f.cause, "\x00", ""), "")}
		switch {
		case !w.kept.has(f.part):
		case f.again:
			again = append(again, x)
		default:
			fresh = append(fresh, x)
		}
	}
	for _, x := range out.waiting {
		if w.kept.has(x.part) {
			fresh = append(fresh, stalledRecord{Part: x.part, ID: x.id, Topic: x.event.Topic, Key: x.event.Key})
		}
	}
	table := w.r.records(stalledColumns...)
	write(ctx, w, resolved, `DELETE FROM napkin_outbox_stalled WHERE (part, id) IN (SELECT x.part, x.id FROM `+table+`)`)
	// Not an upsert: an operator may have discarded it meanwhile.
	write(ctx, w, again, `UPDATE napkin_outbox_stalled SET attempts = x.attempts, retry_at = x.retry_at, cause = x.cause
		FROM `+table+` WHERE napkin_outbox_stalled.part = x.part AND napkin_outbox_stalled.id = x.id`)
	// A topic that catches up may meet rows that are listed already.
	write(ctx, w, fresh, `INSERT INTO napkin_outbox_stalled (part, id, topic, key, attempts, retry_at, cause)
		SELECT x.part, x.id, x.topic, x.key, x.attempts, x.retry_at, x.cause FROM `+table+` WHERE true ON CONFLICT DO NOTHING`)
}

type behindRecord struct {
	Part  int    `json:"part"`
	Topic string `json:"topic"`
	At    int64  `json:"at"`
}

var behindColumns = []string{"part bigint", "topic text", "at bigint"}

func (w *recording) behind(ctx context.Context, s *state) {
	var over, now []behindRecord
	for i := range s.parts {
		for _, topic := range s.caughtUp {
			if w.kept.has(i) {
				over = append(over, behindRecord{Part: i, Topic: topic})
			}
		}
	}
	for topic, x := range s.behind {
		for part, at := range x.at {
			if x.changed && w.kept.has(part) {
				now = append(now, behindRecord{part, topic, at})
			}
		}
	}
	table := w.r.records(behindColumns...)
	write(ctx, w, over, `DELETE FROM napkin_outbox_behind WHERE (part, topic) IN (SELECT x.part, x.topic FROM `+table+`)`)
	write(ctx, w, now, `INSERT INTO napkin_outbox_behind (part, topic, cursor_id) SELECT x.part, x.topic, x.at FROM `+table+`
		WHERE true ON CONFLICT (part, topic) DO UPDATE SET cursor_id = excluded.cursor_id`)
}
