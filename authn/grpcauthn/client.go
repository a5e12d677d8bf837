package grpcauthn

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/napkin-kit/napkin/authn"
)

// ForwardToken returns the dial option that sends the token of the context's
// principal along with each call, unary and stream alike, so that the next
// service can check the user for itself. A call whose context carries no
// principal, or one without a token, goes out without.
//
// The token is never sent over a connection that is not encrypted: such a call
// fails with UNAUTHENTICATED before anything is sent.
func ForwardToken() grpc.DialOption {
	return grpc.WithPerRPCCredentials(forward{encrypted: true})
}

// ForwardTokenThroughMesh is [ForwardToken] over a plaintext connection, for
// use only where a mesh sidecar on this host encrypts it.
func ForwardTokenThroughMesh() grpc.DialOption {
	return grpc.WithPerRPCCredentials(forward{encrypted: false})
}

type forward struct{ encrypted bool }

var _ credentials.PerRPCCredentials = forward{}

func (f forward) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	p, _ := authn.PrincipalFrom(ctx)
	token := p.BearerToken()
	if token == "" {
		return nil, nil
	}
	return map[string]string{authorization: bearer(token)}, nil
}

func (f forward) RequireTransportSecurity() bool { return f.encrypted }
