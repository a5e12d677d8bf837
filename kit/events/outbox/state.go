package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// errFenced ends a leader whose lease went to another relay.
var errFenced = errors.New("outbox: another relay has taken over")

// row is one outbox row on its way to the broker.
type row struct {
	id    int64
	event events.Event
	bad   error // the row does not decode
}

// hole is a range of ids that the cursor passed unseen. Ids in it may still
// appear until every transaction below bound has ended.
type hole struct{ lo, hi, bound int64 }

// stalled is a row that the cursor passed unpublished.
type stalled struct {
	id         int64
	topic, key string
	attempts   int
	retryAt    int64 // of the first row of its key
	cause      string
}

func (s stalled) orderKey() orderKey { return keyOf(s.topic, s.key, s.id) }

// mark is what is known of the broker's log behind one topic.
type mark struct {
	identity   string
	high       uint64 // the highest acknowledged sequence
	checkpoint uint64 // high at the last checkpoint
	at         int64  // when that was, in Unix microseconds
	gone       bool   // the broker has no such topic at present
}

// state is the leader's knowledge, loaded when it takes over and persisted with
// every move of the cursor.
type state struct {
	epoch           int64
	cursor, trimmed int64
	holes           []hole // ascending, disjoint
	stalled         []stalled
	marks           map[string]*mark
}

// takeOver fences earlier leaders off and loads what they left.
func (r *Relay) takeOver(ctx context.Context, epoch int64) (*state, error) {
	s := &state{epoch: epoch, marks: make(map[string]*mark)}
	err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_relay SET epoch = $1 WHERE name = 'outbox' AND epoch <= $1`, epoch)
		if err := fenced(res, err); err != nil {
			return err
		}
		row := tx.QueryRowContext(ctx, `SELECT cursor_id, trimmed FROM napkin_outbox_relay WHERE name = 'outbox'`)
		if err := row.Scan(&s.cursor, &s.trimmed); err != nil {
			return err
		}
		if r.db.Dialect == sqldb.Postgres {
			// After a restore into a new cluster its transaction ids start over.
			// No writer of the old cluster is left, so the present is bound enough.
			_, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_hole SET bound = pg_current_xact_id()::text::bigint
				WHERE bound > pg_current_xact_id()::text::bigint`)
			if err != nil {
				return err
			}
		}
		if err := s.loadHoles(ctx, tx); err != nil {
			return err
		}
		if err := s.loadStalled(ctx, tx); err != nil {
			return err
		}
		return s.loadMarks(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("outbox: load the relay's state: %w", err)
	}
	return s, nil
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

func (s *state) loadHoles(ctx context.Context, q querier) error {
	s.holes = s.holes[:0]
	return each(ctx, q, func(rows *sql.Rows) error {
		var h hole
		defer func() { s.holes = append(s.holes, h) }()
		return rows.Scan(&h.lo, &h.hi, &h.bound)
	}, `SELECT lo, hi, bound FROM napkin_outbox_hole ORDER BY lo`)
}

func (s *state) loadStalled(ctx context.Context, q querier) error {
	s.stalled = s.stalled[:0]
	return each(ctx, q, func(rows *sql.Rows) error {
		var x stalled
		if err := rows.Scan(&x.id, &x.topic, &x.key, &x.attempts, &x.retryAt, &x.cause); err != nil {
			return err
		}
		s.stalled = append(s.stalled, x)
		return nil
	}, `SELECT id, topic, key, attempts, retry_at, cause FROM napkin_outbox_stalled ORDER BY id`)
}

func (s *state) loadMarks(ctx context.Context, q querier) error {
	clear(s.marks)
	return each(ctx, q, func(rows *sql.Rows) error {
		var topic string
		var m mark
		if err := rows.Scan(&topic, &m.identity, &m.high, &m.checkpoint, &m.at); err != nil {
			return err
		}
		s.marks[topic] = &m
		return nil
	}, `SELECT s.topic, s.identity, s.high_seq, coalesce(max(c.seq), 0), coalesce(max(c.created), 0)
		FROM napkin_outbox_stream s LEFT JOIN napkin_outbox_checkpoint c ON c.topic = s.topic
		GROUP BY s.topic, s.identity, s.high_seq`)
}

// frontier is the highest id up to which everything committed is published.
func (s *state) frontier() int64 {
	f := s.cursor
	if len(s.holes) > 0 {
		f = min(f, s.holes[0].lo-1)
	}
	if len(s.stalled) > 0 {
		f = min(f, s.stalled[0].id-1)
	}
	return f
}

const rowColumns = `o.id, o.topic, o.key_seq, o.attributes, o.data`

func scanRow(rows *sql.Rows) (row, error) {
	var out row
	var topic string
	var seq int64
	var attributes, data []byte
	if err := rows.Scan(&out.id, &topic, &seq, &attributes, &data); err != nil {
		return out, err
	}
	m := make(map[string]string)
	if err := json.Unmarshal(attributes, &m); err != nil {
		out.bad = fmt.Errorf("%w: the stored attributes do not decode: %w", events.ErrRejected, err)
		out.event = events.Event{Topic: topic}
		return out, nil
	}
	e, err := events.FromAttributes(topic, m, data)
	e.KeySeq = seq
	out.event = e
	if err != nil {
		out.bad = fmt.Errorf("%w: %w", events.ErrRejected, err)
	}
	return out, nil
}

func attributeType(attributes []byte) string {
	var a struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(attributes, &a) // "" where it does not decode
	return a.Type
}

// fenced turns an UPDATE of the relay's row that hit nothing into errFenced.
func fenced(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return errFenced
	}
	return nil
}

func (r *Relay) inTx(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	return sqldb.InTx(ctx, r.db, fn)
}
