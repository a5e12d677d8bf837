package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Sequence says what a consumer makes of the numbers that events of one source,
// topic and key carry (events.Event.KeySeq). Events without a number are taken as
// delivered.
type Sequence int

const (
	// AsDelivered takes events in the order of their delivery, which is that of
	// their commits where outbox, broker and inbox are Napkin's. The default.
	AsDelivered Sequence = iota
	// Strict handles an event only after the one numbered before it. Where that
	// is missing the key waits for it, up to ConsumerConfig.GapTimeout; then the
	// event is dead-lettered with that cause and its key parked. The missing one
	// fills the gap whenever it comes, and the key goes on; Redrive goes on
	// without it. One that comes after its successors were handled is
	// dead-lettered too.
	//
	// A key of which the consumer knows nothing, because it or its events are
	// older than Config.Retention, begins with the event numbered 1, or after
	// GapTimeout with the first that is there.
	//
	// Every type of the topic counts, so all of them are received, of the other
	// topics too; those without a handler are passed over.
	Strict
	// Latest passes over an event that comes after its successors were handled.
	// Gaps are taken as they are: so types may be left out.
	Latest
)

// errGap holds an event back.
var errGap = errors.New("inbox: an event of the key is missing")

// gapError is the cause of a dead letter whose predecessor never came.
type gapError struct{ want, got int64 }

func (e *gapError) Error() string {
	return fmt.Sprintf("inbox: event %d of the key is missing before event %d; the key goes on by itself when it comes, and without it on redrive", e.want, e.got)
}

func (e *gapError) Is(target error) bool { return target == errGap }

// sequences is what a transaction knows of the numbers of its events.
type sequences struct {
	of      map[string]Sequence
	last    map[seqKey]int64
	changed map[seqKey]bool
	save    func(ctx context.Context, w sqldb.Tx, rows []seqRow) error
}

type seqKey struct{ topic, source, key string }

func keyOf(e events.Event) seqKey { return seqKey{e.Topic, e.Source, e.Key} }

type seqRow struct {
	Topic  string `json:"t"`
	Source string `json:"s"`
	Key    string `json:"k"`
	Last   int64  `json:"n"`
}

// readSequences locks and reads the numbers of the units' keys; nil where no
// topic of theirs has any.
func (c *Consumer[T]) readSequences(ctx context.Context, w sqldb.Tx, us []*unit[T]) (*sequences, error) {
	var rows []seqRow
	for _, u := range us {
		if c.cfg.Sequences[u.event.Topic] != AsDelivered && u.event.KeySeq > 0 {
			rows = append(rows, seqRow{Topic: u.event.Topic, Source: u.event.Source, Key: u.event.Key})
		}
	}
	if rows == nil {
		return nil, nil //nolint:nilnil // its methods take it
	}
	s := &sequences{of: c.cfg.Sequences, last: make(map[seqKey]int64), changed: make(map[seqKey]bool), save: c.saveSequences}
	arg, err := json.Marshal(rows)
	if err != nil {
		return nil, err
	}
	query := `SELECT topic, source, key, last FROM napkin_inbox_seq WHERE consumer = $1 AND (topic, source, key) IN (
		SELECT x ->> 't', x ->> 's', x ->> 'k' FROM json_array_elements(CAST($2 AS json)) x) ORDER BY topic, source, key FOR UPDATE`
	if c.db.Dialect == sqldb.SQLite {
		query = `SELECT topic, source, key, last FROM napkin_inbox_seq WHERE consumer = $1 AND (topic, source, key) IN (
			SELECT value ->> 't', value ->> 's', value ->> 'k' FROM json_each($2))`
	}
	got, err := w.Query(ctx, query, c.name, string(arg))
	if err != nil {
		return nil, err
	}
	defer got.Close()
	for got.Next() {
		var k seqKey
		var n int64
		if err := got.Scan(&k.topic, &k.source, &k.key, &n); err != nil {
			return nil, err
		}
		s.last[k] = n
	}
	return s, got.Err()
}

