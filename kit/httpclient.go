package kit

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit/correlation"
)

// HTTPClient returns a client for the named peer's HTTP listener, over mTLS. Its URLs
// name the peer as host, whatever address the peer has:
//
//	client.Get("https://auth/oauth/jwks")
//
// A URL with another host is refused, so that neither a redirect nor a mistake sends to
// a peer what was meant for someone else. Redirects are not followed. The user's token
// is not added; set the Authorization header where the peer is to have it. Requests
// without a deadline get 30 s, or as long as the peer's Deadline.Total where that is more.
func (s *Service) HTTPClient(peer string, opts ...DialOption) (*http.Client, error) {
	p, err := s.peer(peer)
	if err != nil {
		return nil, err
	}
	if p.HTTPAddr == "" {
		return nil, fmt.Errorf("kit: %s: Config.Peers[%q].HTTPAddr is empty: give its HTTP address", s.cfg.Name, peer)
	}
	cfg := dialConfigOf(opts)
	bound := s.cfg.httpBound(peer, cfg)
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	base := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, p.HTTPAddr)
		},
		TLSClientConfig:       authn.ClientTLS(s.identity, tlsconfig.AuthorizeID(p.ID)),
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: bound,
		IdleConnTimeout:       60 * time.Second, // less than the server's, so that the client lets go first
		MaxIdleConnsPerHost:   64,
		ForceAttemptHTTP2:     true,
	}
	s.clients.mu.Lock()
	s.clients.idle = append(s.clients.idle, base.CloseIdleConnections)
	s.clients.mu.Unlock()

	var rt http.RoundTripper = otelhttp.NewTransport(base,
		otelhttp.WithTracerProvider(s.tel.TracerProvider()),
		otelhttp.WithMeterProvider(s.tel.MeterProvider()),
		otelhttp.WithPropagators(s.tel.Propagator()),
	)
	rt = s.clients.protectHTTP(rt, cfg)
	return &http.Client{
		Transport:     &peerTransport{peer: peer, next: rt},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       bound,
	}, nil
}

// peerTransport is the outermost step: only this peer, with the identifiers.
type peerTransport struct {
	peer string
	next http.RoundTripper
}

func (t *peerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != t.peer || r.URL.Scheme != "https" {
		if r.Body != nil {
			_ = r.Body.Close() // a RoundTripper owns the body
		}
		return nil, fmt.Errorf("%w: it is %q, write https://%s/…", errPeerURL, r.URL.Scheme+"://"+r.URL.Host, t.peer)
	}
	ids := correlation.From(r.Context())
	if ids.RequestID != "" || ids.CorrelationID != "" {
		r = r.Clone(r.Context())
		for name, id := range map[string]string{correlation.RequestIDHeader: ids.RequestID, correlation.CorrelationIDHeader: ids.CorrelationID} {
			if id != "" {
				r.Header.Set(name, id)
			}
		}
	}
	return t.next.RoundTrip(r)
}
