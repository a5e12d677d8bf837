package contracts_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/napkin-kit/napkin/authn"
	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/auth"
	"github.com/napkin-kit/napkin/examples/shop/cart"
	"github.com/napkin-kit/napkin/examples/shop/catalog"
	"github.com/napkin-kit/napkin/examples/shop/gateway"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/inventory"
	"github.com/napkin-kit/napkin/examples/shop/notification"
	"github.com/napkin-kit/napkin/examples/shop/order"
	"github.com/napkin-kit/napkin/examples/shop/payment"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/examples/shop/user"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

// store is every service as it is composed in production, each on its own SQLite
// database and all on one broker in memory, over mTLS on loopback.
type store struct {
	*servicetest.World
	t      *testing.T
	broker *memevents.Broker
	public string      // the gateway's address
	silent atomic.Bool // the payment provider does not answer

	auth      authv1.AuthServiceClient
	catalog   catalogv1.CatalogServiceClient
	carts     cartv1.CartServiceClient
	cards     paymentv1.PaymentServiceClient
	orders    orderv1.OrderServiceClient
	inventory inventoryv1.InventoryServiceClient

	callers map[string]map[string]*grpc.ClientConn // by provider and identity
	count   atomic.Int64                           // names things
	samples map[string]events.Event                // what event scenarios left behind, by name

	mu       sync.Mutex
	user     string // who calls, "" for nobody
	scopes   []string
	consumer string
}

