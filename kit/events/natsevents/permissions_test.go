package natsevents_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/devworkload"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	authorize = "shop.payment.v1.AuthorizePayment"
	paid      = "shop.payment.v1.PaymentAuthorized"
)

// shop is what two of its services may do.
func shop(td spiffeid.TrustDomain) []natsevents.Permissions {
	return []natsevents.Permissions{
		{User: "spiffe://" + td.Name() + "/order", Name: "order", Makes: []string{"payment-commands"}, Publishes: map[string][]string{"payment-commands": {authorize}},
			Consumes: []string{"payment-events"}, Group: "order", Blocks: 2},
		{User: "spiffe://" + td.Name() + "/payment", Name: "payment", Makes: []string{"payment-events"}, Publishes: map[string][]string{"payment-events": nil},
			Consumes: []string{"payment-commands"}, Group: "payment", Blocks: 2},
	}
}

// secured is a nats-server that takes SPIFFE certificates for its users.
func secured(t *testing.T, id *workloadapi.X509Source, permissions ...natsevents.Permissions) string {
	t.Helper()
	rules, err := natsevents.Authorization(permissions...)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := id.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := svid.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := id.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	var roots []byte
	for _, c := range bundle.X509Authorities() {
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	conf := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { store_dir: %q }\ntls { cert_file: %q, key_file: %q, ca_file: %q, verify_and_map: true }\n%s",
		filepath.Join(dir, "js"), file("server.pem", cert), file("server.key", key), file("bundle.pem", roots), rules)
	opts, err := server.ProcessConfigFile(file("nats.conf", []byte(conf)))
	if err != nil {
		t.Fatalf("%v\n%s", err, rules)
	}
	opts.NoLog, opts.NoSigs = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s.ClientURL()
}

// Only order publishes payment commands: the broker knows who is who by the
// certificates that the services have anyway.
func TestOnlyOrderPublishesPaymentCommands(t *testing.T) {
	issuer, err := devworkload.New("shop.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = issuer.Close() })
	source := func(name string) *workloadapi.X509Source {
		t.Helper()
		id, err := spiffeid.FromSegments(issuer.TrustDomain(), name)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.MkdirTemp("", "nw") // a socket's path is short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		addr, err := issuer.Listen(t.Context(), id, dir)
		if err != nil {
			t.Fatal(err)
		}
		s, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithClientOptions(workloadapi.WithAddr(addr)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	url := secured(t, source("nats"), shop(issuer.TrustDomain())...)
	natsID, err := spiffeid.FromSegments(issuer.TrustDomain(), "nats")
	if err != nil {
		t.Fatal(err)
	}
	dial := func(name string) (*nats.Conn, error) {
		return nats.Connect(url, append(natsevents.Options(name, nil), nats.RetryOnFailedConnect(false), nats.MaxReconnects(0),
			nats.Secure(authn.ClientTLS(source(name), tlsconfig.AuthorizeID(natsID))), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	}
	broker := func(name string) *natsevents.Broker {
		t.Helper()
		nc, err := dial(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		b, err := natsevents.Connect(t.Context(), nc, &natsevents.Config{Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		return b
	}
	order, payment := broker("order"), broker("payment")
	if err := errors.Join(order.EnsureTopics(t.Context(), "payment-commands"), payment.EnsureTopics(t.Context(), "payment-events")); err != nil {
		t.Fatal(err)
	}
	command := events.Event{ID: "1", Source: "order", Type: authorize, Topic: "payment-commands", Key: "o-1"}
	if err := order.Publish(t.Context(), command); err != nil {
		t.Fatal(err)
	}
	// Whoever else says so, also in order's name, is refused.
	forged := command
	forged.ID = "2"
	if err := payment.Publish(t.Context(), forged); err == nil {
		t.Error("payment published a payment command")
	}
	other := command
	other.ID, other.Type = "3", paid
	if err := order.Publish(t.Context(), other); err == nil {
		t.Error("order published a type that is not its own")
	}
	if err := order.EnsureTopics(t.Context(), "another"); err == nil {
		t.Error("order made a topic that is not its own")
	}
	if nc, err := dial("cart"); err == nil {
		nc.Close()
		t.Error("a service without permissions is connected")
	}
	// What they may do works: both blocks of each group, acknowledged.
	if err := payment.Publish(t.Context(), events.Event{ID: "4", Source: "payment", Type: paid, Topic: "payment-events", Key: "o-1"}); err != nil {
		t.Fatal(err)
	}
	receive := func(b *natsevents.Broker, group, topic, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		got := make(chan string, 10)
		done := make(chan error, 2)
		for _, block := range events.Blocks(2) {
			go func() {
				done <- b.Subscribe(ctx, events.Subscription{Group: group, Topics: []string{topic}, Block: block}, func(ctx context.Context, d events.Delivery) {
					_ = d.Ack(ctx)
					got <- d.Event().ID
				})
			}()
		}
		select {
		case id := <-got:
			if id != want {
				t.Errorf("%s received %s, want %s", group, id, want)
			}
		case <-ctx.Done():
			t.Errorf("%s received nothing", group)
		}
		for n := -1; n != 0 && ctx.Err() == nil; {
			n, err = b.Pending(ctx, group)
			if err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	}
	receive(payment, "payment", "payment-commands", "1")
	receive(order, "order", "payment-events", "4")
}

func TestAuthorizationNamesWhatIsWrong(t *testing.T) {
	good := natsevents.Permissions{User: "spiffe://shop.test/order", Name: "order"}
	for want, spoil := range map[string]func(*natsevents.Permissions){
		"User":        func(p *natsevents.Permissions) { p.User = "a\" b" },
		"Name":        func(p *natsevents.Permissions) { p.Name = "*" },
		"Topic":       func(p *natsevents.Permissions) { p.Makes = []string{">"} },
		"Type":        func(p *natsevents.Permissions) { p.Publishes = map[string][]string{"orders": {"*"}} },
		"Group":       func(p *natsevents.Permissions) { p.Consumes = []string{"orders"} },
		"Block.Count": func(p *natsevents.Permissions) { p.Consumes, p.Group, p.Blocks = []string{"orders"}, "g", 3 },
	} {
		p := good
		spoil(&p)
		if _, err := natsevents.Authorization(p); !errors.Is(err, events.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func ExampleAuthorization() {
	conf, err := natsevents.Authorization(natsevents.Permissions{
		User: "spiffe://shop.example/mail", Name: "mail", Publishes: map[string][]string{"mails": {"shop.mail.v1.Sent"}},
	})
	fmt.Println(conf, err)
	// Output:
	// authorization {
	//   users = [
	//     {
	//       user: "spiffe://shop.example/mail"
	//       permissions: {
	//         publish: { allow: [
	//           "$JS.API.CONSUMER.INFO.>"
	//           "$JS.API.CONSUMER.LIST.*"
	//           "$JS.API.STREAM.INFO.*"
	//           "$JS.API.STREAM.NAMES"
	//           "mails.*.shop.mail.v1.Sent"
	//         ] }
	//         subscribe: { allow: ["_INBOX.mail.>"] }
	//       }
	//     }
	//   ]
	// }
	//  <nil>
}
