// Package gateway is the store's edge: it maps the public REST API to the services' gRPC contracts,
// checks tokens and rates, caches what is public, and passes OpenID Connect on to auth.
// It keeps no state and no idempotency keys: order is the one authority for those.
package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/examples/shop/api/openapi"
	"github.com/napkin-kit/napkin/examples/shop/internal/streams"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
)

// Name is the service's name.
const Name = "gateway"

// Config is what the gateway needs beside its kit.Service, whose HTTP listener must be the public one.
type Config struct {
	// Verifier checks customers' access tokens. Required.
	Verifier *authn.Verifier
	// PerAddress and PerPrincipal are the sustained requests per second, with four times that as the
	// burst. Default to 500 and 100.
	PerAddress, PerPrincipal float64
	// TrustForwardedFor takes the client's address from the last X-Forwarded-For entry, for a gateway
	// behind one load balancer. Otherwise the header is ignored.
	TrustForwardedFor bool
	// Streams bounds the open event streams. nil: nothing does.
	Streams *streams.Limit
	// Heartbeat is how often an idle event stream sends a comment. Defaults to 15 s.
	Heartbeat time.Duration
}

// Policy is who may call the gateway's gRPC listener: nobody, it has no methods.
func Policy() (*authn.Policy, error) { return authn.NewPolicy() }

// New wires the gateway's routes into svc's HTTP mux. svc must have the peers auth, user, catalog, cart,
// order, payment and inventory. limit is the rate limit per address, for the pages that stand beside the API
// on the same listener.
func New(ctx context.Context, svc *kit.Service, cfg Config) (limit func(http.Handler) http.Handler, err error) {
	if cfg.Verifier == nil {
		return nil, fmt.Errorf("gateway: Config.Verifier is required")
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	api, err := newAPI(ctx, svc)
	if err != nil {
		return nil, err
	}
	events, err := newOrderEvents(svc, cfg)
	if err != nil {
		return nil, err
	}
	limitAddress, limitPrincipal, err := limiters(cfg)
	if err != nil {
		return nil, err
	}
	authenticate := authn.Authenticate(cfg.Verifier, &authn.HTTPConfig{OnError: kit.WriteError})
	// guarded routes need a user at the edge already; the service checks the token and its scopes again.
	guard := func(needsUser bool, h http.Handler) http.Handler {
		if needsUser {
			h = authn.RequireUser(&authn.HTTPConfig{OnError: kit.WriteError})(h)
		}
		return limitAddress(authenticate(limitPrincipal(withoutToken(plain(h)))))
	}

	images, err := proxyTo(svc, "catalog", cfg.TrustForwardedFor)
	if err != nil {
		return nil, err
	}
	proxy, err := proxyTo(svc, "auth", cfg.TrustForwardedFor)
	if err != nil {
		return nil, err
	}
	mux := svc.HTTP()
	mux.Handle("GET /v1/products", guard(false, cacheable(api)))
	mux.Handle("GET /v1/products/{id}", guard(false, cacheable(api)))
	mux.Handle("POST /v1/users", guard(false, private(api)))
	mux.Handle("GET /v1/orders/{id}/events", guard(true, events))
	mux.Handle("/v1/", guard(true, private(api)))
	mux.Handle("GET /openapi.json", cacheable(http.HandlerFunc(openapi.Serve)))

	mux.Handle("/oauth/", limitAddress(proxy))
	mux.Handle("/.well-known/openid-configuration", limitAddress(proxy))
	mux.Handle("GET /images/", limitAddress(images))
	return limitAddress, nil
}

// withoutToken takes the Authorization header off a request whose token has been verified: from here on
// the principal in the context speaks, and the client connection sends its token.
func withoutToken(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	})
}

// proxyTo passes requests on to a peer's HTTP listener, over mTLS: OpenID Connect to auth, illustrations to
// catalog.
func proxyTo(svc *kit.Service, peer string, trustForwarded bool) (http.Handler, error) {
	client, err := svc.HTTPClient(peer, kit.WithoutToken())
	if err != nil {
		return nil, err
	}
	target := &url.URL{Scheme: "https", Host: peer}
	return &httputil.ReverseProxy{
		Transport: client.Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
			// auth slows down an address that guesses passwords: let it be the client's, not the load balancer's.
			r.Out.Header.Set("X-Forwarded-For", clientAddress(r.In, trustForwarded))
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Del(correlation.RequestIDHeader) // the answer has them already
			r.Header.Del(correlation.CorrelationIDHeader)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			svc.Logger().WarnContext(r.Context(), "a peer does not answer", "peer", peer, "error", err)
			kit.WriteError(w, r, errUnavailable)
		},
	}, nil
}

// register binds one service's REST mapping to the connection to its peer.
type register struct {
	peer string
	bind func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error
}
