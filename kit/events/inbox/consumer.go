package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Handler applies one event in tx, which also holds the inbox mark. What it
// writes to tx, outgoing events among it, commits with the mark or not at all.
// It makes no remote call: it records an intent and lets a worker, woken by
// sqldb.AfterCommit, make it.
//
// An error rolls everything back. It counts against the event, unless it is
// marked by [Permanent] or [Infrastructure], or says that the database could not
// be reached or asks for the transaction again.
type Handler[T any] func(ctx context.Context, tx T, e events.Event) error

// BatchHandler applies several events in one tx, where a statement for all of them
// is faster than one for each. They are of one topic and type; those of one key
// are in their order. There is one where there was no other to handle, or where
// handling it together with others failed.
//
// Otherwise it is like a [Handler]. With several events its context carries the
// identifiers and trace of none of them.
type BatchHandler[T any] func(ctx context.Context, tx T, evs []events.Event) error

// ConsumerConfig tunes [NewConsumer]. The zero value is ready to use.
type ConsumerConfig struct {
	// Blocks is into how many blocks of keys the events are cut (events.Block):
	// replicas share them evenly, so it is also how many can be of use. 1, 2, 4,
	// 8, 16, 32 or 64; each costs a subscription to every topic. Defaults to 8; on
	// SQLite to 1, since its file belongs to one process. It can be changed: the
	// broker then delivers from where all former blocks had come to, or from the
	// start, and what was handled is recognised.
	Blocks int
	// Concurrency bounds the transactions of this replica at a time, each of other
	// keys. Defaults to 8; on SQLite to 1, since it has one writer.
	Concurrency int
	// Batch bounds the events that share a transaction. It is never waited for
	// more of them, and fewer share one where handlers are slow or in each
	// other's way. Defaults to 64; 1 gives each its own.
	Batch int
	// MaxInFlight bounds the events of each topic taken from the broker and not
	// yet acknowledged, those that wait for their turn or their retry among
	// them, over all blocks. Defaults to 1024.
	MaxInFlight int
	// MaxAttempts is how many failures of its handler an event may have before
	// it is dead-lettered and its key parked. Defaults to 8.
	MaxAttempts int
	// Backoff is the wait after the first failure; it doubles with each, with
	// jitter, up to MaxBackoff. Default to 100 ms and 30 s.
	Backoff, MaxBackoff time.Duration
	// HandlerTimeout bounds one attempt, transaction and all. A handler that takes
	// longer, while the database answers, has failed. Defaults to 30 s.
	HandlerTimeout time.Duration
	// Sequences says for each topic what is made of the numbers of its events.
	// Defaults to AsDelivered.
	Sequences map[string]Sequence
	// GapTimeout is how long a key of a Strict topic waits for an event that is
	// missing. Defaults to 1 min.
	GapTimeout time.Duration
	// DrainTimeout is how long handlers under way may go on once Run's context
	// has ended. Defaults to 10 s.
	DrainTimeout time.Duration
	// RedrivePoll is how often the consumer looks for keys that an operator let
	// go on, from another process. Defaults to 1 s.
	RedrivePoll time.Duration
	// TrimEvery is how often marks past the inbox's retention are removed.
	// Defaults to 10 min.
	TrimEvery time.Duration
	// LeaseTTL is after how long other replicas take over the blocks of one that
	// died without a word. Defaults to 3 s.
	LeaseTTL time.Duration
	// Inbox tunes the marks.
	Inbox Config
	// IsInfrastructure names further errors that pause the consumer and count
	// for nothing: an open breaker, an exhausted budget. Defaults to none.
	IsInfrastructure func(error) bool
	// BypassParking names events that are handled although their key is parked,
	// as the undo of a parked command is. Defaults to none.
	BypassParking func(events.Event) bool
	// OnDeadLetter runs in the transaction that dead-letters an event, for
	// instance to append a reply that says so. Its failure is tried again.
	OnDeadLetter func(ctx context.Context, tx sqldb.Tx, e events.Event, cause error) error
	// EventHooks continue the trace of an event; Extract is used.
	EventHooks events.Hooks
	// Hooks observe the consumer.
	Hooks Hooks
	// Logger for what an operator should know. Defaults to slog.Default().
	Logger *slog.Logger
}

