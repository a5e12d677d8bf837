package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxKeySetBytes = 1 << 20
	maxKeys        = 64
	minRSABits     = 2048
)

// keyCache holds the issuer's keys. At most one fetch runs at a time, in a
// goroutine of its own, so that the caller who happened to start it can give
// up without spoiling it for the others.
type keyCache struct {
	url          string
	client       *http.Client
	own          *http.Transport // nil if the client is the caller's
	refresh      time.Duration
	minRefetch   time.Duration
	maxStale     time.Duration
	fetchTimeout time.Duration
	fetched      func(int, error)

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	set      keySet        // generation 0: none yet
	running  chan struct{} // closed when the fetch in progress ends; nil: none
	lastErr  error         // of the last fetch
	failures int           // in a row
	notTill  time.Time     // no fetch before
}

// keySet is one published set. It is never modified.
type keySet struct {
	generation uint64 // counts changes of content
	digest     [sha256.Size]byte
	byID       map[string][]jose.JSONWebKey
	fetchedAt  time.Time
}

// foundKeys are the keys to try for a token.
type foundKeys struct {
	keys       []jose.JSONWebKey
	generation uint64
}

func newKeyCache(cfg VerifierConfig) *keyCache {
	var client http.Client
	var own *http.Transport
	if cfg.Client != nil {
		client = *cfg.Client
	} else if base, ok := http.DefaultTransport.(*http.Transport); ok {
		own = base.Clone()
		client.Transport = own
	}
	// The key set is read from where the configuration says, nowhere else.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	k := &keyCache{
		url: cfg.JWKSURL, client: &client, own: own,
		refresh: cfg.RefreshInterval, minRefetch: cfg.MinRefetchInterval,
		maxStale: cfg.MaxStale, fetchTimeout: cfg.FetchTimeout,
		fetched: cfg.KeysFetched,
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

func (k *keyCache) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.cancel()
	k.wg.Wait()
	if k.own != nil {
		k.own.CloseIdleConnections()
	}
}

// generation returns that of the keys in use, 0 if none are, and sees to their
// renewal. It is asked for each token, also for cached ones: otherwise a busy
// cache would keep the keys from ever being looked at again.
func (k *keyCache) generation() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.usable().generation
}

// usable returns the keys in use, or the zero set. It starts a fetch if they
// are due for one, and does not wait for it. Called with the lock held.
func (k *keyCache) usable() keySet {
	if k.set.generation == 0 {
		return keySet{}
	}
	age := time.Since(k.set.fetchedAt)
	if age > k.refresh {
		k.start()
	}
	if age > k.maxStale {
		return keySet{}
	}
	return k.set
}

// find returns the keys with the given id that fit alg. If there are none it
// fetches the set, unless that was done a moment ago. An empty id asks only
// that there be keys at all.
func (k *keyCache) find(ctx context.Context, id, alg string) (foundKeys, error) {
	for first := true; ; first = false {
		k.mu.Lock()
		set := k.usable() //nolint:contextcheck // a fetch outlives the caller who started it
		if found := set.find(id, alg); set.generation != 0 && (id == "" || len(found) > 0) {
			k.mu.Unlock()
			return foundKeys{found, set.generation}, nil
		}
		var running chan struct{}
		if first {
			running = k.start() //nolint:contextcheck // a fetch outlives the caller who started it
		}
		lastErr := k.lastErr
		k.mu.Unlock()

		if running == nil {
			// What an unknown key means depends on whether the set is known to
			// be current: if the issuer cannot be asked, nobody can say.
			if set.generation == 0 || lastErr != nil {
				return foundKeys{}, unavailable(lastErr)
			}
			return foundKeys{}, fmt.Errorf("%w: no key %q for %s", ErrTokenInvalid, id, alg)
		}
		select {
		case <-running:
		case <-ctx.Done():
			return foundKeys{}, context.Cause(ctx)
		}
	}
}

func unavailable(cause error) error {
	if cause == nil {
		return ErrUnavailable
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, cause)
}

