package transport

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/napkin-kit/napkin/kit/problem"
)

// errBusy is answered to a new order while too many are under way. Nothing was kept of it, so the same
// request with the same key is welcome a moment later.
var errBusy = &problem.Problem{
	Status: http.StatusServiceUnavailable, Code: "orders_busy", RetryAfter: time.Second,
	Detail: "more orders are under way than can be finished soon; send this one again in a moment, with the same key",
}

const intakePoll = 200 * time.Millisecond

// Intake holds new orders back while those under way cannot be finished in good time: taking one that
// would only run into its deadline is worse than asking its customer to come back. The zero value, and one
// that does not run, takes every order.
type Intake struct {
	busy atomic.Bool
}

// Admit returns an error while no new order is taken.
func (i *Intake) Admit() error {
	if i.busy.Load() {
		return errBusy
	}
	return nil
}

// Run counts the open orders until ctx ends, and admits new ones while they are fewer than limit. Once
// over it, it waits until a tenth is done, so that it does not flutter.
func (i *Intake) Run(ctx context.Context, limit int, open func(context.Context) (int, error), log *slog.Logger) error {
	tick := time.NewTicker(intakePoll)
	defer tick.Stop()
	for {
		n, err := open(ctx)
		switch was := i.busy.Load(); {
		case err != nil: // the database does not answer, which CreateOrder will find out for itself
		case !was && n >= limit:
			i.busy.Store(true)
			log.WarnContext(ctx, "new orders are held back", "under_way", n, "limit", limit)
		case was && n < limit-limit/10:
			i.busy.Store(false)
			log.InfoContext(ctx, "new orders are taken again", "under_way", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
