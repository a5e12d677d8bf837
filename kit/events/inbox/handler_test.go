package inbox_test

import (
	"context"
	"database/sql"
	"runtime"
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
				start(t, db, b, inbox.ConsumerConfig{Concurrency: 1, MaxAttempts: 2}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
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
				}
			})
		})
	}
}
