// Package natsevents is an events.Broker on NATS JetStream.
//
//	nc, err := nats.Connect(url, natsevents.Options("order", nil)...)
//	broker, err := natsevents.Connect(ctx, nc, nil)
//	err = broker.EnsureTopics(ctx, "orders")
//
// # Layout
//
// A topic is a stream of the same name with file storage. An event's subject is
// <topic>.<partition>.<type>, so permissions and filters can name either. Its
// attributes are headers with the prefix "ce-", percent-encoded as the
// CloudEvents bindings say; Nats-Msg-Id is the event's ID, by which the server
// drops a second copy within [Config.Duplicates]. A group is a durable pull
// consumer of that name on each of its streams; where it takes blocks, one for
// each, named <group>=<index>of<count>. A group that is cut into other blocks
// goes on where all of those before had come to, and theirs are removed once
// nobody asks them any more.
//
// # Order
//
// A subscription that starts, or that lost its connection, sets the durable
// consumer back to right behind the oldest event that was not acknowledged
// (consumer reset, nats-server 2.14 and newer), before it receives anything:
// what was under way, or lost on the wire, is not overtaken by what follows.
// On an older server it waits for [Config.AckWait] instead, after which the
// server sends what was under way first.
//
// A predecessor that was stopped or cut off, not ended, may have left a pull at
// the server; the subscription waits until it has expired (6 s at most). And as
// deliveries are numbered, it notices any that went elsewhere, and sets the
// consumer back again.
//
// # Durability
//
// A JetStream server acknowledges before its disk has synced, by default. A
// process that is killed loses nothing; a power failure may lose the last two
// minutes on that server. The outbox's relay notices (this package is an
// events.Log) and publishes again.
package natsevents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/kit/events"
)

// Config tunes [Connect]. The zero value is ready to use.
type Config struct {
	// Replicas is how many servers of a cluster hold each stream that is made.
	// Defaults to 1; use 3 on a cluster.
	Replicas int
	// MaxAge is how long a stream keeps an event. Keep it shorter than the
	// inboxes' retention. Defaults to 7 days.
	MaxAge time.Duration
	// MaxBytes bounds a stream. A full one refuses new events, which then wait
	// in the outboxes. Defaults to no bound.
	MaxBytes int64
	// Duplicates is how long the server recognises a second copy of an event.
	// Defaults to 2 min.
	Duplicates time.Duration
	// AckWait is after how long without Ack or InProgress the server delivers
	// again. Defaults to 30 s.
	AckWait time.Duration
	// MaxPending bounds the publications that wait for their acknowledgement.
	// Defaults to 256.
	MaxPending int
	// Timeout bounds one request to the server. Defaults to 5 s.
	Timeout time.Duration
	// Logger for what an operator should know. Defaults to slog.Default().
	Logger *slog.Logger
}

// Options are the connection options that suit this package: it reconnects for
// ever, and what is published while there is no connection fails at once instead
// of being sent later. name is shown by the server, and begins the subjects of
// replies, so that permissions can keep them apart (see [Permissions]); logger may
// be nil.
func Options(name string, logger *slog.Logger) []nats.Option {
	if logger == nil {
		logger = slog.Default()
	}
	var replies []nats.Option
	if events.ValidTopic(name) == nil {
		replies = append(replies, nats.CustomInboxPrefix(inbox(name)))
	}
	return append(replies,
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1),
		nats.RetryOnFailedConnect(true),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil where we close it ourselves
				logger.Warn("natsevents: the connection is lost, reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			logger.Info("natsevents: reconnected", "server", nc.ConnectedUrlRedacted())
		}),
	)
}

// Broker is an events.Broker and events.Log on JetStream.
type Broker struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	cfg  Config
	room chan struct{} // a place for each publication under way

	mu      sync.Mutex
	closed  bool
	ensured []string
	looked  map[string]uint64 // by topic, how often the connection had been made anew when its state was read
}

var _ interface {
	events.Broker
	events.Log
} = (*Broker)(nil)

