package signin

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
)

const (
	// renewBefore is how long before its end an access token is exchanged, so that it lasts for the
	// calls of one request.
	renewBefore = 30 * time.Second
	// remember is how long the outcome of an exchange serves other requests with the same cookie. A
	// browser sends several at once, and auth takes a second use for theft after ten seconds.
	remember = time.Minute
	// maxRenewals bounds what is remembered; beyond it the oldest go, which costs a sign-in at worst.
	maxRenewals = 10000
)

// renewals makes one exchange of each refresh token, whatever the number of requests that need it.
// A refresh token may be exchanged once: it rotates.
type renewals struct {
	mu    sync.Mutex
	byOld map[[sha256.Size]byte]*renewal
	order [][sha256.Size]byte // oldest first
}

type renewal struct {
	done  chan struct{} // closed once the rest is set
	next  session.Session
	err   error
	until time.Time
}

// renew returns the session with fresh tokens.
func (p *Party) renew(ctx context.Context, s session.Session) (session.Session, error) {
	key := sha256.Sum256([]byte(s.Refresh))
	r, mine := p.renewals.claim(key, p.now())
	if mine {
		// On its own context: the browser that asked first may go away while others wait, and a token
		// that was exchanged but not kept is lost.
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
			defer cancel()
			r.next, r.err = p.exchange(ctx, s)
			if r.err != nil && !errors.Is(r.err, errSignedOut) {
				p.renewals.forget(key) // the next request may have more luck
			}
			close(r.done)
		}()
	}
	select {
	case <-r.done:
		next := r.next
		next.CSRF = s.CSRF // pages that are open stay good
		return next, r.err
	case <-ctx.Done():
		return session.Session{}, ctx.Err()
	}
}

// claim returns the exchange of a refresh token, and whether the caller is to make it.
func (r *renewals) claim(key [sha256.Size]byte, now time.Time) (*renewal, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 {
		oldest, ok := r.byOld[r.order[0]]
		if ok && now.Before(oldest.until) && len(r.order) < maxRenewals {
			break
		}
		delete(r.byOld, r.order[0])
		r.order = r.order[1:]
	}
	if known, ok := r.byOld[key]; ok {
		return known, false
	}
	if r.byOld == nil {
		r.byOld = make(map[[sha256.Size]byte]*renewal)
	}
	fresh := &renewal{done: make(chan struct{}), until: now.Add(remember)}
	r.byOld[key] = fresh
	r.order = append(r.order, key)
	return fresh, true
}

func (r *renewals) forget(key [sha256.Size]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byOld, key) // its place in the order is skipped when it comes up
}

func (p *Party) exchange(ctx context.Context, s session.Session) (session.Session, error) {
	t, err := p.oauth.TokenSource(p.reach(ctx), &oauth2.Token{RefreshToken: s.Refresh}).Token()
	if err != nil {
		return session.Session{}, p.grantError(ctx, "renew the access token", err)
	}
	who, err := p.verifier.Verify(ctx, t.AccessToken)
	if err != nil {
		return session.Session{}, err
	}
	s.Access, s.Refresh, s.AccessUntil = t.AccessToken, t.RefreshToken, who.Expires
	return s, nil
}
