package cart_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/cart"
	"github.com/napkin-kit/napkin/examples/shop/catalog"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
)

func TestMain(m *testing.M) {
	// bleve starts its analysis workers when the package is loaded, for the process.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

func TestServiceWithTheCatalogue(t *testing.T) {
	world, broker, db := servicetest.New(t), memevents.New(nil), servicetest.DB(t, "cart")
	world.Start(t, catalog.Name, nil, catalog.Policy, func(ctx context.Context, svc *kit.Service) error {
		return catalog.New(ctx, svc, catalog.Config{DB: servicetest.DB(t, "catalog"), Broker: broker, Seed: true})
	})
	world.Start(t, cart.Name, nil, cart.Policy, func(ctx context.Context, svc *kit.Service) error {
		return cart.New(ctx, svc, cart.Config{DB: db, Broker: broker})
	})
	customer := cartv1.NewCartServiceClient(world.Conn(t, "gateway", cart.Name))
	ann := world.As(t.Context(), t, "usr_ann", "openid", "shop")

	put, err := customer.PutItem(ann, &cartv1.PutItemRequest{ProductId: "compass-baseplate", Quantity: 2})
	if err != nil || put.GetCart().GetTotal().GetAmountMinor() != 5980 {
		t.Fatalf("put: %v, %v", put, err)
	}
	if _, err := customer.PutItem(ann, &cartv1.PutItemRequest{ProductId: "nope", Quantity: 2}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown product: %v", err)
	}
	order := cartv1.NewCartServiceClient(world.Conn(t, "order", cart.Name))
	quote, err := order.Quote(ann, &cartv1.QuoteRequest{})
	if err != nil || quote.GetTotal().GetAmountMinor() != 5980 || len(quote.GetItems()) != 1 {
		t.Fatalf("quote: %v, %v", quote, err)
	}
	for who, call := range map[string]func() error{
		"the order service reads carts": func() error { _, err := order.GetCart(ann, &cartv1.GetCartRequest{}); return err },
		"nobody has a cart":             func() error { _, err := customer.GetCart(t.Context(), &cartv1.GetCartRequest{}); return err },
		"a token without scope": func() error {
			_, err := customer.GetCart(world.As(t.Context(), t, "usr_ann", "openid"), &cartv1.GetCartRequest{})
			return err
		},
		"a stranger asks for prices": func() error {
			_, err := cartv1.NewCartServiceClient(world.Conn(t, "payment", cart.Name)).Quote(ann, &cartv1.QuoteRequest{})
			return err
		},
	} {
		if call() == nil {
			t.Errorf("%s: was answered", who)
		}
	}

	e, err := protoevents.New("", "order", "ord_1", &orderv1.OrderCreated{
		OrderId: "ord_1", UserId: "usr_ann", FromCart: true, Items: []*commonv1.Line{{ProductId: "compass-baseplate", Quantity: 2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.ID, e.Source, e.Time, e.KeySeq = "e1", "order", time.Now(), 1
	for range 2 { // the broker delivers twice, the cart takes out once
		if err := broker.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	servicetest.Until(t, "the cart is empty", func() bool {
		got, err := customer.GetCart(ann, &cartv1.GetCartRequest{})
		return err == nil && len(got.GetCart().GetItems()) == 0
	})
	if f, err := cart.Audit(t.Context(), db); err != nil || f.Carts != 1 || f.DeadLetters != 0 {
		t.Errorf("audit %+v, %v", f, err)
	}
}
