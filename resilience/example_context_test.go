package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/napkin-kit/napkin/resilience"
)

// The caller says what may be repeated, and who does the repeating.
func ExampleIdempotent() {
	payments, _ := resilience.NewPipeline("payments", nil)
	attempts := 0
	lookUp := func(ctx context.Context) error {
		fmt.Println("attempt", resilience.AttemptFrom(ctx), resilience.IsIdempotent(ctx))
		if attempts++; attempts == 1 {
			return errors.New("connection reset")
		}
		return nil
	}
	fmt.Println(payments.Execute(resilience.Idempotent(context.Background()), lookUp))
	// Output:
	// attempt 1 true
	// attempt 2 true
	// <nil>
}

// A saga tries again by itself, so its calls are made once.
func ExampleNoRetry() {
	payments, _ := resilience.NewPipeline("payments", nil)
	ctx := resilience.NoRetry(resilience.Idempotent(context.Background()))
	fmt.Println(payments.Execute(ctx, func(context.Context) error { return errors.New("connection reset") }))
	// Output: connection reset
}

// A server that knows from the wire that it serves somebody's second attempt
// makes no retries of its own: they would multiply.
func ExampleWithAttempt() {
	inventory, _ := resilience.NewPipeline("inventory", nil)
	n, ok := resilience.ParseAttempt("2") // of resilience.HeaderAttempt
	ctx := resilience.WithAttempt(context.Background(), n)
	err := inventory.Execute(resilience.Idempotent(ctx), func(context.Context) error { return errors.New("connection reset") })
	fmt.Println(ok, err)

	_, ok = resilience.ParseAttempt("4000000000") // forged
	fmt.Println(ok)
	// Output:
	// true connection reset
	// false
}

// Work that can wait says so, and is the first to be dropped.
func ExampleWithCriticality() {
	ctx := context.Background()
	fmt.Println(resilience.CriticalityFrom(ctx), resilience.HasCriticality(ctx))
	ctx = resilience.WithCriticality(ctx, resilience.SheddablePlus)
	fmt.Println(resilience.CriticalityFrom(ctx), resilience.HasCriticality(ctx))
	// Output:
	// CRITICAL false
	// SHEDDABLE_PLUS true
}

// Names on the wire are exact; anything else is the default.
func ExampleParseCriticality() {
	fmt.Println(resilience.ParseCriticality("CRITICAL_PLUS"))
	fmt.Println(resilience.ParseCriticality("urgent!!"))
	// Output:
	// CRITICAL_PLUS true
	// CRITICAL false
}

// What an error means can be said where it is made.
func ExampleClassify() {
	notFound := errors.New("no such order")
	for _, err := range []error{
		notFound,
		resilience.Permanent(notFound),
		resilience.NeverSent(errors.New("no connection")),
		resilience.RetryAfter(errors.New("busy"), 2*time.Second),
		context.Canceled,
	} {
		c := resilience.Classify(err)
		fmt.Printf("%v: %v, retry %t, never sent %t, after %v\n", err, c.Health, c.Retry, c.NeverSent, c.After)
	}
	// Output:
	// no such order: unhealthy, retry true, never sent false, after 0s
	// no such order: healthy, retry false, never sent false, after 0s
	// no connection: unhealthy, retry true, never sent true, after 0s
	// busy: unhealthy, retry true, never sent false, after 2s
	// context canceled: neutral, retry false, never sent false, after 0s
}

// A rejection of this process is certain not to have left it.
func ExampleIsLocalRejection() {
	payments, _ := resilience.NewPipeline("payments", nil)
	payments.Breaker().Force(resilience.BreakerForcedOpen) // an operator's word
	err := payments.Execute(context.Background(), func(context.Context) error { return nil })
	fmt.Println(err, resilience.IsLocalRejection(err))
	fmt.Println(resilience.IsLocalRejection(io.ErrUnexpectedEOF))
	// Output:
	// payments: circuit breaker open true
	// false
}

