package participant_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/participant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

// service is the other side: its database, its handlers, what it sent.
type service struct {
	t     testing.TB
	db    *sqldb.DB
	p     *participant.Participant
	at    time.Time
	sent  []events.Event
	do    func() (events.Event, error)
	undo  func() (events.Event, error)
	doer  func(ctx context.Context, tx *sql.Tx, e events.Event) error
	undoe func(ctx context.Context, tx *sql.Tx, e events.Event) error
	did   int
	undid int
}

func (s *service) Append(ctx context.Context, _ sqldb.Execer, evs ...events.Event) error {
	sqldb.AfterCommit(ctx, func() { s.sent = append(s.sent, evs...) })
	return nil
}

func dialects(t *testing.T, test func(t *testing.T, s *service)) {
	t.Helper()
	for name, open := range map[string]func(testing.TB) *sqldb.DB{
		"sqlite": func(t testing.TB) *sqldb.DB {
			db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "p.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			return db
		},
		"postgres": pgtest.DB,
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{t: t, db: open(t), at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
			for range 2 { // up, down, up
				if err := migrate.Up(t.Context(), s.db, participant.Set, participant.Migrations(s.db.Dialect)); err != nil {
					t.Fatal(err)
				}
				if s.p == nil {
					if err := migrate.Down(t.Context(), s.db, participant.Set, participant.Migrations(s.db.Dialect)); err != nil {
						t.Fatal(err)
					}
				}
			}
			var err error
			s.p, err = participant.New(s.db.Dialect, s, &participant.Config{Topic: "payment", Now: func() time.Time { return s.at }})
			if err != nil {
				t.Fatal(err)
			}
			if err := migrate.Up(t.Context(), s.db, participant.Set, participant.Migrations(s.db.Dialect)); err != nil {
				t.Fatal(err)
			}
			s.do = func() (events.Event, error) { return events.Event{Type: "Authorized", Data: []byte("1")}, nil }
			s.undo = func() (events.Event, error) { return events.Event{Type: "Voided"}, nil }
			runner := sqldb.Std(s.db)
			s.doer = participant.Do(s.p, runner, func(context.Context, *sql.Tx, events.Event) (events.Event, error) { s.did++; return s.do() })
			s.undoe = participant.Undo(s.p, runner, func(context.Context, *sql.Tx, events.Event) (events.Event, error) { s.undid++; return s.undo() })
			test(t, s)
		})
	}
}

func command(id, phase string) events.Event {
	return events.Event{ID: id, Type: "Authorize", Topic: "payment-commands", Key: "o1", Extensions: map[string]string{
		saga.ExtID: "o1", saga.ExtStep: "checkout/o1/authorize", saga.ExtPhase: phase,
	}}
}

// deliver handles a command and returns the reply's type and outcome.
func (s *service) deliver(e events.Event) string {
	s.t.Helper()
	h := s.doer
	if e.Extension(saga.ExtPhase) == "undo" {
		h = s.undoe
	}
	if err := sqldb.InTx(s.t.Context(), s.db, func(ctx context.Context, tx *sql.Tx) error { return h(ctx, tx, e) }); err != nil {
		return err.Error()
	}
	return s.reply()
}

func (s *service) reply() string {
	s.t.Helper()
	out := ""
	for _, e := range s.sent {
		if e.Extension(saga.ExtStep) != "checkout/o1/authorize" || e.Extension(saga.ExtID) != "o1" || e.Key != "o1" || e.Topic != "payment" {
			s.t.Errorf("the reply %s has key %q, topic %q, %v", e.Type, e.Key, e.Topic, e.Extensions)
		}
		if out != "" {
			out += ", "
		}
		out += e.Type + " " + e.Extension(saga.ExtPhase) + " " + e.Extension(saga.ExtOutcome)
	}
	s.sent = nil
	return out
}

