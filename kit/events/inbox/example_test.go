package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "inbox")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "mail.db"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	if err := migrate.Up(ctx, db, "napkin_inbox", inbox.Migrations(db.Dialect)); err != nil {
		fmt.Println(err)
		return
	}

	broker := memevents.New(nil)
	copies := 0
	c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), broker, &inbox.ConsumerConfig{Hooks: inbox.Hooks{
		Duplicate: func(context.Context, string, events.Event) { copies++ },
		AfterAck: func(_ context.Context, _ string, e events.Event) {
			if e.ID == "2" {
				cancel()
			}
		},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Handle("orders", "shop.order.v1.OrderCreated", func(_ context.Context, _ *sql.Tx, e events.Event) error {
		fmt.Println("a mail for event", e.ID, "of order", e.Key)
		return nil
	})
	e := events.Event{ID: "1", Source: "order", Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: "o-1"}
	last := e
	last.ID = "2"
	for _, e := range []events.Event{e, e, last} { // the broker delivers the first twice
		if err := broker.Publish(ctx, e); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(c.Run(ctx), copies)
	// Output:
	// a mail for event 1 of order o-1
	// a mail for event 2 of order o-1
	// <nil> 1
}

func ExampleConsumer_HandleBatch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "inbox")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "stats.db"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	if err := migrate.Up(ctx, db, inbox.Set, inbox.Migrations(db.Dialect)); err != nil {
		fmt.Println(err)
		return
	}
	broker := memevents.New(nil)
	for i := range 5 {
		e := events.Event{ID: fmt.Sprint(i), Source: "order", Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: fmt.Sprint("o-", i)}
		if err := broker.Publish(ctx, e); err != nil {
			fmt.Println(err)
			return
		}
	}
	c, err := inbox.NewConsumer("stats", db, sqldb.Std(db), broker, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	total := 0
	c.HandleBatch("orders", "shop.order.v1.OrderCreated", func(ctx context.Context, _ *sql.Tx, evs []events.Event) error {
		total += len(evs) // one statement for all of them
		if total == 5 {
			sqldb.AfterCommit(ctx, cancel)
		}
		return nil
	})
	fmt.Println(c.Run(ctx), total)
	// Output: <nil> 5
}
