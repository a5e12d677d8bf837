// Package kafkaevents is an events.Broker on Apache Kafka.
//
//	broker, err := kafkaevents.Connect(ctx, nil,
//		kgo.SeedBrokers("kafka-1:9093", "kafka-2:9093"),
//		kgo.DialTLSConfig(tlsConfig), kgo.SASL(mechanism))
//	err = broker.EnsureTopics(ctx, "orders")
//
// # Layout
//
// A topic is a Kafka topic of the same name. It has N Kafka partitions, 8 where
// this package makes it ([Config].Partitions); an event lies in the Kafka
// partition p*N/64, p being its [events.Event.Partition]. So a block of a group is
// a run of whole Kafka partitions, and there are at most N blocks: a finer one is
// refused. N must divide 64. It is for good: add no partitions to a topic that
// holds events, for its keys would move; make a new topic instead.
//
// Records are CloudEvents in the binary mode of the Kafka binding: attributes are
// headers with the prefix "ce_", except the data's media type, which is
// content-type. The record's key is the event's key.
//
// A group is a Kafka consumer group of that name without members. Its committed
// offsets are its position, so the usual tools show its lag. A subscription reads
// its block's partitions directly: who reads which block is decided by the inbox's
// leases, not by the group's coordinator, and nothing is rebalanced. Since
// positions belong to Kafka partitions, a group may be cut into other blocks at
// any time without repeating anything. Kafka knows no types: a subscription reads
// all of them and passes over those it does not want.
//
// # Order
//
// The producer is idempotent and waits for all in-sync replicas, so that its own
// retries neither swap nor double events; the events of a key share a partition.
// The offset committed for a partition is that of the oldest event not
// acknowledged. After a crash everything from there comes again, also what was
// acknowledged behind it: at most 65,536 events of each partition. Redelivery,
// Retry and Attempt live in this process: Attempt starts at 1 again where a
// subscription does.
//
// # Durability
//
// An acknowledged event is on all in-sync replicas. This package is no events.Log,
// for Kafka numbers partitions, not topics: the outbox's relay does not notice by
// itself that a cluster lost acknowledged events or that a topic was deleted and
// made anew. On a real cluster that is prevented by
//
//   - a replication factor of 3 and min.insync.replicas of 2 (this package sets
//     the latter where [Config].Replicas is 3 or more),
//   - unclean.leader.election.enable=false, Kafka's default,
//   - retention.ms that is shorter than the inboxes' retention; retention.bytes
//     unset, since Kafka makes room by deleting, not by refusing,
//   - offsets.retention.minutes longer than any outage of a consumer (Kafka's
//     default is 7 days). A running one renews its offsets every hour. A group
//     whose offsets expired starts at the oldest event; inboxes recognise what
//     they had.
//
// A consumer does notice: a topic made anew, or a log that is shorter than the
// group's position, is read again from where it differs, or from its beginning.
//
// Rights needed: Describe, Read and Write on the topics, Create where they are
// made by this package, Read and Describe on the group; before Kafka 3.0 also
// IdempotentWrite on the cluster. Kafka 2.4 or newer; 2.8 and newer have the topic
// identities by which a topic that was made anew is told from a log that is cut.
//
// # Pending
//
// Pending is the sum of log end minus committed offset over the partitions that
// the group has a position in. It counts what the subscription passes over, by
// type, until it has passed, and what was acknowledged behind an event that was
// not.
//
// # Proof
//
// The tests run against kfake, the in-process broker by the authors of franz-go.
// They have not been run against a real cluster.
package kafkaevents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
)

// Config tunes [Connect]. The zero value is ready to use.
type Config struct {
	// Partitions is how many Kafka partitions a topic has that this package
	// makes, and so the most blocks that its groups have: 1, 2, 4, 8, 16, 32 or
	// 64. It does not change topics that exist. Defaults to 8.
	Partitions int
	// Replicas is the replication factor of topics that this package makes. From
	// 3 on their min.insync.replicas is 2. Defaults to the cluster's
	// default.replication.factor.
	Replicas int
	// MaxAge is the retention.ms of topics that this package makes. Keep it
	// shorter than the inboxes' retention. Defaults to 7 days.
	MaxAge time.Duration
	// MaxEvent is the largest event that is published, attributes and data
	// together, in bytes. Topics that are made take it; those that exist need a
	// max.message.bytes that is 32 KiB larger. Defaults to 1,000,000.
	MaxEvent int
	// AckWait is after how long without Ack or InProgress an event is delivered
	// again. Defaults to 30 s.
	AckWait time.Duration
	// CommitEvery is how often a subscription commits its position. What was
	// acknowledged since comes again after a crash. Defaults to 100 ms.
	CommitEvery time.Duration
	// Timeout bounds one request to the cluster, and one call of Publish.
	// Defaults to 10 s.
	Timeout time.Duration
	// Logger for what an operator should know. Defaults to slog.Default().
	Logger *slog.Logger
}

