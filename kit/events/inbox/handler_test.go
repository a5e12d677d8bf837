package inbox_test

import (
	"context"
	"database/sql"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// A handler that panics or ends its goroutine fails like any other: its event is
// dead-lettered, its worker goes on, and nothing of the attempt is left.
func TestAHandlerThatDoesNotReturnFails(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("oops") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, db *sqldb.DB) {
				b := memevents.New(nil)
				var log lines
				start(t, db, b, inbox.ConsumerConfig{Concurrency: 1, MaxAttempts: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
					if err := effect(ctx, tx, e); err != nil {
						return err
					}
					if e.Key == "bad" {
						end()
					}
					return nil
				})
				publish(t, b, event("bad", 1), event("good", 1), event("good", 2))
				happen(t, db, 2)
				drained(t, b)
				if got := effects(t, db); len(of("bad", got)) != 0 {
					t.Errorf("effects %v", got)
				}
				if l := letters(t, db); len(l) != 1 || l[0].Event.ID != "bad-1" || l[0].Attempts != 2 {
					t.Errorf("dead letters %+v", l)
				} else if name == "panic" {
					// The operator reads the message in the dead letter, and the stack once in the log.
					if l[0].Cause != "inbox: the handler panicked: oops" {
						t.Errorf("cause %q", l[0].Cause)
					}
					if n := strings.Count(log.String(), "runtime/debug.Stack"); n != 1 {
						t.Errorf("the stack is %d times in the log", n)
					}
				}
			})
		})
	}
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
