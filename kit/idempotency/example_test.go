package idempotency_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
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

// An order is placed once, however often the client asks; its row and the
// answer commit together.
func ExampleInTx() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "orders")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "orders.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := migrate.Up(ctx, db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		log.Fatal(err)
	}
	if _, err := db.Write.ExecContext(ctx, `CREATE TABLE orders (id INTEGER PRIMARY KEY)`); err != nil {
		log.Fatal(err)
	}
	keys, err := sqlidempotency.New(db.Dialect, nil)
	if err != nil {
		log.Fatal(err)
	}
	mw, err := idempotency.Middleware(idempotency.ServerConfig{
		Scope: func(r *http.Request) (string, error) { return "user-1", nil }, // from the token
	})
	if err != nil {
		log.Fatal(err)
	}
	place := mw(idempotency.InTx(keys, sqldb.Std(db),
		func(ctx context.Context, tx *sql.Tx, r *http.Request) (idempotency.Response, error) {
			var id int64
			if err := tx.QueryRowContext(ctx, `INSERT INTO orders DEFAULT VALUES RETURNING id`).Scan(&id); err != nil {
				return idempotency.Response{}, err
			}
			return idempotency.Response{Code: http.StatusCreated, Body: fmt.Append(nil, "order ", id)}, nil
		}))

	for range 2 {
		r := httptest.NewRequest(http.MethodPost, "/orders", strings.NewReader(`{"product":"mug"}`))
		r.Header.Set("Idempotency-Key", "my-first-order")
		w := httptest.NewRecorder()
		place.ServeHTTP(w, r)
		fmt.Printf("%d %s replayed=%t\n", w.Code, w.Body, w.Header().Get("Idempotent-Replayed") == "true")
	}
	// Output:
	// 201 order 1 replayed=false
	// 201 order 1 replayed=true
}

// A handler without a transaction leaves it all to the middleware.
func ExampleMiddleware_leased() {
	store, err := idempotency.NewMemory(nil)
	if err != nil {
		log.Fatal(err)
	}
	mw, err := idempotency.Middleware(idempotency.ServerConfig{
		Scope:  func(r *http.Request) (string, error) { return "user-1", nil },
		Leased: store,
	})
	if err != nil {
		log.Fatal(err)
	}
	sent := 0
	h := mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent++
		fmt.Fprintf(w, "mail %d", sent)
	}))
	for _, body := range []string{"hello", "hello", "another text"} {
		r := httptest.NewRequest(http.MethodPost, "/mail", strings.NewReader(body))
		r.Header.Set("Idempotency-Key", "k1")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Printf("%d replayed=%t\n", w.Code, w.Header().Get("Idempotent-Replayed") == "true")
	}
	fmt.Println("sent:", sent)
	// Output:
	// 200 replayed=false
	// 200 replayed=true
	// 422 replayed=false
	// sent: 1
}

// All attempts of a request carry one key; a key set on the context goes first.
func ExampleNewTransport() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.Header.Get("Idempotency-Key"))
	}))
	defer srv.Close()
	client := &http.Client{Transport: idempotency.NewTransport(nil, nil)}
	defer client.CloseIdleConnections()

	ctx := idempotency.WithKey(context.Background(), "saga-7/charge")
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		req, err := http.NewRequestWithContext(ctx, method, srv.URL, nil)
		if err != nil {
			log.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
	// Output:
	// POST "saga-7/charge"
	// GET
}

// Both spellings name one key.
func ExampleParseKey() {
	for _, header := range []string{`"8e03978e"`, `8e03978e`, `two words`} {
		key, err := idempotency.ParseKey(header)
		fmt.Printf("%q %v\n", key, errors.Is(err, idempotency.ErrKeyInvalid))
	}
	// Output:
	// "8e03978e" false
	// "8e03978e" false
	// "" true
}

// Work that has no transaction to join, on a transport of one's own: it runs once
// for each key, under a lease.
func ExampleLeases() {
	store, err := idempotency.NewMemory(nil)
	if err != nil {
		log.Fatal(err)
	}
	leases, err := idempotency.NewLeases(store, nil)
	if err != nil {
		log.Fatal(err)
	}
	send := func(text string) {
		k := idempotency.Key{Value: "mail-7", Scope: "user-1", Operation: "send mail", Fingerprint: idempotency.Fingerprint([]byte(text))}
		resp, replayed, err := leases.Do(context.Background(), k, func(ctx context.Context) (idempotency.Response, error) {
			return idempotency.Response{Body: []byte("sent " + text)}, nil // ctx ends where the lease is lost
		})
		fmt.Printf("%s replayed=%t reused=%t\n", resp.Body, replayed, errors.Is(err, idempotency.ErrMismatch))
	}
	send("hello")
	send("hello")
	send("another text")
	// Output:
	// sent hello replayed=false reused=false
	// sent hello replayed=true reused=false
	//  replayed=false reused=true
}

// A handler that calls Do itself, in its own transaction.
func ExampleDo() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "orders")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "orders.db"), nil)
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
	k := idempotency.Key{Value: "k1", Scope: "user-1", Operation: "place order", Fingerprint: idempotency.Fingerprint([]byte("mug"))}
	for range 2 {
		resp, replayed, err := idempotency.Do(ctx, keys, sqldb.Std(db), k, func(ctx context.Context, tx *sql.Tx) (idempotency.Response, error) {
			return idempotency.Response{Body: []byte("order 1")}, nil // in practice: rows, an event, a saga, all on tx
		})
		fmt.Printf("%s replayed=%t %v\n", resp.Body, replayed, err)
	}
	// Output:
	// order 1 replayed=false <nil>
	// order 1 replayed=true <nil>
}

// Moving a byte from one part to the next makes another request.
func ExampleFingerprint() {
	a := idempotency.Fingerprint([]byte("POST /orders"), []byte("user-1"))
	b := idempotency.Fingerprint([]byte("POST /orders"), []byte("user-1"))
	c := idempotency.Fingerprint([]byte("POST /order"), []byte("suser-1"))
	fmt.Println(bytes.Equal(a, b), bytes.Equal(a, c))
	// Output:
	// true false
}
