package kafkaevents

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
)

// maxAhead bounds how far a partition is received past its oldest event that is
// not acknowledged: what would come again after a crash.
const maxAhead = 1 << 16

// position is an offset in a partition, and the epoch of the leader that wrote
// what lies before it; -1 where that is not known.
type position struct {
	offset int64
	epoch  int32
}

// window is what a run has received of its topic and not acknowledged yet.
type window struct {
	types   []string
	max     int // deliveries under way
	ackWait time.Duration
	wake    chan struct{} // there may be something to deliver
	changed chan struct{} // there may be something to commit

	mu         sync.Mutex
	over       bool
	partitions []*partition
	turn       int // whose turn it is
	underWay   schedule
}

type partition struct {
	id        int32
	floor     position // the oldest offset that is not acknowledged
	committed int64    // -1 where it must be committed anew
	open      []slot   // what was taken on, from the oldest that is not acknowledged
	queue     []*kgo.Record
	paused    bool
}

type slot struct {
	position
	acked bool
}

func newWindow(s events.Subscription, start map[int32]position, ackWait time.Duration) *window {
	w := &window{types: s.Types, max: s.InFlight(), ackWait: ackWait, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	for id, at := range start {
		w.partitions = append(w.partitions, &partition{id: id, floor: at, committed: at.offset})
	}
	slices.SortFunc(w.partitions, func(a, b *partition) int { return int(a.id - b.id) })
	return w
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (w *window) partition(id int32) *partition {
	for _, p := range w.partitions {
		if p.id == id {
			return p
		}
	}
	return nil
}

// add takes on what was fetched.
func (w *window) add(f fetch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.loss == nil {
		if p := w.partition(f.record.Partition); p != nil {
			p.queue = append(p.queue, f.record)
		}
		return
	}
	p := w.partition(f.loss.Partition)
	if p == nil {
		return
	}
	// What it held lies in a log that is no more.
	*p = partition{id: p.id, floor: position{f.loss.ResetTo, f.loss.ResetToEpoch}, committed: -1, paused: p.paused}
	w.underWay = slices.DeleteFunc(w.underWay, func(e *entry) bool {
		if e.p == p {
			e.at = -1
			return true
		}
		return false
	})
	for i, e := range w.underWay {
		e.at = i
	}
	heap.Init(&w.underWay)
	signal(w.changed)
}

// next returns the next delivery, or else whether more records are wanted, and
// for how long there is nothing to do.
func (w *window) next(now time.Time) (d *delivery, more bool, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait = w.ackWait
	if len(w.underWay) > 0 {
		e := w.underWay[0]
		if wait = e.due.Sub(now); wait <= 0 {
			return w.deliver(e, now), false, 0
		}
	}
	for len(w.underWay) < w.max {
		p := w.ready()
		if p == nil {
			return nil, true, wait
		}
		r := p.queue[0]
		p.queue[0] = nil
		p.queue = p.queue[1:]
		if r.Offset < p.floor.offset || len(p.open) > 0 && r.Offset <= p.open[len(p.open)-1].offset-1 {
			continue // before the position, as an exact offset inside a batch may be answered
		}
		p.open = append(p.open, slot{position: position{r.Offset + 1, r.LeaderEpoch}})
		e := &entry{w: w, p: p, offset: r.Offset}
		e.event, e.err = decode(r)
		if e.err == nil && len(w.types) > 0 && !slices.Contains(w.types, e.event.Type) {
			w.settle(p, r.Offset)
			continue
		}
		heap.Push(&w.underWay, e)
		return w.deliver(e, now), false, 0
	}
	return nil, false, wait
}

// ready is the next partition in turn that has a record to deliver.
func (w *window) ready() *partition {
	for i := range w.partitions {
		p := w.partitions[(w.turn+i)%len(w.partitions)]
		if len(p.queue) > 0 && len(p.open) < maxAhead {
			w.turn = (w.turn + i + 1) % len(w.partitions)
			return p
		}
	}
	return nil
}

// pauses says of which partitions no more is to be fetched, and of which again.
func (w *window) pauses() (hold, free []int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.partitions {
		full := len(p.queue) > 0 && len(p.open) >= maxAhead
		if full == p.paused {
			continue
		}
		p.paused = full
		if full {
			hold = append(hold, p.id)
		} else {
			free = append(free, p.id)
		}
	}
	return hold, free
}

func (w *window) deliver(e *entry, now time.Time) *delivery {
	e.attempt++
	e.due = now.Add(w.ackWait)
	heap.Fix(&w.underWay, e.at)
	return &delivery{entry: e, attempt: e.attempt}
}

// settle notes that an offset is dealt with, and moves the floor.
func (w *window) settle(p *partition, offset int64) {
	i, found := slices.BinarySearchFunc(p.open, offset+1, func(s slot, to int64) int { return int(min(max(s.offset-to, -1), 1)) })
	if !found {
		return
	}
	p.open[i].acked = true
	for len(p.open) > 0 && p.open[0].acked {
		p.floor = p.open[0].position
		p.open = p.open[1:]
	}
	signal(w.changed)
}

// uncommitted is the positions that the group does not have yet; all where that
// is asked for.
func (w *window) uncommitted(all bool) map[int32]position {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[int32]position)
	for _, p := range w.partitions {
		if all || p.floor.offset != p.committed {
			out[p.id] = p.floor
		}
	}
	return out
}

func (w *window) commit(done map[int32]position) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, at := range done {
		w.partition(id).committed = at.offset
	}
}

// end makes whatever is still done to its deliveries have no effect: they come
// again in the next run.
func (w *window) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// entry is an event under way.
type entry struct {
	w       *window
	p       *partition
	offset  int64
	event   events.Event
	err     error
	attempt int
	due     time.Time // when it comes again
	at      int       // in the schedule; -1 where it is not
}

// delivery is one attempt at an entry as an events.Delivery.
type delivery struct {
	*entry
	attempt int
}

func (d *delivery) Event() events.Event { return d.event }
func (d *delivery) Err() error          { return d.err }
func (d *delivery) Attempt() int        { return d.attempt }

// Ack takes effect at once here, and at the cluster with the next commit.
func (d *delivery) Ack(context.Context) error {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	if d.w.over || d.at < 0 {
		return nil
	}
	heap.Remove(&d.w.underWay, d.at)
	d.w.settle(d.p, d.offset)
	signal(d.w.wake)
	return nil
}

func (d *delivery) Retry(_ context.Context, after time.Duration) error {
	d.set(max(after, 0))
	return nil
}

func (d *delivery) InProgress(context.Context) error {
	d.set(d.w.ackWait)
	return nil
}

// set is when the event comes again, unless a later attempt is under way.
func (d *delivery) set(after time.Duration) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	if d.w.over || d.at < 0 || d.attempt != d.entry.attempt {
		return
	}
	d.due = time.Now().Add(after)
	heap.Fix(&d.w.underWay, d.at)
	signal(d.w.wake)
}

// schedule is a heap of what is under way by when it comes again.
type schedule []*entry

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].at, s[j].at = i, j
}

func (s *schedule) Push(x any) {
	e := x.(*entry) //nolint:forcetypeassert // the heap's contract
	e.at = len(*s)
	*s = append(*s, e)
}

func (s *schedule) Pop() any {
	old := *s
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	e.at = -1
	return e
}
