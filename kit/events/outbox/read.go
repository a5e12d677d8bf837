package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// span is a range of ids of one partition.
type span struct {
	part   int
	lo, hi int64
}

// progress is where a pass leaves one partition.
type progress struct {
	cursor int64
	holes  []hole
	full   bool
}

// batch is what one pass read.
type batch struct {
	retries []row // stalled rows whose time has come
	rows    []row // rows not seen before, by part and id
	next    map[int]*progress
	passed  int64
}

const (
	rowColumns = `o.part, o.id, o.topic, o.key, o.key_seq`

	fetchPostgresSQL = `SELECT ` + rowColumns + `, o.attributes, o.data
FROM napkin_outbox_read($1::smallint[], $2::bigint[], $3::bigint[], $4::int, $5::text[], $6::text) AS o`

	fetchSQLiteSQL = `SELECT ` + rowColumns + `, CASE WHEN o.topic NOT IN (SELECT value FROM json_each($4)) THEN o.attributes END,
	CASE WHEN o.topic NOT IN (SELECT value FROM json_each($4)) THEN o.data END
FROM napkin_outbox o WHERE o.id BETWEEN $1 AND $2 ORDER BY o.id LIMIT $3`
	fetchTopicSQLiteSQL = `SELECT ` + rowColumns + `, o.attributes, o.data
FROM napkin_outbox o WHERE o.id BETWEEN $1 AND $2 AND o.topic = $4 ORDER BY o.id LIMIT $3`
)

// maxSpans bounds the ranges of one statement.
const maxSpans = 256

// fetch reads up to limit committed rows of each span, in one snapshot where the
// spans are few. Of the topics in passed it reads no more than the ids.
func (r *Relay) fetch(ctx context.Context, spans []span, limit int, passed []string) ([]row, error) {
	if r.db.Dialect == sqldb.SQLite {
		return r.fetchEach(ctx, fetchSQLiteSQL, spans, limit, jsonText(passed))
	}
	return r.fetchAll(ctx, spans, limit, passed, "")
}

// fetchTopic is fetch for the rows of one topic.
func (r *Relay) fetchTopic(ctx context.Context, spans []span, limit int, topic string) ([]row, error) {
	if r.db.Dialect == sqldb.SQLite {
		return r.fetchEach(ctx, fetchTopicSQLiteSQL, spans, limit, topic)
	}
	return r.fetchAll(ctx, spans, limit, []string{}, topic)
}

func (r *Relay) fetchAll(ctx context.Context, spans []span, limit int, passed []string, topic string) (out []row, err error) {
	for some := range slices.Chunk(spans, maxSpans) {
		part, lo, hi := make([]int16, len(some)), make([]int64, len(some)), make([]int64, len(some))
		for i, s := range some {
			part[i], lo[i], hi[i] = int16(s.part), s.lo, s.hi //nolint:gosec // below 64
		}
		err := each(ctx, r.db.Read, func(rows *sql.Rows) error { return scanRow(rows, &out) }, fetchPostgresSQL, part, lo, hi, limit, passed, topic)
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, compareRows)
	return out, nil
}

