package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/order/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/store"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

// book is a store with what it told.
type book struct {
	*store.Store
	db      *sqldb.DB
	told    []string
	changed []string
}

// Append implements store.Outbox.
func (b *book) Append(_ context.Context, _ sqldb.Execer, evs ...events.Event) error {
	for _, e := range evs {
		b.told = append(b.told, e.Key+" "+e.Type)
	}
	return nil
}

func onBoth(t *testing.T, test func(t *testing.T, b *book)) {
	run := func(t *testing.T, db *sqldb.DB) {
		for _, step := range []func(context.Context, *sqldb.DB) error{
			func(ctx context.Context, db *sqldb.DB) error { return migrate.Up(ctx, db, "order", store.Migrations()) },
			func(ctx context.Context, db *sqldb.DB) error {
				return migrate.Down(ctx, db, "order", store.Migrations())
			},
			func(ctx context.Context, db *sqldb.DB) error { return migrate.Up(ctx, db, "order", store.Migrations()) },
		} {
			if err := step(t.Context(), db); err != nil {
				t.Fatal(err)
			}
		}
		b := &book{db: db}
		b.Store = store.New(db, b, func(o domain.Order, what domain.Happening) (events.Event, error) {
			return events.Event{Key: o.ID, Type: string(what)}, nil
		}, func(id string) { b.changed = append(b.changed, id) })
		test(t, b)
	}
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "order.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		run(t, db)
	})
	t.Run("postgres", func(t *testing.T) { run(t, pgtest.DB(t)) })
}

func (b *book) tx(t *testing.T, fn func(ctx context.Context, o domain.Orders) error) error {
	t.Helper()
	return sqldb.InTx(t.Context(), b.db, func(ctx context.Context, tx *sql.Tx) error {
		return fn(ctx, b.In(sqldb.StdTx(tx)))
	})
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func sample(id, user string, at time.Time) domain.Order {
	return domain.Order{
		ID: id, UserID: user, MethodID: "pm_1", Status: domain.Pending, Total: 1999, Discount: 100, Currency: "EUR", FromCart: true,
		Items:    []domain.Item{{ProductID: "mug", Name: "A mug", Quantity: 2, UnitPrice: 1050}},
		Revision: 1, CreatedAt: at, UpdatedAt: at,
	}
}

func TestAnOrderIsKeptAndItsChangesAreTold(t *testing.T) {
	onBoth(t, func(t *testing.T, b *book) {
		want := sample("ord_1", "ann", now)
		if err := b.tx(t, func(ctx context.Context, o domain.Orders) error { return o.Insert(ctx, want) }); err != nil {
			t.Fatal(err)
		}
		got, err := b.Get(t.Context(), "ord_1")
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got %+v, want %+v: %v", got, want, err)
		}
		confirm := func(ctx context.Context, o domain.Orders) error {
			locked, err := o.Lock(ctx, "ord_1")
			if err != nil {
				return err
			}
			if err := locked.Confirm(now.Add(time.Second)); err != nil {
				return err
			}
			return o.Save(ctx, locked, domain.HappenedConfirmed)
		}
		rollback := errors.New("rolled back")
		if err := b.tx(t, func(ctx context.Context, o domain.Orders) error { return errors.Join(confirm(ctx, o), rollback) }); !errors.Is(err, rollback) {
			t.Fatal(err)
		}
		b.told = b.told[:1] // a real outbox rolls back with its transaction
		if err := b.tx(t, confirm); err != nil {
			t.Fatal(err)
		}
		if err := b.tx(t, confirm); !errors.Is(err, domain.ErrTransition) {
			t.Fatalf("confirmed twice: %v", err)
		}
		if got, _ = b.Get(t.Context(), "ord_1"); got.Status != domain.Confirmed || got.Revision != 2 {
			t.Fatalf("%+v", got)
		}
		if want := []string{"ord_1 created", "ord_1 confirmed"}; !slices.Equal(b.told, want) {
			t.Errorf("told %v, want %v", b.told, want)
		}
		if want := []string{"ord_1", "ord_1"}; !slices.Equal(b.changed, want) {
			t.Errorf("watchers were woken for %v, want %v: only what committed", b.changed, want)
		}
		if _, err := b.Get(t.Context(), "ord_2"); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("no order: %v", err)
		}
	})
}

func TestPagesAreStable(t *testing.T) {
	onBoth(t, func(t *testing.T, b *book) {
		insert := func(o domain.Order) {
			t.Helper()
			if err := b.tx(t, func(ctx context.Context, orders domain.Orders) error { return orders.Insert(ctx, o) }); err != nil {
				t.Fatal(err)
			}
		}
		// Two of each moment, so that the id has to decide.
		for n := range 10 {
			insert(sample(fmt.Sprint("ord_", n), []string{"ann", "bob"}[n%2], now.Add(time.Duration(n/2)*time.Second)))
		}
		var got []string
		f := store.Filter{Limit: 3}
		for {
			page, err := b.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page {
				got = append(got, o.ID)
			}
			if len(page) < f.Limit {
				break
			}
			last := page[len(page)-1]
			f.Before = store.Place{At: last.CreatedAt, ID: last.ID}
			insert(sample("ord_new"+last.ID, "eve", now.Add(time.Hour))) // does not shift the pages behind it
		}
		want := []string{"ord_9", "ord_8", "ord_7", "ord_6", "ord_5", "ord_4", "ord_3", "ord_2", "ord_1", "ord_0"}
		if !slices.Equal(got, want) {
			t.Errorf("pages %v, want %v", got, want)
		}
		if page, err := b.List(t.Context(), store.Filter{UserID: "bob", Limit: 100}); err != nil || len(page) != 5 {
			t.Errorf("bob's: %d %v", len(page), err)
		}
		if page, err := b.List(t.Context(), store.Filter{Status: domain.Failed, Limit: 100}); err != nil || len(page) != 0 {
			t.Errorf("failed: %d %v", len(page), err)
		}
		counts, err := b.Counts(t.Context())
		if err != nil || counts[domain.Pending] < 10 {
			t.Errorf("counts %v %v", counts, err)
		}
	})
}