func (s *service) tx(fn func(ctx context.Context, tx sqldb.Tx) error) {
	s.t.Helper()
	if err := sqldb.InTx(s.t.Context(), s.db, func(ctx context.Context, tx *sql.Tx) error { return fn(ctx, sqldb.StdTx(tx)) }); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) expect(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

const plain = saga.ReplyType

func TestACommandTakesEffectOnce(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		s.expect("first", s.deliver(command("1", "do")), "Authorized do ok")
		s.expect("another attempt", s.deliver(command("2", "do")), "Authorized do ok")
		if s.did != 1 {
			t.Errorf("done %d times", s.did)
		}
		s.expect("undo", s.deliver(command("3", "undo")), "Voided undo ok")
		s.expect("undo again", s.deliver(command("4", "undo")), "Voided undo ok")
		if s.undid != 1 {
			t.Errorf("undone %d times", s.undid)
		}
		s.expect("do after its undo", s.deliver(command("5", "do")), "Authorized do ok") // the stored outcome, no effect
		if s.did != 1 {
			t.Errorf("done %d times", s.did)
		}
	})
}

func TestALateDoAfterItsUndoIsRefused(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		s.expect("undo of nothing", s.deliver(command("1", "undo")), plain+" undo ok")
		s.expect("late do", s.deliver(command("2", "do")), plain+" do refused")
		if s.did != 0 || s.undid != 0 {
			t.Errorf("done %d times, undone %d times", s.did, s.undid)
		}
	})
}

func TestARefusalIsStored(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		s.do = func() (events.Event, error) { return events.Event{Type: "Declined"}, saga.Refuse("no funds") }
		s.expect("refused", s.deliver(command("1", "do")), "Declined do refused")
		s.do = func() (events.Event, error) { return events.Event{Type: "Authorized"}, nil }
		s.expect("again", s.deliver(command("2", "do")), "Declined do refused")
		s.expect("undo", s.deliver(command("3", "undo")), plain+" undo ok")
		if s.did != 1 || s.undid != 0 {
			t.Errorf("done %d times, undone %d times", s.did, s.undid)
		}
	})
}

func TestAnErrorRollsBack(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		s.do = func() (events.Event, error) { return events.Event{}, errors.New("boom") }
		s.expect("failed", s.deliver(command("1", "do")), "boom")
		s.do = func() (events.Event, error) { return events.Event{Type: "Authorized"}, nil }
		s.expect("again", s.deliver(command("1", "do")), "Authorized do ok")
	})
}

func TestAnExpiredCommandIsRefused(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		expiring := func(id string) events.Event {
			return command(id, "do").WithExtension(saga.ExtExpires, s.at.Add(time.Minute).Format(time.RFC3339Nano))
		}
		first, late := expiring("1"), expiring("2")
		s.expect("in time", s.deliver(first), "Authorized do ok")
		s.at = s.at.Add(time.Hour)
		s.expect("seen before", s.deliver(late), "Authorized do ok") // a known step gets its outcome
		never := late.WithExtension(saga.ExtStep, "checkout/o1/other")
		if err := sqldb.InTx(t.Context(), s.db, func(ctx context.Context, tx *sql.Tx) error { return s.doer(ctx, tx, never) }); err != nil {
			t.Fatal(err)
		}
		if len(s.sent) != 1 || s.sent[0].Extension(saga.ExtOutcome) != "refused" || s.did != 1 {
			t.Errorf("an expired command: %v, done %d times", s.sent, s.did)
		}
	})
}

func TestADeferredAnswer(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		key := participant.StepKey(command("1", "do"))
		s.do = func() (events.Event, error) { return events.Event{}, participant.Deferred }
		s.expect("deferred", s.deliver(command("1", "do")), "")
		s.expect("another attempt", s.deliver(command("2", "do")), "")
		s.tx(func(ctx context.Context, tx sqldb.Tx) error {
			if err := s.p.Resolve(ctx, tx, "unknown", false, "", events.Event{}); !errors.Is(err, participant.ErrUnknownStep) {
				t.Errorf("resolve of nothing: %v", err)
			}
			return s.p.Resolve(ctx, tx, key, false, "", events.Event{Type: "Authorized"})
		})
		s.expect("resolved", s.reply(), "Authorized do ok")
		s.tx(func(ctx context.Context, tx sqldb.Tx) error {
			return s.p.Resolve(ctx, tx, key, true, "x", events.Event{})
		})
		s.expect("resolved again", s.reply(), "")
		s.expect("another attempt", s.deliver(command("3", "do")), "Authorized do ok")
	})
}

