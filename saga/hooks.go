package saga

import (
	"context"
	"time"
)

// Phase is a step's direction.
type Phase string

const (
	// PhaseDo is forward.
	PhaseDo Phase = "do"
	// PhaseUndo compensates.
	PhaseUndo Phase = "undo"
)

// Info tells a hook what happened.
type Info struct {
	Saga    string
	Version int
	ID      string
	Step    string
	Phase   Phase
	Attempt int
	// Outcome of StepEnded: "done", "refused", "failed" or "undone".
	Outcome string
	// Err is the step's error, or why the saga is stuck.
	Err   error
	Cause Cause
	// Age is the time since the start of the saga.
	Age time.Duration
}

// Point is a place at which a test may end the process.
type Point struct {
	Saga string
	ID   string
	// Step is the step whose attempt or outcome the transaction records, empty
	// for the start and other transitions of the saga as a whole.
	Step string
	// Phase is "start", "attempt", "do" or "undo" (its outcome), "cancel",
	// "operator" or "turn".
	Phase string
}

// Hooks observe a coordinator. Each may be nil. They run on the coordinator's
// goroutines and return at once.
type Hooks struct {
	// Started to Stuck run after the commit of what they tell.
	Started       func(ctx context.Context, i Info)
	StepAttempted func(ctx context.Context, i Info)
	StepEnded     func(ctx context.Context, i Info)
	Compensating  func(ctx context.Context, i Info)
	Completed     func(ctx context.Context, i Info)
	Compensated   func(ctx context.Context, i Info)
	Stuck         func(ctx context.Context, i Info)
	// Fenced tells that the outcome of a call came from a node that had lost
	// the instance, and was refused.
	Fenced func(ctx context.Context, i Info)
	// Inject writes the trace context at the start of a saga; Extract restores
	// it for each later step.
	Inject  func(ctx context.Context, carrier map[string]string)
	Extract func(ctx context.Context, carrier map[string]string) context.Context
	// Call prepares the context of a Call's attempt, for instance with a span
	// or, past the pivot, with a higher criticality; the function it returns,
	// if any, runs when the attempt has ended.
	Call func(ctx context.Context, i Info, kind Kind) (context.Context, func(error))
	// BeforeCommit and AfterCommit stand on both sides of each transaction that
	// changes an instance.
	BeforeCommit func(ctx context.Context, p Point)
	AfterCommit  func(ctx context.Context, p Point)
}
