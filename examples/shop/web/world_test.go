package web_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/auth"
	"github.com/napkin-kit/napkin/examples/shop/web"
	"github.com/napkin-kit/napkin/examples/shop/web/console"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is the storefront and the console on the chassis, with the real auth service, in front of services
// that are in memory.
type world struct {
	ca      *authntest.CA
	back    *backend
	store   string // addresses
	console string
}

func open(t *testing.T) *world {
	t.Helper()
	w := &world{ca: authntest.NewCA(t, "shop.test"), back: newBackend()}
	edge, ops := listen(t), listen(t)
	w.store, w.console = "http://"+edge.Addr().String(), "http://"+ops.Addr().String()
	gateway := w.ca.ID(t, "gateway")

	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "auth.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	broker := memevents.New(nil)
	t.Cleanup(func() { _ = broker.Close() })
	policy, err := auth.Policy(w.ca.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	signIn := w.service(t, policy, kit.Config{Name: "auth", HTTPAddr: "127.0.0.1:0", HTTPCallers: []spiffeid.ID{gateway}})
	if err := auth.New(t.Context(), signIn, auth.Config{
		DB: db, Broker: broker, Issuer: w.store, ConsoleURL: w.console, Key: bytes.Repeat([]byte{3}, 32), Demo: true,
	}); err != nil {
		t.Fatal(err)
	}
	run(t, signIn)

	verifier := w.verifier(t, signIn.HTTPAddr())
	back := w.service(t, allow(t, gateway), kit.Config{Name: "back", Verifier: verifier})
	catalogv1.RegisterCatalogServiceServer(back, w.back)
	cartv1.RegisterCartServiceServer(back, w.back)
	orderv1.RegisterOrderServiceServer(back, w.back)
	orderv1.RegisterOrderAdminServiceServer(back, w.back)
	paymentv1.RegisterPaymentServiceServer(back, w.back)
	userv1.RegisterUserServiceServer(back, w.back)
	inventoryv1.RegisterInventoryServiceServer(back, w.back)
	notificationv1.RegisterNotificationServiceServer(back, w.back)
	deadletterv1.RegisterDeadLetterServiceServer(back, w.back)
	run(t, back)

	peers := map[string]kit.Peer{"auth": {Addr: signIn.GRPCAddr(), HTTPAddr: signIn.HTTPAddr(), ID: w.ca.ID(t, "auth")}}
	for _, name := range []string{"user", "catalog", "cart", "order", "payment", "inventory", "notification"} {
		peers[name] = kit.Peer{Addr: back.GRPCAddr(), ID: w.ca.ID(t, "back")}
	}
	front := w.service(t, allow(t), kit.Config{
		Name: "gateway", PublicHTTP: true, HTTPListener: edge, GRPCAddr: kit.None, Peers: peers, Verifier: verifier,
	})
	key := bytes.Repeat([]byte{4}, 32)
	if err := web.New(front, web.Config{PublicURL: w.store, SessionKey: key, Verifier: verifier, Demo: true}); err != nil {
		t.Fatal(err)
	}
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"service":"order","ready":false,"checks":[{"name":"database","ok":false,"error":"the disk is full","ms":1}]}`)
	}))
	t.Cleanup(sick.Close)
	h, err := console.New(front, console.Config{
		PublicURL: w.store, ConsoleURL: w.console, SessionKey: key, Verifier: verifier,
		AdminURLs: map[string]string{"back": "http://" + back.AdminAddr(), "order": sick.URL, "cart": "http://127.0.0.1:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	front.Go("console", func(ctx context.Context) error { return console.Serve(ctx, ops, h) })
	client, err := front.HTTPClient("auth")
	if err != nil {
		t.Fatal(err)
	}
	front.HTTP().Handle("/oauth/", &httputil.ReverseProxy{Transport: client.Transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "https", Host: "auth"})
		r.SetXForwarded()
	}})
	run(t, front)
	return w
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// allow lets callers call everything: the services' own policies are tested with the services.
func allow(t *testing.T, from ...spiffeid.ID) *authn.Policy {
	t.Helper()
	var rules []authn.Rule
	if len(from) > 0 {
		for _, s := range []string{"catalog.v1.Catalog", "cart.v1.Cart", "order.v1.Order", "order.v1.OrderAdmin", "payment.v1.Payment", "user.v1.User", "inventory.v1.Inventory", "notification.v1.Notification", "deadletter.v1.DeadLetter"} {
			rules = append(rules, authn.Rule{Method: "/shop." + s + "Service/*", From: from, User: authn.UserOptional})
		}
	}
	p, err := authn.NewPolicy(rules...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) service(t *testing.T, p *authn.Policy, cfg kit.Config) *kit.Service {
	t.Helper()
	cfg.Identity, cfg.Telemetry = w.ca.Identity(t, w.ca.ID(t, cfg.Name)), telemetrytest.Start(t, cfg.Name).Telemetry
	svc, err := kit.New(t.Context(), p, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

func (w *world) verifier(t *testing.T, addr string) *authn.Verifier {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
		TLSClientConfig: authn.ClientTLS(w.ca.Identity(t, w.ca.ID(t, "gateway")), tlsconfig.AuthorizeID(w.ca.ID(t, "auth"))),
	}
	v, err := authn.NewVerifier(authn.VerifierConfig{
		Issuer: w.store, Audience: auth.Audience, JWKSURL: "https://auth/oauth/jwks", Client: &http.Client{Transport: transport, Timeout: 5 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close(); transport.CloseIdleConnections() })
	return v
}

func run(t *testing.T, svc *kit.Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// browser is a person's: with cookies, following redirects, wanting pages.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func (w *world) browser(t *testing.T, base string) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{t, base, &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: transport}}
}

// page is an answer, read.
type page struct {
	*http.Response
	body string
}

func (b *browser) do(r *http.Request) page {
	b.t.Helper()
	if r.Header.Get("Accept") == "" {
		r.Header.Set("Accept", "text/html")
	}
	resp, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return page{resp, string(body)}
}

func (b *browser) get(path string) page {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.base+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(r)
}

var (
	hidden = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)
	forms  = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)".*?</form>`)
)

