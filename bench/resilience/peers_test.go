package resilience

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/budget"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/go-kratos/aegis/ratelimit"
	"github.com/go-kratos/aegis/ratelimit/bbr"
	"github.com/sony/gobreaker/v2"
	"github.com/zeromicro/go-zero/core/load"
	"github.com/zeromicro/go-zero/core/logx"
	"golang.org/x/sync/semaphore"

	"github.com/napkin-kit/napkin/resilience"
)

// The configuration of each peer. All decide by the same rule where the peer
// has such a rule: three attempts 50 ms to 2 s apart, a breaker that opens at
// half of at least 20 calls failing in 10 s for 1 s and closes after three
// successes, 256 calls in flight.

func init() {
	logx.Disable() // go-zero logs statistics of its breakers and shedders
	load.DisableLog()
}

// settings are those which the pipeline gives to gobreaker.
var settings = gobreaker.Settings{
	Name:         "bench",
	MaxRequests:  3,
	Interval:     10 * time.Second,
	BucketPeriod: time.Second,
	Timeout:      time.Second,
	ReadyToTrip: func(c gobreaker.Counts) bool {
		total := c.TotalSuccesses + c.TotalFailures
		return total >= 20 && float64(c.TotalFailures) >= 0.5*float64(total)
	},
}

// failsafe-go: its README composes retry outside breaker outside bulkhead, as
// here; executors are built once and shared, as its docs say. Listeners, which
// cost an allocation each, are off. Run without a context is its shortest path.

func failsafeRetry[R any]() retrypolicy.RetryPolicy[R] {
	return retrypolicy.NewBuilder[R]().
		WithMaxAttempts(3).
		WithBackoff(50*time.Millisecond, 2*time.Second).
		WithJitterFactor(1).
		WithBudget(failsafeBudget()).
		Build()
}

func failsafeBudget() budget.Budget {
	return budget.NewBuilder().WithMaxRate(0.1).WithMinConcurrency(3).Build()
}

func failsafeBreaker[R any]() circuitbreaker.CircuitBreaker[R] {
	return circuitbreaker.NewBuilder[R]().
		WithFailureRateThreshold(0.5, 20, 10*time.Second).
		WithSuccessThreshold(3).
		WithDelay(time.Second).
		Build()
}

func failsafeBulkhead[R any]() bulkhead.Bulkhead[R] { return bulkhead.New[R](256) }

func failsafeExecutor[R any]() failsafe.Executor[R] {
	return failsafe.With[R](failsafeRetry[R](), failsafeBreaker[R](), failsafeBulkhead[R]())
}

// failsafeHTTP retries by failsafehttp's own rules.
func failsafeHTTP(base http.RoundTripper) http.RoundTripper {
	retry := failsafehttp.NewRetryPolicyBuilder().
		WithMaxAttempts(3).
		WithBackoff(50*time.Millisecond, 2*time.Second).
		WithBudget(failsafeBudget()).
		Build()
	return failsafehttp.NewRoundTripper(base, retry, failsafeBreaker[*http.Response](), failsafeBulkhead[*http.Response]())
}

// Composed by hand: what one makes of the usual parts. It has no budget, sleeps
// past deadlines and counts a caller's cancellation as a failure.
type byHand struct {
	cb  *gobreaker.CircuitBreaker[struct{}]
	sem *semaphore.Weighted
}

func newByHand() *byHand {
	return &byHand{cb: gobreaker.NewCircuitBreaker[struct{}](settings), sem: semaphore.NewWeighted(256)}
}

func (h *byHand) execute(ctx context.Context, fn func(context.Context) error) error {
	return backoff.Retry(func() error {
		_, err := h.cb.Execute(func() (struct{}, error) {
			if err := h.sem.Acquire(ctx, 1); err != nil {
				return struct{}{}, err
			}
			defer h.sem.Release(1)
			return struct{}{}, fn(ctx)
		})
		return err
	}, backoff.WithContext(backoff.WithMaxRetries(newBackOff(), 2), ctx))
}

// newBackOff is needed per call: backoff's state is not safe to share.
func newBackOff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxInterval(2*time.Second))
}

// Kratos: BBR with its defaults (a window of 10 s, CPU threshold 80 %), as its
// ratelimit middleware makes it.
func kratosBBR() ratelimit.Limiter { return bbr.NewLimiter() }

// Napkin.

// withoutDeadline has retry, budget, breaker and bulkhead. Deadlines are
// reported apart, since none of the peers' like compositions has one.
var withoutDeadline = resilience.Config{Deadline: resilience.DeadlineConfig{Off: true}}

func pipeline(b *testing.B, cfg resilience.Config) *resilience.Pipeline {
	b.Helper()
	p, err := resilience.NewPipeline("bench", &cfg)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func must[T any](b *testing.B) func(T, error) T {
	return func(v T, err error) T {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
}

var (
	ctx        = context.Background()
	errFailure = errors.New("down")
)

func static(context.Context) error  { return nil }
func failing(context.Context) error { return errFailure }
func static0() error                { return nil }
