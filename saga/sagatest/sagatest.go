package sagatest

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

// Outcome is how a step ends in a run.
type Outcome int

const (
	// OK is done at the first attempt.
	OK Outcome = iota
	// Refused is a definite no.
	Refused
	// Ambiguous is done, but the first answer is lost. A local step's first
	// transaction fails.
	Ambiguous
	// Late, for a command, arrives only after its Undo, or after the saga's
	// deadline. A compensatable call is done and never answers. A pivot call is
	// not done at first, and answers with a refusal at the third attempt.
	Late
	// Absent is a compensatable call that is not done and never answers: its
	// Undo meets nothing.
	Absent
)

// String returns the outcome in words.
func (o Outcome) String() string {
	return [...]string{"ok", "refused", "ambiguous", "late", "absent"}[o]
}

// Case is one definition to try, with everything it needs.
type Case[S any] struct {
	Definition saga.Definition[S]
	// State is the one to start with.
	State S
	// Signals are the payloads of signal steps, by name. They are sent when
	// nothing else can happen; a step without one gets null.
	Signals map[string]any
	// Check looks at your tables and fakes after the saga has ended. Optional, but
	// an empty Undo of a call or a local step is not found without one.
	Check func(ctx context.Context, db *sqldb.DB, in *saga.Instance, s S) error
}

// Config says what to try.
type Config[S any] struct {
	// Open returns an empty database, or one with your tables. Required.
	Open func(t testing.TB) *sqldb.DB
	// New builds the definition and its fakes for one run. Tables may be emptied
	// here: the database is used by many runs, each with another saga id.
	// Required.
	New func(t testing.TB, db *sqldb.DB) Case[S]
	// MaxRuns bounds Explore; the combinations with the fewest faults are kept.
	// Defaults to 2000.
	MaxRuns int
	// Store wraps the store of each run, to try a faulty one. Optional.
	Store func(saga.Store) saga.Store
}

// Explore runs every combination of step outcomes, the simplest first, and stops
// at the first that fails, printing its trace.
func Explore[S any](t testing.TB, cfg Config[S]) {
	t.Helper()
	if failure, runs := explore(t, cfg); failure != "" {
		t.Errorf("%s", failure)
	} else {
		t.Logf("sagatest: %d combinations of outcomes ended completed or exactly compensated", runs)
	}
}

// FindFault is [Explore] and then [Crash] for a test that expects a fault: it
// returns the first failure's trace, or "" where there is none.
func FindFault[S any](t testing.TB, cfg Config[S]) string {
	t.Helper()
	if failure, _ := explore(t, cfg); failure != "" {
		return failure
	}
	failure, _ := crash(t, cfg)
	return failure
}

// Crash kills the coordinator before and after each commit, in the run where all
// goes well and in those where one step is refused, and resumes with another.
func Crash[S any](t testing.TB, cfg Config[S]) {
	t.Helper()
	if failure, runs := crash(t, cfg); failure != "" {
		t.Errorf("%s", failure)
	} else {
		t.Logf("sagatest: %d crashes were survived", runs)
	}
}

func explore[S any](t testing.TB, cfg Config[S]) (failure string, runs int) {
	t.Helper()
	db := open(t, cfg)
	probe := cfg.New(t, db)
	scripts := combinations(describe(probe.Definition), orDefault(cfg.MaxRuns, 2000))
	for i, script := range scripts {
		r := newRun(t, cfg, db, fmt.Sprintf("explore-%d", i), script)
		if err := r.play(t.Context()); err != nil {
			return r.trace(err), i
		}
	}
	return "", len(scripts)
}

func crash[S any](t testing.TB, cfg Config[S]) (failure string, runs int) {
	t.Helper()
	db := open(t, cfg)
	shapes := describe(cfg.New(t, db).Definition)
	scripts := []script{{}}
	for _, sh := range shapes {
		if slices.Contains(sh.outcomes, Refused) {
			scripts = append(scripts, script{sh.name: Refused})
		}
		if slices.Contains(sh.outcomes, Late) && sh.op == "call" {
			scripts = append(scripts, script{sh.name: Late})
		}
	}
	for i, sc := range scripts {
		for point := 1; ; point++ {
			r := newRun(t, cfg, db, fmt.Sprintf("crash-%d-%d", i, point), sc)
			r.crashAt = point
			if err := r.play(t.Context()); err != nil {
				return r.trace(err), runs
			}
			if r.crashedAt == "" { // fewer commits than that: every point was tried
				break
			}
			runs++
		}
	}
	return "", runs
}

func open[S any](t testing.TB, cfg Config[S]) *sqldb.DB {
	t.Helper()
	if cfg.Open == nil || cfg.New == nil {
		t.Fatal("sagatest: set Config.Open and Config.New")
	}
	db := cfg.Open(t)
	if err := migrate.Up(t.Context(), db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)); err != nil {
		t.Fatalf("sagatest: %v", err)
	}
	for _, ddl := range []string{
		`CREATE TABLE IF NOT EXISTS sagatest_outbox (saga_id TEXT NOT NULL, seq BIGINT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (saga_id, seq))`,
		`CREATE TABLE IF NOT EXISTS sagatest_effects (saga_id TEXT NOT NULL, seq BIGINT NOT NULL, step TEXT NOT NULL, phase TEXT NOT NULL, PRIMARY KEY (saga_id, seq))`,
	} {
		if _, err := db.Write.ExecContext(t.Context(), ddl); err != nil {
			t.Fatalf("sagatest: %v", err)
		}
	}
	return db
}

// script gives some steps an outcome; the others are OK.
type script map[string]Outcome

func (s script) String() string {
	var parts []string
	for step, o := range s {
		if o != OK {
			parts = append(parts, step+": "+o.String())
		}
	}
	if len(parts) == 0 {
		return "every step ok"
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}

// combinations lists the scripts over the shapes, fewest faults first.
func combinations(shapes []shape, limit int) []script {
	all := []script{{}}
	for faults := 1; faults <= len(shapes) && len(all) < limit; faults++ {
		var pick func(from int, s script)
		pick = func(from int, s script) {
			if len(s) == faults {
				if len(all) < limit {
					all = append(all, s)
				}
				return
			}
			for i := from; i < len(shapes); i++ {
				for _, o := range shapes[i].outcomes {
					next := script{shapes[i].name: o}
					for k, v := range s {
						next[k] = v
					}
					pick(i+1, next)
				}
			}
		}
		pick(0, script{})
	}
	return all
}

func orDefault(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}
