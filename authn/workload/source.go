package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"

	"github.com/napkin-kit/napkin/authn"
)

// Config adjusts [Connect].
type Config struct {
	// Timeout bounds the wait for the identity, besides the context. A SPIRE
	// agent learns of a new registration only after some seconds. Defaults to
	// 30 seconds.
	Timeout time.Duration

	// Logger is told of lost and regained contact with the Workload API.
	// Defaults to slog.Default().
	Logger *slog.Logger
}

// Source is the identity that the Workload API keeps giving this process. It
// always holds the newest SVID and bundles; if contact is lost it keeps what
// it has and reconnects with backoff. It is safe for concurrent use.
type Source struct {
	id     spiffeid.ID
	client *workloadapi.Client
	cancel context.CancelFunc
	done   chan struct{} // closed when the watch has ended

	closeOnce sync.Once
	closeErr  error

	mu      sync.RWMutex
	closed  bool
	svid    *x509svid.SVID
	bundles *x509bundle.Set
	offered []spiffeid.ID // of the last update
	lastErr error
	changed chan struct{} // closed and replaced on each update
	logger  *slog.Logger
}

var _ authn.Identity = (*Source)(nil)

// Connect opens the Workload API at socket ("unix:///run/spire/agent.sock" or
// "tcp://127.0.0.1:8081"; "" means $SPIFFE_ENDPOINT_SOCKET) and waits until it
// offers the X.509-SVID of id. Naming the identity is required: a socket may
// offer several, and which one a service speaks as is not to be left to their
// order.
//
// It fails if the socket's form is wrong, or if id has not been offered when
// ctx or the timeout ends; the error says what was offered instead. Close the
// Source to end its connection.
func Connect(ctx context.Context, socket string, id spiffeid.ID, cfg *Config) (*Source, error) {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if id.IsZero() {
		return nil, errors.New("workload: name the SPIFFE ID to run as; an empty one was given")
	}
	if socket == "" {
		var ok bool
		if socket, ok = workloadapi.GetDefaultAddress(); !ok {
			return nil, fmt.Errorf("workload: no Workload API socket: pass one or set %s", workloadapi.SocketEnv)
		}
	}
	if err := workloadapi.ValidateAddress(socket); err != nil {
		return nil, fmt.Errorf("workload: Workload API socket %q: %w", socket, err)
	}
	client, err := workloadapi.New(ctx,
		workloadapi.WithAddr(socket),
		workloadapi.WithBackoffStrategy(backoffStrategy{}),
		workloadapi.WithDialOptions(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: minBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: maxBackoff,
		})),
	)
	if err != nil {
		return nil, fmt.Errorf("workload: Workload API at %s: %w", socket, err)
	}
	watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Source{
		id: id, client: client, cancel: cancel,
		done: make(chan struct{}), changed: make(chan struct{}), logger: c.Logger,
	}
	go s.watch(watchCtx)

	ctx, stop := context.WithTimeout(ctx, c.Timeout)
	defer stop()
	if err := s.wait(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("workload: Workload API at %s: %w", socket, err), s.Close())
	}
	return s, nil
}

// watch runs until Close. The client's own watch gives up on codes that
// usually mean a programming error, but a Workload API that is being replaced
// answers with them too; a running service must outlive that.
func (s *Source) watch(ctx context.Context) {
	defer close(s.done)
	backoff := backoffStrategy{}.NewBackoff()
	for ctx.Err() == nil {
		_ = s.client.WatchX509Context(ctx, watcher{s}) // told to OnX509ContextWatchError
		select {
		case <-time.After(backoff.Next()):
		case <-ctx.Done():
		}
	}
}

// wait returns nil once there is an SVID.
func (s *Source) wait(ctx context.Context) error {
	for {
		s.mu.RLock()
		have, changed := s.svid != nil, s.changed
		s.mu.RUnlock()
		if have {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s.notOffered(ctx)
		}
	}
}

