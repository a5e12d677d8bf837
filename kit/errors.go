package kit

import (
	"errors"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
	"github.com/napkin-kit/napkin/resilience"
)

// Problem returns how err is answered, by gRPC and HTTP alike; never nil. It knows
// the errors of every package of this module: problems and gRPC statuses are taken
// as they are; refusals by authn, resilience and idempotency get their status;
// anything else is a 500 that gives nothing away. The result wraps err.
func Problem(err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok && p != nil {
		return p
	}
	if p := known(err); p != nil {
		return p.Because(err)
	}
	return grpcproblem.Of(err)
}

// WriteError answers an HTTP request with [Problem] of err, as problem+json.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	problem.Write(w, r, Problem(err))
}

// known maps the sentinel errors of this module's packages; nil for others.
func known(err error) *problem.Problem {
	if rejected, ok := errors.AsType[*resilience.Rejection](err); ok {
		p := problem.New(resilience.HTTPStatus(err), "unavailable", "the service is not available right now")
		if p.Status == http.StatusTooManyRequests {
			p.Code, p.Detail = "rate_limited", "too many requests"
		}
		p.RetryAfter = rejected.After
		return p
	}
	switch {
	case errors.Is(err, authn.ErrUnavailable):
		p := problem.New(http.StatusServiceUnavailable, "unavailable", "credentials cannot be checked at the moment")
		p.RetryAfter = time.Second
		return p
	case errors.Is(err, authn.ErrScopeMissing), errors.Is(err, authn.ErrDenied):
		return problem.New(http.StatusForbidden, "permission_denied", "the caller may not do this")
	case errors.Is(err, authn.ErrTokenExpired):
		return problem.New(http.StatusUnauthorized, "token_expired", "the access token has expired")
	case errors.Is(err, authn.ErrUnauthenticated):
		return problem.New(http.StatusUnauthorized, "unauthenticated", "the call carries no valid credentials")
	}
	return nil
}

// statusOf returns the status that a gRPC handler's error is answered with.
func statusOf(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	if _, ok := errors.AsType[*problem.Problem](err); !ok {
		var carrier interface{ GRPCStatus() *status.Status }
		if !errors.As(err, &carrier) {
			if p := known(err); p != nil {
				return grpcproblem.ToStatus(p)
			}
		}
	}
	return grpcproblem.ToStatus(err)
}
