// Package grpcresilience applies package resilience to gRPC, to unary calls and
// streams alike.
//
// # Client
//
//	conn, err := grpc.NewClient(addr, append(opts, grpcresilience.DialOptions(dests, "payments")...)...)
//
// A unary call passes the destination's whole pipeline. A stream passes
// throttle, limiter, breaker and bulkhead when it starts, holds its permit until
// it ends, and its end is what the breaker judges. It is not retried: what has
// been sent on it cannot be sent again.
//
// A call is repeated if its method declares an idempotency_level in Protobuf,
// if it carries the metadata "idempotency-key", if its context is marked by
// resilience.Idempotent, or if it provably never reached a connection. Server
// pushback (RetryInfo details, "grpc-retry-pushback-ms") is honoured, within
// RetryConfig.MaxRetryAfter. grpc's own configurable retries are turned off, so
// that nothing retries on top of a retry.
//
// # Server
//
//	guard, err := grpcresilience.NewServer(&grpcresilience.ServerConfig{Shedder: shedder})
//	grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream)
//
// # Errors
//
// Rejections are UNAVAILABLE (breaker, throttle, shedding) or
// RESOURCE_EXHAUSTED (bulkhead, rate limit), with RetryInfo where the time is
// known, and match the sentinels of package resilience with errors.Is on the
// side that raised them.
package grpcresilience
