package simulation

import (
	"context"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

// link is the broker as one process reaches it.
type link struct {
	p      *process
	b      *memevents.Broker
	broken *broken

	mu     sync.Mutex
	looked map[string]int // by topic, how often the broker had lost events when its state was read
}

var _ interface {
	events.Broker
	events.Log
} = (*link)(nil)

func newLink(p *process) *link {
	return &link{p: p, b: p.w.b, broken: p.w.broken, looked: make(map[string]int)}
}

func (w *world) lossCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.losses
}

func (l *link) Features() events.Features { return l.b.Features() }
func (l *link) Close() error              { return nil }

func (l *link) EnsureTopics(ctx context.Context, topics ...string) error {
	return l.b.EnsureTopics(ctx, topics...)
}

func (l *link) Pending(ctx context.Context, group string) (int, error) {
	return l.b.Pending(ctx, group)
}

func (l *link) StreamState(ctx context.Context, topic string) (events.StreamState, error) {
	t := l.p.turn("state", topic)
	if t.err != nil {
		return events.StreamState{}, t.err
	}
	st, err := l.b.StreamState(ctx, topic)
	l.mu.Lock()
	l.looked[topic] = l.p.w.lossCount()
	l.mu.Unlock()
	return st, l.p.done(t, err)
}

func (l *link) Publish(ctx context.Context, evs ...events.Event) error {
	_, err := l.PublishReceipts(ctx, evs...)
	return err
}

func (l *link) PublishReceipts(ctx context.Context, evs ...events.Event) ([]events.Receipt, error) {
	if l.broken.cursorFirst {
		return l.laterOn(evs)
	}
	names := make([]string, len(evs))
	for i, e := range evs {
		names[i] = e.ID
	}
	t := l.p.turn("publish", strings.Join(slices.Sorted(slices.Values(names)), " "))
	if t.err != nil {
		return nil, t.err
	}
	l.mu.Lock()
	at, ok := l.looked[evs[0].Topic]
	l.mu.Unlock()
	if ok && at != l.p.w.lossCount() {
		return nil, errLost // its connection broke as the broker lost events
	}
	receipts, err := l.publish(t, evs)
	return receipts, l.p.done(t, err)
}

// publish stores the events in any order: a call has one of each key at most. Some
// are lost, some are stored and their acknowledgement is lost, some are stored twice.
func (l *link) publish(t turn, evs []events.Event) ([]events.Receipt, error) {
	w, r := l.p.w, t.rand()
	receipts := make([]events.Receipt, len(evs))
	var failed []events.FailedEvent
	order := make([]int, len(evs))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(evs[a].ID, evs[b].ID) })
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, i := range order {
		e := evs[i]
		fate := r.IntN(100)
		if !w.faultyNow() {
			fate = 100
		}
		fail := func(fault string, err error) {
			w.locked(func() { w.faults[fault]++ })
			failed = append(failed, events.FailedEvent{Index: i, ID: e.ID, Err: err})
		}
		if fate < 6 {
			fail("event lost on publication", errLost)
			continue
		}
		if fate < 8 {
			fail("event refused", events.ErrRejected)
			continue
		}
		rc, err := l.b.PublishReceipts(context.Background(), e)
		if err != nil {
			failed = append(failed, events.FailedEvent{Index: i, ID: e.ID, Err: err})
			continue
		}
		receipts[i] = rc[0]
		if fate < 14 {
			receipts[i] = events.Receipt{}
			fail("event's acknowledgement lost", errLost)
		} else if fate < 20 {
			w.locked(func() { w.faults["event stored twice"]++ })
			_, _ = l.b.PublishReceipts(context.Background(), e)
		}
	}
	if failed != nil {
		slices.SortFunc(failed, func(a, b events.FailedEvent) int { return a.Index - b.Index })
		return receipts, &events.PublishError{Failed: failed}
	}
	return receipts, nil
}

