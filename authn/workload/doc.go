// Package workload gets a service's identity from the SPIFFE Workload API and
// keeps it fresh:
//
//	id, err := workload.Connect(ctx, "unix:///run/spire/agent.sock", spiffeid.RequireFromString("spiffe://shop.test/order"), nil)
//	if err != nil { … }
//	defer id.Close()
//	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(authn.ServerTLS(id, authorizer))))
//
// The issuer behind the socket, SPIRE or authn/devworkload, makes no
// difference. It may start after the service, restart and be away: the
// [Source] waits, reconnects, and goes on with what it has.
//
// # Errors
//
// [Connect] says in one line which identity was not given by which socket, and
// what was offered instead; it unwraps to the context's error when time ran
// out. A closed Source gives errors, never a stale identity.
//
// # Telemetry
//
// Lost and regained contact is logged once each to Config.Logger.
package workload
