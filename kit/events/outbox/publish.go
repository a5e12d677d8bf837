package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

// orderKey is what order is kept by. A row without a key is alone in its own.
type orderKey struct {
	topic, key string
	id         int64
}

func keyOf(topic, key string, id int64) orderKey {
	if key == "" {
		return orderKey{topic: topic, id: id}
	}
	return orderKey{topic: topic, key: key}
}

// outcome is what came of publishing a batch.
type outcome struct {
	resolved []int64             // stalled rows that are published now
	failed   []failure           // rows that were tried in vain
	waiting  []row               // new rows behind a failed one of their key
	topics   map[string]struct{} // topics that something was published to
	missing  map[string]error    // topics that the broker does not have

	regressed   string // a topic whose log turned out to have lost its tail
	regressedTo uint64 // what was left of it
}

type failure struct {
	stalled
	again bool // it was in the stalled list before
}

// queue is the rows of one key, in order.
type queue struct {
	rows  []row
	retry bool // they come from the stalled list
}

// publish sends the batch in waves. A wave holds at most one row of each key, so
// two publications of one key are never under way, and a failure stops its key.
func (r *Relay) publish(stop, ctx context.Context, s *state, b *batch) (*outcome, error) {
	out := &outcome{topics: make(map[string]struct{}), missing: make(map[string]error)}
	queues := r.queues(s, b, out)
	if err := r.learnStreams(ctx, s, queues, out); err != nil {
		return nil, err
	}
	if out.regressed != "" {
		return out, nil
	}
	progress := false
	for len(queues) > 0 {
		if stop.Err() != nil {
			return nil, context.Cause(stop) // nothing is recorded; the next leader publishes the batch again
		}
		errs := r.wave(ctx, s, queues, out)
		if !progress && outage(queues, errs) {
			return nil, fmt.Errorf("outbox: publish: %w", errs[0])
		}
		next := queues[:0]
		for i, q := range queues {
			head := q.rows[0]
			if errs[i] != nil {
				r.fail(s, q, errs[i], out)
				continue
			}
			progress = true
			if q.retry {
				out.resolved = append(out.resolved, head.id)
			}
			if q.rows = q.rows[1:]; len(q.rows) > 0 {
				next = append(next, q)
			}
		}
		queues = next
		if out.regressed != "" {
			return out, nil
		}
	}
	return out, nil
}

// queues sorts the batch by key. New rows of a key that is stalled wait behind
// those that are.
func (r *Relay) queues(s *state, b *batch, out *outcome) []*queue {
	var order []*queue
	byKey := make(map[orderKey]*queue, len(b.rows))
	add := func(x row, retry bool) {
		k := keyOf(x.event.Topic, x.event.Key, x.id)
		q := byKey[k]
		if q == nil {
			q = &queue{retry: retry}
			byKey[k] = q
			order = append(order, q)
		}
		q.rows = append(q.rows, x)
	}
	for _, x := range b.retries {
		add(x, true)
	}
	held := make(map[orderKey]bool, len(s.stalled))
	for _, x := range s.stalled {
		held[x.orderKey()] = true
	}
	for _, x := range b.rows {
		if held[keyOf(x.event.Topic, x.event.Key, x.id)] {
			out.waiting = append(out.waiting, x)
			continue
		}
		add(x, false)
	}
	return order
}

// wave publishes the first row of each queue and returns an error for each that
// was not acknowledged.
func (r *Relay) wave(ctx context.Context, s *state, queues []*queue, out *outcome) []error {
	errs := make([]error, len(queues))
	evs := make([]events.Event, 0, len(queues))
	at := make([]int, 0, len(queues))
	for i, q := range queues {
		if head := q.rows[0]; head.bad != nil {
			errs[i] = head.bad
			continue
		} else if err := out.missing[head.event.Topic]; err != nil {
			errs[i] = err
			continue
		}
		evs = append(evs, q.rows[0].event)
		at = append(at, i)
	}
	h := r.cfg.Hooks
	if h.BeforePublish != nil {
		for _, e := range evs {
			h.BeforePublish(ctx, e)
		}
	}
	receipts, err := r.send(ctx, evs)
	if err != nil {
		var partial *events.PublishError
		if errors.As(err, &partial) && len(partial.Failed) > 0 {
			for _, f := range partial.Failed {
				errs[at[f.Index]] = f.Err
			}
		} else {
			for _, i := range at {
				errs[i] = err
			}
		}
	}
	for n, i := range at {
		if errs[i] == nil {
			out.topics[evs[n].Topic] = struct{}{}
			if h.AfterPublish != nil {
				h.AfterPublish(ctx, evs[n])
			}
		} else if h.PublishFailed != nil {
			h.PublishFailed(ctx, evs[n], errs[i])
		}
	}
	r.observe(s, evs, receipts, out)
	return errs
}

func (r *Relay) send(ctx context.Context, evs []events.Event) ([]events.Receipt, error) {
	if len(evs) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.PublishTimeout)
	defer cancel()
	if r.log != nil {
		return r.log.PublishReceipts(ctx, evs...)
	}
	return nil, r.pub.Publish(ctx, evs...)
}

// outage reports whether the first wave says that the broker as a whole does not
// answer: new rows were tried, nothing got through, and no row or topic itself is to
// blame.
func outage(queues []*queue, errs []error) bool {
	fresh := false
	for i, q := range queues {
		if errs[i] == nil || isRejected(errs[i]) || errors.Is(errs[i], events.ErrNoTopic) {
			return false
		}
		fresh = fresh || !q.retry
	}
	return fresh
}

// fail moves a queue whose head was not acknowledged to the stalled list.
func (r *Relay) fail(s *state, q *queue, cause error, out *outcome) {
	head := q.rows[0]
	f := failure{again: q.retry, stalled: stalled{id: head.id, topic: head.event.Topic, key: head.event.Key, attempts: 1, cause: cause.Error()}}
	if q.retry {
		for _, x := range s.stalled {
			if x.id == head.id {
				f.attempts = x.attempts + 1
			}
		}
	} else {
		out.waiting = append(out.waiting, q.rows[1:]...)
	}
	wait := min(time.Second<<min(f.attempts-1, 10), time.Minute)
	f.retryAt = r.cfg.Now().Add(wait).UnixMicro()
	out.failed = append(out.failed, f)
	r.cfg.Logger.Warn("outbox: an event was not published; its key waits", "event_id", head.event.ID,
		"type", head.event.Type, "topic", f.topic, "attempts", f.attempts, "wait", wait, "error", cause)
}
