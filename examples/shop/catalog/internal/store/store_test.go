package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/transport"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) {
	// bleve starts its analysis workers when the package is loaded, for the process.
	goleak.VerifyTestMain(pgtest.Main(m), goleak.IgnoreAnyFunction("github.com/blevesearch/bleve_index_api.AnalysisWorker"))
}

// journal is an outbox that remembers what was appended, committed or not.
type journal struct {
	mu   sync.Mutex
	evs  []events.Event
	fail error
}

func (j *journal) Append(_ context.Context, _ sqldb.Execer, evs ...events.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		return j.fail
	}
	j.evs = append(j.evs, evs...)
	return nil
}

type fixture struct {
	*store.Store
	db      *sqldb.DB
	journal *journal
	changes *atomic.Int64
}

// forEach runs the test on each database the service supports.
func forEach(t *testing.T, test func(t *testing.T, f fixture)) {
	open := map[string]func(t *testing.T) *sqldb.DB{
		"sqlite": func(t *testing.T) *sqldb.DB {
			db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			return db
		},
		"postgres": func(t *testing.T) *sqldb.DB { return pgtest.DB(t) },
	}
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			db := open[name](t)
			if err := migrate.Up(t.Context(), db, "catalog", store.Migrations()); err != nil {
				t.Fatal(err)
			}
			f := fixture{db: db, journal: &journal{}, changes: new(atomic.Int64)}
			f.Store = store.New(db, f.journal, transport.Encode, func() { f.changes.Add(1) })
			test(t, f)
		})
	}
}

func product(id string) domain.Product {
	return domain.Product{
		ID: id, Name: "Name of " + id, Description: "d", Category: "Kitchen", PriceMinor: 1999, InStock: true,
		Revision: 1, UpdatedAt: time.UnixMicro(1_700_000_000_123_456).UTC(),
	}
}

func TestMigrationsGoUpAndDownAgain(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		for _, step := range []func() error{
			func() error { return migrate.Down(t.Context(), f.db, "catalog", store.Migrations()) },
			func() error { return migrate.Up(t.Context(), f.db, "catalog", store.Migrations()) },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestCreateAndGet(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		p := product("pan")
		if err := f.Create(t.Context(), p, 7); err != nil {
			t.Fatal(err)
		}
		got, err := f.Get(t.Context(), "pan")
		if err != nil || got != p {
			t.Errorf("got %+v, %v; want %+v", got, err, p)
		}
		if err := f.Create(t.Context(), p, 7); !errors.Is(err, domain.ErrExists) {
			t.Errorf("created twice: %v", err)
		}
		if _, err := f.Get(t.Context(), "pot"); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("unknown product: %v", err)
		}
		if len(f.journal.evs) != 1 || f.journal.evs[0].Key != "pan" || f.changes.Load() != 1 {
			t.Errorf("events %v, changes %d; want one of each", f.journal.evs, f.changes.Load())
		}
	})
}

func TestNothingIsCreatedWithoutItsEvent(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		f.journal.fail = errors.New("outbox: no")
		if err := f.Create(t.Context(), product("pan"), 7); !errors.Is(err, f.journal.fail) {
			t.Fatalf("create: %v", err)
		}
		if _, err := f.Get(t.Context(), "pan"); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("the product stands without its event: %v", err)
		}
		if f.changes.Load() != 0 {
			t.Error("the index was told of a rolled back change")
		}
	})
}

func TestCreateMissingAddsOnlyWhatIsMissing(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		var all []domain.Stocked
		for i := range 5 {
			all = append(all, domain.Stocked{Product: product(fmt.Sprint("p", i)), InitialStock: 3})
		}
		for _, want := range []struct{ upTo, added int }{{2, 2}, {5, 3}, {5, 0}} {
			n, err := f.CreateMissing(t.Context(), all[:want.upTo])
			if err != nil || n != want.added {
				t.Errorf("added %d of %d, %v; want %d", n, want.upTo, err, want.added)
			}
		}
		if len(f.journal.evs) != 5 {
			t.Errorf("%d events, want 5", len(f.journal.evs))
		}
		got, err := f.GetMany(t.Context(), []string{"p4", "nope", "p0"})
		if err != nil || len(got) != 2 {
			t.Errorf("GetMany: %v, %v", got, err)
		}
		if got, err := f.GetMany(t.Context(), nil); err != nil || len(got) != 0 {
			t.Errorf("GetMany of nothing: %v, %v", got, err)
		}
	})
}

func TestUpdatesOfOneProductDoNotLoseEachOther(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		if err := f.Create(t.Context(), product("pan"), 1); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := f.Update(t.Context(), "pan", func(p domain.Product) (domain.Product, bool, error) {
					p.PriceMinor++
					p.Revision++
					return p, true, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got, err := f.Get(t.Context(), "pan")
		if err != nil || got.PriceMinor != 2009 || got.Revision != 11 {
			t.Errorf("got %+v, %v; want price 2009, revision 11", got, err)
		}
		if len(f.journal.evs) != 11 {
			t.Errorf("%d events, want 11", len(f.journal.evs))
		}
	})
}

func TestUpdateThatChangesNothingOrFails(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		if err := f.Create(t.Context(), product("pan"), 1); err != nil {
			t.Fatal(err)
		}
		same := func(p domain.Product) (domain.Product, bool, error) { return p, false, nil }
		if _, err := f.Update(t.Context(), "pan", same); err != nil {
			t.Error(err)
		}
		refused := errors.New("no")
		if _, err := f.Update(t.Context(), "pan", func(p domain.Product) (domain.Product, bool, error) { return p, false, refused }); !errors.Is(err, refused) {
			t.Errorf("update: %v", err)
		}
		if _, err := f.Update(t.Context(), "pot", same); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("update of an unknown product: %v", err)
		}
		if len(f.journal.evs) != 1 || f.changes.Load() != 1 {
			t.Errorf("events %d, changes %d; want those of the creation alone", len(f.journal.evs), f.changes.Load())
		}
	})
}

func TestSetInStockIsSeenByTheIndex(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		if err := f.Create(t.Context(), product("pan"), 1); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		set := func(id string, inStock bool) (known bool) {
			t.Helper()
			err := sqldb.InTx(t.Context(), f.db, func(ctx context.Context, tx *sql.Tx) (err error) {
				known, err = f.SetInStock(ctx, sqldb.StdTx(tx), id, inStock)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return known
		}
		if set("pot", true) {
			t.Error("an unknown product is known")
		}
		for range 2 { // the second time it is so already
			if !set("pan", false) {
				t.Error("a product is not known")
			}
		}
		p, err := f.Get(t.Context(), "pan")
		if err != nil || p.InStock || p.Revision != 2 {
			t.Errorf("got %+v, %v; want out of stock at revision 2", p, err)
		}
		changed, err := f.ChangedSince(t.Context(), begin)
		if err != nil || len(changed) != 1 || changed[0] != p {
			t.Errorf("changed since then: %+v, %v; want %+v", changed, err, p)
		}
		if len(f.journal.evs) != 1 {
			t.Errorf("%d events; availability is the inventory's to tell", len(f.journal.evs))
		}
	})
}
