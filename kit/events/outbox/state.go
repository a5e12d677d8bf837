package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// row is one outbox row on its way to the broker.
type row struct {
	part  int
	id    int64
	event events.Event // of a topic that is behind only Topic
	bad   error        // the row does not decode

	attempts int // of a stalled row
}

func compareRows(a, b row) int {
	return cmp.Or(cmp.Compare(a.part, b.part), cmp.Compare(a.id, b.id))
}

// hole is a range of ids that a cursor passed unseen. Ids in it may still appear
// until every transaction below bound has ended; bound is 0 while the hole is
// not recorded.
type hole struct{ lo, hi, bound int64 }

// stalled is a row that the cursor passed unpublished.
type stalled struct {
	part       int
	id         int64
	topic, key string
	attempts   int
	retryAt    int64 // of the first row of its key
	cause      string
}

func (s stalled) orderKey() orderKey { return keyOf(s.topic, s.key, s.part, s.id) }

// partition is how far one partition is published.
type partition struct {
	block  *block
	cursor int64
	holes  []hole // ascending, disjoint
	kept   []hole // as the database has them
	full   bool   // the last read found more than it took
}

// mark is what is known of the broker's log behind one topic: it holds a block's
// events up to High.
type mark struct {
	Identity string `json:"identity"`
	High     uint64 `json:"high"`
}

// block is a run of partitions that this relay holds.
type block struct {
	events.Block
	first, size int
	lease       lease.Lease
	leaving     chan struct{} // closed when the lease is to be given up
	gone        chan struct{} // closed when this relay has let go of it
	epoch       int64
	streams     map[string]mark
	checkpoints map[string]checkpoint // the last of each topic
}

type checkpoint struct {
	seq uint64
	at  int64
}

// state is what a relay knows of the blocks that it holds. The loop of the leader
// owns it.
type state struct {
	blocks  []*block
	parts   [events.Partitions]*partition // nil where not held
	stalled []stalled                     // by part, id
	behind  map[string]*behind            // by topic
	checked map[string]time.Time          // when each topic's log was compared last
	lost    map[string]uint64             // topics whose logs lost events, and what is left; outlives a reset
	foreign map[string]uint64             // the highest sequence acknowledged to another relay, by topic
	seen    time.Time                     // when foreign and the epochs were read

	caughtUp []string  // topics that were behind, as the database still has them
	dirty    bool      // cursors or holes differ from the database's
	passed   int64     // rows that the cursors moved by since the last record
	recorded time.Time // when that was
}

func newState() *state {
	return &state{lost: make(map[string]uint64), behind: make(map[string]*behind), checked: make(map[string]time.Time), foreign: make(map[string]uint64)}
}

// held is the set of partitions of the blocks held.
func (s *state) held() (p parts) {
	for i, x := range s.parts {
		if x != nil {
			p = p.with(i)
		}
	}
	return p
}

// blockOf is where a dialect keeps the block: SQLite has one order only.
func (r *Relay) blockOf(b events.Block) (first, size int) {
	if r.db.Dialect == sqldb.SQLite {
		return 0, 1
	}
	return b.First(), b.Size()
}

