package saga

import (
	"context"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Kind says what the saga owes for a step. Steps of a definition stand in this
// order: compensatable ones, at most one pivot, retriable ones (the classes of
// Garcia-Molina's and Richardson's sagas). [Register] refuses any other order.
type Kind int

const (
	// Compensatable steps can be undone. Their Undo is owed from the moment Do
	// is attempted, because an attempt whose answer is lost may have happened;
	// only a refused Do owes none. It is the default.
	Compensatable Kind = iota
	// Pivot is the step that decides the saga: before it everything can be
	// undone, after it everything can be finished. While its outcome is unknown
	// it is tried again until it is decided, and neither the deadline nor a
	// cancellation compensates.
	Pivot
	// Retriable steps stand after the pivot and are retried until they succeed.
	Retriable
)

// String returns "compensatable", "pivot" or "retriable".
func (k Kind) String() string {
	switch k {
	case Compensatable:
		return "compensatable"
	case Pivot:
		return "pivot"
	case Retriable:
		return "retriable"
	default:
		return "unknown kind"
	}
}

// Definition describes a saga over the state S. S is stored as JSON after each
// step; it has to survive encoding/json without loss.
//
// A definition is a value: it may be registered with several coordinators, and
// is not changed by them.
type Definition[S any] struct {
	// Name identifies the saga: lower-case letters, digits and "-", at most 48
	// characters. Required.
	Name string
	// Version grows whenever Steps change. An instance is finished by the
	// version that started it; keep old versions registered while some run.
	// Defaults to 1.
	Version int
	// Deadline is the time from the start after which a saga whose pivot has
	// not been attempted is compensated. Commands carry it as their expiry.
	// Defaults to none.
	Deadline time.Duration
	// Steps run one after the other; see [Command], [Local], [Call], [Timer],
	// [Signal] and [Parallel]. Required.
	Steps []Step[S]
	// OnCompleted runs in the transaction of the last transition, so that the
	// business row and the saga end together. A cancellation that came too late
	// to compensate is told by [CancelRequested]: start the saga that gives the
	// money back here, in tx. An error rolls the transition back; it is then
	// tried again.
	OnCompleted func(ctx context.Context, tx sqldb.Tx, s *S) error
	// OnCompensated is its counterpart for a saga that was undone. The state is
	// the one after all compensations. Where nothing was owed it runs inside
	// [Handle.Cancel].
	OnCompensated func(ctx context.Context, tx sqldb.Tx, s *S, c Cause) error
}

// Step is one of *[Command], *[Local], *[Call], *[Timer], *[Signal] and
// *[Group]. Step names are stable: an instance in flight finds its place by
// name, and [StepKey] is made of it.
type Step[S any] interface {
	// compile appends the step's leaves to a stage; it seals the interface.
	compile(d *compiler) []*leaf
}

// Command asks another service, by a command event, and waits for its reply
// event ([Coordinator.HandleReply]). Package participant is the other side.
type Command[S any] struct {
	// Name is unique in the definition: lower-case letters, digits and "-".
	Name string
	Kind Kind
	// Do and Undo build the command from the state. They are pure: Topic, Type,
	// Key and Data are theirs, the coordinator adds the rest. A [Refuse] error
	// of Do refuses the step before anything is sent. Do is required; Undo is
	// required where Kind is Compensatable and forbidden elsewhere.
	Do, Undo func(s *S) (events.Event, error)
	// OnReply takes what the saga needs from a positive reply of Do. It is pure.
	// In a group it runs at the join, in definition order. Optional.
	OnReply func(s *S, reply events.Event) error
	// ReplyTimeout is how long a reply is waited for before the command is sent
	// again, under the same step key and a new event id; the wait doubles with
	// each attempt up to Config.BackoffMax. Defaults to 15 s.
	ReplyTimeout time.Duration
	// Attempts bounds how often the command is sent. A compensatable step is
	// then compensated, any other is stuck. Defaults to Config.Attempts, and to
	// no bound for a compensatable step of a definition with a Deadline.
	Attempts int
}

// Local is a function in a transaction of its own, which commits together with
// the saga's transition: it happens exactly once. A failed Do leaves nothing
// behind and therefore owes no Undo.
type Local[S any] struct {
	// Name is unique in the definition: lower-case letters, digits and "-".
	Name string
	Kind Kind
	// Do and Undo write through tx only and make no remote calls; ctx ends after
	// 30 s. The saga's row is locked before business rows, so lock in that order
	// elsewhere too. Do is required; Undo is required where Kind is Compensatable
	// and forbidden elsewhere.
	Do, Undo func(ctx context.Context, tx sqldb.Tx, s *S) error
	// Attempts bounds how often a failing Do is tried before it compensates
	// (Compensatable) or the saga is stuck. Defaults to Config.Attempts.
	Attempts int
}

// Call is a remote call, made outside any transaction by the one node that
// holds the instance. Its context carries the step's stable key as
// idempotency.WithKey, so that clients built on this kit send it.
type Call[S any] struct {
	// Name is unique in the definition: lower-case letters, digits and "-".
	Name string
	Kind Kind
	// Do and Undo make the call. nil is done, a [Refuse] error a definite no;
	// any other error is ambiguous: the call may have happened. Both may run
	// more than once under the same [StepKey], and Undo may meet a Do that never
	// happened; it then succeeds. What Do changes in s is kept only where it
	// returns nil. Do is required; Undo is required where Kind is Compensatable
	// and forbidden elsewhere.
	Do, Undo func(ctx context.Context, s *S) error
	// Query asks what became of an earlier, ambiguous attempt of Do, in place of
	// calling again. Optional; give one to every pivot whose other side does
	// not deduplicate by the step key.
	Query func(ctx context.Context, s *S) (Outcome, error)
	// Timeout bounds one attempt. Defaults to 10 s.
	Timeout time.Duration
	// Attempts bounds how often Do is tried before it compensates
	// (Compensatable) or the saga is stuck. Defaults to Config.Attempts.
	Attempts int
}

// Outcome is what a [Call]'s Query found.
type Outcome int

const (
	// OutcomeUnknown leaves the step in doubt; it is asked again later.
	OutcomeUnknown Outcome = iota
	// OutcomeDone says that the earlier attempt happened.
	OutcomeDone
	// OutcomeRefused says that the other side refused it.
	OutcomeRefused
	// OutcomeAbsent says that no attempt arrived; Do is called again at once.
	OutcomeAbsent
)

// Timer waits.
type Timer[S any] struct {
	// Name is unique in the definition: lower-case letters, digits and "-".
	Name string
	// After is the time to wait from the moment the step is reached.
	After time.Duration
	// Until gives the moment instead, from the state. Set one of the two.
	Until func(s *S) time.Time
}

// Signal waits for [Handle.Signal] of the same name. A signal that came before
// the step was reached, or before the saga was started, has been kept.
type Signal[S any] struct {
	// Name is unique in the definition: lower-case letters, digits and "-".
	Name string
	// On takes what the saga needs from the signal. It is pure. Optional.
	On func(s *S, payload []byte) error
	// Timeout refuses the step where no signal came in time; only for a signal
	// before the pivot. Defaults to none.
	Timeout time.Duration
}

// Group is what [Parallel] returns.
type Group[S any] struct {
	Name  string
	Steps []Step[S]
}

// Parallel runs steps side by side. All of them are compensatable, or all stand
// after the pivot and are retriable. Branches read the state as it was before
// the group; what they return ([Command].OnReply, and the change each [Call] and
// [Local] made to its copy of the state, as an RFC 7396 merge patch) is folded
// in definition order when all have ended. Their compensations run together.
func Parallel[S any](name string, steps ...Step[S]) Step[S] {
	return &Group[S]{Name: name, Steps: steps}
}
