package web_test

import (
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
)

func (w *world) operator(t *testing.T) *browser {
	t.Helper()
	b := w.browser(t, w.console)
	b.signIn(w, "/", "admin@shop.test", "napkin-admin").mustHave(t, 200, "<h1>Orders</h1>")
	return b
}

func TestConsoleIsForOperators(t *testing.T) {
	w := open(t)
	b := w.browser(t, w.console)
	p := b.signIn(w, "/stock", demo, demoPassword).mustHave(t, 403, "not an operator")
	b.get("/orders").mustHave(t, 403)
	if p := b.submit(p, "/auth/logout").mustHave(t, 200, "You are signed out"); p.Request.URL.Path != "/signed-out" {
		t.Errorf("signing out led to %s", p.Request.URL)
	}
	// The storefront's session is none here, though cookies know no ports.
	store := w.browser(t, w.store)
	store.signIn(w, "/auth/login", "admin@shop.test", "napkin-admin").mustHave(t, 200, "Ada Admin")
	store.base = w.console
	if p := store.get("/orders"); p.Request.URL.Path != "/oauth/login" {
		t.Errorf("got %s", p.Request.URL)
	}
}

func TestConsoleOrders(t *testing.T) {
	w := open(t)
	_, path := w.ordered(t)
	b := w.operator(t)
	b.get("/orders").mustHave(t, 200, path, "authorize-payment", "All <small>1</small>")
	b.get("/orders?status=refunded").mustHave(t, 200, "There are none")
	b.get("/orders?status=odd").mustHave(t, 400)
	b.get("/orders/ord_none").mustHave(t, 404)
	p := b.get(path).mustHave(t, 200, "4bf92f3577b34da6a3ce929d0e0e4736", "corr-1", "the provider says no", "Your order is confirmed", "ord_00000000.refund</code> stands at <strong>refund-payment")
	if n := strings.Count(p.body, "waits for an operator"); n != 1 {
		t.Errorf("%d sagas wait", n) // the checkout was stuck, and is no longer
	}
	b.submit(p, path+"/resolve", "act", "skip").mustHave(t, 400)
	b.submit(p, path+"/resolve", "act", "skip", "reason", "paid back by hand").mustHave(t, 200, "Done.")
	if r := w.back.resolved; len(r) != 1 || r[0].GetSagaId() != "ord_00000000.refund" || r[0].GetReason() != "paid back by hand" {
		t.Errorf("got %v", r)
	}
	b.do(b.request(path+"/resolve", url.Values{"saga": {"x"}, "act": {"skip"}, "reason": {"y"}})).mustHave(t, 403)
	b.get("/notifications?order=ord_00000000").mustHave(t, 200, "Order confirmed", "sent")
}

func TestConsoleStockIsAdjustedOnce(t *testing.T) {
	w := open(t)
	b := w.operator(t)
	p := b.get("/stock").mustHave(t, 200, "Lamp", ">7</td>")
	b.submit(p, "/stock/lamp", "delta", "-8", "reason", "lost").mustHave(t, 409, "promised to orders")
	b.submit(p, "/stock/lamp", "delta", "0", "reason", "x").mustHave(t, 400, "how many pieces")
	form := p.form(t, "/stock/lamp")
	form.Set("delta", "5")
	form.Set("reason", "counted")
	var clicks sync.WaitGroup
	for range 4 {
		clicks.Go(func() { b.do(b.request("/stock/lamp", form)).mustHave(t, 200, "is adjusted") })
	}
	clicks.Wait()
	b.get("/stock").mustHave(t, 200, ">12</td>")
	if w.back.adjusted != 1 {
		t.Errorf("adjusted %d times", w.back.adjusted)
	}
}

func TestConsoleHealth(t *testing.T) {
	w := open(t)
	b := w.operator(t)
	b.get("/health").mustHave(t, 200, "1 of 3 services ready", "the disk is full", "not ready", "no answer", "connection refused")
}

func TestConsoleDeadLetters(t *testing.T) {
	w := open(t)
	b := w.operator(t)
	b.get("/letters").mustHave(t, 200, "There are none.")
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	w.back.mu.Lock()
	w.back.letters = []*deadletterv1.DeadLetter{
		{Id: 7, State: "dead", Topic: "orders", Key: "ord_1", EventId: "e7", Type: "shop.order.v1.OrderConfirmed", Cause: "no <such> customer", Attempts: 2, CreatedAt: at,
			History: []*deadletterv1.Failure{{At: at, Cause: "the first failure"}, {At: at, Cause: "no <such> customer"}}},
		{Id: 8, State: "parked", Topic: "orders", Key: "ord_1", EventId: "e8", Type: "shop.order.v1.OrderRefunded", CreatedAt: at},
	}
	w.back.mu.Unlock()
	p := b.get("/letters").mustHave(t, 200, "Cart", "Payment", "no &lt;such&gt; customer", "the first failure", "waits behind another")
	b.submit(p, "/letters/cart/7", "act", "explode", "reason", "x").mustHave(t, 400, "handled again or dropped")
	b.submit(p, "/letters/cart/8", "act", "drop", "reason", "x").mustHave(t, 409, "no longer there")
	b.submit(p, "/letters/cart/7", "act", "redrive", "reason", "the customer is back").mustHave(t, 200, "is handled again")
	b.submit(p, "/letters/cart/7", "act", "redrive", "reason", "again").mustHave(t, 409, "no longer there")
	if want := []string{"redrive 7: the customer is back"}; !slices.Equal(w.back.acts, want) {
		t.Errorf("acts %q, want %q", w.back.acts, want)
	}
	// Neither without the form's token nor for a customer.
	form := p.form(t, "/letters/cart/8")
	form.Del("csrf")
	form.Set("act", "drop")
	form.Set("reason", "x")
	b.do(b.request("/letters/cart/8", form)).mustHave(t, 403)
	b.do(b.request("/letters/nobody/8", p.form(t, "/letters/cart/8"))).mustHave(t, 404)
}