// form returns the hidden fields of the form with the given action.
func (p page) form(t *testing.T, action string) url.Values {
	t.Helper()
	for _, f := range forms.FindAllStringSubmatch(p.body, -1) {
		if f[1] != action {
			continue
		}
		v := url.Values{}
		for _, m := range hidden.FindAllStringSubmatch(f[0], -1) {
			v.Set(m[1], m[2])
		}
		return v
	}
	t.Fatalf("%s has no form %s:\n%s", p.Request.URL, action, p.body)
	return nil
}

// request is the form as the browser sends it.
func (b *browser) request(action string, v url.Values) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.base+action, strings.NewReader(v.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", b.base)
	return r
}

// submit fills in a page's form and sends it.
func (b *browser) submit(p page, action string, fields ...string) page {
	b.t.Helper()
	v := p.form(b.t, action)
	for i := 0; i < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	return b.do(b.request(action, v))
}

// signIn goes through the sign-in page, which is the issuer's.
func (b *browser) signIn(w *world, path, email, password string) page {
	b.t.Helper()
	p := b.get(path)
	site := b.base
	b.base = w.store
	defer func() { b.base = site }()
	return b.submit(p, "/oauth/login", "email", email, "password", password)
}

func (p page) mustHave(t *testing.T, status int, parts ...string) page {
	t.Helper()
	if p.StatusCode != status {
		t.Fatalf("%s answered %s, want %d:\n%s", p.Request.URL, p.Status, status, p.body)
	}
	for _, s := range parts {
		if !strings.Contains(p.body, s) {
			t.Fatalf("%s lacks %q:\n%s", p.Request.URL, s, p.body)
		}
	}
	return p
}

// gate is closed until it is opened.
type gate struct {
	once sync.Once
	c    chan struct{}
}

func (g *gate) open() { g.once.Do(func() { close(g.c) }) }

func id(prefix string, n int) string { return fmt.Sprintf("%s_%08d", prefix, n) }