// add takes the block over: it fences its earlier holders off and loads what they
// left.
func (r *Relay) add(ctx context.Context, s *state, b *block) error {
	var loaded map[int]*partition
	var held []stalled
	var behinds map[string]map[int]int64
	err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// A node that was paused before it came here must not fence its successor.
		if err := b.lease.Guard(ctx, sqldb.StdTx(tx)); err != nil {
			return err
		}
		cursors, err := r.takeRow(ctx, tx, b)
		if err != nil {
			return err
		}
		loaded = make(map[int]*partition, b.size)
		for i, at := range cursors {
			loaded[b.first+i] = &partition{block: b, cursor: at, full: true}
		}
		if r.db.Dialect == sqldb.Postgres {
			// After a restore into a new cluster its transaction ids start over.
			// No writer of the old cluster is left, so the present is bound enough.
			_, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_hole SET bound = pg_current_xact_id()::text::bigint
				WHERE part BETWEEN $1 AND $2 AND bound > pg_current_xact_id()::text::bigint`, b.first, b.first+b.size-1)
			if err != nil {
				return err
			}
		}
		err = each(ctx, tx, func(rows *sql.Rows) error {
			var part int
			var h hole
			err := rows.Scan(&part, &h.lo, &h.hi, &h.bound)
			if p := loaded[part]; p != nil {
				p.holes, p.kept = append(p.holes, h), append(p.kept, h)
			}
			return err
		}, `SELECT part, lo, hi, bound FROM napkin_outbox_hole WHERE part BETWEEN $1 AND $2 ORDER BY part, lo`, b.first, b.first+b.size-1)
		if err != nil {
			return err
		}
		if held, err = loadStalled(ctx, tx, b.first, b.size); err != nil {
			return err
		}
		behinds = make(map[string]map[int]int64)
		err = each(ctx, tx, func(rows *sql.Rows) error {
			var part int
			var topic string
			var at int64
			err := rows.Scan(&part, &topic, &at)
			if behinds[topic] == nil {
				behinds[topic] = make(map[int]int64)
			}
			behinds[topic][part] = at
			return err
		}, `SELECT part, topic, cursor_id FROM napkin_outbox_behind WHERE part BETWEEN $1 AND $2`, b.first, b.first+b.size-1)
		if err != nil {
			return err
		}
		b.checkpoints = make(map[string]checkpoint)
		return each(ctx, tx, func(rows *sql.Rows) error {
			var topic string
			var c checkpoint
			err := rows.Scan(&topic, &c.seq, &c.at)
			b.checkpoints[topic] = c
			return err
		}, `SELECT topic, max(seq), max(created) FROM napkin_outbox_checkpoint WHERE first = $1 AND size = $2 GROUP BY topic`, b.first, b.size)
	})
	if err != nil {
		return fmt.Errorf("outbox: take block %v over: %w", b.Block, err)
	}
	for i, p := range loaded {
		s.parts[i] = p
	}
	s.blocks = append(s.blocks, b)
	s.stalled = append(s.stalled, held...)
	slices.SortFunc(s.stalled, compareStalled)
	for topic, at := range behinds {
		x := s.behind[topic]
		if x == nil {
			x = &behind{topic: topic, failures: 1, at: make(map[int]int64)}
			s.behind[topic] = x
		}
		for part, id := range at {
			x.at[part] = id
		}
	}
	// A topic that is behind is passed by in every partition held.
	for _, x := range s.behind {
		for part, p := range s.parts {
			if _, ok := x.at[part]; !ok && p != nil {
				x.at[part], x.changed = p.cursor, true
			}
		}
	}
	clear(s.checked) // what the predecessor knew is compared before anything is published
	s.seen = time.Time{}
	return nil
}

func compareStalled(a, b stalled) int {
	return compareRows(row{part: a.part, id: a.id}, row{part: b.part, id: b.id})
}

// errConverting says that another relay has just cut the partitions anew.
var errConverting = errors.New("outbox: the blocks are being cut anew")

// takeRow raises the epoch of the block's row and returns its cursors. Where the
// table is cut into other blocks than this relay's, it is cut anew, which fences
// the holders of the old ones off.
func (r *Relay) takeRow(ctx context.Context, tx *sql.Tx, b *block) ([]int64, error) {
	type stored struct {
		first, size int
		epoch       int64
		cursors     []int64
		streams     map[string]mark
	}
	var all []stored
	err := each(ctx, tx, func(rows *sql.Rows) error {
		var x stored
		var cursors, streams []byte
		err := rows.Scan(&x.first, &x.size, &x.epoch, &cursors, &streams)
		if err == nil {
			err = errors.Join(json.Unmarshal(cursors, &x.cursors), json.Unmarshal(streams, &x.streams))
		}
		all = append(all, x)
		return err
	}, `SELECT first, size, epoch, cursors, streams FROM napkin_outbox_block ORDER BY first`+r.db.Dialect.ForUpdate())
	if err != nil {
		return nil, err
	}
	var whole []int64
	streams := make(map[string]mark)
	for _, x := range all {
		if x.first == b.first && x.size == b.size {
			b.epoch, b.streams = x.epoch+1, x.streams
			if len(x.cursors) != b.size {
				return nil, fmt.Errorf("block %v has %d cursors; it has %d partitions", b.Block, len(x.cursors), b.size)
			}
			_, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_block SET epoch = $1 WHERE first = $2`, b.epoch, b.first)
			return x.cursors, err
		}
		if x.first != len(whole) || len(x.cursors) != x.size {
			return nil, errConverting
		}
		whole = append(whole, x.cursors...)
		b.epoch = max(b.epoch, x.epoch+1)
		for topic, m := range x.streams {
			// The log held the events of all of them up to the highest.
			if have, ok := streams[topic]; !ok || m.High > have.High {
				streams[topic] = m
			}
		}
	}
	if len(whole) != events.Partitions {
		return nil, errConverting // the rows were replaced while this waited for them
	}
	text, err := json.Marshal(streams)
	if err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM napkin_outbox_block`); err != nil {
		return nil, err
	}
	for first := 0; first < events.Partitions; first += b.size {
		cursors, err := json.Marshal(whole[first : first+b.size])
		if err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO napkin_outbox_block (first, size, epoch, cursors, streams) VALUES ($1, $2, $3, $4, $5)`,
			first, b.size, b.epoch, string(cursors), string(text)); err != nil {
			return nil, err
		}
	}
	b.streams = streams
	return whole[b.first : b.first+b.size], nil
}

