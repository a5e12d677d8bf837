package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/resilience"
)

// A pipeline retries what may be repeated, within a budget.
func ExampleNewPipeline() {
	payments, err := resilience.NewPipeline("payments", nil) // nil: the defaults
	if err != nil {
		fmt.Println(err)
		return
	}
	attempts := 0
	err = payments.Execute(resilience.Idempotent(context.Background()), func(context.Context) error {
		if attempts++; attempts == 1 {
			return errors.New("connection reset")
		}
		return nil
	})
	fmt.Println(attempts, err)
	// Output: 2 <nil>
}

// A call that is not marked as safe to repeat is made once.
func ExamplePipeline_Execute() {
	payments, _ := resilience.NewPipeline("payments", nil)
	attempts := 0
	err := payments.Execute(context.Background(), func(context.Context) error {
		attempts++
		return errors.New("connection reset")
	})
	fmt.Println(attempts, err)
	// Output: 1 connection reset
}

// Do is for calls that return a value.
func ExampleDo() {
	catalog, _ := resilience.NewPipeline("catalog", nil)
	price, err := resilience.Do(context.Background(), catalog, func(context.Context) (int, error) {
		return 1999, nil
	})
	fmt.Println(price, err)
	// Output: 1999 <nil>
}

// One value gives each host its own breaker, budget and bulkhead.
func ExampleNewTransport() {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests++; requests == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "hello")
	}))
	defer server.Close()

	destinations, err := resilience.NewDestinations(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: resilience.NewTransport(nil, destinations)}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(requests, string(body))
	// Output: 2 hello
}