// Connect returns a broker on a connection, which stays the caller's. The server
// need not be reachable yet.
func Connect(_ context.Context, nc *nats.Conn, cfg *Config) (*Broker, error) {
	b := &Broker{nc: nc}
	if cfg != nil {
		b.cfg = *cfg
	}
	if nc == nil {
		return nil, errors.New("natsevents: Connect needs a connection")
	}
	c := &b.cfg
	if c.Replicas < 0 || c.Replicas > 5 {
		return nil, fmt.Errorf("natsevents: Config.Replicas %d: use 1, 3 or 5", c.Replicas)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"MaxAge", &c.MaxAge, 7 * 24 * time.Hour}, {"Duplicates", &c.Duplicates, 2 * time.Minute},
		{"AckWait", &c.AckWait, 30 * time.Second}, {"Timeout", &c.Timeout, 5 * time.Second},
	} {
		if *d.value < 0 {
			return nil, fmt.Errorf("natsevents: Config.%s %v: must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.MaxPending < 0 || c.MaxBytes < 0 {
		return nil, fmt.Errorf("natsevents: Config.MaxPending %d, MaxBytes %d: must not be negative", c.MaxPending, c.MaxBytes)
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = -1 // JetStream's word for no bound
	}
	if c.MaxPending == 0 {
		c.MaxPending = 256
	}
	c.Duplicates = min(c.Duplicates, c.MaxAge) // the server insists
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	js, err := jetstream.New(nc,
		// Our own bound comes first: the library's ends in an error.
		jetstream.WithPublishAsyncMaxPending(4*c.MaxPending),
		jetstream.WithPublishAsyncTimeout(c.Timeout),
		jetstream.WithDefaultTimeout(c.Timeout))
	if err != nil {
		return nil, fmt.Errorf("natsevents: %w", err)
	}
	b.js = js
	b.room = make(chan struct{}, c.MaxPending)
	return b, nil
}

// Features implements events.Broker.
func (b *Broker) Features() events.Features {
	return events.Features{
		Name: "nats", Durable: true, Ordered: true,
		Dedupes: b.cfg.Duplicates, AckWait: b.cfg.AckWait, MaxEvent: int(b.nc.MaxPayload()),
	}
}

// EnsureTopics implements events.Broker. A stream that exists is left as it is:
// it may be an operator's.
func (b *Broker) EnsureTopics(ctx context.Context, topics ...string) error {
	for _, t := range topics {
		if err := events.ValidTopic(t); err != nil {
			return err
		}
		if _, err := b.ensure(ctx, t); err != nil {
			return err
		}
		b.mu.Lock()
		if !slices.Contains(b.ensured, t) {
			b.ensured = append(b.ensured, t)
		}
		b.mu.Unlock()
	}
	return nil
}

func (b *Broker) ensure(ctx context.Context, topic string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	s, err := b.js.Stream(ctx, topic)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = b.js.CreateStream(ctx, jetstream.StreamConfig{
			Name:       topic,
			Subjects:   []string{topic + ".>"},
			Storage:    jetstream.FileStorage,
			Retention:  jetstream.LimitsPolicy,
			Discard:    jetstream.DiscardNew, // rather full than silently lossy
			MaxAge:     b.cfg.MaxAge,
			MaxBytes:   b.cfg.MaxBytes,
			Replicas:   b.cfg.Replicas,
			Duplicates: b.cfg.Duplicates,
		})
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = b.js.Stream(ctx, topic) // another service was faster
		}
	}
	if err != nil {
		return nil, fmt.Errorf("natsevents: stream of topic %s: %w", topic, err)
	}
	return s, nil
}

// isEnsured tells whether EnsureTopics was called for the topic.
func (b *Broker) isEnsured(topic string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.ensured, topic)
}

func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// StreamState implements events.Log. A stream's identity is the moment of its
// making.
func (b *Broker) StreamState(ctx context.Context, topic string) (events.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	connection := b.nc.Stats().Reconnects
	var s jetstream.Stream
	var err error
	if b.isEnsured(topic) {
		s, err = b.ensure(ctx, topic)
	} else {
		s, err = b.js.Stream(ctx, topic)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = fmt.Errorf("%w: %w", events.ErrNoTopic, err)
	}
	if err != nil {
		return events.StreamState{}, fmt.Errorf("natsevents: state of topic %s: %w", topic, err)
	}
	b.mu.Lock()
	if b.looked == nil {
		b.looked = make(map[string]uint64)
	}
	b.looked[topic] = connection
	b.mu.Unlock()
	info := s.CachedInfo() // the request that found it brought it
	return events.StreamState{Identity: info.Created.UTC().Format(time.RFC3339Nano), LastSeq: info.State.LastSeq}, nil
}

// Pending implements events.Broker.
func (b *Broker) Pending(ctx context.Context, group string) (int, error) {
	names := b.js.StreamNames(ctx)
	n := 0
	for stream := range names.Name() {
		all, err := b.consumers(ctx, stream, group)
		if err != nil {
			return 0, fmt.Errorf("natsevents: pending of %s on %s: %w", group, stream, err)
		}
		for _, info := range all {
			n += int(info.NumPending) + info.NumAckPending //nolint:gosec // a count of stored messages
		}
	}
	if err := names.Err(); err != nil {
		return 0, fmt.Errorf("natsevents: list streams: %w", err)
	}
	return n, nil
}

// Close implements events.Broker: it ends the broker's own work. Cancel
// subscriptions by their contexts.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.js.CleanupPublisher()
	}
	return nil
}
