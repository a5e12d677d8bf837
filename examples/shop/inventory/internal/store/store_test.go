package store_test

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

	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/store"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

// onBoth runs a test on SQLite and on PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		test(t, migrated(t, db))
	})
	t.Run("postgres", func(t *testing.T) { test(t, migrated(t, pgtest.DB(t))) })
}

func migrated(t *testing.T, db *sqldb.DB) *sqldb.DB {
	t.Helper()
	if err := migrate.Up(t.Context(), db, "inventory", store.Migrations()); err != nil {
		t.Fatal(err)
	}
	return db
}

var (
	now   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	later = now.Add(5 * time.Minute)
)

// in runs fn on the shelf in a transaction of its own.
func in(ctx context.Context, t *testing.T, db *sqldb.DB, fn func(ctx context.Context, s domain.Shelf) error) error {
	t.Helper()
	return sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		return fn(ctx, store.Shelf(sqldb.StdTx(tx), db.Dialect))
	})
}

// must is in for what must not fail.
func must(t *testing.T, db *sqldb.DB, fn func(ctx context.Context, s domain.Shelf) error) {
	t.Helper()
	if err := in(t.Context(), t, db, fn); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, db *sqldb.DB, product string, quantity int64) {
	t.Helper()
	must(t, db, func(ctx context.Context, s domain.Shelf) error {
		_, err := domain.Receive(ctx, s, product, quantity, now)
		return err
	})
}

func reserve(t *testing.T, db *sqldb.DB, order string, lines ...domain.Line) (rejection *domain.Rejection) {
	t.Helper()
	must(t, db, func(ctx context.Context, s domain.Shelf) (err error) {
		_, rejection, err = domain.Reserve(ctx, s, order, lines, later, now)
		return err
	})
	return rejection
}

func commit(t *testing.T, db *sqldb.DB, order string) (rejection *domain.Rejection) {
	t.Helper()
	must(t, db, func(ctx context.Context, s domain.Shelf) (err error) {
		_, rejection, err = domain.Commit(ctx, s, order, now)
		return err
	})
	return rejection
}

func level(t *testing.T, db *sqldb.DB, product string) domain.Level {
	t.Helper()
	levels, err := store.List(t.Context(), db, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range levels {
		if l.ProductID == product {
			return l
		}
	}
	t.Fatalf("no level of %s", product)
	return domain.Level{}
}

// checkSums holds the levels against their own columns and against the ledger.
func checkSums(t *testing.T, db *sqldb.DB) {
	t.Helper()
	levels, err := store.List(t.Context(), db, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	sums, err := store.LedgerSums(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range levels {
		if l.OnHand+l.Committed != l.Received+l.Adjusted+l.Restocked || l.Reserved < 0 || l.Available() < 0 {
			t.Errorf("level does not add up: %+v", l)
		}
		m := sums[l.ProductID]
		ledger := domain.Level{
			ProductID: l.ProductID,
			OnHand:    m[domain.Received] + m[domain.Adjusted] + m[domain.Restocked] - m[domain.Committed],
			Reserved:  m[domain.Reserved] - m[domain.Released] - m[domain.Expired] - m[domain.Committed],
			Received:  m[domain.Received], Adjusted: m[domain.Adjusted],
			Committed: m[domain.Committed], Restocked: m[domain.Restocked],
		}
		if l != ledger {
			t.Errorf("level %+v, ledger says %+v", l, ledger)
		}
	}
}

func TestMigrationsGoDownAndUpAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		if err := migrate.Down(t.Context(), db, "inventory", store.Migrations()); err != nil {
			t.Fatal(err)
		}
		if err := migrate.Up(t.Context(), db, "inventory", store.Migrations()); err != nil {
			t.Fatal(err)
		}
		receive(t, db, "mug", 1)
	})
}

