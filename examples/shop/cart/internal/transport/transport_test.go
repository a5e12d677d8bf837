package transport_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/authn"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// catalogue answers BatchGetProducts from memory.
type catalogue struct {
	prices map[string]*commonv1.Money
	err    error
}

func (c *catalogue) Invoke(_ context.Context, _ string, req, resp any, _ ...grpc.CallOption) error {
	if c.err != nil {
		return c.err
	}
	out := &catalogv1.BatchGetProductsResponse{}
	for _, id := range req.(*catalogv1.BatchGetProductsRequest).GetIds() {
		if price, ok := c.prices[id]; ok {
			out.Products = append(out.Products, &catalogv1.Product{Id: id, Name: "The " + id, Price: price})
		}
	}
	proto.Merge(resp.(proto.Message), out)
	return nil
}

func (c *catalogue) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams here")
}

type fixture struct {
	*transport.Server
	catalogue *catalogue
	store     *store.Store
	db        *sqldb.DB
	ann       context.Context
}

func open(t *testing.T) fixture {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "cart.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := migrate.Up(t.Context(), db, "cart", store.Migrations()); err != nil {
		t.Fatal(err)
	}
	st := store.New(db)
	c := &catalogue{prices: map[string]*commonv1.Money{
		"pan": {AmountMinor: 5490, Currency: "EUR"}, "cup": {AmountMinor: 333, Currency: "EUR"},
	}}
	return fixture{
		transport.NewServer(domain.New(st, transport.NewCatalog(c), time.Now)), c, st, db,
		authn.WithPrincipal(t.Context(), authn.Principal{Subject: "usr_ann", Scopes: []string{"shop"}}),
	}
}

func (f fixture) put(t *testing.T, id string, n int32) *cartv1.Cart {
	t.Helper()
	resp, err := f.PutItem(f.ann, &cartv1.PutItemRequest{ProductId: id, Quantity: n})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetCart()
}

func TestCartShowsTotalsAtOnce(t *testing.T) {
	f := open(t)
	f.put(t, "pan", 1)
	c := f.put(t, "cup", 2)
	if c.GetTotal().GetAmountMinor() != 5490+666 || len(c.GetItems()) != 2 || c.GetItems()[0].GetName() != "The pan" {
		t.Errorf("cart %v", c)
	}
	resp, err := f.ApplyCoupon(f.ann, &cartv1.ApplyCouponRequest{Code: "napkin10"})
	if err != nil || resp.GetCart().GetDiscount().GetAmountMinor() != 615 || resp.GetCart().GetCoupon() != "NAPKIN10" {
		t.Errorf("with a coupon: %v, %v", resp, err)
	}
	deleted, err := f.DeleteItem(f.ann, &cartv1.DeleteItemRequest{ProductId: "pan"})
	if err != nil || deleted.GetCart().GetSubtotal().GetAmountMinor() != 666 {
		t.Errorf("without the pan: %v, %v", deleted, err)
	}
	bob := authn.WithPrincipal(t.Context(), authn.Principal{Subject: "usr_bob"})
	if other, err := f.GetCart(bob, &cartv1.GetCartRequest{}); err != nil || len(other.GetCart().GetItems()) != 0 {
		t.Errorf("somebody else's cart: %v, %v", other, err)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	f := open(t)
	quote := func(lines ...*commonv1.Line) error {
		_, err := f.Quote(f.ann, &cartv1.QuoteRequest{Items: lines})
		return err
	}
	put := func(id string, n int32) error {
		_, err := f.PutItem(f.ann, &cartv1.PutItemRequest{ProductId: id, Quantity: n})
		return err
	}
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   string
		field  string
	}{
		{"an unknown product", put("nope", 1), http.StatusNotFound, "product_not_found", ""},
		{"a quantity of none", put("pan", 0), http.StatusBadRequest, "invalid_argument", "quantity"},
		{"a huge quantity", put("pan", 100), http.StatusBadRequest, "invalid_argument", "quantity"},
		{"a quote of an empty cart", quote(), http.StatusUnprocessableEntity, "cart_empty", ""},
		{"a quote of an unknown product", quote(&commonv1.Line{ProductId: "pan", Quantity: 1}, &commonv1.Line{ProductId: "pan", Quantity: 1}, &commonv1.Line{ProductId: "nope", Quantity: 1}),
			http.StatusBadRequest, "invalid_argument", "items[2].product_id"},
	} {
		p := kit.Problem(c.err)
		if c.err == nil || p.Status != c.status || p.Code != c.code {
			t.Errorf("%s: %v", c.name, c.err)
		}
		if c.field != "" && (len(p.Fields) != 1 || p.Fields[0].Field != c.field) {
			t.Errorf("%s: fields %v, want %s", c.name, p.Fields, c.field)
		}
	}
	if _, err := f.GetCart(t.Context(), &cartv1.GetCartRequest{}); !errors.Is(err, authn.ErrUnauthenticated) {
		t.Errorf("nobody's cart: %v", err)
	}
}

