//go:build unix

package chaos

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

var (
	seed     = flag.Uint64("seed", 0, "of what is done to which part when; 0: a new one")
	duration = flag.Duration("duration", 0, "of the chaos; 0: 1 min, with -short 12 s")
)

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// server starts PostgreSQL with the tables of the packages and the test's own.
func server(t testing.TB) (*pgtest.Server, *sqldb.DB) {
	t.Helper()
	// A process that is killed loses nothing of what it has given to the system.
	pg, err := pgtest.Start("", 0, "fsync=off")
	if errors.Is(err, pgtest.ErrNotInstalled) && !pgtest.Required("postgres") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Close() })
	db, err := pgxdb.Open(t.Context(), pg.URL("postgres"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for set, files := range map[string]func() error{
		outbox.Set: func() error { return migrate.Up(t.Context(), db, outbox.Set, outbox.Migrations(db.Dialect)) },
		inbox.Set:  func() error { return migrate.Up(t.Context(), db, inbox.Set, inbox.Migrations(db.Dialect)) },
	} {
		if err := files(); err != nil {
			t.Fatal(set, err)
		}
	}
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE written (id TEXT PRIMARY KEY, key TEXT NOT NULL);
		CREATE TABLE effect (n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, consumer TEXT, id TEXT, key TEXT, seq BIGINT,
			at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp())`); err != nil {
		t.Fatal(err)
	}
	return pg, db
}

// broker starts a NATS server in a process of its own, on a port that stays.
func broker(t testing.TB) (p *process, url string, again func() *process) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, dir := l.Addr().String(), t.TempDir()
	l.Close()
	again = func() *process { return start(t, "nats", envBroker+"="+addr, envDir+"="+dir) }
	p = again()
	p.line(t, "ready")
	return p, "nats://" + addr, again
}

func join(t testing.TB, url string) *natsevents.Broker {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	b, err := natsevents.Connect(t.Context(), nc, &natsevents.Config{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// Two relays, two processes of consumers, the broker and the database are killed and
// stopped at random while writers write. At the end each event that was committed
// had its effect at each consumer once, in the order of its key.
func TestEveryPartIsKilled(t *testing.T) {
	d := *duration
	switch {
	case d > 0:
	case testing.Short():
		d = 12 * time.Second
	default:
		d = time.Minute
	}
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("repeat with: go test ./kit/events/chaos -run TestEveryPartIsKilled -seed %d -duration %v", s, d)
	r := rand.New(rand.NewPCG(s, 0))

	pg, db := server(t)
	natsProcess, url, natsAgain := broker(t)
	b := join(t, url)
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	var kills, crashes tally
	next := map[string]int{} // of its points
	spawn := func(part string) *process {
		p := points[part]
		point := p[next[part]%len(p)]
		next[part]++
		x := start(t, part, envDatabase+"="+pg.URL("postgres"), envBroker+"="+url, envPoint+"="+fmt.Sprintf("%s#%d", point, 1+r.IntN(40)))
		go func() {
			for l := range x.lines {
				if l == "crash "+point {
					crashes.add(point)
				}
			}
		}()
		return x
	}
	parts := []string{"relay", "relay", "consumer", "consumer"}
	processes := make([]*process, len(parts))
	for i, part := range parts {
		processes[i] = spawn(part)
	}

	writing, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	defer writers.Wait()
	defer stop()
	var committed atomic.Int64
	for i := range 4 {
		writers.Go(func() { write(writing, db, rand.New(rand.NewPCG(s, uint64(i)+1)), i, &committed) })
	}
	covered := func() bool {
		for _, list := range points {
			for _, p := range list {
				if crashes.of(p) == 0 {
					return false
				}
			}
		}
		return true
	}
	until, last := time.Now().Add(d), time.Now().Add(d+2*time.Minute)
	for time.Now().Before(until) || !covered() && time.Now().Before(last) {
		for i, p := range processes {
			if p.over() {
				processes[i] = spawn(parts[i])
			}
		}
		pause := func(p *process) {
			_ = p.cmd.Process.Signal(syscall.SIGSTOP)
			wait(t.Context(), time.Duration(200+r.IntN(2300))*time.Millisecond)
			_ = p.cmd.Process.Signal(syscall.SIGCONT)
		}
		switch i := r.IntN(len(parts)); r.IntN(10) {
		case 0, 1:
			processes[i].kill()
			kills.add(parts[i] + " killed")
		case 2, 3:
			pause(processes[i])
			kills.add(parts[i] + " stopped")
		case 4:
			natsProcess.kill()
			wait(t.Context(), time.Duration(r.IntN(800))*time.Millisecond)
			natsProcess = natsAgain()
			kills.add("broker killed")
		case 5:
			pause(natsProcess)
			kills.add("broker stopped")
		case 6:
			if err := pg.Crash(); err != nil {
				t.Fatal(err)
			}
			wait(t.Context(), time.Duration(r.IntN(800))*time.Millisecond)
			if err := pg.Restart(); err != nil {
				t.Fatal(err)
			}
			kills.add("database killed")
		default: // let it work
		}
		wait(t.Context(), time.Duration(100+r.IntN(700))*time.Millisecond)
	}
	stop()
	writers.Wait()
	drain(t, db, b, 4*time.Minute, func() {
		for i, p := range processes {
			if p.over() { // it had a crash point still to come
				processes[i] = start(t, parts[i], envDatabase+"="+pg.URL("postgres"), envBroker+"="+url)
			}
		}
	})
	events := ledger(t, db)
	if n := committed.Load(); int64(events) < n {
		t.Errorf("%d transactions were committed, %d events are there", n, events)
	}
	t.Logf("seed %d: %d events, each once and in order at %d consumers", s, events, len(consumers))
	for _, k := range slices.Sorted(maps.Keys(kills.n)) {
		t.Logf("%-40s %5d", k, kills.of(k))
	}
	for _, part := range []string{"relay", "consumer"} {
		for _, p := range points[part] {
			t.Logf("crashed at %-29s %5d", p, crashes.of(p))
			if crashes.of(p) == 0 {
				t.Errorf("crash point %q was never hit", p)
			}
		}
	}
}

// write writes events of a few keys until ctx ends, some of them in transactions
// that are rolled back.
func write(ctx context.Context, db *sqldb.DB, r *rand.Rand, writer int, committed *atomic.Int64) {
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		panic(err)
	}
	for n := 0; ctx.Err() == nil; n++ {
		e := events.Event{ID: fmt.Sprintf("%d-%d", writer, n), Type: happened, Topic: "orders", Key: fmt.Sprintf("key%d", r.IntN(40)), Data: []byte("x")}
		undo := r.IntN(10) == 0
		err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, `INSERT INTO written (id, key) VALUES ($1, $2)`, e.ID, e.Key); err != nil {
				return err
			}
			if err := ob.Append(ctx, tx, e); err != nil {
				return err
			}
			if undo {
				return sql.ErrTxDone
			}
			return nil
		})
		if err == nil {
			committed.Add(1)
		}
		wait(ctx, time.Duration(r.IntN(10))*time.Millisecond)
		if err != nil && !undo {
			wait(ctx, 50*time.Millisecond) // the database is away
		}
	}
}

// drain waits until nothing is left to publish or to handle.
func drain(t testing.TB, db *sqldb.DB, b events.Broker, within time.Duration, revive func()) {
	t.Helper()
	rest := ""
	for end := time.Now().Add(within); time.Now().Before(end); wait(t.Context(), 100*time.Millisecond) {
		revive()
		backlog, err := outbox.ReadBacklog(t.Context(), db)
		if err != nil || !backlog.Empty() || backlog.Stalled > 0 {
			rest = fmt.Sprintf("outbox %+v, %v", backlog, err)
			continue
		}
		rest = ""
		for _, c := range consumers {
			if n, err := b.Pending(t.Context(), c); err != nil || n > 0 {
				rest += fmt.Sprintf("%s has %d pending, %v; ", c, n, err)
			}
		}
		if rest == "" {
			return
		}
	}
	t.Fatalf("not drained in %v: %s", within, rest)
}

// ledger compares the effects with what was committed, and returns the number of
// events.
func ledger(t testing.TB, db *sqldb.DB) (events int) {
	t.Helper()
	count := func(query string, args ...any) (n int) {
		if err := db.Read.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	events = count(`SELECT count(*) FROM written`)
	if n := count(`SELECT coalesce(sum(seq), 0) FROM napkin_outbox_key`); n != events {
		t.Errorf("%d events were numbered, %d committed", n, events)
	}
	for _, c := range consumers {
		for what, query := range map[string]string{
			"events without an effect":              `SELECT count(*) FROM written w WHERE NOT EXISTS (SELECT 1 FROM effect e WHERE e.consumer = $1 AND e.id = w.id)`,
			"events with several":                   `SELECT count(*) FROM (SELECT id FROM effect WHERE consumer = $1 GROUP BY id HAVING count(*) > 1) AS x`,
			"effects of what was never committed":   `SELECT count(*) FROM effect e WHERE consumer = $1 AND NOT EXISTS (SELECT 1 FROM written w WHERE e.id = w.id)`,
			"effects out of the order of their key": `SELECT count(*) FROM (SELECT seq, row_number() OVER (PARTITION BY key ORDER BY n) AS want FROM effect WHERE consumer = $1) AS x WHERE seq <> want`,
			"dead letters":                          `SELECT count(*) FROM napkin_dead_letter WHERE consumer = $1`,
		} {
			if n := count(query, c); n != 0 {
				t.Errorf("%s: %d %s", c, n, what)
			}
		}
	}
	return events
}
