package transport

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/store"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

const (
	// pollEvery finds the intents that other replicas recorded and nobody woke
	// us for.
	pollEvery = time.Second
	// firstRetry and lastRetry bound the wait before an undecided intent is
	// looked at again; it doubles in between.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// WorkerConfig configures a [Worker]. All but Point and Resume are required.
type WorkerConfig struct {
	DB       *sqldb.DB
	Vault    *store.Vault
	Acquirer domain.Acquirer
	// Reply answers the command behind a settled claim, in T2.
	Reply func(ctx context.Context, tx *sql.Tx, c domain.Claim, o domain.Outcome) error
	// Resume returns a context that continues the flow that a claim belongs to.
	// Optional.
	Resume func(ctx context.Context, c domain.Claim) context.Context
	// CallTimeout bounds one call or query.
	CallTimeout time.Duration
	// Concurrency bounds the calls in flight.
	Concurrency int
	Logger      *slog.Logger
	// Point is called with "payment.<kind>." and "called" (claimed, before the
	// call), "answered" (before T2) and "settled" (after it).
	Point func(ctx context.Context, name string)
}

// Worker carries recorded intents to the provider and brings back what came of
// them. Any number of replicas may run one.
type Worker struct {
	cfg  WorkerConfig
	wake chan struct{}
}

// NewWorker returns a worker; start it with Run.
func NewWorker(cfg WorkerConfig) *Worker {
	if cfg.Point == nil {
		cfg.Point = func(context.Context, string) {}
	}
	return &Worker{cfg: cfg, wake: make(chan struct{}, 1)}
}

// Wake tells the worker that an intent was recorded. It never blocks.
func (w *Worker) Wake() {
	select {
	case w.wake <- struct{}{}:
	default: // a wake-up is waiting already
	}
}

// Run works until ctx ends, and then lets the calls in flight end: a call that
// is cut off is a call whose outcome is unknown.
func (w *Worker) Run(ctx context.Context) error {
	var (
		calls sync.WaitGroup
		slots = make(chan struct{}, w.cfg.Concurrency)
		freed = make(chan struct{}, 1)
	)
	defer calls.Wait()
	for ctx.Err() == nil {
		free := cap(slots) - len(slots)
		wait := pollEvery
		if free > 0 {
			// A claim lapses once neither a query nor the call after it can still
			// be under way.
			lease := 2*w.cfg.CallTimeout + 10*time.Second
			claims, next, err := store.Claim(ctx, w.cfg.DB, w.cfg.Vault, time.Now(), lease, free)
			if err != nil && ctx.Err() == nil {
				w.cfg.Logger.ErrorContext(ctx, "claiming payment intents failed; it is tried again", "error", err)
			}
			for _, c := range claims {
				slots <- struct{}{}
				calls.Go(func() {
					defer func() {
						<-slots
						select {
						case freed <- struct{}{}:
						default:
						}
					}()
					w.work(context.WithoutCancel(ctx), c)
				})
			}
			if !next.IsZero() {
				wait = min(max(time.Until(next), 0), pollEvery)
			}
			if len(claims) == free {
				wait = pollEvery // all slots are taken; the next free one tells
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-freed:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// work is one claim: call or query outside any transaction, then T2.
func (w *Worker) work(ctx context.Context, c domain.Claim) {
	if w.cfg.Resume != nil {
		ctx = w.cfg.Resume(ctx, c)
	}
	point := "payment." + string(c.Intent.Kind) + "."
	w.cfg.Point(ctx, point+"called")
	// Twice the timeout: a query, and the call that it may lead to.
	callCtx, cancel := context.WithTimeout(ctx, 2*w.cfg.CallTimeout)
	answer, cause := domain.Perform(callCtx, w.cfg.Acquirer, c)
	cancel()
	w.cfg.Point(ctx, point+"answered")
	log := w.cfg.Logger.With("order_id", c.Intent.OrderID, "kind", c.Intent.Kind, "attempt", c.Intent.Attempts)
	if cause != nil {
		log.WarnContext(ctx, "the payment provider did not answer; the operation will be queried", "error", cause)
	}
	settleCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := sqldb.InTx(settleCtx, w.cfg.DB, func(ctx context.Context, tx *sql.Tx) error {
		now := time.Now()
		book := store.Book(sqldb.StdTx(tx), w.cfg.DB.Dialect)
		outcome, err := domain.Settle(ctx, book, c, answer, now.Add(backoff(c.Intent.Attempts)), now)
		if err != nil || !outcome.Reply {
			return err
		}
		if outcome.Refused && c.Intent.Kind == domain.KindVoid {
			log.ErrorContext(ctx, "the provider will not let a hold go; see to it by hand", "reason", outcome.Reason)
		}
		return w.cfg.Reply(ctx, tx, c, outcome)
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		// The claim lapses and the provider is queried: nothing is lost.
		log.ErrorContext(ctx, "recording the provider's answer failed; it will be queried", "error", err)
		return
	}
	w.cfg.Point(ctx, point+"settled")
}

// backoff doubles with each attempt, with jitter over its upper half.
func backoff(attempts int) time.Duration {
	d := lastRetry
	if attempts < 7 {
		d = min(firstRetry<<max(attempts-1, 0), lastRetry)
	}
	return d/2 + rand.N(d/2)
}
