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
// and for gRPC (package grpcresilience), and for what publishes events (package
// eventresilience):
//
//	conn, err := grpc.NewClient(addr, append(opts, grpcresilience.DialOptions(dests, "payments")...)...)
//	publisher := eventresilience.Publisher(dests, "nats", broker)
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
//		total deadline → retry with budget → hedge → throttle → limiter → breaker → bulkhead → attempt timeout → call
//
//	  - The total deadline is outermost, so that it bounds waits and attempts
//	    together, and a retry that cannot be over in time is not begun.
//	  - Retry is outside the breaker, so that every attempt is judged, and an
//	    open breaker ends the retrying.
//	  - The hedge is inside retry and pays from the same budget: what is repeated
//	    for whatever reason is repeated within one bound.
//	  - Throttle and limiter stand before the breaker: they only say yes or no, and
//	    what they refuse is no outcome of the dependency's.
//	  - The breaker is outside the bulkhead, so that an open breaker costs no
//	    permit; a full bulkhead is a local rejection and does not count against
//	    the dependency.
//	  - The bulkhead is outside the attempt timeout, so that waiting for a permit
//	    does not eat the attempt's time; and inside retry, so that a call that
//	    sleeps between attempts holds no permit.
//
// [Compose] is for those who know better.
//
// # The defaults, and where they come from
//
// A zero Config is meant to be kept. Each figure can be changed, and each part
// has a field Off, or On where it is off by default.
//
//	Deadline   10 s in all, 3 s an attempt: three attempts fit. SRE book, ch. 22: deadlines
//	           everywhere, set by the caller, passed on.
//	Retry      3 attempts: SRE book, ch. 21 (gRPC A6 allows 5 at most); the wait uniform in
//	           [0, 50 ms·2ⁿ], at most 2 s: full jitter (M. Brooker, "Exponential Backoff and
//	           Jitter", 2015). Retry-After, RetryInfo and pushback are kept up to 10 s.
//	Budget     0.1 retries per call: the SRE book's 10 % per client, half of Finagle's 20 %.
//	           1/s on top where Finagle has 10/s, since there is one for each destination and
//	           process; unused for 10 s it is gone, as in Finagle's RetryBudget. Half of a call's
//	           deposit is paid by success only (M. Brooker, "Fixing retries with token buckets
//	           and circuit breakers", 2022).
//	Breaker    half of at least 20 calls within 10 s failed: resilience4j's and Hystrix' 50 %
//	           and Hystrix' volume of 20 and window of 10 s. Open for 1 s, then 3 probes of at
//	           most 5 s.
//	Bulkhead   256 in flight, none waits: a queue at the client is time taken from the deadline.
//	Hedge      off. 100 ms, one extra attempt, when on; better the 95th percentile (J. Dean and
//	           L. A. Barroso, "The Tail at Scale", 2013).
//	Throttle   off. K = 2 over 2 min when on: SRE book, ch. 21.
//	Limiter    off. x/time/rate's token bucket.
//	Shedder    limit 32 at first, from 8 to 1024, tolerance 1.5, smoothing 0.2, long window 600:
//	           Gradient2 of Netflix' concurrency-limits. 64 may wait, 100 ms at most: measured
//	           in resilience/sim, a short queue is what ends a metastable failure.
//
// The budget bounds how much harm retries do; whether a server recovers from an
// overload is decided by its queue. Simulated in resilience/sim: use both sides.
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
// # Memory
//
// Destinations are bounded in number and forgotten when idle, limiter keys are
// bounded, endpoints are bounded, and none of the names that are kept can be made
// long by who chooses it. A million distinct hosts or keys hold less than 64 MiB
// with the defaults, which a test measures.
//
// # Telemetry
//
// [Hooks] and [ShedderHooks] are structs of functions, each of which may be nil.
// They are called outside every lock, on the goroutine of the call.
// [Pipeline.Snapshot], [Destinations.Snapshot] and [Shedder.Snapshot] read the
// state; no lock is held while a hook runs or a caller looks at a snapshot. Package
// telemetry/instrument turns them into these metrics; who reports in another way
// will want the same:
//
//	Hooks.Done              napkin.resilience.calls          counter by destination, outcome: ok, error, rejected, canceled
//	Hooks.Retry             napkin.resilience.retries        counter by destination
//	Hooks.GaveUp            napkin.resilience.gave_up        counter by destination, reason: budget, attempts, deadline, canceled, rejected
//	Hooks.Rejected          napkin.resilience.rejected       counter by destination, policy: breaker, bulkhead, limiter, throttle
//	Hooks.Hedged            napkin.resilience.hedges         counter by destination
//	Hooks.BreakerState      napkin.resilience.breaker.state  gauge by destination: 0 closed, 1 half-open, 2 open
//	Snapshot.Budget         napkin.resilience.budget         gauge by destination: retries that could be made now
//	Snapshot.InFlight       napkin.resilience.in_flight      gauge by destination: calls with a permit
//	Snapshot.Waiting        napkin.resilience.waiting        gauge by destination: calls that wait for one
//	ShedderHooks.Shed       napkin.shedder.shed              counter by criticality, reason: full, wait, deadline, displaced
//	ShedderSnapshot.Limit   napkin.shedder.limit             gauge: requests that may be in service
//	ShedderSnapshot.InFlight napkin.shedder.in_flight        gauge: requests in service
//
// The destination of a breaker that belongs to an endpoint is "destination
// endpoint". A breaker that is forgotten is reported closed.
//
// Every type of this package is safe for concurrent use unless it says
// otherwise. There are no globals, and no goroutines but a hedge's attempts.
package resilience
