package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "outbox")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "order.db"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	if err := migrate.Up(ctx, db, "napkin_outbox", outbox.Migrations(db.Dialect)); err != nil {
		fmt.Println(err)
		return
	}

	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	broker := memevents.New(nil)
	relay, err := outbox.NewRelay(db, ob, broker, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()

	// The business row would be written in the same transaction.
	err = sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		return ob.Append(ctx, tx, events.Event{Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: "o-1"})
	})
	if err != nil {
		fmt.Println(err)
	}
	_ = broker.Subscribe(ctx, events.Subscription{Group: "mail", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
		fmt.Println(d.Event().Source, d.Event().Type, d.Event().Key, d.Event().KeySeq)
		_ = d.Ack(ctx)
		cancel()
	})
	fmt.Println(<-done)
	// Output:
	// order shop.order.v1.OrderCreated o-1 1
	// <nil>
}
