package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// redriveLoop drains the keys that may go on, of the blocks that this replica
// holds. Where another one took such a block meanwhile, the rows' locks keep the
// two apart.
func (c *Consumer[T]) redriveLoop(ctx, work context.Context, q *queues) {
	tick := time.NewTicker(c.cfg.RedrivePoll)
	defer tick.Stop()
	for ctx.Err() == nil { // not for a tick that came with the end
		if err := c.redriveAll(ctx, work, q); err != nil && ctx.Err() == nil {
			c.cfg.Logger.WarnContext(ctx, "inbox: redriving failed, trying again", "consumer", c.name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-c.redrive:
		case <-tick.C:
		}
	}
}

func (c *Consumer[T]) redriveAll(ctx, work context.Context, q *queues) error {
	keys, letters, err := c.redriveWork(work, q)
	if err != nil {
		return err
	}
	for _, k := range keys {
		for more := true; more; {
			if !q.gate.pass(ctx) {
				return nil
			}
			if more, err = c.redriveOne(ctx, work, q, `consumer = $1 AND topic = $2 AND key = $3 AND state IN ('dead', 'parked')`, true, c.name, k.topic, k.typ); err != nil {
				return err
			}
		}
	}
	for _, id := range letters {
		if !q.gate.pass(ctx) {
			return nil
		}
		if _, err := c.redriveOne(ctx, work, q, `id = $1 AND state = 'redrive'`, false, id); err != nil {
			return err
		}
	}
	return nil
}

// redriveWork lists the keys to drain, and the letters without a key.
func (c *Consumer[T]) redriveWork(ctx context.Context, q *queues) (keys []route, letters []int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandlerTimeout)
	defer cancel()
	rows, err := c.db.Read.QueryContext(ctx, `SELECT topic, key, 0 FROM napkin_parked_key WHERE consumer = $1 AND draining = 1
		UNION ALL SELECT topic, event_id, id FROM napkin_dead_letter WHERE consumer = $1 AND state = 'redrive' ORDER BY 3`, c.name)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var k route
		var id int64
		if err := rows.Scan(&k.topic, &k.typ, &id); err != nil {
			return nil, nil, err
		}
		if !q.holds(k.typ) {
			continue
		}
		if id == 0 {
			keys = append(keys, k)
		} else {
			letters = append(letters, id)
		}
	}
	return keys, letters, rows.Err()
}

// redriveOne handles the first letter that where selects; more tells whether to
// go on with the key. A letter that fails keeps its place, dead again.
func (c *Consumer[T]) redriveOne(ctx, work context.Context, q *queues, where string, keyed bool, args ...any) (more bool, err error) {
	var l DeadLetter
	var history []Failure
	for failures := 1; ; failures++ {
		var handling bool
		l, handling, err = c.redriveTx(work, where, keyed, args...)
		if ctx.Err() != nil && err != nil {
			return false, nil //nolint:nilerr // shutting down: the letter keeps its place
		}
		switch {
		case err == nil && l.ID == 0:
			return false, nil // the list is empty, or the key no longer drains
		case err == nil:
			if f := c.cfg.Hooks.Redriven; f != nil {
				f(work, c.name, l.Event)
			}
			return true, nil
		case l.ID == 0:
			return false, err // the list could not be read
		case c.isInfrastructure(err), !IsPermanent(err) && (sqldb.IsRetryable(err) || isTimeout(err) && !(handling && c.answers(work))):
			c.failed(work, l.Event, err, false)
			q.gate.shut(c.backoff)
			if !q.gate.pass(ctx) {
				return false, nil
			}
			failures--
			continue
		}
		c.failed(work, l.Event, err, true)
		history = c.failure(history, err)
		if IsPermanent(err) || failures >= c.cfg.MaxAttempts {
			return false, c.deadAgain(work, l, keyed, err, failures, history)
		}
		t := time.NewTimer(c.backoff(failures))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false, nil
		}
	}
}

