package web_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
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
	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/web"
	"github.com/napkin-kit/napkin/examples/shop/web/console"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
)

// pacts is where the shop keeps its contracts.
const pacts = "../contracts/pacts"

// site is the storefront or the console, before services that do as their contracts
// say, with somebody signed in.
type site struct {
	t      *testing.T
	world  *servicetest.World
	peers  *servicetest.StandIn
	url    string
	cookie *http.Cookie
	csrf   string
	name   string // of the consumer
}

var everybody = []string{"auth", "user", "catalog", "cart", "order", "payment", "inventory", "notification"}

func contracting(t *testing.T, name, scope string) *site {
	t.Helper()
	contracttest.Need(t)
	s := &site{t: t, world: servicetest.New(t), name: name}
	s.peers = s.world.StandIn(t, everybody...)
	p := s.world.Peers["auth"]
	p.HTTPAddr = p.Addr // sign-ins go there, and are not under contract here
	s.world.Peers["auth"] = p
	edge := listen(t)
	s.url = "http://" + edge.Addr().String()
	key := bytes.Repeat([]byte{4}, 32)
	s.world.StartWith(t, kit.Config{Name: "gateway", PublicHTTP: true, HTTPListener: edge, GRPCAddr: kit.None},
		func(spiffeid.TrustDomain) (*authn.Policy, error) { return authn.NewPolicy() },
		func(_ context.Context, svc *kit.Service) error {
			if name == "storefront" {
				return web.New(svc, web.Config{PublicURL: s.url, SessionKey: key, Verifier: svc.Verifier()})
			}
			h, err := console.New(svc, console.Config{PublicURL: s.url, ConsoleURL: s.url, SessionKey: key, Verifier: svc.Verifier()})
			svc.HTTP().Handle("/", h)
			return err
		})
	keeper, err := session.NewKeeper(session.Config{Purpose: name, Key: key, URL: s.url})
	if err != nil {
		t.Fatal(err)
	}
	who := session.Session{Access: s.world.Tokens.Token(t, "ann", scope), Refresh: "r", AccessUntil: time.Now().Add(time.Hour)}.Renewed()
	w := httptest.NewRecorder()
	if err := keeper.Save(w, who); err != nil {
		t.Fatal(err)
	}
	s.cookie, s.csrf = w.Result().Cookies()[0], who.CSRF
	return s
}

// visit is what the browser asks for, and what it must be shown.
type visit struct {
	path string
	form url.Values // posted, where it is not nil
	to   string     // where it is sent on
	code int        // defaults to 200, 303 with to
	says []string
}

func (s *site) browse(ctx context.Context, v visit) error {
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if v.form != nil {
		form := maps.Clone(v.form)
		form.Set(session.Field, s.csrf)
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+v.path, body)
	if err != nil {
		return err
	}
	if v.form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", s.url)
	}
	req.AddCookie(s.cookie)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	want := v.code
	if want == 0 {
		want = http.StatusOK
		if v.to != "" {
			want = http.StatusSeeOther
		}
	}
	if resp.StatusCode != want || !strings.HasPrefix(resp.Header.Get("Location"), v.to) {
		return fmt.Errorf("%s answered %s, Location %q:\n%s", v.path, resp.Status, resp.Header.Get("Location"), page)
	}
	for _, part := range v.says {
		if !strings.Contains(string(page), part) {
			return fmt.Errorf("%s does not show %q:\n%s", v.path, part, page)
		}
	}
	return nil
}

// agree is one contract. What the page asks of services beside the one in question,
// and of other methods, is answered by the test.
func (s *site) agree(provider string, c contracttest.GRPC, v visit) {
	s.t.Helper()
	if len(c.Given) > 0 && (c.Given[0].Name == "a customer" || c.Given[0].Name == "an operator") {
		c.Metadata = maps.Clone(c.Metadata)
		if c.Metadata == nil {
			c.Metadata = map[string]any{}
		}
		c.Metadata["authorization"] = match.Bearer()
	}
	contracttest.Consumer{Name: s.name, Provider: provider, Dir: pacts}.GRPC(s.t, c, func(ctx context.Context, conn *grpc.ClientConn) error {
		was := s.peers.Answer(c.Method, nil)
		defer s.peers.Answer(c.Method, was)
		defer s.peers.Contract(conn)()
		return s.browse(ctx, v)
	})
}

