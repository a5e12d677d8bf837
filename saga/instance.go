package saga

import (
	"encoding/json"
	"time"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
)

// Status is where an instance stands.
type Status string

const (
	// StatusRunning goes forward.
	StatusRunning Status = "running"
	// StatusCompensating undoes, in reverse.
	StatusCompensating Status = "compensating"
	// StatusStuck waits for an operator: see Retry, Skip and Compensate.
	StatusStuck Status = "stuck"
	// StatusCompleted has ended: every step is done.
	StatusCompleted Status = "completed"
	// StatusCompensated has ended: everything attempted is undone.
	StatusCompensated Status = "compensated"
)

// Statuses lists every status, unfinished ones first.
func Statuses() []Status {
	return []Status{StatusRunning, StatusCompensating, StatusStuck, StatusCompleted, StatusCompensated}
}

// Ended reports whether nothing more will happen to the instance.
func (s Status) Ended() bool { return s == StatusCompleted || s == StatusCompensated }

// StepStatus is where one step of an instance stands.
type StepStatus string

const (
	// StepPending has not been attempted, or its attempts left nothing behind.
	StepPending StepStatus = "pending"
	// StepAttempted was attempted; its outcome is not known yet. Undo is owed.
	StepAttempted StepStatus = "attempted"
	// StepDone has happened. Undo is owed if the saga compensates.
	StepDone StepStatus = "done"
	// StepRefused definitely did not happen. Nothing is owed.
	StepRefused StepStatus = "refused"
	// StepUndoing has an Undo that was attempted and has not ended.
	StepUndoing StepStatus = "undoing"
	// StepUndone is undone.
	StepUndone StepStatus = "undone"
)

// CauseKind says why a saga was compensated.
type CauseKind string

const (
	// CauseRefused is a step's definite no.
	CauseRefused CauseKind = "refused"
	// CauseFailed is a compensatable step whose attempts ran out.
	CauseFailed CauseKind = "failed"
	// CauseDeadline is the definition's deadline.
	CauseDeadline CauseKind = "deadline"
	// CauseCancelled is a Cancel.
	CauseCancelled CauseKind = "cancelled"
	// CauseOperator is an operator's Compensate.
	CauseOperator CauseKind = "operator"
)

// Cause is why a saga was compensated.
type Cause struct {
	Kind   CauseKind `json:"kind,omitempty"`
	Step   string    `json:"step,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// StepRecord is what is stored of one step.
type StepRecord struct {
	Status StepStatus `json:"status"`
	// Running marks a call in flight under the instance's owner and epoch.
	Running bool `json:"running,omitempty"`
	// Tried marks a call of which an attempt has left this process.
	Tried bool `json:"tried,omitempty"`
	// Attempts counts the attempts of the present direction.
	Attempts int `json:"attempts,omitempty"`
	// NextAt is when the step is looked at again. Zero is never, or at once for
	// a step that is ready to run.
	NextAt    time.Time `json:"next_at,omitzero"`
	LastError string    `json:"last_error,omitempty"`
	// Reply and Patch are results that the join has not folded into the state.
	Reply *events.Event   `json:"reply,omitempty"`
	Patch json.RawMessage `json:"patch,omitempty"`
}

// CancelRequest is a recorded cancellation.
type CancelRequest struct {
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// Progress is the part of an [Instance] that stores keep as one document.
type Progress struct {
	Steps  map[string]*StepRecord `json:"steps,omitempty"`
	Cause  Cause                  `json:"cause,omitzero"`
	Cancel *CancelRequest         `json:"cancel,omitempty"`
	// DeadlinePassed flags a deadline that came with the pivot attempted.
	DeadlinePassed bool `json:"deadline_passed,omitempty"`
	// StuckIn, StuckStep and StuckReason are set while the status is stuck:
	// the direction it was going, the step (empty for the closing callback) and
	// what an operator should know.
	StuckIn     Status `json:"stuck_in,omitempty"`
	StuckStep   string `json:"stuck_step,omitempty"`
	StuckReason string `json:"stuck_reason,omitempty"`
	// Buffered marks replies kept by a node that does not serve this version.
	Buffered bool `json:"buffered,omitempty"`
	// Close is the record of the closing callback where it failed.
	Close *StepRecord `json:"close,omitempty"`
	// IDs and Carrier are the correlation and trace context of the start.
	IDs     correlation.IDs   `json:"ids,omitzero"`
	Carrier map[string]string `json:"carrier,omitempty"`
}

// Instance is one saga as it is stored.
type Instance struct {
	ID      string
	Name    string
	Version int
	Status  Status
	// Revision grows by one with each write and guards it.
	Revision int64
	// Owner is the node that has calls in flight for the instance, "" if none.
	// Epoch is its fencing token: it grows with each new owner, and the outcome
	// of a call made under an older one is refused.
	Owner string
	Epoch int64
	// State is S as JSON.
	State []byte
	// DueAt is when a coordinator looks at the instance again; zero is never.
	DueAt      time.Time
	DeadlineAt time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time
	EndedAt    time.Time
	Progress
}

// record returns the step's record, a fresh one where there is none.
func (in *Instance) record(step string) *StepRecord {
	if in.Steps == nil {
		in.Steps = make(map[string]*StepRecord)
	}
	r := in.Steps[step]
	if r == nil {
		r = &StepRecord{Status: StepPending}
		in.Steps[step] = r
	}
	return r
}

// EntryKind says what an [Entry] of the history tells.
type EntryKind string

// What happens to an instance, as its history tells it.
const (
	EntryStarted      EntryKind = "started"
	EntryAttempted    EntryKind = "attempted"
	EntryDone         EntryKind = "done"
	EntryRefused      EntryKind = "refused"
	EntryFailed       EntryKind = "failed"
	EntryPaused       EntryKind = "paused"
	EntryUndoing      EntryKind = "undoing"
	EntryUndone       EntryKind = "undone"
	EntryUndoFailed   EntryKind = "undo failed"
	EntryLate         EntryKind = "late reply"
	EntrySignal       EntryKind = "signal"
	EntryCancel       EntryKind = "cancel requested"
	EntryDeadline     EntryKind = "deadline passed"
	EntryCompensating EntryKind = "compensating"
	EntryTakenOver    EntryKind = "taken over"
	EntryStuck        EntryKind = "stuck"
	EntryRetried      EntryKind = "retried"
	EntrySkipped      EntryKind = "skipped"
	EntryCompleted    EntryKind = "completed"
	EntryCompensated  EntryKind = "compensated"
)

// Entry is one line of an instance's history. Revision and Index order it.
type Entry struct {
	Revision int64
	Index    int
	At       time.Time
	Kind     EntryKind
	Step     string
	Attempt  int
	// Detail is an error, a reason or an event's id.
	Detail string
	// Actor is the node, or the operator of an operator's act.
	Actor string
}
