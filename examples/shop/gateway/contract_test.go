package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/gateway"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
)

// edge is the gateway before services that do as their contracts say.
type edge struct {
	*servicetest.World
	t     *testing.T
	peers *servicetest.StandIn
	url   string
}

func contracting(t *testing.T) *edge {
	t.Helper()
	contracttest.Need(t)
	e := &edge{World: servicetest.New(t), t: t}
	e.peers = e.StandIn(t, "auth", "user", "catalog", "cart", "order", "payment", "inventory")
	for _, name := range []string{"auth", "catalog"} { // their HTTP is passed on as it is
		p := e.Peers[name]
		p.HTTPAddr = p.Addr
		e.Peers[name] = p
	}
	svc := e.StartWith(t, kit.Config{Name: gateway.Name, HTTPAddr: "127.0.0.1:0", PublicHTTP: true, GRPCAddr: kit.None},
		func(spiffeid.TrustDomain) (*authn.Policy, error) { return gateway.Policy() },
		func(ctx context.Context, svc *kit.Service) error {
			_, err := gateway.New(ctx, svc, gateway.Config{Verifier: svc.Verifier()})
			return err
		})
	e.url = "http://" + svc.HTTPAddr()
	return e
}

// request is what a client of the REST API sends, and what it must be answered.
type request struct {
	as           string // "", "ann" or "op"
	method, path string
	body         string
	key          string // of idempotency
	status       int
	says         []string // parts of the answer
	location     string
}

func (e *edge) send(ctx context.Context, r request) error {
	req, err := http.NewRequestWithContext(ctx, r.method, e.url+r.path, strings.NewReader(r.body))
	if err != nil {
		return err
	}
	if r.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	switch r.as {
	case "ann":
		req.Header.Set("Authorization", "Bearer "+e.Tokens.Token(e.t, "ann", "shop"))
	case "op":
		req.Header.Set("Authorization", "Bearer "+e.Tokens.Token(e.t, "op", "shop:admin"))
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != r.status || resp.Header.Get("Location") != r.location {
		return fmt.Errorf("the gateway answered %s, Location %q: %s", resp.Status, resp.Header.Get("Location"), body)
	}
	for _, s := range r.says {
		if !bytes.Contains(body, []byte(s)) {
			return fmt.Errorf("the answer lacks %s: %s", s, body)
		}
	}
	return nil
}

var (
	when     = timestamppb.New(time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC))
	customer = contracttest.Given("a customer", contracttest.Params{"id": "ann"})
	operator = contracttest.Given("an operator")
	onSale   = contracttest.Given("a product on sale", contracttest.Params{"id": "mug"})
)

func eur(minor int32) *commonv1.Money {
	return &commonv1.Money{AmountMinor: minor, Currency: "EUR"}
}

// amount is that in a contract: the currency is an ISO code.
var amount = match.Object{"amount_minor": match.Integer(1290), "currency": match.Regex("EUR", "[A-Z]{3}")}

// with replaces fields of m's matchers.
func with(m proto.Message, fields match.Object) match.Object {
	o := match.Message(m)
	for name, v := range fields {
		o[name] = v
	}
	return o
}

func refusal(code codes.Code, status int, reason string, more ...proto.Message) *contracttest.Refusal {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: grpcproblem.Domain, Metadata: map[string]string{"http_status": fmt.Sprint(status)}}
	return &contracttest.Refusal{Code: code, Message: "what is wrong", Details: append([]proto.Message{info}, more...)}
}

func invalid(field string) *contracttest.Refusal {
	return refusal(codes.InvalidArgument, 400, "INVALID_ARGUMENT", &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: "is wrong"}},
	})
}

