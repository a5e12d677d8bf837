package eventstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

// Cases lists the suite's demands, for those who run them in another way.
func Cases() []Case {
	return []Case{
		{"RoundTrip", roundTrip},
		{"OrderOfAKey", orderOfAKey},
		{"UnacknowledgedComesAgain", unacknowledged},
		{"InProgressHoldsOff", inProgress},
		{"RetryComesAgain", retry},
		{"AcknowledgedStaysAway", acknowledged},
		{"RestartOvertakesNothing", restartOvertakesNothing},
		{"GroupsAreApart", groupsAreApart},
		{"BlocksAreApart", blocksAreApart},
		{"ABlockResumes", aBlockResumes},
		{"AnotherCutLosesNothing", anotherCut},
		{"TypesAreFiltered", typesAreFiltered},
		{"InFlightIsBounded", inFlight},
		{"PendingIsCounted", pending},
		{"CopiesAreDropped", copies},
		{"TooLargeIsRejectedAlone", tooLarge},
		{"InvalidIsRefusedAlone", invalid},
		{"ReceiptsRise", receipts},
		{"ServerRestart", serverRestart},
	}
}

// open makes the topic and publishes n events of each key, in turns.
func open(ctx context.Context, h Harness, n int, keys ...string) error {
	if err := h.Broker.EnsureTopics(ctx, "suite"); err != nil {
		return fmt.Errorf("EnsureTopics: %w", err)
	}
	if err := h.Broker.EnsureTopics(ctx, "suite"); err != nil {
		return fmt.Errorf("EnsureTopics of a topic that exists: %w", err)
	}
	for i := 1; i <= n; i++ {
		var wave []events.Event
		for _, k := range keys {
			wave = append(wave, event(k, i))
		}
		if err := h.Broker.Publish(ctx, wave...); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

func roundTrip(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 0); err != nil {
		return err
	}
	want := event("key with spaces, \"quotes\" and 100 % ü", 7)
	want.ID = "id/with?odd=characters"
	want.Subject, want.DataSchema = "a subject", "suite.v1.Schema"
	want.CorrelationID, want.CausationID, want.UserID = "corr", "cause", "user-1"
	want.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	want.TraceState = "vendor=1,other=2"
	want.Extensions = map[string]string{"sagaid": "s 1", "sagastep": "a/b"}
	want.Data = []byte{0, 1, 2, 0xff, '\r', '\n', 0}
	empty := event("", 0)
	empty.Data, empty.DataContentType = nil, ""
	if err := h.Broker.Publish(ctx, want, empty); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}}, ack(ctx))
	if err := r.count(ctx, 2); err != nil {
		return err
	}
	for _, d := range r.deliveries() {
		if d.Err() != nil {
			return fmt.Errorf("event %s did not decode: %w", d.Event().ID, d.Err())
		}
		w := want
		if d.Event().ID == empty.ID {
			w = empty
		}
		g := d.Event()
		if !maps.Equal(g.Attributes(), w.Attributes()) || g.Topic != w.Topic || !bytes.Equal(g.Data, w.Data) {
			return fmt.Errorf("the event changed on its way:\n got %+v\nwant %+v", g, w)
		}
	}
	return r.stop()
}

func orderOfAKey(ctx context.Context, h Harness) error {
	if !h.Broker.Features().Ordered {
		return nil
	}
	keys := []string{"a", "b", "c", "d", "e"}
	if err := open(ctx, h, 40, keys...); err != nil {
		return err
	}
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}}, ack(ctx))
	if err := r.count(ctx, 200); err != nil {
		return err
	}
	last := map[string]int64{}
	for _, d := range r.deliveries() {
		e := d.Event()
		if e.KeySeq != last[e.Key]+1 {
			return fmt.Errorf("event %d of key %s came after %d", e.KeySeq, e.Key, last[e.Key])
		}
		last[e.Key] = e.KeySeq
	}
	return r.stop()
}

