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
//	database away, full or in conflict          503 with Retry-After, ErrUnavailable: a retry with the key finds out
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
// The middleware alone protects nothing: a handler that is not InTx's has to ask for
// the key with [Request] and hand it to Do or a TxStore. One that answers 2xx and
// never asked is reported to [ServerConfig].Logger.
//
// Make no remote call inside: it would hold the transaction, and its effect
// would not roll back. A handler that must call out first looks whether the key
// is done with [TxStore].Peek.
//
// # Leased mode
//
// For handlers without a transaction, [ServerConfig].Leased names a [Store]: a
// claim with a token is kept alive while the handler runs and completed with its
// response. [Leases] does the same for other transports.
//
// While its process lives, a handler runs alone for its key, and never again once
// its answer is stored. A process that dies in the handler leaves a claim that
// answers 409 until its lease ends; then the next attempt runs. An effect that the
// dead one had already brought about is then brought about again, unless whoever
// does it is handed the key: that is what transactional mode is for.
//
// The answer is held back until it is stored. A handler that flushes
// (http.ResponseController) is streamed, and stored when it has ended; so is an
// answer above [ServerConfig].MaxStoredBody, of which a retry then gets status and
// headers with "Idempotent-Body: omitted". Where storing fails after the first
// bytes went out, the connection is cut, so that no client takes for an answer
// what a retry would not get.
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
