package e2e

import (
	"context"
	"database/sql"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/examples/shop/shoptest"

	"errors"
)

// TestProcesses runs the same suite against one process per service, on PostgreSQL and nats-server.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("nine processes; make test-e2e runs it")
	}
	c := shoptest.StartCluster(t, "")
	tg := target{base: c.URL}
	for _, a := range shop.DemoAccounts() {
		if a.What == "operator" {
			tg.adminEmail, tg.adminPassword = a.Email, a.Password
		} else {
			tg.demoEmail, tg.demoPassword = a.Email, a.Password
		}
	}
	t.Run("suite", newSuite(t, tg).run)
	report, err := c.Check(t, 60*time.Second)
	t.Log("\n" + report)
	if err != nil {
		t.Errorf("shop check: %v", err)
	}
	t.Run("ADatabaseRefusesAnotherServicesRole", func(t *testing.T) {
		db, err := sql.Open("pgx", c.Foreign("order", "catalog"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err = db.PingContext(ctx)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Errorf("catalog's role in order's database: %v, want permission denied", err)
		}
	})
	t.Run("EveryProcessDrains", func(t *testing.T) {
		for _, name := range shop.Names() {
			if err := c.Services[name].Stop(40 * time.Second); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestServicesRefuseBadConfiguration: what is wrong is said in one line each, by the variable's name.
func TestServicesRefuseBadConfiguration(t *testing.T) {
	env := map[string]string{"NAPKIN_GRPC_ADDR": "nonsense", "SHOP_VAULT_KEY": "short"}
	err := shop.RunServices(t.Context(), "payment", func(k string) string { return env[k] }, false, os.Stderr, 0)
	if err == nil {
		t.Fatal("payment started on nothing")
	}
	for _, name := range []string{"PAYMENT_DATABASE_URL", "NATS_URL", "SHOP_VAULT_KEY", "SHOP_PROVIDER_URL", "NAPKIN_TRUST_DOMAIN"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in:\n%v", name, err)
		}
	}
	if err := shop.RunServices(t.Context(), "orders", os.Getenv, true, os.Stderr, 0); err == nil || !strings.Contains(err.Error(), `there is no service "orders"`) {
		t.Errorf("a misspelt service: %v", err)
	}
}
