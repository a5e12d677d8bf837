package transport

import (
	"sync"
	"time"

	"google.golang.org/grpc"

	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/kit"
)

// Changes tells watchers in this process that an order changed. Its zero value
// is ready to use; it is safe for concurrent use.
type Changes struct {
	mu       sync.Mutex
	watchers map[string]map[chan struct{}]struct{}
}

// Tell wakes the watchers of an order. It never blocks.
func (c *Changes) Tell(orderID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers[orderID] {
		select {
		case w <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Watch returns a channel that gets a value after each change of an order, and
// the function that ends it.
func (c *Changes) Watch(orderID string) (changed <-chan struct{}, stop func()) {
	w := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers == nil {
		c.watchers = map[string]map[chan struct{}]struct{}{}
	}
	if c.watchers[orderID] == nil {
		c.watchers[orderID] = map[chan struct{}]struct{}{}
	}
	c.watchers[orderID][w] = struct{}{}
	return w, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers[orderID], w)
		if len(c.watchers[orderID]) == 0 {
			delete(c.watchers, orderID)
		}
	}
}

// WatchOrder sends the order now and after each change, until it has ended, the
// caller goes or the service drains; the caller then asks again.
func (s *Server) WatchOrder(req *orderv1.WatchOrderRequest, stream grpc.ServerStreamingServer[orderv1.WatchOrderResponse]) error {
	ctx := stream.Context()
	// Before the first look, so that no change falls between the two.
	changed, stop := s.Changes.Watch(req.GetId())
	defer stop()
	poll := time.NewTicker(s.WatchEvery)
	defer poll.Stop()
	sent := int64(-1)
	for {
		o, err := s.own(ctx, req.GetId())
		if err != nil {
			return answer(err)
		}
		if o.Revision != sent {
			if err := stream.Send(&orderv1.WatchOrderResponse{Order: message(o)}); err != nil {
				return err
			}
			sent = o.Revision
		}
		if o.Ended() {
			return nil
		}
		select {
		case <-changed:
		case <-poll.C:
		case <-kit.Draining(ctx):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
