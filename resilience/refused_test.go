package resilience

import (
	"context"
	"errors"
	"net/http"
	"testing"
)

type refusal struct{}

func (refusal) Error() string { return "overloaded" }
func (refusal) Class() Class  { return Class{Health: Unhealthy, Retry: true, Refused: true} }

// A server that sheds is up: the breaker leaves it to say whom it serves, the
// throttle takes its word for how much.
func TestRefusalsMoveTheThrottleButNotTheBreaker(t *testing.T) {
	refuse := func(context.Context) error { return refusal{} }
	b := mustBreaker(t, &BreakerConfig{MinCalls: 5}, nil)
	times(100, func() { _ = b.Execute(t.Context(), refuse) })
	// Also once somebody below has given up retrying it.
	times(100, func() {
		_ = b.Execute(t.Context(), func(context.Context) error {
			return &RetryError{Attempts: 3, Cause: refusal{}, Reason: ErrBudgetExhausted}
		})
	})
	if s, c := b.State(), b.Counts(); s != BreakerClosed || c.Failures != 0 {
		t.Fatalf("%v %+v, want closed and nothing counted", s, c)
	}
	throttle, err := NewThrottle("payments", &ThrottleConfig{Rand: func() float64 { return 0.5 }})
	if err != nil {
		t.Fatal(err)
	}
	times(100, func() { err = throttle.Execute(t.Context(), refuse) })
	if !errors.Is(err, ErrThrottled) {
		t.Fatalf("%v after a hundred refusals, want ErrThrottled", err)
	}
}

func TestTransportKeepsTheBreakerOutOfShedding(t *testing.T) {
	for _, tt := range []struct {
		retryAfter string
		want       BreakerState
	}{{"1", BreakerClosed}, {"", BreakerOpen}} {
		s := newSite(t, Config{Retry: RetryConfig{Off: true}, Breaker: BreakerConfig{MinCalls: 5}}, func(w http.ResponseWriter, _ *http.Request) {
			if tt.retryAfter != "" {
				w.Header().Set("Retry-After", tt.retryAfter)
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		for range 5 {
			resp, err := s.client.Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		p, err := s.destinations.Get(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Breaker().State(); got != tt.want {
			t.Errorf("Retry-After %q: %v, want %v", tt.retryAfter, got, tt.want)
		}
	}
}
