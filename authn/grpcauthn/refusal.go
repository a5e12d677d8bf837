package grpcauthn

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
)

// refused is what an interceptor returns: on the wire a fixed text per class,
// in this process also the reason, for errors.Is.
type refused struct {
	wire   *status.Status
	reason error
}

func (r *refused) Error() string              { return r.wire.String() }
func (r *refused) GRPCStatus() *status.Status { return r.wire }
func (r *refused) Unwrap() error              { return r.reason }

// refusal maps an error of package authn to the status its caller is sent. The
// text says what class of thing is wrong and never what was compared to what:
// not the rule, not the claim, not the key.
func refusal(reason error) error {
	code, text := codes.Unauthenticated, "the call carries no valid credentials"
	switch {
	case errors.Is(reason, authn.ErrUnavailable):
		code, text = codes.Unavailable, "credentials cannot be checked at the moment"
	case errors.Is(reason, authn.ErrDenied):
		code, text = codes.PermissionDenied, "the caller may not do this"
	case errors.Is(reason, authn.ErrUnauthenticated):
	case errors.Is(reason, context.DeadlineExceeded):
		code, text = codes.DeadlineExceeded, "the deadline passed while credentials were checked"
	case errors.Is(reason, context.Canceled):
		code, text = codes.Canceled, "the call was cancelled while credentials were checked"
	}
	return &refused{wire: status.New(code, text), reason: reason}
}
