package kit

import (
	"fmt"
	"net/http"

	"github.com/napkin-kit/napkin/resilience"
)

// initResilience makes the destinations, which HTTP and gRPC clients share.
func (s *Service) initResilience() error {
	s.destinations = s.cfg.Destinations
	if s.destinations != nil {
		return nil
	}
	d, err := resilience.NewDestinations(nil)
	if err != nil {
		return fmt.Errorf("kit: %w", err)
	}
	s.destinations = d
	return nil
}

// Destinations are the pipelines of this service's peers, by peer name: one budget,
// breaker and bulkhead for each, whatever the protocol. Event publishers and other
// clients may share them.
func (s *Service) Destinations() *resilience.Destinations { return s.destinations }

func (c *clients) resilientHTTP(base http.RoundTripper, cfg dialConfig) http.RoundTripper {
	if cfg.noResilience {
		return base
	}
	return resilience.NewTransport(base, c.s.destinations)
}
