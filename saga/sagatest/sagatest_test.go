package sagatest_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sagatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func openSQLite(t testing.TB) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "saga.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// dialects runs a test on both databases.
func dialects(t *testing.T, test func(t *testing.T, open func(testing.TB) *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) { test(t, openSQLite) })
	t.Run("postgres", func(t *testing.T) { test(t, pgtest.DB) })
}

type order struct {
	Reservation string `json:"reservation,omitempty"`
	Auth        string `json:"auth,omitempty"`
	Charge      string `json:"charge,omitempty"`
	Notes       []string
}

// provider is a payment provider that deduplicates by key.
type provider struct {
	charges map[string]bool
	voids   map[string]bool
	every   int // charges without deduplication
}

// faults plants one.
type faults struct {
	undoForgets   bool // the local undo does nothing
	notIdempotent bool // the provider charges again for each call
	undoNeedsDo   bool // the undo of a call fails where nothing was done
	declines      bool // no fault: the pivot refuses
}

func command(typ string) func(*order) (events.Event, error) {
	return func(o *order) (events.Event, error) {
		return events.Event{Topic: "stock", Type: typ, Data: []byte(`{}`), DataContentType: "application/json"}, nil
	}
}

func config(open func(testing.TB) *sqldb.DB, f faults) sagatest.Config[order] {
	return sagatest.Config[order]{
		Open: func(t testing.TB) *sqldb.DB {
			db := open(t)
			if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE committed (id INTEGER NOT NULL PRIMARY KEY)`); err != nil {
				t.Fatal(err)
			}
			return db
		},
		New: func(t testing.TB, db *sqldb.DB) sagatest.Case[order] {
			if _, err := db.Write.ExecContext(t.Context(), `DELETE FROM committed`); err != nil {
				t.Fatal(err)
			}
			p := &provider{charges: map[string]bool{}, voids: map[string]bool{}}
			auths := map[string]bool{}
			return sagatest.Case[order]{
				Definition: definition(p, auths, f),
				Check: func(ctx context.Context, db *sqldb.DB, in *saga.Instance, o order) error {
					var rows int
					if err := db.Read.QueryRowContext(ctx, `SELECT count(*) FROM committed`).Scan(&rows); err != nil {
						return err
					}
					want := 0
					if in.Status == saga.StatusCompleted {
						want = 1
						if o.Reservation == "" && o.Auth == "" {
							return errors.New("the results of the group are missing")
						}
					}
					if rows != want {
						return fmt.Errorf("%d rows of stock are committed, want %d", rows, want)
					}
					if n := p.every; n != want {
						return fmt.Errorf("the provider charged %d times, want %d", n, want)
					}
					for key, on := range auths {
						if on != (in.Status == saga.StatusCompleted) {
							return fmt.Errorf("authorisation %s is held: %v", key, on)
						}
					}
					return nil
				},
			}
		},
	}
}

func definition(p *provider, auths map[string]bool, f faults) saga.Definition[order] {
	return saga.Definition[order]{
		Name: "checkout", Deadline: time.Minute,
		Steps: []saga.Step[order]{
			saga.Parallel[order]("prepare",
				&saga.Command[order]{
					Name: "reserve-stock", Do: command("Reserve"), Undo: command("Release"),
					OnReply: func(o *order, e events.Event) error { o.Reservation = e.ID; return nil },
				},
				&saga.Call[order]{
					Name: "authorize",
					Do: func(ctx context.Context, o *order) error {
						auths[saga.StepKey(ctx)] = true
						o.Auth = saga.StepKey(ctx)
						return nil
					},
					Undo: func(ctx context.Context, o *order) error {
						if f.undoNeedsDo && !auths[saga.DoKey(ctx)] {
							return errors.New("no such authorisation")
						}
						if auths[saga.DoKey(ctx)] {
							auths[saga.DoKey(ctx)] = false
						}
						return nil
					},
				},
			),
			&saga.Local[order]{
				Name: "commit-stock",
				Do: func(ctx context.Context, tx sqldb.Tx, _ *order) error {
					_, err := tx.ExecContext(ctx, `INSERT INTO committed (id) VALUES (1)`)
					return err
				},
				Undo: func(ctx context.Context, tx sqldb.Tx, _ *order) error {
					if f.undoForgets {
						return nil
					}
					_, err := tx.ExecContext(ctx, `DELETE FROM committed`)
					return err
				},
			},
			&saga.Call[order]{
				Name: "capture", Kind: saga.Pivot,
				Do: func(ctx context.Context, o *order) error {
					key := saga.StepKey(ctx)
					if f.declines {
						return saga.Refuse("declined")
					}
					if !p.charges[key] || f.notIdempotent {
						p.every++
					}
					p.charges[key] = true
					o.Charge = key
					return nil
				},
			},
			&saga.Command[order]{Name: "confirm", Kind: saga.Retriable, Do: command("Confirm")},
		},
	}
}

func TestASoundDefinitionSurvivesEveryOutcome(t *testing.T) {
	dialects(t, func(t *testing.T, open func(testing.TB) *sqldb.DB) {
		cfg := config(open, faults{})
		if testing.Short() {
			cfg.MaxRuns = 60
		}
		sagatest.Explore(t, cfg)
	})
}

func TestASoundDefinitionSurvivesEveryCrash(t *testing.T) {
	dialects(t, func(t *testing.T, open func(testing.TB) *sqldb.DB) {
		sagatest.Crash(t, config(open, faults{}))
	})
}

// Every kind of step in one definition, without a deadline.
func TestEveryKindOfStepSurvives(t *testing.T) {
	write := func(status string) func(context.Context, sqldb.Tx, *order) error {
		return func(ctx context.Context, tx sqldb.Tx, o *order) error {
			o.Notes = append(o.Notes, status)
			return nil
		}
	}
	nothing := func(context.Context, *order) error { return nil }
	dialects(t, func(t *testing.T, open func(testing.TB) *sqldb.DB) {
		cfg := sagatest.Config[order]{
			Open: open,
			New: func(testing.TB, *sqldb.DB) sagatest.Case[order] {
				return sagatest.Case[order]{
					Signals: map[string]any{"approved": "yes"},
					Definition: saga.Definition[order]{Name: "all", Steps: []saga.Step[order]{
						&saga.Call[order]{Name: "call", Do: nothing, Undo: nothing},
						&saga.Timer[order]{Name: "wait", After: time.Hour},
						saga.Parallel[order]("group",
							&saga.Local[order]{Name: "local", Do: write("local"), Undo: write("undone")},
							&saga.Command[order]{Name: "command", Do: command("Do"), Undo: command("Undo")},
							&saga.Signal[order]{Name: "approved", On: func(o *order, b []byte) error { o.Auth = string(b); return nil }},
						),
						&saga.Local[order]{Name: "decide", Kind: saga.Pivot, Do: write("decided")},
						saga.Parallel[order]("after",
							&saga.Call[order]{Name: "late-call", Kind: saga.Retriable, Do: nothing},
							&saga.Command[order]{Name: "late-command", Kind: saga.Retriable, Do: command("Late")},
						),
					}},
					Check: func(_ context.Context, _ *sqldb.DB, in *saga.Instance, o order) error {
						if in.Status == saga.StatusCompleted && (o.Auth != `"yes"` || fmt.Sprint(o.Notes) != "[local decided]") {
							return fmt.Errorf("the state is %+v", o)
						}
						return nil
					},
				}
			},
			MaxRuns: 120,
		}
		sagatest.Explore(t, cfg)
		sagatest.Crash(t, cfg)
	})
}

func TestPlantedFaultsAreFound(t *testing.T) {
	for name, test := range map[string]struct {
		faults faults
		store  func(saga.Store) saga.Store
		want   string
	}{
		"an undo that does nothing":               {faults: faults{undoForgets: true}, want: "rows of stock are committed"},
		"a call that is not idempotent":           {faults: faults{notIdempotent: true}, want: "the provider charged 2 times"},
		"an undo that fails for nothing done":     {faults: faults{undoNeedsDo: true}, want: "stuck at step \"authorize\""},
		"an undo registered only after Do":        {store: func(s saga.Store) saga.Store { return lateRegistration{s} }, want: "was not undone"},
		"a store that forgets its history of Do":  {store: func(s saga.Store) saga.Store { return amnesia{s} }, want: "sagatest:"},
		"compensation in the order of definition": {faults: faults{declines: true}, store: func(s saga.Store) saga.Store { return forwards{s, map[string]bool{}} }, want: "was undone before the later step"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(openSQLite, test.faults)
			cfg.Store = test.store
			got := sagatest.FindFault(t, cfg)
			if !strings.Contains(got, test.want) {
				t.Fatalf("found %q, want a trace with %q", got, test.want)
			}
			t.Logf("%s", got)
		})
	}
}

// lateRegistration stores an attempted step as pending, as a coordinator that
// registers the undo only once Do has succeeded would.
type lateRegistration struct{ saga.Store }

func (s lateRegistration) Save(ctx context.Context, tx sqldb.Execer, in *saga.Instance, log []saga.Entry) error {
	if in.Status == saga.StatusCompensating {
		for _, r := range in.Steps {
			if r.Status == saga.StepAttempted {
				r.Status = saga.StepRefused
			}
		}
	}
	return s.Store.Save(ctx, tx, in, log)
}

// amnesia loses the record of a step that is done.
type amnesia struct{ saga.Store }

func (s amnesia) Save(ctx context.Context, tx sqldb.Execer, in *saga.Instance, log []saga.Entry) error {
	if r := in.Steps["commit-stock"]; r != nil && r.Status == saga.StepDone && in.Status == saga.StatusRunning {
		r.Status = saga.StepPending
	}
	return s.Store.Save(ctx, tx, in, log)
}

// forwards hides the later step from the compensation until the earlier one is
// undone.
type forwards struct {
	saga.Store
	hidden map[string]bool
}

func (s forwards) Lock(ctx context.Context, tx sqldb.Tx, id string) (*saga.Instance, error) {
	in, err := s.Store.Lock(ctx, tx, id)
	if err != nil {
		return in, err
	}
	first, second, pivot := in.Steps["reserve-stock"], in.Steps["commit-stock"], in.Steps["capture"]
	s.hidden[id] = pivot != nil && pivot.Status != saga.StepPending && first.Status != saga.StepUndone && second.Status == saga.StepDone
	if s.hidden[id] {
		second.Status = saga.StepUndone
	}
	return in, nil
}

func (s forwards) Save(ctx context.Context, tx sqldb.Execer, in *saga.Instance, log []saga.Entry) error {
	if s.hidden[in.ID] {
		in.Steps["commit-stock"].Status = saga.StepDone
		if in.Status == saga.StatusCompensated {
			in.Status, in.EndedAt, in.DueAt = saga.StatusCompensating, time.Time{}, in.UpdatedAt
		}
	}
	return s.Store.Save(ctx, tx, in, log)
}
