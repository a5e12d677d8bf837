package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/examples/shop/auth"
	"github.com/napkin-kit/napkin/examples/shop/gateway"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/resilience"
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
	shedder                                           *resilience.Shedder // one process, one CPU: its services shed together
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

// newShedder lets a request wait a second for its turn: a person would rather wait than be asked to come
// back, and passwords, which are hashed slowly on purpose, take their time from everybody else.
func newShedder() (*resilience.Shedder, error) {
	return resilience.NewShedder(&resilience.ShedderConfig{MaxQueue: 256, MaxWait: time.Second})
}

// wired is a service that is ready to run.
type wired struct {
	name string
	svc  *kit.Service
}

// assemble makes the chosen services, several at a time: migrating their databases is most of the start. The
// order does not matter, since the environment knows every peer's address beforehand.
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
	cfg.NewVerifier, cfg.Shedder = newVerifier(env), env.shedder
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
	in := inputs{env: env, hooks: hooks{s.name, svc.Instruments()}}
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
func newVerifier(env *environment) func(*kit.Service) (*authn.Verifier, error) {
	return func(s *kit.Service) (*authn.Verifier, error) {
		client, err := s.HTTPClient(auth.Name, kit.WithoutToken())
		if err != nil {
			return nil, fmt.Errorf("%w: tokens are checked by auth's keys", err)
		}
		return authn.NewVerifier(authn.VerifierConfig{
			Issuer: env.publicURL, Audience: auth.Audience,
			JWKSURL: "https://" + auth.Name + "/oauth/jwks", Client: client,
		})
	}
}

// run runs the services until ctx ends or one of them does. The gateway stops first, so that no customer
// meets a store that is half gone.
func run(ctx context.Context, services []wired) error {
	edge, stopEdge := context.WithCancel(ctx)
	defer stopEdge()
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopInner()
	var front, back errgroup.Group
	for _, w := range services {
		group, life := &back, inner
		if w.name == gateway.Name {
			group, life = &front, edge
		}
		group.Go(func() error {
			defer stopEdge() // whichever ends, for whatever reason, ends the store
			if err := w.svc.Run(life); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			return nil
		})
	}
	<-edge.Done()
	err := front.Wait()
	stopInner()
	return errors.Join(err, back.Wait())
}
