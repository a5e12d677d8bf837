package devworkload

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// keptKeys is what an authority is made of.
type keptKeys struct {
	roots []root
	jwt   *ecdsa.PrivateKey
}

// storage keeps an authority in one file, so that it is whole or absent. With
// an empty dir it keeps nothing.
type storage struct{ dir string }

const (
	authorityFile = "authority.pem"
	rootBlock     = "CERTIFICATE"
	keyBlock      = "PRIVATE KEY"
	activeHeader  = "Active-From"
	useHeader     = "Use"
	useJWT        = "jwt-svid"
)

func (s storage) path() string { return filepath.Join(s.dir, authorityFile) }

// load returns nil without an error if nothing is kept.
func (s storage) load(domain spiffeid.TrustDomain) (*keptKeys, error) {
	if s.dir == "" {
		return nil, nil
	}
	data, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kept, err := decodeAuthority(data, domain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: restore it, or remove it to start a new authority", s.path(), err)
	}
	return kept, nil
}

// create keeps k unless another process was first; it returns what is kept.
func (s storage) create(domain spiffeid.TrustDomain, k *keptKeys) (*keptKeys, error) {
	if s.dir == "" {
		return k, nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	temp, err := s.writeTemp(k)
	if err != nil {
		return nil, err
	}
	defer os.Remove(temp)
	// Unlike Rename, Link does not replace.
	if err := os.Link(temp, s.path()); errors.Is(err, fs.ErrExist) {
		return s.load(domain)
	} else if err != nil {
		return nil, err
	}
	return k, nil
}

func (s storage) replace(_ spiffeid.TrustDomain, k *keptKeys) error {
	if s.dir == "" {
		return nil
	}
	temp, err := s.writeTemp(k)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, s.path()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

func (s storage) writeTemp(k *keptKeys) (name string, err error) {
	data, err := encodeAuthority(k)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(s.dir, authorityFile+".*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func encodeAuthority(k *keptKeys) ([]byte, error) {
	var out []byte
	for _, r := range k.roots {
		der, err := x509.MarshalPKCS8PrivateKey(r.key)
		if err != nil {
			return nil, err
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{
			Type: rootBlock, Bytes: r.cert.Raw,
			Headers: map[string]string{activeHeader: r.activeFrom.UTC().Format(time.RFC3339Nano)},
		})...)
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.jwt)
	if err != nil {
		return nil, err
	}
	return append(out, pem.EncodeToMemory(&pem.Block{
		Type: keyBlock, Bytes: der, Headers: map[string]string{useHeader: useJWT},
	})...), nil
}

func decodeAuthority(data []byte, domain spiffeid.TrustDomain) (*keptKeys, error) {
	k := &keptKeys{}
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		switch {
		case block.Type == rootBlock:
			r, err := decodeRoot(block, domain)
			if err != nil {
				return nil, err
			}
			k.roots = append(k.roots, r)
		case block.Type == keyBlock && block.Headers[useHeader] == useJWT:
			key, err := decodeKey(block)
			if err != nil {
				return nil, err
			}
			k.jwt = key
		case block.Type == keyBlock && len(k.roots) > 0:
			key, err := decodeKey(block)
			if err != nil {
				return nil, err
			}
			last := &k.roots[len(k.roots)-1]
			if !key.PublicKey.Equal(last.cert.PublicKey) {
				return nil, errors.New("a private key does not belong to the certificate before it")
			}
			last.key = key
		default:
			return nil, fmt.Errorf("unexpected %s block", block.Type)
		}
	}
	if len(k.roots) == 0 || k.jwt == nil {
		return nil, errors.New("not a whole authority")
	}
	for _, r := range k.roots {
		if r.key == nil {
			return nil, errors.New("a certificate has no private key")
		}
	}
	return k, nil
}

func decodeRoot(block *pem.Block, domain spiffeid.TrustDomain) (root, error) {
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return root{}, err
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != domain.IDString() || !cert.IsCA {
		return root{}, fmt.Errorf("a certificate is not an authority of trust domain %s", domain)
	}
	activeFrom, err := time.Parse(time.RFC3339Nano, block.Headers[activeHeader])
	if err != nil {
		return root{}, err
	}
	return root{cert: cert, activeFrom: activeFrom}, nil
}

func decodeKey(block *pem.Block) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("a private key is not an elliptic-curve key")
	}
	return key, nil
}
