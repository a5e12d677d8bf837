package chaos

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/examples/shop/client"
)

const password = "correct horse battery"

// retryEvery is how often a client asks again. The store is down for seconds at a time.
const retryEvery = 50 * time.Millisecond

// shopper is a person with an account, who does not give up while the store restarts.
type shopper struct {
	base, email, password string
	scopes                []string

	mu    sync.Mutex
	c     *client.Client
	cards map[string]string // number → payment method
}

func operator(base string) *shopper {
	for _, a := range shop.DemoAccounts() {
		if a.What == "operator" {
			return &shopper{base: base, email: a.Email, password: a.Password, scopes: append(client.CustomerScopes, "shop:admin")}
		}
	}
	panic("the demo has no operator")
}

// newShopper registers someone.
func newShopper(ctx context.Context, base string) (*shopper, error) {
	s := &shopper{base: base, email: strings.ToLower("c-" + rand.Text()[:12] + "@example.test"), password: password, cards: map[string]string{}}
	err := insist(ctx, func() error {
		_, err := client.Anonymous(base).Register(ctx, s.email, s.password, "Test Customer")
		var e *client.Error
		if errors.As(err, &e) && e.Status == http.StatusConflict {
			return nil // the first attempt got through, its answer did not
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	return s, nil
}

// insist repeats what failed for a reason that passes.
func insist(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if err == nil || !passes(err) {
			return err
		}
		wait := retryEvery
		var e *client.Error
		if errors.As(err, &e) && e.RetryAfter > 0 {
			wait = e.RetryAfter
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, the last answer: %w", context.Cause(ctx), err)
		case <-time.After(wait):
		}
	}
}

// passes reports whether an error may be gone at the next attempt: all but what the store refused.
func passes(err error) bool {
	var e *client.Error
	if !errors.As(err, &e) {
		return true // the connection, or the middle of a sign-in
	}
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusUnauthorized:
		return true
	case http.StatusConflict:
		return strings.HasPrefix(e.Code, "idempotency_")
	}
	return e.Status >= 500
}

// do makes a signed-in call, again and again where needed.
func (s *shopper) do(ctx context.Context, fn func(*client.Client) error) error {
	return insist(ctx, func() error {
		c, err := s.signedIn(ctx)
		if err != nil {
			return err
		}
		err = fn(c)
		var e *client.Error
		var refresh *oauth2.RetrieveError
		if errors.As(err, &e) && e.Status == http.StatusUnauthorized || errors.As(err, &refresh) {
			s.mu.Lock()
			s.c = nil // the token is spent: sign in again
			s.mu.Unlock()
		}
		return err
	})
}

func (s *shopper) signedIn(ctx context.Context) (*client.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		c, err := client.SignIn(ctx, s.base, s.email, s.password, s.scopes...)
		if err != nil {
			return nil, err
		}
		s.c = c
	}
	return s.c, nil
}

// card returns a payment method for a card's number, stored once.
func (s *shopper) card(ctx context.Context, number string) (string, error) {
	s.mu.Lock()
	id := s.cards[number]
	s.mu.Unlock()
	if id != "" {
		return id, nil
	}
	err := s.do(ctx, func(c *client.Client) (err error) {
		id, err = c.AddCard(ctx, number)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("add card: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cards[number] = id
	return id, nil
}

// call is a plain JSON request.
func (s *shopper) call(ctx context.Context, method, path string, in, out any) error {
	return s.do(ctx, func(c *client.Client) error {
		_, err := c.Do(ctx, method, path, nil, in, out)
		return err
	})
}

// ledger is what the customers were promised: it is compared with what the store has in the end.
type ledger struct {
	whole *ledger // the one that this is a part of

	mu       sync.Mutex
	accepted map[string]string // idempotency key → order
	lost     []string
}

func newLedger() *ledger { return &ledger{accepted: map[string]string{}} }

func (l *ledger) orders() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

// takeLosses returns what was lost since the last time.
func (l *ledger) takeLosses() (lost []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, l.lost = l.lost, nil
	return lost
}

func (l *ledger) lose(format string, args ...any) {
	if l.whole != nil {
		l.whole.lose(format, args...)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = append(l.lost, fmt.Sprintf(format, args...))
}

// accept notes the answer to a key: always the same one.
func (l *ledger) accept(key, order string) {
	if l.whole != nil {
		l.whole.accept(key, order)
	}
	l.mu.Lock()
	first, known := l.accepted[key]
	if !known {
		l.accepted[key] = order
	}
	l.mu.Unlock()
	if known && first != order && l.whole == nil {
		l.lose("key %s was answered with order %s and then with %s", key, first, order)
	}
}

// order is a placed order.
type order struct {
	s     *shopper
	l     *ledger
	id    string
	key   string
	card  string
	lines []client.Line
}

// place sends an order under a new key until it is accepted.
func (s *shopper) place(ctx context.Context, l *ledger, number string, lines ...client.Line) (*order, error) {
	card, err := s.card(ctx, number)
	if err != nil {
		return nil, err
	}
	o := &order{s: s, l: l, key: rand.Text(), card: card, lines: lines}
	return o, o.submit(ctx)
}

func (o *order) submit(ctx context.Context) error {
	err := o.s.do(ctx, func(c *client.Client) error {
		got, err := c.PlaceOrder(ctx, o.key, o.card, o.lines...)
		if err == nil {
			o.id = got.ID
			o.l.accept(o.key, got.ID)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("place order: %w", err)
	}
	return nil
}

func (o *order) cancel(ctx context.Context) error {
	err := o.s.do(ctx, func(c *client.Client) error {
		_, err := c.Cancel(ctx, o.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("cancel %s: %w", o.id, err)
	}
	return nil
}

// ends waits until the order has one of the given states, and then asks for it once more under its key.
func (o *order) ends(ctx context.Context, want ...string) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		var got client.Order
		err := o.s.do(ctx, func(c *client.Client) (err error) {
			got, err = c.Order(ctx, o.id)
			return err
		})
		var e *client.Error
		if errors.As(err, &e) && e.Status == http.StatusNotFound {
			o.l.lose("order %s was accepted and is gone", o.id)
		}
		if err != nil {
			return fmt.Errorf("read order %s: %w", o.id, err)
		}
		for _, w := range want {
			if got.Status == w {
				return o.submit(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("order %s is %s (%s), want %s: %w", o.id, got.Status, got.FailureReason, strings.Join(want, " or "), context.Cause(ctx))
		case <-tick.C:
		}
	}
}
