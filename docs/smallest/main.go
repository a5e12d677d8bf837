// Command smallest is one service on the kit: a note that is sent twice under one key is kept once, and
// the event that tells of it is published if and only if the note was committed.
package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/devworkload"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := serve(ctx, "127.0.0.1:9000", "notes.db")
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, addr, file string) error {
	issuer, err := devworkload.New("example.test", nil) // stands in for SPIRE
	if err != nil {
		return err
	}
	defer issuer.Close()
	self := spiffeid.RequireFromString("spiffe://example.test/notes")
	sockets, err := issuer.ListenAll(ctx, "", self)
	if err != nil {
		return err
	}
	nobody, err := authn.NewPolicy() // no gRPC method, so no rule
	if err != nil {
		return err
	}
	svc, err := kit.New(ctx, nobody, kit.Config{
		Name: "notes", SPIFFEID: self, WorkloadAPI: sockets[self],
		GRPCAddr: kit.None, HTTPAddr: addr, PublicHTTP: true,
	})
	if err != nil {
		return err
	}
	defer svc.Close()

	db, err := sqlitedb.Open(ctx, file, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Write.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)`)
	ob, obErr := outbox.New(db.Dialect, "notes", nil)
	keys, keysErr := sqlidempotency.New(db.Dialect, nil)
	withKey, mwErr := idempotency.Middleware(idempotency.ServerConfig{
		Scope: func(r *http.Request) (string, error) { return cmp.Or(r.Header.Get("X-User"), "guest"), nil },
	})
	if err := errors.Join(err, obErr, keysErr, mwErr,
		migrate.Up(ctx, db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)),
		migrate.Up(ctx, db, outbox.Set, outbox.Migrations(db.Dialect)),
		migrate.Up(ctx, db, inbox.Set, inbox.Migrations(db.Dialect)),
	); err != nil {
		return err
	}

	// One transaction: the key's answer, the note and the event.
	svc.HTTP().Handle("POST /notes", withKey(idempotency.InTx(keys, sqldb.Std(db),
		func(ctx context.Context, tx *sql.Tx, r *http.Request) (idempotency.Response, error) {
			var id string
			if err := tx.QueryRowContext(ctx, `INSERT INTO notes (text) VALUES ($1) RETURNING id`, r.FormValue("text")).Scan(&id); err != nil {
				return idempotency.Response{}, err
			}
			err := ob.Append(ctx, tx, events.Event{Topic: "notes", Type: "note.taken", Key: id})
			return idempotency.Response{Code: http.StatusCreated, Body: []byte("note " + id + "\n")}, err
		})))

	// This broker forgets with the process, so the relay tells it everything again, and the inbox drops what
	// was heard before. natsevents.Connect gives one that remembers.
	broker := memevents.New(nil)
	relay, err := outbox.NewRelay(db, ob, broker, &outbox.RelayConfig{Logger: svc.Logger()})
	if err != nil {
		return err
	}
	listener, err := inbox.NewConsumer("listener", db, sqldb.Std(db), broker, &inbox.ConsumerConfig{Logger: svc.Logger()})
	if err != nil {
		return err
	}
	listener.Handle("notes", "note.taken", func(ctx context.Context, _ *sql.Tx, e events.Event) error {
		svc.Logger().InfoContext(ctx, "heard", "type", e.Type, "key", e.Key)
		return nil
	})
	svc.Go("outbox relay", relay.Run)
	svc.Go("listener", listener.Run)
	svc.Ready("database", db.Ping)
	return svc.Run(ctx)
}
