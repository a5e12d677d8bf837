package order_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/inventory"
	"github.com/napkin-kit/napkin/examples/shop/order"
	"github.com/napkin-kit/napkin/examples/shop/payment"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cart prices everything at 10.00 EUR. It stands in for the cart service, which
// has tests of its own.
type cart struct {
	cartv1.UnimplementedCartServiceServer
	mu    sync.Mutex
	lines []*commonv1.Line
}

func (c *cart) Quote(_ context.Context, req *cartv1.QuoteRequest) (*cartv1.QuoteResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := req.GetItems()
	if len(lines) == 0 {
		lines = c.lines
	}
	out := &cartv1.QuoteResponse{Discount: eur(0)}
	total := int32(0)
	for _, l := range lines {
		total += 1000 * l.GetQuantity()
		out.Items = append(out.Items, &cartv1.CartItem{
			ProductId: l.GetProductId(), Name: "A " + l.GetProductId(), Quantity: l.GetQuantity(),
			UnitPrice: eur(1000), Available: l.GetProductId() != "gone",
		})
	}
	out.Total = eur(total)
	return out, nil
}

func (c *cart) put(lines ...*commonv1.Line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = lines
}

func eur(minor int32) *commonv1.Money {
	return &commonv1.Money{AmountMinor: minor, Currency: "EUR"}
}

func line(product string, quantity int32) *commonv1.Line {
	return &commonv1.Line{ProductId: product, Quantity: quantity}
}

// shop is order, payment and inventory as services, on a real broker, and a
// provider that is asked over HTTP.
type shop struct {
	t        *testing.T
	world    *servicetest.World
	broker   events.Broker
	cart     *cart
	orders   orderv1.OrderServiceClient
	admin    orderv1.OrderAdminServiceClient
	cards    paymentv1.PaymentServiceClient
	provider *provider.Simulator
	url      string

	orderDB, paymentDB, inventoryDB *sqldb.DB
}