func TestAnUndoMeetsADeferredDo(t *testing.T) {
	for _, refused := range []bool{true, false} {
		dialects(t, func(t *testing.T, s *service) {
			key := participant.StepKey(command("1", "do"))
			s.do = func() (events.Event, error) { return events.Event{}, participant.Deferred }
			s.undo = func() (events.Event, error) { return events.Event{}, participant.Deferred }
			s.deliver(command("1", "do"))
			s.expect("undo", s.deliver(command("2", "undo")), "")
			s.expect("undo again", s.deliver(command("3", "undo")), "")
			if s.undid != 1 {
				t.Errorf("the wish was recorded %d times", s.undid)
			}
			s.tx(func(ctx context.Context, tx sqldb.Tx) error {
				if wanted, err := s.p.UndoRequested(ctx, tx, key); !wanted || err != nil {
					t.Errorf("UndoRequested: %v, %v", wanted, err)
				}
				return s.p.Resolve(ctx, tx, key, refused, "declined", events.Event{Type: "Outcome"})
			})
			if refused { // known absent: both are answered
				s.expect("resolved", s.reply(), "Outcome do refused, "+plain+" undo ok")
				return
			}
			s.expect("resolved", s.reply(), "Outcome do ok")
			s.tx(func(ctx context.Context, tx sqldb.Tx) error {
				return s.p.ResolveUndo(ctx, tx, key, events.Event{Type: "Voided"})
			})
			s.expect("reversed", s.reply(), "Voided undo ok")
			s.expect("undo again", s.deliver(command("4", "undo")), "Voided undo ok")
		})
	}
}

func TestADeadLetteredCommandIsAnswered(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		s.tx(func(ctx context.Context, tx sqldb.Tx) error {
			return s.p.DeadLettered(ctx, tx, command("1", "do"), errors.New("poison"))
		})
		s.expect("do", s.reply(), plain+" do refused")
		s.expect("redriven", s.deliver(command("1", "do")), plain+" do refused")
		s.tx(func(ctx context.Context, tx sqldb.Tx) error {
			return s.p.DeadLettered(ctx, tx, events.Event{ID: "2", Type: "SomethingElse"}, errors.New("poison"))
		})
		s.expect("no command", s.reply(), "")
		if !participant.IsUndo(command("3", "undo")) || participant.IsUndo(command("3", "do")) {
			t.Error("IsUndo")
		}
	})
}

func TestPurge(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		s.deliver(command("1", "do"))
		purge := func() (n int64) {
			s.tx(func(ctx context.Context, tx sqldb.Tx) (err error) {
				n, err = s.p.Purge(ctx, tx, s.at)
				return err
			})
			return n
		}
		if n := purge(); n != 0 {
			t.Errorf("purged %d that are not old", n)
		}
		s.at = s.at.Add(time.Hour)
		if n := purge(); n != 1 {
			t.Errorf("purged %d", n)
		}
	})
}

func TestWhatIsNoCommandIsRefused(t *testing.T) {
	dialects(t, func(t *testing.T, s *service) {
		if got := s.deliver(events.Event{ID: "1", Type: "Authorize"}); got == "" {
			t.Error("an event without saga attributes was taken")
		}
		if got := s.deliver(command("1", "do").WithExtension(saga.ExtExpires, "soon")); got == "" {
			t.Error("a malformed expiry was taken")
		}
	})
	if _, err := participant.New(sqldb.SQLite, &service{}, nil); err == nil {
		t.Error("a participant without a topic")
	}
}
