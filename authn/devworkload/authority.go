package devworkload

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// backdate makes a certificate valid a little before now, for peers whose
// clocks lag.
const backdate = 30 * time.Second

// authority signs X.509-SVIDs with the newest of its roots that is active, and
// JWT-SVIDs with a key of its own.
type authority struct {
	domain  spiffeid.TrustDomain
	cfg     Config
	storage storage

	mu    sync.Mutex
	roots []root // oldest first
	jwt   *ecdsa.PrivateKey
}

type root struct {
	cert       *x509.Certificate
	key        *ecdsa.PrivateKey
	activeFrom time.Time // before, it is trusted and does not sign
}

func openAuthority(domain spiffeid.TrustDomain, cfg Config) (*authority, error) {
	a := &authority{domain: domain, cfg: cfg, storage: storage{dir: cfg.Dir}}
	kept, err := a.storage.load(domain)
	if err != nil {
		return nil, err
	}
	if kept == nil {
		if kept, err = a.fresh(); err != nil {
			return nil, err
		}
		if kept, err = a.storage.create(domain, kept); err != nil {
			return nil, err
		}
	}
	a.roots, a.jwt = kept.roots, kept.jwt
	if len(a.live(time.Now())) == 0 {
		// Everything has expired while the process was down: nobody is left
		// who trusts the old root, so the new one signs at once.
		if err := a.addRoot(time.Now()); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *authority) fresh() (*keptKeys, error) {
	now := time.Now()
	r, err := a.newRoot(now, now)
	if err != nil {
		return nil, err
	}
	jwt, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &keptKeys{roots: []root{r}, jwt: jwt}, nil
}

func (a *authority) newRoot(now, activeFrom time.Time) (root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return root{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return root{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		// The serial in the name tells roots apart where certificates only
		// name their issuer.
		Subject:               pkix.Name{Organization: []string{"Napkin development issuer"}, SerialNumber: serial.Text(16)},
		URIs:                  []*url.URL{a.domain.ID().URL()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(a.cfg.CATTL),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return root{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return root{}, err
	}
	return root{cert: cert, key: key, activeFrom: activeFrom}, nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// rotate adds a root that will sign after the overlap.
func (a *authority) rotate() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.addRoot(time.Now().Add(a.cfg.CAOverlap))
}

// addRoot is called with the lock held, or before the authority is shared.
func (a *authority) addRoot(activeFrom time.Time) error {
	now := time.Now()
	r, err := a.newRoot(now, activeFrom)
	if err != nil {
		return err
	}
	roots := append(slices.Clone(a.live(now)), r)
	if err := a.storage.replace(a.domain, &keptKeys{roots: roots, jwt: a.jwt}); err != nil {
		return err
	}
	a.roots = roots
	return nil
}

// live returns the roots that have not expired. Called with the lock held.
func (a *authority) live(now time.Time) []root {
	return slices.DeleteFunc(slices.Clone(a.roots), func(r root) bool { return now.After(r.cert.NotAfter) })
}

// renewAt is when the newest root is due for a successor.
func (a *authority) renewAt() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	cert := a.roots[len(a.roots)-1].cert
	return cert.NotAfter.Add(-a.cfg.CATTL / 2)
}

// bundle returns the certificates of all live roots, concatenated DER.
func (a *authority) bundle() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	var der []byte
	for _, r := range a.live(time.Now()) {
		der = append(der, r.cert.Raw...)
	}
	return der
}

// issued is an SVID in the form the Workload API carries.
type issued struct {
	certDER  []byte
	keyDER   []byte // PKCS #8
	notAfter time.Time
	renewAt  time.Time
}

// issue signs a new key for id. The SVID is to be renewed at half of its life,
// or when a waiting root takes over.
func (a *authority) issue(id spiffeid.ID) (issued, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return issued{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return issued{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return issued{}, err
	}
	now := time.Now()
	signer, takeover, err := a.signer(now)
	if err != nil {
		return issued{}, err
	}
	// Certificates count in whole seconds: round up, never below the TTL.
	notAfter := now.Add(a.cfg.TTL + time.Second - time.Nanosecond).Truncate(time.Second)
	if end := signer.cert.NotAfter; notAfter.After(end) {
		notAfter = end
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Napkin development workload"}},
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, signer.cert, key.Public(), signer.key)
	if err != nil {
		return issued{}, err
	}
	renewAt := now.Add(notAfter.Sub(now) / 2)
	if !takeover.IsZero() && takeover.Before(renewAt) {
		renewAt = takeover
	}
	return issued{certDER: der, keyDER: keyDER, notAfter: notAfter, renewAt: renewAt}, nil
}

// signer returns the newest active root, and when a newer one becomes active
// (zero if none waits).
func (a *authority) signer(now time.Time) (root, time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var takeover time.Time
	for _, r := range slices.Backward(a.live(now)) {
		if !r.activeFrom.After(now) {
			return r, takeover, nil
		}
		takeover = r.activeFrom
	}
	return root{}, time.Time{}, fmt.Errorf("no authority of %s is active", a.domain)
}

func (a *authority) jwtKey() *ecdsa.PrivateKey { return a.jwt } // never replaced
