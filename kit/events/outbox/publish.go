package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

// orderKey is what order is kept by. A row without a key is alone in its own.
type orderKey struct {
	topic, key string
	part       int
	id         int64
}

func keyOf(topic, key string, part int, id int64) orderKey {
	if key == "" {
		return orderKey{topic: topic, part: part, id: id}
	}
	return orderKey{topic: topic, key: key}
}

// queue is the rows of one key, in order.
type queue struct {
	rows  []row
	retry bool // they come from the stalled list
}

// lane publishes rows of one topic. It runs in a goroutine of its own, so that a
// topic which is slow holds up no other; there is never more than one of a topic.
// What it found is read once done is closed.
type lane struct {
	topic  string
	queues []*queue
	byKey  map[orderKey]*queue
	fresh  []row              // its rows that are not retries
	check  bool               // compare the topic's log first
	known  map[string]bool    // the identities that the log had for the blocks held
	base   uint64             // the highest sequence that was acknowledged before it began
	abort  context.CancelFunc // ends it after the wave under way
	done   chan struct{}

	log      *events.StreamState // as it was found, where it was asked for
	acked    map[int]uint64      // by partition, the highest sequence acknowledged
	resolved []row               // stalled rows that are published now
	failed   []failure           // rows that were tried in vain
	waiting  []row               // rows behind a failed one of their key
	left     []row               // rows that were not published because of trouble
	trouble  error               // the topic as a whole takes nothing
	lost     bool                // the log lost its tail or is another one
	intact   uint64              // what is left of the tail
	stopped  bool                // the relay is to end
}

type failure struct {
	stalled
	again bool // it was in the stalled list before
}

func (l *lane) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// run publishes in waves. A wave holds at most one row of each key, so two
// publications of one key are never under way, and a failure stops its key. stop
// ends it between two waves.
func (l *lane) run(stop, ctx context.Context, r *Relay) {
	defer close(l.done)
	defer l.abort() // frees what stop holds of it
	l.acked = make(map[int]uint64)
	if l.check && !l.compare(ctx, r) {
		l.leave(r)
		return
	}
	for len(l.queues) > 0 {
		if stop.Err() != nil {
			l.stopped = true
			l.leave(r)
			return
		}
		errs, tried := l.wave(ctx, r)
		refused := 0
		for i, q := range l.queues {
			if errs[i] != nil && q.rows[0].bad == nil && !isRejected(errs[i]) {
				refused++
				l.trouble = errs[i]
			}
		}
		if refused < tried || tried == 0 {
			l.trouble = nil // some came through: the others are to blame themselves
		}
		next := l.queues[:0]
		for i, q := range l.queues {
			head := q.rows[0]
			switch {
			case errs[i] == nil:
				if q.retry {
					l.resolved = append(l.resolved, head)
				}
				q.rows = q.rows[1:]
			case l.trouble == nil || isRejected(errs[i]) || head.bad != nil:
				l.fail(r, q, errs[i])
				continue
			}
			if len(q.rows) > 0 {
				next = append(next, q)
			}
		}
		l.queues = next
		if l.trouble != nil || l.lost {
			l.leave(r)
			return
		}
	}
}

// leave notes what is not published.
func (l *lane) leave(r *Relay) {
	for _, q := range l.queues {
		switch {
		case !q.retry:
			l.left = append(l.left, q.rows...)
		case l.trouble != nil:
			l.fail(r, q, l.trouble)
		}
	}
	l.queues = nil
}

// compare reports whether the topic's log is as it was.
func (l *lane) compare(ctx context.Context, r *Relay) bool {
	st, err := r.streamState(ctx, l.topic)
	if err != nil {
		l.trouble = err
		return false
	}
	l.log = &st
	for identity := range l.known {
		if identity != st.Identity {
			l.lost, l.intact = true, 0
			return false
		}
	}
	if st.LastSeq < l.base {
		l.lost, l.intact = true, st.LastSeq
		return false
	}
	return true
}

// wave publishes the first row of each queue and returns an error for each that
// was not acknowledged, and how many it handed to the broker.
func (l *lane) wave(ctx context.Context, r *Relay) (errs []error, tried int) {
	errs = make([]error, len(l.queues))
	evs := make([]events.Event, 0, len(l.queues))
	at := make([]int, 0, len(l.queues))
	for i, q := range l.queues {
		if q.rows[0].bad != nil {
			errs[i] = q.rows[0].bad
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
			if h.AfterPublish != nil {
				h.AfterPublish(ctx, evs[n])
			}
		} else if h.PublishFailed != nil {
			h.PublishFailed(ctx, evs[n], errs[i])
		}
	}
	l.observe(at, receipts)
	return errs, len(evs)
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

// observe takes the receipts of a wave into account. A new event stored at or
// below a sequence that was acknowledged before means that the log lost its tail.
func (l *lane) observe(at []int, receipts []events.Receipt) {
	high := l.base
	for n, rc := range receipts {
		if rc.Seq == 0 {
			continue
		}
		if !rc.Duplicate && rc.Seq <= l.base && (!l.lost || rc.Seq <= l.intact) {
			l.lost, l.intact = true, rc.Seq-1
		}
		part := l.queues[at[n]].rows[0].part
		l.acked[part] = max(l.acked[part], rc.Seq)
		high = max(high, rc.Seq)
	}
	l.base = high
}

// fail moves a queue whose head was not acknowledged to the stalled list.
func (l *lane) fail(r *Relay, q *queue, cause error) {
	head := q.rows[0]
	f := failure{again: q.retry, stalled: stalled{part: head.part, id: head.id, topic: head.event.Topic, key: head.event.Key, attempts: 1, cause: cause.Error()}}
	if q.retry {
		f.attempts = head.attempts + 1
	} else {
		l.waiting = append(l.waiting, q.rows[1:]...)
	}
	wait := min(time.Second<<min(f.attempts-1, 10), time.Minute)
	f.retryAt = r.cfg.Now().Add(wait).UnixMicro()
	l.failed = append(l.failed, f)
	r.cfg.Logger.Warn("outbox: an event was not published; its key waits", "event_id", head.event.ID,
		"type", head.event.Type, "topic", f.topic, "attempts", f.attempts, "wait", wait, "error", cause)
}

// isRejected reports whether a failure is about the one event.
func isRejected(err error) bool {
	return errors.Is(err, events.ErrRejected) || errors.Is(err, events.ErrInvalid)
}
