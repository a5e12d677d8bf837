// Package console is the operators' site: orders with their sagas, stock, notifications, the events that were
// given up, and the health of the services. It has a listener of its own, and every page needs the scope shop:admin.
//
// What an operator changes goes through the services' own APIs, which check the scope again and keep who
// did it and why.
package console

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/napkin-kit/napkin/authn"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/signin"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/problem"
)

//go:embed pages/*.html
var pages embed.FS

const scope = "shop:admin"

// Config is what the console needs beside the gateway's kit.Service. All but AdminURLs is required.
type Config struct {
	// PublicURL is the store's public address: the OpenID Connect issuer.
	PublicURL string
	// ConsoleURL is where browsers reach the console.
	ConsoleURL string
	// SessionKey is 32 random bytes that seal the cookies; it may be the storefront's.
	SessionKey []byte
	// Verifier checks the access tokens that a session holds.
	Verifier *authn.Verifier
	// AdminURLs are the services' admin addresses, such as "http://127.0.0.1:9090", by service. The health
	// page asks them.
	AdminURLs map[string]string
}

type console struct {
	site   *page.Site
	party  *signin.Party
	store  string // the storefront's address
	admin  map[string]string
	health *http.Client

	orders        orderv1.OrderAdminServiceClient
	inventory     inventoryv1.InventoryServiceClient
	notifications notificationv1.NotificationServiceClient
	catalog       catalogv1.CatalogServiceClient
	letters       map[string]deadletterv1.DeadLetterServiceClient // by service
	sent          *idempotency.Memory                             // forms that were sent
}

// New returns the console. svc must have the peers auth (with its HTTP address) and every service that
// handles events. [Serve] serves it.
func New(svc *kit.Service, cfg Config) (http.Handler, error) {
	if cfg.Verifier == nil {
		return nil, errors.New("console: Config.Verifier is required")
	}
	for name, u := range cfg.AdminURLs {
		if p, err := url.Parse(u); err != nil || p.Host == "" || (p.Scheme != "http" && p.Scheme != "https") {
			return nil, fmt.Errorf("console: Config.AdminURLs[%q] %q: give an address such as http://127.0.0.1:9090", name, u)
		}
	}
	c := &console{store: strings.TrimRight(cfg.PublicURL, "/"), admin: cfg.AdminURLs, health: newHealthClient()}
	if err := errors.Join(c.connect(svc), c.open(svc, cfg)); err != nil {
		return nil, err
	}
	svc.OnClose("console", func(context.Context) error { c.health.CloseIdleConnections(); return nil })
	return guarded(svc, c.routes()), nil
}

func (c *console) connect(svc *kit.Service) error {
	orders, err1 := svc.Dial("order")
	inventory, err2 := svc.Dial("inventory")
	notifications, err3 := svc.Dial("notification")
	catalog, err4 := svc.Dial("catalog")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	c.letters = make(map[string]deadletterv1.DeadLetterServiceClient)
	for _, name := range handling {
		conn, err := svc.Dial(name)
		if err != nil {
			return err
		}
		c.letters[name] = deadletterv1.NewDeadLetterServiceClient(conn)
	}
	c.orders, c.inventory = orderv1.NewOrderAdminServiceClient(orders), inventoryv1.NewInventoryServiceClient(inventory)
	c.notifications, c.catalog = notificationv1.NewNotificationServiceClient(notifications), catalogv1.NewCatalogServiceClient(catalog)
	return nil
}

func (c *console) open(svc *kit.Service, cfg Config) error {
	keeper, err := session.NewKeeper(session.Config{Purpose: "console", Key: cfg.SessionKey, URL: cfg.ConsoleURL})
	if err != nil {
		return err
	}
	client, err := svc.HTTPClient("auth", kit.WithoutToken())
	if err != nil {
		return err
	}
	if c.party, err = signin.New(signin.Config{
		Issuer: cfg.PublicURL, ClientID: "console", Scopes: []string{"openid", "profile", "email", "offline_access", scope},
		AfterLogout: "/signed-out", Keeper: keeper, Verifier: cfg.Verifier, Auth: client, Logger: svc.Logger(),
	}); err != nil {
		return err
	}
	if c.sent, err = idempotency.NewMemory(nil); err != nil {
		return err
	}
	templates, err := fs.Sub(pages, "pages")
	if err != nil {
		return err
	}
	c.site, err = page.New(page.Config{Templates: templates, Identify: c.party.Identify, Logger: svc.Logger()})
	return err
}

func (c *console) routes() *http.ServeMux {
	mux := http.NewServeMux()
	handle := func(pattern string, h signin.Handler) { mux.Handle(pattern, c.site.Handler(h)) }
	read := func(pattern string, h signin.Handler) { handle(pattern, c.party.User(operator(h))) }
	act := func(pattern string, h signin.Handler) { handle(pattern, c.party.PostByUser(operator(h))) }
	read("GET /{$}", func(w http.ResponseWriter, r *http.Request) error { return seeOther(w, r, "/orders") })
	read("GET /orders", c.listOrders)
	read("GET /orders/{id}", c.showOrder)
	act("POST /orders/{id}/resolve", c.resolve)
	read("GET /stock", c.listStock)
	act("POST /stock/{id}", c.adjust)
	read("GET /notifications", c.listNotifications)
	read("GET /letters", c.listLetters)
	act("POST /letters/{service}/{id}", c.resolveLetter)
	read("GET /health", c.showHealth)

	handle("GET /auth/login", c.party.Login)
	handle("GET /auth/callback", c.party.Callback)
	handle("POST /auth/logout", c.party.Post(c.party.Logout))
	handle("GET /signed-out", func(w http.ResponseWriter, r *http.Request) error {
		return c.site.Render(w, r, http.StatusOK, "signedout", nil)
	})
	mux.HandleFunc("GET /static/{file}", page.Static)
	handle("/", func(http.ResponseWriter, *http.Request) error { return errNoPage })
	return mux
}

var (
	errNoPage      = problem.New(http.StatusNotFound, "no_such_page", "there is no such page")
	errNotOperator = problem.New(http.StatusForbidden, "not_an_operator", "Your account is not an operator's. Sign out, and sign in with one that is.")
)

// operator lets those pass who may operate the store.
func operator(next signin.Handler) signin.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if p, _ := authn.PrincipalFrom(r.Context()); !slices.Contains(p.Scopes, scope) {
			return errNotOperator
		}
		return next(w, r)
	}
}

func seeOther(w http.ResponseWriter, r *http.Request, path string) error {
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}
