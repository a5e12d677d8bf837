package idempotency

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// What goes wrong. Each is also a *problem.Problem for errors.As, so that
// problem.Write and grpcproblem.ToStatus answer it rightly wherever it ends up.
var (
	// ErrKeyMissing: the operation requires a key and there is none. 400.
	ErrKeyMissing error = &failure{http.StatusBadRequest, "idempotency_key_missing", "send an Idempotency-Key header with a value of your own for each new request, and the same value to retry it", 0}
	// ErrKeyInvalid: the key does not parse. 400.
	ErrKeyInvalid error = &failure{http.StatusBadRequest, "idempotency_key_invalid", "the Idempotency-Key is not valid: send 1 to 255 visible ASCII characters", 0}
	// ErrMismatch: the key was used for another request. 422.
	ErrMismatch error = &failure{http.StatusUnprocessableEntity, "idempotency_key_reused", "this Idempotency-Key was used for another request; send a new one", 0}
	// ErrInProgress: a request with this key is still running. 409.
	ErrInProgress error = &failure{http.StatusConflict, "idempotency_in_progress", "a request with this Idempotency-Key is still being worked on; ask again", time.Second}
	// ErrLeaseLost: the claim expired and belongs to somebody else. 409.
	ErrLeaseLost error = &failure{http.StatusConflict, "idempotency_lease_lost", "this request took too long and is being worked on again; ask again", time.Second}
	// ErrTooLarge: the response is above the store's bound and cannot be kept. 500.
	ErrTooLarge error = &failure{http.StatusInternalServerError, "idempotency_response_too_large", "the answer is too large to be stored", 0}
	// ErrFull: the store holds as many keys as it may. 503.
	ErrFull error = &failure{http.StatusServiceUnavailable, "idempotency_store_full", "too many requests are remembered right now; try again later", 5 * time.Second}
	// ErrUnavailable: the database of keys cannot be reached, is full, or gave up
	// on a conflict. Whether a transaction that was committing holds is not known
	// then; a retry with the same key finds out. 503.
	ErrUnavailable error = &failure{http.StatusServiceUnavailable, "idempotency_store_unavailable", "this request could not be worked on, or its outcome is not known yet; send it again with the same Idempotency-Key", time.Second}
)

// unavailable makes ErrUnavailable of a database's failure to work at all, which
// says nothing about the request. Any other error is returned as it is.
func unavailable(err error) error {
	if err == nil || !sqldb.IsUnavailable(err) && !sqldb.IsRetryable(err) {
		return err
	}
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// failure is a sentinel that knows how it is answered.
type failure struct {
	status     int
	code       string
	detail     string
	retryAfter time.Duration
}

func (f *failure) Error() string { return "idempotency: " + f.detail }

// As makes a problem of the sentinel, for errors.As.
func (f *failure) As(target any) bool {
	p, ok := target.(**problem.Problem)
	if !ok {
		return false
	}
	q := problem.New(f.status, f.code, f.detail)
	q.RetryAfter = f.retryAfter
	*p = q.Because(f)
	return true
}
