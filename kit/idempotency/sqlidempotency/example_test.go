package sqlidempotency_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// By hand, inside a transaction of one's own: Begin before the effect, Complete
// after it. idempotency.Do does the same in one call.
func ExampleStore() {
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
	if err := migrate.Up(ctx, db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		log.Fatal(err)
	}
	keys, err := sqlidempotency.New(db.Dialect, nil)
	if err != nil {
		log.Fatal(err)
	}
	charge := func(request string) error {
		k := idempotency.Key{Value: "k1", Scope: "user-1", Operation: "charge", Fingerprint: idempotency.Fingerprint([]byte(request))}
		return sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			stored, err := keys.Begin(ctx, sqldb.StdTx(tx), k)
			if err != nil {
				return err
			}
			if stored != nil {
				fmt.Println("again:", string(stored.Body))
				return nil
			}
			fmt.Println("charging", request)
			return keys.Complete(ctx, tx, k, idempotency.Response{Body: []byte("charged " + request)})
		})
	}
	fmt.Println(charge("10 EUR"))
	fmt.Println(charge("10 EUR"))
	fmt.Println(charge("99 EUR"))
	// Output:
	// charging 10 EUR
	// <nil>
	// again: charged 10 EUR
	// <nil>
	// idempotency: this Idempotency-Key was used for another request; send a new one
}

// A service that does not migrate by itself checks when it starts.
func ExampleCheck() {
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
	err = sqlidempotency.Check(ctx, db)
	fmt.Println(strings.Contains(err.Error(), "napkin migrate up --set napkin_idempotency"))
	if err := migrate.Up(ctx, db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(sqlidempotency.Check(ctx, db))
	// Output:
	// true
	// <nil>
}

// The leased mode with claims in the database, which outlive the process.
func ExampleNewLeased() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "mail.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := migrate.Up(ctx, db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		log.Fatal(err)
	}
	store, err := sqlidempotency.NewLeased(db, nil)
	if err != nil {
		log.Fatal(err)
	}
	mw, err := idempotency.Middleware(idempotency.ServerConfig{
		Leased: store,
		Scope:  func(r *http.Request) (string, error) { return "user-1", nil }, // from the token
	})
	if err != nil {
		log.Fatal(err)
	}
	h := mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "sent") }))
	for range 2 {
		r := httptest.NewRequest(http.MethodPost, "/mail", strings.NewReader("hello"))
		r.Header.Set("Idempotency-Key", "k1")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Printf("%d %s replayed=%t\n", w.Code, w.Body, w.Header().Get("Idempotent-Replayed") == "true")
	}
	// Output:
	// 200 sent replayed=false
	// 200 sent replayed=true
}
