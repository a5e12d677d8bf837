package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// TestBrowser buys something as a person would, in a real browser, with keyboard and mouse, on a phone's
// screen, and then looks at the order in the console. SHOP_SCREENSHOTS names a folder that keeps what was seen.
func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser; make test-e2e runs it")
	}
	chromium := findChromium(t)
	data := t.TempDir()
	store, tg := openStore(t, shop.Options{Logs: logFile(t), Data: data})
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(chromium), chromedp.UserDataDir(t.TempDir()), chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	if os.Getuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, opts...)
	defer cancelAllocator()
	ctx, cancelTab := chromedp.NewContext(ctx)
	defer cancelTab()
	b := &browser{t: t, ctx: ctx}
	b.do("open the browser", chromedp.EmulateViewport(390, 844))

	// Browse and search, then to a product.
	b.do("browse", chromedp.Navigate(store.PublicURL()+"/"), chromedp.WaitVisible("main h1"))
	b.see("home")
	b.do("search by keyboard", chromedp.SendKeys("#q", "kettle\r"), chromedp.WaitVisible(`main a[href^="/products/"]`))
	if hit := b.text("main"); !strings.Contains(strings.ToLower(hit), "kettle") {
		t.Errorf("a search for kettle shows no kettle:\n%.400s", hit)
	}
	b.see("search")
	b.do("open the product", chromedp.Click(`main a[href^="/products/"]`), chromedp.WaitVisible(`a[href^="/auth/login"].button`))
	product := b.location()

	// Sign in with the demo account, and come back.
	b.do("sign in", chromedp.Click(`a[href^="/auth/login"].button`), chromedp.WaitVisible("#password"))
	b.see("sign-in")
	b.do("give the password", chromedp.SendKeys("#email", tg.demoEmail), chromedp.SendKeys("#password", tg.demoPassword+"\r"), chromedp.WaitVisible("#quantity"))
	if got := b.location(); got != product {
		t.Errorf("after signing in at %s, came from %s", got, product)
	}
	b.see("product")

	// Cart, coupon, checkout.
	b.do("add to the cart", chromedp.Click(`form[action="/cart/items"] button`), chromedp.WaitVisible(`a[href="/checkout"]`))
	b.do("a coupon", chromedp.SendKeys("#code", "NAPKIN10\r"), chromedp.WaitVisible(`a[href="/checkout"]`))
	if cart := b.text("main"); !strings.Contains(cart, "iscount") {
		t.Errorf("no discount in the cart:\n%s", cart)
	}
	b.see("cart")
	b.do("to the checkout", chromedp.Click(`a[href="/checkout"]`), chromedp.WaitVisible("#card_number"))
	b.see("checkout")
	b.do("save a card", chromedp.SendKeys("#card_number", cardOK), chromedp.SetValue("#exp_month", "12"),
		chromedp.SetValue("#exp_year", "2034"), chromedp.SendKeys("#cvc", "123"),
		chromedp.Click(`form[action="/checkout/card"] button`), chromedp.WaitVisible(`form[action="/checkout"] button.wide`))
	b.see("checkout-card")
	b.do("pay", chromedp.Click(`form[action="/checkout"] button.wide`), chromedp.WaitVisible("[data-status]"))
	// The page follows the order by itself.
	b.do("see it confirmed, without reloading", chromedp.WaitVisible(`[data-status="confirmed"]`))
	b.see("order")
	order := b.location()
	order = order[strings.LastIndex(order, "/")+1:]
	b.do("find it in the history", chromedp.Navigate(store.PublicURL()+"/orders"), chromedp.WaitVisible(`main a[href="/orders/`+order+`"]`))
	b.see("orders")

	// An operator looks at it.
	b.do("open the console", chromedp.EmulateViewport(1280, 900), chromedp.Navigate(store.ConsoleURL()+"/"), chromedp.WaitVisible("#password"))
	b.do("sign in as the operator", chromedp.SendKeys("#email", tg.adminEmail), chromedp.SendKeys("#password", tg.adminPassword+"\r"),
		chromedp.WaitVisible(`main a[href="/orders/`+order+`"]`))
	b.see("console-orders")
	b.do("the order's timeline", chromedp.Click(`main a[href="/orders/`+order+`"]`), chromedp.WaitVisible("main h1"))
	timeline := b.text("main")
	for _, step := range []string{"reserve-stock", "authorize-payment", "commit-stock", "capture-payment", "confirm-order"} {
		if !strings.Contains(timeline, step) {
			t.Errorf("the timeline does not show %s:\n%s", step, timeline)
		}
	}
	b.see("console-order")
	for _, page := range []string{"stock", "notifications", "health"} {
		b.do(page, chromedp.Navigate(store.ConsoleURL()+"/"+page), chromedp.WaitVisible("main h1"))
		b.see("console-" + page)
	}
	deadLetter(t, data)
	b.do("dead letters", chromedp.Navigate(store.ConsoleURL()+"/letters"), chromedp.WaitVisible("#cart-1 details"))
	b.do("the history", chromedp.Click("#cart-1 summary"), chromedp.WaitVisible("#cart-1 ol"))
	if page := b.text("main"); !strings.Contains(page, "a first failure") || !strings.Contains(page, "waits behind another") {
		t.Errorf("the page of dead letters:\n%.600s", page)
	}
	b.do("open the form", chromedp.Click("#cart-1 td:last-child summary"), chromedp.WaitVisible("#reason-cart-1"))
	b.see("console-letters")
	b.do("drop it", chromedp.SendKeys("#reason-cart-1", "made up"), chromedp.Click(`#cart-1 button[value="drop"]`), chromedp.WaitVisible(".notice[role=status]"))
	b.see("console-letters-dropped")
	b.do("health", chromedp.Navigate(store.ConsoleURL()+"/health"), chromedp.WaitVisible("main h1"))
	if health := b.text("main"); !strings.Contains(health, "9 of 9") {
		t.Errorf("the health page:\n%.600s", health)
	}
}

