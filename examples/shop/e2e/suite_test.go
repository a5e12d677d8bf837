// Package e2e drives the whole store by its public API. The same suite runs against the store in one
// process and against nine processes on PostgreSQL.
package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/client"
)

const (
	cardOK        = "4242424242424242"
	cardDeclined  = "4000000000000002"
	cardNoFunds   = "4000000000009995"
	cardAmbiguous = "4000000000000119"
	cardLate      = "4000000000000259"
	cardNoRefund  = "4000000000005126"
)

// target is a running store.
type target struct {
	base          string
	adminEmail    string
	adminPassword string
	demoEmail     string
	demoPassword  string
}

type suite struct {
	target
	admin *client.Client
}

func newSuite(t *testing.T, tg target) *suite {
	admin, err := client.SignIn(t.Context(), tg.base, tg.adminEmail, tg.adminPassword, append(client.CustomerScopes, "shop:admin")...)
	if err != nil {
		t.Fatal(err)
	}
	return &suite{target: tg, admin: admin}
}

// run is the suite.
func (s *suite) run(t *testing.T) {
	for _, tc := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Browse", s.browse},
		{"CartTotals", s.cartTotals},
		{"OrderIsConfirmed", s.orderIsConfirmed},
		{"OrderOfTheCart", s.orderOfTheCart},
		{"DeclinedCardFails", s.declinedCardFails},
		{"AmbiguousProviderStillEnds", s.ambiguousProvider},
		{"LateCaptureConfirms", s.lateCapture},
		{"IdempotencyKey", s.idempotencyKey},
		{"ConcurrentDuplicates", s.concurrentDuplicates},
		{"LastItemSellsOnce", s.lastItem},
		{"CancelRefunds", s.cancelRefunds},
		{"RefundSurvivesAFailingProvider", s.refundRetried},
		{"AnotherCustomersOrder", s.anotherCustomersOrder},
		{"BadInput", s.badInput},
		{"HostileTokens", s.hostileTokens},
		{"Profile", s.profile},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.test(t)
		})
	}
}

