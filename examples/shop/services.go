package shop

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/examples/shop/auth"
	"github.com/napkin-kit/napkin/examples/shop/cart"
	"github.com/napkin-kit/napkin/examples/shop/catalog"
	"github.com/napkin-kit/napkin/examples/shop/gateway"
	"github.com/napkin-kit/napkin/examples/shop/internal/streams"
	"github.com/napkin-kit/napkin/examples/shop/inventory"
	"github.com/napkin-kit/napkin/examples/shop/notification"
	"github.com/napkin-kit/napkin/examples/shop/order"
	"github.com/napkin-kit/napkin/examples/shop/payment"
	"github.com/napkin-kit/napkin/examples/shop/user"
	"github.com/napkin-kit/napkin/examples/shop/web"
	"github.com/napkin-kit/napkin/examples/shop/web/console"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// service is one entry of the store's table of contents.
type service struct {
	name     string
	peers    []string // whom it calls
	http     bool     // it has an HTTP listener
	stateful bool     // it has a database and uses the broker
	policy   func(spiffeid.TrustDomain) (*authn.Policy, error)
	// idempotency names the calls that take an idempotency key.
	idempotency func() map[string]grpcidempotency.Rule
	wire        func(context.Context, *kit.Service, inputs) error
}

// inputs are what a service's constructor takes its configuration from.
type inputs struct {
	env    *environment
	db     *sqldb.DB
	broker events.Broker
	hooks  hooks
}

var services = []service{
	{
		name: auth.Name, http: true, stateful: true, policy: auth.Policy,
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return auth.New(ctx, svc, auth.Config{
				DB: in.db, Broker: in.broker, Issuer: in.env.publicURL, ConsoleURL: in.env.consoleURL,
				Key: in.env.signingKey, Demo: in.env.demo,
				Hooks: auth.Hooks{Events: in.hooks.events(), Relay: in.hooks.relay()},
			})
		},
	},
	{
		name: user.Name, stateful: true, policy: user.Policy,
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return user.New(ctx, svc, user.Config{
				DB: in.db, Broker: in.broker, Key: in.env.personalDataKey, FormerKeys: in.env.formerPersonalDataKeys,
				Hooks: user.Hooks{Events: in.hooks.events(), Relay: in.hooks.relay(), Inbox: in.hooks.inbox()},
			})
		},
	},
	{
		name: catalog.Name, http: true, stateful: true, policy: catalog.Policy,
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return catalog.New(ctx, svc, catalog.Config{
				DB: in.db, Broker: in.broker, Seed: in.env.demo,
				Hooks: catalog.Hooks{Events: in.hooks.events(), Relay: in.hooks.relay(), Inbox: in.hooks.inbox()},
			})
		},
	},
	{
		name: cart.Name, stateful: true, peers: []string{"catalog"}, policy: cart.Policy,
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return cart.New(ctx, svc, cart.Config{
				DB: in.db, Broker: in.broker,
				Hooks: cart.Hooks{Events: in.hooks.events(), Inbox: in.hooks.inbox()},
			})
		},
	},
	{
		name: order.Name, stateful: true, peers: []string{"cart", "payment"}, policy: order.Policy,
		idempotency: order.Idempotency,
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return order.New(ctx, svc, order.Config{
				DB: in.db, Broker: in.broker,
				Hooks: order.Hooks{Events: in.hooks.events(), Relay: in.hooks.relay(), Inbox: in.hooks.inbox(), Saga: in.hooks.saga()},
			})
		},
	},
	{
		name: payment.Name, stateful: true, policy: payment.Policy,
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return payment.New(ctx, svc, payment.Config{
				DB: in.db, Broker: in.broker,
				ProviderURL: in.env.providerURL, ProviderKey: in.env.providerKey, VaultKey: in.env.vaultKey,
				Hooks: payment.Hooks{Events: in.hooks.events(), Relay: in.hooks.relay(), Inbox: in.hooks.inbox(), Point: in.hooks.point},
			})
		},
	},
	{
		name: inventory.Name, stateful: true, policy: inventory.Policy,
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return inventory.New(ctx, svc, inventory.Config{
				DB: in.db, Broker: in.broker,
				Hooks: inventory.Hooks{Events: in.hooks.events(), Relay: in.hooks.relay(), Inbox: in.hooks.inbox()},
			})
		},
	},
	{
		name: notification.Name, stateful: true, policy: notification.Policy,
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return notification.New(ctx, svc, notification.Config{
				DB: in.db, Broker: in.broker, Key: in.env.personalDataKey,
				SMTPAddr: in.env.smtpAddr, MessagesURL: in.env.messagesURL,
				Hooks: notification.Hooks{
					Events: in.hooks.events(), Inbox: in.hooks.inbox(),
					Sending: func(ctx context.Context, where, channel string) { in.hooks.point(ctx, channel+"."+where) },
				},
			})
		},
	},
	{
		name: gateway.Name, http: true,
		peers:  []string{"auth", "user", "catalog", "cart", "order", "payment", "inventory", "notification"},
		policy: func(spiffeid.TrustDomain) (*authn.Policy, error) { return gateway.Policy() },
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			// Sixteen pages that follow an order are a browser's; half of what the gateway serves at once.
			open := streams.NewLimit(16, 2048)
			limit, err := gateway.New(ctx, svc, gateway.Config{Verifier: svc.Verifier(), Streams: open})
			if err != nil {
				return err
			}
			if err := web.New(svc, web.Config{
				PublicURL: in.env.publicURL, SessionKey: in.env.sessionKey, Verifier: svc.Verifier(),
				Demo: in.env.demo, Limit: limit, Streams: open,
			}); err != nil {
				return err
			}
			// The console has a listener of its own, so that it can be kept from the public.
			pages, err := console.New(svc, console.Config{
				PublicURL: in.env.publicURL, ConsoleURL: in.env.consoleURL, SessionKey: in.env.sessionKey,
				Verifier: svc.Verifier(), AdminURLs: in.env.adminURLs,
			})
			if err != nil {
				return err
			}
			svc.Go("console", func(ctx context.Context) error { return console.Serve(ctx, in.env.consoleListener, pages) })
			return nil
		},
	},
}

// Names are the store's services.
func Names() []string {
	names := make([]string, len(services))
	for i, s := range services {
		names[i] = s.name
	}
	return names
}

// choose returns the services of a comma-separated list.
func choose(list string) ([]service, error) {
	var chosen []service
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(services, func(s service) bool { return s.name == name })
		switch {
		case i < 0:
			return nil, fmt.Errorf("there is no service %q; there are %s", name, strings.Join(Names(), ", "))
		case slices.ContainsFunc(chosen, func(s service) bool { return s.name == name }):
			return nil, fmt.Errorf("service %q is named twice", name)
		}
		chosen = append(chosen, services[i])
	}
	return chosen, nil
}
