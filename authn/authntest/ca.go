package authntest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/napkin-kit/napkin/authn"
)

// CA is a certificate authority of one trust domain. It is safe for concurrent
// use.
type CA struct {
	domain spiffeid.TrustDomain
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	bundle *x509bundle.Bundle
}

// NewCA returns the authority of trustDomain ("shop.test").
func NewCA(t testing.TB, trustDomain string) *CA {
	t.Helper()
	domain, err := spiffeid.TrustDomainFromString(trustDomain)
	must(t, err)
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(t),
		Subject:               pkix.Name{CommonName: "test authority of " + trustDomain},
		URIs:                  []*url.URL{domain.ID().URL()},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	cert := sign(t, tmpl, tmpl, key, key)
	return &CA{
		domain: domain, cert: cert, key: key,
		bundle: x509bundle.FromX509Authorities(domain, []*x509.Certificate{cert}),
	}
}

// TrustDomain returns the CA's trust domain.
func (ca *CA) TrustDomain() spiffeid.TrustDomain { return ca.domain }

// Bundle returns what verifies the CA's SVIDs.
func (ca *CA) Bundle() *x509bundle.Bundle { return ca.bundle }

// ID returns spiffe://<trust domain>/<name>.
func (ca *CA) ID(t testing.TB, name string) spiffeid.ID {
	t.Helper()
	id, err := spiffeid.FromSegments(ca.domain, name)
	must(t, err)
	return id
}

// Identity returns an identity of the CA, valid for an hour, that trusts the
// CA.
func (ca *CA) Identity(t testing.TB, id spiffeid.ID) *Identity {
	t.Helper()
	i := &Identity{ca: ca, id: id}
	i.Renew(t, time.Hour)
	return i
}

// Identity is an authn.Identity whose SVID changes when told to. It is safe
// for concurrent use.
type Identity struct {
	ca *CA
	id spiffeid.ID

	mu   sync.Mutex
	svid *x509svid.SVID
}

var _ authn.Identity = (*Identity)(nil)

// Renew replaces the SVID by one with a new key that ends ttl from now; a
// negative ttl makes one that has expired.
func (i *Identity) Renew(t testing.TB, ttl time.Duration) {
	t.Helper()
	key := newKey(t)
	end := time.Now().Add(ttl)
	cert := sign(t, &x509.Certificate{
		SerialNumber:          newSerial(t),
		URIs:                  []*url.URL{i.id.URL()},
		NotBefore:             time.Now().Add(-time.Hour + min(ttl, 0)),
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, i.ca.cert, key, i.ca.key)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.svid = &x509svid.SVID{ID: i.id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

// ID returns the identity's SPIFFE ID.
func (i *Identity) ID() spiffeid.ID { return i.id }

// GetX509SVID implements x509svid.Source.
func (i *Identity) GetX509SVID() (*x509svid.SVID, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.svid, nil
}

// GetX509BundleForTrustDomain implements x509bundle.Source.
func (i *Identity) GetX509BundleForTrustDomain(domain spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return i.ca.bundle.GetX509BundleForTrustDomain(domain)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	must(t, err)
	return serial
}

func sign(t testing.TB, tmpl, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
