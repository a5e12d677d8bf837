package sqlitedb_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func ExampleOpen() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "order.db"), &sqlitedb.Config{FullSync: true})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	var mode string
	if err := db.Read.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		log.Fatal(err)
	}
	fmt.Println(db.Dialect, mode)
	// Output: sqlite wal
}
