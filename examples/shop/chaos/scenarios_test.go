package chaos

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/client"
	"github.com/napkin-kit/napkin/examples/shop/shoptest"
)

const (
	cardOK        = "4242424242424242"
	cardDeclined  = "4000000000000002"
	cardNoFunds   = "4000000000009995"
	cardAmbiguous = "4000000000000119"
	cardLate      = "4000000000000259"
	cardNoRefund  = "4000000000005126"
)

// Points at which a scenario holds the store, so that what follows meets it in a certain state.
const (
	authorizedSent = "payment/outbox/before-send/shop.payment.v1.PaymentAuthorized"
	declinedSent   = "payment/outbox/before-send/shop.payment.v1.PaymentDeclined"
	rejectedSent   = "inventory/outbox/before-send/shop.inventory.v1.StockRejected"
	capturedSent   = "payment/outbox/before-send/shop.payment.v1.PaymentCaptured"
	committedSent  = "inventory/outbox/before-send/shop.inventory.v1.StockCommitted"
	captureCalled  = "payment/outside/payment.capture.called"
)

// world is a running store with the people in it.
type world struct {
	base     string
	out      *shoptest.Outsiders
	control  func(service string) *control
	record   func(service string) record
	ledger   *ledger
	admin    *shopper
	customer *shopper // has an account and a profile, for scenarios that are about something else
	plenty   client.Line
	calm     bool // nothing is killed
}

// with is the same world with another ledger.
func (w *world) with(l *ledger) *world {
	out := *w
	out.ledger = l
	return &out
}

// populate prepares who and what the scenarios need.
func (w *world) populate(ctx context.Context) (err error) {
	w.admin = operator(w.base)
	if w.customer, err = newShopper(ctx, w.base); err != nil {
		return err
	}
	id, err := w.product(ctx, 1_000_000)
	if err != nil {
		return err
	}
	w.plenty = client.Line{ProductID: id, Quantity: 1}
	return w.inStock(ctx, id)
}

// product creates one and waits until it can be bought.
func (w *world) product(ctx context.Context, stock int) (string, error) {
	id := "drill-" + strings.ToLower(rand.Text()[:12])
	err := w.admin.call(ctx, http.MethodPost, "/v1/admin/products", map[string]any{
		"id": id, "name": "Drill kettle " + id, "description": "Boils.", "category": "Kitchen",
		"price": map[string]any{"amount_minor": 2599, "currency": "EUR"}, "initial_stock": stock,
	}, nil)
	var e *client.Error
	if errors.As(err, &e) && e.Status == http.StatusConflict {
		err = nil // the first attempt got through
	}
	if err != nil {
		return "", fmt.Errorf("create product: %w", err)
	}
	return id, nil
}

func (w *world) inStock(ctx context.Context, id string) error {
	return eventually(ctx, "product "+id+" is not in stock", func() (bool, error) {
		var p client.Product
		err := w.admin.call(ctx, http.MethodGet, "/v1/products/"+id, nil, &p)
		return p.InStock, err
	})
}

func (w *world) adjust(ctx context.Context, id string, delta int) error {
	err := w.admin.call(ctx, http.MethodPost, "/v1/admin/stock/"+id, map[string]any{"delta": delta}, nil)
	var e *client.Error
	if errors.As(err, &e) && e.Status == http.StatusNotFound {
		return errors.Join(errNotYet, err)
	}
	return err
}

var errNotYet = errors.New("not yet")

func eventually(ctx context.Context, otherwise string, ok func() (bool, error)) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", otherwise, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// scenario is one story; it returns once the story has ended well.
type scenario struct {
	name string
	tell func(context.Context, *world) error
}

// scenarios cover every path of an order, cheapest first.
var scenarios = []scenario{
	{"confirmed", confirmed},
	{"declined", func(ctx context.Context, w *world) error { return w.one(ctx, cardDeclined, "failed") }},
	{"no-funds", func(ctx context.Context, w *world) error { return w.one(ctx, cardNoFunds, "failed") }},
	{"sold-out", soldOut},
	{"cart", ofTheCart},
	{"refund", func(ctx context.Context, w *world) error { return w.refunded(ctx, cardOK) }},
	{"products", products},
	{"cancel-authorized", cancelledAt(authorizedSent, cardOK, "cancelled")},
	{"cancel-committed", cancelledAt(committedSent, cardOK, "cancelled")},
	{"cancel-captured", cancelledAt(capturedSent, cardOK, "refunded")},
	{"cancel-declined", cancelledAt(declinedSent, cardDeclined, "cancelled")},
	{"cancel-rejected", cancelRejected},
	{"capture-refused", captureRefused},
	{"account", account},
	{"last-item", lastItem},
	{"refund-fails-first", func(ctx context.Context, w *world) error { return w.refunded(ctx, cardNoRefund) }},
	{"late-capture", func(ctx context.Context, w *world) error { return w.one(ctx, cardLate, "confirmed") }},
	{"cancel-unknown", cancelUnknown},
	{"ambiguous", func(ctx context.Context, w *world) error { return w.one(ctx, cardAmbiguous, "confirmed", "failed") }},
}

