// Package authn establishes who is calling, workload and user, and decides
// whether they may. What nobody has allowed is denied.
//
// # Workloads
//
// A service's own identity is an [Identity]: an X.509-SVID and the bundles it
// trusts, both renewed while the service runs. It comes from the SPIFFE
// Workload API, be that SPIRE's or the development issuer's (one code path):
//
//	id, err := workload.Connect(ctx, socket, spiffeid.RequireFromString("spiffe://shop.test/payment"), nil)
//
// [ServerTLS] and [ClientTLS] turn it into mutual TLS 1.3. Whom to admit is a
// required argument:
//
//	server := authn.ServerTLS(id, policy.Authorizer(id.ID().TrustDomain()))
//	client := authn.ClientTLS(id, tlsconfig.AuthorizeID(payment))
//
// New connections use the newest SVID; open ones are left alone, past the end
// of the SVID they were opened with. Limit their age where that matters.
//
// # Users
//
// A [Verifier] checks access tokens (JWT) against the issuer's published keys:
//
//	v, err := authn.NewVerifier(authn.VerifierConfig{
//		Issuer:   "https://auth.shop.test",
//		Audience: "shop",
//		JWKSURL:  "https://auth.shop.test/oauth/jwks",
//	})
//	p, err := v.Verify(ctx, raw)
//
// The [Principal] travels in the context ([PrincipalFrom]) with the raw token
// inside, so that a client adapter can forward it and the next service checks
// the user again. The token is never printed.
//
// # Policy
//
// A [Policy] says for each gRPC method which workloads may call it, and whether
// for a user and with which scopes:
//
//	policy, err := authn.NewPolicy(
//		authn.Rule{Method: "/shop.payment.v1.Payments/Capture", From: []spiffeid.ID{order}},
//		authn.Rule{Method: "/shop.payment.v1.Payments/Refund", From: []spiffeid.ID{gateway},
//			User: authn.UserRequired, Scopes: []string{"shop:admin"}},
//	)
//
// [Policy.Check] compares it with the methods a server has registered, so that
// a forgotten method or a misspelt rule stops the start and not a customer.
// Package grpcauthn enforces it for unary and streaming calls alike;
// [Authenticate] and [RequireUser] are the like for an HTTP edge.
//
// # Errors
//
// [ErrUnauthenticated] and [ErrDenied] are the two classes of refusal, and
// [ErrUnavailable] means that nobody could tell; each narrower sentinel
// satisfies errors.Is of its class. Error texts are for operators. Adapters
// send callers a fixed text per class.
//
// # Telemetry
//
// grpcauthn.Server.Denied and VerifierConfig.KeysFetched are hooks; nil ones
// cost nothing.
package authn