func (s *Source) notOffered(ctx context.Context) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case len(s.offered) > 0:
		names := make([]string, len(s.offered))
		for i, id := range s.offered {
			names[i] = id.String()
		}
		return fmt.Errorf("it offers %s, not %s: check the registration entry: %w", strings.Join(names, ", "), s.id, context.Cause(ctx))
	case s.lastErr != nil:
		return fmt.Errorf("no SVID for %s: %w: %w", s.id, s.lastErr, context.Cause(ctx))
	}
	return fmt.Errorf("no SVID for %s: %w", s.id, context.Cause(ctx))
}

// ID returns the SPIFFE ID that the source was asked for.
func (s *Source) ID() spiffeid.ID { return s.id }

// GetX509SVID returns the newest SVID. It implements x509svid.Source.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, errClosed
	}
	return s.svid, nil
}

// GetX509BundleForTrustDomain returns the newest bundle of domain. It
// implements x509bundle.Source.
func (s *Source) GetX509BundleForTrustDomain(domain spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, errClosed
	}
	return s.bundles.GetX509BundleForTrustDomain(domain)
}

// Updated returns a channel that is closed at the next update of the SVID or
// the bundles, for those who watch rotation. Nothing needs it to stay current.
func (s *Source) Updated() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// Ready returns nil while the source holds an SVID that has not expired: a
// readiness check.
func (s *Source) Ready(context.Context) error {
	svid, err := s.GetX509SVID()
	if err != nil {
		return err
	}
	if notAfter := svid.Certificates[0].NotAfter; time.Now().After(notAfter) {
		return fmt.Errorf("workload: the SVID of %s expired at %s and the Workload API has given no new one", s.id, notAfter.Format(time.RFC3339))
	}
	return nil
}

var errClosed = errors.New("workload: the identity source is closed")

// Close ends the watch and the connection, and waits for both. After it the
// source gives no identity.
func (s *Source) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	<-s.done
	s.closeOnce.Do(func() { s.closeErr = s.client.Close() })
	return s.closeErr
}

// watcher is the Source as the client sees it, so that these methods are not
// part of the Source's own face.
type watcher struct{ s *Source }

func (w watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	s := w.s
	var chosen *x509svid.SVID
	offered := make([]spiffeid.ID, 0, len(update.SVIDs))
	for _, svid := range update.SVIDs {
		offered = append(offered, svid.ID)
		if svid.ID == s.id && chosen == nil {
			chosen = svid
		}
	}
	s.mu.Lock()
	regained := s.lastErr != nil
	s.offered = offered
	if chosen != nil {
		s.svid, s.bundles, s.lastErr = chosen, update.Bundles, nil
	}
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()

	if chosen == nil {
		s.logger.Warn("the Workload API no longer offers this identity; keeping the last one", "spiffe_id", s.id.String())
		return
	}
	if regained {
		s.logger.Info("the Workload API is back", "spiffe_id", s.id.String())
	}
	s.logger.Debug("identity updated", "spiffe_id", s.id.String(), "expires", chosen.Certificates[0].NotAfter)
}

func (w watcher) OnX509ContextWatchError(err error) {
	s := w.s
	s.mu.Lock()
	first := s.lastErr == nil && !s.closed // one line for each outage
	s.lastErr = err
	s.mu.Unlock()
	if first {
		s.logger.Warn("lost the Workload API; reconnecting", "spiffe_id", s.id.String(), "error", err)
	}
}

// The defaults are one second to thirty between watches, and to two minutes
// between connections. The API is a socket on this host: asking it often costs
// nothing, and an SVID may not have two minutes left.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
)

type backoffStrategy struct{}

func (backoffStrategy) NewBackoff() workloadapi.Backoff { return &backoff{} }

type backoff struct{ n int }

func (b *backoff) Next() time.Duration {
	d := min(minBackoff<<min(b.n, 10), maxBackoff)
	b.n++
	return d
}

func (b *backoff) Reset() { b.n = 0 }
