// Package grpcresilience applies package resilience to gRPC, on the client and
// on the server, to unary calls and streams alike.
//
// # Client
//
// One value of resilience.Destinations serves a whole program. A connection
// names the destination that its calls go to, and shares that destination's
// retry budget, breaker and bulkhead with whatever else calls it:
//
//	dests, err := resilience.NewDestinations(nil) // nil: the defaults
//	conn, err := grpc.NewClient(addr, append(opts, grpcresilience.DialOptions(dests, "payments")...)...)
//
// That is all; the generated client is used as ever. [NewClient] gives the
// interceptors one by one, for chains of one's own.
//
// A unary call passes the whole pipeline: total deadline, retry with budget,
// breaker (per method, where BreakerConfig.MaxEndpoints asks for it), bulkhead,
// attempt timeout. Where Config.Hedge is on, a slow attempt gets another one
// beside it; each has its own reply, header, trailer and peer, and the caller
// sees those of the one that decided. Only replies that are a proto.Message are
// hedged.
//
// A stream passes throttle, limiter, breaker and bulkhead when it starts, holds
// its permit until it ends, and its end is what the breaker judges. Its first
// message is what decides where the end may be far: it makes a probe of a half-open
// breaker a success, it must come within BreakerConfig.SlowCall, and after it the
// caller's own deadline is a way to end and no failure. A stream is
// neither retried nor hedged, since what has been sent on it cannot be sent
// again, and has no deadline but its context's. As with any stream of gRPC,
// read it to its end or cancel its context: that is when the permit comes back.
//
// # What is retried
//
// A call is repeated only if that is proven safe:
//
//   - its method declares an idempotency_level in Protobuf
//     (option idempotency_level = NO_SIDE_EFFECTS or IDEMPOTENT),
//   - or it carries the metadata "idempotency-key",
//   - or its context is marked by resilience.Idempotent,
//   - or it provably never reached a connection.
//
// And only if its code says that it may help: UNAVAILABLE, DEADLINE_EXCEEDED
// while the caller's own deadline leaves time, and RESOURCE_EXHAUSTED if the
// server says when to come back. See [Classify]. A server's pushback (RetryInfo
// details, the trailer "grpc-retry-pushback-ms" of gRFC A6) is honoured, up to
// RetryConfig.MaxRetryAfter; a negative one means that there is no retry.
//
// grpc's own configurable retries are turned off. An attempt that is a retry or a
// hedge says so ("x-retry-attempt"), and a server of this package that trusts its
// callers then does not repeat the calls that it makes for it: retries happen at
// one level of the call tree.
//
// # Server
//
//	shedder, err := resilience.NewShedder(nil) // one per process
//	guard, err := grpcresilience.NewServer(&grpcresilience.ServerConfig{Shedder: shedder})
//	server := grpc.NewServer(
//		grpc.ChainUnaryInterceptor(guard.Unary),
//		grpc.ChainStreamInterceptor(guard.Stream),
//	)
//
// It gives each unary call a deadline where the caller set none (10 s by
// default), reads the criticality ("x-criticality") if it may trust its callers,
// and sheds what the process cannot carry, the least critical first. Put it
// after what says who is calling, and before validation and the handler.
// [CeilingUnary] and [CeilingStream] are a cheaper, cruder bound to put before
// everything else.
//
// # Errors
//
// Rejections have a status, never UNKNOWN:
//
//	breaker open, throttled, shed          UNAVAILABLE
//	bulkhead full, ceiling or rate limit   RESOURCE_EXHAUSTED
//	deadline over before it began          DEADLINE_EXCEEDED
//	destination without a name, or with a  INTERNAL
//	bad configuration
//
// RetryInfo says when to come back, where that is known. On the side that raised
// them they match the sentinels of package resilience with errors.Is, and
// resilience.IsLocalRejection tells that nothing was sent. A call whose retrying
// ended has the code of its last attempt, and is a *resilience.RetryError with
// the reason. [StatusError] does the same for errors of policies called by hand.
package grpcresilience