func open(t *testing.T, sim provider.Config) *shop {
	t.Helper()
	nats := natstest.Start(t)
	broker, err := natsevents.Connect(t.Context(), nats.Conn(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	s := &shop{
		t: t, world: servicetest.New(t), broker: broker, cart: &cart{},
		orderDB: servicetest.DB(t, "order"), paymentDB: servicetest.DB(t, "payment"), inventoryDB: servicetest.DB(t, "inventory"),
	}
	sim.DB, sim.Key, sim.Logger = servicetest.DB(t, "provider"), "sk_test", slog.New(slog.DiscardHandler)
	if s.provider, err = provider.New(t.Context(), sim); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.provider.Handler())
	t.Cleanup(func() { s.provider.Close(); server.Close() })
	s.url = server.URL

	s.world.Start(t, "cart", nil, func(td spiffeid.TrustDomain) (*authn.Policy, error) {
		return authn.NewPolicy(authn.Rule{Method: "/shop.cart.v1.CartService/*", From: []spiffeid.ID{s.world.CA.ID(t, "order")}, User: authn.UserRequired, Scopes: []string{"shop"}})
	}, func(_ context.Context, svc *kit.Service) error {
		cartv1.RegisterCartServiceServer(svc, s.cart)
		return nil
	})
	s.world.Start(t, payment.Name, nil, payment.Policy, func(ctx context.Context, svc *kit.Service) error {
		return payment.New(ctx, svc, payment.Config{
			DB: s.paymentDB, Broker: broker, ProviderURL: server.URL, ProviderKey: "sk_test",
			ProviderTimeout: 500 * time.Millisecond, VaultKey: make([]byte, payment.VaultKeySize),
		})
	})
	s.world.Start(t, inventory.Name, nil, inventory.Policy, func(ctx context.Context, svc *kit.Service) error {
		return inventory.New(ctx, svc, inventory.Config{DB: s.inventoryDB, Broker: broker})
	})
	s.world.Start(t, order.Name, order.Idempotency(), order.Policy, func(ctx context.Context, svc *kit.Service) error {
		return order.New(ctx, svc, order.Config{DB: s.orderDB, Broker: broker})
	})
	conn := s.world.Conn(t, "gateway", order.Name)
	s.orders, s.admin = orderv1.NewOrderServiceClient(conn), orderv1.NewOrderAdminServiceClient(conn)
	s.cards = paymentv1.NewPaymentServiceClient(s.world.Conn(t, "gateway", payment.Name))
	return s
}

// as is a customer's context.
func (s *shop) as(user string) context.Context {
	return s.world.As(s.t.Context(), s.t, user, "openid", "shop")
}

// stock has the catalogue tell of a product.
func (s *shop) stock(product string, quantity int32) {
	s.t.Helper()
	e, err := protoevents.New("", "catalog", product, &catalogv1.ProductCreated{
		Product: &catalogv1.Product{Id: product}, InitialStock: quantity,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	e.ID, e.Source, e.Time = correlation.NewID(), "catalog", time.Now()
	if err := s.broker.Publish(s.t.Context(), e); err != nil {
		s.t.Fatal(err)
	}
	servicetest.Until(s.t, "the product is in stock", func() bool {
		_, known := s.inventory().Products[product]
		return known
	})
}

func (s *shop) card(user, number string) string {
	s.t.Helper()
	resp, err := s.cards.CreatePaymentMethod(s.as(user), &paymentv1.CreatePaymentMethodRequest{
		CardNumber: number, ExpMonth: 12, ExpYear: int32(time.Now().Year() + 2), Cvc: "123",
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.GetPaymentMethod().GetId()
}

func (s *shop) order(user, card, key string, lines ...*commonv1.Line) *orderv1.Order {
	s.t.Helper()
	var created *orderv1.Order
	// A service that is overloaded says so; the key makes asking again safe.
	servicetest.Until(s.t, "the order is taken", func() bool {
		resp, err := s.orders.CreateOrder(servicetest.WithKey(s.as(user), key), &orderv1.CreateOrderRequest{PaymentMethodId: card, Items: lines})
		if err != nil && status.Code(err) != codes.Unavailable && status.Code(err) != codes.ResourceExhausted {
			s.t.Error(err)
			return true
		}
		created = resp.GetOrder()
		return err == nil
	})
	return created
}

// watch follows an order until it has ended, and returns it and the statuses
// that were seen.
func (s *shop) watch(user, id string) (*orderv1.Order, []string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.as(user), 60*time.Second)
	defer cancel()
	stream, err := s.orders.WatchOrder(ctx, &orderv1.WatchOrderRequest{Id: id})
	if err != nil {
		s.t.Fatal(err)
	}
	var last *orderv1.Order
	var seen []string
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last, seen
		}
		if err != nil {
			s.t.Fatalf("watching %s, last %v: %v", id, last, err)
		}
		last = m.GetOrder()
		seen = append(seen, last.GetStatus())
	}
}

func (s *shop) inventory() inventory.Facts {
	s.t.Helper()
	f, err := inventory.Audit(s.t.Context(), s.inventoryDB)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// explain prints an order's timeline where the test fails.
func (s *shop) explain(id string) {
	if !s.t.Failed() {
		return
	}
	ctx := s.world.As(context.Background(), s.t, "op", "shop:admin")
	timeline, err := s.admin.GetTimeline(ctx, &orderv1.GetTimelineRequest{OrderId: id})
	s.t.Logf("%v %v", timeline.GetOrder(), err)
	for _, e := range timeline.GetEntries() {
		s.t.Logf("%s %s %s %s %d %s", e.GetAt().AsTime().Format("05.000000"), e.GetSagaId(), e.GetStep(), e.GetWhat(), e.GetAttempt(), e.GetDetail())
	}
}

// settled waits until nothing is under way anywhere, and returns the facts.
func (s *shop) settled() (order.Facts, payment.Facts, inventory.Facts) {
	s.t.Helper()
	var o order.Facts
	var p payment.Facts
	var i inventory.Facts
	servicetest.Until(s.t, "everything has settled", func() bool {
		var err error
		if o, err = order.Audit(s.t.Context(), s.orderDB); err != nil {
			s.t.Fatal(err)
		}
		if p, err = payment.Audit(s.t.Context(), s.paymentDB); err != nil {
			s.t.Fatal(err)
		}
		i = s.inventory()
		return o.SagasUnfinished == 0 && p.OpenIntents == 0 && i.ActiveReservations == 0
	})
	for id, f := range i.Products {
		if !f.LedgerAgrees || f.OnHand+f.Committed != f.Received+f.Adjusted+f.Restocked {
			s.t.Errorf("stock of %s does not add up: %+v", id, f)
		}
	}
	if o.DeadLetters+p.DeadLetters+i.DeadLetters+o.SagasStuck > 0 {
		s.t.Errorf("dead letters or stuck sagas: %+v %+v %+v", o, p, i)
	}
	return o, p, i
}

func wantStatus(t *testing.T, o *orderv1.Order, status, reason string) {
	t.Helper()
	if o.GetStatus() != status || o.GetFailureReason() != reason {
		t.Fatalf("the order is %s (%s), want %s (%s)", o.GetStatus(), o.GetFailureReason(), status, reason)
	}
}

func TestCheckout(t *testing.T) {
	s := open(t, provider.Config{LateBy: time.Second})
	s.stock("mug", 100)
	for number, want := range map[string]struct{ status, reason string }{
		"4242424242424242": {"confirmed", ""},
		"4000000000000002": {"failed", "card_declined"},
		"4000000000009995": {"failed", "insufficient_funds"},
		"4000000000000119": {"confirmed", ""}, // no answer ever comes; queries tell
		"4000000000000259": {"confirmed", ""}, // captured late
	} {
		t.Run(number[12:], func(t *testing.T) {
			s.t = t
			o := s.order("ann", s.card("ann", number), "key-"+number, line("mug", 2))
			if o.GetStatus() != "pending" || o.GetTotal().GetAmountMinor() != 2000 {
				t.Fatalf("created %v", o)
			}
			o, seen := s.watch("ann", o.GetId())
			wantStatus(t, o, want.status, want.reason)
			if seen[0] != "pending" || len(seen) > 2 {
				t.Errorf("watched %v", seen)
			}
		})
	}
	s.t = t
	_, p, i := s.settled()
	charged := int64(0)
	for _, f := range p.Orders {
		charged += f.Captured - f.Refunded
	}
	if mug := i.Products["mug"]; charged != 3*2000 || mug.Committed != 6 || mug.OnHand != 94 || mug.Reserved != 0 {
		t.Errorf("charged %d, stock %+v", charged, mug)
	}
}

func TestFiftyBuyersOfTheLastItem(t *testing.T) {
	s := open(t, provider.Config{})
	s.stock("last", 1)
	card := s.card("ann", "4242424242424242")
	var wg sync.WaitGroup
	ids := make([]string, 50)
	for n := range ids {
		wg.Go(func() { ids[n] = s.order("ann", card, fmt.Sprint("buyer-", n), line("last", 1)).GetId() })
	}
	wg.Wait()
	o, p, i := s.settled()
	confirmed := 0
	for _, f := range o.Orders {
		captured := p.Orders[f.ID].Captured
		switch f.Status {
		case "confirmed":
			confirmed++
			if captured != 1000 {
				t.Errorf("confirmed %s was charged %d", f.ID, captured)
			}
		case "failed":
			if captured != 0 {
				t.Errorf("failed %s was charged %d", f.ID, captured)
			}
		default:
			t.Errorf("%s is %s", f.ID, f.Status)
		}
	}
	if confirmed != 1 || i.Products["last"].Committed != 1 || i.Products["last"].OnHand != 0 {
		t.Errorf("%d orders got the last item, stock %+v", confirmed, i.Products["last"])
	}
}

func TestCreateOrderIsIdempotent(t *testing.T) {
	s := open(t, provider.Config{})
	s.stock("mug", 100)
	card := s.card("ann", "4242424242424242")
	create := func(user, key string, req *orderv1.CreateOrderRequest) (*orderv1.Order, metadata.MD, error) {
		ctx := s.as(user)
		if key != "" {
			ctx = servicetest.WithKey(ctx, key)
		}
		var header metadata.MD
		resp, err := s.orders.CreateOrder(ctx, req, grpc.Header(&header))
		return resp.GetOrder(), header, err
	}
	if _, _, err := create("ann", "", &orderv1.CreateOrderRequest{PaymentMethodId: card, Items: []*commonv1.Line{line("mug", 1)}}); status.Code(err) != codes.InvalidArgument {
		t.Fatalf("without a key: %v", err)
	}
	s.cart.put(line("mug", 3))
	fromCart := &orderv1.CreateOrderRequest{PaymentMethodId: card}
	first, _, err := create("ann", "k1", fromCart)
	if err != nil {
		t.Fatal(err)
	}
	s.cart.put() // as the cart service does once it hears of the order
	again, header, err := create("ann", "k1", fromCart)
	if err != nil || again.GetId() != first.GetId() {
		t.Fatalf("the same key made %v, first %v: %v", again, first, err)
	}
	if got := header.Get(grpcidempotency.MetadataReplayed); len(got) != 1 || got[0] != "true" {
		t.Errorf("replayed header %v", got)
	}
	if _, _, err := create("ann", "k1", &orderv1.CreateOrderRequest{PaymentMethodId: card, Items: []*commonv1.Line{line("mug", 1)}}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the same key with another body: %v", err)
	}
	if _, _, err := create("ann", "k2", fromCart); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an empty cart: %v", err)
	}
	// Another customer's key of the same name is another key; her card is not his.
	if _, _, err := create("bob", "k1", fromCart); status.Code(err) == codes.OK {
		t.Error("bob got ann's order")
	}
	_, _, err = create("bob", "k3", &orderv1.CreateOrderRequest{PaymentMethodId: card, Items: []*commonv1.Line{line("mug", 1)}})
	if p := grpcproblem.Of(err); len(p.Fields) != 1 || p.Fields[0].Field != "payment_method_id" {
		t.Errorf("another customer's card: %v", err)
	}
	_, _, err = create("ann", "k4", &orderv1.CreateOrderRequest{PaymentMethodId: card, Items: []*commonv1.Line{line("gone", 1)}})
	if p := grpcproblem.Of(err); len(p.Fields) != 1 || p.Fields[0].Field != "items" {
		t.Errorf("a product that is not on sale: %v", err)
	}
	// Twenty at once with one key: one order.
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for range 20 {
		wg.Go(func() {
			o := s.order("ann", card, "storm", line("mug", 1))
			mu.Lock()
			seen[o.GetId()]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("one key made %v", seen)
	}
	if o, _, _ := s.settled(); len(o.Orders) != 2 {
		t.Errorf("%d orders", len(o.Orders))
	}
}

func TestOrdersAreTheirCustomers(t *testing.T) {
	s := open(t, provider.Config{})
	s.stock("mug", 100)
	card := s.card("ann", "4242424242424242")
	var ids []string
	for n := range 3 {
		ids = append(ids, s.order("ann", card, fmt.Sprint(n), line("mug", 1)).GetId())
	}
	if _, err := s.orders.GetOrder(s.as("bob"), &orderv1.GetOrderRequest{Id: ids[0]}); status.Code(err) != codes.NotFound {
		t.Errorf("another customer's order: %v", err)
	}
	if _, err := s.orders.CancelOrder(s.as("bob"), &orderv1.CancelOrderRequest{Id: ids[0]}); status.Code(err) != codes.NotFound {
		t.Errorf("cancelling another customer's order: %v", err)
	}
	var listed []string
	token := ""
	for {
		page, err := s.orders.ListOrders(s.as("ann"), &orderv1.ListOrdersRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.GetOrders() {
			listed = append(listed, o.GetId())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if want := []string{ids[2], ids[1], ids[0]}; fmt.Sprint(listed) != fmt.Sprint(want) {
		t.Errorf("listed %v, want %v", listed, want)
	}
	if _, err := s.orders.ListOrders(s.as("ann"), &orderv1.ListOrdersRequest{PageToken: "nonsense"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad page token: %v", err)
	}
	if _, err := s.admin.AdminListOrders(s.as("ann"), &orderv1.AdminListOrdersRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a customer on the console: %v", err)
	}
	for _, id := range ids {
		o, _ := s.watch("ann", id)
		wantStatus(t, o, "confirmed", "")
	}
	operator := s.world.As(t.Context(), t, "op", "shop:admin")
	all, err := s.admin.AdminListOrders(operator, &orderv1.AdminListOrdersRequest{Status: "confirmed"})
	if err != nil || len(all.GetOrders()) != 3 || all.GetCounts()["confirmed"] != 3 || all.GetOrders()[0].GetSagaState() != "completed" {
		t.Errorf("console: %v %v", all, err)
	}
	timeline, err := s.admin.GetTimeline(operator, &orderv1.GetTimelineRequest{OrderId: ids[0]})
	if err != nil || len(timeline.GetEntries()) < 10 || timeline.GetCorrelationId() == "" {
		t.Errorf("timeline: %v %v", timeline, err)
	}
	if _, err := s.admin.ResolveSaga(operator, &orderv1.ResolveSagaRequest{SagaId: ids[0], Act: "retry", Reason: "why not"}); status.Code(err) != codes.Aborted {
		t.Errorf("retrying a saga that has ended: %v", err)
	}
}

func TestCancel(t *testing.T) {
	// The first authorisation of the order named by hold never arrives.
	var hold sync.Map
	s := open(t, provider.Config{LateBy: 1500 * time.Millisecond, Fault: func(kind provider.Kind, key string) provider.Fault {
		if _, held := hold.Load("on"); held && kind == provider.Authorize {
			return provider.LoseRequest
		}
		return provider.NoFault
	}})
	s.stock("mug", 100)
	cancel := func(id string) *orderv1.Order {
		t.Helper()
		resp, err := s.orders.CancelOrder(s.as("ann"), &orderv1.CancelOrderRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetOrder()
	}

	// Before the pivot: compensated, although nobody knows whether the money is held.
	hold.Store("on", true)
	o := s.order("ann", s.card("ann", "4242424242424242"), "before", line("mug", 1))
	cancel(o.GetId())
	o, _ = s.watch("ann", o.GetId())
	wantStatus(t, o, "cancelled", "cancelled_by_customer")
	cancel(o.GetId()) // again is harmless
	hold.Delete("on")

	// While the capture is under way: it is finished, and its refund follows.
	o = s.order("ann", s.card("ann", "4000000000000259"), "during", line("mug", 1))
	defer s.explain(o.GetId())
	operator := s.world.As(t.Context(), t, "op", "shop:admin")
	servicetest.Until(t, "the capture is under way", func() bool {
		timeline, err := s.admin.GetTimeline(operator, &orderv1.GetTimelineRequest{OrderId: o.GetId()})
		return err == nil && timeline.GetOrder().GetSagaStep() == "capture-payment"
	})
	if got := cancel(o.GetId()); got.GetStatus() != "pending" {
		t.Errorf("cancelled while captured: %v", got)
	}
	servicetest.Until(t, "the order is refunded", func() bool {
		got, err := s.orders.GetOrder(s.as("ann"), &orderv1.GetOrderRequest{Id: o.GetId()})
		return err == nil && got.GetOrder().GetStatus() == "refunded"
	})

	// After it: a refund, whose first two attempts fail.
	o = s.order("ann", s.card("ann", "4000000000005126"), "after", line("mug", 1))
	o, _ = s.watch("ann", o.GetId())
	wantStatus(t, o, "confirmed", "")
	cancel(o.GetId())
	cancel(o.GetId()) // again is harmless
	o, _ = s.watch("ann", o.GetId())
	wantStatus(t, o, "refunded", "")

	// A failed order leaves nothing to cancel.
	o = s.order("ann", s.card("ann", "4000000000000002"), "failed", line("mug", 1))
	o, _ = s.watch("ann", o.GetId())
	if _, err := s.orders.CancelOrder(s.as("ann"), &orderv1.CancelOrderRequest{Id: o.GetId()}); status.Code(err) != codes.Aborted {
		t.Errorf("cancelling a failed order: %v", err)
	}
	if _, err := s.orders.CancelOrder(s.as("ann"), &orderv1.CancelOrderRequest{Id: "ord_none"}); status.Code(err) != codes.NotFound {
		t.Errorf("cancelling no order: %v", err)
	}

	_, p, i := s.settled()
	for id, f := range p.Orders {
		if f.Captured != f.Refunded {
			t.Errorf("%s: captured %d, refunded %d", id, f.Captured, f.Refunded)
		}
	}
	if mug := i.Products["mug"]; mug.OnHand != 100 || mug.Restocked != 2 {
		t.Errorf("stock %+v", mug)
	}
}