func unacknowledged(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 1, "a"); err != nil {
		return err
	}
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}}, nil)
	if err := r.count(ctx, 2); err != nil {
		return fmt.Errorf("an event that was not acknowledged did not come again: %w", err)
	}
	got := r.deliveries()
	if a, b := got[0].Attempt(), got[1].Attempt(); a != 1 || b < 2 {
		return fmt.Errorf("attempts are numbered %d, %d; want 1, 2", a, b)
	}
	if err := got[1].Ack(ctx); err != nil {
		return fmt.Errorf("ack: %w", err)
	}
	return r.stop()
}

func inProgress(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 1, "a"); err != nil {
		return err
	}
	wait := h.Broker.Features().AckWait
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}}, nil)
	if err := r.count(ctx, 1); err != nil {
		return err
	}
	for range 8 { // twice the AckWait
		if err := r.quiet(ctx, 1, wait/4); err != nil {
			return fmt.Errorf("an event in progress came again: %w", err)
		}
		if err := r.deliveries()[0].InProgress(ctx); err != nil {
			return fmt.Errorf("InProgress: %w", err)
		}
	}
	if err := r.deliveries()[0].Ack(ctx); err != nil {
		return fmt.Errorf("ack: %w", err)
	}
	return r.stop()
}

func retry(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 1, "a"); err != nil {
		return err
	}
	start := time.Now()
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}}, func(d events.Delivery) {
		if d.Attempt() == 1 {
			_ = d.Retry(ctx, 50*time.Millisecond) // the wait below tells
			return
		}
		_ = d.Ack(ctx)
	})
	if err := r.count(ctx, 2); err != nil {
		return fmt.Errorf("an event sent back did not come again: %w", err)
	}
	if since := time.Since(start); since < 50*time.Millisecond {
		return fmt.Errorf("an event sent back for 50ms came again after %v", since)
	}
	return r.stop()
}

func acknowledged(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 3, "a", "b"); err != nil {
		return err
	}
	s := events.Subscription{Group: "group", Topics: []string{"suite"}}
	r := subscribe(ctx, h, s, ack(ctx))
	if err := errors.Join(r.count(ctx, 6), drained(ctx, h), r.stop()); err != nil {
		return err
	}
	if h.Broker.Features().NoPositions {
		return nil
	}
	again := subscribe(ctx, h, s, ack(ctx))
	if err := again.quiet(ctx, 0, h.Broker.Features().AckWait*3/2); err != nil {
		return fmt.Errorf("acknowledged events came again: %w", err)
	}
	return again.stop()
}

func restartOvertakesNothing(ctx context.Context, h Harness) error {
	if !h.Broker.Features().Ordered {
		return nil
	}
	if err := open(ctx, h, 6, "a"); err != nil {
		return err
	}
	s := events.Subscription{Group: "group", Topics: []string{"suite"}, MaxInFlight: 4}
	// The first is left unacknowledged, as by a process that is killed.
	r := subscribe(ctx, h, s, func(d events.Delivery) {
		if d.Event().KeySeq == 2 {
			_ = d.Ack(ctx) // may be forgotten: it lies above one that is not
		}
	})
	if err := errors.Join(r.count(ctx, 4), r.stop()); err != nil {
		return err
	}
	again := subscribe(ctx, h, s, ack(ctx))
	err := again.until(ctx, "the last event", func(got []events.Delivery) bool {
		return len(got) > 0 && got[len(got)-1].Event().KeySeq == 6
	})
	if err != nil {
		return err
	}
	seen, next := again.deliveries(), int64(1)
	for _, d := range seen {
		n := d.Event().KeySeq
		if n > next && (next != 2 || n != 3) { // 2 was acknowledged
			return fmt.Errorf("after a restart event %d overtook event %d: %v", n, next, again.ids())
		}
		next = max(next, n+1)
	}
	return again.stop()
}

func groupsAreApart(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 3, "a"); err != nil {
		return err
	}
	one := subscribe(ctx, h, events.Subscription{Group: "one", Topics: []string{"suite"}}, ack(ctx))
	two := subscribe(ctx, h, events.Subscription{Group: "two", Topics: []string{"suite"}}, ack(ctx))
	return errors.Join(one.count(ctx, 3), two.count(ctx, 3), one.stop(), two.stop())
}

