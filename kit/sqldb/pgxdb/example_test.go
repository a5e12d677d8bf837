package pgxdb_test

import (
	"context"
	"log"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

// On a pool that you already have, handlers get a pgx.Tx; packages that write
// into it get pgxdb.Tx(tx).
func ExamplePool() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://order@localhost/order")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	err = pgxdb.Pool(pool).InTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		sqldb.AfterCommit(ctx, func() { log.Print("placed") })
		_, err := pgxdb.Tx(tx).ExecContext(ctx, `INSERT INTO orders (id) VALUES ($1)`, "o-1")
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}

// The relays of an outbox hear at once of what other processes commit.
func ExampleListen() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	listen := pgxdb.Listen("postgres://order@localhost/order")
	err := listen(ctx, "napkin_outbox", func(payload string) { log.Print("notified: ", payload) })
	if err != nil {
		log.Fatal(err)
	}
}