// overhead is what a record batch adds to one event at most: framing, and a few
// bytes for each header.
const overhead = 32 << 10

// Broker is an events.Broker on Kafka.
type Broker struct {
	cfg    Config
	opts   []kgo.Opt   // of every client
	client *kgo.Client // publishes, commits and administers
	over   context.Context
	end    context.CancelFunc

	mu      sync.Mutex
	topics  map[string]topic // as last seen
	ensured map[string]bool  // by EnsureTopics
}

var _ events.Broker = (*Broker)(nil)

// Connect returns a broker. The options say where the cluster is
// (kgo.SeedBrokers) and how to authenticate there (kgo.DialTLSConfig, kgo.SASL);
// what this package depends on, it sets itself. The cluster need not be reachable
// yet. Each subscription has a client of its own for each of its topics, made with
// the same options.
func Connect(_ context.Context, cfg *Config, opts ...kgo.Opt) (*Broker, error) {
	b := &Broker{topics: make(map[string]topic), ensured: make(map[string]bool)}
	if cfg != nil {
		b.cfg = *cfg
	}
	if err := b.cfg.complete(); err != nil {
		return nil, err
	}
	b.opts = append([]kgo.Opt{
		// What is asked for after a failure should not be old.
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.RetryTimeout(b.cfg.Timeout),
		kgo.RetryBackoffFn(backoff),
		kgo.DisableClientMetrics(), // sent at the end too, for which Close would wait
		kgo.WithLogger(logger{b.cfg.Logger}),
	}, opts...)
	var err error
	b.client, err = kgo.NewClient(append(b.opts[:len(b.opts):len(b.opts)],
		kgo.RequiredAcks(kgo.AllISRAcks()), // and idempotent, which is the default
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(int32(b.cfg.MaxEvent+overhead)), //nolint:gosec // checked by complete
		kgo.UnknownTopicRetries(1),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafkaevents: %w", err)
	}
	b.over, b.end = context.WithCancel(context.Background())
	return b, nil
}

// backoff is the wait before a request is tried again: about 50 ms to 1 s.
func backoff(failures int) time.Duration {
	d := min(50*time.Millisecond<<min(failures, 10), time.Second)
	return d/2 + rand.N(d) //nolint:gosec // spread, no secret
}

func (c *Config) complete() error {
	if c.Partitions == 0 {
		c.Partitions = 8
	}
	if c.Partitions < 0 || c.Partitions > events.Partitions || events.Partitions%c.Partitions != 0 {
		return fmt.Errorf("kafkaevents: Config.Partitions %d: use 1, 2, 4, 8, 16, 32 or 64", c.Partitions)
	}
	if c.Replicas < 0 || c.Replicas > 100 {
		return fmt.Errorf("kafkaevents: Config.Replicas %d: use 3, or 0 for the cluster's default", c.Replicas)
	}
	if c.MaxEvent == 0 {
		c.MaxEvent = 1_000_000
	}
	if c.MaxEvent < 1024 || c.MaxEvent > 64<<20 {
		return fmt.Errorf("kafkaevents: Config.MaxEvent %d: use 1 KiB to 64 MiB", c.MaxEvent)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"MaxAge", &c.MaxAge, 7 * 24 * time.Hour}, {"AckWait", &c.AckWait, 30 * time.Second},
		{"CommitEvery", &c.CommitEvery, 100 * time.Millisecond}, {"Timeout", &c.Timeout, 10 * time.Second},
	} {
		if *d.value < 0 {
			return fmt.Errorf("kafkaevents: Config.%s %v: must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Features implements events.Broker.
func (b *Broker) Features() events.Features {
	return events.Features{Name: "kafka", Durable: true, Ordered: true, AckWait: b.cfg.AckWait, MaxEvent: b.cfg.MaxEvent}
}

// Close implements events.Broker. It ends subscriptions with [events.ErrClosed]
// and closes the connections. End subscriptions by their contexts before, so that
// they commit their last position.
func (b *Broker) Close() error {
	b.end()
	b.client.Close()
	return nil
}

func (b *Broker) isClosed() bool { return b.over.Err() != nil }

// errSetup is a failure that somebody has to mend: asking again does not help.
var errSetup = errors.New("kafkaevents: wrong set-up")

// logger hands the client's warnings on.
type logger struct{ to *slog.Logger }

func (logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	at := slog.LevelWarn
	if level == kgo.LogLevelError {
		at = slog.LevelError
	}
	l.to.Log(context.Background(), at, "kafkaevents: "+msg, keyvals...)
}