// spread is enough keys to fall into every block of eight.
func spread() []string {
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("key %d", i))
	}
	return keys
}

// blocksAreRefused: what cannot be limited to a block says so, rather than to
// deliver what another subscriber holds.
func blocksAreRefused(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 0); err != nil {
		return err
	}
	err := h.Broker.Subscribe(ctx, events.Subscription{Group: "group", Topics: []string{"suite"}, Block: events.Block{Index: 1, Count: 2}}, func(context.Context, events.Delivery) {})
	if err == nil {
		return errors.New("the features say NoBlocks, and a subscription to a block is not refused")
	}
	return nil
}

// blocksAreApart: the subscribers of all blocks together receive everything
// once, each only its own keys, and in the order of each key.
func blocksAreApart(ctx context.Context, h Harness) error {
	if h.Broker.Features().NoBlocks {
		return blocksAreRefused(ctx, h)
	}
	keys := spread()
	if err := open(ctx, h, 3, keys...); err != nil {
		return err
	}
	var errs []error
	total := 0
	var all []*subscriber
	for _, block := range events.Blocks(8) {
		want := 0
		for _, k := range keys {
			if block.Contains(events.Partition(k)) {
				want += 3
			}
		}
		total += want
		r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}, Types: []string{"suite.v1.Happened"}, Block: block}, ack(ctx))
		all = append(all, r)
		if err := r.count(ctx, want); err != nil {
			errs = append(errs, fmt.Errorf("block %v: %w", block, err))
		}
		last := map[string]int64{}
		for _, d := range r.deliveries() {
			e := d.Event()
			if !block.Contains(e.Partition()) {
				errs = append(errs, fmt.Errorf("block %v was given key %q of partition %d", block, e.Key, e.Partition()))
			}
			if e.KeySeq != last[e.Key]+1 && h.Broker.Features().Ordered {
				errs = append(errs, fmt.Errorf("block %v: event %d of key %s came after %d", block, e.KeySeq, e.Key, last[e.Key]))
			}
			last[e.Key] = e.KeySeq
		}
	}
	errs = append(errs, drained(ctx, h))
	for _, r := range all {
		total -= len(r.deliveries())
		errs = append(errs, r.stop())
	}
	if total != 0 {
		errs = append(errs, fmt.Errorf("the blocks together missed %d events", total))
	}
	return errors.Join(errs...)
}

// aBlockResumes: a block has a position of its own, and pending sums over all.
func aBlockResumes(ctx context.Context, h Harness) error {
	if h.Broker.Features().NoBlocks {
		return blocksAreRefused(ctx, h)
	}
	keys := spread()
	if err := open(ctx, h, 2, keys...); err != nil {
		return err
	}
	blocks := events.Blocks(2)
	first, second := 0, 0
	for _, k := range keys {
		if blocks[0].Contains(events.Partition(k)) {
			first += 2
		} else {
			second += 2
		}
	}
	sub := func(i int, on func(events.Delivery)) *subscriber {
		return subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}, Block: blocks[i]}, on)
	}
	a, b := sub(0, ack(ctx)), sub(1, nil)
	if err := errors.Join(a.count(ctx, first), b.count(ctx, second), pendingIs(ctx, h, second), a.stop(), b.stop()); err != nil {
		return err
	}
	a, b = sub(0, ack(ctx)), sub(1, ack(ctx))
	if err := errors.Join(b.count(ctx, second), drained(ctx, h), a.quiet(ctx, 0, h.Broker.Features().AckWait*3/2)); err != nil {
		return fmt.Errorf("after a restart of both blocks: %w", err)
	}
	return errors.Join(a.stop(), b.stop())
}

