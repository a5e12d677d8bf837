package participant

import (
	"context"
	"errors"
	"fmt"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// Handler does, or undoes, a step in tx. See the package documentation for what
// its results mean. A reply without a Topic goes to Config.Topic, one without a
// Type is a plain saga reply.
type Handler[T any] func(ctx context.Context, tx T, cmd events.Event) (reply events.Event, err error)

// Do makes an inbox handler of h for the command that does a step.
func Do[T any](p *Participant, r sqldb.Runner[T], h Handler[T]) func(ctx context.Context, tx T, cmd events.Event) error {
	return func(ctx context.Context, own T, cmd events.Event) error {
		tx := r.Wrap(own)
		rec, err := p.open(ctx, tx, cmd)
		if err != nil {
			return err
		}
		switch {
		case rec.do == okState || rec.do == refused:
			return p.resend(ctx, tx, rec, rec.doReply)
		case rec.do == pending:
			return nil // its answer is under way
		case rec.undo != none: // the tombstone
			return p.refuse(ctx, tx, rec, "the step was undone before it arrived", events.Event{})
		case rec.expires.Valid && sqldb.Micros(p.now()) > rec.expires.Int64:
			return p.refuse(ctx, tx, rec, "the command had expired", events.Event{})
		}
		reply, err := h(ctx, own, cmd)
		if reason, ok := saga.Refused(err); ok {
			return p.refuse(ctx, tx, rec, reason, reply)
		}
		if errors.Is(err, Deferred) {
			rec.do = pending
			return p.save(ctx, tx, rec)
		}
		if err != nil {
			return err
		}
		return p.done(ctx, tx, rec, reply)
	}
}

func (p *Participant) refuse(ctx context.Context, tx sqldb.Execer, rec *record, reason string, reply events.Event) (err error) {
	rec.do = refused
	if rec.doReply, err = p.reply(ctx, tx, rec, saga.PhaseDo, saga.OutcomeRefusedValue, reason, reply); err != nil {
		return err
	}
	return p.save(ctx, tx, rec)
}

func (p *Participant) done(ctx context.Context, tx sqldb.Execer, rec *record, reply events.Event) (err error) {
	rec.do = okState
	if rec.doReply, err = p.reply(ctx, tx, rec, saga.PhaseDo, saga.OutcomeOKValue, "", reply); err != nil {
		return err
	}
	return p.save(ctx, tx, rec)
}

// Undo makes an inbox handler of h for the command that undoes a step. h is
// called only where Do has happened, or may have.
func Undo[T any](p *Participant, r sqldb.Runner[T], h Handler[T]) func(ctx context.Context, tx T, cmd events.Event) error {
	return func(ctx context.Context, own T, cmd events.Event) error {
		tx := r.Wrap(own)
		rec, err := p.open(ctx, tx, cmd)
		if err != nil {
			return err
		}
		switch {
		case rec.undo == okState:
			return p.resend(ctx, tx, rec, rec.undoReply)
		case rec.undo == pending:
			return nil // its answer is under way
		case rec.do == none || rec.do == refused: // nothing to undo; the tombstone keeps it so
			return p.undone(ctx, tx, rec, events.Event{})
		}
		reply, err := h(ctx, own, cmd)
		if reason, ok := saga.Refused(err); ok {
			// The saga is stuck over it. The next Undo asks the handler again.
			rec.undo = refused
			if rec.undoReply, err = p.reply(ctx, tx, rec, saga.PhaseUndo, saga.OutcomeRefusedValue, reason, reply); err != nil {
				return err
			}
			return p.save(ctx, tx, rec)
		}
		if errors.Is(err, Deferred) {
			rec.undo = pending
			return p.save(ctx, tx, rec)
		}
		if err != nil {
			return err
		}
		return p.undone(ctx, tx, rec, reply)
	}
}

func (p *Participant) undone(ctx context.Context, tx sqldb.Execer, rec *record, reply events.Event) (err error) {
	rec.undo = okState
	if rec.undoReply, err = p.reply(ctx, tx, rec, saga.PhaseUndo, saga.OutcomeOKValue, "", reply); err != nil {
		return err
	}
	return p.save(ctx, tx, rec)
}

// Resolve answers a deferred Do, in the transaction that records its outcome.
// refused says that the effect is known to be absent; a deferred Undo is then
// answered with it. Where the effect happened although its Undo was asked for,
// reverse it and call [Participant.ResolveUndo]. Resolving again does nothing.
// ErrUnknownStep.
func (p *Participant) Resolve(ctx context.Context, tx sqldb.Tx, stepKey string, isRefused bool, reason string, reply events.Event) error {
	rec, err := p.lock(ctx, tx, stepKey)
	if err != nil {
		return err
	}
	if rec.do != pending {
		return nil
	}
	if !isRefused {
		return p.done(ctx, tx, rec, reply)
	}
	if err := p.refuse(ctx, tx, rec, reason, reply); err != nil {
		return err
	}
	if rec.undo == pending {
		return p.undone(ctx, tx, rec, events.Event{})
	}
	return nil
}

// ResolveUndo answers a deferred Undo once the effect has been reversed, in the
// transaction that records it. Resolving again does nothing. ErrUnknownStep.
func (p *Participant) ResolveUndo(ctx context.Context, tx sqldb.Tx, stepKey string, reply events.Event) error {
	rec, err := p.lock(ctx, tx, stepKey)
	if err != nil {
		return err
	}
	if rec.undo != pending {
		return nil
	}
	if rec.do == pending {
		return fmt.Errorf("participant: %s: resolve the deferred Do before its Undo", stepKey)
	}
	return p.undone(ctx, tx, rec, reply)
}

// UndoRequested reports whether an Undo waits for the deferred Do: the worker
// that finds the effect done reverses it then. ErrUnknownStep.
func (p *Participant) UndoRequested(ctx context.Context, tx sqldb.Tx, stepKey string) (bool, error) {
	rec, err := p.lock(ctx, tx, stepKey)
	if err != nil {
		return false, err
	}
	return rec.undo == pending, nil
}

// IsUndo reports whether an event is the command to undo a step. A consumer that
// parks keys behind a dead letter lets these pass:
// inbox.ConsumerConfig.BypassParking.
func IsUndo(cmd events.Event) bool {
	return StepKey(cmd) != "" && cmd.Extension(saga.ExtPhase) == string(saga.PhaseUndo) && cmd.Extension(saga.ExtOutcome) == ""
}

// DeadLettered answers a command that the consumer has given up on, so that its
// saga need not wait for the deadline: Do is refused, since none of its attempts
// committed, and Undo is refused, which leaves the saga stuck for an operator.
// It does nothing for events that are no command and for steps that have an
// answer. It is an inbox.ConsumerConfig.OnDeadLetter.
func (p *Participant) DeadLettered(ctx context.Context, tx sqldb.Tx, cmd events.Event, cause error) error {
	if StepKey(cmd) == "" || cmd.Extension(saga.ExtID) == "" || cmd.Extension(saga.ExtOutcome) != "" {
		return nil
	}
	cmd.Extensions = without(cmd.Extensions, saga.ExtExpires) // it may be what is malformed
	rec, err := p.open(ctx, tx, cmd)
	if err != nil {
		return err
	}
	reason := "the command was dead-lettered: " + cause.Error()
	switch {
	case IsUndo(cmd) && (rec.undo == none || rec.undo == refused):
		rec.undo = refused
		if rec.undoReply, err = p.reply(ctx, tx, rec, saga.PhaseUndo, saga.OutcomeRefusedValue, reason, events.Event{}); err != nil {
			return err
		}
		return p.save(ctx, tx, rec)
	case !IsUndo(cmd) && rec.do == none:
		return p.refuse(ctx, tx, rec, reason, events.Event{})
	}
	return nil
}

func without(m map[string]string, key string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}
