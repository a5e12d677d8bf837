package gateway

import (
	"net"
	"net/http"
	"strings"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/resilience"
)

// limiters are the two rate limits: per address, in front of everything, and per user, once one is known.
func limiters(cfg Config) (perAddress, perPrincipal func(http.Handler) http.Handler, err error) {
	limit := func(name string, perSecond float64, key func(*http.Request) string) (func(http.Handler) http.Handler, error) {
		l, err := resilience.NewKeyedLimiter(name, &resilience.KeyedLimiterConfig{
			Limit: resilience.LimiterConfig{PerSecond: perSecond, Burst: int(4 * perSecond)},
		})
		if err != nil {
			return nil, err
		}
		return resilience.Middleware(&resilience.MiddlewareConfig{
			Limiter: l,
			Key:     key,
			Reject: func(w http.ResponseWriter, r *http.Request, _ int, err error) {
				kit.WriteError(w, r, err)
			},
		})
	}
	if cfg.PerAddress == 0 {
		cfg.PerAddress = 500
	}
	if cfg.PerPrincipal == 0 {
		cfg.PerPrincipal = 100
	}
	perAddress, err = limit("gateway per address", cfg.PerAddress, func(r *http.Request) string {
		return clientAddress(r, cfg.TrustForwardedFor)
	})
	if err != nil {
		return nil, nil, err
	}
	perPrincipal, err = limit("gateway per principal", cfg.PerPrincipal, func(r *http.Request) string {
		p, _ := authn.PrincipalFrom(r.Context())
		return p.Subject // empty for anonymous callers, whom the address limits
	})
	return perAddress, perPrincipal, err
}

// clientAddress is the caller's IP address; of IPv6 the /64, since one client has all of it.
func clientAddress(r *http.Request, trustForwarded bool) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if trustForwarded {
		if hops := r.Header.Values("X-Forwarded-For"); len(hops) > 0 {
			all := strings.Split(hops[len(hops)-1], ",")
			host = strings.TrimSpace(all[len(all)-1])
		}
	}
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return ip.Mask(net.CIDRMask(64, 128)).String()
	}
	return host
}
