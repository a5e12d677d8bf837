package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

// A service gives two events up and its broker refuses a third; the operator sees and resolves it.
func TestEventsOfAnOperator(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { eventsOfAnOperator(t, filepath.Join(t.TempDir(), "mail.db"), true) })
	t.Run("postgres", func(t *testing.T) { eventsOfAnOperator(t, pgtest.URL(t), false) })
}

func eventsOfAnOperator(t *testing.T, database string, file bool) {
	events1 := func(args ...string) ran {
		return napkin(t, []string{"NAPKIN_DATABASE=" + database}, append([]string{"events"}, args...)...)
	}
	if file {
		events1("list").expect(t, 2, "neither a postgres:// URL nor a file")
		create(t, database)
	}
	events1("list").expect(t, 2, "are its migrations applied?")
	db, err := openDatabase(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := errors.Join(migrate.Up(t.Context(), db, inbox.Set, inbox.Migrations(db.Dialect)), migrate.Up(t.Context(), db, outbox.Set, outbox.Migrations(db.Dialect))); err != nil {
		t.Fatal(err)
	}
	events1("list").expect(t, 0, "none")
	events1("stalled").expect(t, 0, "none")

	b := memevents.New(nil)
	b.Fail(func(e events.Event) error {
		if e.Key == "huge" {
			return fmt.Errorf("%w: too large", events.ErrRejected)
		}
		return nil
	})
	c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), b, &inbox.ConsumerConfig{RedrivePoll: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	fail := make(chan struct{})
	handled := make(chan string, 10)
	c.Handle("orders", "test.v1.Happened", func(_ context.Context, _ *sql.Tx, e events.Event) error {
		select {
		case <-fail:
			handled <- e.ID
			return nil
		default:
			return inbox.Permanent(errors.New("no such customer"))
		}
	})
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := outbox.NewRelay(db, ob, b, &outbox.RelayConfig{Poll: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	err = sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
		for i, key := range []string{"a", "a", "b", "huge"} {
			e := events.Event{ID: fmt.Sprint("e", i), Type: "test.v1.Happened", Topic: "orders", Key: key, Data: []byte("hello")}
			if err := ob.Append(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- c.Run(ctx) }()
	go func() { done <- relay.Run(ctx) }()
	defer func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, ok func() bool) {
		t.Helper()
		deadline := time.After(time.Minute)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for !ok() {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatal("not in time: " + what)
			}
		}
	}
	var list []letter
	letters := func(n int) func() bool {
		return func() bool {
			l, err := inbox.ReadDeadLetters(t.Context(), db, "mail")
			return err == nil && len(l) == n
		}
	}
	until("three letters", letters(3))
	r := events1("list", "--consumer", "mail", "--json")
	r.expect(t, 0, "[")
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	ids := map[string]string{}
	for _, l := range list {
		ids[l.EventID] = fmt.Sprint(l.ID)
	}
	events1("list").expect(t, 0, "no such customer")
	events1("show", ids["e0"]).expect(t, 0, "no such customer")
	events1("show", "4711").expect(t, 2, "no dead letter or parked event with id 4711")
	events1("redrive", ids["e1"]).expect(t, 2, "list them to see which event holds up the key")
	close(fail)
	events1("drop", ids["e2"]).expect(t, 0, "is dropped")
	events1("redrive", ids["e0"]).expect(t, 0, "will be handled again")
	for _, want := range []string{"e0", "e1"} {
		if got := <-handled; got != want {
			t.Errorf("%s was handled, want %s", got, want)
		}
	}
	until("no letter left", letters(0))

	until("one stalled", func() bool {
		b, err := outbox.ReadBacklog(t.Context(), db)
		return err == nil && b.Stalled == 1
	})
	events1("backlog").expect(t, 0, "stalled      1")
	var stalled []outbox.StalledEvent
	if err := json.Unmarshal([]byte(events1("stalled", "--json").stdout), &stalled); err != nil || len(stalled) != 1 {
		t.Fatal(stalled, err)
	}
	events1("discard", fmt.Sprint(stalled[0].RowID)).expect(t, 0, "is discarded")
	events1("discard", fmt.Sprint(stalled[0].RowID)).expect(t, 2, "no event with this id was refused")
	until("nothing unpublished", func() bool {
		b, err := outbox.ReadBacklog(t.Context(), db)
		return err == nil && b.Empty()
	})
}

// create makes an empty SQLite file.
func create(t *testing.T, path string) {
	t.Helper()
	write(t, path, "")
}
