// Package idempotency makes a write that is sent twice happen once, and answers
// the second time what was answered the first.
//
// A client sends the header Idempotency-Key (draft-ietf-httpapi-idempotency-key-header)
// or the gRPC metadata of the same name. The server keeps the key with the
// result:
//
//	key missing where required                  400, ErrKeyMissing
//	same key, another request                   422, ErrMismatch
//	same key, still running                     409 with Retry-After, ErrInProgress
//	same key, done                              the stored answer, Idempotent-Replayed: true
//	429, 5xx, panic, client gone before commit  nothing is kept; the key is free again
//	crash                                       what committed is replayed, what did not runs again
//
// # Transactional mode
//
// The default, for handlers with a database transaction: the result commits in
// the very transaction of the effect, so there is no lease and no moment where
// one is there without the other. [Middleware] parses the key, [InTx] (or [Do],
// or a [TxStore] by hand) does the rest:
//
//	mw, err := idempotency.Middleware(idempotency.ServerConfig{Scope: userOf})
//	store, err := sqlidempotency.New(sqldb.Postgres, nil)
//	mux.Handle("POST /v1/orders", mw(idempotency.InTx(store, sqldb.Std(db),
//		func(ctx context.Context, tx *sql.Tx, r *http.Request) (idempotency.Response, error) {
//			…
//		})))
//
// Make no remote call inside: it would hold the transaction, and its effect
// would not roll back. A handler that must call out first looks whether the key
// is done with [TxStore].Peek.
//
// # Leased mode
//
// For handlers without a transaction, [ServerConfig].Leased names a [Store]: a
// claim with a token is kept alive while the handler runs and completed with its
// response. A handler that crashes after its effect runs again once the lease
// has expired: that is what transactional mode is for.
//
// # Scope
//
// A key is unique for a scope (the end user, else the calling service) and an
// operation; one user's key never meets another's. One service is the authority
// for an operation; those before it forward the key.
//
// # Clients
//
// [NewTransport] gives each request one key, outside of the retries. [WithKey]
// sets the key of the calls made under a context; sagas set their step's key.
package idempotency
