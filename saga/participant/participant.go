package participant

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// Deferred is returned by a handler whose answer comes later, through
// [Participant.Resolve] or [Participant.ResolveUndo]. What the handler wrote in
// its transaction commits.
var Deferred = errors.New("participant: the answer comes later") //nolint:errname // reads as an answer: return participant.Deferred

// ErrUnknownStep says that no command of the step key was received.
var ErrUnknownStep = errors.New("participant: no command of this step key")

// Set is the name of the migrations' set for migrate.Up.
const Set = "napkin_saga_participant"

//go:embed migrations
var migrations embed.FS

// Migrations returns the table as goose migrations, plain up and down SQL.
func Migrations(d sqldb.Dialect) fs.FS {
	sub, err := fs.Sub(migrations, "migrations/"+d.String())
	if err != nil {
		panic(err) // the folders are embedded above
	}
	return sub
}

// Config tunes a [Participant].
type Config struct {
	// Topic is where replies go that are no domain event: the refusal of a
	// late or expired command, the answer to an Undo of nothing. They have the
	// type saga.ReplyType. Required.
	Topic string
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Participant answers commands in one service's database. It is safe for
// concurrent use.
type Participant struct {
	dialect sqldb.Dialect
	outbox  saga.Outbox
	topic   string
	now     func() time.Time
}

// New returns a participant that sends its replies through the outbox. Apply
// [Migrations] first.
func New(d sqldb.Dialect, outbox saga.Outbox, cfg *Config) (*Participant, error) {
	if !d.Valid() {
		return nil, fmt.Errorf("participant: unknown dialect %v; take sqldb.Postgres or sqldb.SQLite", d)
	}
	if outbox == nil {
		return nil, errors.New("participant: New needs an outbox to reply through")
	}
	if cfg == nil || cfg.Topic == "" {
		return nil, errors.New("participant: Config.Topic is required: name the topic of this service's events")
	}
	p := &Participant{dialect: d, outbox: outbox, topic: cfg.Topic, now: cfg.Now}
	if p.now == nil {
		p.now = time.Now
	}
	return p, nil
}

// StepKey returns the step key of a command: store it with an intent, send it to
// the outside as the idempotency key, and give it to [Participant.Resolve].
func StepKey(cmd events.Event) string { return cmd.Extension(saga.ExtStep) }

// state of Do and of Undo in a record.
const (
	none    = "none"
	pending = "pending"
	okState = "ok"
	refused = "refused"
)

// record is what is stored of one step.
type record struct {
	key, sagaID, msgKey string
	do, undo            string
	doReply, undoReply  []byte
	expires             sql.NullInt64
}

// open returns the step's locked record, inserting a fresh one.
func (p *Participant) open(ctx context.Context, tx sqldb.Tx, cmd events.Event) (*record, error) {
	r := &record{key: StepKey(cmd), sagaID: cmd.Extension(saga.ExtID), msgKey: cmd.Key, do: none, undo: none}
	if r.key == "" || r.sagaID == "" {
		return nil, inbox.Permanent(fmt.Errorf("participant: the event %s of type %s is no saga's command: it lacks the attributes %s and %s",
			cmd.ID, cmd.Type, saga.ExtID, saga.ExtStep))
	}
	if v := cmd.Extension(saga.ExtExpires); v != "" {
		at, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return nil, inbox.Permanent(fmt.Errorf("participant: the command %s has a malformed %s %q: %w", cmd.ID, saga.ExtExpires, v, err))
		}
		r.expires = sql.NullInt64{Int64: sqldb.Micros(at), Valid: true}
	}
	now := sqldb.Micros(p.now())
	res, err := tx.ExecContext(ctx, `INSERT INTO napkin_saga_commands
(step_key, saga_id, msg_key, do_state, undo_state, created_at, updated_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`, r.key, r.sagaID, r.msgKey, none, none, now, now, r.expires)
	if err != nil {
		return nil, fmt.Errorf("participant: record the command %s: %w", r.key, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return nil, fmt.Errorf("participant: record the command %s: %w", r.key, err)
	}
	if n == 1 {
		return r, nil
	}
	return p.lock(ctx, tx, r.key)
}

func (p *Participant) lock(ctx context.Context, tx sqldb.Tx, key string) (*record, error) {
	r := &record{key: key}
	err := tx.QueryRow(ctx, `SELECT saga_id, msg_key, do_state, do_reply, undo_state, undo_reply, expires_at
FROM napkin_saga_commands WHERE step_key = $1`+p.dialect.ForUpdate(), key).
		Scan(&r.sagaID, &r.msgKey, &r.do, &r.doReply, &r.undo, &r.undoReply, &r.expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: %s", ErrUnknownStep, key)
	}
	if err != nil {
		return nil, fmt.Errorf("participant: read the command %s: %w", key, err)
	}
	return r, nil
}

func (p *Participant) save(ctx context.Context, tx sqldb.Execer, r *record) error {
	_, err := tx.ExecContext(ctx, `UPDATE napkin_saga_commands
SET do_state = $1, do_reply = $2, undo_state = $3, undo_reply = $4, updated_at = $5 WHERE step_key = $6`,
		r.do, r.doReply, r.undo, r.undoReply, sqldb.Micros(p.now()), r.key)
	if err != nil {
		return fmt.Errorf("participant: store the outcome of %s: %w", r.key, err)
	}
	return nil
}

// reply makes an event the reply to a phase of a step and appends it. It
// returns what is to be stored.
func (p *Participant) reply(ctx context.Context, tx sqldb.Execer, r *record, phase saga.Phase, outcome, reason string, ev events.Event) ([]byte, error) {
	if ev.Type == "" {
		ev.Type = saga.ReplyType
	}
	if ev.Topic == "" {
		ev.Topic = p.topic
	}
	if ev.Key == "" {
		ev.Key = r.msgKey
	}
	ext := make(map[string]string, len(ev.Extensions)+5)
	for k, v := range ev.Extensions {
		ext[k] = v
	}
	ext[saga.ExtID] = r.sagaID
	ext[saga.ExtStep] = r.key
	ext[saga.ExtPhase] = string(phase)
	ext[saga.ExtOutcome] = outcome
	if reason != "" {
		ext[saga.ExtReason] = oneLine(reason)
	}
	ev.Extensions = ext
	stored, err := json.Marshal(ev)
	if err != nil {
		return nil, fmt.Errorf("participant: store the reply to %s: %w", r.key, err)
	}
	return stored, p.append(ctx, tx, r, ev)
}

// oneLine makes a reason fit an attribute, which brokers carry as a header: no
// control characters, at most 300 bytes.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:297], "") + "…"
	}
	return s
}

