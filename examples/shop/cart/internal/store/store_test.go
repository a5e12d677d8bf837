package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/cart/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/store"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func forEach(t *testing.T, test func(t *testing.T, db *sqldb.DB, s *store.Store)) {
	open := map[string]func(t *testing.T) *sqldb.DB{
		"sqlite": func(t *testing.T) *sqldb.DB {
			db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "cart.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			return db
		},
		"postgres": func(t *testing.T) *sqldb.DB { return pgtest.DB(t) },
	}
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			db := open[name](t)
			for _, step := range []func() error{
				func() error { return migrate.Up(t.Context(), db, "cart", store.Migrations()) },
				func() error { return migrate.Down(t.Context(), db, "cart", store.Migrations()) },
				func() error { return migrate.Up(t.Context(), db, "cart", store.Migrations()) },
			} {
				if err := step(); err != nil {
					t.Fatal(err)
				}
			}
			test(t, db, store.New(db))
		})
	}
}

func at(n int) time.Time { return time.UnixMicro(1_700_000_000_000_000 + int64(n)).UTC() }

func TestCart(t *testing.T) {
	forEach(t, func(t *testing.T, _ *sqldb.DB, s *store.Store) {
		if c, err := s.Get(t.Context(), "ann"); err != nil || len(c.Lines) != 0 || !c.UpdatedAt.IsZero() {
			t.Errorf("a cart that was never used: %+v, %v", c, err)
		}
		step := func(c domain.Cart, err error) domain.Cart {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		step(s.Put(t.Context(), "ann", domain.Line{ProductID: "pan", Quantity: 1}, at(1)))
		step(s.Put(t.Context(), "ann", domain.Line{ProductID: "cup", Quantity: 2}, at(2)))
		step(s.Put(t.Context(), "ann", domain.Line{ProductID: "pan", Quantity: 5}, at(3)))
		step(s.Put(t.Context(), "bob", domain.Line{ProductID: "cup", Quantity: 9}, at(3)))
		step(s.SetCoupon(t.Context(), "ann", "NAPKIN10", at(4)))
		got := step(s.Get(t.Context(), "ann"))
		want := domain.Cart{Lines: []domain.Line{{ProductID: "pan", Quantity: 5}, {ProductID: "cup", Quantity: 2}}, Coupon: "NAPKIN10", UpdatedAt: at(4)}
		if !slices.Equal(got.Lines, want.Lines) || got.Coupon != want.Coupon || !got.UpdatedAt.Equal(want.UpdatedAt) {
			t.Errorf("cart %+v, want %+v", got, want)
		}
		got = step(s.Delete(t.Context(), "ann", "pan", at(5)))
		if !slices.Equal(got.Lines, want.Lines[1:]) {
			t.Errorf("after taking one out: %+v", got)
		}
		step(s.Delete(t.Context(), "carol", "pan", at(5))) // nothing to take out of no cart
	})
}

func TestFull(t *testing.T) {
	forEach(t, func(t *testing.T, _ *sqldb.DB, s *store.Store) {
		for i := range domain.MaxProducts {
			if _, err := s.Put(t.Context(), "ann", domain.Line{ProductID: fmt.Sprint("p", i), Quantity: 1}, at(i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Put(t.Context(), "ann", domain.Line{ProductID: "one-more", Quantity: 1}, at(99)); !errors.Is(err, domain.ErrFull) {
			t.Errorf("one more: %v", err)
		}
		if c, err := s.Put(t.Context(), "ann", domain.Line{ProductID: "p0", Quantity: 7}, at(99)); err != nil || len(c.Lines) != domain.MaxProducts {
			t.Errorf("more of one that is in: %d lines, %v", len(c.Lines), err)
		}
	})
}

func TestFullUnderConcurrentPuts(t *testing.T) {
	forEach(t, func(t *testing.T, _ *sqldb.DB, s *store.Store) {
		var wg sync.WaitGroup
		for i := range domain.MaxProducts + 10 {
			wg.Go(func() {
				_, err := s.Put(t.Context(), "ann", domain.Line{ProductID: fmt.Sprint("p", i), Quantity: 1}, at(i))
				if err != nil && !errors.Is(err, domain.ErrFull) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if c, err := s.Get(t.Context(), "ann"); err != nil || len(c.Lines) != domain.MaxProducts {
			t.Errorf("%d lines, %v; want %d", len(c.Lines), err, domain.MaxProducts)
		}
	})
}

func TestTakeOutLeavesWhatWasNotBought(t *testing.T) {
	forEach(t, func(t *testing.T, db *sqldb.DB, s *store.Store) {
		for i, l := range []domain.Line{{ProductID: "pan", Quantity: 2}, {ProductID: "cup", Quantity: 5}, {ProductID: "rug", Quantity: 1}} {
			if _, err := s.Put(t.Context(), "ann", l, at(i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.SetCoupon(t.Context(), "ann", "NAPKIN10", at(4)); err != nil {
			t.Fatal(err)
		}
		for _, user := range []string{"ann", "nobody"} {
			err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
				return s.TakeOut(ctx, tx, user, []domain.Line{{ProductID: "pan", Quantity: 2}, {ProductID: "cup", Quantity: 3}, {ProductID: "gone", Quantity: 1}}, at(9))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		c, err := s.Get(t.Context(), "ann")
		if err != nil || !slices.Equal(c.Lines, []domain.Line{{ProductID: "cup", Quantity: 2}, {ProductID: "rug", Quantity: 1}}) || c.Coupon != "" {
			t.Errorf("left %+v, %v", c, err)
		}
	})
}
