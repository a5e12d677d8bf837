package main

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/resilience/grpcresilience"
)

// client makes one call: attempts, waits and all. send makes one attempt and
// returns when there is an answer or ctx is done.
type client interface {
	call(ctx context.Context, rng *rand.Rand, send func(context.Context) error) error
}

// plainClient is what programs have without a library: a loop.
type plainClient struct {
	timeout  time.Duration // of an attempt
	attempts int
	budget   budget // nil: no bound
}

// budget says whether a retry may be made.
type budget interface {
	begin()        // a call begins
	first(ok bool) // its first attempt is over
	mayRetry() bool
	retried() // a retry is over
	end()     // the call is over
}

func (c *plainClient) call(ctx context.Context, rng *rand.Rand, send func(context.Context) error) error {
	budget := c.budget
	if budget == nil {
		budget = unlimited{}
	}
	budget.begin()
	defer budget.end()
	err := c.attempt(ctx, send)
	budget.first(err == nil)
	bound := 50 * time.Millisecond
	for n := 1; err != nil && n < c.attempts && budget.mayRetry(); n++ {
		time.Sleep(time.Duration(rng.Float64() * float64(bound))) // full jitter
		bound *= 2
		err = c.attempt(ctx, send)
		budget.retried()
	}
	return err
}

func (c *plainClient) attempt(ctx context.Context, send func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return send(ctx)
}

type unlimited struct{}

func (unlimited) begin()         {}
func (unlimited) first(bool)     {}
func (unlimited) mayRetry() bool { return true }
func (unlimited) retried()       {}
func (unlimited) end()           {}

// inFlightBudget allows retries up to a share of the calls in flight, and three
// at any time: the form that Envoy and failsafe-go have.
type inFlightBudget struct {
	share           float64
	calls, retrying atomic.Int64
}

func (b *inFlightBudget) begin()     { b.calls.Add(1) }
func (b *inFlightBudget) first(bool) {}
func (b *inFlightBudget) mayRetry() bool {
	if n := b.retrying.Add(1); n > 3 && float64(n) > b.share*float64(b.calls.Load()) {
		b.retrying.Add(-1)
		return false
	}
	return true
}
func (b *inFlightBudget) retried() { b.retrying.Add(-1) }
func (b *inFlightBudget) end()     { b.calls.Add(-1) }

// libraryBudget is the library's, in the hands of a plain client. Without a
// minimum rate it is the pure form that papers speak of.
type libraryBudget struct {
	unlimited
	b *resilience.Budget
}

func newLibraryBudget(successShare float64) (libraryBudget, error) {
	b, err := resilience.NewBudget(&resilience.BudgetConfig{Ratio: budgetRatio, SuccessShare: successShare, MinPerSecond: -1})
	return libraryBudget{b: b}, err
}

func (b libraryBudget) first(ok bool)  { b.b.Deposit(ok) }
func (b libraryBudget) mayRetry() bool { return b.b.Withdraw() }

// pipelineClient is the library's client. Errors reach the pipeline as they do
// from the gRPC adapter, with the class that the adapter gives to the status.
type pipelineClient struct{ p *resilience.Pipeline }

func newPipelineClient(cfg *resilience.Config) (*pipelineClient, error) {
	p, err := resilience.NewPipeline("server", cfg)
	return &pipelineClient{p}, err
}

func (c *pipelineClient) call(ctx context.Context, _ *rand.Rand, send func(context.Context) error) error {
	return c.p.Call(ctx, resilience.Call{Idempotent: true}, func(ctx context.Context) error {
		if err := send(ctx); err != nil {
			return &answer{err}
		}
		return nil
	})
}

// answer is an error from the wire.
type answer struct{ err error }

func (a *answer) Error() string           { return a.err.Error() }
func (a *answer) Unwrap() error           { return a.err }
func (a *answer) Class() resilience.Class { return grpcresilience.Classify(a.err) }

// await waits for an answer as a gRPC client does: until the deadline.
func await(ctx context.Context, reply <-chan error) error {
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}