// drop forgets a block.
func (s *state) drop(b *block) {
	s.blocks = slices.DeleteFunc(s.blocks, func(x *block) bool { return x == b })
	for i := b.first; i < b.first+b.size; i++ {
		s.parts[i] = nil
		for _, x := range s.behind {
			delete(x.at, i)
		}
	}
	s.stalled = slices.DeleteFunc(s.stalled, func(x stalled) bool { return s.parts[x.part] == nil })
	for topic, x := range s.behind {
		if len(x.at) == 0 && x.lane == nil {
			delete(s.behind, topic)
		}
	}
}

// querier is *sql.DB or *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func each(ctx context.Context, q querier, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // Err below tells
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func loadStalled(ctx context.Context, q querier, first, size int) (out []stalled, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var x stalled
		if err := rows.Scan(&x.part, &x.id, &x.topic, &x.key, &x.attempts, &x.retryAt, &x.cause); err != nil {
			return err
		}
		out = append(out, x)
		return nil
	}, `SELECT part, id, topic, key, attempts, retry_at, cause FROM napkin_outbox_stalled WHERE part BETWEEN $1 AND $2 ORDER BY part, id`, first, first+size-1)
	return out, err
}

// reloadStalled reads the stalled rows of all blocks again: an operator may have
// discarded some.
func (s *state) reloadStalled(ctx context.Context, q querier) error {
	s.stalled = s.stalled[:0]
	for _, b := range s.blocks {
		x, err := loadStalled(ctx, q, b.first, b.size)
		if err != nil {
			return err
		}
		s.stalled = append(s.stalled, x...)
	}
	slices.SortFunc(s.stalled, compareStalled)
	return nil
}

// frontier is the highest id of each of the block's partitions up to which every
// committed event of the topic is published; out is not in s.stalled yet.
func (s *state) frontier(b *block, topic string, out *outcome) []int64 {
	ids := make([]int64, b.size)
	below := func(part int, id int64) {
		if i := part - b.first; i >= 0 && i < b.size {
			ids[i] = min(ids[i], id-1)
		}
	}
	for i := range ids {
		p := s.parts[b.first+i]
		ids[i] = p.cursor
		if len(p.holes) > 0 {
			ids[i] = min(ids[i], p.holes[0].lo-1)
		}
		if x := s.behind[topic]; x != nil {
			if at, ok := x.at[b.first+i]; ok {
				ids[i] = min(ids[i], at)
			}
		}
	}
	for _, x := range s.stalled {
		below(x.part, x.id)
	}
	for _, x := range out.failed {
		below(x.part, x.id)
	}
	for _, x := range out.waiting {
		below(x.part, x.id)
	}
	return ids
}

// decode makes the event of a row.
func decode(x *row, topic, key string, seq int64, attributes, data []byte) {
	m := make(map[string]string, 12)
	if err := json.Unmarshal(attributes, &m); err != nil {
		x.bad = fmt.Errorf("%w: the stored attributes do not decode: %w", events.ErrRejected, err)
		x.event = events.Event{Topic: topic, Key: key}
		return
	}
	e, err := events.FromAttributes(topic, m, data)
	e.Key, e.KeySeq = key, seq
	x.event = e
	if err != nil {
		x.bad = fmt.Errorf("%w: %w", events.ErrRejected, err)
	}
}

func attributeType(attributes []byte) string {
	var a struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(attributes, &a) // "" where it does not decode
	return a.Type
}

func (r *Relay) inTx(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	return sqldb.InTx(ctx, r.db, fn)
}

// records is a table of the objects of a JSON list, which is the statement's
// first parameter. Columns are given with their types.
func (r *Relay) records(columns ...string) string {
	if r.db.Dialect == sqldb.Postgres {
		list := ""
		for i, c := range columns {
			if i > 0 {
				list += ", "
			}
			list += c
		}
		return `json_to_recordset($1::text::json) AS x(` + list + `)`
	}
	list := ""
	for i, c := range columns {
		var name, typ string
		_, _ = fmt.Sscan(c, &name, &typ)
		if i > 0 {
			list += ", "
		}
		list += `value ->> '` + name + `' AS ` + name
	}
	return `(SELECT ` + list + ` FROM json_each($1)) AS x`
}
