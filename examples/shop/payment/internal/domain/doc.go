// Package domain holds the rules of payment: how money is asked for at a
// provider that may not answer, and what is known of it at each moment. It
// knows neither SQL nor the wire.
//
// # Two transactions around a call
//
// A call to the provider happens outside any transaction, between two of them:
//
//	T1  [Authorize], [Capture], [Refund], [Void]   record an [Intent]
//	    [Perform]                                  calls, or queries
//	T2  [Settle]                                   records what came of it
//
// An intent is called under its own key, the saga's step key. Once it may have
// been called it is never called again on a guess: the provider is asked what
// became of the key, and only "there is no such operation" leads to another
// call, under the same key.
//
//	recorded → calling → succeeded | refused
//	             ↓  ↑
//	           unknown (a query decides)
//
// # Taking back what is not known
//
// A [Void] that meets an authorisation whose outcome is not known leaves the
// payment in [StateVoidRequested] and reverses by the authorisation's key: the
// provider takes it back if it happened, and refuses it if it is still to
// arrive. The reply waits for that.
package domain
