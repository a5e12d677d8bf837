package lease_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

// both runs a test on each dialect, with the tables in place.
func both(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "lease.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		up(t, db)
		test(t, db)
	})
	t.Run("postgres", func(t *testing.T) {
		db := pgtest.DB(t)
		up(t, db)
		test(t, db)
	})
}

func up(t *testing.T, db *sqldb.DB) {
	t.Helper()
	if err := migrate.Up(t.Context(), db, lease.Set, lease.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
}

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func join(t *testing.T, db *sqldb.DB, cfg lease.Config) *lease.Node {
	t.Helper()
	n, err := lease.Join(t.Context(), db, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func claim(t *testing.T, n *lease.Node, names []string, limit, want int) []lease.Lease {
	t.Helper()
	got, err := n.Claim(t.Context(), names, limit)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != want {
		t.Fatalf("claimed %d leases, want %d", len(got), want)
	}
	return got
}

func TestMigrationsUpDownUp(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		if err := migrate.Down(t.Context(), db, lease.Set, lease.Migrations(db.Dialect)); err != nil {
			t.Fatal(err)
		}
		up(t, db)
		claim(t, join(t, db, lease.Config{Group: "g"}), []string{"a"}, 1, 1)
	})
}

func TestConfigNamesTheField(t *testing.T) {
	for want, cfg := range map[string]*lease.Config{
		"lease: Config.Group is required: name the nodes that share work, like \"outbox\"": nil,
		"lease: Config.TTL -1s: must not be negative":                                      {Group: "g", TTL: -time.Second},
	} {
		if _, err := lease.Join(t.Context(), nil, cfg); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestZombieIsFenced(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		c := &clock{t: time.Unix(1_700_000_000, 0)}
		cfg := lease.Config{Group: "g", TTL: 10 * time.Second, Now: c.now}
		zombie, heir := join(t, db, cfg), join(t, db, cfg)
		old := claim(t, zombie, []string{"a", "b"}, 2, 2)[0]
		claim(t, heir, []string{"a", "b"}, 2, 0)

		c.add(9 * time.Second)
		if err := heir.Beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		claim(t, heir, []string{"a"}, 1, 0) // not a microsecond early
		c.add(time.Second)
		taken := claim(t, heir, []string{"a"}, 1, 1)[0]
		if taken.Epoch != old.Epoch+1 {
			t.Fatalf("epoch %d after %d: must rise by one", taken.Epoch, old.Epoch)
		}
		if err := zombie.Beat(t.Context()); !errors.Is(err, lease.ErrLost) {
			t.Fatalf("the dead node's heart beats on: %v", err)
		}
		claim(t, zombie, []string{"b"}, 1, 0) // the dead claim nothing
		if err := old.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		guard := func(l lease.Lease) error {
			return sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
				return l.Guard(ctx, sqldb.StdTx(tx))
			})
		}
		if err := guard(old); !errors.Is(err, lease.ErrLost) {
			t.Fatalf("the zombie's write is let through: %v", err)
		}
		if err := guard(taken); err != nil {
			t.Fatalf("the holder is refused, after the zombie's release: %v", err)
		}
	})
}

func TestExclusiveTakesOverAtOnce(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		killed := join(t, db, lease.Config{Group: "g"})
		first := claim(t, killed, []string{"a"}, 1, 1)[0]
		join(t, db, lease.Config{Group: "other"})
		next := join(t, db, lease.Config{Group: "g", Exclusive: true})
		if l := claim(t, next, []string{"a"}, 1, 1)[0]; l.Epoch != first.Epoch+1 {
			t.Fatalf("epoch %d after %d", l.Epoch, first.Epoch)
		}
		if n, err := next.Live(t.Context()); err != nil || n != 1 {
			t.Fatalf("%d live, %v", n, err)
		}
		if err := next.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		claim(t, join(t, db, lease.Config{Group: "g"}), []string{"a"}, 1, 1)
	})
}

func TestOneWinnerAmongMany(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		holders := map[string]int{}
		var names []string
		for i := range 8 {
			names = append(names, fmt.Sprint(i))
		}
		for range 8 {
			n := join(t, db, lease.Config{Group: "g"})
			wg.Go(func() {
				got, err := n.Claim(t.Context(), names, 3)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, l := range got {
					holders[l.Name]++
				}
			})
		}
		wg.Wait()
		for _, name := range names {
			if holders[name] != 1 {
				t.Errorf("lease %s has %d holders", name, holders[name])
			}
		}
	})
}

// await polls a condition until it holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
		<-tick.C
	}
}