// laterOn is the planted fault of a relay that moves its cursor first: what it calls
// published is only about to be.
func (l *link) laterOn(evs []events.Event) ([]events.Receipt, error) {
	go func() {
		for {
			t := l.p.turn("publish", "later")
			if t.err == nil {
				_, _ = l.b.PublishReceipts(context.Background(), evs...)
				_ = l.p.done(t, nil)
				return
			}
			l.p.w.mu.Lock()
			gone := l.p.crashed
			l.p.w.mu.Unlock()
			if gone {
				return
			}
		}
	}()
	return make([]events.Receipt, len(evs)), nil
}

// Subscribe hands deliveries on in any order across keys, now and then twice, and
// starts again where the connection is lost.
func (l *link) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	for ctx.Err() == nil {
		if err := l.connected(ctx, s, deliver); err != nil {
			return err
		}
	}
	return nil
}

func (l *link) connected(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var queue []events.Delivery
	more := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
			for {
				mu.Lock()
				n := len(queue)
				mu.Unlock()
				if n == 0 || ctx.Err() != nil {
					break
				}
				t := l.p.turn("deliver", s.Group+" "+s.Block.String())
				if t.err != nil || t.after != nil {
					cancel() // what is on its way is lost with the connection
					return
				}
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				d := l.next(t, &queue)
				mu.Unlock()
				l.deliver(ctx, t, d, deliver)
				if l.p.done(t, nil) != nil {
					return
				}
			}
		}
	})
	err := l.b.Subscribe(ctx, s, func(_ context.Context, d events.Delivery) {
		mu.Lock()
		queue = append(queue, d)
		mu.Unlock()
		select {
		case more <- struct{}{}:
		default:
		}
	})
	cancel()
	wg.Wait()
	return err
}

// next takes the first delivery of some key.
func (l *link) next(t turn, queue *[]events.Delivery) events.Delivery {
	seen := make(map[[2]string]bool)
	var heads []int
	for i, d := range *queue {
		e := d.Event()
		k := [2]string{e.Topic, e.Key}
		if e.Key == "" || !seen[k] {
			heads = append(heads, i)
		}
		seen[k] = true
	}
	i := heads[t.rand().IntN(len(heads))]
	d := (*queue)[i]
	*queue = slices.Delete(*queue, i, i+1)
	return d
}

func (l *link) deliver(ctx context.Context, t turn, d events.Delivery, deliver func(context.Context, events.Delivery)) {
	w := l.p.w
	x := &delivery{Delivery: d, p: l.p}
	if l.broken.ackFirst {
		_ = d.Ack(ctx)
	}
	if l.broken.nack && d.Attempt() == 1 && w.chance("nack", d.Event().ID) < 20 {
		_ = d.Retry(ctx, time.Second)
		return
	}
	deliver(ctx, x)
	if w.faultyNow() && t.luck%25 == 0 {
		w.locked(func() { w.faults["event delivered twice"]++ })
		deliver(ctx, x)
	}
}

type delivery struct {
	events.Delivery
	p *process
}

func (d *delivery) Ack(ctx context.Context) error {
	t := d.p.turn("ack", d.Event().ID)
	if t.err != nil {
		return t.err
	}
	return d.p.done(t, d.Delivery.Ack(ctx))
}

// InProgress is a message without an answer, of which some are lost. The order in
// which a consumer sends them is none that the seed decides, so chance is per event.
func (d *delivery) InProgress(ctx context.Context) error {
	w := d.p.w
	w.mu.Lock()
	silent := d.p.crashed || time.Now().Before(d.p.paused)
	w.mu.Unlock()
	if silent || w.faultyNow() && w.chance("heartbeat", d.Event().ID+time.Now().String()) < 20 {
		return errLost
	}
	return d.Delivery.InProgress(ctx)
}

// chance is from 0 to 99, always the same for a seed and a name.
func (w *world) chance(what, name string) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(what + " " + name))
	x := h.Sum64() ^ w.seed*0x9e3779b97f4a7c15
	x ^= x >> 31
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 29
	return int(x % 100)
}
