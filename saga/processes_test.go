package saga_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

const nodeDatabase = "SAGA_TEST_NODE_DATABASE"

type parcel struct {
	N int `json:"n"`
}

// node is a coordinator on db whose calls, to another service in the same
// database, now and then fail before or after their effect.
func node(db *sqldb.DB) (*saga.Coordinator, *saga.Handle[parcel], error) {
	store, err := sqlsaga.New(db, &sqlsaga.Config{IdleTimeout: time.Second})
	if err != nil {
		return nil, nil, err
	}
	c, err := saga.NewCoordinator(store, &saga.Config{Logger: slog.New(slog.DiscardHandler), PollEvery: 20 * time.Millisecond,
		LeaseTTL: 500 * time.Millisecond, BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond, Attempts: 200})
	if err != nil {
		return nil, nil, err
	}
	call := func(what string) func(context.Context, *parcel) error {
		return func(ctx context.Context, p *parcel) error {
			time.Sleep(rand.N(5 * time.Millisecond)) // to be stopped in
			if rand.N(10) == 0 {
				return errors.New("not sent")
			}
			if what == "pay" && p.N%4 == 0 {
				return saga.Refuse("no money")
			}
			if _, err := db.Write.ExecContext(ctx, `INSERT INTO happened (n, what) VALUES ($1, $2)`, p.N, what); err != nil {
				return err
			}
			if rand.N(10) == 0 {
				return errors.New("the answer was lost")
			}
			return nil
		}
	}
	local := func(change int) func(context.Context, sqldb.Tx, *parcel) error {
		return func(ctx context.Context, tx sqldb.Tx, p *parcel) error {
			_, err := tx.ExecContext(ctx, `UPDATE parcel SET reserved = reserved + $1 WHERE n = $2`, change, p.N)
			return err
		}
	}
	ended := func(ctx context.Context, tx sqldb.Tx, p *parcel) error {
		_, err := tx.ExecContext(ctx, `UPDATE parcel SET ended = ended + 1 WHERE n = $1`, p.N)
		return err
	}
	h, err := saga.Register(c, saga.Definition[parcel]{Name: "parcel", Steps: []saga.Step[parcel]{
		&saga.Call[parcel]{Name: "book", Do: call("book"), Undo: call("unbook")},
		&saga.Local[parcel]{Name: "reserve", Do: local(1), Undo: local(-1)},
		&saga.Call[parcel]{Name: "pay", Kind: saga.Pivot, Do: call("pay")},
		&saga.Call[parcel]{Name: "ship", Kind: saga.Retriable, Do: call("ship")},
	}, OnCompleted: ended, OnCompensated: func(ctx context.Context, tx sqldb.Tx, p *parcel, _ saga.Cause) error { return ended(ctx, tx, p) }})
	return c, h, err
}

func runNode(database string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	db, err := pgxdb.Open(ctx, database, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	c, _, err := node(db)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

// Three coordinators share a database; one or another is killed, or stopped past
// its lease and resumed. Every saga ends, once, either way whole.
func TestCoordinatorsThatAreKilledAndStopped(t *testing.T) {
	if pause == nil {
		t.Skip("processes cannot be stopped and resumed on this system")
	}
	if testing.Short() {
		t.Skip("takes some 10 s")
	}
	url := pgtest.URL(t)
	db, err := pgxdb.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := migrate.Up(t.Context(), db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{
		`CREATE TABLE happened (n INT NOT NULL, what TEXT NOT NULL)`,
		`CREATE TABLE parcel (n INT PRIMARY KEY, reserved INT NOT NULL DEFAULT 0, ended INT NOT NULL DEFAULT 0)`,
	} {
		if _, err := db.Write.ExecContext(t.Context(), table); err != nil {
			t.Fatal(err)
		}
	}
	c, h, err := node(db) // starts sagas, does not run them
	if err != nil {
		t.Fatal(err)
	}
	spawn := func() *exec.Cmd {
		p := exec.Command(os.Args[0], "-test.run=^$")
		p.Env = append(os.Environ(), nodeDatabase+"="+url)
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
	var nodes [3]*exec.Cmd
	for i := range nodes {
		nodes[i] = spawn()
	}
	defer func() {
		for _, p := range nodes {
			end(p)
		}
	}()
	wait := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		<-timer.C
	}
	total := 0
	for until := time.Now().Add(6 * time.Second); time.Now().Before(until); {
		for range 20 {
			total++
			err := sqldb.Std(db).InTx(t.Context(), func(ctx context.Context, tx stdTx) error {
				if _, err := tx.ExecContext(ctx, `INSERT INTO parcel (n) VALUES ($1)`, total); err != nil {
					return err
				}
				return h.Start(ctx, sqldb.StdTx(tx), fmt.Sprintf("p%d", total), parcel{N: total})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		p := &nodes[rand.N(len(nodes))]
		if rand.N(3) == 0 {
			end(*p)
			*p = spawn()
		} else {
			_ = (*p).Process.Signal(pause)
			wait(200*time.Millisecond + rand.N(time.Second))
			_ = (*p).Process.Signal(resume)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; wait(20 * time.Millisecond) {
		n, stuck, err := sqlsaga.Unfinished(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if stuck > 0 || time.Now().After(deadline) {
			open, _ := c.List(t.Context(), saga.Filter{Status: saga.StatusRunning})
			t.Fatalf("%d unfinished, %d stuck, of %d; such as %+v", n, stuck, total, open[:min(1, len(open))])
		}
	}
	var wrong int
	err = db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM parcel p JOIN napkin_sagas s ON s.id = 'p' || p.n WHERE NOT (ended = 1 AND CASE
		WHEN s.status = 'completed' THEN reserved = 1 AND n % 4 <> 0 AND 3 = (SELECT count(DISTINCT what) FROM happened h WHERE h.n = p.n AND what IN ('book', 'pay', 'ship'))
			AND NOT EXISTS (SELECT 1 FROM happened h WHERE h.n = p.n AND what = 'unbook')
		ELSE reserved = 0 AND n % 4 = 0 AND EXISTS (SELECT 1 FROM happened h WHERE h.n = p.n AND what = 'unbook')
			AND NOT EXISTS (SELECT 1 FROM happened h WHERE h.n = p.n AND what IN ('pay', 'ship')) END)`).Scan(&wrong)
	if err != nil || wrong > 0 {
		t.Errorf("%d of %d sagas are not whole: %v", wrong, total, err)
	}
}
