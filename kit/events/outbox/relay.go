package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// BatchSize is how many rows one pass reads. Defaults to 512.
	BatchSize int
	// PublishTimeout bounds one Publish call. Defaults to 10 s.
	PublishTimeout time.Duration
	// DatabaseTimeout bounds one read or one transaction. Defaults to 10 s.
	DatabaseTimeout time.Duration
	// Retention is how long published rows are kept, to be published again
	// should the broker lose them. Keep it longer than the broker may take to
	// make its writes durable, and shorter than the consumers' inboxes. Defaults
	// to 24 h.
	Retention time.Duration
	// TrimEvery is how often rows past Retention are removed. Defaults to 1 min.
	TrimEvery time.Duration
	// StreamCheck is how often the broker's logs are compared with what is known
	// of them, beside the checks after a failure and with every acknowledgement.
	// Defaults to 5 s.
	StreamCheck time.Duration
	// CheckpointEvery is the distance of the points from which a relay can
	// publish again after the broker lost events. Defaults to 5 s.
	CheckpointEvery time.Duration
	// MaxBackoff bounds the wait after a failure of the database or of the whole
	// broker; it starts at 50 ms and doubles. Defaults to 5 s.
	MaxBackoff time.Duration
	// MaxStalled bounds the events that may wait in the stalled list. At it, the
	// relay stops passing further events by until some are resolved. Defaults to
	// 10,000.
	MaxStalled int
	// LeaseTTL is after how long another replica's relay takes over from one
	// that died without a word. One that stops hands over at once. Defaults to
	// 3 s.
	LeaseTTL time.Duration
	// Hooks observe the relay.
	Hooks RelayHooks
	// Logger for what an operator should know. Defaults to slog.Default().
	Logger *slog.Logger
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// RelayHooks observe a relay, for metrics and spans; in tests they are its crash
// points. Every func may be nil; they are called from the relay's goroutine and
// should return at once.
type RelayHooks struct {
	// BeforePublish is called before the event is handed to the broker.
	BeforePublish func(ctx context.Context, e events.Event)
	// AfterPublish is called once the broker has acknowledged the event, before
	// the cursor is moved.
	AfterPublish func(ctx context.Context, e events.Event)
	// PublishFailed is called for an event that was not acknowledged.
	PublishFailed func(ctx context.Context, e events.Event, err error)
	// BeforeCursor and AfterCursor surround the commit that records a pass.
	BeforeCursor, AfterCursor func(ctx context.Context, cursor int64)
	// Republish is called when the relay goes back because the topic's log at
	// the broker was lost in whole or in part: from is the cursor it goes back to.
	Republish func(ctx context.Context, topic string, from int64)
	// Leading is called when this relay becomes the leader and when it ends.
	Leading func(ctx context.Context, leading bool)
}

// Relay publishes what is appended to an outbox. Any number of relays may run on
// one outbox, in one process or in many: one of them leads at a time.
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
		{"Retention", &c.Retention, 24 * time.Hour},
		{"TrimEvery", &c.TrimEvery, time.Minute},
		{"StreamCheck", &c.StreamCheck, 5 * time.Second},
		{"CheckpointEvery", &c.CheckpointEvery, 5 * time.Second},
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
		c.BatchSize = 512
	}
	if c.MaxStalled == 0 {
		c.MaxStalled = 10_000
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

// Run publishes until ctx ends, then finishes the pass under way, hands over to
// another relay and returns nil. It survives every failure of the database and
// the broker; an error says that it was started wrongly, for instance before the
// outbox's tables were made.
func (r *Relay) Run(ctx context.Context) error {
	if err := r.checkTables(ctx); err != nil {
		return err
	}
	wake, stop := r.o.subscribe()
	defer stop()
	return r.hold(ctx, func(ctx context.Context, epoch int64) {
		if f := r.cfg.Hooks.Leading; f != nil {
			f(ctx, true)
			defer f(ctx, false)
		}
		r.lead(ctx, epoch, wake)
	})
}

// checkTables returns an error where the outbox's tables are not there. Any other
// failure of the database is one that Run survives.
func (r *Relay) checkTables(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	if _, err := r.db.Write.ExecContext(ctx, `SELECT cursor_id FROM napkin_outbox_relay`); sqldb.IsNoTable(err) {
		return fmt.Errorf("outbox: the tables are missing: apply migrate.Up(ctx, db, outbox.Set, outbox.Migrations(db.Dialect)) before Run: %w", err)
	}
	return nil
}

// lead publishes until ctx ends or another leader fences this one off.
func (r *Relay) lead(ctx context.Context, epoch int64, wake <-chan struct{}) {
	// A pass that began is finished: each of its steps has a deadline of its own.
	work := context.WithoutCancel(ctx)
	var s *state
	var failures int
	var checked, trimmed time.Time
	for ctx.Err() == nil {
		more, err := func() (bool, error) {
			if s == nil {
				loaded, err := r.takeOver(work, epoch)
				if err != nil {
					return false, err
				}
				s = loaded
			}
			if now := r.cfg.Now(); now.Sub(checked) >= r.cfg.StreamCheck {
				if err := r.checkStreams(work, s); err != nil {
					return false, err
				}
				checked = now
			}
			more, err := r.pass(ctx, work, s)
			if err != nil {
				return false, err
			}
			if now := r.cfg.Now(); now.Sub(trimmed) >= r.cfg.TrimEvery {
				if err := r.trim(ctx, work, s); err != nil {
					return false, err
				}
				trimmed = now
			}
			return more, nil
		}()
		switch {
		case errors.Is(err, errFenced):
			r.cfg.Logger.InfoContext(ctx, "outbox: another relay has taken over")
			return
		case err != nil && ctx.Err() != nil:
			return // the next leader publishes the batch again
		case err != nil:
			// What is in memory may be ahead of the database: load it again, and
			// look at the broker's logs before anything is published.
			s, checked = nil, time.Time{}
			wait := min(50*time.Millisecond<<min(failures, 10), r.cfg.MaxBackoff)
			failures++
			r.cfg.Logger.WarnContext(ctx, "outbox: publishing failed, trying again", "error", err, "wait", wait)
			sleep(ctx, wait, nil)
		default:
			failures = 0
			if !more {
				sleep(ctx, r.cfg.Poll, wake)
			}
		}
	}
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
