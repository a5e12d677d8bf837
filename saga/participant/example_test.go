package participant_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/participant"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

// node is one service: a database, an outbox with its relay, a consumer.
type node struct {
	db       *sqldb.DB
	box      *outbox.Outbox
	relay    *outbox.Relay
	consumer *inbox.Consumer[*sql.Tx]
}

func newNode(ctx context.Context, dir, name string, broker events.Broker) (*node, error) {
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, name+".db"), nil)
	if err != nil {
		return nil, err
	}
	n := &node{db: db}
	for _, m := range []func() error{
		func() error { return migrate.Up(ctx, db, "napkin_outbox", outbox.Migrations(db.Dialect)) },
		func() error { return migrate.Up(ctx, db, "napkin_inbox", inbox.Migrations(db.Dialect)) },
		func() error { return migrate.Up(ctx, db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)) },
		func() error { return migrate.Up(ctx, db, participant.Set, participant.Migrations(db.Dialect)) },
	} {
		if err := m(); err != nil {
			return nil, err
		}
	}
	if n.box, err = outbox.New(db.Dialect, name, nil); err != nil {
		return nil, err
	}
	if n.relay, err = outbox.NewRelay(db, n.box, broker, nil); err != nil {
		return nil, err
	}
	n.consumer, err = inbox.NewConsumer(name, db, sqldb.Std(db), broker, &inbox.ConsumerConfig{
		BypassParking: participant.IsUndo,
	})
	return n, err
}

// Two services and a broker: stock is reserved, the card is declined, the stock
// is released again.
func Example() {
	if err := example(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// reserved 3
	// declined
	// released
	// order failed: no funds
}

type purchase struct{ Quantity string }

func example() (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "participant")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	broker := memevents.New(nil)
	if err := broker.EnsureTopics(ctx, "shop"); err != nil {
		return err
	}
	order, err := newNode(ctx, dir, "order", broker)
	if err != nil {
		return err
	}
	defer order.db.Close()
	shop, err := newNode(ctx, dir, "shop", broker)
	if err != nil {
		return err
	}
	defer shop.db.Close()

	// The side that answers.
	p, err := participant.New(shop.db.Dialect, shop.box, &participant.Config{Topic: "shop"})
	if err != nil {
		return err
	}
	runner := sqldb.Std(shop.db)
	shop.consumer.Handle("shop", "Reserve", participant.Do(p, runner,
		func(_ context.Context, _ *sql.Tx, cmd events.Event) (events.Event, error) {
			fmt.Println("reserved", string(cmd.Data))
			return events.Event{Type: "StockReserved"}, nil
		}))
	shop.consumer.Handle("shop", "Release", participant.Undo(p, runner,
		func(context.Context, *sql.Tx, events.Event) (events.Event, error) {
			fmt.Println("released")
			return events.Event{Type: "StockReleased"}, nil
		}))
	shop.consumer.Handle("shop", "Charge", participant.Do(p, runner,
		func(context.Context, *sql.Tx, events.Event) (events.Event, error) {
			fmt.Println("declined")
			return events.Event{Type: "PaymentDeclined"}, saga.Refuse("no funds")
		}))

	// The side that asks.
	store, err := sqlsaga.New(order.db, nil)
	if err != nil {
		return err
	}
	c, err := saga.NewCoordinator(store, &saga.Config{Outbox: order.box})
	if err != nil {
		return err
	}
	command := func(typ string) func(*purchase) (events.Event, error) {
		return func(s *purchase) (events.Event, error) {
			return events.Event{Topic: "shop", Type: typ, Data: []byte(s.Quantity), DataContentType: "text/plain"}, nil
		}
	}
	ended := make(chan saga.Cause, 1)
	purchases, err := saga.Register(c, saga.Definition[purchase]{
		Name: "purchase",
		Steps: []saga.Step[purchase]{
			&saga.Command[purchase]{Name: "reserve-stock", Do: command("Reserve"), Undo: command("Release")},
			&saga.Command[purchase]{Name: "charge-card", Kind: saga.Pivot, Do: command("Charge")},
		},
		OnCompensated: func(ctx context.Context, _ sqldb.Tx, _ *purchase, cause saga.Cause) error {
			sqldb.AfterCommit(ctx, func() { ended <- cause })
			return nil
		},
	})
	if err != nil {
		return err
	}
	for _, typ := range []string{"StockReserved", "StockReleased", "PaymentDeclined", saga.ReplyType} {
		order.consumer.Handle("shop", typ, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			return c.HandleReply(ctx, sqldb.StdTx(tx), e)
		})
	}

	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, run := range []func(context.Context) error{c.Run, order.relay.Run, order.consumer.Run, shop.relay.Run, shop.consumer.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				fmt.Println(err)
			}
		})
	}
	if err := sqldb.InTx(ctx, order.db, func(ctx context.Context, tx *sql.Tx) error {
		return purchases.Start(ctx, tx, "order-1", purchase{Quantity: "3"}) // and the order's row
	}); err != nil {
		return err
	}
	fmt.Println("order failed:", (<-ended).Reason)
	return nil
}
