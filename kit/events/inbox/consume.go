package inbox

import (
	"context"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/kit/events"
)

// ackTimeout bounds an acknowledgement, which is a message to the broker and
// waits for nothing.
const ackTimeout = 5 * time.Second

// consume shares the blocks with the other replicas and handles the events of
// those that are this one's, all by the same workers.
func (c *Consumer[T]) consume(ctx context.Context, n *lease.Node, s events.Subscription) error {
	// Workers go on while blocks are given up, and end after the last of them.
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	q := newQueues()
	var wg sync.WaitGroup
	for range c.cfg.Concurrency {
		wg.Go(func() { c.work(work, q) })
	}
	wg.Go(func() { c.heartbeat(work, q) })
	redriven := make(chan struct{})
	go func() {
		defer close(redriven)
		c.redriveLoop(ctx, work, q)
	}()
	blocks := make(map[string]events.Block)
	var names []string
	for _, b := range events.Blocks(c.cfg.Blocks) {
		names = append(names, b.String())
		blocks[b.String()] = b
	}
	err := n.Share(ctx, names, func(ctx context.Context, l lease.Lease) error {
		return c.consumeBlock(ctx, q, s, blocks[l.Name])
	})
	q.close()
	t := time.NewTimer(c.cfg.DrainTimeout)
	defer t.Stop()
	select {
	case <-redriven:
	case <-t.C: // what it handles is rolled back and keeps its place
	}
	end()
	<-redriven
	wg.Wait()
	return err
}

// consumeBlock receives the events of one block while this replica holds it.
func (c *Consumer[T]) consumeBlock(ctx context.Context, q *queues, s events.Subscription, b events.Block) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.Block = b
	q.open(b)
	var wg sync.WaitGroup
	if b.Index == 0 {
		wg.Go(func() { c.trimLoop(ctx) })
	}
	err := c.sub.Subscribe(ctx, s, func(_ context.Context, d events.Delivery) { q.add(b, d) })
	cancel()
	q.release(b, c.cfg.DrainTimeout)
	wg.Wait()
	return err
}

// work handles jobs until the queues are closed.
func (c *Consumer[T]) work(work context.Context, q *queues) {
	for q.gate.pass(work) {
		j := q.next(work, c.pace.limit())
		if j == nil {
			return
		}
		if j.size() == 1 {
			c.workAlone(q, j, j.parts[0].items[0])
		} else {
			c.workTogether(q, j)
		}
		j.cancel()
	}
}

// workTogether handles a job in one transaction. Where that fails each of its
// events is handled alone, so that failures are counted against the one that has
// them.
func (c *Consumer[T]) workTogether(q *queues, j *job) {
	err := c.handleAll(j)
	switch {
	case err == nil:
		q.gate.open()
		c.finished(j)
		for _, p := range j.parts {
			q.done(p)
		}
		return
	case j.ctx.Err() != nil: // shutting down, or a block is given up
	case c.isInfrastructure(err):
		j.each(func(it *item) { c.failed(j.ctx, it.event, err, false) })
		q.gate.shut(c.backoff)
	default:
		c.pace.failed(err)
		j.each(func(it *item) { it.alone = true })
	}
	for _, p := range j.parts {
		q.later(p, 0)
	}
}

// workAlone handles one event and counts its failures.
func (c *Consumer[T]) workAlone(q *queues, j *job, it *item) {
	p := j.parts[0]
	verdict, wait := c.handle(j.ctx, it)
	switch verdict {
	case done:
		q.gate.open()
		c.finished(j)
		q.done(p)
	case again:
		q.gate.open()
		q.later(p, wait)
	case held:
		q.gate.open()
		q.hold(p, wait)
	case paused:
		q.gate.shut(c.backoff)
		q.later(p, 0)
	case released:
		q.later(p, 0)
	}
}

// finished acknowledges what has committed.
func (c *Consumer[T]) finished(j *job) {
	ctx := context.WithoutCancel(j.ctx)
	if f := c.cfg.Hooks.AfterCommit; f != nil {
		j.each(func(it *item) { f(ctx, c.name, it.event) })
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	j.each(func(it *item) {
		if err := it.delivery.Ack(ctx); err != nil {
			// It comes again and is recognised.
			c.cfg.Logger.DebugContext(ctx, "inbox: an acknowledgement failed", "consumer", c.name, "event_id", it.event.ID, "error", err)
		} else if f := c.cfg.Hooks.AfterAck; f != nil {
			f(ctx, c.name, it.event)
		}
	})
}

// heartbeat tells the broker that the deliveries here are not lost, however long
// they wait for their turn or their retry.
func (c *Consumer[T]) heartbeat(work context.Context, q *queues) {
	wait := 30 * time.Second
	if f, ok := c.sub.(interface{ Features() events.Features }); ok && f.Features().AckWait > 0 {
		wait = f.Features().AckWait
	}
	tick := time.NewTicker(wait / 3)
	defer tick.Stop()
	for {
		select {
		case <-work.Done():
			return
		case <-tick.C:
		}
		for _, d := range q.held() {
			bctx, cancel := context.WithTimeout(work, ackTimeout)
			if err := d.InProgress(bctx); err != nil {
				c.cfg.Logger.DebugContext(work, "inbox: a heart-beat failed", "consumer", c.name, "error", err)
			}
			cancel()
		}
	}
}

// trimLoop removes what is past the retention.
func (c *Consumer[T]) trimLoop(ctx context.Context) {
	tick := time.NewTicker(c.cfg.TrimEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := c.trim(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.WarnContext(ctx, "inbox: trimming failed, trying again later", "consumer", c.name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *Consumer[T]) trim(ctx context.Context) error {
	exec := func(fn func(ctx context.Context) (int64, error)) (int64, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.HandlerTimeout)
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
	if err != nil || len(c.cfg.Sequences) == 0 {
		return err
	}
	_, err = exec(func(ctx context.Context) (int64, error) { return 0, c.trimSequences(ctx) })
	return err
}
