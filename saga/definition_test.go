package saga_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

func TestAFaultyDefinitionSaysHowToMendIt(t *testing.T) {
	do := func(*state) (events.Event, error) { return events.Event{}, nil }
	step := func(name string, kind saga.Kind) saga.Step[state] {
		c := &saga.Command[state]{Name: name, Kind: kind, Do: do}
		if kind == saga.Compensatable {
			c.Undo = do
		}
		return c
	}
	a, p, r := step("a", saga.Compensatable), step("p", saga.Pivot), step("r", saga.Retriable)
	for name, test := range map[string]struct {
		def  saga.Definition[state]
		want string
	}{
		"no name":             {saga.Definition[state]{Steps: []saga.Step[state]{a}}, "Name is not usable"},
		"no steps":            {saga.Definition[state]{Name: "x"}, "give it at least one"},
		"nil step":            {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{nil}}, "a step is nil"},
		"negative deadline":   {saga.Definition[state]{Name: "x", Deadline: -1, Steps: []saga.Step[state]{a}}, "take 0 for none"},
		"two of one name":     {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{a, a}}, "give each its own name"},
		"bad step name":       {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{step("A B", saga.Pivot)}}, "lower-case letters"},
		"after the pivot":     {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{p, a}}, "move it before the pivot"},
		"two pivots":          {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{p, step("q", saga.Pivot)}}, "one step decides"},
		"retriable too early": {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{a, r}}, "make the step that decides the saga the Pivot"},
		"pivot too late":      {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{r, p}}, "move the retriable step behind it"},
		"undo missing":        {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{&saga.Command[state]{Name: "a", Do: do}}}, "has no Undo; give it one"},
		"undo for nothing":    {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{&saga.Command[state]{Name: "a", Kind: saga.Pivot, Do: do, Undo: do}}}, "which would never run"},
		"do missing":          {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{&saga.Local[state]{Name: "a", Kind: saga.Pivot}}}, "has no Do"},
		"pivot in a group":    {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{saga.Parallel[state]("g", p)}}, "let it stand alone"},
		"mixed group":         {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{saga.Parallel[state]("g", a, r)}}, "split it at the pivot"},
		"nested group":        {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{saga.Parallel[state]("g", saga.Parallel[state]("h", a))}}, "into one group"},
		"empty group":         {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{saga.Parallel[state]("g")}}, "has no steps"},
		"idle timer":          {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{&saga.Timer[state]{Name: "t"}}}, "either After"},
		"late signal timeout": {saga.Definition[state]{Name: "x", Steps: []saga.Step[state]{p, &saga.Signal[state]{Name: "s", Timeout: time.Second}}}, "before the pivot"},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			c, err := saga.NewCoordinator(noStore{}, &saga.Config{Outbox: e})
			if err != nil {
				t.Fatal(err)
			}
			_, err = saga.Register(c, test.def)
			if !errors.Is(err, saga.ErrDefinition) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, test.want)
			}
		})
	}
	c, err := saga.NewCoordinator(noStore{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := saga.Register(c, checkout()); err == nil || !strings.Contains(err.Error(), "Config.Outbox") {
		t.Errorf("commands without an outbox: %v", err)
	}
	forward := saga.Definition[state]{Name: "forward", Steps: []saga.Step[state]{
		&saga.Local[state]{Name: "r", Kind: saga.Retriable, Do: func(context.Context, sqldb.Tx, *state) error { return nil }},
	}}
	if _, err := saga.Register(c, forward); err != nil {
		t.Errorf("retriable steps alone: %v", err)
	}
}

type noStore struct{ saga.Store }

func TestConfigNamesTheFaultyField(t *testing.T) {
	for want, cfg := range map[string]*saga.Config{
		"PollEvery":   {PollEvery: -1},
		"Attempts":    {Attempts: -1},
		"BackoffMax":  {BackoffMin: time.Hour, BackoffMax: time.Second},
		"MaxState":    {MaxState: -1},
		"Concurrency": {Concurrency: -1},
	} {
		if _, err := saga.NewCoordinator(noStore{}, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := saga.NewCoordinator(nil, nil); err == nil {
		t.Error("a coordinator without a store")
	}
}

func TestMermaid(t *testing.T) {
	got := checkout().Mermaid()
	for _, want := range []string{
		"flowchart TD\n", "subgraph group0[prepare]", `s_capture{"capture<br/>command, pivot"}`,
		`s_reserve -. undo .-> s_reserve_undo["undo reserve"]`, "s_reserve --> s_capture", "s_authorize --> s_capture",
		`s_confirm[["confirm<br/>local, retriable"]]`, "s_confirm --> completed",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
}