func TestShareBalancesAndHandsOver(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		names := []string{"0", "1", "2", "3", "4", "5", "6"}
		var mu sync.Mutex
		held := map[string]string{} // lease → node
		count := map[string]int{}
		start := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				err := lease.Run(ctx, db, &lease.Config{Group: "g", TTL: 300 * time.Millisecond}, func(ctx context.Context, n *lease.Node) error {
					return n.Share(ctx, names, func(ctx context.Context, l lease.Lease) error {
						mu.Lock()
						if other := held[l.Name]; other != "" {
							t.Errorf("lease %s is held by %s and %s at once", l.Name, other, n.ID())
						}
						held[l.Name] = n.ID()
						count[n.ID()]++
						mu.Unlock()
						<-ctx.Done()
						mu.Lock()
						delete(held, l.Name)
						count[n.ID()]--
						mu.Unlock()
						return ctx.Err()
					})
				})
				if err != nil {
					t.Error(err)
				}
			}()
			return func() { cancel(); <-done }
		}
		spread := func(most int, nodes int) func() bool {
			return func() bool {
				mu.Lock()
				defer mu.Unlock()
				n := 0
				for _, c := range count {
					if c > most {
						return false
					}
					if c > 0 {
						n++
					}
				}
				return n == nodes && len(held) == len(names)
			}
		}
		stop1 := start()
		await(t, "one node holds all", spread(7, 1))
		stop2 := start()
		await(t, "two nodes share", spread(4, 2))
		stop1()
		await(t, "the second takes over", spread(7, 1))
		stop2()
	})
}

// A node whose row is gone notices at the next beat, ends its work and comes
// back as another node.
func TestRunRejoinsAfterLoss(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ids := make(chan string, 10)
		done := make(chan error)
		go func() {
			done <- lease.Run(ctx, db, &lease.Config{Group: "g", TTL: 300 * time.Millisecond}, func(ctx context.Context, n *lease.Node) error {
				ids <- n.ID()
				<-ctx.Done()
				return context.Cause(ctx)
			})
		}()
		first := <-ids
		if _, err := db.Write.ExecContext(t.Context(), `DELETE FROM napkin_nodes`); err != nil {
			t.Fatal(err)
		}
		if second := <-ids; second == first {
			t.Fatal("a dead id was used again")
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		var rows int
		if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM napkin_nodes`).Scan(&rows); err != nil || rows != 0 {
			t.Fatalf("%d nodes left behind, %v", rows, err)
		}
	})
}

func TestRunReturnsItsWorksError(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		want := errors.New("broken")
		err := lease.Run(t.Context(), db, &lease.Config{Group: "g"}, func(context.Context, *lease.Node) error { return want })
		if !errors.Is(err, want) {
			t.Fatalf("got %v", err)
		}
	})
}

// A claim that waits for the lease's row must not judge the row's new holder by
// what it saw before it waited: that holder may have joined since.
func TestAClaimThatWaitedDoesNotTakeFromTheLiving(t *testing.T) {
	db := pgtest.DB(t)
	up(t, db)
	ctx := t.Context()
	first := join(t, db, lease.Config{Group: "g"})
	claim(t, first, []string{"a"}, 1, 1)
	if err := first.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	late := join(t, db, lease.Config{Group: "g"})
	tx, err := db.Write.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }() // a no-op after the commit
	if _, err := tx.ExecContext(ctx, `SELECT 1 FROM napkin_leases FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	taken := make(chan int, 1)
	go func() {
		got, err := late.Claim(ctx, []string{"a"}, 1)
		if err != nil {
			t.Error(err)
		}
		taken <- len(got)
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for waits := 0; waits == 0; <-tick.C {
		if err := db.Read.QueryRowContext(ctx, `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	faster := join(t, db, lease.Config{Group: "g"})
	if _, err := tx.ExecContext(ctx, `UPDATE napkin_leases SET node = $1, epoch = epoch + 1`, faster.ID()); err != nil { // its claim
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if n := <-taken; n != 0 {
		t.Error("the lease was taken from a living node")
	}
}

// A node that lives on must not keep what it could not release: nobody else could
// take it.
func TestAReleaseThatFailedIsMadeUpFor(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		n, other := join(t, db, lease.Config{Group: "g"}), join(t, db, lease.Config{Group: "g"})
		l := claim(t, n, []string{"a"}, 1, 1)[0]
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Release(gone); err == nil {
			t.Fatal("the release did not fail")
		}
		claim(t, other, []string{"a"}, 1, 0)
		claim(t, n, []string{"b"}, 1, 1) // whatever it does next
		claim(t, other, []string{"a"}, 1, 1)
	})
}
