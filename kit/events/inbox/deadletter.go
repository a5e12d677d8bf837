package inbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// State is where a dead letter stands.
type State string

const (
	// Dead is an event that was given up; its key is parked behind it.
	Dead State = stateDead
	// Parked is an event that waits behind a dead one of its key.
	Parked State = stateParked
	// Redriving is an event without a key that is to be handled again.
	Redriving State = stateRedrive
	// Redriven was handled in the end; Dropped was discarded by an operator.
	Redriven State = stateRedriven
	Dropped  State = stateDropped
)

const (
	stateDead     = "dead"
	stateParked   = "parked"
	stateRedrive  = "redrive"
	stateRedriven = "redriven"
	stateDropped  = "dropped"
)

// DeadLetter is an event that a consumer gave up, or that waits behind one.
type DeadLetter struct {
	ID       int64
	Consumer string
	State    State
	Event    events.Event
	// Cause is the last failure; empty where the event only waits.
	Cause string
	// Attempts counts the failures; History has the last of them, oldest first.
	Attempts int
	History  []Failure
	// Created is when it was stored, Resolved when it was redriven or dropped.
	Created, Resolved time.Time
}

// Failure is one failed attempt at an event.
type Failure struct {
	At    time.Time `json:"at"`
	Cause string    `json:"cause"`
}

const (
	maxCause   = 4000 // bytes of a stored cause
	maxHistory = 16   // failures that are kept with their causes, of 500 bytes each
)

// failure appends a failure, and forgets the oldest where there are too many.
func (c *Consumer[T]) failure(history []Failure, cause error) []Failure {
	history = append(history, Failure{At: c.inbox.cfg.Now().UTC().Truncate(time.Microsecond), Cause: clip(cause.Error(), 500)})
	return history[max(0, len(history)-maxHistory):]
}

func readHistory(stored string) []Failure {
	var h []Failure
	_ = json.Unmarshal([]byte(stored), &h) // what is not ours is no reason to keep an event
	return h
}

func writeHistory(h []Failure) string {
	if len(h) == 0 {
		return "[]"
	}
	b, _ := json.Marshal(h) // times and strings: it cannot fail
	return string(b)
}

// ErrNotDead is returned where no dead letter has the id, or it is resolved, or
// it only waits behind another one of its key.
var ErrNotDead = errors.New("inbox: there is no dead letter with this id to act on; list them to see which event holds up the key")

// DeadLetters lists this consumer's open dead letters and parked events.
func (c *Consumer[T]) DeadLetters(ctx context.Context) ([]DeadLetter, error) {
	return ReadDeadLetters(ctx, c.db, c.name)
}

// Redrive has a dead letter handled again, and then the events parked behind it,
// in order. It returns at once; the active replica does it.
func (c *Consumer[T]) Redrive(ctx context.Context, id int64) error {
	if err := Redrive(ctx, c.db, id); err != nil {
		return err
	}
	c.wakeRedrive()
	return nil
}

// Drop discards a dead letter; the events parked behind it are handled, in
// order.
func (c *Consumer[T]) Drop(ctx context.Context, id int64) error {
	if err := Drop(ctx, c.db, id); err != nil {
		return err
	}
	c.wakeRedrive()
	return nil
}

func (c *Consumer[T]) wakeRedrive() {
	select {
	case c.redrive <- struct{}{}:
	default:
	}
}

const letterColumns = `id, consumer, state, topic, key, event_id, attributes, data, cause, attempts, created, resolved, history`

