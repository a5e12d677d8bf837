package saga

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// CloudEvents extension attributes of commands and replies.
const (
	// ExtID is the saga's id.
	ExtID = "sagaid"
	// ExtStep is Do's step key, in Do and Undo alike. A participant stores
	// outcomes and tombstones by it.
	ExtStep = "sagastep"
	// ExtPhase is "do" or "undo".
	ExtPhase = "sagaphase"
	// ExtExpires is the moment (RFC 3339) after which Do is to be refused.
	ExtExpires = "sagaexpires"
	// ExtOutcome makes an event a reply: "ok" or "refused".
	ExtOutcome = "sagaoutcome"
	// ExtReason is why it was refused.
	ExtReason = "sagareason"
)

// Values of ExtOutcome.
const (
	OutcomeOKValue      = "ok"
	OutcomeRefusedValue = "refused"
)

// ReplyType is the type of a reply that is no domain event of the participant:
// the answer to an Undo of nothing, to an expired or a late command. A
// coordinator's consumer handles it on every topic that replies come from.
const ReplyType = "napkin.saga.v1.Reply"

// sendDo appends the command of a step, under the same step key and a new event
// id each time.
func (t *turn) sendDo(ctx context.Context, l *leaf, r *StepRecord) error {
	var ev events.Event
	err := guard(func() (err error) { ev, err = l.build(t.s); return err })
	if reason, ok := Refused(err); ok {
		t.refused(ctx, l, reason)
		return nil
	}
	if err != nil {
		t.buildErr = fmt.Errorf("saga: step %q cannot build its command: %w", l.name, err)
		t.entry(EntryFailed, l.name, r.Attempts+1, err.Error())
		t.giveUp(ctx, l, err)
		return nil
	}
	expires := ""
	if l.kind != Retriable && !t.in.DeadlineAt.IsZero() {
		expires = t.in.DeadlineAt.UTC().Format(time.RFC3339Nano)
	}
	r.Status = StepAttempted
	return t.send(ctx, l, r, ev, PhaseDo, expires)
}

func (t *turn) sendUndo(ctx context.Context, l *leaf, r *StepRecord) error {
	var ev events.Event
	if err := guard(func() (err error) { ev, err = l.buildUndo(t.s); return err }); err != nil {
		t.stuck(ctx, l, "the undo command cannot be built: "+err.Error())
		return nil
	}
	r.Status = StepUndoing
	return t.send(ctx, l, r, ev, PhaseUndo, "")
}

func (t *turn) send(ctx context.Context, l *leaf, r *StepRecord, ev events.Event, phase Phase, expires string) error {
	ev.ID = rand.Text()
	if ev.Key == "" {
		ev.Key = t.in.ID
	}
	ext := make(map[string]string, len(ev.Extensions)+4)
	for k, v := range ev.Extensions {
		ext[k] = v
	}
	ext[ExtID] = t.in.ID
	ext[ExtStep] = t.p.key(t.in.ID, l.name)
	ext[ExtPhase] = string(phase)
	if expires != "" {
		ext[ExtExpires] = expires
	}
	ev.Extensions = ext
	if err := t.c.cfg.Outbox.Append(t.stepContext(ctx, l, phase), t.ex, ev); err != nil {
		return fmt.Errorf("saga: append the command of step %q: %w", l.name, err)
	}
	r.Attempts++
	r.NextAt = t.now.Add(t.c.backoff(l.wait, r.Attempts, t.in.ID+l.name))
	if r.Attempts == 1 {
		r.NextAt = t.now.Add(l.wait)
	}
	if t.point.Phase == "" { // else the transaction is named by what it records: a start, an outcome, a cancel
		t.point.Step, t.point.Phase = l.name, "attempt"
	}
	kind := EntryAttempted
	if phase == PhaseUndo {
		kind = EntryUndoing
	}
	t.entry(kind, l.name, r.Attempts, ev.Type+" "+ev.ID)
	t.tell(ctx, t.c.cfg.Hooks.StepAttempted, t.info(l, phase))
	return nil
}

