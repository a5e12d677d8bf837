package migrate_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing/fstest"

	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// A service applies its own set when it starts; elsewhere Check names what is
// missing. The files are embedded in practice.
func ExampleUp() {
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
	files := fstest.MapFS{"00001_orders.sql": {Data: []byte(`-- +goose Up
CREATE TABLE orders (id TEXT PRIMARY KEY);
-- +goose Down
DROP TABLE orders;
`)}}
	fmt.Println(migrate.Check(ctx, db, "order", files))
	fmt.Println(migrate.Up(ctx, db, "order", files))
	fmt.Println(migrate.Check(ctx, db, "order", files))
	// Output:
	// migrate: the database lacks a migration; apply it with migrate.Up or your own migration tool (set order, file 00001_orders.sql)
	// <nil>
	// <nil>
}
