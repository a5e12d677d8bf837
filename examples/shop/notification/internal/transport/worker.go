package transport

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/notification/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/store"
)

const (
	workers = 4
	poll    = time.Second
	// hold is how long a claimed notification is nobody else's; longer than a hand-over may take.
	hold = 30 * time.Second
)

// Point is told where a worker stands: "before-send", "after-send", "after-mark".
type Point func(ctx context.Context, where string, n domain.Notification)

// Worker sends what is due, outside every transaction.
type Worker struct {
	store *store.Store
	out   *Outgoing
	wake  <-chan struct{}
	point Point
	log   *slog.Logger
	now   func() time.Time
}

// NewWorker returns a worker that looks when wake says so, and every second.
func NewWorker(st *store.Store, out *Outgoing, wake <-chan struct{}, point Point, log *slog.Logger) *Worker {
	if point == nil {
		point = func(context.Context, string, domain.Notification) {}
	}
	return &Worker{store: st, out: out, wake: wake, point: point, log: log, now: time.Now}
}

// Run sends until ctx ends, then finishes what is being sent.
func (w *Worker) Run(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if err := w.store.DecideWaiting(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "waiting outcomes cannot be decided; trying again", "error", err)
		}
		w.drain(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-tick.C:
		}
	}
}

// drain sends, several at a time, until nothing is due.
func (w *Worker) drain(ctx context.Context) {
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				n, ok, err := w.store.Claim(ctx, hold)
				if err != nil && ctx.Err() == nil {
					w.log.WarnContext(ctx, "notifications cannot be claimed; trying again", "error", err)
				}
				if err != nil || !ok {
					return
				}
				w.send(context.WithoutCancel(ctx), n) // bounded by the hand-over's own deadline
			}
		})
	}
	wg.Wait()
}

func (w *Worker) send(ctx context.Context, n domain.Notification) {
	w.point(ctx, "before-send", n)
	err := w.out.Send(ctx, n)
	w.point(ctx, "after-send", n)
	switch {
	case err == nil:
		err = w.store.MarkSent(ctx, n.ID)
	case errors.Is(err, ErrRefused) || w.now().Sub(n.CreatedAt) > domain.Patience:
		w.log.ErrorContext(ctx, "notification is undeliverable", "notification_id", n.ID, "channel", n.Channel, "attempts", n.Attempts, "error", err)
		err = w.store.MarkUndeliverable(ctx, n.ID)
	default:
		w.log.WarnContext(ctx, "notification not taken; trying again", "notification_id", n.ID, "channel", n.Channel, "attempts", n.Attempts, "error", err)
		err = w.store.Postpone(ctx, n.ID, w.now().Add(domain.Backoff(n.Attempts)))
	}
	if err != nil { // it is due again when the hold ends, under the same id
		w.log.WarnContext(ctx, "the outcome of a notification could not be recorded", "notification_id", n.ID, "error", err)
	}
	w.point(ctx, "after-mark", n)
}