// Each destination can have a configuration of its own.
func ExampleNewDestinations() {
	destinations, err := resilience.NewDestinations(&resilience.DestinationsConfig{
		Configure: func(destination string, c *resilience.Config) {
			if destination == "reports" {
				c.Deadline.Attempt = 8 * time.Second
				c.Retry.Off = true
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	reports, err := destinations.Get("reports")
	fmt.Println(reports.AttemptTimeout(), err)
	// Output: 8s <nil>
}

// A mistake in the configuration is named.
func ExampleConfig() {
	_, err := resilience.NewPipeline("payments", &resilience.Config{
		Breaker: resilience.BreakerConfig{FailureRate: 50},
	})
	fmt.Println(err)
	// Output: resilience: Breaker.FailureRate is 50: set it to a fraction between 0 and 1
}

// An open breaker rejects without calling.
func ExampleNewBreaker() {
	b, _ := resilience.NewBreaker("payments", &resilience.BreakerConfig{MinCalls: 5}, func(from, to resilience.BreakerState) {
		fmt.Println(from, "to", to)
	})
	for range 5 {
		_ = b.Execute(context.Background(), func(context.Context) error { return errors.New("timeout") })
	}
	err := b.Execute(context.Background(), func(context.Context) error { return nil })
	fmt.Println(err, resilience.IsLocalRejection(err))
	// Output:
	// closed to open
	// payments: circuit breaker open true
}

// A bulkhead bounds the calls in flight.
func ExampleNewBulkhead() {
	db, _ := resilience.NewBulkhead("db", &resilience.BulkheadConfig{MaxConcurrent: 1})
	err := db.Execute(context.Background(), func(ctx context.Context) error {
		return db.Execute(ctx, func(context.Context) error { return nil })
	})
	fmt.Println(err, errors.Is(err, resilience.ErrBulkheadFull))
	// Output: db: bulkhead full true
}

// The budget bounds retries, whoever makes them.
func ExampleNewBudget() {
	budget, _ := resilience.NewBudget(&resilience.BudgetConfig{Ratio: 0.1, MinPerSecond: -1})
	for range 20 {
		budget.Deposit(true)
	}
	fmt.Println(budget.Withdraw(), budget.Withdraw(), budget.Withdraw())
	// Output: true true false
}

// Retry alone, for those who compose by hand.
func ExampleNewRetry() {
	retry, _ := resilience.NewRetry(nil, &resilience.RetryConfig{MaxAttempts: 2, BaseDelay: time.Millisecond, AssumeIdempotent: true})
	err := retry.Execute(context.Background(), func(context.Context) error { return errors.New("connection reset") })
	fmt.Println(err)
	fmt.Println(errors.Is(err, resilience.ErrAttemptsExhausted))
	// Output:
	// connection reset (gave up after attempt 2: retry attempts exhausted)
	// true
}

// A limiter refuses, and says when to come back.
func ExampleNewLimiter() {
	limiter, _ := resilience.NewLimiter("sms", &resilience.LimiterConfig{PerSecond: 0.1, Burst: 1})
	fmt.Println(limiter.Allow())
	err := limiter.Allow()
	var rejection *resilience.Rejection
	if errors.As(err, &rejection) {
		fmt.Println(err, rejection.After.Round(time.Second))
	}
	// Output:
	// <nil>
	// sms: rate limit reached 10s
}

// Each key has a bucket of its own.
func ExampleNewKeyedLimiter() {
	limiter, _ := resilience.NewKeyedLimiter("api", &resilience.KeyedLimiterConfig{
		Limit: resilience.LimiterConfig{PerSecond: 1, Burst: 1},
	})
	_, ada := limiter.Allow("ada")
	_, again := limiter.Allow("ada")
	_, bob := limiter.Allow("bob")
	fmt.Println(ada, again, bob)
	// Output: <nil> api: rate limit reached <nil>
}

// A deadline outside a bulkhead bounds the wait as well.
func ExampleCompose() {
	deadline, _ := resilience.NewDeadline(time.Second)
	bulkhead, _ := resilience.NewBulkhead("db", nil)
	policy := resilience.Compose(deadline, bulkhead)
	err := policy.Execute(context.Background(), func(ctx context.Context) error {
		_, bounded := ctx.Deadline()
		fmt.Println(bounded, bulkhead.InFlight())
		return nil
	})
	fmt.Println(err)
	// Output:
	// true 1
	// <nil>
}

// A slow attempt gets company; the first reply wins.
func ExampleNewHedge() {
	catalog, _ := resilience.NewPipeline("catalog", nil)
	hedge, _ := resilience.NewHedge("catalog", catalog.Budget(), &resilience.HedgeConfig{Delay: 5 * time.Millisecond})
	policy := resilience.Compose(hedge, catalog)
	replica, err := resilience.Do(resilience.Idempotent(context.Background()), policy, func(ctx context.Context) (string, error) {
		if resilience.AttemptFrom(ctx) == 1 {
			<-ctx.Done() // a replica that hangs
			return "", ctx.Err()
		}
		return "second replica", nil
	})
	fmt.Println(replica, err)
	// Output: second replica <nil>
}

// The throttle lets pass what a destination accepts, and some more.
func ExampleNewThrottle() {
	throttle, _ := resilience.NewThrottle("search", &resilience.ThrottleConfig{Rand: func() float64 { return 0.9 }})
	sent := 0
	for range 100 {
		_ = throttle.Execute(context.Background(), func(context.Context) error {
			sent++
			return errors.New("overloaded")
		})
	}
	fmt.Println(sent)
	// Output: 10
}

// A server that is overloaded refuses at once, the least critical first.
func ExampleNewShedder() {
	shedder, _ := resilience.NewShedder(&resilience.ShedderConfig{
		MinLimit: 2, InitialLimit: 2, MaxLimit: 2, MaxQueue: 1, MaxWait: time.Millisecond,
	})
	batch := resilience.WithCriticality(context.Background(), resilience.Sheddable)
	err := shedder.Execute(context.Background(), func(context.Context) error {
		return shedder.Execute(batch, func(context.Context) error { return nil })
	})
	fmt.Println(err)
	// Output: overloaded: request shed
}

// Middleware protects an http.Handler.
func ExampleMiddleware() {
	limiter, _ := resilience.NewKeyedLimiter("api", &resilience.KeyedLimiterConfig{
		Limit: resilience.LimiterConfig{PerSecond: 0.5, Burst: 1},
	})
	guard, err := resilience.Middleware(&resilience.MiddlewareConfig{
		Limiter:  limiter,
		Key:      func(r *http.Request) string { return r.Header.Get("Authorization") },
		Deadline: 5 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	for range 2 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "ada")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header().Get("Retry-After"), strings.TrimSpace(w.Body.String()))
	}
	// Output:
	// 200  ok
	// 429 2 api: rate limit reached
}
