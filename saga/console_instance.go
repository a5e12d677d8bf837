package saga

import (
	"errors"
	"net/http"
	"slices"
	"time"
)

type consoleInstance struct {
	consoleHead
	ID, Name                      string
	Version                       int
	Served                        bool
	Status                        Status
	Created, Deadline, Ended, Due string
	Age, Owner                    string
	Epoch                         int64
	Cause, Cancel                 string
	Correlation, Trace            string
	Stuck                         bool
	StuckStep, StuckReason        string
	CanCompensate, InDoubt        bool
	CSRF, Notice                  string
	Steps                         []consoleStep
	Timeline                      []consoleEntry
}

type consoleStep struct {
	Name, Group, Kind, Next, Error string
	Status                         StepStatus
	Running                        bool
	Attempts                       int
}

type consoleEntry struct {
	At, Since, Class, Step, Detail, Actor string
	Kind                                  EntryKind
	Attempt                               int
}

// instance shows one saga.
func (v *console) instance() {
	ctx := v.r.Context()
	id := v.r.URL.Query().Get("id")
	in, err := v.c.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		v.message(http.StatusNotFound, "There is no saga of this id.", "./")
		return
	}
	if err != nil {
		v.failed(err)
		return
	}
	history, err := v.c.History(ctx, id)
	if err != nil {
		v.failed(err)
		return
	}
	now := v.c.now()
	p, served := v.c.plan(in.Name, in.Version)
	page := consoleInstance{
		consoleHead: consoleHead{in.Name + " " + in.ID, v.operator},
		ID:          in.ID, Name: in.Name, Version: in.Version, Served: served, Status: in.Status,
		Created: stamp(in.CreatedAt), Deadline: stamp(in.DeadlineAt), Ended: stamp(in.EndedAt), Due: stamp(in.DueAt),
		Age: rough(now.Sub(in.CreatedAt)), Owner: in.Owner, Epoch: in.Epoch,
		Correlation: in.IDs.CorrelationID, Trace: in.Carrier["traceparent"],
		Steps: consoleSteps(p, in),
	}
	if in.Cause.Kind != "" {
		page.Cause = string(in.Cause.Kind) + ": " + in.Cause.Reason
		if in.Cause.Step != "" {
			page.Cause += " (" + in.Cause.Step + ")"
		}
	}
	if in.Cancel != nil {
		page.Cancel = stamp(in.Cancel.At) + " " + in.Cancel.Reason
	}
	if in.Status == StatusStuck && served {
		page.Stuck, page.StuckStep, page.StuckReason = true, in.StuckStep, in.StuckReason
		page.CanCompensate, page.InDoubt = !p.forwardOnly, false
		if p.pivot != nil {
			status := in.record(p.pivot.name).Status
			page.CanCompensate = status != StepDone
			page.InDoubt = status == StepAttempted
		}
		if in.StuckIn == StatusCompensating { // it is: retrying is the same
			page.CanCompensate = false
		}
		page.CSRF = v.csrf()
	}
	switch v.r.URL.Query().Get("acted") {
	case "retry":
		page.Notice = "The saga goes on."
	case "skip":
		page.Notice = "The step was skipped; the saga goes on."
	case "compensate":
		page.Notice = "The saga is being compensated."
	}
	for _, e := range history {
		page.Timeline = append(page.Timeline, consoleEntry{
			At: e.At.UTC().Format(time.RFC3339Nano), Since: rough(e.At.Sub(in.CreatedAt)), Class: entryClass(e.Kind),
			Kind: e.Kind, Step: e.Step, Attempt: e.Attempt, Detail: e.Detail, Actor: e.Actor,
		})
	}
	v.render(http.StatusOK, "instance", page)
}

// consoleSteps lists the steps in the definition's order, or by name where the
// definition is not known here.
func consoleSteps(p *plan, in *Instance) []consoleStep {
	var out []consoleStep
	add := func(name, group, kind string) {
		r := in.Steps[name]
		if r == nil {
			r = &StepRecord{Status: StepPending}
		}
		out = append(out, consoleStep{
			Name: name, Group: group, Kind: kind, Status: r.Status, Running: r.Running,
			Attempts: r.Attempts, Next: stamp(r.NextAt), Error: r.LastError,
		})
	}
	if p == nil {
		names := make([]string, 0, len(in.Steps))
		for name := range in.Steps {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			add(name, "", "")
		}
		return out
	}
	for _, st := range p.stages {
		for _, l := range st.leaves {
			kind := string(l.op)
			if !l.kindless {
				kind += ", " + l.kind.String()
			}
			add(l.name, st.group, kind)
		}
	}
	return out
}

func entryClass(k EntryKind) string {
	switch k {
	case EntryStuck, EntryRefused, EntryFailed, EntryUndoFailed:
		return "bad"
	case EntryCompensating, EntryUndoing, EntryUndone, EntryCancel, EntryDeadline, EntryTakenOver, EntryPaused, EntryLate:
		return "warn"
	case EntryDone, EntryCompleted:
		return "good"
	default:
		return ""
	}
}