func TestQuoteOfTheCart(t *testing.T) {
	f := open(t)
	f.put(t, "pan", 2)
	if _, err := f.ApplyCoupon(f.ann, &cartv1.ApplyCouponRequest{Code: "SKETCH5"}); err != nil {
		t.Fatal(err)
	}
	q, err := f.Quote(f.ann, &cartv1.QuoteRequest{})
	if err != nil || q.GetTotal().GetAmountMinor() != 10480 || q.GetDiscount().GetAmountMinor() != 500 {
		t.Errorf("quote %v, %v", q, err)
	}
	// Lines that the caller names have no coupon.
	q, err = f.Quote(f.ann, &cartv1.QuoteRequest{Items: []*commonv1.Line{{ProductId: "pan", Quantity: 2}}})
	if err != nil || q.GetTotal().GetAmountMinor() != 10980 {
		t.Errorf("quote %v, %v", q, err)
	}
	delete(f.catalogue.prices, "pan")
	if _, err := f.Quote(f.ann, &cartv1.QuoteRequest{}); kit.Problem(err).Code != "cart_item_unavailable" {
		t.Errorf("a quote of something no longer sold: %v", err)
	}
	if got, err := f.GetCart(f.ann, &cartv1.GetCartRequest{}); err != nil || got.GetCart().GetItems()[0].GetAvailable() {
		t.Errorf("the cart shows %v, %v", got, err)
	}
}

func TestCatalogueFaults(t *testing.T) {
	f := open(t)
	f.put(t, "pan", 1)
	f.catalogue.prices["pan"].Currency = "USD"
	if _, err := f.GetCart(f.ann, &cartv1.GetCartRequest{}); err == nil {
		t.Error("a price in another currency was taken")
	}
	f.catalogue.err = errors.New("gone")
	if _, err := f.GetCart(f.ann, &cartv1.GetCartRequest{}); !errors.Is(err, f.catalogue.err) {
		t.Errorf("without the catalogue: %v", err)
	}
}

func TestOrderTakesItsItemsOut(t *testing.T) {
	f := open(t)
	f.put(t, "pan", 1)
	f.put(t, "cup", 3)
	handle := transport.OrderCreated(f.store, time.Now)
	event := func(fromCart bool) error {
		e, err := protoevents.New("", transport.OrderTopic, "ord_1", &orderv1.OrderCreated{
			OrderId: "ord_1", UserId: "usr_ann", FromCart: fromCart,
			Items: []*commonv1.Line{{ProductId: "pan", Quantity: 1}, {ProductId: "cup", Quantity: 2}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != transport.OrderCreatedType {
			t.Errorf("type %s, want %s", e.Type, transport.OrderCreatedType)
		}
		return sqldb.InTx(t.Context(), f.db, func(ctx context.Context, tx *sql.Tx) error { return handle(ctx, tx, e) })
	}
	for _, c := range []struct {
		fromCart bool
		left     int
	}{{false, 2}, {true, 1}} {
		if err := event(c.fromCart); err != nil {
			t.Fatal(err)
		}
		got, err := f.GetCart(f.ann, &cartv1.GetCartRequest{})
		if err != nil || len(got.GetCart().GetItems()) != c.left {
			t.Errorf("after an order (from the cart: %v): %v, %v", c.fromCart, got, err)
		}
	}
	bad, err := protoevents.New("", transport.OrderTopic, "ord_1", &orderv1.OrderFailed{OrderId: "ord_1"})
	if err != nil {
		t.Fatal(err)
	}
	err = sqldb.InTx(t.Context(), f.db, func(ctx context.Context, tx *sql.Tx) error { return handle(ctx, tx, bad) })
	if !inbox.IsPermanent(err) {
		t.Errorf("an event that cannot be read: %v, want a permanent failure", err)
	}
}
