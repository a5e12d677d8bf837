package idempotency

import (
	"context"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Response is the result of an operation, as it is stored and answered again.
type Response struct {
	// Code is the transport's: an HTTP status, or 0 (OK) for gRPC, where only
	// successes are stored.
	Code int
	// Header holds what is answered again beside the body. Over HTTP only the
	// headers named in ServerConfig.StoreHeaders are stored.
	Header map[string][]string
	// ContentType describes Body.
	ContentType string
	// Body is the encoded answer.
	Body []byte
	// BodyOmitted says that the body was too large to be stored (leased mode).
	BodyOmitted bool
}

// TxStore keeps results in the transaction of their effect. See sqlidempotency.
type TxStore interface {
	// Begin takes the key for the rest of the transaction. It returns the
	// stored response where the operation is done: answer that and do nothing.
	// It returns ErrInProgress where another transaction works on the key, and
	// ErrMismatch where the key belongs to another request.
	Begin(ctx context.Context, tx sqldb.Tx, k Key) (*Response, error)
	// Complete stores the response; it holds once the transaction commits.
	// It returns ErrInProgress where another transaction completed the key
	// meanwhile (roll back), and ErrTooLarge.
	Complete(ctx context.Context, tx sqldb.Execer, k Key, r Response) error
	// Peek returns the stored response, or nil, without taking the key.
	Peek(ctx context.Context, db *sqldb.DB, k Key) (*Response, error)
}

// Store keeps results for handlers without a transaction (leased mode).
// Implementations pass idempotencytest.TestStore.
type Store interface {
	// Claim takes the key for ttl. It returns the stored response where the
	// operation is done, ErrInProgress where a live claim has the key, and
	// ErrMismatch where the key belongs to another request. A claim that has
	// expired is taken over by the same request.
	Claim(ctx context.Context, k Key, ttl time.Duration) (Claim, *Response, error)
	// Renew extends a claim to ttl from now; ErrLeaseLost where it expired and was
	// taken over, completed or released.
	Renew(ctx context.Context, c Claim, ttl time.Duration) error
	// Complete stores the response, of which it keeps copies; ErrLeaseLost as in
	// Renew, and ErrTooLarge. A claim that has expired but was not taken over can
	// still be completed.
	Complete(ctx context.Context, c Claim, r Response) error
	// Release frees the key, as if it had never been claimed; ErrLeaseLost as
	// in Renew.
	Release(ctx context.Context, c Claim) error
}

// Claim is the right to work on a key. Its token proves it.
type Claim struct {
	Key   Key
	Token string
}

// Do runs fn once for the key, in a transaction of r with its result. replayed
// reports that the response is one stored earlier and fn did not run. Where fn
// returns an error nothing is stored, and the error is returned as it is. A
// database that cannot be reached, that is full or that gave up is ErrUnavailable.
//
// Look first with s.Peek where replays are frequent: it needs no transaction.
func Do[T any](ctx context.Context, s TxStore, r sqldb.Runner[T], k Key, fn func(ctx context.Context, tx T) (Response, error)) (resp Response, replayed bool, err error) {
	own := false // fn's error
	err = r.InTx(ctx, func(ctx context.Context, tx T) error {
		stored, err := s.Begin(ctx, r.Wrap(tx), k)
		if err != nil {
			return err
		}
		if stored != nil {
			resp, replayed = *stored, true
			return nil
		}
		if resp, err = fn(ctx, tx); err != nil {
			own = true
			return err
		}
		return s.Complete(ctx, r.Wrap(tx), k, resp)
	})
	if err != nil && !own {
		err = unavailable(err)
	}
	if err != nil {
		return Response{}, false, err
	}
	return resp, replayed, nil
}
