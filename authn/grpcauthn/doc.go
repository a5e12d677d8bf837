// Package grpcauthn protects gRPC servers with a policy of package authn, and
// forwards users' tokens from gRPC clients.
//
// # Servers
//
// A [Server] holds two interceptors that judge unary and streaming calls in
// the same way, before the handler runs:
//
//	guard := &grpcauthn.Server{Policy: policy, Verifier: verifier}
//	srv := grpc.NewServer(
//		grpc.Creds(credentials.NewTLS(authn.ServerTLS(id, policy.Authorizer(domain)))),
//		grpc.ChainUnaryInterceptor(guard.Unary),
//		grpc.ChainStreamInterceptor(guard.Stream),
//	)
//	pb.RegisterPaymentsServer(srv, payments)
//	if err := guard.Check(srv); err != nil { … } // a method without a rule, a rule without a method
//
// The handler finds the caller with authn.PrincipalFrom.
//
// # Clients
//
// [ForwardToken] sends the user's token on, over encrypted connections only:
//
//	conn, err := grpc.NewClient(addr,
//		grpc.WithTransportCredentials(credentials.NewTLS(authn.ClientTLS(id, tlsconfig.AuthorizeID(payment)))),
//		grpcauthn.ForwardToken(),
//	)
//
// # Errors
//
// A refused call gets UNAUTHENTICATED, PERMISSION_DENIED or (the issuer's keys
// cannot be had) UNAVAILABLE, with a fixed text. In the server's process the
// error also unwraps to the reason, for errors.Is in an outer interceptor.
//
// # Telemetry
//
// Server.Denied is told of each refusal with its reason.
package grpcauthn
