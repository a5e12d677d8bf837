// Package web is the storefront: pages rendered on the server for people with a browser. It is a client of
// the services like any other and keeps nothing itself; who is signed in stands in an encrypted cookie.
//
// Every page works without JavaScript. With it an order's page follows the order, and a form is sent once.
package web

import (
	"embed"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/authn"
	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/streams"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/signin"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem"
)

//go:embed pages/*.html
var pages embed.FS

// Config is what the storefront needs beside the gateway's kit.Service. PublicURL, SessionKey and Verifier
// are required.
type Config struct {
	// PublicURL is where browsers reach the store; also the OpenID Connect issuer.
	PublicURL string
	// SessionKey is 32 random bytes that seal the cookies, the same for every replica.
	SessionKey []byte
	// Verifier checks the access tokens that a session holds.
	Verifier *authn.Verifier
	// Demo shows test cards and coupons to try.
	Demo bool
	// Limit stands in front of every page but static files: the gateway's rate limit. nil: none.
	Limit func(http.Handler) http.Handler
	// Streams bounds the open event streams. nil: nothing does.
	Streams *streams.Limit
	// Heartbeat is how often an idle event stream sends a comment. Defaults to 15 s.
	Heartbeat time.Duration
}

// store serves the pages.
type store struct {
	cfg   Config
	site  *page.Site
	party *signin.Party

	auth    authv1.AuthServiceClient
	users   userv1.UserServiceClient
	catalog catalogv1.CatalogServiceClient
	carts   cartv1.CartServiceClient
	orders  orderv1.OrderServiceClient
	watch   orderv1.OrderServiceClient // for streams: they hold a place with the peer while they last
	pay     paymentv1.PaymentServiceClient
}

// New registers the storefront's pages with svc's HTTP mux, "/" among them: what no other pattern takes is
// a page that does not exist. svc must have the peers auth (with its HTTP address), user, catalog, cart,
// order and payment.
func New(svc *kit.Service, cfg Config) error {
	if cfg.Verifier == nil {
		return errors.New("web: Config.Verifier is required")
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	cfg.PublicURL = strings.TrimRight(cfg.PublicURL, "/")
	s := &store{cfg: cfg}
	if err := errors.Join(s.connect(svc), s.open(svc)); err != nil {
		return err
	}
	s.routes(svc.HTTP())
	return nil
}

func (s *store) connect(svc *kit.Service) error {
	auth, err1 := svc.Dial("auth")
	users, err2 := svc.Dial("user")
	catalog, err3 := svc.Dial("catalog")
	carts, err4 := svc.Dial("cart")
	orders, err5 := svc.Dial("order")
	watch, err6 := svc.Dial("order", kit.WithoutResilience())
	pay, err7 := svc.Dial("payment")
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return err
	}
	s.auth, s.users, s.catalog = authv1.NewAuthServiceClient(auth), userv1.NewUserServiceClient(users), catalogv1.NewCatalogServiceClient(catalog)
	s.carts, s.orders, s.pay = cartv1.NewCartServiceClient(carts), orderv1.NewOrderServiceClient(orders), paymentv1.NewPaymentServiceClient(pay)
	s.watch = orderv1.NewOrderServiceClient(watch)
	return nil
}

func (s *store) open(svc *kit.Service) error {
	keeper, err := session.NewKeeper(session.Config{Purpose: "storefront", Key: s.cfg.SessionKey, URL: s.cfg.PublicURL})
	if err != nil {
		return err
	}
	client, err := svc.HTTPClient("auth", kit.WithoutToken())
	if err != nil {
		return err
	}
	if s.party, err = signin.New(signin.Config{
		Issuer: s.cfg.PublicURL, ClientID: "storefront", Scopes: []string{"openid", "profile", "email", "offline_access", "shop"},
		AfterLogout: "/", Keeper: keeper, Verifier: s.cfg.Verifier, Auth: client, Logger: svc.Logger(),
	}); err != nil {
		return err
	}
	templates, err := fs.Sub(pages, "pages")
	if err != nil {
		return err
	}
	s.site, err = page.New(page.Config{Templates: templates, Identify: s.party.Identify, Logger: svc.Logger()})
	return err
}

func (s *store) routes(mux *http.ServeMux) {
	handle := func(pattern string, h signin.Handler) {
		served := s.site.Handler(h)
		if s.cfg.Limit != nil {
			served = s.cfg.Limit(served)
		}
		mux.Handle(pattern, served)
	}
	p := s.party
	handle("GET /{$}", s.showCatalog)
	handle("GET /search", s.showCatalog)
	handle("GET /products/{id}", s.showProduct)

	handle("GET /cart", p.User(s.showCart))
	handle("POST /cart/items", p.PostByUser(s.addItem))
	handle("POST /cart/items/{id}", p.PostByUser(s.setItem))
	handle("POST /cart/items/{id}/remove", p.PostByUser(s.removeItem))
	handle("POST /cart/coupon", p.PostByUser(s.applyCoupon))
	handle("GET /checkout", p.User(s.showCheckout))
	handle("POST /checkout/card", p.PostByUser(s.saveCard))
	handle("POST /checkout", p.PostByUser(s.placeOrder))

	handle("GET /orders", p.User(s.listOrders))
	handle("GET /orders/{id}", p.User(s.showOrder))
	handle("GET /orders/{id}/events", p.User(s.watchOrder))
	handle("POST /orders/{id}/cancel", p.PostByUser(s.cancelOrder))

	handle("GET /account", p.User(s.showAccount))
	handle("POST /account", p.PostByUser(s.saveProfile))
	handle("POST /account/preferences", p.PostByUser(s.savePreferences))
	handle("GET /register", p.Form(s.showRegister))
	handle("POST /register", p.Post(s.register))

	handle("GET /auth/login", p.Login)
	handle("GET /auth/callback", p.Callback)
	handle("GET /auth/logout", func(w http.ResponseWriter, r *http.Request) error {
		return s.site.Render(w, r, http.StatusOK, "signout", nil)
	})
	handle("POST /auth/logout", p.Post(p.Logout))
	mux.HandleFunc("GET /static/{file}", page.Static)
	handle("/", func(http.ResponseWriter, *http.Request) error { return errNoPage })
}

var errNoPage = problem.New(http.StatusNotFound, "no_such_page", "there is no such page")

// seeOther sends the browser on after a form: reloading the page it lands on sends nothing again.
func seeOther(w http.ResponseWriter, r *http.Request, path string) error {
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}
