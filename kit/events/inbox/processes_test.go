package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

const (
	replicaDatabase = "INBOX_TEST_REPLICA_DATABASE"
	replicaBroker   = "INBOX_TEST_REPLICA_BROKER"
)

// replica is the process that TestReplicasThatAreKilledAndStopped runs several
// of: a relay and a consumer whose handler now and then fails.
func replica(database, broker string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	db, err := pgxdb.Open(ctx, database, &pgxdb.Config{IdleInTransaction: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	nc, err := nats.Connect(broker, natsevents.Options("replica", quiet)...)
	if err != nil {
		return err
	}
	defer nc.Close()
	b, err := natsevents.Connect(ctx, nc, &natsevents.Config{AckWait: 2 * time.Second, Timeout: time.Second, Logger: quiet})
	if err != nil {
		return err
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		return err
	}
	relay, err := outbox.NewRelay(db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, LeaseTTL: 500 * time.Millisecond,
		MaxBackoff: 100 * time.Millisecond, BatchSize: 20, Logger: quiet})
	if err != nil {
		return err
	}
	c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), b, &inbox.ConsumerConfig{LeaseTTL: 500 * time.Millisecond,
		Backoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, MaxAttempts: 50, HandlerTimeout: 5 * time.Second, Logger: quiet})
	if err != nil {
		return err
	}
	c.Handle("orders", happened, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
		if err := effect(ctx, tx, e); err != nil {
			return err
		}
		time.Sleep(rand.N(3 * time.Millisecond)) // work, to be stopped in
		if rand.N(20) == 0 {
			return errors.New("now and then")
		}
		return nil
	})
	errs := make(chan error, 2)
	go func() { errs <- relay.Run(ctx) }()
	go func() { errs <- c.Run(ctx) }()
	return errors.Join(<-errs, <-errs)
}

// Three replicas, of which one or another is killed, or stopped past its lease
// and resumed, while several writers write events of the same few keys. Each
// event has one effect, in the order of its key.
func TestReplicasThatAreKilledAndStopped(t *testing.T) {
	if pause == nil {
		t.Skip("processes cannot be stopped and resumed on this system")
	}
	if testing.Short() {
		t.Skip("takes some 15 s")
	}
	url := pgtest.URL(t)
	db, err := pgxdb.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	migrated(t, db)
	if err := migrate.Up(t.Context(), db, "napkin_outbox", outbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := natstest.Start(t)
	b := connect(t, srv)
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	spawn := func() *exec.Cmd {
		p := exec.Command(os.Args[0], "-test.run=^$")
		p.Env = append(os.Environ(), replicaDatabase+"="+url, replicaBroker+"="+srv.URL)
		p.Stderr = os.Stderr
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	end := func(p *exec.Cmd) {
		_ = p.Process.Kill() // also where it is stopped
		_ = p.Wait()         // "killed"
	}
	var replicas [3]*exec.Cmd
	for i := range replicas {
		replicas[i] = spawn()
	}
	defer func() {
		for _, p := range replicas {
			end(p)
		}
	}()
	writing, stop := context.WithTimeout(t.Context(), 8*time.Second)
	defer stop()
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for writing.Err() == nil {
				e := event(fmt.Sprintf("key%d", rand.N(6)), 0)
				e.ID = ""
				err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
					if err := ob.Append(ctx, tx, e); err != nil {
						return err
					}
					time.Sleep(rand.N(8 * time.Millisecond)) // so that others commit before
					if rand.N(10) == 0 {
						return sql.ErrTxDone // rolled back: a hole for ever
					}
					return nil
				})
				if err != nil && !errors.Is(err, sql.ErrTxDone) {
					t.Error(err)
				}
			}
		})
	}
	for writing.Err() == nil {
		p := &replicas[rand.N(len(replicas))]
		switch rand.N(3) {
		case 0:
			end(*p)
			*p = spawn()
		default:
			_ = (*p).Process.Signal(pause)
			pass(t, 200*time.Millisecond+rand.N(1500*time.Millisecond))
			_ = (*p).Process.Signal(resume)
		}
		pass(t, rand.N(300*time.Millisecond))
	}
	writers.Wait()
	total := 0
	if err := db.Read.QueryRowContext(t.Context(), `SELECT coalesce(sum(seq), 0) FROM napkin_outbox_key`).Scan(&total); err != nil {
		t.Fatal(err)
	}
	eventually(t, fmt.Sprintf("%d effects", total), func() bool { return len(effects(t, db)) >= total })
	drained(t, b)
	got := effects(t, db)
	if len(got) != total || total < 100 {
		t.Errorf("%d effects of %d events", len(got), total)
	}
	for k := range 6 {
		key := fmt.Sprintf("key%d", k)
		for i, s := range of(key, got) {
			if s != fmt.Sprintf("%s-%d", key, i+1) {
				t.Fatalf("effect %d of %s is %s", i+1, key, s)
			}
		}
	}
	if l := letters(t, db); len(l) != 0 {
		t.Errorf("dead letters: %+v", l)
	}
}

// pass lets the processes run for a while.
func pass(t *testing.T, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
