package shop

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/examples/shop/gateway"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/telemetry"
)

// service is one entry of the store's table of contents.
type service struct {
	name     string
	peers    []string // whom it calls
	http     bool     // it has an HTTP listener
	stateful bool     // it has a database and uses the broker
	policy   func(spiffeid.TrustDomain) (*authn.Policy, error)
	wire     func(context.Context, *kit.Service, inputs) error
}

// inputs are what a service's constructor takes its configuration from.
type inputs struct {
	env       *environment
	db        *sqldb.DB
	broker    events.Broker
	verifier  *authn.Verifier
	telemetry *telemetry.Telemetry
}

var services = []service{
	{
		name: gateway.Name, http: true,
		peers:  []string{"auth", "user", "catalog", "cart", "order", "payment", "inventory", "notification"},
		policy: func(spiffeid.TrustDomain) (*authn.Policy, error) { return gateway.Policy() },
		wire: func(ctx context.Context, svc *kit.Service, in inputs) error {
			return gateway.New(ctx, svc, gateway.Config{Verifier: in.verifier})
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