func open(t *testing.T) *store {
	t.Helper()
	s := &store{
		World: servicetest.New(t), t: t, broker: memevents.New(nil),
		callers: map[string]map[string]*grpc.ClientConn{}, samples: map[string]events.Event{},
	}
	key := bytes.Repeat([]byte{7}, 32)
	start := func(cfg kit.Config, policy func(spiffeid.TrustDomain) (*authn.Policy, error), wire func(context.Context, *kit.Service) error) *servicetest.Service {
		if cfg.HTTPAddr != "" && !cfg.PublicHTTP {
			cfg.HTTPCallers = []spiffeid.ID{s.CA.ID(t, gateway.Name)}
		}
		return s.StartWith(t, cfg, policy, wire)
	}
	at := func(name string) events.Broker { return spoiling{s.broker, name} }
	authDB, userDB, catalogDB, cartDB := servicetest.DB(t, auth.Name), servicetest.DB(t, user.Name), servicetest.DB(t, catalog.Name), servicetest.DB(t, cart.Name)
	paymentDB, inventoryDB, orderDB, notificationDB := servicetest.DB(t, payment.Name), servicetest.DB(t, inventory.Name), servicetest.DB(t, order.Name), servicetest.DB(t, notification.Name)
	bank, smtp := s.outsiders()

	start(kit.Config{Name: auth.Name, HTTPAddr: "127.0.0.1:0"}, auth.Policy, func(ctx context.Context, svc *kit.Service) error {
		return auth.New(ctx, svc, auth.Config{DB: authDB, Broker: at(auth.Name), Issuer: "http://localhost:8080", Key: key})
	})
	start(kit.Config{Name: user.Name}, user.Policy, func(ctx context.Context, svc *kit.Service) error {
		return user.New(ctx, svc, user.Config{DB: userDB, Broker: at(user.Name), Key: key})
	})
	start(kit.Config{Name: catalog.Name, HTTPAddr: "127.0.0.1:0"}, catalog.Policy, func(ctx context.Context, svc *kit.Service) error {
		return catalog.New(ctx, svc, catalog.Config{DB: catalogDB, Broker: at(catalog.Name)})
	})
	start(kit.Config{Name: cart.Name}, cart.Policy, func(ctx context.Context, svc *kit.Service) error {
		return cart.New(ctx, svc, cart.Config{DB: cartDB, Broker: at(cart.Name)})
	})
	start(kit.Config{Name: payment.Name}, payment.Policy, func(ctx context.Context, svc *kit.Service) error {
		return payment.New(ctx, svc, payment.Config{
			DB: paymentDB, Broker: at(payment.Name), ProviderURL: bank, ProviderKey: "sk_test", ProviderTimeout: 2 * time.Second, VaultKey: make([]byte, payment.VaultKeySize),
		})
	})
	start(kit.Config{Name: inventory.Name}, inventory.Policy, func(ctx context.Context, svc *kit.Service) error {
		return inventory.New(ctx, svc, inventory.Config{DB: inventoryDB, Broker: at(inventory.Name)})
	})
	start(kit.Config{Name: order.Name, Idempotency: order.Idempotency()}, order.Policy, func(ctx context.Context, svc *kit.Service) error {
		return order.New(ctx, svc, order.Config{DB: orderDB, Broker: at(order.Name)})
	})
	start(kit.Config{Name: notification.Name}, notification.Policy, func(ctx context.Context, svc *kit.Service) error {
		return notification.New(ctx, svc, notification.Config{DB: notificationDB, Broker: at(notification.Name), Key: key, SMTPAddr: smtp})
	})
	edge := start(kit.Config{Name: gateway.Name, HTTPAddr: "127.0.0.1:0", PublicHTTP: true, GRPCAddr: kit.None},
		func(spiffeid.TrustDomain) (*authn.Policy, error) { return gateway.Policy() },
		func(ctx context.Context, svc *kit.Service) error {
			_, err := gateway.New(ctx, svc, gateway.Config{Verifier: svc.Verifier()})
			return err
		})
	s.public = "http://" + edge.HTTPAddr()

	for _, provider := range []string{auth.Name, user.Name, catalog.Name, cart.Name, payment.Name, inventory.Name, order.Name, notification.Name} {
		s.callers[provider] = map[string]*grpc.ClientConn{}
		for _, as := range []string{gateway.Name, order.Name, cart.Name} {
			s.callers[provider][as] = s.Conn(t, as, provider)
		}
	}
	s.auth = authv1.NewAuthServiceClient(s.callers[auth.Name][gateway.Name])
	s.catalog = catalogv1.NewCatalogServiceClient(s.callers[catalog.Name][gateway.Name])
	s.carts = cartv1.NewCartServiceClient(s.callers[cart.Name][gateway.Name])
	s.cards = paymentv1.NewPaymentServiceClient(s.callers[payment.Name][gateway.Name])
	s.orders = orderv1.NewOrderServiceClient(s.callers[order.Name][gateway.Name])
	s.inventory = inventoryv1.NewInventoryServiceClient(s.callers[inventory.Name][gateway.Name])
	return s
}

// outsiders are the payment provider and the mail server.
func (s *store) outsiders() (bank, smtp string) {
	t := s.t
	t.Helper()
	sim, err := provider.New(t.Context(), provider.Config{
		DB: servicetest.DB(t, "provider"), Key: "sk_test", Logger: slog.New(slog.DiscardHandler),
		Fault: func(provider.Kind, string) provider.Fault {
			if s.silent.Load() {
				return provider.Unavailable
			}
			return provider.NoFault
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { sim.Close(); server.Close() })
	mail, err := sink.New(t.Context(), servicetest.DB(t, "sink"), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, done := mail.SMTP(), make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return server.URL, l.Addr().String()
}

// identity is whom a consumer calls as: the storefront, the console and the REST
// API are one process.
func identity(consumer string) string {
	switch consumer {
	case "storefront", "console":
		return gateway.Name
	}
	return consumer
}

// caller is the connection of the consumer whose contract is being verified.
type caller struct {
	s        *store
	provider string
}

func (c caller) conn() *grpc.ClientConn {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.callers[c.provider][identity(c.s.consumer)]
}

func (c caller) Invoke(ctx context.Context, method string, in, out any, opts ...grpc.CallOption) error {
	return c.conn().Invoke(ctx, method, in, out, opts...)
}

func (c caller) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.conn().NewStream(ctx, desc, method, opts...)
}

// signIn says who calls from now on.
func (s *store) signIn(user string, scopes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user, s.scopes = user, scopes
}

func (s *store) who() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.user
}

// token is the caller's.
func (s *store) token() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.user == "" {
		return "none"
	}
	return s.Tokens.Token(s.t, s.user, s.scopes...)
}

