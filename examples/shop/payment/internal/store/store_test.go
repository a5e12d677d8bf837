package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/store"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func onBoth(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	run := func(t *testing.T, db *sqldb.DB) {
		// Up, down and up again, so that both directions work on both dialects.
		for _, step := range []error{
			migrate.Up(t.Context(), db, "payment", store.Migrations()),
			migrate.Down(t.Context(), db, "payment", store.Migrations()),
			migrate.Up(t.Context(), db, "payment", store.Migrations()),
		} {
			if step != nil {
				t.Fatal(step)
			}
		}
		test(t, db)
	}
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "payment.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		run(t, db)
	})
	t.Run("postgres", func(t *testing.T) { run(t, pgtest.DB(t)) })
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, domain.KeySize) }

func TestVaultKeepsNumbersSealedAndOpensThemAfterARotation(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		const number = "4242424242424242"
		open := func(keys ...[]byte) *store.Vault {
			v, err := domain.NewVault(keys[0], keys[1:]...)
			if err != nil {
				t.Fatal(err)
			}
			return store.NewVault(db, v)
		}
		m := domain.Method{ID: "pm_1", UserID: "ann", Brand: "visa", Last4: "4242", ExpMonth: 1, ExpYear: 2040, CreatedAt: time.Now().Truncate(time.Microsecond).UTC()}
		if err := open(key(1)).Add(t.Context(), m, number); err != nil {
			t.Fatal(err)
		}
		var sealed []byte
		if err := db.Read.QueryRowContext(t.Context(), `SELECT sealed FROM payment_methods`).Scan(&sealed); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(sealed, []byte("4242")) {
			t.Fatal("the number is stored in clear")
		}
		if c, err := open(key(2), key(1)).Card(t.Context(), "pm_1"); err != nil || c.Number != number {
			t.Fatalf("after a rotation: %v %v", c.Number == number, err)
		}
		if _, err := open(key(2)).Card(t.Context(), "pm_1"); !errors.Is(err, domain.ErrSealed) {
			t.Fatalf("without its key: %v", err)
		}
		// A number is bound to its row.
		if _, err := db.Write.ExecContext(t.Context(), `UPDATE payment_methods SET id = 'pm_2'`); err != nil {
			t.Fatal(err)
		}
		if _, err := open(key(1)).Card(t.Context(), "pm_2"); !errors.Is(err, domain.ErrSealed) {
			t.Fatalf("moved to another row: %v", err)
		}
	})
}

func TestMethodsAreTheirCustomers(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		dv, err := domain.NewVault(key(1))
		if err != nil {
			t.Fatal(err)
		}
		v := store.NewVault(db, dv)
		at := time.Now().Truncate(time.Microsecond).UTC()
		for i, m := range []domain.Method{
			{ID: "pm_1", UserID: "ann", Brand: "visa", Last4: "4242", ExpMonth: 1, ExpYear: 2040, CreatedAt: at},
			{ID: "pm_2", UserID: "ann", Brand: "amex", Last4: "0005", ExpMonth: 2, ExpYear: 2041, CreatedAt: at.Add(time.Second)},
			{ID: "pm_3", UserID: "bob", Brand: "visa", Last4: "1881", ExpMonth: 3, ExpYear: 2042, CreatedAt: at},
		} {
			if err := v.Add(t.Context(), m, "4242424242424242"); err != nil {
				t.Fatal(i, err)
			}
		}
		all, err := v.List(t.Context(), "ann")
		if err != nil || len(all) != 2 || all[0].ID != "pm_2" || all[1].CreatedAt != at {
			t.Fatalf("%+v %v", all, err)
		}
		if _, err := v.Get(t.Context(), "bob", "pm_1"); !errors.Is(err, domain.ErrNoMethod) {
			t.Fatalf("another customer's method: %v", err)
		}
		if m, err := v.Get(t.Context(), "ann", "pm_1"); err != nil || m.Last4 != "4242" {
			t.Fatalf("%+v %v", m, err)
		}
		err = sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
			return store.Book(sqldb.StdTx(tx), db.Dialect).HasMethod(ctx, "bob", "pm_1")
		})
		if !errors.Is(err, domain.ErrNoMethod) {
			t.Fatalf("another customer's method: %v", err)
		}
	})
}
