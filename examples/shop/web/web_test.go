package web_test

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/kit/problem"
)

const demo, demoPassword = "demo@shop.test", "napkin-demo"

func TestAnybodyMayBrowse(t *testing.T) {
	w := open(t)
	b := w.browser(t, w.store)
	home := b.get("/").mustHave(t, 200, "Lamp &lt;&#34;small&#34;&gt;", "€19.99", `/images/lamp.svg`, "Sign in", `category=Coffee`)
	for name, want := range map[string]string{
		"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "private",
	} {
		if !strings.Contains(home.Header.Get(name), want) {
			t.Errorf("%s: %q lacks %q", name, home.Header.Get(name), want)
		}
	}
	if strings.Contains(home.body, "<style") || strings.Contains(home.body, " style=") || strings.Contains(home.body, " onclick=") || strings.Contains(home.body, "<script>") {
		t.Error("the page has what its policy forbids")
	}
	b.get("/search?q=lamp&price=1500-3000&in_stock=true&sort=price").mustHave(t, 200, "“lamp”", `value="lamp"`, "€15 to €30", "/search?in_stock=true&amp;page_token=next%2Fpage&amp;price=1500-3000&amp;q=lamp&amp;sort=price")
	b.get("/search?q=nothing").mustHave(t, 200, "Nothing matches")
	b.get("/search?sort=sideways").mustHave(t, 400, "That did not work")
	b.get("/products/lamp").mustHave(t, 200, "Sign in to buy")
	b.get("/products/none").mustHave(t, 404, "We could not find that")
	b.get("/no/such/page").mustHave(t, 404, "We could not find that")

	api, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.store+"/nowhere", nil)
	if err != nil {
		t.Fatal(err)
	}
	api.Header.Set("Accept", "application/json")
	b.do(api).mustHave(t, 404, `"no_such_page"`)

	css := b.get(home.body[strings.Index(home.body, "/static/shop.css"):strings.Index(home.body, `">`+"\n"+`<link rel="icon"`)])
	if css.mustHave(t, 200, ":focus-visible"); !strings.Contains(css.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("the stylesheet is kept for %q", css.Header.Get("Cache-Control"))
	}
}

func TestBuying(t *testing.T) {
	w := open(t)
	b := w.browser(t, w.store)
	p := b.signIn(w, "/auth/login?next=/products/lamp", demo, demoPassword).mustHave(t, 200, "Dana Demo", "Add to cart")
	if p.Request.URL.Path != "/products/lamp" {
		t.Errorf("the sign-in led to %s", p.Request.URL)
	}
	b.submit(p, "/cart/items", "quantity", "2").mustHave(t, 200, "It is in your cart", "€39.98")
	p = b.submit(b.get("/products/lamp"), "/cart/items", "quantity", "1").mustHave(t, 200, `value="3"`, "€59.97") // it adds
	b.submit(p, "/cart/items/lamp", "quantity", "0").mustHave(t, 400, "from 1 to 99")
	p = b.submit(p, "/cart/items/lamp", "quantity", "2").mustHave(t, 200, "up to date")
	b.submit(p, "/cart/coupon", "code", "NOPE").mustHave(t, 400, "is not a coupon of ours", `aria-invalid="true"`, `value="NOPE"`)
	b.submit(p, "/cart/coupon", "code", "NAPKIN10").mustHave(t, 200, "€35.99", "−€3.99")

	p = b.get("/checkout").mustHave(t, 200, "Add a card", "4242 4242 4242 4242")
	bad := b.submit(p, "/checkout/card", "card_number", "4242x", "exp_month", "13", "exp_year", "2031", "cvc", "1").
		mustHave(t, 400, "12 to 19 digits", "A month is 1 to 12", "Three or four digits")
	if strings.Contains(bad.body, "4242x") {
		t.Error("a card number comes back")
	}
	stale := b.submit(p, "/checkout/card", "card_number", "4242 4242-4242 4242", "exp_month", "12", "exp_year", "2031", "cvc", "123").
		mustHave(t, 200, "Visa ending in 4242", "Pay €35.99")

	// What the page said no longer holds: the customer is asked again.
	b.submit(b.get("/cart"), "/cart/items/lamp", "quantity", "1")
	p = b.submit(stale, "/checkout", "method", "pm_00000000").mustHave(t, 409, "Your cart has changed", "Pay €18.00")

	// The services are away: the same page may be sent again, and again.
	w.back.mu.Lock()
	w.back.down = problem.New(http.StatusServiceUnavailable, "unavailable", "gone fishing")
	w.back.mu.Unlock()
	again := b.submit(p, "/checkout", "method", "pm_00000000").mustHave(t, 503, "not placed twice")
	if again.form(t, "/checkout").Get("key") != p.form(t, "/checkout").Get("key") {
		t.Error("the second try would be another order")
	}
	w.back.mu.Lock()
	w.back.down = nil
	w.back.mu.Unlock()

	form := p.form(t, "/checkout")
	form.Set("method", "pm_00000000")
	var clicks sync.WaitGroup
	for range 4 {
		clicks.Go(func() {
			b.do(b.request("/checkout", form)).mustHave(t, 200, "Order placed", "Pending", `http-equiv="refresh"`)
		})
	}
	clicks.Wait()
	if n := len(w.back.orders); n != 1 {
		t.Fatalf("there are %d orders", n)
	}
	b.submit(again, "/checkout", "method", "pm_00000000").mustHave(t, 200, "Order 00000000")
	b.get("/orders").mustHave(t, 200, "/orders/ord_00000000", "€18.00")
	b.get("/checkout").mustHave(t, 200, "nothing in your cart")
	b.get("/orders/ord_99999999").mustHave(t, 404)
}