// Hooks observe a consumer, for metrics and spans; in tests they are its crash
// points. Every func may be nil. They are called from several goroutines and
// should return at once.
type Hooks struct {
	// Around surrounds one event in one transaction: it may put a span into the
	// context, and done is called with the transaction's error, which may be that
	// of another event in it; then each is handled alone.
	Around func(ctx context.Context, consumer string, e events.Event) (_ context.Context, done func(error))
	// BeforeHandle is called in the transaction, after the mark and before the
	// handler; BeforeCommit after the handler and before the commit.
	BeforeHandle, BeforeCommit func(ctx context.Context, consumer string, e events.Event)
	// AfterCommit is called between the commit and the acknowledgement; AfterAck
	// after it.
	AfterCommit, AfterAck func(ctx context.Context, consumer string, e events.Event)
	// Duplicate is called for an event that was handled before; Superseded for one
	// that came after its successors, where Latest is declared.
	Duplicate, Superseded func(ctx context.Context, consumer string, e events.Event)
	// Failed is called for an attempt that failed; counted tells whether it
	// counts against the event.
	Failed func(ctx context.Context, consumer string, e events.Event, err error, counted bool)
	// DeadLettered is called once an event is dead-lettered; Parked for an event
	// that joined the list behind one.
	DeadLettered func(ctx context.Context, consumer string, e events.Event, cause error)
	Parked       func(ctx context.Context, consumer string, e events.Event)
	// Redriven is called for each event that left that list by being handled.
	Redriven func(ctx context.Context, consumer string, e events.Event)
}

// Consumer applies the events of its subscription to a database, each once and
// in the order of its key. Replicas of a service each run a Consumer of the same
// name, with the same Blocks, and share them.
type Consumer[T any] struct {
	name     string
	db       *sqldb.DB
	runner   sqldb.Runner[T]
	sub      events.Subscriber
	cfg      ConsumerConfig
	inbox    *Inbox
	handlers map[route]entry[T]
	batches  bool // there is a BatchHandler
	pace     *pace
	topics   []string
	types    []string
	redrive  chan struct{} // wakes the redrive loop
}

type route struct{ topic, typ string }

// NewConsumer returns a consumer. name is its durable name at the broker and in
// the inbox: usually the service's. Transactions are opened by r on db.
func NewConsumer[T any](name string, db *sqldb.DB, r sqldb.Runner[T], sub events.Subscriber, cfg *ConsumerConfig) (*Consumer[T], error) {
	c := &Consumer[T]{name: name, db: db, runner: r, sub: sub, handlers: make(map[route]entry[T]), redrive: make(chan struct{}, 1)}
	if cfg != nil {
		c.cfg = *cfg
	}
	if err := events.ValidTopic(name); err != nil {
		return nil, fmt.Errorf("inbox: consumer name %q: use 1 to 100 letters, digits, '-' and '_'", name)
	}
	if db == nil || r == nil || sub == nil {
		return nil, errors.New("inbox: NewConsumer needs a database, a runner and a subscriber; one is nil")
	}
	if r.Dialect() != db.Dialect {
		return nil, fmt.Errorf("inbox: the runner is for %v, the database is %v", r.Dialect(), db.Dialect)
	}
	if err := c.cfg.resolve(db.Dialect); err != nil {
		return nil, err
	}
	c.inbox = New(db.Dialect, &c.cfg.Inbox)
	c.pace = newPace(c.cfg.Batch, db.Dialect)
	return c, nil
}