var (
	when      = timestamppb.New(time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC))
	customer  = contracttest.Given("a customer", contracttest.Params{"id": "ann"})
	operator  = contracttest.Given("an operator")
	mugOnSale = contracttest.Params{"id": "mug"}
	amount    = match.Object{"amount_minor": match.Integer(1290), "currency": match.Regex("EUR", "[A-Z]{3}")}
	nothing   = match.Object{"amount_minor": match.Integer(0)}
)

func refusal(code codes.Code, status int, reason string, fields ...string) *contracttest.Refusal {
	details := []proto.Message{&errdetails.ErrorInfo{Reason: reason, Domain: grpcproblem.Domain, Metadata: map[string]string{"http_status": fmt.Sprint(status)}}}
	if len(fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f, Description: "is wrong"})
		}
		details = append(details, bad)
	}
	return &contracttest.Refusal{Code: code, Message: "what is wrong", Details: details}
}

func TestContractsOfTheStorefront(t *testing.T) {
	s := contracting(t, "storefront", "shop")
	mug := &catalogv1.Product{Id: "mug", Name: "A mug", Description: "It holds coffee.", Category: "Kitchen", Price: euros(1290), InStock: true, ImageUrl: "/images/mug.svg"}
	inCart := &cartv1.Cart{
		Items:    []*cartv1.CartItem{{ProductId: "mug", Name: "A mug", Quantity: 2, UnitPrice: euros(1290), LineTotal: euros(2580), Available: true}},
		Subtotal: euros(2580), Discount: euros(0), Total: euros(2580),
	}
	profile := &userv1.Profile{Id: "ann", Email: "ann@example.com", Name: "Ann", Phone: "+4930123456", Address: "A street 1"}
	s.peers.Answer(catalogv1.CatalogService_BatchGetProducts_FullMethodName, &catalogv1.BatchGetProductsResponse{Products: []*catalogv1.Product{mug}})
	s.peers.Answer(cartv1.CartService_GetCart_FullMethodName, &cartv1.GetCartResponse{Cart: inCart})
	s.peers.Answer(paymentv1.PaymentService_ListPaymentMethods_FullMethodName, &paymentv1.ListPaymentMethodsResponse{})
	s.peers.Answer(userv1.UserService_GetMe_FullMethodName, &userv1.GetMeResponse{Profile: profile})
	s.peers.Answer(userv1.UserService_GetPreferences_FullMethodName, &userv1.GetPreferencesResponse{Preferences: &userv1.Preferences{Email: true}})

	s.agree("auth", contracttest.GRPC{
		Name: "registering an account", Given: contracttest.Given("an e-mail address without an account"), Method: authv1.AuthService_Register_FullMethodName,
		Request: match.Object{"email": match.FromState("${email}", "ann@example.com"), "password": "correct horse", "name": "Ann"}, Response: match.Object{},
	}, visit{path: "/register", form: url.Values{"email": {"ann@example.com"}, "password": {"correct horse"}, "name": {"Ann"}}})
	s.agree("auth", contracttest.GRPC{
		Name: "registering without a name", Method: authv1.AuthService_Register_FullMethodName,
		Request: &authv1.RegisterRequest{Email: "ann@example.com", Password: "correct horse"}, Refusal: refusal(codes.InvalidArgument, 400, "INVALID_ARGUMENT", "name"),
	}, visit{path: "/register", form: url.Values{"email": {"ann@example.com"}, "password": {"correct horse"}}, code: 400, says: []string{"Is wrong."}})

	known := customer.And("a profile")
	s.agree("user", contracttest.GRPC{
		Name: "showing the account", Given: known, Method: userv1.UserService_GetMe_FullMethodName, Request: &userv1.GetMeRequest{},
		Response: &userv1.GetMeResponse{Profile: profile},
	}, visit{path: "/account", says: []string{"4930123456"}})
	s.agree("user", contracttest.GRPC{
		Name: "showing the account before there is a profile", Given: contracttest.Given("a customer", contracttest.Params{"id": "nobody"}), Method: userv1.UserService_GetMe_FullMethodName,
		Request: &userv1.GetMeRequest{}, Refusal: refusal(codes.NotFound, 404, "PROFILE_NOT_FOUND"),
	}, visit{path: "/account"})
	s.agree("user", contracttest.GRPC{
		Name: "showing the preferences", Given: known, Method: userv1.UserService_GetPreferences_FullMethodName, Request: &userv1.GetPreferencesRequest{},
		Response: match.Object{"preferences": match.Object{"email": match.Bool(true), "sms": match.Bool(true), "push": match.Bool(true)}},
	}, visit{path: "/account", says: []string{"ann@example.com"}})
	name, phone, address := "Ann", "+4930123456", "A street 1"
	s.agree("user", contracttest.GRPC{
		Name: "saving the profile", Given: known, Method: userv1.UserService_UpdateMe_FullMethodName,
		Request: &userv1.UpdateMeRequest{Name: &name, Phone: &phone, Address: &address}, Response: match.Object{},
	}, visit{path: "/account", form: url.Values{"name": {name}, "phone": {"+49 30 123456"}, "address": {address}}, to: "/account?done=saved"})
	bad := "030"
	s.agree("user", contracttest.GRPC{
		Name: "saving a phone number that is none", Given: known, Method: userv1.UserService_UpdateMe_FullMethodName,
		Request: &userv1.UpdateMeRequest{Name: &name, Phone: &bad, Address: &address}, Refusal: refusal(codes.InvalidArgument, 400, "INVALID_ARGUMENT", "phone"),
	}, visit{path: "/account", form: url.Values{"name": {name}, "phone": {bad}, "address": {address}}, code: 400, says: []string{"Begin with "}})
	s.agree("user", contracttest.GRPC{
		Name: "saving the preferences", Given: known, Method: userv1.UserService_PutPreferences_FullMethodName,
		Request: &userv1.PutPreferencesRequest{Preferences: &userv1.Preferences{Email: true}}, Response: match.Object{},
	}, visit{path: "/account/preferences", form: url.Values{"email": {"true"}}, to: "/account?done=saved"})

	onSale := contracttest.Given("a product on sale", mugOnSale)
	shown := match.Object{
		"id": match.Like("mug"), "name": match.Like("A mug"), "category": match.Like("Kitchen"), "price": amount, "in_stock": match.Bool(true),
		"image_url": match.Regex("/images/mug.svg", "/images/.+"),
	}
	s.agree("catalog", contracttest.GRPC{
		Name: "showing the front page", Given: onSale, Method: catalogv1.CatalogService_ListProducts_FullMethodName, Request: &catalogv1.ListProductsRequest{PageSize: 24},
		Response: match.Object{"products": match.EachLike(shown), "total": match.Integer(1), "next_page_token": match.Like(""), "facets": match.Contains(
			match.Object{"field": "category", "values": match.EachLike(match.Object{"value": match.Like("Kitchen"), "count": match.Integer(1)})},
			match.Object{"field": "price", "values": match.EachLike(match.Object{"value": match.Regex("0-1500", `\d*-\d*`)})},
		)},
	}, visit{path: "/", says: []string{"A mug", "12.90", "Kitchen", "/images/mug.svg"}})
	s.agree("catalog", contracttest.GRPC{
		Name: "showing what is cheapest of what can be had", Given: onSale.And("stock", contracttest.Params{"product": "mug"}), Method: catalogv1.CatalogService_ListProducts_FullMethodName,
		Request: &catalogv1.ListProductsRequest{Q: "mug", InStock: true, Sort: "price", MinPrice: 1, MaxPrice: 1500, PageSize: 24}, Response: match.Object{"products": match.EachLike(shown)},
	}, visit{path: "/search?q=mug&in_stock=true&sort=price&price=1-1500", says: []string{"A mug"}})
	whole := maps.Clone(shown)
	whole["description"] = match.Like("It holds coffee.")
	s.agree("catalog", contracttest.GRPC{
		Name: "showing a product", Given: onSale, Method: catalogv1.CatalogService_GetProduct_FullMethodName, Request: &catalogv1.GetProductRequest{Id: "mug"}, Response: match.Object{"product": whole},
	}, visit{path: "/products/mug", says: []string{"It holds coffee.", "12.90"}})
	s.agree("catalog", contracttest.GRPC{
		Name: "showing a product that is not there", Method: catalogv1.CatalogService_GetProduct_FullMethodName, Request: &catalogv1.GetProductRequest{Id: "ghost"}, Refusal: refusal(codes.NotFound, 404, "PRODUCT_NOT_FOUND"),
	}, visit{path: "/products/ghost", code: 404})
	s.agree("catalog", contracttest.GRPC{
		Name: "showing the cart's pictures", Given: onSale, Method: catalogv1.CatalogService_BatchGetProducts_FullMethodName, Request: &catalogv1.BatchGetProductsRequest{Ids: []string{"mug"}},
		Response: match.Object{"products": match.EachLike(match.Object{"id": match.Like("mug"), "image_url": match.Regex("/images/mug.svg", "/images/.+"), "in_stock": match.Bool(true)})},
	}, visit{path: "/cart", says: []string{"/images/mug.svg"}})

	filled := customer.And("a product on sale", mugOnSale).And("a cart", contracttest.Params{"product": "mug", "quantity": 2})
	s.agree("cart", contracttest.GRPC{
		Name: "showing the cart", Given: filled, Method: cartv1.CartService_GetCart_FullMethodName, Request: &cartv1.GetCartRequest{},
		Response: match.Object{"cart": match.Object{
			"items":    match.EachLike(match.Object{"product_id": match.Like("mug"), "name": match.Like("A mug"), "quantity": match.Integer(2), "available": match.Bool(true), "unit_price": amount, "line_total": amount}),
			"subtotal": amount, "discount": nothing, "total": amount, "coupon": match.Like(""),
		}},
	}, visit{path: "/cart", says: []string{"A mug", "12.90"}})
	s.agree("cart", contracttest.GRPC{
		Name: "setting a quantity", Given: filled, Method: cartv1.CartService_PutItem_FullMethodName, Request: &cartv1.PutItemRequest{ProductId: "mug", Quantity: 3}, Response: match.Object{},
	}, visit{path: "/cart/items/mug", form: url.Values{"quantity": {"3"}}, to: "/cart?done=updated"})
	s.agree("cart", contracttest.GRPC{
		Name: "adding a product that is not there", Given: customer, Method: cartv1.CartService_PutItem_FullMethodName, Request: &cartv1.PutItemRequest{ProductId: "ghost", Quantity: 1}, Refusal: refusal(codes.NotFound, 404, "PRODUCT_NOT_FOUND"),
	}, visit{path: "/cart/items", form: url.Values{"product_id": {"ghost"}, "quantity": {"1"}}, code: 404, says: []string{"What is wrong."}})
	s.agree("cart", contracttest.GRPC{
		Name: "taking a product out", Given: filled, Method: cartv1.CartService_DeleteItem_FullMethodName, Request: &cartv1.DeleteItemRequest{ProductId: "mug"}, Response: match.Object{},
	}, visit{path: "/cart/items/mug/remove", form: url.Values{}, to: "/cart?done=removed"})
	s.agree("cart", contracttest.GRPC{
		Name: "applying a coupon", Given: filled, Method: cartv1.CartService_ApplyCoupon_FullMethodName, Request: &cartv1.ApplyCouponRequest{Code: "NAPKIN10"}, Response: match.Object{},
	}, visit{path: "/cart/coupon", form: url.Values{"code": {"NAPKIN10"}}, to: "/cart?done=coupon"})
	s.agree("cart", contracttest.GRPC{
		Name: "applying a coupon that there is not", Given: filled, Method: cartv1.CartService_ApplyCoupon_FullMethodName, Request: &cartv1.ApplyCouponRequest{Code: "WRONG"}, Refusal: refusal(codes.InvalidArgument, 400, "INVALID_ARGUMENT", "code"),
	}, visit{path: "/cart/coupon", form: url.Values{"code": {"WRONG"}}, code: 400})

	carded := customer.And("a card", contracttest.Params{"number": "4242424242424242"})
	s.agree("payment", contracttest.GRPC{
		Name: "showing how to pay", Given: carded, Method: paymentv1.PaymentService_ListPaymentMethods_FullMethodName, Request: &paymentv1.ListPaymentMethodsRequest{},
		Response: match.Object{"payment_methods": match.EachLike(match.Object{"id": match.Like("pm_1"), "brand": match.Like("visa"), "last4": match.Regex("4242", `\d{4}`)})},
	}, visit{path: "/checkout", says: []string{"pm_1", "4242"}})
	card := &paymentv1.CreatePaymentMethodRequest{CardNumber: "4242424242424242", ExpMonth: 12, ExpYear: 2099, Cvc: "123"}
	form := url.Values{"card_number": {"4242 4242 4242 4242"}, "exp_month": {"12"}, "exp_year": {"2099"}, "cvc": {"123"}}
	s.agree("payment", contracttest.GRPC{
		Name: "keeping a card", Given: customer, Method: paymentv1.PaymentService_CreatePaymentMethod_FullMethodName, Request: card, Response: match.Object{"payment_method": match.Object{"id": match.Like("pm_1")}},
	}, visit{path: "/checkout/card", form: form, to: "/checkout?method=pm_1"})
	wrong := proto.CloneOf(card)
	wrong.Cvc = "1"
	form = maps.Clone(form)
	form.Set("cvc", "1")
	s.agree("payment", contracttest.GRPC{
		Name: "keeping a card with a code that is too short", Given: customer, Method: paymentv1.PaymentService_CreatePaymentMethod_FullMethodName, Request: wrong, Refusal: refusal(codes.InvalidArgument, 400, "INVALID_ARGUMENT", "cvc"),
	}, visit{path: "/checkout/card", form: form, code: 400, says: []string{"Is wrong."}})

	// The pages tell the story of an order by its status, and know no other.
	status := match.Enum("pending", "confirmed", "failed", "cancelled", "refunded")
	order := match.Object{
		"id": match.Like("ord_1"), "status": status, "total": amount, "failure_reason": match.Like(""), "discount": nothing,
		"created_at": match.Time(when.AsTime()), "updated_at": match.Time(when.AsTime()),
		"items": match.EachLike(match.Object{"product_id": match.Like("mug"), "quantity": match.Integer(2), "unit_price": amount, "name": match.Like("A mug")}),
	}
	key := idempotency.NewKey()
	s.agree("order", contracttest.GRPC{
		Name: "placing the order that the page shows", Method: orderv1.OrderService_CreateOrder_FullMethodName,
		Given:    filled.And("a card", contracttest.Params{"number": "4242424242424242"}),
		Metadata: map[string]any{"idempotency-key": match.FromState(`"${key}"`, `"key"`)},
		Request:  match.Object{"payment_method_id": match.FromState("${card}", "pm_1")}, Response: match.Object{"order": match.Object{"id": match.Like("ord_1")}},
	}, visit{path: "/checkout", form: url.Values{"method": {"pm_1"}, "key": {key}, "total": {"2580 EUR"}}, to: "/orders/ord_1"})
	s.agree("order", contracttest.GRPC{
		Name: "placing an order with a payment method that there is not", Method: orderv1.OrderService_CreateOrder_FullMethodName, Given: filled,
		Metadata: map[string]any{"idempotency-key": match.FromState(`"${key}"`, `"key"`)},
		Request:  &orderv1.CreateOrderRequest{PaymentMethodId: "pm_none"}, Refusal: refusal(codes.InvalidArgument, 400, "INVALID_ARGUMENT", "payment_method_id"),
	}, visit{path: "/checkout", form: url.Values{"method": {"pm_none"}, "key": {key}, "total": {"2580 EUR"}}, code: 400})
	bought := customer.And("an order")
	s.agree("order", contracttest.GRPC{
		Name: "listing orders", Given: bought, Method: orderv1.OrderService_ListOrders_FullMethodName, Request: &orderv1.ListOrdersRequest{PageSize: 20},
		Response: match.Object{"orders": match.EachLike(match.Object{"id": match.Like("ord_1"), "status": status, "total": amount, "created_at": match.Time(when.AsTime())}), "next_page_token": match.Like("")},
	}, visit{path: "/orders", says: []string{"ord_1", "12.90"}})
	s.agree("order", contracttest.GRPC{
		Name: "showing an order", Given: bought, Method: orderv1.OrderService_GetOrder_FullMethodName, Request: match.Object{"id": match.FromState("${order}", "ord_1")}, Response: match.Object{"order": order},
	}, visit{path: "/orders/ord_1", says: []string{"A mug", "12.90"}})
	failed := maps.Clone(order)
	failed["status"], failed["failure_reason"] = "failed", "card_declined"
	s.agree("order", contracttest.GRPC{
		Name: "showing an order that failed", Given: customer.And("an order that failed"), Method: orderv1.OrderService_GetOrder_FullMethodName, Request: match.Object{"id": match.FromState("${order}", "ord_2")}, Response: match.Object{"order": failed},
	}, visit{path: "/orders/ord_2", says: []string{"Your bank declined the card."}})
	s.agree("order", contracttest.GRPC{
		Name: "showing an order that is not there", Given: customer, Method: orderv1.OrderService_GetOrder_FullMethodName, Request: &orderv1.GetOrderRequest{Id: "ord_none"}, Refusal: refusal(codes.NotFound, 404, "ORDER_NOT_FOUND"),
	}, visit{path: "/orders/ord_none", code: 404})
	s.agree("order", contracttest.GRPC{
		Name: "following an order", Given: customer.And("an order that failed"), Method: orderv1.OrderService_WatchOrder_FullMethodName, Request: match.Object{"id": match.FromState("${order}", "ord_2")}, Stream: match.Array{match.Object{"order": failed}},
	}, visit{path: "/orders/ord_2/events", says: []string{"event: order", "Your bank declined the card.", "event: end"}})
	s.agree("order", contracttest.GRPC{
		Name: "cancelling an order", Given: bought, Method: orderv1.OrderService_CancelOrder_FullMethodName, Request: match.Object{"id": match.FromState("${order}", "ord_1")}, Response: match.Object{},
	}, visit{path: "/orders/ord_1/cancel", form: url.Values{}, to: "/orders/ord_1?cancelling=1"})
	s.peers.Answer(orderv1.OrderService_GetOrder_FullMethodName, &orderv1.GetOrderResponse{Order: &orderv1.Order{Id: "ord_2", Status: "failed"}})
	s.agree("order", contracttest.GRPC{
		Name: "cancelling an order that failed", Given: customer.And("an order that failed"), Method: orderv1.OrderService_CancelOrder_FullMethodName, Request: match.Object{"id": match.FromState("${order}", "ord_2")},
		Refusal: refusal(codes.Aborted, 409, "ORDER_NOT_CANCELLABLE"),
	}, visit{path: "/orders/ord_2/cancel", form: url.Values{}, code: 409, says: []string{"What is wrong."}})

	s.agreeWithTheGateway(mug)
}

