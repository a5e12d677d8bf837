// Package kit is the chassis of a service: one call gives it a gRPC server, an HTTP
// server, clients for its peers, an admin endpoint, and a life from start to drained
// stop. Everything underneath is a package of its own and can be used without it.
//
//	svc, err := kit.New(ctx, policy, kit.Config{Name: "order", Identity: id, Peers: peers})
//	if err != nil {
//		return err
//	}
//	orderv1.RegisterOrderServiceServer(svc, server)
//	svc.Ready("database", db.Ping)
//	svc.Go("outbox relay", relay.Run)
//	return svc.Run(ctx)
//
// # What a request passes through
//
// Unary calls and streams alike, from outside inwards:
//
//	telemetry → recover → correlation → in-flight ceiling → peer identity → user token
//	→ policy → deadline → shedding → validation → idempotency → handler
//
// The cheapest refusals stand first; nothing is read of a request before its caller is
// known; a request waits for nothing it could not use. The gRPC listener is mTLS with
// SPIFFE identities. The HTTP listener is too, unless Config.PublicHTTP says that it
// is the edge: then it speaks plain HTTP, for a browser or a load balancer in front.
//
// # What a call to a peer passes through
//
//	correlation → idempotency key → call span → retry with budget → breaker → bulkhead
//	→ attempt timeout and span → mTLS
//
// [Service.Dial] and [Service.HTTPClient] switch all of it on, gRPC and HTTP with one
// budget, breaker and bulkhead for each peer. Config.Resilience configures it for all
// peers, Peer.Resilience for one:
//
//	kit.Peer{Addr: addr, ID: id, Resilience: func(c *resilience.Config) {
//		c.Deadline.Total, c.Deadline.Attempt = 30*time.Second, 10*time.Second
//		c.Retry.Off = true
//	}}
//
// # Off switches
//
// Each part can be left out by itself.
//
//	calls to peers
//	  deadline, retry, budget, breaker, bulkhead   Resilience.Deadline.Off, .Retry.Off, …;
//	                                               NAPKIN_RESILIENCE_OFF=retry,order=breaker
//	  all of these for one connection              WithoutResilience
//	  idempotency key, call span, user's token     WithoutIdempotencyKey, WithoutCallSpan, WithoutToken
//	  hedge, throttle, rate limit                  off; Resilience.Hedge.On, .Throttle.On, .Limiter
//	requests from callers
//	  deadline                                     DefaultDeadline, StreamDeadline: negative
//	  in-flight ceiling                            MaxInFlight: negative
//	  shedding                                     NoShedding; NAPKIN_SHEDDING=off
//	  validation                                   NoValidation
//	  idempotency                                  Idempotency: left empty
//	  line in the log                              NoAccessLog; NAPKIN_ACCESS_LOG=off
//
// Identity, policy and recovery from panics have none.
//
// # Errors
//
// Handlers return package kit/problem's errors, gRPC statuses, or any error at all.
// Callers get a status that tells them what is theirs to know; the log has the rest.
// [Problem] says how an error will be answered.
//
// # Shutdown
//
// When Run's context ends: not ready → drain delay → stop accepting → finish what is
// in flight → stop workers → flush telemetry → close. Handlers of long streams watch
// [Draining] to end by themselves.
//
// # Telemetry
//
// Every call has a span, metrics under OpenTelemetry's names with exemplars, and one
// line in the log. The admin listener serves /livez, /readyz, /metrics, /buildinfo and
// /debug/pprof/.
package kit
