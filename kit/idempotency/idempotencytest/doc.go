// Package idempotencytest checks implementations of idempotency.Store and
// idempotency.TxStore.
//
//	func TestConformance(t *testing.T) {
//		idempotencytest.TestStore(t, func(t *testing.T, now func() time.Time) idempotency.Store {
//			return mystore.New(now)
//		})
//	}
//
// Each case gets a fresh store, whose only source of time is now.
package idempotencytest
