package contracttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/napkin-kit/napkin/contracttest/pact"
)

// Provider is the other side of contracts: a service as it is composed in
// production, running in the test. Name and Pacts are required, and whatever the
// contracts need of REST, GRPC and Events.
type Provider struct {
	// Name is the service, as its consumers call it.
	Name string
	// Pacts is where its contracts come from.
	Pacts pact.Source

	// REST is the service's HTTP, or URL where it listens.
	REST http.Handler
	URL  string
	// GRPC is a connection to the service, with an identity that it lets in.
	GRPC grpc.ClientConnInterface
	// Events make the events that consumers handle, by the name that contracts give
	// them: each brings about what the name says by the service's real code, and
	// returns the event that this has left behind.
	Events map[string]EventFunc
	// States bring about what contracts are given, by name.
	States map[string]StateFunc

	// Filter alters a request before the service sees it: it puts a good token where
	// the contract has an example. Over gRPC, headers are metadata.
	Filter func(r *http.Request, i Interaction) error
	// Timeout bounds the service's start, and each state, request and event. Defaults
	// to [DefaultTimeout].
	Timeout time.Duration
	// Types describe the service's gRPC services and messages. nil: the generated
	// code that is linked in.
	Types *protoregistry.Files

	// Version is the service's, usually a commit, Branch and BuildURL optional. With a
	// Version, results go to a source that takes them, such as a broker.
	Version, Branch, BuildURL string
}

// Interaction is the exchange that is being verified.
type Interaction struct {
	Consumer string
	// Name is that of the [REST], [GRPC] or [Event].
	Name   string
	States States
}

// EventFunc makes an event. Where it makes none, it returns an error that says so.
type EventFunc func(ctx context.Context, i Interaction) (Message, error)

// StateFunc brings a state about, and says by [State.Cleanup] how it ends.
type StateFunc func(ctx context.Context, s *State) error

// State is a provider state that is being brought about.
type State struct {
	// Name and Params are those of the contract. Numbers are float64.
	Name   string
	Params Params

	cleanups []func(context.Context) error
	values   map[string]any
}

// String returns a parameter that is a string, "" where there is none.
func (s *State) String(name string) string {
	v, _ := s.Params[name].(string)
	return v
}

// Int returns a parameter that is a number, 0 where there is none.
func (s *State) Int(name string) int {
	v, _ := s.Params[name].(float64)
	return int(v)
}

// Decode reads the parameters into v, as encoding/json does.
func (s *State) Decode(v any) error {
	raw, err := json.Marshal(s.Params)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// Set gives the contract a value that is known only now, for match.FromState.
func (s *State) Set(name string, value any) {
	if s.values == nil {
		s.values = map[string]any{}
	}
	s.values[name] = value
}

// Cleanup calls f when the exchange is over, the last one first.
func (s *State) Cleanup(f func(context.Context) error) { s.cleanups = append(s.cleanups, f) }

func (s *State) cleanup(ctx context.Context) error {
	var errs []error
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		errs = append(errs, s.cleanups[i](ctx))
	}
	s.cleanups = nil
	return errors.Join(errs...)
}

// check fills in defaults and refuses what cannot be verified.
func (p *Provider) check() error {
	switch {
	case p.Name == "":
		return errors.New("contracttest: Provider.Name is required")
	case p.Pacts == nil:
		return fmt.Errorf("contracttest: provider %s: Pacts is required, for example pact.Dir(\"../contracts\")", p.Name)
	case p.REST == nil && p.URL == "" && p.GRPC == nil && len(p.Events) == 0:
		return fmt.Errorf("contracttest: provider %s: set REST, URL, GRPC or Events", p.Name)
	case p.REST != nil && p.URL != "":
		return fmt.Errorf("contracttest: provider %s: REST and URL are the same thing; set one", p.Name)
	}
	if p.Timeout <= 0 {
		p.Timeout = DefaultTimeout
	}
	return nil
}

// started waits until the service can be reached.
func (p *Provider) started(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	if p.URL != "" {
		u, err := url.Parse(p.URL)
		if err != nil || u.Host == "" {
			return fmt.Errorf("contracttest: provider %s: URL %q is none", p.Name, p.URL)
		}
		if err := reachable(ctx, u); err != nil {
			return fmt.Errorf("contracttest: provider %s has not started: %s does not answer within %v: %w", p.Name, p.URL, p.Timeout, err)
		}
	}
	conn, ok := p.GRPC.(*grpc.ClientConn)
	if !ok {
		return nil
	}
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if state == connectivity.Shutdown || !conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("contracttest: provider %s has not started: no gRPC connection to %s within %v (%v)", p.Name, conn.Target(), p.Timeout, state)
		}
		if state == connectivity.Idle {
			conn.Connect()
		}
	}
	return nil
}

func reachable(ctx context.Context, u *url.URL) error {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	var d net.Dialer
	var why error
	for {
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
		if err == nil {
			return c.Close()
		}
		var timeout net.Error
		if why == nil || !errors.As(err, &timeout) || !timeout.Timeout() { // our own end says less than a refusal
			why = err
		}
		select {
		case <-ctx.Done():
			return why
		case <-time.After(50 * time.Millisecond): // it may still be starting
		}
	}
}