// ordered leaves a customer with one pending order.
func (w *world) ordered(t *testing.T) (*browser, string) {
	t.Helper()
	b := w.browser(t, w.store)
	p := b.signIn(w, "/auth/login?next=/products/lamp", demo, demoPassword)
	b.submit(p, "/cart/items", "quantity", "1")
	p = b.submit(b.get("/checkout"), "/checkout/card", "card_number", "4242424242424242", "exp_month", "12", "exp_year", "2031", "cvc", "123")
	p = b.submit(p, "/checkout", "method", "pm_00000000").mustHave(t, 200, "Order placed")
	return b, p.Request.URL.Path
}

// events reads an order's stream and sends each event's name and data.
func (b *browser) events(path string) (<-chan [2]string, *http.Response) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.base+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	resp, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	out := make(chan [2]string, 100)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		var e [2]string
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); {
			case lines.Text() == "" && e != [2]string{}:
				out <- e
				e = [2]string{}
			case name == "event":
				e[0] = value
			case name == "data":
				e[1] += value + "\n"
			}
		}
	}()
	return out, resp
}

func TestOrderIsFollowed(t *testing.T) {
	w := open(t)
	b, path := w.ordered(t)
	stream, resp := b.events(path + "/events")
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Fatalf("got %s of %s", resp.Status, ct)
	}
	if e := <-stream; e[0] != "order" || !strings.Contains(e[1], `data-status="pending"`) {
		t.Fatalf("got %q", e)
	}
	w.back.confirm.open()
	if e := <-stream; e[0] != "order" || !strings.Contains(e[1], `data-status="confirmed"`) || strings.Contains(e[1], "csrf") {
		t.Fatalf("got %q", e)
	}
	if e := <-stream; e[0] != "end" {
		t.Fatalf("got %q", e)
	}
	if _, more := <-stream; more {
		t.Error("the stream goes on")
	}

	// Cancelling what is paid for takes a refund, which the page waits for.
	p := b.submit(b.get(path), path+"/cancel").mustHave(t, 200, "Your money is on its way back", "cancelling=1")
	stream, _ = b.events(p.Request.URL.Path + "/events?cancelling=1")
	if e := <-stream; !strings.Contains(e[1], `data-status="confirmed"`) {
		t.Fatalf("got %q", e)
	}
	w.back.setStatus("ord_00000000", "refunded")
	if e := <-stream; !strings.Contains(e[1], `data-status="refunded"`) {
		t.Fatalf("got %q", e)
	}
	if e := <-stream; e[0] != "end" {
		t.Fatalf("got %q", e)
	}
	w.back.setStatus("ord_00000000", "failed")
	b.do(b.request(path+"/cancel", url.Values{"csrf": {b.get("/cart").form(t, "/auth/logout").Get("csrf")}})).mustHave(t, 409, "nothing to cancel")

	stranger := w.browser(t, w.store)
	if _, resp := stranger.events(path + "/events"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger got %s", resp.Status)
	}
}

