package authn

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Identity is who this process is and whom it trusts: the X.509-SVID it
// presents and the bundles it verifies others against. Both are asked for on
// each handshake, so an Identity that rotates needs nothing from its users.
//
// authn/workload gets one from the SPIFFE Workload API (SPIRE, or the issuer
// in authn/devworkload); authn/authntest makes one for tests. An Identity is
// safe for concurrent use.
type Identity interface {
	x509svid.Source
	x509bundle.Source
}

// ServerTLS returns the TLS configuration of a server that presents id's SVID
// and demands one from each client. A client is admitted only if its SVID
// chains to a bundle of id and authorize accepts its SPIFFE ID;
// [Policy.Authorizer] makes an authorize that admits exactly the identities a
// policy names.
//
// The configuration is TLS 1.3 only, takes the current SVID on each handshake,
// and leaves connections alone that are already up, so rotation drops nothing.
// Session resumption is off: a resumed session would skip the certificates,
// and with them a revoked bundle or a changed policy. A nil id or authorize
// admits nobody.
func ServerTLS(id Identity, authorize tlsconfig.Authorizer) *tls.Config {
	if id == nil || authorize == nil {
		return refuseAll()
	}
	cfg := tlsconfig.MTLSServerConfig(id, id, authorize)
	return harden(cfg, id, authorize)
}

// ClientTLS returns the TLS configuration of a client that presents id's SVID
// and talks only to a server whose SVID chains to a bundle of id and whose
// SPIFFE ID authorize accepts (usually tlsconfig.AuthorizeID of the one
// service meant). Host names are not looked at: the SPIFFE ID names the peer.
//
// What ServerTLS says of versions, rotation, resumption and nil holds here too.
func ClientTLS(id Identity, authorize tlsconfig.Authorizer) *tls.Config {
	if id == nil || authorize == nil {
		return refuseAll()
	}
	cfg := tlsconfig.MTLSClientConfig(id, id, authorize)
	return harden(cfg, id, authorize)
}

// harden moves verification to VerifyConnection, which unlike
// VerifyPeerCertificate also runs on resumed sessions, should whoever holds
// the configuration turn resumption on.
func harden(cfg *tls.Config, id Identity, authorize tlsconfig.Authorizer) *tls.Config {
	cfg.MinVersion = tls.VersionTLS13
	cfg.SessionTicketsDisabled = true
	cfg.VerifyPeerCertificate = nil
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		peer, chains, err := x509svid.Verify(cs.PeerCertificates, id)
		if err != nil {
			return fmt.Errorf("authn: peer certificate refused: %w", err)
		}
		if err := authorize(peer, chains); err != nil {
			return fmt.Errorf("authn: peer %s refused: %w", peer, err)
		}
		return nil
	}
	return cfg
}

var errNoAuthorizer = errors.New("authn: no identity or authorizer was given, so no peer is admitted: pass both to ServerTLS or ClientTLS")

// refuseAll is the configuration that fails every handshake, on either side.
func refuseAll() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return nil, errNoAuthorizer
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return nil, errNoAuthorizer
		},
		VerifyConnection: func(tls.ConnectionState) error { return errNoAuthorizer },
	}
}

// PeerID returns the SPIFFE ID of the other side of a connection made with
// [ServerTLS] or [ClientTLS]. It reads the ID from the certificate that the
// handshake verified; on a connection made with another configuration the
// certificate may be unverified, so do not use it there. It returns
// [ErrPeerUnknown] if there is no such ID.
func PeerID(cs tls.ConnectionState) (spiffeid.ID, error) {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return spiffeid.ID{}, ErrPeerUnknown
	}
	id, err := x509svid.IDFromCert(cs.PeerCertificates[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", ErrPeerUnknown, err)
	}
	return id, nil
}