// A deadline by itself.
func ExampleNewDeadline() {
	deadline, _ := resilience.NewDeadline(10 * time.Millisecond)
	err := deadline.Execute(context.Background(), func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	fmt.Println(err)
	_, err = resilience.NewDeadline(-1)
	fmt.Println(err)
	// Output:
	// context deadline exceeded
	// resilience: deadline is -1ns: set it to a positive duration
}

// Hooks of one's own beside those of telemetry.
func ExampleJoinHooks() {
	log := &resilience.Hooks{GaveUp: func(_ context.Context, name string, attempts int, reason, cause error) {
		fmt.Printf("%s gave up after attempt %d: %v (%v)\n", name, attempts, cause, reason)
	}}
	count := 0
	metrics := &resilience.Hooks{Done: func(context.Context, string, int, error) { count++ }}

	payments, _ := resilience.NewPipeline("payments", &resilience.Config{
		Budget: resilience.BudgetConfig{MinPerSecond: -1}, // no floor: a first call has nothing to spend
		Hooks:  resilience.JoinHooks(log, metrics),
	})
	_ = payments.Execute(resilience.Idempotent(context.Background()), func(context.Context) error { return errors.New("connection reset") })
	fmt.Println(count)
	// Output:
	// payments gave up after attempt 1: connection reset (retry budget exhausted)
	// 1
}

// A call that outlives a function holds its permit until it ends.
func ExamplePipeline_Begin() {
	feed, _ := resilience.NewPipeline("feed", nil)
	ctx := context.Background()
	pass, err := feed.Begin(ctx, resilience.Call{Endpoint: "/feed.v1.Feed/Watch"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(feed.Snapshot().InFlight)
	pass.End(ctx, nil) // with the stream's error
	fmt.Println(feed.Snapshot().InFlight)
	// Output:
	// 1
	// 0
}

// One method that fails does not take the others with it.
func ExampleCall_endpoint() {
	payments, _ := resilience.NewPipeline("payments", &resilience.Config{
		Breaker: resilience.BreakerConfig{MinCalls: 5, MaxEndpoints: 100},
	})
	ctx := context.Background()
	for range 5 {
		_ = payments.Call(ctx, resilience.Call{Endpoint: "/Refund"}, func(context.Context) error { return errors.New("broken") })
	}
	well := func(context.Context) error { return nil }
	fmt.Println(payments.Call(ctx, resilience.Call{Endpoint: "/Refund"}, well))
	fmt.Println(payments.Call(ctx, resilience.Call{Endpoint: "/Charge"}, well))
	// Output:
	// payments /Refund: circuit breaker open
	// <nil>
}

// For consoles: every destination's state at one moment.
func ExampleDestinations_Snapshot() {
	destinations, _ := resilience.NewDestinations(nil)
	payments, _ := destinations.Get("payments")
	_ = payments.Execute(context.Background(), func(context.Context) error { return nil })
	for _, s := range destinations.Snapshot() {
		fmt.Println(s.Name, s.Breaker, s.Counts.Successes, s.InFlight, s.Budget)
	}
	// Output: payments closed 1 0 10
}

// A server's own kind of request takes its place by hand.
func ExampleShedder_Acquire() {
	dropped := 0
	shedder, _ := resilience.NewShedder(&resilience.ShedderConfig{Hooks: resilience.JoinShedderHooks(
		&resilience.ShedderHooks{Shed: func(context.Context, resilience.Criticality, string) { dropped++ }},
		nil, // telemetry's, where there is any
	)})
	serve := func(ctx context.Context, handle func(context.Context) error) error {
		ticket, err := shedder.Acquire(ctx)
		if err != nil {
			return err
		}
		outcome := resilience.ShedIgnore // what a panic leaves
		defer func() { ticket.Release(outcome) }()
		err = handle(ctx)
		outcome = resilience.OutcomeOf(ctx, err)
		return err
	}
	fmt.Println(serve(context.Background(), func(context.Context) error { return nil }), dropped)
	// Output: <nil> 0
}
