package events

import (
	"context"
	"fmt"
	"time"
)

// Publisher sends events to a broker.
type Publisher interface {
	// Publish returns nil only once the broker has acknowledged every event.
	// Where some were acknowledged and some not, the error is a *PublishError
	// that says which; any other error means that none is known to be.
	//
	// Events of one call may be stored in any order where one of them fails.
	// Who needs order by key has at most one event of a key in a call and one
	// call at a time for it, as the outbox relay does.
	//
	// Publishing an event again is safe: brokers may drop the second copy, and
	// consumers recognise it by its ID.
	Publish(ctx context.Context, evs ...Event) error
}

// Subscription says what a consumer wants to receive.
type Subscription struct {
	// Group is the consumer's durable name, usually its service's. Its position
	// survives restarts. Letters, digits, '-' and '_'.
	Group string
	// Topics to receive.
	Topics []string
	// Types to receive; empty means every type of the topics.
	Types []string
	// Block limits the subscription to the keys of these partitions. Each block
	// of a group has a durable position of its own, also the same partitions
	// cut in another way. Defaults to all partitions.
	Block Block
	// MaxInFlight bounds each topic's deliveries that are neither acknowledged
	// nor retried. The broker stops delivering at it. Defaults to 256.
	MaxInFlight int
}

// Validate checks the subscription; the error wraps [ErrInvalid].
func (s Subscription) Validate() error {
	if err := ValidTopic(s.Group); err != nil {
		return fmt.Errorf("%w: Subscription.Group %q: use 1 to 100 letters, digits, '-' and '_'", ErrInvalid, s.Group)
	}
	if len(s.Topics) == 0 {
		return fmt.Errorf("%w: Subscription.Topics is empty; name at least one", ErrInvalid)
	}
	for _, t := range s.Topics {
		if err := ValidTopic(t); err != nil {
			return err
		}
	}
	for _, t := range s.Types {
		if err := ValidType(t); err != nil {
			return err
		}
	}
	if err := s.Block.Validate(); err != nil {
		return err
	}
	if s.MaxInFlight < 0 {
		return fmt.Errorf("%w: Subscription.MaxInFlight %d: must not be negative", ErrInvalid, s.MaxInFlight)
	}
	return nil
}

// InFlight is MaxInFlight with its default applied.
func (s Subscription) InFlight() int {
	if s.MaxInFlight <= 0 {
		return 256
	}
	return s.MaxInFlight
}

// Delivery is one event handed to a consumer. Exactly one of Ack and Retry ends
// it; a delivery that is ended in neither way comes again once the broker's
// [Features.AckWait] has passed without InProgress. Its methods are safe for
// concurrent use.
type Delivery interface {
	Event() Event
	// Err is not nil where what the broker holds could not be decoded. Event
	// then holds what could be read.
	Err() error
	// Ack says that the event was dealt with for good.
	Ack(ctx context.Context) error
	// Retry asks for the event again after the given time. Later events of its
	// key overtake it meanwhile, so consumers that keep order back off locally
	// under InProgress instead.
	Retry(ctx context.Context, after time.Duration) error
	// InProgress tells the broker that the event is still being worked on.
	InProgress(ctx context.Context) error
	// Attempt is the number of this delivery of the event, from 1. It counts
	// crashes and restarts too, so it says nothing about the event itself.
	Attempt() int
}

// Subscriber receives events from a broker.
type Subscriber interface {
	// Subscribe calls deliver for every event, in the stream's order for each
	// topic and one call at a time, until ctx ends; then it returns nil, with
	// no call of deliver running. deliver must hand the delivery on and return:
	// MaxInFlight bounds how many of each topic it is given.
	//
	// A group's first Subscribe starts at the oldest event that the stream
	// holds. Every later one starts again right behind the oldest delivery that
	// was not acknowledged, so that after a crash nothing overtakes what was
	// under way. That is why each block of a group has one subscriber at a time;
	// inbox.Consumer sees to it with leases. Lost connections and a restarted broker are
	// survived in the same way. An error is one that retrying does not mend.
	Subscribe(ctx context.Context, s Subscription, deliver func(context.Context, Delivery)) error
}

// Broker is a whole broker as a service uses it. Brokers are safe for
// concurrent use.
type Broker interface {
	Publisher
	Subscriber
	// Features says what the broker guarantees.
	Features() Features
	// EnsureTopics creates the streams that do not exist.
	EnsureTopics(ctx context.Context, topics ...string) error
	// Pending counts a group's deliveries that are undelivered or not yet
	// acknowledged, over all topics and blocks that it ever subscribed to. A
	// group that never subscribed has 0.
	Pending(ctx context.Context, group string) (int, error)
	// Close ends the broker's own work. Connections it was given stay open.
	Close() error
}

// Features says how brokers differ. Tests adapt to it instead of being skipped.
type Features struct {
	// Name of the broker, for logs.
	Name string
	// Durable means that acknowledged events survive the broker's restart.
	Durable bool
	// Ordered means that events of one topic and key are delivered in the order
	// in which they were published.
	Ordered bool
	// Dedupes is how long a second publication with the same ID is dropped by
	// the broker. 0 means never. It is a help; the inbox is the authority.
	Dedupes time.Duration
	// AckWait is after how long without Ack or InProgress a delivery comes
	// again.
	AckWait time.Duration
	// MaxEvent is the largest event that the broker takes, attributes and data
	// together, in bytes. 0 means no limit.
	MaxEvent int
	// InFlight is how many deliveries of a topic a subscription has under way at
	// most, whatever its MaxInFlight. 0 means that MaxInFlight alone decides.
	InFlight int
	// NoPositions means that a group's position ends with its subscription: the
	// next one starts at whatever the broker keeps.
	NoPositions bool
	// NoBlocks means that a subscription to less than the whole is refused; set
	// the consumer's Blocks to 1.
	NoBlocks bool
	// NoPending means that Pending returns an error that wraps
	// errors.ErrUnsupported.
	NoPending bool
}

// StreamState is what a broker knows of the log behind a topic.
type StreamState struct {
	// Identity changes whenever the log is deleted and made again.
	Identity string
	// LastSeq is the sequence of the newest event ever stored.
	LastSeq uint64
}

// Receipt says where an event was stored.
type Receipt struct {
	// Seq is the event's sequence in its topic's log. 0 where the event was not
	// acknowledged.
	Seq uint64
	// Duplicate means that the log held the event already.
	Duplicate bool
}

// Log is implemented by brokers whose topics are numbered logs. The outbox
// relay uses it to notice that a log lost its tail or was made anew, and
// publishes again what is missing.
type Log interface {
	Publisher
	// PublishReceipts is Publish, with a receipt for each event. Receipts are
	// returned beside a *PublishError too.
	PublishReceipts(ctx context.Context, evs ...Event) ([]Receipt, error)
	// StreamState describes a topic's log, creating it where EnsureTopics was
	// called for it and it has vanished. ErrNoTopic where it is not there.
	StreamState(ctx context.Context, topic string) (StreamState, error)
}