func (p *Participant) append(ctx context.Context, tx sqldb.Execer, r *record, ev events.Event) error {
	if err := p.outbox.Append(ctx, tx, ev); err != nil {
		return fmt.Errorf("participant: reply to %s: %w", r.key, err)
	}
	return nil
}

// resend appends a stored reply once more, as a new event.
func (p *Participant) resend(ctx context.Context, tx sqldb.Execer, r *record, stored []byte) error {
	var ev events.Event
	if err := json.Unmarshal(stored, &ev); err != nil {
		return fmt.Errorf("participant: the stored reply to %s cannot be decoded: %w", r.key, err)
	}
	return p.append(ctx, tx, r, ev)
}

// Purge forgets the steps that were last touched before a moment and, where
// their commands expire, have expired before it too. It returns how many. Steps
// whose answer is still deferred stay.
func (p *Participant) Purge(ctx context.Context, tx sqldb.Execer, before time.Time) (int64, error) {
	res, err := tx.ExecContext(ctx, `DELETE FROM napkin_saga_commands WHERE updated_at < $1
AND (expires_at IS NULL OR expires_at < $2) AND do_state <> $3 AND undo_state <> $4`,
		sqldb.Micros(before), sqldb.Micros(before), pending, pending)
	if err != nil {
		return 0, fmt.Errorf("participant: purge: %w", err)
	}
	return res.RowsAffected()
}
