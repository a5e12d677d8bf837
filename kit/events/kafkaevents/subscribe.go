package kafkaevents

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
)

const (
	// lookEvery is how often a subscription checks that its topic is still the
	// one that it began with.
	lookEvery = 5 * time.Second
	// renewEvery is how often a position is committed that has not changed, for
	// Kafka forgets those of groups without members (offsets.retention.minutes).
	renewEvery = time.Hour
	// lastCommit bounds the commit at a subscription's end.
	lastCommit = 3 * time.Second
	// maxBatch bounds the records taken from the client at once.
	maxBatch = 500
)

// Subscribe implements events.Subscriber. Topics that do not exist are made. The
// error says that a block is finer than a topic's partitions, or that their number
// does not fit; everything else is tried again.
func (b *Broker) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("kafkaevents: %w", err)
	}
	if b.isClosed() {
		return events.ErrClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.over, func() { cancel(events.ErrClosed) })()
	var one sync.Mutex // one call of deliver at a time, whichever the topic
	var wg sync.WaitGroup
	for _, topic := range s.Topics {
		wg.Go(func() {
			err := b.follow(ctx, s, topic, func(d events.Delivery) {
				one.Lock()
				defer one.Unlock()
				deliver(ctx, d)
			})
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); errors.Is(err, errSetup) || errors.Is(err, events.ErrClosed) {
		return err
	}
	return nil
}

// follow receives one topic until ctx ends, in runs: a run ends where its topic is
// no longer the same, or with a failure that the client does not mend itself.
func (b *Broker) follow(ctx context.Context, s events.Subscription, name string, deliver func(events.Delivery)) error {
	failures := 0
	for ctx.Err() == nil {
		received, err := b.run(ctx, s, name, deliver)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errSetup) {
			return fmt.Errorf("kafkaevents: group %s, topic %s: %w", s.Group, name, err)
		}
		if received {
			failures = 0
		}
		b.cfg.Logger.WarnContext(ctx, "kafkaevents: receiving was interrupted, starting again", "group", s.Group, "block", s.Block.String(), "topic", name, "error", err)
		pause(ctx, min(50*time.Millisecond<<min(failures, 10), 2*time.Second))
		failures++
	}
	return nil
}

// run receives until ctx ends or something is wrong, and tells whether anything
// came.
func (b *Broker) run(ctx context.Context, s events.Subscription, name string, deliver func(events.Delivery)) (received bool, err error) {
	t, err := b.ensure(ctx, name)
	if err != nil {
		return false, err
	}
	partitions, err := t.block(s.Block)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errSetup, err)
	}
	start, err := b.positions(ctx, s.Group, name, t, partitions)
	if err != nil {
		return false, err
	}
	offsets := make(map[int32]kgo.Offset, len(start))
	for p, at := range start {
		offsets[p] = kgo.NewOffset().At(at.offset).WithEpoch(at.epoch)
	}
	client, err := kgo.NewClient(append(b.opts[:len(b.opts):len(b.opts)],
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: offsets}),
		// Rather again than never, where the log is not what it was.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(8<<20), // what is fetched ahead, from each server
	)...)
	if err != nil {
		return false, fmt.Errorf("kafkaevents: %w", err)
	}
	defer client.Close()

	w := newWindow(s, start, b.cfg.AckWait)
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	fetched := make(chan []fetch)
	wg.Go(func() {
		if err := poll(ctx, client, fetched); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() { b.commitLoop(ctx, s.Group, name, t, w) })
	wg.Go(func() {
		if err := b.watch(ctx, name, t); err != nil {
			cancel(err)
		}
	})
	defer w.end()
	for ctx.Err() == nil {
		d, more, wait := w.next(time.Now())
		if d != nil {
			received = true
			deliver(d)
			continue
		}
		in := fetched
		if !more {
			in = nil
		}
		timer := time.NewTimer(wait)
		select {
		case batch := <-in:
			for _, f := range batch {
				if f.loss != nil {
					b.cfg.Logger.ErrorContext(ctx, "kafkaevents: the cluster lost events; receiving again from where its log differs", "group", s.Group, "topic", name,
						"partition", f.loss.Partition, "position", f.loss.ConsumedTo, "from", f.loss.ResetTo)
				}
				w.add(f)
			}
		case <-w.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		hold, free := w.pauses()
		if len(hold) > 0 {
			client.PauseFetchPartitions(map[string][]int32{name: hold})
		}
		if len(free) > 0 {
			client.ResumeFetchPartitions(map[string][]int32{name: free})
		}
	}
	return received, context.Cause(ctx)
}

// fetch is a record, or the news that a partition's log lost some.
type fetch struct {
	record *kgo.Record
	loss   *kgo.ErrDataLoss
}

// poll passes on what the client receives, until ctx ends or the client fails.
func poll(ctx context.Context, client *kgo.Client, to chan<- []fetch) error {
	for {
		fs := client.PollRecords(ctx, maxBatch)
		if ctx.Err() != nil {
			return nil
		}
		var batch []fetch
		var err error
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			if p.Err != nil {
				var loss *kgo.ErrDataLoss
				if !errors.As(p.Err, &loss) {
					err = p.Err
					return
				}
				batch = append(batch, fetch{loss: loss})
			}
			for _, r := range p.Records {
				batch = append(batch, fetch{record: r})
			}
		})
		if len(batch) > 0 {
			select {
			case to <- batch:
			case <-ctx.Done():
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("kafkaevents: fetch: %w", err)
		}
	}
}

// watch returns an error once the topic is no longer the one that it was.
func (b *Broker) watch(ctx context.Context, name string, was topic) error {
	for {
		pause(ctx, lookEvery)
		if ctx.Err() != nil {
			return nil
		}
		lctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
		is, err := b.look(lctx, name)
		cancel()
		switch {
		case errors.Is(err, events.ErrNoTopic) || errors.Is(err, errSetup):
			return err
		case err != nil: // not reachable, which the client sees to
		case is != was:
			return errors.New("kafkaevents: the topic was made anew, or given more partitions")
		}
	}
}
