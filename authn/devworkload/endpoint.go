package devworkload

import (
	"context"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// endpoint is the Workload API as one identity sees it.
type endpoint struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	issuer *Issuer
	id     spiffeid.ID
	server *grpc.Server
	renew  chan struct{} // buffered: a pending wish to renew

	mu      sync.Mutex
	current issued
	bundle  []byte
	changed chan struct{} // closed and replaced on each renewal
}

func newEndpoint(i *Issuer, id spiffeid.ID) (*endpoint, error) {
	e := &endpoint{issuer: i, id: id, renew: make(chan struct{}, 1), changed: make(chan struct{})}
	if err := e.reissue(); err != nil {
		return nil, err
	}
	e.server = grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(requireHeaderUnary),
		grpc.StreamInterceptor(requireHeaderStream),
		grpc.MaxRecvMsgSize(64<<10), // requests hold an audience or a token
	)
	workload.RegisterSpiffeWorkloadAPIServer(e.server, e)
	return e, nil
}

// reissue gets the next SVID and tells everyone who watches.
func (e *endpoint) reissue() error {
	next, err := e.issuer.ca.issue(e.id)
	if err != nil {
		return err
	}
	bundle := e.issuer.ca.bundle()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.current, e.bundle = next, bundle
	close(e.changed)
	e.changed = make(chan struct{})
	return nil
}

func (e *endpoint) snapshot() (issued, []byte, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current, e.bundle, e.changed
}

func (e *endpoint) renewNow() {
	select {
	case e.renew <- struct{}{}:
	default: // one is pending and will carry what changed
	}
}

// rotate renews the SVID at half of its life, until the issuer is closed.
func (e *endpoint) rotate() {
	for {
		current, _, _ := e.snapshot()
		timer := time.NewTimer(max(time.Until(current.renewAt), 0))
		select {
		case <-timer.C:
		case <-e.renew:
		case <-e.issuer.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		if err := e.reissue(); err != nil {
			e.issuer.cfg.Logger.Error("dev workload API cannot renew an SVID", "spiffe_id", e.id.String(), "error", err)
			select {
			case <-time.After(time.Second):
			case <-e.issuer.ctx.Done():
				return
			}
		}
	}
}

// FetchX509SVID sends the SVID, its key and the bundle, and each renewal.
func (e *endpoint) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return e.each(stream.Context(), func(current issued, bundle []byte) error {
		return stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
			SpiffeId:    e.id.String(),
			X509Svid:    current.certDER,
			X509SvidKey: current.keyDER,
			Bundle:      bundle,
		}}})
	})
}

// FetchX509Bundles sends the trust domain's bundle, and each change.
func (e *endpoint) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return e.each(stream.Context(), func(_ issued, bundle []byte) error {
		return stream.Send(&workload.X509BundlesResponse{
			Bundles: map[string][]byte{e.issuer.domain.IDString(): bundle},
		})
	})
}

// each calls send now and after each renewal. The stream ends with UNAVAILABLE
// when the issuer closes: go-spiffe takes CANCELED as a wish not to come back.
func (e *endpoint) each(ctx context.Context, send func(issued, []byte) error) error {
	for {
		current, bundle, changed := e.snapshot()
		if err := send(current, bundle); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-e.issuer.ctx.Done():
			return status.Error(codes.Unavailable, "the issuer is closing")
		}
	}
}

// requireHeader enforces the header that the Workload API asks of its clients,
// so that a request forged through a browser or a proxy does not pass (SPIFFE
// Workload Endpoint, section 3).
func requireHeader(ctx context.Context) error {
	if v := metadata.ValueFromIncomingContext(ctx, "workload.spiffe.io"); len(v) == 1 && v[0] == "true" {
		return nil
	}
	return status.Error(codes.InvalidArgument, "security header missing from request: workload.spiffe.io: true")
}

func requireHeaderUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := requireHeader(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func requireHeaderStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := requireHeader(ss.Context()); err != nil {
		return err
	}
	return handler(srv, ss)
}
