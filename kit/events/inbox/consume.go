package inbox

import (
	"context"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

// ackTimeout bounds an acknowledgement, which is a message to the broker and
// waits for nothing.
const ackTimeout = 5 * time.Second

// consume runs while this replica is the active one.
func (c *Consumer[T]) consume(ctx context.Context, s events.Subscription) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Handlers under way outlive ctx by DrainTimeout at most.
	work, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	drained, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		<-ctx.Done()
		t := time.NewTimer(c.cfg.DrainTimeout)
		defer t.Stop()
		select {
		case <-t.C:
			kill()
		case <-drained:
		}
	}()

	q := newQueues()
	var wg sync.WaitGroup
	for range c.cfg.Concurrency {
		wg.Go(func() { c.work(ctx, work, q) })
	}
	wg.Go(func() { c.heartbeat(ctx, work, q) })
	wg.Go(func() { c.redriveLoop(ctx, work, q) })
	wg.Go(func() { c.trimLoop(ctx, work) })
	err := c.sub.Subscribe(ctx, s, func(_ context.Context, d events.Delivery) { q.add(d) })
	cancel()
	q.close()
	wg.Wait()
	close(drained)
	<-watched
	return err
}

// work handles the heads of ready queues until ctx ends.
func (c *Consumer[T]) work(ctx, work context.Context, q *queues) {
	for {
		k := q.next()
		if k == nil || !q.gate.pass(ctx) {
			return
		}
		it := q.head(k)
		e := it.delivery.Event()
		verdict, failures := c.handle(work, e, it.delivery.Err())
		switch verdict {
		case done:
			q.gate.open()
			if f := c.cfg.Hooks.AfterCommit; f != nil {
				f(work, c.name, e)
			}
			c.ack(work, it.delivery, e)
			q.done(k)
		case again:
			q.gate.open()
			it.tries++
			q.later(k, c.backoff(max(failures, it.tries)))
		case paused:
			q.gate.shut(c.backoff)
			q.later(k, 0)
		case released:
			return
		}
	}
}

func (c *Consumer[T]) ack(ctx context.Context, d events.Delivery, e events.Event) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	if err := d.Ack(ctx); err != nil {
		// It comes again and is recognised.
		c.cfg.Logger.DebugContext(ctx, "inbox: an acknowledgement failed", "consumer", c.name, "event_id", e.ID, "error", err)
		return
	}
	if f := c.cfg.Hooks.AfterAck; f != nil {
		f(ctx, c.name, e)
	}
}

// heartbeat tells the broker that the deliveries here are not lost, however long
// they wait for their turn or their retry.
func (c *Consumer[T]) heartbeat(ctx, work context.Context, q *queues) {
	wait := 30 * time.Second
	if f, ok := c.sub.(interface{ Features() events.Features }); ok && f.Features().AckWait > 0 {
		wait = f.Features().AckWait
	}
	tick := time.NewTicker(wait / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, d := range q.held() {
			bctx, cancel := context.WithTimeout(work, ackTimeout)
			if err := d.InProgress(bctx); err != nil {
				c.cfg.Logger.DebugContext(ctx, "inbox: a heart-beat failed", "consumer", c.name, "error", err)
			}
			cancel()
		}
	}
}

// trimLoop removes marks past the retention.
func (c *Consumer[T]) trimLoop(ctx, work context.Context) {
	tick := time.NewTicker(c.cfg.TrimEvery)
	defer tick.Stop()
	for {
		if err := c.trim(ctx, work); err != nil && ctx.Err() == nil {
			c.cfg.Logger.WarnContext(ctx, "inbox: trimming failed, trying again later", "consumer", c.name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *Consumer[T]) trim(ctx, work context.Context) error {
	exec := func(fn func(ctx context.Context) (int64, error)) (int64, error) {
		ctx, cancel := context.WithTimeout(work, c.cfg.HandlerTimeout)
		defer cancel()
		return fn(ctx)
	}
	for ctx.Err() == nil {
		n, err := exec(func(ctx context.Context) (int64, error) { return c.inbox.trimBatch(ctx, c.db.Write) })
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	// Failures of events that were handled in the end.
	_, err := exec(func(ctx context.Context) (int64, error) {
		_, err := c.db.Write.ExecContext(ctx, `DELETE FROM napkin_inbox_attempt WHERE consumer = $1 AND EXISTS (
			SELECT 1 FROM napkin_inbox i WHERE i.consumer = napkin_inbox_attempt.consumer AND i.event_id = napkin_inbox_attempt.event_id)`, c.name)
		return 0, err
	})
	return err
}
