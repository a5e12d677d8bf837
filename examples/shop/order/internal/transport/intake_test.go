package transport_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/order/internal/transport"
	"github.com/napkin-kit/napkin/kit/problem"
)

func TestIntakeHoldsBackAndTakesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int64
		in := &transport.Intake{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- in.Run(ctx, 100, func(context.Context) (int, error) { return int(open.Load()), nil }, slog.New(slog.DiscardHandler))
		}()
		for _, step := range []struct {
			open int64
			busy bool
		}{{99, false}, {100, true}, {95, true}, {89, false}, {99, false}, {5000, true}, {0, false}} {
			open.Store(step.open)
			time.Sleep(time.Second) // the bubble's clock
			err := in.Admit()
			if (err != nil) != step.busy {
				t.Errorf("with %d under way: %v", step.open, err)
			}
			if p := problem.Of(err); err != nil && (p.Status != 503 || p.RetryAfter == 0) {
				t.Errorf("a refusal says when to come back: %+v", p)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
