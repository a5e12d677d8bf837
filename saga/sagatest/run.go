package sagatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

const leaseTTL = 3 * time.Second

// run is one saga from its start to its end, in a simulated world.
type run[S any] struct {
	db     *sqldb.DB
	id     string
	script script
	shapes []shape
	c      Case[S]
	wrap   func(saga.Store) saga.Store

	now       time.Time
	crashAt   int // the commit to crash at: odd before, even after it; 0 never
	crashedAt string
	store     *crashStore
	coord     *saga.Coordinator
	handle    *saga.Handle[S]

	seq      int64 // orders effects and commands
	ledger   []effect
	world    map[string]*participant // by step key
	consumed int64                   // commands read from the outbox
	held     []events.Event          // late commands
	replies  []events.Event          // on their way
	signals  map[string]bool         // sent
	tries    map[string]int          // of local steps and calls
}

// effect is something that happened outside the coordinator's own rows.
type effect struct {
	seq   int64
	step  string
	phase saga.Phase
	key   string
}

// participant is the other side's memory of one step.
type participant struct {
	outcome    string // of Do; "" for none
	reason     string
	tombstone  bool
	deliveries int
}

func newRun[S any](t testing.TB, cfg Config[S], db *sqldb.DB, id string, sc script) *run[S] {
	t.Helper()
	r := &run[S]{
		db: db, id: id, script: sc, c: cfg.New(t, db), wrap: cfg.Store,
		now:   time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		world: make(map[string]*participant), signals: make(map[string]bool), tries: make(map[string]int),
	}
	r.shapes = describe(r.c.Definition)
	return r
}

// Append is the outbox: a table, so that a command exists only if its
// transaction commits.
func (r *run[S]) Append(ctx context.Context, tx sqldb.Execer, evs ...events.Event) error {
	for _, ev := range evs {
		body, err := json.Marshal(ev)
		if err != nil {
			return err
		}
		r.seq++
		if _, err := tx.ExecContext(ctx, `INSERT INTO sagatest_outbox (saga_id, seq, body) VALUES ($1, $2, $3)`, r.id, r.seq, string(body)); err != nil {
			return err
		}
	}
	return nil
}

func (r *run[S]) effect(step string, phase saga.Phase, key string) {
	r.seq++
	r.ledger = append(r.ledger, effect{r.seq, step, phase, key})
}

func (r *run[S]) localEffect(ctx context.Context, tx sqldb.Execer, step string, phase saga.Phase) error {
	r.seq++
	_, err := tx.ExecContext(ctx, `INSERT INTO sagatest_effects (saga_id, seq, step, phase) VALUES ($1, $2, $3, $4)`, r.id, r.seq, step, string(phase))
	return err
}

// boot starts a coordinator, as a new process would.
func (r *run[S]) boot() error {
	inner, err := sqlsaga.New(r.db, &sqlsaga.Config{Now: func() time.Time { return r.now }, Shared: true})
	if err != nil {
		return err
	}
	if r.wrap != nil {
		inner = r.wrap(inner)
	}
	if r.store == nil {
		r.store = &crashStore{at: r.crashAt}
	} else {
		r.store = &crashStore{} // one crash for each run
	}
	r.store.Store = inner
	r.coord, err = saga.NewCoordinator(r.store, &saga.Config{
		Outbox: r, Now: func() time.Time { return r.now }, Logger: slog.New(slog.DiscardHandler),
		Attempts: 4, LeaseTTL: leaseTTL, Node: "sagatest",
	})
	if err != nil {
		return err
	}
	r.handle, err = saga.Register(r.coord, instrument(r, r.c.Definition))
	return err
}

// survive runs one act of the process and, where it crashed in it, starts the
// next process. The act is then repeated where again says so.
func (r *run[S]) survive(act func() error) (crashed bool, err error) {
	err = act()
	if errors.Is(err, errCrash) {
		r.crashedAt = r.store.where
		return true, r.boot()
	}
	return false, err
}

// play runs the saga to its end and judges it.
func (r *run[S]) play(ctx context.Context) error {
	if err := r.boot(); err != nil {
		return err
	}
	start := func() error {
		err := r.store.InTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
			return r.handle.Start(ctx, tx, r.id, r.c.State)
		})
		if errors.Is(err, saga.ErrExists) {
			return nil // the crash came after the commit
		}
		return err
	}
	for crashed := true; crashed; {
		var err error
		if crashed, err = r.survive(start); err != nil {
			return fmt.Errorf("start: %w", err)
		}
	}
	for turn := 0; ; turn++ {
		in, err := r.store.Store.Get(ctx, r.id)
		if err != nil {
			return err
		}
		if in.Status == saga.StatusStuck {
			return fmt.Errorf("stuck at step %q: %s", in.StuckStep, in.StuckReason)
		}
		if turn > 400 {
			return fmt.Errorf("has not ended after %d turns and %v; it is %s", turn, r.now.Sub(in.CreatedAt), in.Status)
		}
		moved, err := r.turn(ctx, in)
		if err != nil {
			return err
		}
		if !moved && in.Status.Ended() {
			return r.judge(ctx)
		}
		if !moved {
			if r.signal(ctx) {
				continue
			}
			r.wait(in)
		}
	}
}

