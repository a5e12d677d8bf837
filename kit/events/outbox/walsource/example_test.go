package walsource_test

import (
	"context"
	"log"

	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/events/outbox/walsource"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

// A relay that is told of commits by the write-ahead log.
func Example() {
	ctx := context.Background()
	const url = "postgres://order@localhost/order"
	db, err := pgxdb.Open(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	source, err := walsource.New(db, url, &walsource.Config{Hooks: walsource.Hooks{
		Alarm: func(_ context.Context, bytes int64) { log.Printf("the slot kept %d bytes", bytes) },
	}})
	if err != nil {
		log.Fatal(err)
	}
	if err := source.Check(ctx); err != nil {
		log.Fatal(err) // wal_level, the role
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		log.Fatal(err)
	}
	relay, err := outbox.NewRelay(db, ob, memevents.New(nil), &outbox.RelayConfig{Source: source})
	if err != nil {
		log.Fatal(err)
	}
	if err := relay.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// Going back to the poll for good: the slot goes too.
func ExampleDrop() {
	ctx := context.Background()
	db, err := pgxdb.Open(ctx, "postgres://order@localhost/order", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := walsource.Drop(ctx, db, nil); err != nil {
		log.Fatal(err)
	}
}
