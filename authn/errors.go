package authn

import "errors"

// The sentinels of this package. Every error returned by Verifier, Policy and
// the adapters wraps one of them; test with errors.Is. Their texts, and those
// of the errors that wrap them, are for operators: an adapter sends its caller
// a fixed text per class and never the detail.
var (
	// ErrUnauthenticated is the class of "we do not know who is calling".
	// ErrTokenMissing, ErrTokenInvalid, ErrTokenExpired and ErrPeerUnknown are
	// all of it. It maps to gRPC UNAUTHENTICATED and HTTP 401.
	ErrUnauthenticated = errors.New("authn: unauthenticated")

	// ErrDenied is the class of "we know who is calling, and they may not".
	// ErrScopeMissing is of it. It maps to gRPC PERMISSION_DENIED and HTTP 403.
	ErrDenied = errors.New("authn: permission denied")

	// ErrUnavailable means that a token could not be judged because no usable
	// signing keys could be fetched. It is retryable, says nothing about the
	// caller, and maps to gRPC UNAVAILABLE and HTTP 503.
	ErrUnavailable = errors.New("authn: signing keys unavailable")

	// ErrPeerUnknown: the connection carries no verified SPIFFE ID.
	ErrPeerUnknown = &classified{"authn: no peer identity", ErrUnauthenticated}

	// ErrTokenMissing: the method needs a user and the call carries no token.
	ErrTokenMissing = &classified{"authn: token missing", ErrUnauthenticated}

	// ErrTokenInvalid: the token is malformed, forged, for someone else, or
	// not valid yet.
	ErrTokenInvalid = &classified{"authn: token invalid", ErrUnauthenticated}

	// ErrTokenExpired: the token was good once. The client should refresh it.
	ErrTokenExpired = &classified{"authn: token expired", ErrUnauthenticated}

	// ErrScopeMissing: the user is known and lacks a scope the method asks for.
	ErrScopeMissing = &classified{"authn: scope missing", ErrDenied}
)

// classified is a sentinel that belongs to a wider sentinel.
type classified struct {
	text  string
	class error
}

func (e *classified) Error() string { return e.text }
func (e *classified) Unwrap() error { return e.class }