// step decides on an event whose key is not parked, or bypasses that.
func (s *sequences) step(e events.Event, accept, bypass bool) (step, error) {
	if s == nil || e.KeySeq == 0 || s.of[e.Topic] == AsDelivered {
		return stepHandle, nil
	}
	last := s.last[keyOf(e)]
	switch {
	case bypass:
	case s.of[e.Topic] == Latest && e.KeySeq <= last:
		return stepPass, nil
	case s.of[e.Topic] == Strict && e.KeySeq <= last:
		return 0, Permanent(fmt.Errorf("inbox: event %d of the key came after event %d was handled", e.KeySeq, last))
	case s.of[e.Topic] == Strict && e.KeySeq != last+1 && (last > 0 || !accept):
		return 0, &gapError{want: last + 1, got: e.KeySeq}
	}
	s.take(e)
	return stepHandle, nil
}

// fills tells whether the event is the next of those that its parked key waits
// for.
func (s *sequences) fills(e events.Event, p *parkedKey) bool {
	return s != nil && p.gap > 0 && e.KeySeq < p.gap && e.KeySeq == s.last[keyOf(e)]+1
}

// take notes an event as handled.
func (s *sequences) take(e events.Event) {
	if k := keyOf(e); s != nil && e.KeySeq > s.last[k] {
		s.last[k] = e.KeySeq
		s.changed[k] = true
	}
}

func (s *sequences) store(ctx context.Context, w sqldb.Tx) error {
	if s == nil || len(s.changed) == 0 {
		return nil
	}
	var rows []seqRow
	for k := range s.changed {
		rows = append(rows, seqRow{k.topic, k.source, k.key, s.last[k]})
	}
	return s.save(ctx, w, rows)
}

// saveSequences raises the stored numbers.
func (c *Consumer[T]) saveSequences(ctx context.Context, w sqldb.Tx, rows []seqRow) error {
	arg, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	from := `SELECT CAST($1 AS text), x ->> 't', x ->> 's', x ->> 'k', CAST(x ->> 'n' AS bigint), CAST($3 AS bigint) FROM json_array_elements(CAST($2 AS json)) x ORDER BY 2, 3, 4`
	if c.db.Dialect == sqldb.SQLite {
		from = `SELECT $1, value ->> 't', value ->> 's', value ->> 'k', value ->> 'n', $3 FROM json_each($2) WHERE true`
	}
	_, err = w.ExecContext(ctx, `INSERT INTO napkin_inbox_seq (consumer, topic, source, key, last, updated) `+from+`
		ON CONFLICT (consumer, topic, source, key) DO UPDATE SET last = excluded.last, updated = excluded.updated WHERE napkin_inbox_seq.last < excluded.last`,
		c.name, string(arg), sqldb.Micros(c.inbox.cfg.Now()))
	return err
}

// takeRedriven notes a redriven event, whose key's order the list has kept.
func (c *Consumer[T]) takeRedriven(ctx context.Context, w sqldb.Tx, e events.Event) error {
	if c.cfg.Sequences[e.Topic] == AsDelivered || e.KeySeq == 0 {
		return nil
	}
	return c.saveSequences(ctx, w, []seqRow{{e.Topic, e.Source, e.Key, e.KeySeq}})
}

// noteKey makes the row of a key whose event is given up, for takeDropped: it may
// be the key's first.
func (c *Consumer[T]) noteKey(ctx context.Context, w sqldb.Tx, e events.Event) error {
	if c.cfg.Sequences[e.Topic] == AsDelivered || e.KeySeq == 0 {
		return nil
	}
	return c.saveSequences(ctx, w, []seqRow{{e.Topic, e.Source, e.Key, 0}})
}

// takeDropped notes a dropped event, so that its successor meets no gap.
func takeDropped(ctx context.Context, w sqldb.Execer, consumer string, e events.Event) error {
	_, err := w.ExecContext(ctx, `UPDATE napkin_inbox_seq SET last = $5 WHERE consumer = $1 AND topic = $2 AND source = $3 AND key = $4 AND last < $5`,
		consumer, e.Topic, e.Source, e.Key, e.KeySeq)
	return err
}

// trimSequences forgets the keys that had no event for the marks' retention.
func (c *Consumer[T]) trimSequences(ctx context.Context) error {
	_, err := c.db.Write.ExecContext(ctx, `DELETE FROM napkin_inbox_seq WHERE consumer = $1 AND updated < $2`,
		c.name, sqldb.Micros(c.inbox.cfg.Now().Add(-c.inbox.cfg.Retention)))
	return err
}
