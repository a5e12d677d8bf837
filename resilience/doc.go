// Package resilience keeps a call to another service from failing needlessly,
// and keeps a failing service from being called to death.
//
// # A pipeline per destination
//
// Most programs need one value of this package: a [Destinations], which owns
// one [Pipeline] per destination, so that one sick dependency has its own
// breaker, retry budget and concurrency limit:
//
//	dests, err := resilience.NewDestinations(nil) // nil: the defaults
//	client := &http.Client{Transport: resilience.NewTransport(nil, dests)}
//
// and for gRPC (package grpcresilience):
//
//	conn, err := grpc.NewClient(addr, append(opts, grpcresilience.DialOptions(dests, "payments")...)...)
//
// A pipeline can also be called by hand:
//
//	p, err := resilience.NewPipeline("payments", nil)
//	quote, err := resilience.Do(resilience.Idempotent(ctx), p, client.Quote)
//
// # The order, and why
//
// A pipeline composes its parts in the one safe order, outermost first:
//
//		total deadline → retry with budget → throttle → limiter → breaker → bulkhead → attempt timeout → call
//
//	  - Retry is outside the breaker, so that every attempt is judged, and an
//	    open breaker ends the retrying.
//	  - The breaker is outside the bulkhead, so that an open breaker costs no
//	    permit; a full bulkhead is a local rejection and does not count against
//	    the dependency.
//	  - The bulkhead is outside the attempt timeout, so that waiting for a permit
//	    does not eat the attempt's time; and inside retry, so that a call that
//	    sleeps between attempts holds no permit.
//
// [Compose] is for those who know better.
//
// # What is retried
//
// Only what is proven safe to repeat: a call marked by [Idempotent] (the
// adapters mark safe HTTP methods, requests that carry an Idempotency-Key and
// Protobuf methods with an idempotency_level), or an error that proves that
// the request never left ([NeverSent]). A retry is paid from the [Budget], so
// a total outage of length t costs at most 1 + ratio times the calls, plus a
// floor of MinPerSecond·(t + TTL) retries, whatever the latency and the
// backoff. With the defaults the floor is a burst of about 10 retries and then
// one per second, for each destination and process: it is what a rarely called
// destination has, and what many processes with little traffic add up to. A
// retry whose wait would end after the deadline is not slept for. An attempt
// that is already a retry of the caller's is not retried again.
//
// # Outcomes
//
// An error means one of three things for a dependency's health (see [Class]):
// it failed, it answered (a refusal such as "not found" is an answer), or
// nothing can be said. The last is a caller's cancellation and a local
// rejection: neither moves a breaker. Nor does a server that sheds load, which
// says so by 503 with Retry-After or UNAVAILABLE with RetryInfo: it is up, and
// knows better than a breaker which calls to refuse.
//
// # Errors
//
// Rejections decided in this process are a [*Rejection] and match one of
// [ErrOpen], [ErrBulkheadFull], [ErrLimited], [ErrThrottled], [ErrShed].
// A call whose retrying ended is a [*RetryError]: errors.Is sees both the last
// cause and the reason ([ErrBudgetExhausted], [ErrAttemptsExhausted],
// [context.DeadlineExceeded], …). [IsLocalRejection] tells whether the request
// certainly never left this process.
//
// # On the server
//
// [Shedder] limits concurrency to what the latency measured says the server
// can carry, serves [CriticalPlus] before [Sheddable], and drops requests that
// can no longer make their deadline. [Middleware] puts it before an
// http.Handler, package grpcresilience before gRPC methods and streams.
//
// # Telemetry
//
// [Hooks] is a struct of functions, each of which may be nil. They are called
// outside every lock. Pipeline.Snapshot reads the state.
//
// Every type of this package is safe for concurrent use unless it says
// otherwise. There are no globals and no background goroutines.
package resilience
