// Package devworkload is a SPIFFE Workload API for development and tests: a
// certificate authority in this process that serves the real API over Unix
// sockets, so that services get their identity exactly as they would from
// SPIRE, through authn/workload.
//
//	issuer, err := devworkload.New("shop.test", &devworkload.Config{Dir: "data/ca"})
//	if err != nil { … }
//	defer issuer.Close()
//	addr, err := issuer.Listen(ctx, spiffeid.RequireFromString("spiffe://shop.test/order"), "")
//	if err != nil { … }
//	id, err := workload.Connect(ctx, addr, spiffeid.RequireFromString("spiffe://shop.test/order"), nil)
//
// There is one listener per identity. SPIRE tells workloads apart by looking at
// the calling process; this issuer goes by the socket alone. So whoever can
// open a socket is that workload, and all services in one process, or of one
// user, are one trust zone. That is what development needs and not what
// production needs: a service on external configuration should refuse this
// issuer and use SPIRE.
//
// An issuer can also be a process of its own that serves the sockets of many
// services ([Issuer.ListenAll], [SocketAddr]); with Config.Dir it can restart
// without anyone noticing.
//
// # Rotation
//
// A new SVID is pushed at half of the TTL. A new authority takes over at half
// of its own life, after it has been in everyone's bundle for a while, so that
// no handshake fails. [Issuer.Rotate] and [Issuer.RotateCA] do it at once.
//
// # Errors
//
// One line each, saying what to change. There are no sentinels: what fails,
// fails at start-up.
package devworkload