var source = regexp.MustCompile(`<img [^>]*src="(/images/[^"]+)"`)

// agreeWithTheGateway is about what the pages have browsers ask the public address
// for: they are served beside the REST API, and call services themselves.
func (s *site) agreeWithTheGateway(mug *catalogv1.Product) {
	s.t.Helper()
	s.peers.Answer(catalogv1.CatalogService_GetProduct_FullMethodName, &catalogv1.GetProductResponse{Product: mug})
	consumer := contracttest.Consumer{Name: s.name, Provider: "gateway", Dir: pacts}
	get := func(ctx context.Context, address string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(address, s.url) {
			req.AddCookie(s.cookie)
		}
		return (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	}
	consumer.REST(s.t, contracttest.REST{
		Name: "the picture of a product", Given: contracttest.Given("a product on sale", mugOnSale), Request: contracttest.Request{Path: "/images/mug.svg"},
		Response: contracttest.Response{Headers: map[string]any{"Content-Type": match.Regex("image/svg+xml", `image/svg\+xml.*`)}},
	}, func(ctx context.Context, public string) error {
		page, err := get(ctx, s.url+"/products/mug")
		if err != nil {
			return err
		}
		defer func() { _ = page.Body.Close() }()
		html, err := io.ReadAll(page.Body)
		if err != nil {
			return err
		}
		src := source.FindSubmatch(html)
		if src == nil {
			return fmt.Errorf("the page has no picture: %s", html)
		}
		picture, err := get(ctx, public+string(src[1]))
		if err != nil {
			return err
		}
		_ = picture.Body.Close()
		if picture.StatusCode != http.StatusOK || !strings.HasPrefix(picture.Header.Get("Content-Type"), "image/svg+xml") {
			return fmt.Errorf("the picture is %s, %s", picture.Status, picture.Header.Get("Content-Type"))
		}
		return nil
	})
}

func TestContractsOfTheConsole(t *testing.T) {
	s := contracting(t, "console", "shop:admin")
	s.peers.Answer(catalogv1.CatalogService_BatchGetProducts_FullMethodName, &catalogv1.BatchGetProductsResponse{})
	s.peers.Answer(notificationv1.NotificationService_ListNotifications_FullMethodName, &notificationv1.ListNotificationsResponse{})
	s.peers.Answer(inventoryv1.InventoryService_ListStock_FullMethodName, &inventoryv1.ListStockResponse{Stock: []*inventoryv1.Stock{{ProductId: "mug"}}})

	bought := operator.And("a customer's order")
	status := match.Enum("pending", "confirmed", "failed", "cancelled", "refunded")
	order := match.Object{"id": match.Like("ord_1"), "status": status, "total": amount, "created_at": match.Time(when.AsTime())}
	s.agree("order", contracttest.GRPC{
		Name: "listing everybody's orders", Given: bought, Method: orderv1.OrderAdminService_AdminListOrders_FullMethodName, Request: &orderv1.AdminListOrdersRequest{PageSize: 50},
		Response: match.Object{
			"orders": match.EachLike(match.Object{"order": order, "user_id": match.Like("ann"), "saga_state": match.Like("completed"), "saga_step": match.Like("")}),
			"counts": match.MapLike("confirmed", match.Integer(1)), "next_page_token": match.Like(""),
		},
	}, visit{path: "/orders", says: []string{"ord_1"}})
	whole := maps.Clone(order)
	maps.Copy(whole, match.Object{
		"updated_at": match.Time(when.AsTime()), "failure_reason": match.Like(""),
		"items": match.EachLike(match.Object{"product_id": match.Like("mug"), "quantity": match.Integer(2), "unit_price": amount, "name": match.Like("A mug")}),
	})
	s.agree("order", contracttest.GRPC{
		Name: "showing an order's timeline", Given: bought, Method: orderv1.OrderAdminService_GetTimeline_FullMethodName, Request: match.Object{"order_id": match.FromState("${order}", "ord_1")},
		Response: match.Object{
			"order": match.Object{"order": whole, "user_id": match.Like("ann"), "saga_state": match.Like("completed")},
			"entries": match.EachLike(match.Object{
				"at": match.Time(when.AsTime()), "saga_id": match.Like("ord_1"), "step": match.Like(""), "what": match.Like("started"), "attempt": match.Integer(1), "detail": match.Like(""),
			}),
			"trace_id": match.Like(""), "correlation_id": match.Like("c-1"),
		},
	}, visit{path: "/orders/ord_1", says: []string{"started", "A mug"}})
	s.agree("order", contracttest.GRPC{
		Name: "resolving a saga that is not there", Given: operator, Method: orderv1.OrderAdminService_ResolveSaga_FullMethodName, Request: &orderv1.ResolveSagaRequest{SagaId: "ord_none", Act: "retry", Reason: "the bank is back"},
		Refusal: refusal(codes.NotFound, 404, "SAGA_NOT_FOUND"),
	}, visit{path: "/orders/ord_none/resolve", form: url.Values{"saga": {"ord_none"}, "act": {"retry"}, "reason": {"the bank is back"}}, code: 404})

	stocked := operator.And("a product on sale", mugOnSale)
	s.agree("inventory", contracttest.GRPC{
		Name: "listing the stock", Given: stocked, Method: inventoryv1.InventoryService_ListStock_FullMethodName, Request: &inventoryv1.ListStockRequest{PageSize: 50},
		Response: match.Object{"stock": match.EachLike(match.Object{
			"product_id": match.Like("mug"), "on_hand": match.Integer(9), "reserved": match.Integer(0), "available": match.Integer(9),
		}), "next_page_token": match.Like("")},
	}, visit{path: "/stock", says: []string{"mug"}})
	adjust := func(delta string) url.Values {
		return url.Values{"delta": {delta}, "reason": {"broken"}, "key": {idempotency.NewKey()}}
	}
	s.agree("inventory", contracttest.GRPC{
		Name: "adjusting a stock", Given: stocked, Method: inventoryv1.InventoryService_AdjustStock_FullMethodName, Request: &inventoryv1.AdjustStockRequest{ProductId: "mug", Delta: 2, Reason: "broken"}, Response: match.Object{},
	}, visit{path: "/stock/mug", form: adjust("2"), to: "/stock?done=mug"})
	s.agree("inventory", contracttest.GRPC{
		Name: "taking away more than there is", Given: stocked, Method: inventoryv1.InventoryService_AdjustStock_FullMethodName, Request: &inventoryv1.AdjustStockRequest{ProductId: "mug", Delta: -1000000, Reason: "broken"},
		Refusal: refusal(codes.Aborted, 409, "STOCK_PROMISED"),
	}, visit{path: "/stock/mug", form: adjust("-1000000"), code: 409, says: []string{"What is wrong."}})
	s.agree("catalog", contracttest.GRPC{
		Name: "naming products", Given: contracttest.Given("a product on sale", mugOnSale), Method: catalogv1.CatalogService_BatchGetProducts_FullMethodName, Request: &catalogv1.BatchGetProductsRequest{Ids: []string{"mug"}},
		Response: match.Object{"products": match.EachLike(match.Object{"id": match.Like("mug"), "name": match.Like("A mug")})},
	}, visit{path: "/stock", says: []string{"A mug"}})
	s.agree("notification", contracttest.GRPC{
		Name: "listing what was told to customers", Given: operator.And("a customer who was told"), Method: notificationv1.NotificationService_ListNotifications_FullMethodName, Request: &notificationv1.ListNotificationsRequest{PageSize: 50},
		Response: match.Object{"notifications": match.EachLike(match.Object{
			"id": match.Like("ntf_1"), "user_id": match.Like("ann"), "order_id": match.Like("ord_1"), "channel": match.Enum("email", "sms", "push"), "kind": match.Regex("order-confirmed", "order-.+"),
			"status": match.Enum("pending", "sent", "undeliverable"), "subject": match.Like("Your order"), "attempts": match.Integer(1), "created_at": match.Time(when.AsTime()),
		}), "next_page_token": match.Like("")},
	}, visit{path: "/notifications", says: []string{"Order confirmed"}})

	for _, name := range everybody {
		if name == "auth" { // hears of nothing
			continue
		}
		given := operator.And("an event that was given up")
		s.agree(name, contracttest.GRPC{
			Name: "listing dead letters", Given: given, Method: deadletterv1.DeadLetterService_ListDeadLetters_FullMethodName, Request: &deadletterv1.ListDeadLettersRequest{},
			Response: match.Object{"total": match.Integer(1), "dead_letters": match.EachLike(match.Object{
				"id": match.Regex("1", `\d+`), "state": match.Enum("dead", "parked", "redrive"), "topic": match.Like("order"), "key": match.Like("k"), "event_id": match.Like("e"),
				"type": match.Like("shop.v1.Event"), "cause": match.Like("it cannot be decoded"), "attempts": match.Integer(1), "created_at": match.Time(when.AsTime()),
				"history": match.EachLike(match.Object{"at": match.Time(when.AsTime()), "cause": match.Like("it cannot be decoded")}),
			})},
		}, visit{path: "/letters", says: []string{"it cannot be decoded"}})
		act := url.Values{"act": {"drop"}, "reason": {"it is nothing"}}
		s.agree(name, contracttest.GRPC{
			Name: "dropping a dead letter", Given: given, Method: deadletterv1.DeadLetterService_DropDeadLetter_FullMethodName,
			Request: match.Object{"id": match.FromState("${letter}", "1"), "reason": "it is nothing"}, Response: match.Object{},
		}, visit{path: "/letters/" + name + "/1", form: act, to: "/letters?done=drop"})
		s.peers.Answer(deadletterv1.DeadLetterService_ListDeadLetters_FullMethodName, &deadletterv1.ListDeadLettersResponse{})
		s.agree(name, contracttest.GRPC{
			Name: "dropping a dead letter that is not there", Given: operator, Method: deadletterv1.DeadLetterService_DropDeadLetter_FullMethodName,
			Request: match.Object{"id": "999999", "reason": "it is nothing"}, Refusal: refusal(codes.Aborted, 409, "NOT_DEAD"),
		}, visit{path: "/letters/" + name + "/999999", form: act, code: 409, says: []string{"What is wrong."}})
		s.peers.Answer(deadletterv1.DeadLetterService_ListDeadLetters_FullMethodName, nil)
	}
}