// ReadDeadLetters lists the open dead letters and parked events of a consumer,
// or of all where consumer is "", in their order. It needs no consumer, so an
// operator's command can call it.
func ReadDeadLetters(ctx context.Context, db *sqldb.DB, consumer string) ([]DeadLetter, error) {
	rows, err := db.Read.QueryContext(ctx, `SELECT `+letterColumns+` FROM napkin_dead_letter
		WHERE state IN ('dead', 'parked', 'redrive') AND ($1 = '' OR consumer = $1) ORDER BY id`, consumer)
	if err != nil {
		return nil, fmt.Errorf("inbox: read dead letters: %w", err)
	}
	defer rows.Close()
	var out []DeadLetter
	for rows.Next() {
		l, err := scanLetter(rows)
		if err != nil {
			return nil, fmt.Errorf("inbox: read dead letters: %w", err)
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

func scanLetter(row sqldb.Row) (DeadLetter, error) {
	var l DeadLetter
	var topic, key, eventID string
	var attributes, data []byte
	var created, resolved int64
	var history string
	err := row.Scan(&l.ID, &l.Consumer, &l.State, &topic, &key, &eventID, &attributes, &data, &l.Cause, &l.Attempts, &created, &resolved, &history)
	if err != nil {
		return l, err
	}
	m := make(map[string]string)
	if err := json.Unmarshal(attributes, &m); err != nil {
		return l, fmt.Errorf("dead letter %d: %w", l.ID, err)
	}
	// An event that never decoded is shown as far as it did.
	l.Event, _ = events.FromAttributes(topic, m, data)
	l.Event.ID, l.Event.Key = eventID, key
	l.History = readHistory(history)
	l.Created = sqldb.FromMicros(created)
	if resolved > 0 {
		l.Resolved = sqldb.FromMicros(resolved)
	}
	return l, nil
}

// ReadDeadLetter returns one dead letter or parked event, also one that is
// resolved. ErrNotDead where there is none.
func ReadDeadLetter(ctx context.Context, db *sqldb.DB, id int64) (DeadLetter, error) {
	l, err := scanLetter(db.Read.QueryRowContext(ctx, `SELECT `+letterColumns+` FROM napkin_dead_letter WHERE id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return DeadLetter{}, ErrNotDead
	}
	if err != nil {
		return DeadLetter{}, fmt.Errorf("inbox: read dead letter %d: %w", id, err)
	}
	return l, nil
}

// letterKey finds whose key an open dead letter holds up.
func letterKey(ctx context.Context, tx *sql.Tx, id int64) (consumer, topic, key, state string, err error) {
	err = tx.QueryRowContext(ctx, `SELECT consumer, topic, key, state FROM napkin_dead_letter WHERE id = $1 AND state IN ('dead', 'parked')`, id).
		Scan(&consumer, &topic, &key, &state)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotDead
	}
	return consumer, topic, key, state, err
}

// Redrive is [Consumer.Redrive] for an operator's command: the consumer finds
// the request within its RedrivePoll.
func Redrive(ctx context.Context, db *sqldb.DB, id int64) error {
	err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		consumer, topic, key, state, err := letterKey(ctx, tx, id)
		if err != nil {
			return err
		}
		if state != stateDead {
			return ErrNotDead
		}
		if key == "" {
			_, err = tx.ExecContext(ctx, `UPDATE napkin_dead_letter SET state = 'redrive' WHERE id = $1 AND state = 'dead'`, id)
			return err
		}
		return letGo(ctx, tx, consumer, topic, key)
	})
	if err != nil {
		return fmt.Errorf("inbox: redrive %d: %w", id, err)
	}
	return nil
}

// Drop is [Consumer.Drop] for an operator's command. Dropping an event that only
// waits takes it out of the list, and the others go on waiting.
func Drop(ctx context.Context, db *sqldb.DB, id int64) error {
	err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		consumer, topic, key, state, err := letterKey(ctx, tx, id)
		if err != nil {
			return err
		}
		if state == stateDead && key != "" {
			// The key's row first, as the redrive takes them.
			if err := letGo(ctx, tx, consumer, topic, key); err != nil {
				return err
			}
		}
		res, err := tx.ExecContext(ctx, `UPDATE napkin_dead_letter SET state = 'dropped', resolved = $2 WHERE id = $1 AND state IN ('dead', 'parked')`, id, time.Now().UnixMicro())
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(ErrNotDead, err)
		}
		l, err := scanLetter(tx.QueryRowContext(ctx, `SELECT `+letterColumns+` FROM napkin_dead_letter WHERE id = $1`, id))
		if err != nil {
			return err
		}
		return takeDropped(ctx, tx, consumer, l.Event)
	})
	if err != nil {
		return fmt.Errorf("inbox: drop %d: %w", id, err)
	}
	return nil
}

func letGo(ctx context.Context, tx sqldb.Execer, consumer, topic, key string) error {
	_, err := tx.ExecContext(ctx, `UPDATE napkin_parked_key SET draining = 1 WHERE consumer = $1 AND topic = $2 AND key = $3`, consumer, topic, key)
	return err
}

// store inserts an event into the list.
func (c *Consumer[T]) store(ctx context.Context, w sqldb.Execer, e events.Event, state, cause string, attempts int, history []Failure) error {
	attributes, err := json.Marshal(e.Attributes())
	if err != nil {
		return err
	}
	data := e.Data
	if data == nil {
		data = []byte{} // the column is NOT NULL: no data is empty data
	}
	_, err = w.ExecContext(ctx, `INSERT INTO napkin_dead_letter (consumer, topic, key, event_id, attributes, data, state, cause, attempts, created, resolved, history)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $11)`,
		c.name, e.Topic, e.Key, e.ID, attributes, data, state, clip(cause, maxCause), attempts, sqldb.Micros(c.inbox.cfg.Now()), writeHistory(history))
	return err
}

// parkedKey is a key behind a dead letter.
type parkedKey struct {
	gap int64 // the number of the event that waits for a missing one; 0: for an operator
}

// parkedKeys locks and reads which of the units' keys are parked. The row lock
// orders them against a redrive that takes the last event off such a key's list.
func (c *Consumer[T]) parkedKeys(ctx context.Context, w sqldb.Tx, us []*unit[T]) (map[route]*parkedKey, error) {
	var keys [][2]string
	for i, u := range us {
		if u.event.Key != "" && (i == 0 || us[i-1].event.Key != u.event.Key || us[i-1].event.Topic != u.event.Topic) {
			keys = append(keys, [2]string{u.event.Topic, u.event.Key})
		}
	}
	if keys == nil {
		return nil, nil
	}
	query, args := `SELECT topic, key, gap FROM napkin_parked_key WHERE consumer = $1 AND topic = $2 AND key = $3`+c.db.Dialect.ForUpdate(), []any{c.name, keys[0][0], keys[0][1]}
	if len(keys) > 1 {
		arg, err := json.Marshal(keys)
		if err != nil {
			return nil, err
		}
		query, args = `SELECT topic, key, gap FROM napkin_parked_key WHERE consumer = $1 AND (topic, key) IN (
			SELECT x ->> 0, x ->> 1 FROM json_array_elements(CAST($2 AS json)) x) ORDER BY topic, key FOR UPDATE`, []any{c.name, string(arg)}
		if c.db.Dialect == sqldb.SQLite {
			query = `SELECT topic, key, gap FROM napkin_parked_key WHERE consumer = $1 AND (topic, key) IN (
				SELECT value ->> 0, value ->> 1 FROM json_each($2))`
		}
	}
	rows, err := w.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	parked := make(map[route]*parkedKey)
	for rows.Next() {
		var k route
		p := &parkedKey{}
		if err := rows.Scan(&k.topic, &k.typ, &p.gap); err != nil {
			return nil, err
		}
		parked[k] = p
	}
	return parked, rows.Err()
}
