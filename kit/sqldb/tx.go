package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNested is returned where a transaction is opened with the context of a
// transaction that already runs on the same database. Pass the running
// transaction down instead.
var ErrNested = errors.New("sqldb: a transaction already runs in this context; pass its tx down instead of opening a second one")

// rollbackTimeout bounds a rollback, which runs even where the caller's context
// has ended.
const rollbackTimeout = 5 * time.Second

// Runner opens transactions for its caller. T is what the function gets:
// *sql.Tx from [Std], pgx.Tx from pgxdb.Pool. Runners are safe for concurrent
// use.
type Runner[T any] interface {
	// InTx runs fn in a transaction. It commits where fn returns nil and rolls
	// back where fn returns an error, panics or ends its goroutine, or ctx has
	// ended; then, only after a commit, it runs the functions registered with
	// AfterCommit. An error of fn is returned as it is.
	//
	// An error of the commit itself leaves the outcome unknown: the database
	// may have committed before the connection was lost.
	InTx(ctx context.Context, fn func(ctx context.Context, tx T) error) error
	// Wrap makes a Tx of a transaction that this runner opened.
	Wrap(tx T) Tx
	// Dialect names the database.
	Dialect() Dialect
}

// Std returns the Runner that hands out *sql.Tx on db's write pool.
func Std(db *DB) Runner[*sql.Tx] { return stdRunner{db} }

type stdRunner struct{ db *DB }

func (r stdRunner) Dialect() Dialect   { return r.db.Dialect }
func (r stdRunner) Wrap(tx *sql.Tx) Tx { return StdTx(tx) }

func (r stdRunner) InTx(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	ctx, scope, err := NewScope(ctx, r.db.Write)
	if err != nil {
		return err
	}
	defer scope.Discard() // a no-op after Committed
	// database/sql rolls back in the background once a transaction's context has
	// ended, so that a caller whose request was cancelled could meet its own locks
	// when it tries again. So the transaction has a context of its own, which
	// follows the caller's only while it begins and while it commits, and every
	// other end is a rollback that is waited for.
	txCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	unfollow := context.AfterFunc(ctx, cancel)
	tx, err := r.db.Write.BeginTx(txCtx, nil)
	unfollow()
	if err != nil {
		if ctx.Err() != nil {
			err = ended(ctx) // the driver would name our own context's end
		}
		return fmt.Errorf("sqldb: begin: %w", err)
	}
	committed := false
	defer func() {
		// Runs on an error, a panic and runtime.Goexit alike.
		if !committed {
			hung := time.AfterFunc(rollbackTimeout, cancel)
			defer hung.Stop()
			_ = tx.Rollback() // its failure would hide the reason for it
		}
	}()
	if ctx.Err() != nil { // while it began
		return fmt.Errorf("sqldb: begin: %w", ended(ctx))
	}
	if err := fn(ctx, tx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("sqldb: not committed: %w", ended(ctx))
	}
	unfollow = context.AfterFunc(ctx, cancel)
	defer unfollow()
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("sqldb: commit: %w", err)
	}
	committed = true
	scope.Committed()
	return nil
}

// ended says why ctx has ended.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}

// InTx runs fn in a transaction on db's write pool: [Std](db).InTx.
func InTx(ctx context.Context, db *DB, fn func(ctx context.Context, tx *sql.Tx) error) error {
	return stdRunner{db}.InTx(ctx, fn)
}

// AfterCommit registers fn to run once the transaction in ctx has committed,
// on the goroutine that committed, in order of registration. It reports false
// where ctx belongs to no running transaction that a Runner opened (for
// instance a bare *sql.Tx): the caller then relies on its poll.
//
// fn should return at once, as a wake-up does: it delays the caller of InTx.
func AfterCommit(ctx context.Context, fn func()) bool {
	s, _ := ctx.Value(scopeKey{}).(*Scope)
	return s != nil && s.register(fn)
}

// Running reports whether ctx belongs to a transaction that a Runner opened
// and that has not ended. Code that makes a remote call can use it to refuse
// doing so inside a transaction.
func Running(ctx context.Context) bool {
	s, _ := ctx.Value(scopeKey{}).(*Scope)
	return s != nil && s.active()
}

type scopeKey struct{}

// Scope is the life of one transaction. Only writers of a [Runner] need it.
type Scope struct {
	owner  any
	parent *Scope

	mu    sync.Mutex
	ended bool
	after []func()
}

// NewScope marks ctx as belonging to a transaction on owner, a comparable
// value that stands for the database. It returns ErrNested where ctx already
// belongs to a running transaction on the same owner. The Runner ends the
// scope with Committed or Discard.
func NewScope(ctx context.Context, owner any) (context.Context, *Scope, error) {
	parent, _ := ctx.Value(scopeKey{}).(*Scope)
	for s := parent; s != nil; s = s.parent {
		if s.owner == owner && s.active() {
			return nil, nil, ErrNested
		}
	}
	s := &Scope{owner: owner, parent: parent}
	return context.WithValue(ctx, scopeKey{}, s), s, nil
}

// Committed ends the scope and runs the registered functions.
func (s *Scope) Committed() {
	s.mu.Lock()
	after := s.after
	s.ended, s.after = true, nil
	s.mu.Unlock()
	for _, fn := range after {
		fn()
	}
}

// Discard ends the scope without running anything. It does nothing once the
// scope has ended.
func (s *Scope) Discard() {
	s.mu.Lock()
	s.ended, s.after = true, nil
	s.mu.Unlock()
}

func (s *Scope) active() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended
}

func (s *Scope) register(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.after = append(s.after, fn)
	return true
}

// RollbackContext returns a context for rolling back: it keeps the values of
// ctx, outlives its cancellation and ends after a few seconds. Only writers of
// a [Runner] need it.
func RollbackContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
}
