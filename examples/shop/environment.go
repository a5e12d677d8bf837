package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"golang.org/x/sync/errgroup"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/telemetry/instrument"
)

// environment is what services run in: the one thing in which the store in one process differs from a
// process per service. Everything that a service is given comes from here.
type environment struct {
	domain    spiffeid.TrustDomain
	publicURL string // where browsers reach the gateway; also the OIDC issuer
	log       *slog.Logger
	demo      bool // demo accounts and the seeded catalogue

	signingKey, vaultKey, personalDataKey, sessionKey []byte
	formerPersonalDataKeys                            [][]byte // still open what they sealed
	providerURL, providerKey                          string
	smtpAddr, messagesURL                             string
	consoleListener                                   net.Listener
	consoleURL                                        string
	adminURLs                                         map[string]string // service → admin address, for the console

	// chassis gives a service its listeners, identity, peers and telemetry.
	chassis  func(ctx context.Context, name string) (kit.Config, error)
	database func(ctx context.Context, name string) (*sqldb.DB, error)
	broker   func(ctx context.Context, name string) (events.Broker, error)

	mu      sync.Mutex
	closers []func() error // what the services were given, closed after the last of them has stopped
}

func (e *environment) onClose(fn func() error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closers = append(e.closers, fn)
}

func (e *environment) close() error {
	var errs []error
	for i := len(e.closers) - 1; i >= 0; i-- {
		errs = append(errs, e.closers[i]())
	}
	e.closers = nil
	return errors.Join(errs...)
}

// wired is a service that is ready to run.
type wired struct {
	name string
	svc  *kit.Service
}

// assemble makes the named services. They are given their listeners first, so that each finds its peers
// whatever the order. Their databases are migrated at the same time: that is most of the start.
func assemble(ctx context.Context, env *environment, chosen []service) ([]wired, error) {
	out := make([]wired, len(chosen))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, s := range chosen {
		g.Go(func() error {
			svc, err := assembleOne(gctx, ctx, env, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			out[i] = wired{s.name, svc}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		for _, w := range out {
			if w.svc != nil {
				err = errors.Join(err, w.svc.Close())
			}
		}
		return nil, err
	}
	return out, nil
}

// assembleOne makes one service. setup bounds the making; life is the services' own.
func assembleOne(setup, life context.Context, env *environment, s service) (_ *kit.Service, err error) {
	cfg, err := env.chassis(setup, s.name)
	if err != nil {
		return nil, err
	}
	if cfg.Verifier, err = newVerifier(env, cfg); err != nil {
		return nil, err
	}
	if s.idempotency != nil {
		cfg.Idempotency = s.idempotency()
	}
	policy, err := s.policy(env.domain)
	if err != nil {
		return nil, err
	}
	svc, err := kit.New(setup, policy, cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, svc.Close())
		}
	}()
	svc.OnClose("token verifier", func(context.Context) error { return cfg.Verifier.Close() })
	ins, err := instrument.New(svc.Telemetry())
	if err != nil {
		return nil, err
	}
	in := inputs{env: env, verifier: cfg.Verifier, hooks: hooks{s.name, ins}}
	if s.stateful {
		if in.db, err = env.database(setup, s.name); err != nil {
			return nil, err
		}
		svc.OnClose("database", func(context.Context) error { return in.db.Close() })
		if in.broker, err = env.broker(life, s.name); err != nil {
			return nil, err
		}
		svc.OnClose("broker", func(context.Context) error { return in.broker.Close() })
	}
	return svc, s.wire(setup, svc, in)
}

// newVerifier checks users' tokens by the keys that auth publishes, fetched from auth itself over mTLS.
func newVerifier(env *environment, cfg kit.Config) (*authn.Verifier, error) {
	authID, err := spiffeid.FromSegments(env.domain, "auth")
	if err != nil {
		return nil, err
	}
	addr := cfg.Peers["auth"].HTTPAddr
	if addr == "" && cfg.Name == "auth" && cfg.HTTPListener != nil {
		addr = cfg.HTTPListener.Addr().String()
	}
	if addr == "" && cfg.Name == "auth" {
		addr = cfg.HTTPAddr
	}
	if addr == "" {
		return nil, errors.New(`the address of auth's HTTP listener is not known: set NAPKIN_HTTP_PEERS="auth=host:port"`)
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return authn.NewVerifier(authn.VerifierConfig{
		Issuer:   env.publicURL,
		Audience: "shop",
		JWKSURL:  "https://auth/oauth/jwks",
		Client: &http.Client{
			Timeout: 5 * time.Second,
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return dialer.DialContext(ctx, network, addr)
				},
				TLSClientConfig: authn.ClientTLS(cfg.Identity, tlsconfig.AuthorizeID(authID)),
				IdleConnTimeout: 30 * time.Second,
			},
		},
	})
}

// run runs the services until ctx ends or one fails, which stops them all. The gateway stops first, so
// that no customer meets a store that is half gone.
func run(ctx context.Context, services []wired) error {
	edge, stopEdge := context.WithCancel(ctx)
	defer stopEdge()
	rest, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRest()
	var edgeDone, all sync.WaitGroup
	var mu sync.Mutex
	var failed error
	start := func(w wired, ctx context.Context, done *sync.WaitGroup) {
		done.Add(1)
		all.Go(func() {
			defer done.Done()
			if err := w.svc.Run(ctx); err != nil {
				mu.Lock()
				failed = errors.Join(failed, fmt.Errorf("%s: %w", w.name, err))
				mu.Unlock()
				stopEdge()
			}
			if ctx.Err() == nil {
				stopEdge()
			}
		})
	}
	var others sync.WaitGroup
	for _, w := range services {
		if w.name == "gateway" {
			start(w, edge, &edgeDone)
		} else {
			start(w, rest, &others)
		}
	}
	<-edge.Done()
	edgeDone.Wait()
	stopRest()
	all.Wait()
	return failed
}
