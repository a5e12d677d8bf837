package chaos

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// tampering changes one database of a sound store behind everybody's back. Each line of the check has to
// notice the one that is meant for it.
var tampering = []struct {
	line, database string
	statements     []string
}{
	{"every order ended", "db/order", []string{`UPDATE orders SET status = 'pending' WHERE id = (SELECT id FROM orders WHERE status = 'failed' LIMIT 1)`}},
	{"captured - refunded", "db/payment", []string{`DELETE FROM ledger WHERE key = (SELECT key FROM ledger WHERE kind = 'captured' LIMIT 1) AND kind = 'captured'`}},
	{"no charge without an order", "db/order", []string{`DELETE FROM orders WHERE id = (SELECT id FROM orders WHERE status = 'confirmed' LIMIT 1)`}},
	{"no charge without an order", "provider", []string{
		`INSERT INTO authorizations (id, reference, amount, currency, behaviour, voided) SELECT 'auth_again', reference, amount, currency, behaviour, TRUE FROM authorizations LIMIT 1`,
		`INSERT INTO operations SELECT 'again', kind, '', 'auth_again', reference, amount, currency, status, '', created_at, effective_at FROM operations WHERE kind = 'authorize' AND reference = (SELECT reference FROM authorizations WHERE id = 'auth_again') LIMIT 1`,
	}},
	{"the provider's ledger", "provider", []string{`UPDATE authorizations SET voided = FALSE WHERE id = (SELECT id FROM authorizations WHERE voided AND captured = 0 LIMIT 1)`}},
	{"the provider's ledger", "provider", []string{`UPDATE authorizations SET refunded = 0 WHERE id = (SELECT id FROM authorizations WHERE refunded > 0 LIMIT 1)`}},
	{"on hand + committed", "db/inventory", []string{`UPDATE stock SET on_hand = on_hand - 1, adjusted = adjusted - 1 WHERE product_id = (SELECT product_id FROM stock WHERE on_hand > reserved LIMIT 1)`}},
	{"every order's reservation", "db/inventory", []string{`UPDATE reservations SET status = 'released' WHERE order_id = (SELECT order_id FROM reservations WHERE status = 'committed' LIMIT 1)`}},
	{"each customer's notification", "db/notification", []string{`DELETE FROM outcomes WHERE order_id = (SELECT order_id FROM outcomes LIMIT 1)`}},
	{"the sink has each", "sink", []string{`DELETE FROM messages WHERE message_id = (SELECT message_id FROM messages LIMIT 1)`}},
	{"no event is given up", "db/cart", []string{`INSERT INTO napkin_dead_letter (consumer, topic, key, event_id, attributes, data, state, cause, attempts, created, resolved)
		VALUES ('cart', 'order', 'k', 'planted', x'7b7d', x'', 'dead', 'planted', 8, 1, 0)`}},
	{"each event is handled", "db/cart", []string{`DELETE FROM napkin_inbox WHERE event_id = (SELECT event_id FROM napkin_inbox LIMIT 1)`}},
	{"each service handled", "db/order", []string{`UPDATE napkin_inbox SET handled = 1 WHERE handled = (SELECT max(handled) FROM napkin_inbox)`}},
}

// TestCrashCheckIsNotBlind tampers with copies of a real store's data.
func TestCrashCheckIsNotBlind(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a store; make test-crash runs it")
	}
	d := newDrill(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := tell(ctx, d.world, "confirmed", "declined", "refund", "cancel-committed"); err != nil {
		t.Fatal(err)
	}
	d.settle(t, ctx)
	d.store.Kill()
	d.out.Provider.Kill()
	d.out.Sink.Kill()
	for _, tamper := range tampering {
		t.Run(tamper.database+" "+tamper.line, func(t *testing.T) {
			dir := t.TempDir()
			copyFiles(t, filepath.Join(d.store.Data, "db"), filepath.Join(dir, "db"))
			copyFiles(t, filepath.Dir(d.store.Data), dir)
			db, err := sqlitedb.Open(t.Context(), filepath.Join(dir, tamper.database+".db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range tamper.statements {
				res, err := db.Write.ExecContext(t.Context(), q)
				if err != nil {
					t.Fatalf("%s: %v", q, err)
				}
				if n, _ := res.RowsAffected(); n == 0 {
					t.Fatalf("%s: nothing was changed", q)
				}
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			r, err := shop.Check(t.Context(), shop.CheckOptions{Data: dir}, os.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range r.Lines {
				if strings.HasPrefix(l.Name, tamper.line) && len(l.Breaches) > 0 {
					t.Logf("%s: %s", l.Name, l.Breaches[0])
					return
				}
			}
			var text strings.Builder
			r.Print(&text)
			t.Errorf("the line %q… does not notice it:\n%s", tamper.line, text.String())
		})
	}
}

// copyFiles copies the files of a directory, not what is below it.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
