package grpcauthn

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/napkin-kit/napkin/authn"
)

// Server authenticates and authorizes each call before its handler sees
// anything of it, in this order: the caller's workload identity, the policy's
// rule for it, the user's token, the policy's rule for the user. Its methods
// Unary and Stream are interceptors that do exactly the same.
//
// The zero Server denies every call. A Server must not be changed once in use;
// it is safe for concurrent use.
type Server struct {
	// Policy decides. Nil denies everything.
	Policy *authn.Policy

	// Verifier checks users' tokens. It may be nil if no rule of Policy looks
	// at one (Policy.NeedsVerifier); calls that need it are refused otherwise.
	Verifier *authn.Verifier

	// Peer tells the caller's SPIFFE ID. Defaults to [PeerID], the identity of
	// the mTLS connection. Replace it only behind a mesh sidecar that
	// terminates mTLS and vouches for the caller by other means.
	Peer func(ctx context.Context) (spiffeid.ID, error)

	// Denied, if set, is called for each refused call with the caller as far
	// as it is known (zero if not) and the detailed reason, which the caller
	// is not told. It must be quick and safe for concurrent use.
	Denied func(ctx context.Context, method string, caller spiffeid.ID, reason error)
}

// UnaryServer returns the unary interceptor of a [Server] with the given
// policy and verifier.
func UnaryServer(policy *authn.Policy, verifier *authn.Verifier) grpc.UnaryServerInterceptor {
	return (&Server{Policy: policy, Verifier: verifier}).Unary
}

// StreamServer returns the stream interceptor of a [Server] with the given
// policy and verifier.
func StreamServer(policy *authn.Policy, verifier *authn.Verifier) grpc.StreamServerInterceptor {
	return (&Server{Policy: policy, Verifier: verifier}).Stream
}

// Unary is a grpc.UnaryServerInterceptor.
func (s *Server) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := s.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Stream is a grpc.StreamServerInterceptor. The caller is judged when the
// stream opens; a handler that keeps one open past the user's token may look
// at Principal.Expires.
func (s *Server) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := s.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(srv, &admittedStream{ServerStream: ss, ctx: ctx})
}

type admittedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *admittedStream) Context() context.Context { return s.ctx }

// Check compares the policy with the services registered on srv, as
// authn.Policy.Check does, and that there is a Verifier if a rule needs one.
// Call it after the last registration and before Serve.
func (s *Server) Check(srv *grpc.Server) error {
	if s.Verifier == nil && s.Policy.NeedsVerifier() {
		return errors.New("grpcauthn: the policy looks at users' tokens and Server.Verifier is nil: set it")
	}
	return s.Policy.Check(Methods(srv))
}

// Methods lists the full names of all methods registered on srv, sorted.
func Methods(srv interface {
	GetServiceInfo() map[string]grpc.ServiceInfo
}) []string {
	var methods []string
	for service, info := range srv.GetServiceInfo() {
		for _, m := range info.Methods {
			methods = append(methods, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(methods)
	return methods
}

// admit returns the context with the principal, or the status to refuse with.
func (s *Server) admit(ctx context.Context, method string) (context.Context, error) {
	caller, principal, err := s.identify(ctx, method)
	if err != nil {
		if s.Denied != nil {
			s.Denied(ctx, method, caller, err)
		}
		return nil, refusal(err)
	}
	return authn.WithPrincipal(ctx, principal), nil
}

func (s *Server) identify(ctx context.Context, method string) (spiffeid.ID, authn.Principal, error) {
	peerID := s.Peer
	if peerID == nil {
		peerID = PeerID
	}
	caller, err := peerID(ctx)
	if err != nil {
		return spiffeid.ID{}, authn.Principal{}, fmt.Errorf("%w: %w", authn.ErrPeerUnknown, err)
	}
	userRule, err := s.Policy.AuthorizePeer(method, caller)
	if err != nil {
		return caller, authn.Principal{}, err
	}
	var principal authn.Principal
	if userRule != authn.NoUser {
		if principal, err = s.user(ctx); err != nil {
			return caller, authn.Principal{}, err
		}
	}
	principal.Workload = caller
	if err := s.Policy.Authorize(method, caller, &principal); err != nil {
		return caller, authn.Principal{}, err
	}
	return caller, principal, nil
}

// user verifies the call's token; no token gives the zero principal.
func (s *Server) user(ctx context.Context) (authn.Principal, error) {
	values := metadata.ValueFromIncomingContext(ctx, authorization)
	switch len(values) {
	case 0:
		return authn.Principal{}, nil
	case 1:
	default:
		// Two tokens would let this service and the next one see two users.
		return authn.Principal{}, fmt.Errorf("%w: more than one authorization value", authn.ErrTokenInvalid)
	}
	raw, err := authn.ParseBearer(values[0])
	if err != nil {
		return authn.Principal{}, err
	}
	if s.Verifier == nil {
		return authn.Principal{}, fmt.Errorf("%w: the server has no verifier", authn.ErrUnavailable)
	}
	return s.Verifier.Verify(ctx, raw)
}

// PeerID returns the SPIFFE ID of the other end of the call's mTLS connection,
// which must have been made with authn.ServerTLS or authn.ClientTLS. It
// returns [authn.ErrPeerUnknown] if there is none.
func PeerID(ctx context.Context) (spiffeid.ID, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return spiffeid.ID{}, authn.ErrPeerUnknown
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return spiffeid.ID{}, authn.ErrPeerUnknown
	}
	return authn.PeerID(info.State)
}

const authorization = "authorization"

func bearer(token string) string { return "Bearer " + token }
