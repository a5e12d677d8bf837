package servicetest

import (
	"context"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
)

// Await waits until a condition holds or ctx ends. It is [Until] for code that
// answers with an error.
func Await(ctx context.Context, what string, holds func() bool) error {
	for !holds() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// Tell publishes an event as its provider would, under an id of its own.
func Tell(ctx context.Context, broker events.Broker, e events.Event) error {
	e.ID, e.Time = correlation.NewID(), time.Now()
	return broker.Publish(ctx, e)
}
