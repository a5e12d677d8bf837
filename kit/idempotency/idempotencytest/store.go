package idempotencytest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/idempotency"
)

// Clock is a time that moves only when told to.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// NewClock returns a clock at a fixed moment.
func NewClock() *Clock { return &Clock{t: time.Unix(1_750_000_000, 0).UTC()} }

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// Add moves the clock.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// TestStore runs the conformance suite of idempotency.Store. Results must be
// kept for at least an hour.
func TestStore(t *testing.T, newStore func(t *testing.T, now func() time.Time) idempotency.Store) {
	for _, c := range storeCases {
		t.Run(c.name, func(t *testing.T) {
			clock := NewClock()
			if err := c.run(t.Context(), newStore(t, clock.Now), clock); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A case returns its failure, so that a test can prove that broken stores fail.
type storeCase struct {
	name string
	run  func(ctx context.Context, s idempotency.Store, clock *Clock) error
}

const ttl = 10 * time.Second

var storeCases = []storeCase{
	{"replays what was completed", caseReplay},
	{"holds a running key", caseRunning},
	{"refuses another request", caseMismatch},
	{"keeps scopes and operations apart", caseApart},
	{"refuses an incomplete key", caseIncomplete},
	{"frees a released key", caseRelease},
	{"takes over an abandoned claim", caseAbandoned},
	{"does not take over a renewed claim", caseRenewed},
	{"refuses the former holder", caseFenced},
	{"ends a claim with its completion", caseCompletedOnce},
	{"lets a late holder finish that nobody replaced", caseLate},
	{"keeps its copy apart", caseCopies},
	{"gives a contended key to one", caseContended},
	{"keeps a live claim of the same request", caseLive},
	{"does not hold up other keys", caseOthers},
}

func key(value string) idempotency.Key {
	return idempotency.Key{Value: value, Scope: "user-1", Operation: "POST /orders", Fingerprint: idempotency.Fingerprint([]byte("a request"))}
}

func response() idempotency.Response {
	return idempotency.Response{
		Code: 201, ContentType: "application/json", Body: []byte(`{"id":"o-1"}`),
		Header: map[string][]string{"Location": {"/orders/o-1"}, "Link": {"</a>", "</b>"}},
	}
}

func wantErr(what string, got, want error) error {
	if !errors.Is(got, want) {
		return fmt.Errorf("%s: got %v, want %v", what, got, want) //nolint:errorlint // a failed check is neither of the two
	}
	return nil
}

// take claims a key that must be free.
func take(ctx context.Context, s idempotency.Store, k idempotency.Key) (idempotency.Claim, error) {
	c, stored, err := s.Claim(ctx, k, ttl)
	switch {
	case err != nil:
		return c, fmt.Errorf("claim a free key: %w", err)
	case stored != nil:
		return c, fmt.Errorf("claim a free key: got a stored response %+v", *stored)
	case c.Token == "":
		return c, errors.New("claim a free key: the claim has no token")
	}
	return c, nil
}

// replay claims a key that must be done.
func replay(ctx context.Context, s idempotency.Store, k idempotency.Key, want idempotency.Response) error {
	_, stored, err := s.Claim(ctx, k, ttl)
	if err != nil {
		return fmt.Errorf("claim a completed key: %w", err)
	}
	if stored == nil {
		return errors.New("claim a completed key: it was given out again")
	}
	return same(*stored, want)
}

func same(got, want idempotency.Response) error {
	if len(got.Body) == 0 {
		got.Body = nil
	}
	if len(want.Body) == 0 {
		want.Body = nil
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("stored response %+v, want %+v", got, want)
	}
	return nil
}

func caseReplay(ctx context.Context, s idempotency.Store, clock *Clock) error {
	for i, want := range []idempotency.Response{response(), {Code: 204}, {Code: 200, BodyOmitted: true}} {
		k := key(fmt.Sprint("k", i))
		c, err := take(ctx, s, k)
		if err != nil {
			return err
		}
		if err := s.Complete(ctx, c, want); err != nil {
			return fmt.Errorf("complete: %w", err)
		}
		clock.Add(59 * time.Minute / 3) // far beyond the lease
		for range 2 {
			if err := replay(ctx, s, k, want); err != nil {
				return err
			}
		}
	}
	return nil
}

func caseRunning(ctx context.Context, s idempotency.Store, clock *Clock) error {
	if _, err := take(ctx, s, key("k")); err != nil {
		return err
	}
	clock.Add(ttl - time.Millisecond)
	_, _, err := s.Claim(ctx, key("k"), ttl)
	return wantErr("claim a running key", err, idempotency.ErrInProgress)
}

func caseMismatch(ctx context.Context, s idempotency.Store, clock *Clock) error {
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	other := key("k")
	other.Fingerprint = idempotency.Fingerprint([]byte("another request"))
	check := func(when string) error {
		_, _, err := s.Claim(ctx, other, ttl)
		return wantErr("another request "+when, err, idempotency.ErrMismatch)
	}
	if err := check("while running"); err != nil {
		return err
	}
	clock.Add(ttl)
	if err := check("after the claim was abandoned"); err != nil {
		return err
	}
	if err := s.Complete(ctx, c, response()); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	return check("when done")
}

func caseApart(ctx context.Context, s idempotency.Store, _ *Clock) error {
	scope, operation, shifted := key("k"), key("k"), key("k")
	scope.Scope = "user-2"
	operation.Operation = "POST /carts"
	shifted.Scope, shifted.Operation = "user-1P", "OST /orders"
	for _, k := range []idempotency.Key{key("k"), scope, operation, shifted, key("K")} {
		if _, err := take(ctx, s, k); err != nil {
			return fmt.Errorf("scope %q operation %q value %q: %w", k.Scope, k.Operation, k.Value, err)
		}
	}
	return nil
}

func caseIncomplete(ctx context.Context, s idempotency.Store, _ *Clock) error {
	for what, edit := range map[string]func(*idempotency.Key){
		"value":       func(k *idempotency.Key) { k.Value = "" },
		"scope":       func(k *idempotency.Key) { k.Scope = "" },
		"operation":   func(k *idempotency.Key) { k.Operation = "" },
		"fingerprint": func(k *idempotency.Key) { k.Fingerprint = nil },
	} {
		k := key("k")
		edit(&k)
		if _, _, err := s.Claim(ctx, k, ttl); err == nil {
			return fmt.Errorf("a key without %s was accepted", what)
		}
	}
	return nil
}

func caseRelease(ctx context.Context, s idempotency.Store, _ *Clock) error {
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	if err := s.Release(ctx, c); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	if err := wantErr("release twice", s.Release(ctx, c), idempotency.ErrLeaseLost); err != nil {
		return err
	}
	if err := wantErr("complete a released claim", s.Complete(ctx, c, response()), idempotency.ErrLeaseLost); err != nil {
		return err
	}
	other := key("k")
	other.Fingerprint = idempotency.Fingerprint([]byte("another request"))
	_, err = take(ctx, s, other) // as if it had never been claimed
	return err
}

func caseAbandoned(ctx context.Context, s idempotency.Store, clock *Clock) error {
	old, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	clock.Add(ttl) // the remaining time is exactly zero
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	if c.Token == old.Token {
		return errors.New("two claims have one token")
	}
	return nil
}

func caseRenewed(ctx context.Context, s idempotency.Store, clock *Clock) error {
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	for range 5 {
		clock.Add(ttl - time.Second)
		if err := s.Renew(ctx, c, ttl); err != nil {
			return fmt.Errorf("renew: %w", err)
		}
	}
	clock.Add(ttl - time.Millisecond)
	_, _, err = s.Claim(ctx, key("k"), ttl)
	return wantErr("claim a renewed key", err, idempotency.ErrInProgress)
}

func caseFenced(ctx context.Context, s idempotency.Store, clock *Clock) error {
	old, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	clock.Add(ttl)
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	for what, err := range map[string]error{
		"renew":    s.Renew(ctx, old, ttl),
		"complete": s.Complete(ctx, old, idempotency.Response{Code: 500}),
		"release":  s.Release(ctx, old),
	} {
		if err := wantErr(what+" by the former holder", err, idempotency.ErrLeaseLost); err != nil {
			return err
		}
	}
	if err := s.Complete(ctx, c, response()); err != nil {
		return fmt.Errorf("complete by the holder: %w", err)
	}
	return replay(ctx, s, key("k"), response())
}

func caseCompletedOnce(ctx context.Context, s idempotency.Store, _ *Clock) error {
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	if err := s.Complete(ctx, c, response()); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	if err := wantErr("complete twice", s.Complete(ctx, c, idempotency.Response{Code: 200}), idempotency.ErrLeaseLost); err != nil {
		return err
	}
	if err := wantErr("release when done", s.Release(ctx, c), idempotency.ErrLeaseLost); err != nil {
		return err
	}
	if err := wantErr("renew when done", s.Renew(ctx, c, ttl), idempotency.ErrLeaseLost); err != nil {
		return err
	}
	return replay(ctx, s, key("k"), response())
}

func caseLate(ctx context.Context, s idempotency.Store, clock *Clock) error {
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	clock.Add(3 * ttl)
	if err := s.Complete(ctx, c, response()); err != nil {
		return fmt.Errorf("complete late: %w", err)
	}
	return replay(ctx, s, key("k"), response())
}

func caseCopies(ctx context.Context, s idempotency.Store, _ *Clock) error {
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	mine := response()
	if err := s.Complete(ctx, c, mine); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	mine.Body[0], mine.Header["Location"][0] = 'X', "changed"
	_, stored, err := s.Claim(ctx, key("k"), ttl)
	if err != nil || stored == nil {
		return fmt.Errorf("replay: %v, %w", stored, err)
	}
	if err := same(*stored, response()); err != nil {
		return fmt.Errorf("the caller's later change got into the store: %w", err)
	}
	stored.Body[0], stored.Header["Location"][0] = 'Y', "changed"
	return replay(ctx, s, key("k"), response())
}

// The same request asks again and again while it runs: none of these may be taken
// for the recovery of an abandoned claim.
func caseLive(ctx context.Context, s idempotency.Store, clock *Clock) error {
	c, err := take(ctx, s, key("k"))
	if err != nil {
		return err
	}
	for range 9 {
		clock.Add(ttl / 10)
		_, _, err := s.Claim(ctx, key("k"), ttl)
		if err := wantErr("claim a live key again", err, idempotency.ErrInProgress); err != nil {
			return err
		}
	}
	if err := s.Complete(ctx, c, response()); err != nil {
		return fmt.Errorf("complete a claim that others asked for: %w", err)
	}
	return replay(ctx, s, key("k"), response())
}

func caseOthers(ctx context.Context, s idempotency.Store, _ *Clock) error {
	for i := range 50 {
		if _, err := take(ctx, s, key(fmt.Sprint("k", i))); err != nil {
			return fmt.Errorf("key %d beside running ones: %w", i, err)
		}
	}
	return nil
}

func caseContended(ctx context.Context, s idempotency.Store, _ *Clock) error {
	const callers = 100
	var mu sync.Mutex
	var won int
	var failure error
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			_, stored, err := s.Claim(ctx, key("k"), ttl)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && stored == nil:
				won++
			case !errors.Is(err, idempotency.ErrInProgress):
				failure = fmt.Errorf("a loser got %v, %w", stored, err)
			}
		})
	}
	wg.Wait()
	if failure == nil && won != 1 {
		failure = fmt.Errorf("%d of %d concurrent claims won, want 1", won, callers)
	}
	return failure
}