// anotherCut: a group that goes on with other blocks than before may be given
// what it had, and misses nothing.
func anotherCut(ctx context.Context, h Harness) error {
	if h.Broker.Features().NoBlocks {
		return blocksAreRefused(ctx, h)
	}
	keys := spread()
	if err := open(ctx, h, 1, keys...); err != nil {
		return err
	}
	acked := map[string]bool{}
	whole := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}}, func(d events.Delivery) {
		if len(acked) < len(keys)/2 {
			acked[d.Event().Key] = true
			_ = d.Ack(ctx)
		}
	})
	if err := errors.Join(whole.count(ctx, len(keys)), whole.stop()); err != nil {
		return err
	}
	seen := map[string]bool{}
	var errs []error
	var all []*subscriber
	for _, block := range events.Blocks(4) {
		r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}, Block: block}, ack(ctx))
		all = append(all, r)
	}
	errs = append(errs, drained(ctx, h))
	for _, r := range all {
		errs = append(errs, r.stop())
		for _, d := range r.deliveries() {
			seen[d.Event().Key] = true
		}
	}
	for _, k := range keys {
		if !acked[k] && !seen[k] {
			errs = append(errs, fmt.Errorf("the event of %s was not acknowledged, and was lost as the group was cut into blocks", k))
		}
	}
	return errors.Join(errs...)
}

func typesAreFiltered(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 1, "a", "b"); err != nil {
		return err
	}
	other := event("a", 2)
	other.Type = "suite.v1.HappenedTwice"
	third := event("a", 3)
	third.Type = "suite.v1"
	if err := h.Broker.Publish(ctx, other); err != nil {
		return err
	}
	if err := h.Broker.Publish(ctx, third); err != nil {
		return err
	}
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}, Types: []string{other.Type, third.Type}}, ack(ctx))
	if err := errors.Join(r.count(ctx, 2), r.quiet(ctx, 2, 200*time.Millisecond)); err != nil {
		return err
	}
	ids := r.ids()
	if !h.Broker.Features().Ordered {
		slices.Sort(ids) // as they were published
	}
	if !slices.Equal(ids, []string{other.ID, third.ID}) {
		return fmt.Errorf("got %v; want only the types subscribed to", ids)
	}
	return r.stop()
}

func inFlight(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 5, "a", "b"); err != nil {
		return err
	}
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}, MaxInFlight: 3}, nil)
	most := 3
	if n := h.Broker.Features().InFlight; n > 0 {
		most = min(most, n)
	}
	if err := errors.Join(r.count(ctx, most), r.quiet(ctx, most, h.Broker.Features().AckWait/3)); err != nil {
		return fmt.Errorf("MaxInFlight 3, Features.InFlight %d: %w", h.Broker.Features().InFlight, err)
	}
	for _, d := range r.deliveries() {
		if err := d.Ack(ctx); err != nil {
			return err
		}
	}
	return errors.Join(r.count(ctx, 2*most), r.stop())
}

// drained waits until nothing is pending.
func drained(ctx context.Context, h Harness) error {
	return pendingIs(ctx, h, 0)
}

func pendingIs(ctx context.Context, h Harness, want int) error {
	if h.Broker.Features().NoPending {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := h.Broker.Pending(ctx, "group")
		if err == nil && n == want {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the group has %d pending; want %d", n, want), err)
		}
	}
}

func pending(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 5, "a"); err != nil {
		return err
	}
	if h.Broker.Features().NoPending {
		if _, err := h.Broker.Pending(ctx, "group"); !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("the features say NoPending, and Pending returns %w", err)
		}
		return nil
	}
	if n, err := h.Broker.Pending(ctx, "group"); n != 0 || err != nil {
		return errors.Join(fmt.Errorf("a group that never subscribed has %d pending; want 0", n), err)
	}
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}, MaxInFlight: 2}, nil)
	if err := errors.Join(r.count(ctx, 2), pendingIs(ctx, h, 5)); err != nil {
		return err
	}
	if err := r.deliveries()[0].Ack(ctx); err != nil {
		return err
	}
	return errors.Join(pendingIs(ctx, h, 4), r.stop())
}

func copies(ctx context.Context, h Harness) error {
	if h.Broker.Features().Dedupes == 0 {
		return nil
	}
	if err := open(ctx, h, 1, "a"); err != nil {
		return err
	}
	if err := h.Broker.Publish(ctx, event("a", 1)); err != nil {
		return fmt.Errorf("publishing a copy: %w", err)
	}
	if err := h.Broker.Publish(ctx, event("a", 2)); err != nil {
		return err
	}
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}}, ack(ctx))
	if err := r.count(ctx, 2); err != nil {
		return err
	}
	if ids := r.ids(); ids[1] != "suite-a-2" {
		return fmt.Errorf("a copy within the broker's window was delivered: %v", ids)
	}
	return r.stop()
}

