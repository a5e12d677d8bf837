package kafkaevents

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
)

var template, _ = encode(events.Event{ID: "1", Source: "s", Type: "a.b", Topic: "orders"})

func record(partition int32, offset int64) fetch {
	r := new(kgo.Record)
	*r = *template
	r.Partition, r.Offset, r.LeaderEpoch = partition, offset, 7
	return fetch{record: r}
}

// The position is that of the oldest event not acknowledged, whatever offsets the
// log leaves out.
func TestTheFloorWaitsForTheOldest(t *testing.T) {
	w := newWindow(events.Subscription{}, map[int32]position{0: {3, 1}}, time.Minute)
	var ds []*delivery
	for _, at := range []int64{1, 3, 5, 5, 9} { // 1 lies before the position, 5 comes twice
		w.add(record(0, at))
	}
	for {
		d, _, _ := w.next(time.Now())
		if d == nil {
			break
		}
		ds = append(ds, d)
	}
	if len(ds) != 3 {
		t.Fatalf("%d deliveries, want those of 3, 5 and 9", len(ds))
	}
	floor := func(want position) {
		t.Helper()
		if got := w.partitions[0].floor; got != want {
			t.Errorf("the position is %+v, want %+v", got, want)
		}
	}
	_ = ds[1].Ack(t.Context())
	floor(position{3, 1})
	_ = ds[0].Ack(t.Context())
	floor(position{6, 7})
	_ = ds[0].Ack(t.Context()) // again
	_ = ds[2].Ack(t.Context())
	floor(position{10, 7})
	if at := w.uncommitted(false); at[0].offset != 10 {
		t.Errorf("to commit: %v", at)
	}
	w.commit(map[int32]position{0: {10, 7}})
	if at := w.uncommitted(false); len(at) != 0 {
		t.Errorf("to commit again: %v", at)
	}
}

// One event that is not acknowledged holds its partition, past the bound, and no
// other.
func TestAPartitionIsHeldAtTheBound(t *testing.T) {
	w := newWindow(events.Subscription{}, map[int32]position{0: {0, -1}, 1: {0, -1}}, time.Hour)
	var oldest *delivery
	for at := range int64(maxAhead) {
		w.add(record(0, at))
		d, _, _ := w.next(time.Now())
		if at == 0 {
			oldest = d
		} else {
			_ = d.Ack(t.Context())
		}
	}
	w.add(record(0, maxAhead))
	if d, more, _ := w.next(time.Now()); d != nil || !more {
		t.Fatalf("got %v, %v past the bound", d, more)
	}
	if hold, free := w.pauses(); len(hold) != 1 || hold[0] != 0 || len(free) != 0 {
		t.Errorf("pauses: %v, %v", hold, free)
	}
	w.add(record(1, 0))
	if d, _, _ := w.next(time.Now()); d == nil || d.p.id != 1 {
		t.Error("the other partition is held too")
	}
	_ = oldest.Ack(t.Context())
	if hold, free := w.pauses(); len(free) != 1 || len(hold) != 0 {
		t.Errorf("pauses: %v, %v", hold, free)
	}
	if d, _, _ := w.next(time.Now()); d == nil || d.offset != maxAhead {
		t.Errorf("got %+v", d)
	}
}

// What was under way in a log that is no more is void, and the position goes back.
func TestALossStartsThePartitionAnew(t *testing.T) {
	w := newWindow(events.Subscription{}, map[int32]position{0: {0, 1}, 1: {0, 1}}, time.Minute)
	var ds []*delivery
	for at := range int64(4) {
		w.add(record(int32(at%2), at/2))
		d, _, _ := w.next(time.Now())
		ds = append(ds, d)
	}
	w.add(record(0, 2))
	_ = ds[0].Ack(t.Context())
	w.add(fetch{loss: &kgo.ErrDataLoss{Partition: 0, ConsumedTo: 3, ResetTo: 0, ResetToEpoch: 2}})
	if err := ds[2].Ack(t.Context()); err != nil {
		t.Error(err)
	}
	_ = ds[2].Retry(t.Context(), 0)
	if at := w.uncommitted(false); at[0] != (position{0, 2}) {
		t.Errorf("to commit: %+v, want the way back", at)
	}
	if d, _, _ := w.next(time.Now()); d != nil {
		t.Errorf("got offset %d of the old log", d.offset)
	}
	w.add(record(0, 0))
	if d, _, _ := w.next(time.Now()); d == nil || d.p.id != 0 || d.offset != 0 || d.Attempt() != 1 {
		t.Errorf("got %+v", d)
	}
	for _, i := range []int{1, 3} { // the other partition goes on
		_ = ds[i].Ack(t.Context())
	}
	if f := w.partitions[1].floor.offset; f != 2 {
		t.Errorf("partition 1 is at %d", f)
	}
}

// Deliveries of a run that is over, and of earlier attempts, change nothing.
func TestStaleDeliveries(t *testing.T) {
	w := newWindow(events.Subscription{}, map[int32]position{0: {0, 1}}, time.Minute)
	w.add(record(0, 0))
	first, _, _ := w.next(time.Now())
	second, _, _ := w.next(time.Now().Add(2 * time.Minute))
	if second == nil || second.Attempt() != 2 {
		t.Fatalf("got %+v", second)
	}
	_ = first.Retry(t.Context(), 0)
	if d, _, _ := w.next(time.Now()); d != nil {
		t.Error("the first attempt sent the event back under the second")
	}
	w.end()
	_ = second.Ack(t.Context())
	if f := w.partitions[0].floor.offset; f != 0 {
		t.Errorf("an ack after the end moved the position to %d", f)
	}
}