func scenarioNamed(name string) scenario {
	for _, s := range scenarios {
		if s.name == name {
			return s
		}
	}
	panic("no scenario " + name)
}

// one places an order with a card and waits for its end.
func (w *world) one(ctx context.Context, card string, want ...string) error {
	o, err := w.customer.place(ctx, w.ledger, card, w.plenty)
	if err != nil {
		return err
	}
	return o.ends(ctx, want...)
}

func confirmed(ctx context.Context, w *world) error { return w.one(ctx, cardOK, "confirmed") }

// ofTheCart orders what is in the cart, which is empty afterwards. The cart is one customer's own, since
// scenarios run side by side.
func ofTheCart(ctx context.Context, w *world) error {
	s, err := newShopper(ctx, w.base)
	if err != nil {
		return err
	}
	if err := s.call(ctx, http.MethodPut, "/v1/cart/items/"+w.plenty.ProductID, map[string]any{"quantity": 2}, nil); err != nil {
		return err
	}
	o, err := s.place(ctx, w.ledger, cardOK)
	if err != nil {
		return err
	}
	if err := o.ends(ctx, "confirmed"); err != nil {
		return err
	}
	return eventually(ctx, "the cart is not empty", func() (bool, error) {
		var cart struct {
			Items []any `json:"items"`
		}
		err := s.call(ctx, http.MethodGet, "/v1/cart", nil, &cart)
		return len(cart.Items) == 0, err
	})
}

func (w *world) refunded(ctx context.Context, card string) error {
	o, err := w.customer.place(ctx, w.ledger, card, w.plenty)
	if err != nil {
		return err
	}
	if err := o.ends(ctx, "confirmed"); err != nil {
		return err
	}
	if err := o.cancel(ctx); err != nil {
		return err
	}
	return o.ends(ctx, "refunded")
}

// cancelledAt cancels while the store is held at a point: before the pivot the order is cancelled, from it
// on refunded. Where the process dies on the way, either may come of it, or the end that the order would
// have had.
func cancelledAt(at, card, want string) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		return w.whileHeld(ctx, at, card, w.plenty, (*order).cancel, want, "cancelled", "refunded", "failed")
	}
}

// soldOut orders two of what there is one of.
func soldOut(ctx context.Context, w *world) error {
	line, err := w.rare(ctx)
	if err != nil {
		return err
	}
	o, err := w.customer.place(ctx, w.ledger, cardOK, line)
	if err != nil {
		return err
	}
	return o.ends(ctx, "failed")
}

// cancelRejected is soldOut, cancelled before the refusal is known.
func cancelRejected(ctx context.Context, w *world) error {
	line, err := w.rare(ctx)
	if err != nil {
		return err
	}
	return w.whileHeld(ctx, rejectedSent, cardOK, line, (*order).cancel, "cancelled", "failed")
}

// rare is more of a product than there is.
func (w *world) rare(ctx context.Context) (client.Line, error) {
	id, err := w.product(ctx, 1)
	if err != nil {
		return client.Line{}, err
	}
	return client.Line{ProductID: id, Quantity: 2}, w.inStock(ctx, id)
}

// whileHeld places an order, waits until the store is held at a point, and acts. Where the process dies
// before it comes by there, what is done next meets another state; the order has to end all the same, and
// only where nothing is killed must it end in the first of the states.
func (w *world) whileHeld(ctx context.Context, at, card string, line client.Line, act func(*order, context.Context) error, want ...string) error {
	service := point{name: at}.service()
	passed := w.record(service)
	from := passed.end()
	release, err := w.control(service).hold(at)
	if err != nil {
		return err
	}
	defer release()
	o, err := w.customer.place(ctx, w.ledger, card, line)
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	_ = passed.passed(short, from, at)
	cancel()
	err = act(o, ctx)
	var refused *client.Error
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		err = nil // the order had failed by then
	}
	if err != nil {
		return err
	}
	release()
	if w.calm {
		want = want[:1]
	}
	return o.ends(ctx, want...)
}

