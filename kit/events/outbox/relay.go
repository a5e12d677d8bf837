package outbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// RelayConfig tunes [NewRelay]. The zero value is ready to use.
type RelayConfig struct {
	// Poll is how often the relay looks for events when nothing wakes it: those
	// of other processes, and those that a long transaction held back. Defaults
	// to 200 ms.
	Poll time.Duration
	// BatchSize is how many rows one pass reads. Defaults to 1024.
	BatchSize int
	// Blocks is into how many blocks the partitions are cut that the relays of an
	// outbox share: at most as many relays work at once. All of them give the
	// same; where two differ, they keep taking over from each other. 1, 2, 4, 8,
	// 16, 32 or 64. Defaults to 8 on PostgreSQL; with a Source, and on SQLite, whose
	// file belongs to one process, it is always 1.
	Blocks int
	// PublishTimeout bounds one Publish call. Defaults to 10 s.
	PublishTimeout time.Duration
	// DatabaseTimeout bounds one read or one transaction. Defaults to 10 s.
	DatabaseTimeout time.Duration
	// TrimEvery is how often the relay looks for rows past Config.Retention.
	// Defaults to 1 min.
	TrimEvery time.Duration
	// StreamCheck is how often the broker's logs are compared with what is known
	// of them, beside the checks after a failure and with every acknowledgement.
	// Defaults to 5 s.
	StreamCheck time.Duration
	// CheckpointEvery is the distance of the points from which a relay can
	// publish again after the broker lost events. Defaults to 5 s.
	CheckpointEvery time.Duration
	// MaxBackoff bounds the wait after a failure of the database or of a whole
	// topic; it starts at 50 ms and doubles. Defaults to 5 s.
	MaxBackoff time.Duration
	// SlowTopic is how long a pass waits for a topic. One that takes longer falls
	// behind and is published beside the passes, so that the others do not wait
	// for it. Defaults to 1 s.
	SlowTopic time.Duration
	// MaxStalled bounds the events that may wait in the stalled list. At it, the
	// relay stops passing further events by until some are resolved. Defaults to
	// 10,000.
	MaxStalled int
	// LeaseTTL is after how long another replica's relay takes over from one
	// that died without a word. One that stops hands over at once. Defaults to
	// 3 s.
	LeaseTTL time.Duration
	// Listen makes the relay hear at once of what other processes commit, and tell
	// them what this one commits, by NOTIFY; see [Outbox.Notify]. The poll stays
	// behind it. Use pgxdb.Listen(url); the connection must not lead through a
	// pooler of transactions. nil: the relay of another process hears of a commit
	// by its poll.
	Listen Listen
	// NotifyEvery is the least time between two notifications of this process.
	// Defaults to 20 ms.
	NotifyEvery time.Duration
	// Source, where it is set, hands the relay what was committed, beside its own
	// reading of the tables. One relay at a time runs it, for all partitions: Blocks
	// is 1.
	Source Source
	// Hooks observe the relay.
	Hooks RelayHooks
	// Logger for what an operator should know. Defaults to slog.Default().
	Logger *slog.Logger
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// RelayHooks observe a relay, for metrics and spans; in tests they are its crash
// points. Every func may be nil; they should return at once. Those of publications may be called from several
// goroutines at once.
type RelayHooks struct {
	// BeforePublish is called before the event is handed to the broker.
	BeforePublish func(ctx context.Context, e events.Event)
	// AfterPublish is called once the broker has acknowledged the event, before
	// the cursor is moved.
	AfterPublish func(ctx context.Context, e events.Event)
	// PublishFailed is called for an event that was not acknowledged.
	PublishFailed func(ctx context.Context, e events.Event, err error)
	// BeforeCursor and AfterCursor surround the commit that records what was
	// published: passed is by how many rows the cursors moved.
	BeforeCursor, AfterCursor func(ctx context.Context, passed int64)
	// Republish is called when the relay goes back in a block because the topic's
	// log at the broker was lost in whole or in part.
	Republish func(ctx context.Context, topic string, block events.Block)
	// Holding is called when this relay takes a block and when it gives it up or
	// loses it.
	Holding func(ctx context.Context, block events.Block, held bool)
}

// Relay publishes what is appended to an outbox. Any number of relays may run on
// one outbox, in one process or in many: they share the blocks of its partitions.
type Relay struct {
	db  *sqldb.DB
	o   *Outbox
	pub events.Publisher
	log events.Log // pub, where it is one
	cfg RelayConfig
}

// NewRelay returns a relay that publishes the events of o, stored in db, to p.
// Where p is an events.Log, the relay also notices what the broker lost.
func NewRelay(db *sqldb.DB, o *Outbox, p events.Publisher, cfg *RelayConfig) (*Relay, error) {
	r := &Relay{db: db, o: o, pub: p}
	if cfg != nil {
		r.cfg = *cfg
	}
	if db == nil || o == nil || p == nil {
		return nil, errors.New("outbox: NewRelay needs a database, an outbox and a publisher; one is nil")
	}
	if db.Dialect != o.dialect {
		return nil, fmt.Errorf("outbox: the database is %v, the outbox was made for %v", db.Dialect, o.dialect)
	}
	r.log, _ = p.(events.Log)
	c := &r.cfg
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"Poll", &c.Poll, 200 * time.Millisecond},
		{"PublishTimeout", &c.PublishTimeout, 10 * time.Second},
		{"DatabaseTimeout", &c.DatabaseTimeout, 10 * time.Second},
		{"TrimEvery", &c.TrimEvery, time.Minute},
		{"StreamCheck", &c.StreamCheck, 5 * time.Second},
		{"CheckpointEvery", &c.CheckpointEvery, 5 * time.Second},
		{"SlowTopic", &c.SlowTopic, time.Second},
		{"NotifyEvery", &c.NotifyEvery, 20 * time.Millisecond},
		{"MaxBackoff", &c.MaxBackoff, 5 * time.Second},
		{"LeaseTTL", &c.LeaseTTL, 3 * time.Second},
	} {
		if *d.value < 0 {
			return nil, fmt.Errorf("outbox: RelayConfig.%s %v: must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.BatchSize < 0 || c.MaxStalled < 0 {
		return nil, fmt.Errorf("outbox: RelayConfig.BatchSize %d, MaxStalled %d: must not be negative", c.BatchSize, c.MaxStalled)
	}
	if c.BatchSize == 0 {
		c.BatchSize = 1024
	}
	if c.MaxStalled == 0 {
		c.MaxStalled = 10_000
	}
	switch {
	case db.Dialect == sqldb.SQLite && c.Blocks > 1:
		return nil, fmt.Errorf("outbox: RelayConfig.Blocks %d: on SQLite it is 1, since the file belongs to one process", c.Blocks)
	case db.Dialect == sqldb.SQLite && c.Listen != nil:
		return nil, errors.New("outbox: RelayConfig.Listen: only PostgreSQL notifies")
	case c.Source != nil && c.Blocks > 1:
		return nil, fmt.Errorf("outbox: RelayConfig.Blocks %d: with a Source it is 1, since the source hands everything to one relay", c.Blocks)
	case c.Blocks == 0 && db.Dialect == sqldb.Postgres && c.Source == nil:
		c.Blocks = 8
	case c.Blocks == 0:
		c.Blocks = 1
	}
	if err := (events.Block{Count: c.Blocks}).Validate(); err != nil {
		return nil, fmt.Errorf("outbox: RelayConfig.Blocks %d: use 1, 2, 4, 8, 16, 32 or 64", c.Blocks)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return r, nil
}

// Backlog reads what is still to be published; see [ReadBacklog].
func (r *Relay) Backlog(ctx context.Context) (Backlog, error) { return ReadBacklog(ctx, r.db) }

// Run publishes until ctx ends, then finishes the pass under way, hands its blocks
// over to the other relays and returns nil. It survives every failure of the
// database and the broker; an error says that it was started wrongly, for
// instance before the outbox's tables were made.
func (r *Relay) Run(ctx context.Context) error {
	if err := r.checkTables(ctx); err != nil {
		return err
	}
	woken, stop := r.o.subscribe()
	defer stop()
	l := &leader{r: r, woken: woken, feed: &Feed{wake: woken.wake}, leads: make(chan *block, 1)}
	defer r.hint(ctx, l)()
	defer r.follow(ctx, l)()
	return l.hold(ctx)
}

// hint exchanges notifications with other processes until the returned func is
// called.
func (r *Relay) hint(ctx context.Context, l *leader) (stop func()) {
	if r.cfg.Listen == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	self := rand.Text()[:8]
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = r.o.notify(ctx, r.db, self, r.cfg.NotifyEvery, l.held)
	})
	wg.Go(func() {
		err := r.cfg.Listen(ctx, Channel, func(payload string) { notified(l.woken, self, payload) })
		if err != nil && ctx.Err() == nil {
			r.cfg.Logger.ErrorContext(ctx, "outbox: not listening; what other processes commit is found by the poll", "error", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// checkTables returns an error where the outbox's tables are not there. Any other
// failure of the database is one that Run survives.
func (r *Relay) checkTables(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	if _, err := r.db.Write.ExecContext(ctx, `SELECT epoch FROM napkin_outbox_block`); sqldb.IsNoTable(err) {
		return fmt.Errorf("outbox: the tables are missing: apply migrate.Up(ctx, db, outbox.Set, outbox.Migrations(db.Dialect)) before Run: %w", err)
	}
	return nil
}

// sleep waits for d, for a wake-up or for the end of ctx.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
}