// turn does everything that can happen at this moment.
func (r *run[S]) turn(ctx context.Context, in *saga.Instance) (moved bool, err error) {
	crashed, err := r.survive(func() error {
		_, err := r.coord.RunDue(ctx)
		return err
	})
	if err != nil {
		return false, err
	}
	after, err := r.store.Store.Get(ctx, r.id)
	if err != nil {
		return false, err
	}
	moved = crashed || after.Revision != in.Revision
	carried, err := r.carry(ctx, after)
	if err != nil {
		return false, err
	}
	for len(r.replies) > 0 {
		moved = true
		reply := r.replies[0]
		crashed, err := r.survive(func() error {
			return r.store.InTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
				return r.coord.HandleReply(ctx, tx, reply)
			})
		})
		if err != nil {
			return false, fmt.Errorf("reply %s: %w", reply.ID, err)
		}
		if !crashed { // else the broker delivers it again, whether it committed or not
			r.replies = r.replies[1:]
		}
	}
	return moved || carried, nil
}

// signal sends the signals that steps wait for, once each.
func (r *run[S]) signal(ctx context.Context) bool {
	in, err := r.store.Store.Get(ctx, r.id)
	if err != nil {
		return false
	}
	for _, sh := range r.shapes {
		name := sh.name
		if sh.op != "signal" || r.signals[name] || in.Steps[name] == nil || in.Steps[name].Status != saga.StepAttempted {
			continue
		}
		crashed, err := r.survive(func() error {
			return r.store.InTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
				return r.handle.Signal(ctx, tx, r.id, name, r.c.Signals[name])
			})
		})
		r.signals[name] = err == nil && !crashed
		return true
	}
	return false
}

// wait moves the clock to where something happens next.
func (r *run[S]) wait(in *saga.Instance) {
	if in.Owner == "" && in.DueAt.After(r.now) {
		r.now = in.DueAt
		return
	}
	r.now = r.now.Add(leaseTTL / 2) // a dead owner is taken over after two of these
}

// judge compares the ledger with how the saga ended.
func (r *run[S]) judge(ctx context.Context) error {
	in, state, err := r.handle.Get(ctx, r.id)
	if err != nil {
		return err
	}
	all, err := r.effects(ctx)
	if err != nil {
		return err
	}
	type times struct{ do, undo []int64 }
	by := make(map[string]*times)
	seen := make(map[string]bool) // a step key that arrives again has no second effect
	for _, e := range all {
		if by[e.step] == nil {
			by[e.step] = &times{}
		}
		if e.key != "" && seen[e.key] {
			continue
		}
		seen[e.key] = true
		if e.phase == saga.PhaseDo {
			by[e.step].do = append(by[e.step].do, e.seq)
		} else {
			by[e.step].undo = append(by[e.step].undo, e.seq)
		}
	}
	refusal := false
	for name, o := range r.script {
		refusal = refusal || (o == Refused && in.Steps[name] != nil && in.Steps[name].Status == saga.StepRefused)
	}
	if refusal && in.Status != saga.StatusCompensated {
		return fmt.Errorf("a step was refused, and the saga is %s", in.Status)
	}
	for _, sh := range r.shapes {
		name := sh.name
		if sh.op == "timer" || sh.op == "signal" {
			continue
		}
		t := by[name]
		if t == nil {
			t = &times{}
		}
		switch {
		case len(t.do) > 1:
			return fmt.Errorf("step %q happened %d times", name, len(t.do))
		case len(t.undo) > 1:
			return fmt.Errorf("step %q was undone %d times", name, len(t.undo))
		case in.Status == saga.StatusCompleted && len(t.do) != 1:
			return fmt.Errorf("the saga completed, and step %q never happened", name)
		case in.Status == saga.StatusCompleted && len(t.undo) > 0:
			return fmt.Errorf("the saga completed, and step %q was undone", name)
		case in.Status == saga.StatusCompensated && len(t.do) == 1 && len(t.undo) == 0:
			return fmt.Errorf("the saga was compensated, and step %q, which happened, was not undone", name)
		case len(t.do) == 1 && len(t.undo) == 1 && t.undo[0] < t.do[0]:
			return fmt.Errorf("step %q took effect after it was undone", name)
		}
	}
	for _, sa := range r.shapes {
		for _, sb := range r.shapes {
			a, b := sa.name, sb.name
			if sa.stage < sb.stage && by[a] != nil && by[b] != nil && len(by[a].undo) > 0 && len(by[b].undo) > 0 &&
				by[a].undo[0] < by[b].undo[0] {
				return fmt.Errorf("step %q was undone before the later step %q", a, b)
			}
		}
	}
	if r.c.Check != nil {
		if err := r.c.Check(ctx, r.db, in, state); err != nil {
			return fmt.Errorf("check: %w", err)
		}
	}
	return nil
}

// effects merges the ledger of the outside with the committed local effects.
func (r *run[S]) effects(ctx context.Context) ([]effect, error) {
	all := append([]effect(nil), r.ledger...)
	rows, err := r.db.Read.QueryContext(ctx, `SELECT seq, step, phase FROM sagatest_effects WHERE saga_id = $1`, r.id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e effect
		if err := rows.Scan(&e.seq, &e.step, &e.phase); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].seq < all[j].seq })
	return all, rows.Err()
}

// trace tells a failed run.
func (r *run[S]) trace(failure error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "sagatest: %v\n  outcomes: %s\n", failure, r.script)
	if r.crashedAt != "" {
		fmt.Fprintf(&b, "  crashed: %s\n", r.crashedAt)
	}
	// The test's own context may have ended; the trace is wanted all the same.
	ctx := context.Background()
	if log, err := r.store.Store.History(ctx, r.id); err == nil && len(log) > 0 {
		first := log[0].At
		for _, e := range log {
			fmt.Fprintf(&b, "  +%-8v %-16s %-20s %s\n", e.At.Sub(first), e.Kind, e.Step, e.Detail)
		}
	}
	if all, err := r.effects(ctx); err == nil {
		for _, e := range all {
			fmt.Fprintf(&b, "  effect %d: %s %s\n", e.seq, e.phase, e.step)
		}
	}
	return b.String()
}