// deadLetter makes up an event that the cart service gave up, and one behind it.
func deadLetter(t *testing.T, data string) {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(data, "db", "cart.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range []string{
		`INSERT INTO napkin_parked_key (consumer, topic, key, draining, since) VALUES ('cart', 'products', 'prod_made_up', 0, 1)`,
		`INSERT INTO napkin_dead_letter (id, consumer, topic, key, event_id, attributes, data, state, cause, attempts, created, resolved, history)
			VALUES (1, 'cart', 'products', 'prod_made_up', 'e1', '{"specversion":"1.0","type":"shop.catalog.v1.ProductUpdated"}', '', 'dead', 'there is no such product', 2, 1790000000000000, 0,
			'[{"at":"2026-09-21T13:13:00Z","cause":"a first failure"},{"at":"2026-09-21T13:13:20Z","cause":"there is no such product"}]')`,
		`INSERT INTO napkin_dead_letter (id, consumer, topic, key, event_id, attributes, data, state, cause, attempts, created, resolved)
			VALUES (2, 'cart', 'products', 'prod_made_up', 'e2', '{"specversion":"1.0","type":"shop.catalog.v1.ProductUpdated"}', '', 'parked', '', 0, 1790000060000000, 0)`,
	} {
		if _, err := db.Write.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
}

// browser is one tab and the test that drives it.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	if what == "open the browser" { // the first action's context is the tab's life
		ctx = b.ctx
	}
	if err := chromedp.Do(ctx, steps...); err != nil {
		if page, err := chromedp.Run(b.ctx, chromedp.Text("body")); err == nil {
			b.t.Logf("at %s the page says:\n%.1500s", b.location(), page)
		}
		b.see("failed")
		b.t.Fatalf("%s: %v", what, err)
	}
}

func (b *browser) text(sel string) string {
	b.t.Helper()
	s, err := chromedp.Run(b.ctx, chromedp.Text(sel))
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *browser) location() string {
	b.t.Helper()
	s, err := chromedp.Run(b.ctx, chromedp.Location())
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// see keeps a screenshot where one is wanted.
func (b *browser) see(name string) {
	b.t.Helper()
	dir := os.Getenv("SHOP_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600)
	}
	if err != nil {
		b.t.Errorf("screenshot of %s: %v", name, err)
	}
}

func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "no Chromium: apt-get install -y chromium, or install Google Chrome"
	if slices.Contains(strings.Split(os.Getenv("NAPKIN_TEST_REQUIRE"), ","), "chromium") {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}
