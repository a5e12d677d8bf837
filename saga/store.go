package saga

import (
	"context"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Store keeps instances. Package sqlsaga implements it for PostgreSQL and
// SQLite. Its methods are safe for concurrent use.
type Store interface {
	// InTx runs fn in a transaction of the service's own database; functions
	// registered with sqldb.AfterCommit run after it.
	InTx(ctx context.Context, fn func(ctx context.Context, tx sqldb.Tx) error) error
	// Insert adds a new instance and its history. It reports false, and writes
	// nothing, where the id exists.
	Insert(ctx context.Context, tx sqldb.Execer, in *Instance, log []Entry) (bool, error)
	// Lock reads an instance and locks it until tx ends. ErrNotFound; the id is
	// then not inserted by others before tx ends, so that what is kept for it
	// is there when it starts.
	Lock(ctx context.Context, tx sqldb.Tx, id string) (*Instance, error)
	// Save writes what Lock read if its Revision is still the stored one, and
	// then increments it; ErrConflict otherwise.
	Save(ctx context.Context, tx sqldb.Execer, in *Instance, log []Entry) error
	// Buffer keeps a message for an instance that cannot take it yet.
	Buffer(ctx context.Context, tx sqldb.Execer, m Message) error
	// Take removes and returns the buffered messages of one instance and kind,
	// oldest first. An empty name takes all.
	Take(ctx context.Context, tx sqldb.Tx, id string, kind MessageKind, name string) ([]Message, error)

	// Get and History read one instance outside a transaction. ErrNotFound.
	Get(ctx context.Context, id string) (*Instance, error)
	History(ctx context.Context, id string) ([]Entry, error)
	// List returns instances, newest first.
	List(ctx context.Context, f Filter) ([]*Instance, error)
	// Counts returns the number of instances by status.
	Counts(ctx context.Context) (map[Status]int, error)

	// Due returns ids of instances of the served definitions whose DueAt is not
	// after now, the longest overdue first.
	Due(ctx context.Context, now time.Time, serves []Ref, limit int) ([]string, error)
	// Abandoned returns instances whose owner is no member any more.
	Abandoned(ctx context.Context, limit int) ([]Abandoned, error)
	// Join makes this process a member, under an id that is never used again. A
	// member that does not beat for ttl is dead, and stays so.
	Join(ctx context.Context, name string, ttl time.Duration) (Member, error)
}

// Member is a process's membership among the nodes that share a store.
type Member interface {
	// ID begins with the name given to Join.
	ID() string
	// Beat renews the membership. It returns ErrLost where others may have taken
	// the member for dead; it must then join anew.
	Beat(ctx context.Context) error
	// Leave ends the membership; what the member owns is abandoned at once.
	Leave(ctx context.Context) error
}

// Abandoned is an instance owned by a node that is dead.
type Abandoned struct {
	ID    string
	Owner string
}

// Ref names a version of a definition.
type Ref struct {
	Name    string
	Version int
}

// Filter selects instances for List.
type Filter struct {
	// Status and Name select; empty selects all.
	Status Status
	Name   string
	// Before selects instances created before it, to page. Zero selects all.
	Before time.Time
	// Limit defaults to 100, at most 1000.
	Limit int
}

// MessageKind is what a buffered message is.
type MessageKind string

const (
	// MessageSignal is a signal that came early.
	MessageSignal MessageKind = "signal"
	// MessageReply is a reply that this node could not apply, because it does
	// not serve the instance's version.
	MessageReply MessageKind = "reply"
)

// Message is a buffered message. (SagaID, Kind, ID) is unique; a second one is
// dropped.
type Message struct {
	SagaID string
	Kind   MessageKind
	Name   string
	ID     string
	Body   []byte
	At     time.Time
}
