package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	"github.com/napkin-kit/napkin/examples/shop/client"
)

// What any client of the REST API relies on, as this one does.
func TestContractWithGateway(t *testing.T) {
	consumer := contracttest.Consumer{Name: "client", Provider: "gateway", Dir: "../contracts/pacts"}
	customer := contracttest.Given("a customer", contracttest.Params{"id": "ann"})
	mug := contracttest.Params{"id": "mug"}
	signedIn := map[string]any{"Authorization": match.Bearer()}
	amount := match.Object{"amount_minor": match.Integer(1290), "currency": match.Regex("EUR", "[A-Z]{3}")}
	order := match.Object{
		"id": match.Like("ord_1"), "status": match.Enum("pending", "confirmed", "failed", "cancelled", "refunded"), "total": amount, "failure_reason": match.Like(""),
		"items": match.EachLike(match.Object{"product_id": match.Like("mug"), "quantity": match.Integer(2), "unit_price": amount}),
	}
	read := func(o client.Order, err error) error {
		if err == nil && (o.ID != "ord_1" || o.Status != "pending" || o.Total.AmountMinor != 1290 || len(o.Items) != 1 || o.Items[0].UnitPrice.Currency != "EUR") {
			err = fmt.Errorf("the order is %+v", o)
		}
		return err
	}
	problem := func(code string) contracttest.Response {
		return contracttest.Response{
			ContentType: "application/problem+json",
			Body:        match.Object{"title": match.Like("Something"), "detail": match.Like("what is wrong"), "code": code},
		}
	}
	refused := func(err error, status int, code string) error {
		if e := (*client.Error)(nil); !errors.As(err, &e) || e.Status != status || e.Code != code {
			return fmt.Errorf("got %w", err)
		}
		return nil
	}
	agree := func(c contracttest.REST, call func(context.Context, *client.Client) error) {
		t.Helper()
		consumer.REST(t, c, func(ctx context.Context, base string) error {
			api := client.Anonymous(base)
			if c.Request.Headers["Authorization"] != nil {
				api = api.WithToken("token")
			}
			return call(ctx, api)
		})
	}

	agree(contracttest.REST{
		Name: "registering an account", Given: contracttest.Given("an e-mail address without an account"),
		Request: contracttest.Request{Method: "POST", Path: "/v1/users", Body: match.Object{
			"email": match.FromState("${email}", "ann@example.com"), "password": "correct horse", "name": "Ann",
		}},
		Response: contracttest.Response{Status: 201, Body: match.Object{"id": match.Like("usr_1")}},
	}, func(ctx context.Context, c *client.Client) error {
		id, err := c.Register(ctx, "ann@example.com", "correct horse", "Ann")
		if err == nil && id != "usr_1" {
			err = fmt.Errorf("the account is %q", id)
		}
		return err
	})
	invalid := problem("invalid_argument")
	invalid.Status = 400
	invalid.Body.(match.Object)["errors"] = match.EachLike(match.Object{"field": "password", "message": match.Like("is wrong")})
	agree(contracttest.REST{
		Name:     "registering with a password that is too short",
		Request:  contracttest.Request{Method: "POST", Path: "/v1/users", Body: match.Object{"email": "ann@example.com", "password": "short", "name": "Ann"}},
		Response: invalid,
	}, func(ctx context.Context, c *client.Client) error {
		_, err := c.Register(ctx, "ann@example.com", "short", "Ann")
		if e := (*client.Error)(nil); errors.As(err, &e) && (len(e.Fields) != 1 || e.Fields[0].Field != "password") {
			return fmt.Errorf("the fields are %+v", e.Fields)
		}
		return refused(err, 400, "invalid_argument")
	})

	agree(contracttest.REST{
		Name: "searching the catalogue", Given: contracttest.Given("a product on sale", mug),
		Request: contracttest.Request{Path: "/v1/products", Query: map[string]any{"q": "mug", "page_size": "5"}},
		Response: contracttest.Response{
			Headers: map[string]any{"ETag": match.Regex(`"v1"`, `(W/)?".+"`)},
			Body: match.Object{"products": match.EachLike(match.Object{
				"id": match.Like("mug"), "name": match.Like("A mug"), "category": match.Like("Kitchen"), "price": amount, "in_stock": match.Bool(true),
			}), "next_page_token": match.Like("")},
		},
	}, func(ctx context.Context, c *client.Client) error {
		products, err := c.Products(ctx, url.Values{"q": {"mug"}, "page_size": {"5"}})
		if err == nil && (len(products) != 1 || products[0].ID != "mug" || products[0].Price.AmountMinor != 1290) {
			err = fmt.Errorf("the products are %+v", products)
		}
		return err
	})

	agree(contracttest.REST{
		Name: "keeping a card", Given: customer,
		Request: contracttest.Request{Method: "POST", Path: "/v1/payment-methods", Headers: signedIn, Body: match.Object{
			"card_number": "4242424242424242", "exp_month": 12, "exp_year": match.Integer(2099), "cvc": "123",
		}},
		Response: contracttest.Response{Status: 201, Body: match.Object{"id": match.Like("pm_1")}},
	}, func(ctx context.Context, c *client.Client) error {
		id, err := c.AddCard(ctx, "4242424242424242")
		if err == nil && id != "pm_1" {
			err = fmt.Errorf("the payment method is %q", id)
		}
		return err
	})

	keyed := map[string]any{"Authorization": match.Bearer(), "Idempotency-Key": match.FromState("${key}", "key-1")}
	accepted := contracttest.Response{Status: 202, Headers: map[string]any{"Location": match.Regex("/v1/orders/ord_1", "/v1/orders/.+")}, Body: order}
	payer := customer.And("a product on sale", mug).And("a card", contracttest.Params{"number": "4242424242424242"})
	agree(contracttest.REST{
		Name: "placing an order", Given: payer,
		Request: contracttest.Request{Method: "POST", Path: "/v1/orders", Headers: keyed, Body: match.Object{
			"payment_method_id": match.FromState("${card}", "pm_1"), "items": match.Array{match.Object{"product_id": "mug", "quantity": 2}},
		}},
		Response: accepted,
	}, func(ctx context.Context, c *client.Client) error {
		return read(c.PlaceOrder(ctx, "key-1", "pm_1", client.Line{ProductID: "mug", Quantity: 2}))
	})
	agree(contracttest.REST{
		Name: "placing an order of the cart", Given: payer.And("a cart", contracttest.Params{"product": "mug", "quantity": 2}),
		Request: contracttest.Request{Method: "POST", Path: "/v1/orders", Headers: keyed, Body: match.Object{"payment_method_id": match.FromState("${card}", "pm_1")}}, Response: accepted,
	}, func(ctx context.Context, c *client.Client) error { return read(c.PlaceOrder(ctx, "key-1", "pm_1")) })
	bought := customer.And("an order")
	agree(contracttest.REST{
		Name: "reading an order", Given: bought,
		Request: contracttest.Request{Path: match.FromState("/v1/orders/${order}", "/v1/orders/ord_1"), Headers: signedIn}, Response: contracttest.Response{Body: order},
	}, func(ctx context.Context, c *client.Client) error { return read(c.Order(ctx, "ord_1")) })
	missing := problem("order_not_found")
	missing.Status = 404
	agree(contracttest.REST{
		Name: "reading an order that is not there", Given: customer, Request: contracttest.Request{Path: "/v1/orders/ord_none", Headers: signedIn}, Response: missing,
	}, func(ctx context.Context, c *client.Client) error {
		_, err := c.Order(ctx, "ord_none")
		return refused(err, 404, "order_not_found")
	})
	agree(contracttest.REST{
		Name: "reading an order without a token", Request: contracttest.Request{Path: "/v1/orders/ord_1"}, Response: contracttest.Response{Status: 401},
	}, func(ctx context.Context, c *client.Client) error {
		if _, err := c.Order(ctx, "ord_1"); err == nil {
			return errors.New("a stranger was answered")
		}
		return nil
	})
	agree(contracttest.REST{
		Name: "cancelling an order", Given: bought,
		Request: contracttest.Request{
			Method: "POST", Path: match.FromState("/v1/orders/${order}/cancel", "/v1/orders/ord_1/cancel"), Headers: signedIn, Body: match.Object{"reason": "changed my mind"},
		},
		Response: contracttest.Response{Body: order},
	}, func(ctx context.Context, c *client.Client) error { return read(c.Cancel(ctx, "ord_1")) })
	agree(contracttest.REST{
		Name: "following an order", Given: customer.And("an order that failed"),
		Request: contracttest.Request{
			Path: match.FromState("/v1/orders/${order}/events", "/v1/orders/ord_1/events"), Headers: map[string]any{"Authorization": match.Bearer(), "Accept": "text/event-stream"},
		},
		Response: contracttest.Response{Headers: map[string]any{"Content-Type": match.Regex("text/event-stream", "text/event-stream.*")}},
	}, func(ctx context.Context, c *client.Client) error {
		return c.Watch(ctx, "ord_1", func(client.Order) bool { return true })
	})
}
