package events

import (
	"errors"
	"fmt"
)

// ErrInvalid says that an event breaks the rules of [Event.Validate] or cannot
// be decoded.
var ErrInvalid = errors.New("events: invalid event")

// ErrRejected says that the broker refuses this one event, for instance as too
// large: trying again changes nothing until somebody acts. Other events are not
// concerned.
var ErrRejected = errors.New("events: the broker refuses the event")

// ErrNoTopic says that the broker has no such topic, and that it is not this
// process that makes it (see Broker.EnsureTopics). Other topics are not concerned.
var ErrNoTopic = errors.New("events: the broker has no such topic")

// ErrClosed is returned by a broker after Close.
var ErrClosed = errors.New("events: the broker is closed")

func invalid(field, why string) error { return fmt.Errorf("%w: %s %s", ErrInvalid, field, why) }

// PublishError says which events of a Publish call were not acknowledged. The
// others were. It unwraps to every cause.
type PublishError struct {
	Failed []FailedEvent
}

// FailedEvent is one event that was not acknowledged.
type FailedEvent struct {
	// Index is its position in the arguments of Publish.
	Index int
	// ID is the event's ID.
	ID string
	// Err is the cause. The broker may have stored the event all the same,
	// unless Err is ErrRejected.
	Err error
}

func (e *PublishError) Error() string {
	if len(e.Failed) == 0 {
		return "events: publish failed"
	}
	f := e.Failed[0]
	if len(e.Failed) == 1 {
		return fmt.Sprintf("events: event %s was not acknowledged: %v", f.ID, f.Err)
	}
	return fmt.Sprintf("events: %d events were not acknowledged, the first is %s: %v", len(e.Failed), f.ID, f.Err)
}

// Unwrap returns the causes.
func (e *PublishError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f.Err
	}
	return errs
}