// What the gateway passes on is its clients' to read, so its contracts have whole
// messages.
func TestContracts(t *testing.T) {
	e := contracting(t)
	agree := func(provider string, c contracttest.GRPC, r request) {
		t.Helper()
		if r.as != "" {
			if c.Metadata == nil {
				c.Metadata = map[string]any{}
			}
			c.Metadata["authorization"] = match.Bearer()
		}
		contracttest.Consumer{Name: gateway.Name, Provider: provider, Dir: "../contracts/pacts"}.GRPC(t, c, func(ctx context.Context, conn *grpc.ClientConn) error {
			defer e.peers.Contract(conn)()
			return e.send(ctx, r)
		})
	}

	agree("auth", contracttest.GRPC{
		Name: "registering an account", Method: authv1.AuthService_Register_FullMethodName,
		Request:  match.Object{"email": match.FromState("${email}", "ann@example.com"), "password": "correct horse", "name": "Ann"},
		Given:    contracttest.Given("an e-mail address without an account"),
		Response: &authv1.RegisterResponse{User: &authv1.Account{Id: "usr_1", Email: "ann@example.com", Name: "Ann"}},
	}, request{method: "POST", path: "/v1/users", body: `{"email":"ann@example.com","password":"correct horse","name":"Ann"}`, status: 201, says: []string{`"id":"usr_1"`}})
	agree("auth", contracttest.GRPC{
		Name: "registering with a password that is too short", Method: authv1.AuthService_Register_FullMethodName,
		Request: &authv1.RegisterRequest{Email: "ann@example.com", Password: "short", Name: "Ann"}, Refusal: invalid("password"),
	}, request{method: "POST", path: "/v1/users", body: `{"email":"ann@example.com","password":"short","name":"Ann"}`, status: 400, says: []string{`"field":"password"`}})

	profile := &userv1.Profile{Id: "ann", Email: "ann@example.com", Name: "Ann", Phone: "+4930123456", Address: "A street 1", CreatedAt: when, UpdatedAt: when}
	known := customer.And("a profile")
	agree("user", contracttest.GRPC{
		Name: "reading the customer's profile", Given: known, Method: userv1.UserService_GetMe_FullMethodName,
		Request: &userv1.GetMeRequest{}, Response: &userv1.GetMeResponse{Profile: profile},
	}, request{as: "ann", method: "GET", path: "/v1/me", status: 200, says: []string{`"email":"ann@example.com"`}})
	phone := "+4930123456"
	agree("user", contracttest.GRPC{
		Name: "changing the customer's profile", Given: known, Method: userv1.UserService_UpdateMe_FullMethodName,
		Request: &userv1.UpdateMeRequest{Phone: &phone}, Response: &userv1.UpdateMeResponse{Profile: profile},
	}, request{as: "ann", method: "PATCH", path: "/v1/me", body: `{"phone":"+4930123456"}`, status: 200, says: []string{`"phone":"+4930123456"`}})
	prefs := match.Object{"email": match.Bool(true), "sms": match.Bool(true), "push": match.Bool(true)}
	agree("user", contracttest.GRPC{
		Name: "reading the customer's preferences", Given: known, Method: userv1.UserService_GetPreferences_FullMethodName,
		Request: &userv1.GetPreferencesRequest{}, Response: match.Object{"preferences": prefs},
	}, request{as: "ann", method: "GET", path: "/v1/me/preferences", status: 200, says: []string{`"sms":true`}})
	agree("user", contracttest.GRPC{
		Name: "setting the customer's preferences", Given: known, Method: userv1.UserService_PutPreferences_FullMethodName,
		Request:  &userv1.PutPreferencesRequest{Preferences: &userv1.Preferences{Email: true, Push: true}},
		Response: match.Object{"preferences": match.Object{"email": true, "sms": false, "push": true}},
	}, request{as: "ann", method: "PUT", path: "/v1/me/preferences", body: `{"email":true,"push":true}`, status: 200, says: []string{`"sms":false`}})

	mug := with(&catalogv1.Product{
		Id: "mug", Name: "A mug", Description: "It holds coffee.", Category: "Kitchen", InStock: true, ImageUrl: "/images/mug.svg", UpdatedAt: when, Revision: 1,
	}, match.Object{"price": amount, "image_url": match.Regex("/images/mug.svg", "/images/.+")})
	agree("catalog", contracttest.GRPC{
		Name: "searching", Given: onSale, Method: catalogv1.CatalogService_ListProducts_FullMethodName, Request: &catalogv1.ListProductsRequest{Q: "mug", PageSize: 1},
		Response: match.Object{
			"products": match.EachLike(mug), "total": match.Integer(1),
			"facets": match.EachLike(&catalogv1.Facet{Field: "category", Values: []*catalogv1.FacetValue{{Value: "Kitchen", Count: 1}}}),
		},
	}, request{method: "GET", path: "/v1/products?q=mug&page_size=1", status: 200, says: []string{`"id":"mug"`, `"next_page_token":""`}})
	agree("catalog", contracttest.GRPC{
		Name: "searching with a sort that is not known", Method: catalogv1.CatalogService_ListProducts_FullMethodName, Request: &catalogv1.ListProductsRequest{Sort: "luck"},
		Refusal: invalid("sort"),
	}, request{method: "GET", path: "/v1/products?sort=luck", status: 400, says: []string{`"field":"sort"`}})
	agree("catalog", contracttest.GRPC{
		Name: "reading a product", Given: onSale, Method: catalogv1.CatalogService_GetProduct_FullMethodName,
		Request: &catalogv1.GetProductRequest{Id: "mug"}, Response: match.Object{"product": mug},
	}, request{method: "GET", path: "/v1/products/mug", status: 200, says: []string{`"amount_minor":1290`}})
	agree("catalog", contracttest.GRPC{
		Name: "reading a product that is not there", Method: catalogv1.CatalogService_GetProduct_FullMethodName,
		Request: &catalogv1.GetProductRequest{Id: "ghost"}, Refusal: refusal(codes.NotFound, 404, "PRODUCT_NOT_FOUND"),
	}, request{method: "GET", path: "/v1/products/ghost", status: 404, says: []string{`"code":"product_not_found"`}})
	agree("catalog", contracttest.GRPC{
		Name: "putting a product on sale", Given: operator, Method: catalogv1.CatalogService_CreateProduct_FullMethodName,
		Request: match.Object{"name": match.FromState("${name}", "A jug"), "category": "Kitchen", "price": match.Object{"amount_minor": 2490, "currency": "EUR"}, "initial_stock": 3}, Response: match.Object{"product": match.Object{"id": match.Like("a-jug"), "price": amount}},
	}, request{as: "op", method: "POST", path: "/v1/admin/products", body: `{"name":"A jug","category":"Kitchen","price":{"amount_minor":2490,"currency":"EUR"},"initial_stock":3}`, status: 201, location: "/v1/products/a-jug"})
	name := "A mug"
	agree("catalog", contracttest.GRPC{
		Name: "editing a product", Given: operator.And("a product on sale", contracttest.Params{"id": "mug"}), Method: catalogv1.CatalogService_UpdateProduct_FullMethodName,
		Request: &catalogv1.UpdateProductRequest{Id: "mug", Name: &name}, Response: match.Object{"product": mug},
	}, request{as: "op", method: "PATCH", path: "/v1/admin/products/mug", body: `{"name":"A mug"}`, status: 200, says: []string{`"id":"mug"`}})
	agree("catalog", contracttest.GRPC{
		Name: "putting a product on sale without leave", Given: customer, Method: catalogv1.CatalogService_CreateProduct_FullMethodName,
		Request: &catalogv1.CreateProductRequest{Name: "A jug", Category: "Kitchen", Price: eur(2490)}, Refusal: &contracttest.Refusal{Code: codes.PermissionDenied},
	}, request{as: "ann", method: "POST", path: "/v1/admin/products", body: `{"name":"A jug","category":"Kitchen","price":{"amount_minor":2490,"currency":"EUR"}}`, status: 403})

	item := match.Object{
		"product_id": match.Like("mug"), "name": match.Like("A mug"), "quantity": match.Integer(2), "available": match.Bool(true), "unit_price": amount, "line_total": amount,
	}
	cart := match.Object{"items": match.EachLike(item), "subtotal": amount, "discount": match.Object{"amount_minor": match.Integer(0)}, "total": amount, "coupon": match.Like(""), "updated_at": match.Time(when.AsTime())}
	filled := customer.And("a product on sale", contracttest.Params{"id": "mug"}).And("a cart", contracttest.Params{"product": "mug", "quantity": 2})
	agree("cart", contracttest.GRPC{
		Name: "reading the cart", Given: filled, Method: cartv1.CartService_GetCart_FullMethodName, Request: &cartv1.GetCartRequest{}, Response: match.Object{"cart": cart},
	}, request{as: "ann", method: "GET", path: "/v1/cart", status: 200, says: []string{`"product_id":"mug"`}})
	agree("cart", contracttest.GRPC{
		Name: "setting a quantity", Given: filled, Method: cartv1.CartService_PutItem_FullMethodName, Request: &cartv1.PutItemRequest{ProductId: "mug", Quantity: 3}, Response: match.Object{"cart": cart},
	}, request{as: "ann", method: "PUT", path: "/v1/cart/items/mug", body: `{"quantity":3}`, status: 200, says: []string{`"product_id":"mug"`}})
	agree("cart", contracttest.GRPC{
		Name: "setting a quantity that is too large", Given: filled, Method: cartv1.CartService_PutItem_FullMethodName, Request: &cartv1.PutItemRequest{ProductId: "mug", Quantity: 100}, Refusal: invalid("quantity"),
	}, request{as: "ann", method: "PUT", path: "/v1/cart/items/mug", body: `{"quantity":100}`, status: 400, says: []string{`"field":"quantity"`}})
	agree("cart", contracttest.GRPC{
		Name: "taking a product out", Given: filled, Method: cartv1.CartService_DeleteItem_FullMethodName, Request: &cartv1.DeleteItemRequest{ProductId: "mug"},
		Response: match.Object{"cart": match.Object{"items": match.Array{}, "total": match.Object{"amount_minor": match.Integer(0)}}},
	}, request{as: "ann", method: "DELETE", path: "/v1/cart/items/mug", status: 200, says: []string{`"items":[]`}})
	agree("cart", contracttest.GRPC{
		Name: "applying a coupon", Given: filled, Method: cartv1.CartService_ApplyCoupon_FullMethodName, Request: &cartv1.ApplyCouponRequest{Code: "NAPKIN10"},
		Response: match.Object{"cart": match.Object{"coupon": "NAPKIN10", "discount": amount}},
	}, request{as: "ann", method: "POST", path: "/v1/cart/coupon", body: `{"code":"NAPKIN10"}`, status: 200, says: []string{`"coupon":"NAPKIN10"`}})

	status := match.Enum("pending", "confirmed", "failed", "cancelled", "refunded")
	order := match.Object{
		"id": match.Like("ord_1"), "status": status, "total": amount, "discount": match.Object{"amount_minor": match.Integer(0)}, "failure_reason": match.Like(""),
		"created_at": match.Time(when.AsTime()), "updated_at": match.Time(when.AsTime()), "cancel_requested": match.Bool(false),
		"items": match.EachLike(match.Object{"product_id": match.Like("mug"), "quantity": match.Integer(2), "unit_price": amount, "name": match.Like("A mug")}),
	}
	payer := customer.And("a product on sale", contracttest.Params{"id": "mug"}).And("a card", contracttest.Params{"number": "4242424242424242"})
	bought := customer.And("an order")
	agree("order", contracttest.GRPC{
		Name: "placing an order", Given: payer, Method: orderv1.OrderService_CreateOrder_FullMethodName,
		Metadata: map[string]any{"idempotency-key": match.FromState(`"${key}"`, `"key-1"`)},
		Request:  match.Object{"payment_method_id": match.FromState("${card}", "pm_1"), "items": match.Array{match.Object{"product_id": "mug", "quantity": 2}}},
		Response: match.Object{"order": order},
	}, request{as: "ann", key: `"key-1"`, method: "POST", path: "/v1/orders", body: `{"payment_method_id":"pm_1","items":[{"product_id":"mug","quantity":2}]}`, status: 202, location: "/v1/orders/ord_1"})
	agree("order", contracttest.GRPC{
		Name: "placing an order without a key", Given: customer, Method: orderv1.OrderService_CreateOrder_FullMethodName,
		Request: &orderv1.CreateOrderRequest{PaymentMethodId: "pm_1"}, Refusal: refusal(codes.InvalidArgument, 400, "IDEMPOTENCY_KEY_MISSING"),
	}, request{as: "ann", method: "POST", path: "/v1/orders", body: `{"payment_method_id":"pm_1"}`, status: 400, says: []string{"idempotency_key_missing"}})
	agree("order", contracttest.GRPC{
		Name: "listing the customer's orders", Given: bought, Method: orderv1.OrderService_ListOrders_FullMethodName, Request: &orderv1.ListOrdersRequest{PageSize: 10},
		Response: match.Object{"orders": match.EachLike(order), "next_page_token": match.Like("")},
	}, request{as: "ann", method: "GET", path: "/v1/orders?page_size=10", status: 200, says: []string{`"id":"ord_1"`}})
	agree("order", contracttest.GRPC{
		Name: "reading an order", Given: bought, Method: orderv1.OrderService_GetOrder_FullMethodName, Request: match.Object{"id": match.FromState("${order}", "ord_1")},
		Response: match.Object{"order": order},
	}, request{as: "ann", method: "GET", path: "/v1/orders/ord_1", status: 200, says: []string{`"status":"pending"`}})
	agree("order", contracttest.GRPC{
		Name: "reading an order that is not there", Given: customer, Method: orderv1.OrderService_GetOrder_FullMethodName, Request: &orderv1.GetOrderRequest{Id: "ord_none"},
		Refusal: refusal(codes.NotFound, 404, "ORDER_NOT_FOUND"),
	}, request{as: "ann", method: "GET", path: "/v1/orders/ord_none", status: 404, says: []string{`"code":"order_not_found"`}})
	agree("order", contracttest.GRPC{
		Name: "cancelling an order", Given: bought, Method: orderv1.OrderService_CancelOrder_FullMethodName,
		Request: match.Object{"id": match.FromState("${order}", "ord_1"), "reason": "changed my mind"}, Response: match.Object{"order": order},
	}, request{as: "ann", method: "POST", path: "/v1/orders/ord_1/cancel", body: `{"reason":"changed my mind"}`, status: 200, says: []string{`"id":"ord_1"`}})
	agree("order", contracttest.GRPC{
		Name: "watching an order that has ended", Given: customer.And("an order that failed"), Method: orderv1.OrderService_WatchOrder_FullMethodName,
		Request: match.Object{"id": match.FromState("${order}", "ord_1")}, Stream: match.Array{match.Object{"order": with(&orderv1.Order{Id: "ord_1", UpdatedAt: when}, match.Object{"status": "failed"})}},
	}, request{as: "ann", method: "GET", path: "/v1/orders/ord_1/events", status: 200, says: []string{"event: order\nid: 1785578400000000\ndata: ", `"status":"failed"`}})

	method := &paymentv1.PaymentMethod{Id: "pm_1", Brand: "visa", Last4: "4242"}
	card := &paymentv1.CreatePaymentMethodRequest{CardNumber: "4242424242424242", ExpMonth: 12, ExpYear: 2099, Cvc: "123"}
	agree("payment", contracttest.GRPC{
		Name: "keeping a card", Given: customer, Method: paymentv1.PaymentService_CreatePaymentMethod_FullMethodName, Request: card,
		Response: match.Object{"payment_method": with(method, match.Object{"last4": match.Regex("4242", `\d{4}`)})},
	}, request{as: "ann", method: "POST", path: "/v1/payment-methods", body: `{"card_number":"4242424242424242","exp_month":12,"exp_year":2099,"cvc":"123"}`, status: 201, says: []string{`"last4":"4242"`}})
	wrong := proto.CloneOf(card)
	wrong.CardNumber = "4242"
	agree("payment", contracttest.GRPC{
		Name: "keeping a card with a number that is too short", Given: customer, Method: paymentv1.PaymentService_CreatePaymentMethod_FullMethodName, Request: wrong, Refusal: invalid("card_number"),
	}, request{as: "ann", method: "POST", path: "/v1/payment-methods", body: `{"card_number":"4242","exp_month":12,"exp_year":2099,"cvc":"123"}`, status: 400, says: []string{`"field":"card_number"`}})
	agree("payment", contracttest.GRPC{
		Name: "listing the customer's cards", Given: customer.And("a card", contracttest.Params{"number": "4242424242424242"}), Method: paymentv1.PaymentService_ListPaymentMethods_FullMethodName,
		Request: &paymentv1.ListPaymentMethodsRequest{}, Response: match.Object{"payment_methods": match.EachLike(method)},
	}, request{as: "ann", method: "GET", path: "/v1/payment-methods", status: 200, says: []string{`"brand":"visa"`}})

	stocked := operator.And("a product on sale", contracttest.Params{"id": "mug"})
	agree("inventory", contracttest.GRPC{
		Name: "adjusting a stock", Given: stocked, Method: inventoryv1.InventoryService_AdjustStock_FullMethodName, Request: &inventoryv1.AdjustStockRequest{ProductId: "mug", Delta: 1, Reason: "found"},
		Response: match.Object{"stock": match.Object{"product_id": match.Like("mug"), "on_hand": match.Integer(10), "reserved": match.Integer(0), "available": match.Integer(10)}},
	}, request{as: "op", method: "POST", path: "/v1/admin/stock/mug", body: `{"delta":1,"reason":"found"}`, status: 200, says: []string{`"on_hand":10`}})
	agree("inventory", contracttest.GRPC{
		Name: "adjusting the stock of a product that is not there", Given: operator, Method: inventoryv1.InventoryService_AdjustStock_FullMethodName, Request: &inventoryv1.AdjustStockRequest{ProductId: "ghost", Delta: 1},
		Refusal: refusal(codes.NotFound, 404, "PRODUCT_NOT_FOUND"),
	}, request{as: "op", method: "POST", path: "/v1/admin/stock/ghost", body: `{"delta":1}`, status: 404, says: []string{`"code":"product_not_found"`}})
}