// cancelUnknown cancels an order whose authorisation the provider leaves without an answer.
func cancelUnknown(ctx context.Context, w *world) error {
	o, err := w.customer.place(ctx, w.ledger, cardAmbiguous, w.plenty)
	if err != nil {
		return err
	}
	if err := o.cancel(ctx); err != nil {
		return err
	}
	return o.ends(ctx, "cancelled", "refunded")
}

// captureRefused has the bank withdraw the hold on the card before the capture: the pivot is refused, and
// all that was done is undone.
func captureRefused(ctx context.Context, w *world) error {
	return w.whileHeld(ctx, captureCalled, cardOK, w.plenty, func(o *order, ctx context.Context) error { return w.withdraw(ctx, o.id) }, "failed", "confirmed")
}

// withdraw voids an order's authorisation at the provider, behind the store's back.
func (w *world) withdraw(ctx context.Context, orderID string) error {
	return insist(ctx, func() error {
		var op struct {
			ID string `json:"authorization_id"`
		}
		key := "checkout/" + orderID + "/authorize-payment"
		if err := w.provider(ctx, http.MethodGet, "/v1/operations/"+url.PathEscape(key), "", &op); err != nil {
			return err
		}
		return w.provider(ctx, http.MethodPost, "/v1/authorizations/"+op.ID+"/void", "bank/"+orderID, nil)
	})
}

func (w *world) provider(ctx context.Context, method, path, key string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.out.ProviderURL+path, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+shoptest.ProviderKey)
	req.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 && method == http.MethodGet {
		return fmt.Errorf("the provider answers %s", resp.Status)
	}
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// account is a new customer who wants to hear by every channel, and orders.
func account(ctx context.Context, w *world) error {
	s, err := newShopper(ctx, w.base)
	if err != nil {
		return err
	}
	err = eventually(ctx, "the profile has not arrived", func() (bool, error) {
		err := s.call(ctx, http.MethodPatch, "/v1/me", map[string]any{"phone": "+4930123456", "name": "Drill"}, nil)
		var e *client.Error
		if errors.As(err, &e) && e.Status == http.StatusNotFound {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	if err := s.call(ctx, http.MethodPut, "/v1/me/preferences", map[string]any{"email": true, "sms": true, "push": true}, nil); err != nil {
		return err
	}
	o, err := s.place(ctx, w.ledger, cardOK, w.plenty)
	if err != nil {
		return err
	}
	return o.ends(ctx, "confirmed")
}

// lastItem has several buyers want the one that is left.
func lastItem(ctx context.Context, w *world) error {
	const buyers = 5
	id, err := w.product(ctx, 1)
	if err != nil {
		return err
	}
	if err := w.inStock(ctx, id); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, buyers)
	ids := make([]string, buyers)
	for i := range buyers {
		wg.Go(func() {
			o, err := w.customer.place(ctx, w.ledger, cardOK, client.Line{ProductID: id, Quantity: 1})
			if err == nil {
				ids[i] = o.id
				err = o.ends(ctx, "confirmed", "failed")
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	sold := 0
	for _, id := range ids {
		var o client.Order
		if err := w.customer.call(ctx, http.MethodGet, "/v1/orders/"+id, nil, &o); err != nil {
			return err
		}
		if o.Status == "confirmed" {
			sold++
		}
	}
	if sold != 1 {
		w.ledger.lose("the last %s was sold %d times", id, sold)
	}
	return nil
}

// products is an operator at work: a product without stock gets some, another name, and loses it again.
func products(ctx context.Context, w *world) error {
	id, err := w.product(ctx, 0)
	if err != nil {
		return err
	}
	err = eventually(ctx, "inventory has not heard of "+id, func() (bool, error) {
		err := w.adjust(ctx, id, 5)
		return err == nil, ignore(err, errNotYet)
	})
	if err != nil {
		return err
	}
	if err := w.inStock(ctx, id); err != nil {
		return err
	}
	return w.admin.call(ctx, http.MethodPatch, "/v1/admin/products/"+id, map[string]any{"name": "Renamed " + id}, nil)
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}
