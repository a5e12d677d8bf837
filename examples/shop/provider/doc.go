// Package provider simulates a payment provider: an outsider with its own
// ledger, reached over HTTP, that is slow, ambiguous and unavailable when asked
// to be. The shop's payment service is written against this API as it would be
// against a real one, and `shop check` compares the two ledgers.
//
//	sim, err := provider.New(ctx, provider.Config{DB: db, Key: "sk_test"})
//	srv := &http.Server{Handler: sim.Handler()}
//
// # API
//
// Every request carries "Authorization: Bearer <key>", every POST an
// "Idempotency-Key". Bodies are JSON; amounts are in minor units.
//
//	POST /v1/authorizations                  {amount, currency, reference, card{number, exp_month, exp_year}}
//	POST /v1/authorizations/{id}/capture     {amount}
//	POST /v1/authorizations/{id}/void        {}
//	POST /v1/authorizations/{id}/refund      {amount}
//	POST /v1/operations/{key}/reverse        {}
//	GET  /v1/operations/{key}
//	GET  /v1/ledger[?reference=…]
//
// A POST answers with the [Operation]: 201 succeeded, 202 pending, 402
// declined, 409 refused (the state of the authorisation forbids it). The same
// key with the same body gives the same answer; with another body 422. A 5xx or
// a lost connection says nothing about the outcome: ask GET
// /v1/operations/{key}, where 404 means that no such operation was recorded.
//
// Reverse takes back whatever the key did, and where it did nothing makes sure
// that it never will: the operation is then refused should it still arrive.
// Card networks have the same message for an authorisation whose answer was
// lost (ISO 8583's 0400).
//
// # Test cards
//
// See [Cards]. Any other number that passes the Luhn check succeeds.
package provider