func TestFormsFromElsewhere(t *testing.T) {
	w := open(t)
	b := w.browser(t, w.store)
	p := b.signIn(w, "/auth/login?next=/products/lamp", demo, demoPassword)
	form := p.form(t, "/cart/items")
	form.Set("quantity", "1")

	r := b.request("/cart/items", form)
	r.Header.Set("Origin", "https://evil.example")
	b.do(r).mustHave(t, 403, "not sent from a page of this site")
	form.Set("csrf", "guess")
	b.do(b.request("/cart/items", form)).mustHave(t, 403, "before you last signed in")
	b.do(b.request("/auth/logout", url.Values{})).mustHave(t, 403)
	b.get("/cart").mustHave(t, 200, "It is empty", "Dana Demo")

	b.submit(b.get("/auth/logout").mustHave(t, 200), "/auth/logout").mustHave(t, 200, "Sign in")
	if p := b.get("/cart"); p.Request.URL.Path != "/oauth/login" {
		t.Errorf("signed out, the cart leads to %s", p.Request.URL)
	}
	b.do(b.request("/cart/items", form)).mustHave(t, 401, "was not taken", "/auth/login")
}

func TestRegistering(t *testing.T) {
	w := open(t)
	b := w.browser(t, w.store)
	p := b.get("/register").mustHave(t, 200, "new-password")
	bad := b.submit(p, "/register", "name", "Kim", "email", "kim@shop.test", "password", "short").mustHave(t, 400, `id="password-error"`, `value="kim@shop.test"`)
	if strings.Contains(bad.body, "short") {
		t.Error("a password comes back")
	}
	b.submit(bad, "/register", "name", "Kim", "email", "kim@shop.test", "password", "a longer one").mustHave(t, 200, "Welcome, Kim")
	b.submit(b.get("/register"), "/register", "name", "Kim", "email", "kim@shop.test", "password", "a longer one").mustHave(t, 409)
	b.signIn(w, "/auth/login?next=/account", "kim@shop.test", "a longer one").mustHave(t, 200, "being set up", "Kim")

	w.back.mu.Lock()
	w.back.profile = &userv1.Profile{Id: "usr_1", Email: "kim@shop.test", Name: "Kim"}
	w.back.mu.Unlock()
	p = b.get("/account").mustHave(t, 200, "kim@shop.test", `name="email" value="true" checked`)
	b.submit(p, "/account", "name", "Kim", "phone", "12", "address", "x").mustHave(t, 400, "Begin with", `aria-describedby="phone-hint phone-error"`, `value="12"`)
	b.submit(p, "/account", "name", "Kim K", "phone", "+49 30 (123) 456", "address", "A\r\nB").mustHave(t, 200, "Saved", "&#43;4930123456", "A\nB")
}

func TestCatalogueAway(t *testing.T) {
	w := open(t)
	w.back.mu.Lock()
	w.back.down = problem.New(http.StatusServiceUnavailable, "unavailable", "the index at 10.0.0.1 is gone")
	w.back.mu.Unlock()
	p := w.browser(t, w.store).get("/search?q=lamp").mustHave(t, 503, "Try again", `href="/search?q=lamp"`)
	if strings.Contains(p.body, "10.0.0.1") {
		t.Error("the page tells of our insides")
	}
}