// HandleReply takes a participant's reply: in tx, which is the inbox's, it
// locks the instance, records the outcome and appends the next command. Give it
// to the consumer as the handler of every event type that may be a reply, and
// of [ReplyType]. Events that are no reply, or to a saga that is not kept here,
// are ignored.
func (c *Coordinator) HandleReply(ctx context.Context, tx sqldb.Tx, e events.Event) error {
	id, key := e.Extension(ExtID), e.Extension(ExtStep)
	if id == "" || key == "" || e.Extension(ExtOutcome) == "" {
		return nil
	}
	in, err := c.store.Lock(ctx, tx, id)
	if errors.Is(err, ErrNotFound) {
		return nil // another service's saga
	}
	if err != nil {
		return err
	}
	step, ok := strings.CutPrefix(key, in.Name+"/"+in.ID+"/")
	if !ok || in.Status.Ended() {
		return nil
	}
	t, err := c.newTurn(in, tx)
	if err != nil {
		return c.bufferReply(ctx, tx, in, e, err)
	}
	t.point = Point{Saga: in.Name, ID: in.ID, Step: step, Phase: e.Extension(ExtPhase)}
	t.reply(ctx, step, e)
	if err := t.advance(ctx); err != nil {
		return err
	}
	return t.save(ctx)
}

// bufferReply keeps a reply that cannot be applied here: the version is served
// by another node, or the state cannot be decoded.
func (c *Coordinator) bufferReply(ctx context.Context, tx sqldb.Tx, in *Instance, e events.Event, why error) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("saga: keep a reply: %w", err)
	}
	now := c.now()
	m := Message{SagaID: in.ID, Kind: MessageReply, ID: e.ID, Body: body, At: now}
	if err := c.store.Buffer(ctx, tx, m); err != nil {
		return err
	}
	in.Buffered = true
	in.DueAt = now
	in.UpdatedAt = now
	c.cfg.Logger.WarnContext(ctx, "saga: a reply was kept for later", "saga", in.Name, "id", in.ID, "error", why)
	return c.store.Save(ctx, tx, in, nil)
}

// replies applies what bufferReply kept.
func (t *turn) replies(ctx context.Context) error {
	if !t.in.Buffered {
		return nil
	}
	kept, err := t.c.store.Take(ctx, t.tx, t.in.ID, MessageReply, "")
	if err != nil {
		return err
	}
	t.in.Buffered = false
	t.changed = true
	for _, m := range kept {
		var e events.Event
		if err := json.Unmarshal(m.Body, &e); err != nil {
			return fmt.Errorf("saga: a kept reply of %s: %w", t.in.ID, err)
		}
		if step, ok := strings.CutPrefix(e.Extension(ExtStep), t.in.Name+"/"+t.in.ID+"/"); ok {
			t.reply(ctx, step, e)
		}
	}
	return nil
}

// reply records what a reply says.
func (t *turn) reply(ctx context.Context, step string, e events.Event) {
	l, ok := t.p.byName[step]
	if !ok || l.op != opCommand {
		t.entry(EntryLate, step, 0, "no such command step: "+e.ID)
		return
	}
	r := t.in.record(step)
	refused := e.Extension(ExtOutcome) == OutcomeRefusedValue
	undo := e.Extension(ExtPhase) == string(PhaseUndo)
	expected := StepAttempted
	if undo {
		expected = StepUndoing
	}
	if r.Status != expected || r.Reply != nil {
		// A duplicate, or the answer to a Do whose Undo is under way: the
		// participant's tombstone settles that.
		t.entry(EntryLate, step, 0, e.Extension(ExtPhase)+" "+e.Extension(ExtOutcome)+" "+e.ID)
		return
	}
	if t.in.Status == StatusStuck && t.in.StuckStep == step {
		t.unstick()
	}
	switch {
	case undo && refused:
		t.stuck(ctx, l, "an undo was refused: "+e.Extension(ExtReason))
	case undo:
		t.undone(ctx, l)
	case refused:
		t.refused(ctx, l, e.Extension(ExtReason))
	default:
		if l.onReply != nil {
			r.Reply = &e
		}
		t.done(ctx, l)
	}
}