// customer registers someone new and signs in.
func (s *suite) customer(t *testing.T) *client.Client {
	t.Helper()
	email := fmt.Sprintf("c-%s@example.test", strings.ToLower(rand.Text()[:12]))
	if _, err := client.Anonymous(s.base).Register(t.Context(), email, "correct horse battery", "Test Customer"); err != nil {
		t.Fatalf("register: %v", err)
	}
	c, err := client.SignIn(t.Context(), s.base, email, "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// product creates a product with this much stock and waits until it can be bought.
func (s *suite) product(t *testing.T, stock int) client.Product {
	t.Helper()
	var p client.Product
	_, err := s.admin.Do(t.Context(), http.MethodPost, "/v1/admin/products", nil, map[string]any{
		"name": "Test kettle " + rand.Text()[:8], "description": "Boils.", "category": "Kitchen",
		"price": map[string]any{"amount_minor": 2599, "currency": "EUR"}, "initial_stock": stock,
	}, &p)
	if err != nil {
		t.Fatalf("create product: %v", err)
	}
	if stock > 0 {
		eventually(t, func() error {
			var got client.Product
			if _, err := s.admin.Do(t.Context(), http.MethodGet, "/v1/products/"+p.ID, nil, nil, &got); err != nil {
				return err
			}
			if !got.InStock {
				return errors.New("not in stock yet")
			}
			return nil
		})
	}
	return p
}

func (s *suite) card(t *testing.T, c *client.Client, number string) string {
	t.Helper()
	id, err := c.AddCard(t.Context(), number)
	if err != nil {
		t.Fatalf("add card: %v", err)
	}
	return id
}

func (s *suite) place(t *testing.T, c *client.Client, card string, lines ...client.Line) client.Order {
	t.Helper()
	o, err := c.PlaceOrder(t.Context(), rand.Text(), card, lines...)
	if err != nil {
		t.Fatalf("place order: %v", err)
	}
	return o
}

func await(t *testing.T, c *client.Client, id string) client.Order {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	o, err := c.AwaitOrder(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// eventually waits for a condition of an eventually consistent view.
func eventually(t *testing.T, ok func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within 30 s: %v", err)
		case <-tick.C:
		}
	}
}

func (s *suite) available(t *testing.T, productID string) (onHand, reserved int) {
	t.Helper()
	var st struct {
		OnHand   int `json:"on_hand"`
		Reserved int `json:"reserved"`
	}
	// An adjustment by nothing reads the level.
	if _, err := s.admin.Do(t.Context(), http.MethodPost, "/v1/admin/stock/"+productID, nil, map[string]any{"delta": 0}, &st); err != nil {
		t.Fatalf("read stock: %v", err)
	}
	return st.OnHand, st.Reserved
}

func wantStatus(t *testing.T, err error, status int, what string) *client.Error {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: got %v, want a %d problem", what, err, status)
		return &client.Error{}
	}
	if e.Status != status {
		t.Errorf("%s: got %v, want %d", what, e, status)
	}
	return e
}

func (s *suite) browse(t *testing.T) {
	c := client.Anonymous(s.base)
	all, err := c.Products(t.Context(), url.Values{"page_size": {"50"}})
	if err != nil || len(all) != 50 {
		t.Fatalf("50 seeded products expected on a page, got %d, %v", len(all), err)
	}
	var page struct {
		Products []client.Product `json:"products"`
		Next     string           `json:"next_page_token"`
		Total    int              `json:"total"`
		Facets   []struct {
			Field  string `json:"field"`
			Values []struct {
				Value string `json:"value"`
				Count int    `json:"count"`
			} `json:"values"`
		} `json:"facets"`
	}
	q := url.Values{"q": {strings.Fields(all[0].Name)[0]}, "in_stock": {"false"}}
	if _, err := c.Do(t.Context(), http.MethodGet, "/v1/products?"+q.Encode(), nil, nil, &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Products) == 0 || len(page.Facets) == 0 {
		t.Errorf("a search for %q found %d products and %d facets", q.Get("q"), len(page.Products), len(page.Facets))
	}
	seen := map[string]bool{}
	token := ""
	for range 40 {
		q := url.Values{"category": {all[0].Category}, "page_size": {"7"}, "sort": {"price"}, "page_token": {token}}
		page.Products, page.Next = nil, ""
		if _, err := c.Do(t.Context(), http.MethodGet, "/v1/products?"+q.Encode(), nil, nil, &page); err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Products {
			if seen[p.ID] || p.Category != all[0].Category {
				t.Errorf("%s twice, or of category %q", p.ID, p.Category)
			}
			seen[p.ID] = true
		}
		if token = page.Next; token == "" {
			break
		}
	}
	if len(seen) < 7 || len(seen) != page.Total {
		t.Errorf("paging gave %d products of %d", len(seen), page.Total)
	}
	h, err := c.Do(t.Context(), http.MethodGet, "/v1/products/"+all[0].ID, nil, nil, nil)
	if err != nil || h.Get("ETag") == "" || !strings.Contains(h.Get("Cache-Control"), "max-age") {
		t.Fatalf("a product answers with ETag and Cache-Control; got %v, %v", h, err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+"/v1/products/"+all[0].ID, nil)
	req.Header.Set("If-None-Match", h.Get("ETag"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotModified {
		t.Errorf("a known ETag answers %d, want 304", resp.StatusCode)
	}
}

type cart struct {
	Items    []json.RawMessage `json:"items"`
	Subtotal client.Money      `json:"subtotal"`
	Discount client.Money      `json:"discount"`
	Total    client.Money      `json:"total"`
}

func (s *suite) cartTotals(t *testing.T) {
	c, p := s.customer(t), s.product(t, 10)
	var got cart
	if _, err := c.Do(t.Context(), http.MethodPut, "/v1/cart/items/"+p.ID, nil, map[string]any{"quantity": 3}, &got); err != nil {
		t.Fatal(err)
	}
	if got.Total.AmountMinor != 3*2599 || got.Total.Currency != "EUR" {
		t.Errorf("3 × 25.99 = %+v", got.Total)
	}
	if _, err := c.Do(t.Context(), http.MethodPost, "/v1/cart/coupon", nil, map[string]any{"code": "NAPKIN10"}, &got); err != nil {
		t.Fatal(err)
	}
	if got.Total.AmountMinor+got.Discount.AmountMinor != got.Subtotal.AmountMinor || got.Discount.AmountMinor != 779 && got.Discount.AmountMinor != 780 {
		t.Errorf("10 %% off 77.97: %+v", got)
	}
	_, err := c.Do(t.Context(), http.MethodPost, "/v1/cart/coupon", nil, map[string]any{"code": "NOSUCH"}, nil)
	var e *client.Error
	if !errors.As(err, &e) || e.Status >= 500 || e.Status < 400 {
		t.Errorf("an unknown coupon: %v", err)
	}
	if _, err := c.Do(t.Context(), http.MethodDelete, "/v1/cart/items/"+p.ID, nil, nil, &got); err != nil || len(got.Items) != 0 {
		t.Errorf("after removing the only item: %+v, %v", got, err)
	}
}

func (s *suite) orderIsConfirmed(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	o := s.place(t, c, s.card(t, c, cardOK), client.Line{ProductID: p.ID, Quantity: 2})
	if o.Status != "pending" || o.Total.AmountMinor != 2*2599 {
		t.Errorf("accepted as %+v", o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var last client.Order
	states := 0
	if err := c.Watch(ctx, o.ID, func(o client.Order) bool { last, states = o, states+1; return true }); err != nil {
		t.Fatal(err)
	}
	if last.Status != "confirmed" {
		t.Fatalf("the live view ended at %+v", last)
	}
	if got, _ := s.available(t, p.ID); got != 3 {
		t.Errorf("2 of 5 sold, %d on hand", got)
	}
	var list struct {
		Orders []client.Order `json:"orders"`
	}
	if _, err := c.Do(t.Context(), http.MethodGet, "/v1/orders", nil, nil, &list); err != nil || len(list.Orders) != 1 || list.Orders[0].ID != o.ID {
		t.Errorf("order history: %+v, %v", list, err)
	}
}

func (s *suite) orderOfTheCart(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	if _, err := c.Do(t.Context(), http.MethodPut, "/v1/cart/items/"+p.ID, nil, map[string]any{"quantity": 1}, nil); err != nil {
		t.Fatal(err)
	}
	card, key := s.card(t, c, cardOK), rand.Text()
	first, err := c.PlaceOrder(t.Context(), key, card)
	if err != nil {
		t.Fatal(err)
	}
	if o := await(t, c, first.ID); o.Status != "confirmed" {
		t.Fatalf("%+v", o)
	}
	eventually(t, func() error {
		var got cart
		if _, err := c.Do(t.Context(), http.MethodGet, "/v1/cart", nil, nil, &got); err != nil {
			return err
		}
		if len(got.Items) != 0 {
			return errors.New("the cart is not emptied")
		}
		return nil
	})
	again, err := c.PlaceOrder(t.Context(), key, card)
	if err != nil || again.ID != first.ID {
		t.Errorf("the same key after the cart was emptied: %+v, %v", again, err)
	}
	_, err = c.PlaceOrder(t.Context(), rand.Text(), card)
	var e *client.Error
	if !errors.As(err, &e) || e.Status < 400 || e.Status >= 500 {
		t.Errorf("an order of an empty cart: %v", err)
	}
}

func (s *suite) declinedCardFails(t *testing.T) {
	for _, number := range []string{cardDeclined, cardNoFunds} {
		c, p := s.customer(t), s.product(t, 5)
		o := await(t, c, s.place(t, c, s.card(t, c, number), client.Line{ProductID: p.ID, Quantity: 2}).ID)
		if o.Status != "failed" || o.FailureReason == "" {
			t.Errorf("card %s: %+v", number, o)
		}
		eventually(t, func() error {
			if onHand, reserved := s.available(t, p.ID); onHand != 5 || reserved != 0 {
				return fmt.Errorf("%d on hand, %d reserved", onHand, reserved)
			}
			return nil
		})
	}
}

func (s *suite) ambiguousProvider(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	o := await(t, c, s.place(t, c, s.card(t, c, cardAmbiguous), client.Line{ProductID: p.ID, Quantity: 1}).ID)
	if o.Status != "confirmed" && o.Status != "failed" {
		t.Errorf("%+v", o)
	}
}

func (s *suite) lateCapture(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	if o := await(t, c, s.place(t, c, s.card(t, c, cardLate), client.Line{ProductID: p.ID, Quantity: 1}).ID); o.Status != "confirmed" {
		t.Errorf("%+v", o)
	}
}

func (s *suite) idempotencyKey(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	card, line := s.card(t, c, cardOK), client.Line{ProductID: p.ID, Quantity: 1}
	first, err := c.PlaceOrder(t.Context(), "k-1", card, line)
	if err != nil {
		t.Fatal(err)
	}
	var again client.Order
	h, err := c.Do(t.Context(), http.MethodPost, "/v1/orders", http.Header{"Idempotency-Key": {`"k-1"`}},
		map[string]any{"payment_method_id": card, "items": []client.Line{line}}, &again)
	if err != nil || again.ID != first.ID || h.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the same key, quoted: %+v, %v, Idempotent-Replayed %q", again, err, h.Get("Idempotent-Replayed"))
	}
	_, err = c.PlaceOrder(t.Context(), "k-1", card, client.Line{ProductID: p.ID, Quantity: 2})
	wantStatus(t, err, http.StatusUnprocessableEntity, "the same key with another body")
	_, err = c.Do(t.Context(), http.MethodPost, "/v1/orders", nil, map[string]any{"payment_method_id": card, "items": []client.Line{line}}, nil)
	wantStatus(t, err, http.StatusBadRequest, "no key")
	_, err = c.PlaceOrder(t.Context(), strings.Repeat("k", 10_000), card, line)
	wantStatus(t, err, http.StatusBadRequest, "a key of 10 kB")
	other := s.customer(t)
	theirs, err := other.PlaceOrder(t.Context(), "k-1", s.card(t, other, cardOK), line)
	if err != nil || theirs.ID == first.ID {
		t.Errorf("another customer's equal key is another key: %+v, %v", theirs, err)
	}
}

func (s *suite) concurrentDuplicates(t *testing.T) {
	c, p := s.customer(t), s.product(t, 50)
	card := s.card(t, c, cardOK)
	var mu sync.Mutex
	ids := map[string]int{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			o, err := c.PlaceOrder(t.Context(), "dup", card, client.Line{ProductID: p.ID, Quantity: 1})
			var e *client.Error
			if errors.As(err, &e) && e.Status == http.StatusConflict {
				return // still running: the client asks again later
			}
			if err != nil {
				t.Errorf("duplicate: %v", err)
				return
			}
			mu.Lock()
			ids[o.ID]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Fatalf("20 submits of one key made orders %v", ids)
	}
	for id := range ids {
		await(t, c, id)
	}
	if onHand, _ := s.available(t, p.ID); onHand != 49 {
		t.Errorf("one sold of 50, %d on hand", onHand)
	}
}

func (s *suite) lastItem(t *testing.T) {
	const buyers = 50
	p := s.product(t, 1)
	c := s.customer(t)
	card := s.card(t, c, cardOK)
	var wg sync.WaitGroup
	ids := make([]string, buyers)
	for i := range buyers {
		wg.Go(func() {
			for attempt := 0; ; attempt++ { // the key makes asking again safe
				o, err := c.PlaceOrder(t.Context(), fmt.Sprint("buyer-", i), card, client.Line{ProductID: p.ID, Quantity: 1})
				var e *client.Error
				if errors.As(err, &e) && (e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable) && attempt < 50 {
					<-time.After(max(e.RetryAfter, 100*time.Millisecond))
					continue
				}
				if err != nil {
					t.Errorf("buyer %d: %v", i, err)
				}
				ids[i] = o.ID
				return
			}
		})
	}
	wg.Wait()
	won := 0
	for _, id := range ids {
		if id == "" {
			continue
		}
		if await(t, c, id).Status == "confirmed" {
			won++
		}
	}
	if won != 1 {
		t.Errorf("the last item was sold %d times", won)
	}
	eventually(t, func() error {
		if onHand, reserved := s.available(t, p.ID); onHand != 0 || reserved != 0 {
			return fmt.Errorf("%d on hand, %d reserved", onHand, reserved)
		}
		return nil
	})
}

func (s *suite) cancelRefunds(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	o := await(t, c, s.place(t, c, s.card(t, c, cardOK), client.Line{ProductID: p.ID, Quantity: 2}).ID)
	if o.Status != "confirmed" {
		t.Fatalf("%+v", o)
	}
	if _, err := c.Cancel(t.Context(), o.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		got, err := c.Order(t.Context(), o.ID)
		if err == nil && got.Status != "refunded" {
			err = fmt.Errorf("status %s", got.Status)
		}
		return err
	})
	if onHand, _ := s.available(t, p.ID); onHand != 5 {
		t.Errorf("%d on hand after the refund", onHand)
	}
	// Straight after the order: before the pivot it is cancelled, after it refunded; never half.
	o = s.place(t, c, s.card(t, c, cardOK), client.Line{ProductID: p.ID, Quantity: 1})
	if _, err := c.Cancel(t.Context(), o.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		got, err := c.Order(t.Context(), o.ID)
		if err == nil && got.Status != "refunded" && got.Status != "cancelled" {
			err = fmt.Errorf("status %s", got.Status)
		}
		return err
	})
}

func (s *suite) refundRetried(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	o := await(t, c, s.place(t, c, s.card(t, c, cardNoRefund), client.Line{ProductID: p.ID, Quantity: 1}).ID)
	if o.Status != "confirmed" {
		t.Fatalf("%+v", o)
	}
	if _, err := c.Cancel(t.Context(), o.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		got, err := c.Order(t.Context(), o.ID)
		if err == nil && got.Status != "refunded" {
			err = fmt.Errorf("status %s", got.Status)
		}
		return err
	})
}

func (s *suite) anotherCustomersOrder(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	o := s.place(t, c, s.card(t, c, cardOK), client.Line{ProductID: p.ID, Quantity: 1})
	other := s.customer(t)
	_, err := other.Order(t.Context(), o.ID)
	wantStatus(t, err, http.StatusNotFound, "reading it")
	_, err = other.Cancel(t.Context(), o.ID)
	wantStatus(t, err, http.StatusNotFound, "cancelling it")
	err = other.Watch(t.Context(), o.ID, func(client.Order) bool { return true })
	wantStatus(t, err, http.StatusNotFound, "watching it")
	_, err = other.PlaceOrder(t.Context(), rand.Text(), s.card(t, c, cardOK), client.Line{ProductID: p.ID, Quantity: 1})
	var e *client.Error
	if !errors.As(err, &e) || e.Status < 400 || e.Status >= 500 {
		t.Errorf("paying with another customer's card: %v", err)
	}
}

func (s *suite) badInput(t *testing.T) {
	c, p := s.customer(t), s.product(t, 5)
	card := s.card(t, c, cardOK)
	key := func() http.Header { return http.Header{"Idempotency-Key": {rand.Text()}} }
	order := func(body any) error {
		_, err := c.Do(t.Context(), http.MethodPost, "/v1/orders", key(), body, nil)
		return err
	}
	line := func(q any) []any { return []any{map[string]any{"product_id": p.ID, "quantity": q}} }

	wantStatus(t, order([]byte(`{"payment_method_id": `)), 400, "malformed JSON")
	e := wantStatus(t, order(map[string]any{"payment_method_id": card, "items": line(1), "surprise": true}), 400, "unknown field")
	if !strings.Contains(e.Error(), "surprise") {
		t.Errorf("an unknown field is named: %v", e)
	}
	e = wantStatus(t, order(map[string]any{"payment_method_id": card, "items": []any{map[string]any{"product_id": p.ID, "quantity": 1, "unit_price": map[string]any{"amount_minor": 1}}}}), 400, "a price in the body")
	if !strings.Contains(e.Error(), "unit_price") {
		t.Errorf("the refused price is named: %v", e)
	}
	for _, q := range []any{-1, 0, 100, 1 << 40, 1.5, "many"} {
		wantStatus(t, order(map[string]any{"payment_method_id": card, "items": line(q)}), 400, fmt.Sprintf("quantity %v", q))
	}
	err := order(map[string]any{"payment_method_id": card, "items": []any{map[string]any{"product_id": "no-such-thing", "quantity": 1}}})
	var pe *client.Error
	if !errors.As(err, &pe) || pe.Status < 400 || pe.Status >= 500 {
		t.Errorf("an unknown product: %v", err)
	}
	wantStatus(t, order([]byte(`{"payment_method_id":"`+strings.Repeat("x", 10<<20)+`"}`)), 413, "a body of 10 MB")
	_, err = c.Do(t.Context(), http.MethodGet, "/v1/products?page_token=%ff%fe", nil, nil, nil)
	wantStatus(t, err, 400, "an invalid page token")
	_, err = c.Do(t.Context(), http.MethodGet, "/v1/products?page_size=-3", nil, nil, nil)
	wantStatus(t, err, 400, "a negative page size")
	_, err = c.Do(t.Context(), http.MethodGet, "/v1/products?nonsense=1", nil, nil, nil)
	wantStatus(t, err, 400, "an unknown query parameter")
	_, err = c.Do(t.Context(), http.MethodGet, "/v1/orders?page_token=abc", nil, nil, nil)
	wantStatus(t, err, 400, "an invalid page token of orders")
	_, err = c.Do(t.Context(), http.MethodPost, "/v1/payment-methods", nil, map[string]any{"card_number": "4242", "exp_month": 13, "exp_year": 2030, "cvc": "x"}, nil)
	e = wantStatus(t, err, 400, "a nonsense card")
	if len(e.Fields) < 3 {
		t.Errorf("each violated field is named: %v", e)
	}
	_, err = c.Do(t.Context(), http.MethodGet, "/v1/no/such/path", nil, nil, nil)
	wantStatus(t, err, 404, "an unknown path")
	_, err = c.Do(t.Context(), http.MethodPost, "/v1/admin/products", nil, map[string]any{"name": "x", "category": "x"}, nil)
	wantStatus(t, err, 403, "a customer as an operator")
	_, err = client.Anonymous(s.base).Do(t.Context(), http.MethodGet, "/v1/cart", nil, nil, nil)
	wantStatus(t, err, 401, "nobody's cart")

	u, err := url.Parse(s.base)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", u.Host, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A client that never finishes its headers is hung up on.
	fmt.Fprintf(conn, "GET /v1/products HTTP/1.1\r\nHost: %s\r\nX-Slow: ", u.Host)
	conn.SetReadDeadline(time.Now().Add(40 * time.Second))
	if _, err := conn.Read(make([]byte, 512)); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Error("a slow client still holds its connection after 40 s")
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (s *suite) hostileTokens(t *testing.T) {
	c := s.customer(t)
	good, err := c.Token()
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good.AccessToken, ".")
	if len(parts) != 3 {
		t.Fatal("the access token is not a JWT")
	}
	enc := base64.RawURLEncoding.EncodeToString
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	claims["sub"] = "usr_somebody_else"
	forged, _ := json.Marshal(claims)
	for name, token := range map[string]string{
		"forged subject":    parts[0] + "." + enc(forged) + "." + parts[2],
		"alg none":          enc([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + ".",
		"HMAC with nothing": enc([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + parts[1] + "." + enc(make([]byte, 32)),
		"no signature":      parts[0] + "." + parts[1] + ".",
		"garbage":           "garbage",
		"empty":             "",
		"100 kB":            strings.Repeat("a", 100_000),
		"key in the header": enc([]byte(`{"alg":"ES256","typ":"JWT","jku":"http://127.0.0.1:1/keys","kid":"x"}`)) + "." + parts[1] + "." + parts[2],
	} {
		_, err := client.Anonymous(s.base).WithToken(token).Do(t.Context(), http.MethodGet, "/v1/cart", nil, nil, nil)
		var e *client.Error
		if !errors.As(err, &e) || (e.Status != 401 && e.Status != 431) {
			t.Errorf("%s: %v, want 401", name, err)
		}
	}
	if _, err := c.Do(t.Context(), http.MethodGet, "/v1/cart", nil, nil, nil); err != nil {
		t.Errorf("the genuine token: %v", err)
	}
}

func (s *suite) profile(t *testing.T) {
	c := s.customer(t)
	eventually(t, func() error { // it follows registration by event
		_, err := c.Do(t.Context(), http.MethodGet, "/v1/me", nil, nil, nil)
		return err
	})
	var me struct{ Name, Phone string }
	if _, err := c.Do(t.Context(), http.MethodPatch, "/v1/me", nil, map[string]any{"phone": "+4930123456"}, &me); err != nil || me.Phone != "+4930123456" || me.Name != "Test Customer" {
		t.Errorf("%+v, %v", me, err)
	}
	_, err := c.Do(t.Context(), http.MethodPatch, "/v1/me", nil, map[string]any{"phone": "call me"}, nil)
	wantStatus(t, err, 400, "a nonsense phone number")
	var prefs map[string]bool
	if _, err := c.Do(t.Context(), http.MethodPut, "/v1/me/preferences", nil, map[string]bool{"email": true, "sms": true}, &prefs); err != nil || !prefs["sms"] || prefs["push"] {
		t.Errorf("%+v, %v", prefs, err)
	}
}
