package saga

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Handle starts and steers the instances of one version of a definition.
type Handle[S any] struct {
	c *Coordinator
	p *plan
}

var idRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)

// Start starts an instance in the caller's transaction: it exists if and only
// if tx commits. The commands of the first step are sent in the same
// transaction; everything else runs at once after the commit where tx was opened
// by a sqldb.Runner and Run runs in this process, and is found by the poll
// otherwise. The id is 1 to 128 letters, digits and "._:-", and unique among all
// sagas of the database. It returns ErrExists where it is taken; nothing was
// written then, and tx remains usable.
func (h *Handle[S]) Start(ctx context.Context, tx sqldb.Execer, id string, s S) error {
	if !idRE.MatchString(id) {
		return fmt.Errorf("saga: the id %q is not usable; take 1 to 128 letters, digits and \"._:-\", beginning with a letter or digit", id)
	}
	c := h.c
	now := c.now()
	state, err := h.p.encode(&s, c.cfg.MaxState)
	if err != nil {
		return err
	}
	in := &Instance{
		ID: id, Name: h.p.name, Version: h.p.version, Status: StatusRunning, State: state,
		CreatedAt: now, UpdatedAt: now,
		Progress: Progress{IDs: correlation.From(ctx)},
	}
	if h.p.deadline > 0 {
		in.DeadlineAt = now.Add(h.p.deadline)
	}
	if c.cfg.Hooks.Inject != nil {
		in.Carrier = make(map[string]string)
		c.cfg.Hooks.Inject(ctx, in.Carrier)
	}
	// The steps work on a copy, so that what the caller keeps is not shared.
	own, err := h.p.decode(state)
	if err != nil {
		return err
	}
	t := &turn{c: c, p: h.p, in: in, s: own, now: now, ex: tx, point: Point{Saga: in.Name, ID: id, Phase: "start"}}
	// The row goes first: a taken id must not send commands.
	t.entry(EntryStarted, "", 0, "")
	in.DueAt = now
	inserted, err := c.store.Insert(ctx, tx, in, t.log)
	if err != nil {
		return err
	}
	if !inserted {
		return fmt.Errorf("%w: %s", ErrExists, id)
	}
	t.log = nil
	if err := t.advance(ctx); err != nil {
		return err
	}
	if t.buildErr != nil {
		return t.buildErr
	}
	t.changed = true
	t.tell(ctx, c.cfg.Hooks.Started, t.info(nil, PhaseDo))
	return t.save(ctx)
}

// CancelResult says what a cancellation did.
type CancelResult int

const (
	// CancelCompensating says that the saga is being undone.
	CancelCompensating CancelResult = iota + 1
	// CancelFlagged says that the pivot was attempted: the saga is finished if
	// the pivot happened, and OnCompleted then sees [CancelRequested].
	CancelFlagged
	// CancelEndedCompleted says that the saga had completed before.
	CancelEndedCompleted
	// CancelEndedCompensated says that the saga had been undone before.
	CancelEndedCompensated
)

// String returns the result in words.
func (r CancelResult) String() string {
	switch r {
	case CancelCompensating:
		return "compensating"
	case CancelFlagged:
		return "flagged"
	case CancelEndedCompleted:
		return "already completed"
	case CancelEndedCompensated:
		return "already compensated"
	default:
		return "unknown"
	}
}

// Cancel asks for the saga to be undone, in the caller's transaction. It locks
// the saga's row: lock business rows after it. Cancelling twice is harmless.
// ErrNotFound.
func (h *Handle[S]) Cancel(ctx context.Context, tx sqldb.Tx, id, reason string) (CancelResult, error) {
	in, err := h.c.store.Lock(ctx, tx, id)
	if err != nil {
		return 0, err
	}
	switch in.Status {
	case StatusCompleted:
		return CancelEndedCompleted, nil
	case StatusCompensated:
		return CancelEndedCompensated, nil
	}
	t, err := h.c.newTurn(in, tx)
	if err != nil {
		return 0, err
	}
	t.point = Point{Saga: in.Name, ID: id, Phase: "cancel"}
	direction := in.Status
	if direction == StatusStuck {
		direction = in.StuckIn
	}
	if direction == StatusCompensating {
		return CancelCompensating, nil
	}
	if in.Cancel == nil {
		in.Cancel = &CancelRequest{Reason: reason, At: t.now}
		t.entry(EntryCancel, "", 0, reason)
	}
	if t.pastPoint() {
		return CancelFlagged, t.save(ctx)
	}
	if in.Status == StatusStuck {
		t.unstick()
	}
	if err := t.advance(ctx); err != nil {
		return 0, err
	}
	return CancelCompensating, t.save(ctx)
}

// Signal delivers payload, as JSON, to the [Signal] step of that name. Where the
// instance has not come to the step, or has not been started, it is kept. A
// second signal while one is kept waits behind it.
func (h *Handle[S]) Signal(ctx context.Context, tx sqldb.Tx, id, name string, payload any) error {
	l, ok := h.p.byName[name]
	if !ok || l.op != opSignal {
		return fmt.Errorf("saga: %q has no signal step %q", h.p.name, name)
	}
	body, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("saga: encode the signal %q: %w", name, err)
	}
	keep := func() error {
		return h.c.store.Buffer(ctx, tx, Message{SagaID: id, Kind: MessageSignal, Name: name, ID: rand.Text(), Body: body, At: h.c.now()})
	}
	in, err := h.c.store.Lock(ctx, tx, id)
	if errors.Is(err, ErrNotFound) {
		return keep()
	}
	if err != nil {
		return err
	}
	if in.Status.Ended() {
		return nil
	}
	t, err := h.c.newTurn(in, tx)
	if err != nil {
		return err
	}
	// The step of the version that the instance runs, which need not be this one.
	if l, ok = t.p.byName[name]; !ok || l.op != opSignal {
		return fmt.Errorf("saga: %s is a %s v%d, which has no signal step %q", id, in.Name, in.Version, name)
	}
	if in.Status != StatusRunning || in.record(name).Status != StepAttempted {
		return keep()
	}
	t.point = Point{Saga: in.Name, ID: id, Step: name, Phase: string(PhaseDo)}
	t.signalled(ctx, l, body)
	if err := t.advance(ctx); err != nil {
		return err
	}
	return t.save(ctx)
}

// Get returns an instance and its state. ErrNotFound.
func (h *Handle[S]) Get(ctx context.Context, id string) (*Instance, S, error) {
	var s S
	in, err := h.c.store.Get(ctx, id)
	if err != nil {
		return nil, s, err
	}
	if err := json.Unmarshal(in.State, &s); err != nil {
		return in, s, fmt.Errorf("saga: the state of %s cannot be decoded: %w", id, err)
	}
	return in, s, nil
}