func tooLarge(ctx context.Context, h Harness) error {
	most := h.Broker.Features().MaxEvent
	if most == 0 {
		return nil
	}
	if err := open(ctx, h, 0); err != nil {
		return err
	}
	big := event("b", 1)
	big.Data = make([]byte, most+1)
	return refusedAlone(ctx, h, big)
}

func invalid(ctx context.Context, h Harness) error {
	if err := open(ctx, h, 0); err != nil {
		return err
	}
	bad := event("b", 1)
	bad.Type = "not a type"
	return refusedAlone(ctx, h, bad)
}

// refusedAlone publishes bad between two good events.
func refusedAlone(ctx context.Context, h Harness, bad events.Event) error {
	err := h.Broker.Publish(ctx, event("a", 1), bad, event("c", 1))
	var p *events.PublishError
	if !errors.As(err, &p) || len(p.Failed) != 1 || p.Failed[0].Index != 1 || p.Failed[0].ID != bad.ID {
		return errors.Join(errors.New("publishing good, bad, good must return a *PublishError that names the second"), err)
	}
	if !errors.Is(err, events.ErrRejected) && !errors.Is(err, events.ErrInvalid) {
		return fmt.Errorf("the failure is %w; want ErrRejected or ErrInvalid in it", err)
	}
	r := subscribe(ctx, h, events.Subscription{Group: "group", Topics: []string{"suite"}}, ack(ctx))
	return errors.Join(r.count(ctx, 2), r.stop())
}

func receipts(ctx context.Context, h Harness) error {
	log, ok := h.Broker.(events.Log)
	if !ok {
		return nil
	}
	if err := open(ctx, h, 0); err != nil {
		return err
	}
	before, err := log.StreamState(ctx, "suite")
	if err != nil || before.LastSeq != 0 || before.Identity == "" {
		return errors.Join(fmt.Errorf("a new topic is at %+v", before), err)
	}
	var last uint64
	for i := range 5 {
		rs, err := log.PublishReceipts(ctx, event("a", i+1))
		if err != nil || len(rs) != 1 || rs[0].Seq <= last || rs[0].Duplicate {
			return errors.Join(fmt.Errorf("the receipts after sequence %d are %+v", last, rs), err)
		}
		last = rs[0].Seq
	}
	after, err := log.StreamState(ctx, "suite")
	if err != nil || after.LastSeq != last || after.Identity != before.Identity {
		return errors.Join(fmt.Errorf("the stream is at %+v; want sequence %d and identity %s", after, last, before.Identity), err)
	}
	return nil
}

func serverRestart(ctx context.Context, h Harness) error {
	if h.Restart == nil || !h.Broker.Features().Durable {
		return nil
	}
	if err := open(ctx, h, 5, "a"); err != nil {
		return err
	}
	s := events.Subscription{Group: "group", Topics: []string{"suite"}}
	r := subscribe(ctx, h, s, ack(ctx))
	if err := r.count(ctx, 5); err != nil {
		return err
	}
	h.Restart()
	for i := 6; i <= 10; i++ {
		if err := publishUntilAcked(ctx, h, event("a", i)); err != nil {
			return err
		}
	}
	err := r.until(ctx, "the event after the server's restart", func(got []events.Delivery) bool {
		return got[len(got)-1].Event().KeySeq == 10
	})
	if err != nil {
		return err
	}
	next := int64(1)
	for _, d := range r.deliveries() {
		n := d.Event().KeySeq
		if n > next {
			return fmt.Errorf("event %d overtook event %d over the server's restart: %v", n, next, r.ids())
		}
		next = max(next, n+1)
	}
	return errors.Join(drained(ctx, h), r.stop())
}

// publishUntilAcked tries as a relay does.
func publishUntilAcked(ctx context.Context, h Harness, e events.Event) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := h.Broker.Publish(ctx, e)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("publishing after the server's restart never succeeded: %w", err)
		}
	}
}
