package sqldb_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// A wake-up registered inside a transaction runs only once it has committed.
func ExampleInTx() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "order.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Write.ExecContext(ctx, `CREATE TABLE orders (id TEXT PRIMARY KEY)`); err != nil {
		log.Fatal(err)
	}
	place := func(id string) error {
		return sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			sqldb.AfterCommit(ctx, func() { fmt.Println("committed", id) })
			_, err := tx.ExecContext(ctx, `INSERT INTO orders (id) VALUES ($1)`, id)
			return err
		})
	}
	fmt.Println(place("o-1"))
	fmt.Println(sqldb.IsUnique(place("o-1")))
	// Output:
	// committed o-1
	// <nil>
	// true
}