// as is a context of a user's calls.
func (s *store) as(ctx context.Context, user string) context.Context {
	return s.As(ctx, s.t, user, "shop")
}

func (s *store) operator(ctx context.Context) context.Context {
	return s.As(ctx, s.t, "op", "shop:admin")
}

// named is a name that nothing else has.
func (s *store) named(prefix string) string { return fmt.Sprintf("%s-%d", prefix, s.count.Add(1)) }

// onSale has a product on sale, and waits until everybody knows of it.
func (s *store) onSale(ctx context.Context, id string, stock int32) error {
	if _, err := s.catalog.GetProduct(ctx, &catalogv1.GetProductRequest{Id: id}); err == nil {
		return nil
	}
	if _, err := s.catalog.CreateProduct(s.operator(ctx), &catalogv1.CreateProductRequest{
		Id: id, Name: "A " + id, Description: "It holds coffee.", Category: "Kitchen", Price: &commonv1.Money{AmountMinor: 1290, Currency: "EUR"}, InitialStock: stock,
	}); err != nil {
		return err
	}
	return servicetest.Await(ctx, id+" is in stock", func() bool {
		list, err := s.catalog.ListProducts(ctx, &catalogv1.ListProductsRequest{Q: id, InStock: true})
		return err == nil && len(list.GetProducts()) > 0
	})
}

func (s *store) card(ctx context.Context, user, number string) (string, error) {
	resp, err := s.cards.CreatePaymentMethod(s.as(ctx, user), &paymentv1.CreatePaymentMethodRequest{CardNumber: number, ExpMonth: 12, ExpYear: 2099, Cvc: "123"})
	return resp.GetPaymentMethod().GetId(), err
}

// buy places a user's order of two mugs, or of something else, or of the cart.
func (s *store) buy(ctx context.Context, user, number string, lines ...*commonv1.Line) (string, error) {
	if err := s.onSale(ctx, "mug", 100_000); err != nil {
		return "", err
	}
	card, err := s.card(ctx, user, number)
	if err != nil {
		return "", err
	}
	resp, err := s.orders.CreateOrder(servicetest.WithKey(s.as(ctx, user), correlation.NewID()), &orderv1.CreateOrderRequest{PaymentMethodId: card, Items: lines})
	return resp.GetOrder().GetId(), err
}

var mugs = &commonv1.Line{ProductId: "mug", Quantity: 2}

// ends waits until an order has a status.
func (s *store) ends(ctx context.Context, user, id, status string) error {
	last := ""
	err := servicetest.Await(ctx, "order "+id+" is "+status, func() bool {
		resp, err := s.orders.GetOrder(s.as(ctx, user), &orderv1.GetOrderRequest{Id: id})
		last = resp.GetOrder().GetStatus()
		return err == nil && last == status
	})
	if err != nil {
		err = fmt.Errorf("%w; it is %q", err, last)
	}
	return err
}

// spoiling is the broker as a service sees it that may get an event which cannot be
// read: those with a key that begins with "spoilt-" and the service's name.
type spoiling struct {
	*memevents.Broker
	service string
}

var errSpoilt = errors.New("the event's envelope cannot be read")

type spoilt struct{ events.Delivery }

func (spoilt) Err() error { return errSpoilt }

func (b spoiling) Subscribe(ctx context.Context, sub events.Subscription, deliver func(context.Context, events.Delivery)) error {
	return b.Broker.Subscribe(ctx, sub, func(ctx context.Context, d events.Delivery) {
		if strings.HasPrefix(d.Event().Key, "spoilt-"+b.service) {
			d = spoilt{d}
		}
		deliver(ctx, d)
	})
}