func (c *ConsumerConfig) resolve(d sqldb.Dialect) error {
	workers, blocks := 8, 8
	if d == sqldb.SQLite {
		workers, blocks = 1, 1
	}
	for _, n := range []struct {
		name  string
		value *int
		def   int
	}{
		{"Concurrency", &c.Concurrency, workers},
		{"Blocks", &c.Blocks, blocks},
		{"Batch", &c.Batch, 64},
		{"MaxInFlight", &c.MaxInFlight, 1024},
		{"MaxAttempts", &c.MaxAttempts, 8},
	} {
		if *n.value < 0 {
			return fmt.Errorf("inbox: ConsumerConfig.%s %d: must not be negative", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	if err := (events.Block{Count: c.Blocks}).Validate(); err != nil {
		return fmt.Errorf("inbox: ConsumerConfig.Blocks: %w", err)
	}
	for _, n := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"Backoff", &c.Backoff, 100 * time.Millisecond}, {"MaxBackoff", &c.MaxBackoff, 30 * time.Second},
		{"HandlerTimeout", &c.HandlerTimeout, 30 * time.Second}, {"DrainTimeout", &c.DrainTimeout, 10 * time.Second},
		{"RedrivePoll", &c.RedrivePoll, time.Second}, {"TrimEvery", &c.TrimEvery, 10 * time.Minute},
		{"LeaseTTL", &c.LeaseTTL, 3 * time.Second}, {"GapTimeout", &c.GapTimeout, time.Minute},
	} {
		if *n.value < 0 {
			return fmt.Errorf("inbox: ConsumerConfig.%s %v: must not be negative", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Name returns the consumer's name.
func (c *Consumer[T]) Name() string { return c.name }

// Handle registers the handler of a topic's event type. Call it before Run. It
// panics where the names are invalid or the type has a handler already, which
// are mistakes in the program.
func (c *Consumer[T]) Handle(topic, eventType string, h Handler[T]) {
	c.register(topic, eventType, entry[T]{one: h})
}

// HandleBatch is Handle for a handler of several events at once.
func (c *Consumer[T]) HandleBatch(topic, eventType string, h BatchHandler[T]) {
	c.register(topic, eventType, entry[T]{many: h})
	c.batches = true
}

func (c *Consumer[T]) register(topic, eventType string, x entry[T]) {
	if err := errors.Join(events.ValidTopic(topic), events.ValidType(eventType)); err != nil {
		panic("inbox: Handle: " + err.Error())
	}
	k := route{topic, eventType}
	if _, again := c.handlers[k]; again || x.none() {
		panic(fmt.Sprintf("inbox: Handle: type %s of topic %s needs exactly one handler", eventType, topic))
	}
	c.handlers[k] = x
	c.topics = appendNew(c.topics, topic)
	c.types = appendNew(c.types, eventType)
}

func appendNew(list []string, s string) []string {
	for _, x := range list {
		if x == s {
			return list
		}
	}
	return append(list, s)
}

// Run handles events until ctx ends, lets the handlers under way finish, hands
// over to another replica and returns nil. It survives every failure of the
// database and the broker; an error says that it was started wrongly, for instance
// without a handler or before the inbox's tables were made.
func (c *Consumer[T]) Run(ctx context.Context) error {
	if len(c.handlers) == 0 {
		return fmt.Errorf("inbox: consumer %s handles no events: call Handle before Run", c.name)
	}
	s := events.Subscription{Group: c.name, Topics: c.topics, Types: c.types, MaxInFlight: max(1, c.cfg.MaxInFlight/c.cfg.Blocks)}
	for topic, mode := range c.cfg.Sequences {
		if !slices.Contains(c.topics, topic) {
			return fmt.Errorf("inbox: consumer %s: ConsumerConfig.Sequences names topic %q, of which it handles no events", c.name, topic)
		}
		if mode == Strict {
			s.Types = nil // every type has a number
		}
	}
	if err := s.Validate(); err != nil {
		return fmt.Errorf("inbox: consumer %s: %w", c.name, err)
	}
	if err := c.checkTables(ctx); err != nil {
		return err
	}
	cfg := &lease.Config{
		Group:  "inbox-" + c.name,
		TTL:    c.cfg.LeaseTTL,
		Logger: c.cfg.Logger,
		// A SQLite file belongs to one process: a restart need not wait for the
		// lease of its predecessor.
		Exclusive: c.db.Dialect == sqldb.SQLite,
	}
	return lease.Run(ctx, c.db, cfg, func(ctx context.Context, n *lease.Node) error {
		return c.consume(ctx, n, s)
	})
}

// checkTables returns an error where the inbox's tables are not there. Any other
// failure of the database is one that Run survives.
func (c *Consumer[T]) checkTables(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandlerTimeout)
	defer cancel()
	if _, err := c.db.Write.ExecContext(ctx, `SELECT consumer FROM napkin_inbox_seq LIMIT 1`); sqldb.IsNoTable(err) {
		return fmt.Errorf("inbox: the tables are missing: apply migrate.Up(ctx, db, inbox.Set, inbox.Migrations(db.Dialect)) before Run: %w", err)
	}
	return nil
}