func TestReserveCommitRestock(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		receive(t, db, "mug", 10)
		receive(t, db, "mug", 10) // the event again: the shelf is not filled twice
		if r := reserve(t, db, "o1", domain.Line{ProductID: "mug", Quantity: 3}, domain.Line{ProductID: "mug", Quantity: 1}); r != nil {
			t.Fatal(r)
		}
		if l := level(t, db, "mug"); l.OnHand != 10 || l.Reserved != 4 || l.Available() != 6 {
			t.Fatalf("reserved: %+v", l)
		}
		if r := commit(t, db, "o1"); r != nil {
			t.Fatal(r)
		}
		commit(t, db, "o1") // twice is once
		if l := level(t, db, "mug"); l.OnHand != 6 || l.Reserved != 0 || l.Committed != 4 {
			t.Fatalf("committed: %+v", l)
		}
		for range 2 {
			must(t, db, func(ctx context.Context, s domain.Shelf) error {
				_, err := domain.Restock(ctx, s, "o1", now)
				return err
			})
		}
		if l := level(t, db, "mug"); l.OnHand != 10 || l.Restocked != 4 {
			t.Fatalf("restocked: %+v", l)
		}
		checkSums(t, db)
	})
}

func TestAllOrNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		receive(t, db, "mug", 10)
		receive(t, db, "pen", 1)
		r := reserve(t, db, "o1", domain.Line{ProductID: "mug", Quantity: 1}, domain.Line{ProductID: "pen", Quantity: 2})
		if r == nil || r.Reason != "out_of_stock" || len(r.ProductIDs) != 1 || r.ProductIDs[0] != "pen" {
			t.Fatalf("rejection %+v", r)
		}
		if l := level(t, db, "mug"); l.Reserved != 0 {
			t.Fatalf("mugs of a rejected order stayed reserved: %+v", l)
		}
		r = reserve(t, db, "o2", domain.Line{ProductID: "mug", Quantity: 1}, domain.Line{ProductID: "ghost", Quantity: 1})
		if r == nil || r.Reason != "unknown_product" || r.ProductIDs[0] != "ghost" {
			t.Fatalf("rejection %+v", r)
		}
		checkSums(t, db)
	})
}

// Two products, asked for in opposite order: rows are locked in one order, so
// nobody waits for ever. One item: it sells once.
func TestFiftyBuyersOfTheLastItem(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		receive(t, db, "mug", 1)
		receive(t, db, "pen", 50)
		var (
			wg   sync.WaitGroup
			mu   sync.Mutex
			sold []string
		)
		for i := range 50 {
			wg.Go(func() {
				order := fmt.Sprint("o", i)
				lines := []domain.Line{{ProductID: "mug", Quantity: 1}, {ProductID: "pen", Quantity: 1}}
				if i%2 == 0 {
					lines[0], lines[1] = lines[1], lines[0]
				}
				err := in(t.Context(), t, db, func(ctx context.Context, s domain.Shelf) error {
					_, r, err := domain.Reserve(ctx, s, order, lines, later, now)
					if err != nil || r != nil {
						return err
					}
					_, r, err = domain.Commit(ctx, s, order, now)
					if r != nil {
						t.Errorf("%s was promised and then rejected: %+v", order, r)
					}
					mu.Lock()
					sold = append(sold, order)
					mu.Unlock()
					return err
				})
				if err != nil {
					t.Errorf("%s: %v", order, err)
				}
			})
		}
		wg.Wait()
		if len(sold) != 1 {
			t.Fatalf("the last mug was sold to %v", sold)
		}
		if l := level(t, db, "pen"); l.OnHand != 49 || l.Reserved != 0 {
			t.Fatalf("pens: %+v", l)
		}
		checkSums(t, db)
	})
}