func (r *Relay) fetchEach(ctx context.Context, query string, spans []span, limit int, last any) (out []row, err error) {
	for _, s := range spans {
		err := each(ctx, r.db.Read, func(rows *sql.Rows) error { return scanRow(rows, &out) }, query, s.lo, s.hi, limit, last)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func scanRow(rows *sql.Rows, out *[]row) error {
	var x row
	var topic, key string
	var seq int64
	var attributes, data []byte
	if err := rows.Scan(&x.part, &x.id, &topic, &key, &seq, &attributes, &data); err != nil {
		return err
	}
	if attributes == nil {
		x.event.Topic = topic // it is passed by
	} else {
		decode(&x, topic, key, seq, attributes, data)
	}
	*out = append(*out, x)
	return nil
}

// read reads what is new in the touched partitions: the rows past their cursors
// and those that have appeared in their holes, beside what the source has handed
// over.
func (r *Relay) read(ctx context.Context, s *state, touched parts, fed []Row) (*batch, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	b := &batch{next: make(map[int]*progress)}
	if len(s.stalled) > 0 {
		if err := s.reloadStalled(ctx, r.db.Read); err != nil {
			return nil, err
		}
		if err := r.readRetries(ctx, s, b); err != nil {
			return nil, err
		}
	}
	var ahead, holes []span
	var probed parts // whose holes are read
	for i, p := range s.parts {
		if p == nil || !touched.has(i) && !p.full {
			continue
		}
		ahead = append(ahead, span{i, p.cursor + 1, math.MaxInt64})
		for _, h := range p.holes {
			holes, probed = append(holes, span{i, h.lo, h.hi}), probed.with(i)
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
	if len(holes) > 0 {
		err := r.db.Read.QueryRowContext(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint`).Scan(&fence)
		if err != nil {
			return nil, err
		}
	}
	var rows []row
	if len(ahead) > 0 && len(s.stalled) < r.cfg.MaxStalled {
		limit := max(1, r.cfg.BatchSize/len(ahead))
		var err error
		if rows, err = r.fetch(ctx, ahead, limit, s.passedBy()); err != nil {
			return nil, err
		}
		r.advance(s, b, rows, limit)
	}
	if len(holes) > 0 {
		filled, incomplete, err := r.readHoles(ctx, holes, s.passedBy())
		if err != nil {
			return nil, err
		}
		rows = s.fill(b, rows, filled, probed, incomplete, fence)
	}
	b.rows = s.merge(b, rows, r.handed(s, fed), len(s.stalled) >= r.cfg.MaxStalled)
	for i, next := range b.next {
		b.passed += next.cursor - s.parts[i].cursor
	}
	return b, nil
}

// progress returns where the pass leaves the partition, to be changed.
func (b *batch) progress(s *state, part int) *progress {
	x := b.next[part]
	if x == nil {
		p := s.parts[part]
		x = &progress{cursor: p.cursor, holes: slices.Clone(p.holes), full: p.full}
		b.next[part] = x
	}
	return x
}

// advance moves the cursors over rows and notes the ids between them.
func (r *Relay) advance(s *state, b *batch, rows []row, limit int) {
	count := make(map[int]int)
	for _, x := range rows {
		p := b.progress(s, x.part)
		if x.id > p.cursor+1 && r.db.Dialect == sqldb.Postgres {
			p.holes = append(p.holes, hole{lo: p.cursor + 1, hi: x.id - 1})
		}
		p.cursor = x.id
		count[x.part]++
	}
	for i, p := range s.parts {
		if p != nil && (b.next[i] != nil || p.full) {
			b.progress(s, i).full = count[i] == limit
		}
	}
}

// readHoles reads the rows that have appeared in holes, up to a bound; the
// partitions of the holes that it did not come to are incomplete.
func (r *Relay) readHoles(ctx context.Context, holes []span, passed []string) (filled []row, incomplete parts, err error) {
	for some := range slices.Chunk(holes, maxSpans) {
		if len(filled) >= r.cfg.BatchSize {
			for _, h := range some {
				incomplete = incomplete.with(h.part)
			}
			continue
		}
		rows, err := r.fetch(ctx, some, r.cfg.BatchSize, passed)
		if err != nil {
			return nil, 0, err
		}
		filled = append(filled, rows...)
		for _, h := range some {
			from, _ := slices.BinarySearchFunc(rows, row{part: h.part, id: h.lo}, compareRows)
			to, _ := slices.BinarySearchFunc(rows, row{part: h.part, id: h.hi}, compareRows)
			if to-from >= r.cfg.BatchSize-1 {
				incomplete = incomplete.with(h.part)
			}
		}
	}
	slices.SortFunc(filled, compareRows)
	return filled, incomplete, nil
}

// fill takes the rows that appeared in holes into account and forgets the holes
// that nothing can fill any more. It returns all rows.
func (s *state) fill(b *batch, rows, filled []row, probed, incomplete parts, fence int64) []row {
	// What was not read may come before rows past the cursor: those wait.
	rows = slices.DeleteFunc(rows, func(x row) bool { return incomplete.has(x.part) })
	for i := range s.parts {
		if !probed.has(i) {
			continue
		}
		if incomplete.has(i) {
			delete(b.next, i)
		}
		next := b.progress(s, i)
		next.full = next.full || incomplete.has(i)
		from, _ := slices.BinarySearchFunc(filled, row{part: i}, compareRows)
		to, _ := slices.BinarySearchFunc(filled, row{part: i + 1}, compareRows)
		ids := make([]int64, 0, to-from)
		for _, x := range filled[from:to] {
			ids = append(ids, x.id)
		}
		next.holes = remaining(next.holes, ids, func(h hole) bool { return !incomplete.has(i) && h.bound > 0 && fence >= h.bound })
	}
	return append(filled, rows...)
}

// remaining returns what is left of holes (ascending) once the ids (ascending)
// have appeared and the rest of a hole for which forget holds is given up.
func remaining(holes []hole, ids []int64, forget func(hole) bool) []hole {
	var out []hole
	for _, h := range holes {
		gone := forget(h)
		lo := h.lo
		for len(ids) > 0 && ids[0] <= h.hi {
			if ids[0] >= lo {
				if ids[0] > lo && !gone {
					out = append(out, hole{lo, ids[0] - 1, h.bound})
				}
				lo = ids[0] + 1
			}
			ids = ids[1:]
		}
		if lo <= h.hi && !gone {
			out = append(out, hole{lo, h.hi, h.bound})
		}
	}
	return out
}

// handed makes rows of what a source has handed over, without what is not this
// relay's.
func (r *Relay) handed(s *state, fed []Row) []row {
	var out []row
	for _, f := range fed {
		if f.Part < 0 || f.Part >= events.Partitions || s.parts[f.Part] == nil {
			continue
		}
		x := row{part: f.Part, id: f.ID}
		if s.behind[f.Topic] != nil {
			x.event.Topic = f.Topic
		} else {
			decode(&x, f.Topic, f.Key, f.KeySeq, f.Attributes, f.Data)
		}
		out = append(out, x)
	}
	slices.SortFunc(out, compareRows)
	return out
}

// merge puts what a source has handed over beside what was read of the tables.
// Where the cursor has passed a row and no hole is left for it, it was published.
// Where more lies in the table than was read, the earlier events of its key may:
// the row is left to the table, as it is where the relay is to pass nothing by.
func (s *state) merge(b *batch, rows, fed []row, halted bool) []row {
	slices.SortFunc(rows, compareRows)
	rows = slices.CompactFunc(rows, func(x, y row) bool { return compareRows(x, y) == 0 })
	if len(fed) == 0 {
		return rows
	}
	for _, x := range fed {
		p := b.progress(s, x.part)
		if p.full = p.full || halted; p.full {
			continue
		}
		if x.id > p.cursor {
			if x.id > p.cursor+1 {
				p.holes = append(p.holes, hole{lo: p.cursor + 1, hi: x.id - 1})
			}
			p.cursor = x.id
		} else if at := slices.IndexFunc(p.holes, func(h hole) bool { return h.lo <= x.id && x.id <= h.hi }); at >= 0 {
			p.holes = remaining(p.holes, []int64{x.id}, func(hole) bool { return false })
		} else {
			continue
		}
		rows = append(rows, x)
	}
	slices.SortFunc(rows, compareRows)
	return rows
}

// maxRetries bounds the stalled rows that one pass tries.
const maxRetries = 100

func (r *Relay) readRetries(ctx context.Context, s *state, b *batch) error {
	now := r.cfg.Now().UnixMicro()
	due := make(map[orderKey]bool)
	var ids []span
	for _, x := range s.stalled { // by id, so the first of a key comes first
		k := x.orderKey()
		if _, seen := due[k]; !seen {
			due[k] = x.retryAt <= now && s.behind[x.topic] == nil
		}
		if due[k] && len(ids) < maxRetries {
			ids = append(ids, span{x.part, x.id, x.id})
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var err error
	if b.retries, err = r.fetch(ctx, ids, 1, []string{}); err != nil {
		return fmt.Errorf("retries: %w", err)
	}
	for i := range b.retries {
		x := &b.retries[i]
		at, _ := slices.BinarySearchFunc(s.stalled, stalled{part: x.part, id: x.id}, compareStalled)
		x.attempts = s.stalled[at].attempts
	}
	return nil
}
