package saga

import (
	"context"
	"errors"
	"fmt"
)

// Errors for errors.Is.
var (
	// ErrExists is returned by Start for an id that was started before.
	ErrExists = errors.New("saga: an instance of this id exists")
	// ErrNotFound says that no instance has the id.
	ErrNotFound = errors.New("saga: no instance of this id")
	// ErrConflict says that the instance was changed by another transaction
	// since it was read; nothing was written.
	ErrConflict = errors.New("saga: the instance was changed meanwhile; read it again")
	// ErrNotServed says that no definition of the instance's name and version is
	// registered here.
	ErrNotServed = errors.New("saga: the instance's definition is not registered here")
	// ErrNotStuck is returned by the operator's acts on an instance that is not
	// stuck.
	ErrNotStuck = errors.New("saga: the instance is not stuck")
	// ErrPastPivot is returned by Compensate where the pivot has happened.
	ErrPastPivot = errors.New("saga: the pivot has happened, it can only be finished")
	// ErrLost is returned by [Member].Beat: others may take over.
	ErrLost = errors.New("saga: this node may have been taken for dead; join again")
	// ErrDefinition is in the tree of each error about a faulty definition.
	ErrDefinition = errors.New("saga: faulty definition")
)

type refusal struct{ reason string }

func (r *refusal) Error() string { return "refused: " + r.reason }

// Refuse is a definite no: the step has no effect, owes no undo, and the saga
// is compensated for this reason. A retriable step and an Undo cannot refuse;
// doing so leaves the saga stuck.
func Refuse(reason string) error { return &refusal{reason} }

// Refused returns the reason of a [Refuse] in err's tree.
func Refused(err error) (reason string, ok bool) {
	var r *refusal
	if errors.As(err, &r) {
		return r.reason, true
	}
	return "", false
}

type pause struct{ err error }

func (p *pause) Error() string { return "paused: " + p.err.Error() }
func (p *pause) Unwrap() error { return p.err }

// Pause marks err as a local rejection: a retry budget, an open breaker, a full
// bulkhead kept the call from leaving this process. It is no attempt: it owes
// no undo and counts for nothing; the step is tried again a little later.
func Pause(err error) error {
	if err == nil {
		return nil
	}
	return &pause{err}
}

// panicked is a panic of the caller's code, turned into an error.
type panicked struct{ value any }

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// errGoexit is the end of the caller's code by runtime.Goexit, as t.FailNow does.
var errGoexit = errors.New("saga: the function ended its goroutine instead of returning")

func definitionError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDefinition, fmt.Sprintf(format, args...))
}

type (
	stepKeyKey   struct{}
	doKeyKey     struct{}
	cancelledKey struct{}
)

// StepKey is the stable key of the step that ctx belongs to: saga name, id and
// step, with "/undo" after it in Undo. It is the same for each attempt and
// across crashes. Outside a step it is "".
func StepKey(ctx context.Context) string {
	k, _ := ctx.Value(stepKeyKey{}).(string)
	return k
}

// DoKey is the step key of the Do that the Undo in ctx undoes; in Do it is
// [StepKey].
func DoKey(ctx context.Context) string {
	k, _ := ctx.Value(doKeyKey{}).(string)
	return k
}

// CancelRequested tells OnCompleted that the saga was cancelled when it was too
// late to compensate, and why.
func CancelRequested(ctx context.Context) (reason string, ok bool) {
	reason, ok = ctx.Value(cancelledKey{}).(string)
	return reason, ok
}