func TestExpiredReservation(t *testing.T) {
	mug := domain.Line{ProductID: "mug", Quantity: 1}
	expire := func(t *testing.T, db *sqldb.DB, order string, at time.Time) {
		t.Helper()
		must(t, db, func(ctx context.Context, s domain.Shelf) error {
			_, err := domain.Expire(ctx, s, order, at)
			return err
		})
	}
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		receive(t, db, "mug", 1)
		reserve(t, db, "o1", mug)
		if due, err := store.Due(t.Context(), db, now, 10); err != nil || len(due) != 0 {
			t.Fatalf("due before its time: %v %v", due, err)
		}
		expire(t, db, "o1", now) // not yet
		if l := level(t, db, "mug"); l.Reserved != 1 {
			t.Fatalf("expired before its time: %+v", l)
		}
		if due, err := store.Due(t.Context(), db, later, 10); err != nil || len(due) != 1 {
			t.Fatalf("due: %v %v", due, err)
		}
		expire(t, db, "o1", later)
		expire(t, db, "o1", later)
		if l := level(t, db, "mug"); l.Reserved != 0 {
			t.Fatalf("expired: %+v", l)
		}
		// There is stock still: the commit reserves again.
		if r := commit(t, db, "o1"); r != nil {
			t.Fatalf("commit of an expired reservation: %+v", r)
		}
		checkSums(t, db)

		// Somebody else took the stock: the commit is refused.
		receive(t, db, "pen", 1)
		pen := domain.Line{ProductID: "pen", Quantity: 1}
		reserve(t, db, "o2", pen)
		expire(t, db, "o2", later)
		reserve(t, db, "o3", pen)
		if r := commit(t, db, "o2"); r == nil || r.Reason != "out_of_stock" {
			t.Fatalf("commit of stock that is gone: %+v", r)
		}
		checkSums(t, db)
	})
}

func TestReleaseOfNothingSucceeds(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		receive(t, db, "mug", 2)
		release := func(order string) {
			must(t, db, func(ctx context.Context, s domain.Shelf) error {
				_, err := domain.Release(ctx, s, order, now)
				return err
			})
		}
		release("never")
		reserve(t, db, "o1", domain.Line{ProductID: "mug", Quantity: 2})
		release("o1")
		release("o1")
		if l := level(t, db, "mug"); l.Available() != 2 {
			t.Fatalf("released: %+v", l)
		}
		if r := commit(t, db, "o1"); r == nil || r.Reason != "reservation_released" {
			t.Fatalf("commit after release: %+v", r)
		}
		if r := reserve(t, db, "o1", domain.Line{ProductID: "mug", Quantity: 1}); r == nil {
			t.Fatal("an order that gave its stock up reserved again")
		}
		checkSums(t, db)
	})
}

func TestAdjustKeepsPromises(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		receive(t, db, "mug", 5)
		reserve(t, db, "o1", domain.Line{ProductID: "mug", Quantity: 3})
		adjust := func(product string, delta int64) (c domain.Change, err error) {
			err = in(t.Context(), t, db, func(ctx context.Context, s domain.Shelf) error {
				c, err = domain.Adjust(ctx, s, product, delta, "counted", now)
				return err
			})
			return c, err
		}
		if _, err := adjust("mug", -3); !errors.Is(err, domain.ErrInsufficient) {
			t.Fatalf("promised stock was taken away: %v", err)
		}
		c, err := adjust("mug", -2)
		if err != nil || c.After.OnHand != 3 || !c.Flipped() {
			t.Fatalf("%+v %v", c, err)
		}
		if _, err := adjust("ghost", 1); !errors.Is(err, domain.ErrUnknownProduct) {
			t.Fatalf("unknown product: %v", err)
		}
		checkSums(t, db)
	})
}

// between runs something before a transaction's second query.
type between struct {
	sqldb.Tx
	queries int
	run     func()
}

func (b *between) QueryRow(ctx context.Context, query string, args ...any) sqldb.Row {
	if b.queries++; b.queries == 2 {
		b.run()
	}
	return b.Tx.QueryRow(ctx, query, args...)
}

// TestAProductThatComesMeanwhile: an adjustment that meets the product's first receipt either does not know
// it or applies; it is never told that there is too little.
func TestAProductThatComesMeanwhile(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	var c domain.Change
	err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) (err error) {
		b := &between{Tx: sqldb.StdTx(tx), run: func() { receive(t, db, "mug", 5) }}
		c, err = domain.Adjust(ctx, store.Shelf(b, db.Dialect), "mug", 2, "counted", now)
		return err
	})
	if err != nil || c.After.OnHand != 7 {
		t.Fatalf("%+v %v", c, err)
	}
	checkSums(t, db)
}