// redriveTx handles one letter in the transaction that takes it off the list.
func (c *Consumer[T]) redriveTx(ctx context.Context, where string, keyed bool, args ...any) (l DeadLetter, handling bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandlerTimeout)
	defer cancel()
	err = c.runner.InTx(ctx, func(ctx context.Context, tx T) error {
		w := c.runner.Wrap(tx)
		if keyed {
			var draining int
			err := w.QueryRow(ctx, `SELECT draining FROM napkin_parked_key WHERE consumer = $1 AND topic = $2 AND key = $3`+c.db.Dialect.ForUpdate(), args...).Scan(&draining)
			if errors.Is(err, sql.ErrNoRows) || err == nil && draining == 0 {
				return nil
			}
			if err != nil {
				return err
			}
		}
		var err error
		l, err = scanLetter(w.QueryRow(ctx, `SELECT `+letterColumns+` FROM napkin_dead_letter WHERE `+where+` ORDER BY id LIMIT 1`+c.db.Dialect.ForUpdate(), args...))
		if errors.Is(err, sql.ErrNoRows) {
			if !keyed {
				return nil
			}
			// The last one is through: the key is open again. Whoever waits for
			// its row handles its event next.
			_, err := w.ExecContext(ctx, `DELETE FROM napkin_parked_key WHERE consumer = $1 AND topic = $2 AND key = $3`, args...)
			return err
		}
		if err != nil {
			return err
		}
		res, err := w.ExecContext(ctx, `UPDATE napkin_dead_letter SET state = 'redriven', resolved = $2 WHERE id = $1 AND state IN ('dead', 'parked', 'redrive')`,
			l.ID, sqldb.Micros(c.inbox.cfg.Now()))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err // dropped meanwhile
		}
		if err := c.takeRedriven(ctx, w, l.Event); err != nil {
			return err
		}
		handling = true
		err = c.handleLetter(ctx, tx, l)
		handling = err != nil
		return err
	})
	return l, handling, err
}

func (c *Consumer[T]) handleLetter(ctx context.Context, tx T, l DeadLetter) error {
	if err := l.Event.Validate(); err != nil {
		return Permanent(fmt.Errorf("inbox: the event does not decode, it can only be dropped: %w", err))
	}
	x, ok := c.handlers[route{l.Event.Topic, l.Event.Type}]
	switch {
	case !ok && c.cfg.Sequences[l.Event.Topic] == Strict:
		return nil // it joined the list for its number
	case !ok:
		return Permanent(fmt.Errorf("inbox: no handler for type %s of topic %s", l.Event.Type, l.Event.Topic))
	}
	ctx = c.context(ctx, l.Event)
	return guard(func() error {
		if x.many != nil {
			return x.many(ctx, tx, []events.Event{l.Event})
		}
		return x.one(ctx, tx, l.Event)
	})
}

// deadAgain gives a redriven letter up once more; its key stays parked.
func (c *Consumer[T]) deadAgain(ctx context.Context, l DeadLetter, keyed bool, cause error, failures int, history []Failure) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandlerTimeout)
	defer cancel()
	history = append(l.History, history...)
	history = history[max(0, len(history)-maxHistory):]
	err := c.runner.InTx(ctx, func(ctx context.Context, tx T) error {
		w := c.runner.Wrap(tx)
		if keyed {
			_, err := w.ExecContext(ctx, `UPDATE napkin_parked_key SET draining = 0 WHERE consumer = $1 AND topic = $2 AND key = $3`, c.name, l.Event.Topic, l.Event.Key)
			if err != nil {
				return err
			}
		}
		_, err := w.ExecContext(ctx, `UPDATE napkin_dead_letter SET state = 'dead', cause = $2, attempts = attempts + $3, history = $4 WHERE id = $1 AND state IN ('dead', 'parked', 'redrive')`,
			l.ID, clip(cause.Error(), maxCause), failures, writeHistory(history))
		return err
	})
	if err == nil {
		c.logPanic(ctx, l.Event, cause)
		c.deadLettered(ctx, l.Event, cause)
	}
	return err
}

func (c *Consumer[T]) deadLettered(ctx context.Context, e events.Event, cause error) {
	if f := c.cfg.Hooks.DeadLettered; f != nil {
		f(ctx, c.name, e, cause)
	}
}
