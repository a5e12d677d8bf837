package watermillevents

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/napkin-kit/napkin/kit/events"
)

// Subscribe implements events.Subscriber. A subscription that the driver ends is
// begun anew. The error says that a block was asked for.
func (b *Broker) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("watermillevents: %w", err)
	}
	if !s.Block.Whole() {
		return fmt.Errorf("watermillevents: block %v: a queue cannot be read in blocks; set the consumer's Blocks to 1", s.Block)
	}
	if b.over.Err() != nil {
		return events.ErrClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.over, func() { cancel(events.ErrClosed) })()
	var one sync.Mutex // one call of deliver at a time, whichever the topic
	var wg sync.WaitGroup
	for _, topic := range s.Topics {
		wg.Go(func() {
			for failures := 0; ctx.Err() == nil; failures++ {
				err := b.receive(ctx, s, topic, func(d events.Delivery) {
					one.Lock()
					defer one.Unlock()
					if ctx.Err() == nil {
						deliver(ctx, d)
					}
				})
				if ctx.Err() != nil {
					return
				}
				b.cfg.Logger.WarnContext(ctx, "watermillevents: receiving was interrupted, starting again", "group", s.Group, "topic", topic, "error", err)
				pause(ctx, min(50*time.Millisecond<<min(failures, 10), 2*time.Second))
			}
		})
	}
	wg.Wait()
	if errors.Is(context.Cause(ctx), events.ErrClosed) {
		return events.ErrClosed
	}
	return nil
}

// receive receives one topic until ctx ends or the driver does.
func (b *Broker) receive(ctx context.Context, s events.Subscription, topic string, deliver func(events.Delivery)) (err error) {
	sub, err := b.subscriber(s)
	if err != nil {
		return fmt.Errorf("watermillevents: make the subscriber: %w", err)
	}
	r := &receiver{wait: b.cfg.Features.AckWait, attempts: make(map[string]int), open: make(map[*delivery]bool)}
	// What is not acknowledged goes back first: a driver may wait for it to close.
	defer func() {
		r.release()
		err = errors.Join(err, sub.Close())
	}()
	messages, err := sub.Subscribe(ctx, b.cfg.Topic(topic))
	if err != nil {
		return fmt.Errorf("watermillevents: subscribe to %s: %w", topic, err)
	}
	room := make(chan struct{}, s.InFlight())
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		var m *message.Message
		select {
		case m = <-messages:
		case <-ctx.Done():
			return nil
		}
		if m == nil {
			return errors.New("watermillevents: the driver ended the subscription")
		}
		d := r.take(topic, m, func() { <-room })
		if d.err == nil && len(s.Types) > 0 && !slices.Contains(s.Types, d.event.Type) {
			_ = d.Ack(ctx) // not wanted
			continue
		}
		deliver(d)
	}
}

// receiver is what a subscription to a topic has under way.
type receiver struct {
	wait time.Duration

	mu       sync.Mutex
	attempts map[string]int // by message, until it is acknowledged
	open     map[*delivery]bool
}

// maxCounted bounds the messages whose attempts are counted: those that are nacked
// may go elsewhere and never be acknowledged here.
const maxCounted = 4096

func (r *receiver) take(topic string, m *message.Message, done func()) *delivery {
	d := &delivery{r: r, msg: m, done: done, attempt: 1}
	d.event, d.err = decode(topic, m.Payload)
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.UUID != "" {
		if len(r.attempts) >= maxCounted {
			clear(r.attempts)
		}
		r.attempts[m.UUID]++
		d.attempt = r.attempts[m.UUID]
	}
	r.open[d] = true
	d.timer = time.AfterFunc(r.wait, d.nack)
	return d
}

// release gives back whatever is under way.
func (r *receiver) release() {
	r.mu.Lock()
	var all []*delivery
	for d := range r.open {
		all = append(all, d)
	}
	r.mu.Unlock()
	for _, d := range all {
		d.nack()
	}
}

// delivery is a message as an events.Delivery.
type delivery struct {
	r       *receiver
	msg     *message.Message
	event   events.Event
	err     error
	attempt int
	done    func()
	timer   *time.Timer // until it is nacked
}

func (d *delivery) Event() events.Event { return d.event }
func (d *delivery) Err() error          { return d.err }
func (d *delivery) Attempt() int        { return d.attempt }

// finish reports whether this call is the one that ends the delivery.
func (d *delivery) finish(acked bool) bool {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	if !d.r.open[d] {
		return false
	}
	delete(d.r.open, d)
	if acked {
		delete(d.r.attempts, d.msg.UUID)
	}
	d.timer.Stop()
	d.done()
	return true
}

// Ack returns an error where the delivery was given back before.
func (d *delivery) Ack(context.Context) error {
	if !d.finish(true) || !d.msg.Ack() {
		return fmt.Errorf("watermillevents: event %s: the delivery has ended; it comes again", d.event.ID)
	}
	return nil
}

func (d *delivery) nack() {
	if d.finish(false) {
		d.msg.Nack()
	}
}

func (d *delivery) Retry(_ context.Context, after time.Duration) error {
	if after <= 0 {
		d.nack()
		return nil
	}
	d.reset(after)
	return nil
}

func (d *delivery) InProgress(context.Context) error {
	d.reset(d.r.wait)
	return nil
}

// reset is when the delivery is given back.
func (d *delivery) reset(after time.Duration) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	if d.r.open[d] {
		d.timer.Reset(after)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
