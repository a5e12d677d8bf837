// Package client is a small Go client of the store's public REST API. `shop token`, the end-to-end
// suite, the crash harness and the load generator all use it, so they see what any client sees.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// Client calls one store as one user. It is safe for concurrent use.
type Client struct {
	base  string
	http  *http.Client
	token oauth2.TokenSource
}

// Anonymous returns a client that is not signed in.
func Anonymous(base string) *Client {
	return &Client{base: strings.TrimRight(base, "/"), http: &http.Client{Timeout: 30 * time.Second, Transport: patient{}}}
}

// WithToken returns a client that presents this access token.
func (c *Client) WithToken(token string) *Client {
	d := *c
	d.token = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})
	return &d
}

// Token returns a valid access token, refreshed where needed.
func (c *Client) Token() (*oauth2.Token, error) { return c.token.Token() }

// Money is an amount in the currency's smallest unit.
type Money struct {
	AmountMinor int64  `json:"amount_minor"`
	Currency    string `json:"currency"`
}

// Line is a product and a quantity.
type Line struct {
	ProductID string `json:"product_id"`
	Quantity  int    `json:"quantity"`
}

// Product is one of the catalogue's.
type Product struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Category string `json:"category"`
	Price    Money  `json:"price"`
	InStock  bool   `json:"in_stock"`
}

// Order is an order as its customer sees it.
type Order struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Items  []struct {
		ProductID string `json:"product_id"`
		Quantity  int    `json:"quantity"`
		UnitPrice Money  `json:"unit_price"`
	} `json:"items"`
	Total         Money  `json:"total"`
	FailureReason string `json:"failure_reason"`
}

// Ended reports whether the order has reached a state that only a refund changes.
func (o Order) Ended() bool { return o.Status != "" && o.Status != "pending" }

// Error is a problem document (RFC 9457) that the store answered.
type Error struct {
	Status     int
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	Code       string `json:"code"`
	RetryAfter time.Duration
	Fields     []struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	} `json:"errors"`
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%d %s: %s", e.Status, e.Title, e.Detail)
	for _, f := range e.Fields {
		s += "; " + f.Field + ": " + f.Message
	}
	return s
}

// Do sends a request with a JSON body (nil for none) and decodes the JSON answer into out (nil to drop it).
// The response's header is returned also with an error. A status of 400 or above is an *Error.
func (c *Client) Do(ctx context.Context, method, path string, header http.Header, in, out any) (http.Header, error) {
	var body io.Reader
	if in != nil {
		raw, ok := in.([]byte)
		if !ok {
			var err error
			if raw, err = json.Marshal(in); err != nil {
				return nil, err
			}
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if in != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := c.authorize(req); err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return resp.Header, err
	}
	if resp.StatusCode >= 400 {
		e := &Error{Title: resp.Status}
		if json.Unmarshal(raw, e) != nil {
			e.Detail = string(raw[:min(len(raw), 200)])
		}
		e.Status = resp.StatusCode
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			e.RetryAfter = time.Duration(s) * time.Second
		}
		return resp.Header, e
	}
	if out == nil || len(raw) == 0 {
		return resp.Header, nil
	}
	return resp.Header, json.Unmarshal(raw, out)
}

func (c *Client) authorize(req *http.Request) error {
	if c.token == nil {
		return nil
	}
	t, err := c.token.Token()
	if err != nil {
		return fmt.Errorf("refresh the token: %w", err)
	}
	t.SetAuthHeader(req)
	return nil
}

// Register creates an account and returns its id.
func (c *Client) Register(ctx context.Context, email, password, name string) (string, error) {
	var out struct {
		ID string `json:"id"`
	}
	_, err := c.Do(ctx, http.MethodPost, "/v1/users", nil, map[string]string{"email": email, "password": password, "name": name}, &out)
	return out.ID, err
}

// Products searches the catalogue; query is the API's own ("q", "category", "page_size", …).
func (c *Client) Products(ctx context.Context, query url.Values) ([]Product, error) {
	var out struct {
		Products []Product `json:"products"`
	}
	_, err := c.Do(ctx, http.MethodGet, "/v1/products?"+query.Encode(), nil, nil, &out)
	return out.Products, err
}

// AddCard stores a card and returns the payment method's id.
func (c *Client) AddCard(ctx context.Context, number string) (string, error) {
	var out struct {
		ID string `json:"id"`
	}
	_, err := c.Do(ctx, http.MethodPost, "/v1/payment-methods", nil, map[string]any{
		"card_number": number, "exp_month": 12, "exp_year": time.Now().Year() + 3, "cvc": "123",
	}, &out)
	return out.ID, err
}

// PlaceOrder sends an order under an idempotency key. No lines means the cart.
func (c *Client) PlaceOrder(ctx context.Context, key, paymentMethod string, lines ...Line) (Order, error) {
	in := map[string]any{"payment_method_id": paymentMethod}
	if len(lines) > 0 {
		in["items"] = lines
	}
	var o Order
	_, err := c.Do(ctx, http.MethodPost, "/v1/orders", http.Header{"Idempotency-Key": {key}}, in, &o)
	return o, err
}

// Order reads one order.
func (c *Client) Order(ctx context.Context, id string) (Order, error) {
	var o Order
	_, err := c.Do(ctx, http.MethodGet, "/v1/orders/"+url.PathEscape(id), nil, nil, &o)
	return o, err
}

// Cancel asks for an order to be cancelled or, once paid, refunded.
func (c *Client) Cancel(ctx context.Context, id string) (Order, error) {
	var o Order
	_, err := c.Do(ctx, http.MethodPost, "/v1/orders/"+url.PathEscape(id)+"/cancel", nil, map[string]string{"reason": "changed my mind"}, &o)
	return o, err
}

// Watch follows an order's server-sent events and calls each for every state that it is sent,
// until the order has ended, each returns false, or ctx ends.
func (c *Client) Watch(ctx context.Context, id string, each func(Order) bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/orders/"+url.PathEscape(id)+"/events", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if err := c.authorize(req); err != nil {
		return err
	}
	stream := *c.http
	stream.Timeout = 0 // the context bounds it
	resp, err := stream.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &Error{Status: resp.StatusCode, Title: resp.Status}
	}
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		data, ok := strings.CutPrefix(sc.Text(), "data:")
		if !ok {
			continue
		}
		var o Order
		if err := json.Unmarshal([]byte(data), &o); err != nil {
			return fmt.Errorf("order event: %w", err)
		}
		if !each(o) || o.Ended() {
			return nil
		}
	}
	return ctx.Err()
}

// AwaitOrder waits until the order has ended, by asking: it also works while the store restarts.
func (c *Client) AwaitOrder(ctx context.Context, id string) (Order, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last Order
	for {
		o, err := c.Order(ctx, id)
		if err == nil {
			last = o
			if o.Ended() {
				return o, nil
			}
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("order %s is still %q: %w (last answer: %w)", id, last.Status, ctx.Err(), err)
		case <-tick.C:
		}
	}
}
