package sagatest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/saga"
)

// carry takes committed commands to the simulated participants.
func (r *run[S]) carry(ctx context.Context, in *saga.Instance) (bool, error) {
	fresh, err := r.commands(ctx)
	if err != nil {
		return false, err
	}
	moved := len(fresh) > 0
	for _, cmd := range fresh {
		step := r.step(cmd)
		if r.script[step] == Late && cmd.Extension(saga.ExtPhase) == string(saga.PhaseDo) {
			r.held = append(r.held, cmd)
			continue
		}
		r.receive(cmd)
	}
	// What was held arrives after its Undo, after the deadline, or at the end;
	// without a deadline, once it was sent again.
	var still []events.Event
	for i, cmd := range r.held {
		p := r.participant(cmd)
		past := !in.DeadlineAt.IsZero() && r.now.After(in.DeadlineAt)
		again := false
		for _, later := range r.held[i+1:] {
			again = again || later.Extension(saga.ExtStep) == cmd.Extension(saga.ExtStep)
		}
		if p.tombstone || past || in.Status.Ended() || (in.DeadlineAt.IsZero() && again) || p.deliveries > 0 {
			moved = true
			r.receive(cmd)
			continue
		}
		still = append(still, cmd)
	}
	r.held = still
	return moved, nil
}

func (r *run[S]) commands(ctx context.Context) ([]events.Event, error) {
	rows, err := r.db.Read.QueryContext(ctx, `SELECT seq, body FROM sagatest_outbox WHERE saga_id = $1 AND seq > $2 ORDER BY seq`, r.id, r.consumed)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []events.Event
	for rows.Next() {
		var body string
		var ev events.Event
		if err := rows.Scan(&r.consumed, &body); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(body), &ev); err != nil {
			return nil, err
		}
		out = append(out, ev)
	}
	return out, rows.Err()
}

func (r *run[S]) step(cmd events.Event) string {
	key := cmd.Extension(saga.ExtStep)
	return key[strings.LastIndexByte(key, '/')+1:]
}

func (r *run[S]) participant(cmd events.Event) *participant {
	key := cmd.Extension(saga.ExtStep)
	p := r.world[key]
	if p == nil {
		p = &participant{}
		r.world[key] = p
	}
	return p
}

// receive is the other side: stored outcomes, tombstones, expiry.
func (r *run[S]) receive(cmd events.Event) {
	p, step, key := r.participant(cmd), r.step(cmd), cmd.Extension(saga.ExtStep)
	if cmd.Extension(saga.ExtPhase) == string(saga.PhaseUndo) {
		if !p.tombstone {
			p.tombstone = true
			if p.outcome == saga.OutcomeOKValue {
				r.effect(step, saga.PhaseUndo, key+"/undo")
			}
		}
		r.answer(cmd, saga.OutcomeOKValue, "")
		return
	}
	p.deliveries++
	if p.outcome == "" {
		expires, err := time.Parse(time.RFC3339Nano, cmd.Extension(saga.ExtExpires))
		switch {
		case p.tombstone:
			p.outcome, p.reason = saga.OutcomeRefusedValue, "undone before it arrived"
		case err == nil && r.now.After(expires):
			p.outcome, p.reason = saga.OutcomeRefusedValue, "expired"
		case r.script[step] == Refused:
			p.outcome, p.reason = saga.OutcomeRefusedValue, "sagatest refuses "+step
		default:
			p.outcome = saga.OutcomeOKValue
			r.effect(step, saga.PhaseDo, key)
		}
	}
	if r.script[step] == Ambiguous && p.deliveries == 1 {
		return // the answer is lost; the next attempt gets the stored outcome
	}
	r.answer(cmd, p.outcome, p.reason)
}

func (r *run[S]) answer(cmd events.Event, outcome, reason string) {
	r.seq++
	r.replies = append(r.replies, events.Event{
		ID: fmt.Sprintf("reply-%d", r.seq), Source: "sagatest", Type: saga.ReplyType, Topic: cmd.Topic, Key: cmd.Key,
		Data: []byte("{}"), DataContentType: "application/json",
		Extensions: map[string]string{
			saga.ExtID: cmd.Extension(saga.ExtID), saga.ExtStep: cmd.Extension(saga.ExtStep),
			saga.ExtPhase: cmd.Extension(saga.ExtPhase), saga.ExtOutcome: outcome, saga.ExtReason: reason,
		},
	})
}