// start begins a fetch, or joins the one in progress. It returns nil if none
// may be made now. Called with the lock held.
func (k *keyCache) start() chan struct{} {
	if k.running != nil {
		return k.running
	}
	if k.closed || time.Now().Before(k.notTill) {
		return nil
	}
	done := make(chan struct{})
	k.running = done
	k.wg.Go(func() {
		defer close(done)
		set, err := k.fetch()
		k.finish(set, err)
		if k.fetched != nil {
			k.fetched(len(set.byID), err)
		}
	})
	return done
}

func (k *keyCache) finish(set keySet, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	k.running, k.lastErr = nil, err
	if err != nil {
		// Sooner than after a success, so that a service which started before
		// its issuer recovers quickly; backing off to the same interval.
		k.notTill = now.Add(min(k.minRefetch, 250*time.Millisecond<<min(k.failures, 10)))
		k.failures++
		return
	}
	k.failures, k.notTill = 0, now.Add(k.minRefetch)
	set.fetchedAt, set.generation = now, k.set.generation
	if set.digest != k.set.digest || set.generation == 0 {
		set.generation++
	}
	k.set = set
}

func (k *keyCache) fetch() (keySet, error) {
	ctx, cancel := context.WithTimeout(k.ctx, k.fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return keySet{}, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return keySet{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return keySet{}, fmt.Errorf("%s answered %s", k.url, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySetBytes+1))
	if err != nil {
		return keySet{}, err
	}
	if len(body) > maxKeySetBytes {
		return keySet{}, fmt.Errorf("%s answered more than %d bytes", k.url, maxKeySetBytes)
	}
	set, err := parseKeySet(body)
	if err != nil {
		return keySet{}, fmt.Errorf("%s: %w", k.url, err)
	}
	return set, nil
}

// parseKeySet reads a JWK set. Keys it cannot use (of other types, for
// encryption, symmetric, weak, without an id) are passed over, as RFC 7517
// section 5 asks; a set without any usable key is an error.
func parseKeySet(body []byte) (keySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return keySet{}, errors.New("not a JWK set")
	}
	if len(doc.Keys) > maxKeys {
		return keySet{}, fmt.Errorf("the JWK set holds %d keys, more than %d", len(doc.Keys), maxKeys)
	}
	set := keySet{digest: sha256.Sum256(body), byID: map[string][]jose.JSONWebKey{}}
	for _, raw := range doc.Keys {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(raw); err != nil || !usableKey(key) {
			continue
		}
		set.byID[key.KeyID] = append(set.byID[key.KeyID], key)
	}
	if len(set.byID) == 0 {
		return keySet{}, errors.New("the JWK set holds no usable signing key")
	}
	return set, nil
}

func usableKey(key jose.JSONWebKey) bool {
	if key.KeyID == "" || len(key.KeyID) > maxKeyIDBytes || key.Use != "" && key.Use != "sig" {
		return false
	}
	if !key.Valid() || !key.IsPublic() {
		return false // a published private or symmetric key is nobody's key
	}
	if pub, ok := key.Key.(*rsa.PublicKey); ok && pub.N.BitLen() < minRSABits {
		return false
	}
	return true
}

func (s keySet) find(id, alg string) []jose.JSONWebKey {
	var found []jose.JSONWebKey
	for _, key := range s.byID[id] {
		if (key.Algorithm == "" || key.Algorithm == alg) && keyFits(key.Key, alg) {
			found = append(found, key)
		}
	}
	return found
}

// keyFits ties the algorithm that a token claims to the type of the issuer's
// key, so that neither can be played against the other.
func keyFits(key any, alg string) bool {
	switch pub := key.(type) {
	case *rsa.PublicKey:
		switch alg {
		case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
			return true
		}
	case *ecdsa.PublicKey:
		switch alg {
		case "ES256":
			return pub.Curve == elliptic.P256()
		case "ES384":
			return pub.Curve == elliptic.P384()
		case "ES512":
			return pub.Curve == elliptic.P521()
		}
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}
