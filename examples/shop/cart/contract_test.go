package cart_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/cart"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

// pacts is where the shop keeps its contracts.
const pacts = "../contracts/pacts"

// contractor is the service before a catalogue that does as the contract says.
type contractor struct {
	*servicetest.World
	broker  *memevents.Broker
	catalog *servicetest.StandIn
	carts   cartv1.CartServiceClient
}

func contracting(t *testing.T) *contractor {
	t.Helper()
	contracttest.Need(t)
	c := &contractor{World: servicetest.New(t), broker: memevents.New(nil)}
	c.catalog = c.StandIn(t, "catalog")
	db := servicetest.DB(t, "cart")
	c.Start(t, cart.Name, nil, cart.Policy, func(ctx context.Context, svc *kit.Service) error {
		return cart.New(ctx, svc, cart.Config{DB: db, Broker: c.broker})
	})
	c.carts = cartv1.NewCartServiceClient(c.Conn(t, "gateway", cart.Name))
	return c
}

func TestContractWithCatalog(t *testing.T) {
	c := contracting(t)
	mug := &catalogv1.Product{Id: "mug", Name: "A mug", Price: &commonv1.Money{AmountMinor: 1290, Currency: "EUR"}}
	consumer := contracttest.Consumer{Name: cart.Name, Provider: "catalog", Dir: pacts}
	response := match.Message(mug)
	response["price"] = match.Object{"amount_minor": match.Integer(1290), "currency": "EUR"} // it knows no other
	consumer.GRPC(t, contracttest.GRPC{
		Name: "pricing a product", Given: contracttest.Given("a product on sale", contracttest.Params{"id": "mug"}),
		Method: catalogv1.CatalogService_BatchGetProducts_FullMethodName, Request: &catalogv1.BatchGetProductsRequest{Ids: []string{"mug"}},
		Response: match.Object{"products": match.Array{response}},
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		defer c.catalog.Contract(conn)()
		resp, err := c.carts.PutItem(c.As(ctx, t, "ann", "shop"), &cartv1.PutItemRequest{ProductId: "mug", Quantity: 2})
		if err != nil {
			return err
		}
		if got := resp.GetCart(); got.GetTotal().GetAmountMinor() != 2580 || got.GetItems()[0].GetName() != "A mug" {
			return fmt.Errorf("the cart is %v", got)
		}
		return nil
	})
	consumer.GRPC(t, contracttest.GRPC{
		Name: "pricing a product that has left the catalogue", Method: catalogv1.CatalogService_BatchGetProducts_FullMethodName,
		Request: &catalogv1.BatchGetProductsRequest{Ids: []string{"ghost"}}, Response: match.Object{"products": match.Array{}},
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		defer c.catalog.Contract(conn)()
		_, err := cartv1.NewCartServiceClient(c.Conn(t, "order", cart.Name)).Quote(c.As(ctx, t, "bob", "shop"), &cartv1.QuoteRequest{Items: []*commonv1.Line{{ProductId: "ghost", Quantity: 1}}})
		if status.Code(err) != codes.InvalidArgument {
			return fmt.Errorf("an unknown product: %w", err)
		}
		return nil
	})
}

func TestContractWithOrder(t *testing.T) {
	c := contracting(t)
	mug := &catalogv1.Product{Id: "mug", Name: "A mug", Price: &commonv1.Money{AmountMinor: 1290, Currency: "EUR"}}
	c.catalog.Answer(catalogv1.CatalogService_BatchGetProducts_FullMethodName, &catalogv1.BatchGetProductsResponse{Products: []*catalogv1.Product{mug}})
	ann := c.As(t.Context(), t, "ann", "shop")
	if _, err := c.carts.PutItem(ann, &cartv1.PutItemRequest{ProductId: "mug", Quantity: 2}); err != nil {
		t.Fatal(err)
	}
	contracttest.Consumer{Name: cart.Name, Provider: "order", Dir: pacts}.Event(t, contracttest.Event{
		Name: "an order was made of the cart", Topic: "order", Attributes: map[string]any{"partitionkey": match.Like("ord_1")},
		Data: match.Object{
			"order_id": match.Like("ord_1"), "user_id": match.Like("ann"), "from_cart": true,
			"items": match.EachLike(&commonv1.Line{ProductId: "mug", Quantity: 2}),
		},
		Schema: string((&orderv1.OrderCreated{}).ProtoReflect().Descriptor().FullName()),
	}, func(ctx context.Context, m contracttest.Message) error {
		e, err := m.Event()
		if err != nil {
			return err
		}
		if err := servicetest.Tell(ctx, c.broker, e); err != nil {
			return err
		}
		return servicetest.Await(ctx, "the cart is empty", func() bool {
			resp, err := c.carts.GetCart(ann, &cartv1.GetCartRequest{})
			return err == nil && len(resp.GetCart().GetItems()) == 0
		})
	})
}
