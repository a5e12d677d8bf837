package saga

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Outbox takes the commands that a coordinator sends, in its transaction.
// *outbox.Outbox is one.
type Outbox interface {
	Append(ctx context.Context, tx sqldb.Execer, evs ...events.Event) error
}

// Config tunes a [Coordinator]. The zero value and nil are usable for
// definitions without commands.
type Config struct {
	// Outbox sends commands. Required where a definition has a [Command].
	Outbox Outbox
	// Node names this process in the history and among the nodes that share the
	// store, which add a random part, so that a restarted process is another
	// node. Defaults to "node".
	Node string
	// Logger defaults to slog.Default().
	Logger *slog.Logger
	Hooks  Hooks
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// PollEvery is how often Run looks for instances that are due. Instances
	// started or answered by this process do not wait for it. Defaults to 250 ms.
	PollEvery time.Duration
	// LeaseTTL is how long a node's heartbeat may stand still before others take
	// over its calls; it beats three times as often. The store's clock counts, so
	// the nodes' clocks need not agree. Defaults to 3 s.
	LeaseTTL time.Duration
	// Concurrency bounds how many instances are driven at once. Defaults to 16.
	Concurrency int
	// MaxCalls bounds the calls in flight. Defaults to 256.
	MaxCalls int
	// Attempts is how often a step, or its undo, is tried before a compensatable
	// step is compensated and any other is stuck. Defaults to 20, with the
	// default backoff about a quarter of an hour.
	Attempts int
	// BackoffMin and BackoffMax bound the wait between attempts, which doubles.
	// Default to 200 ms and 1 minute.
	BackoffMin, BackoffMax time.Duration
	// MaxState bounds the JSON of a state, in bytes. Defaults to 1 MiB.
	MaxState int
	// LocalRejection reports errors that [Pause] need not mark, such as
	// resilience.IsLocalRejection does. Optional.
	LocalRejection func(error) bool
}

func (c *Config) withDefaults() (Config, error) {
	var out Config
	if c != nil {
		out = *c
	}
	if out.Node == "" {
		out.Node = "node"
	}
	if out.Logger == nil {
		out.Logger = slog.Default()
	}
	if out.Now == nil {
		out.Now = time.Now
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"PollEvery", &out.PollEvery, 250 * time.Millisecond},
		{"LeaseTTL", &out.LeaseTTL, 3 * time.Second},
		{"BackoffMin", &out.BackoffMin, 200 * time.Millisecond},
		{"BackoffMax", &out.BackoffMax, time.Minute},
	} {
		if *d.value < 0 {
			return out, fmt.Errorf("saga: Config.%s is negative; take 0 for the default of %v", d.name, d.def)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	for _, n := range []struct {
		name  string
		value *int
		def   int
	}{
		{"Concurrency", &out.Concurrency, 16},
		{"MaxCalls", &out.MaxCalls, 256},
		{"Attempts", &out.Attempts, 20},
		{"MaxState", &out.MaxState, 1 << 20},
	} {
		if *n.value < 0 {
			return out, fmt.Errorf("saga: Config.%s is negative; take 0 for the default of %d", n.name, n.def)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	if out.BackoffMax < out.BackoffMin {
		return out, errors.New("saga: Config.BackoffMax is below BackoffMin; raise it")
	}
	return out, nil
}

// Coordinator runs sagas. Register its definitions first; then everything is
// safe for concurrent use.
type Coordinator struct {
	store Store
	cfg   Config

	mu    sync.RWMutex
	plans map[Ref]*plan

	membership membership
	dropped    dropped
	queue      chan string   // kicked ids, while Run runs
	calls      chan struct{} // permits for calls in flight
	running    chan struct{} // holds a token while Run runs
}

// NewCoordinator returns a coordinator over the store. Several coordinators, in
// one process or many, may share a PostgreSQL store.
func NewCoordinator(store Store, cfg *Config) (*Coordinator, error) {
	if store == nil {
		return nil, errors.New("saga: NewCoordinator needs a Store; see package sqlsaga")
	}
	full, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Coordinator{
		store:   store,
		cfg:     full,
		plans:   make(map[Ref]*plan),
		queue:   make(chan string, 4096),
		calls:   make(chan struct{}, full.MaxCalls),
		running: make(chan struct{}, 1),
	}, nil
}

// Node returns the name of this process as the history shows it: Config.Node
// until it has joined the nodes that share the store, then an id of its own that
// begins with it.
func (c *Coordinator) Node() string {
	if id := c.membership.id(); id != "" {
		return id
	}
	return c.cfg.Node
}

// Register checks a definition and adds it. The error says what is wrong and
// how to mend it; errors.Is ErrDefinition. Register every version of which
// instances may be in flight.
func Register[S any](c *Coordinator, d Definition[S]) (*Handle[S], error) {
	p, err := compile(d)
	if err != nil {
		return nil, err
	}
	for _, l := range p.byName {
		if l.op == opCommand && c.cfg.Outbox == nil {
			return nil, definitionError("saga %q: step %q is a command, and the coordinator has no Config.Outbox to send it; set it", p.name, l.name)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.plans[p.ref()]; ok {
		return nil, definitionError("saga %q: version %d is registered already; give the changed definition the next Version", p.name, p.version)
	}
	c.plans[p.ref()] = p
	return &Handle[S]{c: c, p: p}, nil
}

func (c *Coordinator) plan(name string, version int) (*plan, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, ok := c.plans[Ref{name, version}]
	return p, ok
}

func (c *Coordinator) refs() []Ref {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]Ref, 0, len(c.plans))
	for r := range c.plans {
		out = append(out, r)
	}
	return out
}

// backoff doubles from base to BackoffMax, spread over the upper half by a hash
// so that instances which failed together do not return together, while a test
// sees the same waits each time.
func (c *Coordinator) backoff(base time.Duration, attempt int, id string) time.Duration {
	d := base
	for i := 1; i < attempt && d < c.cfg.BackoffMax; i++ {
		d *= 2
	}
	d = min(d, max(c.cfg.BackoffMax, base))
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s/%d", id, attempt)
	return (d/2 + time.Duration(float64(d/2)*float64(h.Sum32()%1000)/1000)).Truncate(time.Microsecond)
}

// now is the time as stores keep it, so that what is due there is due here.
func (c *Coordinator) now() time.Time { return c.cfg.Now().Truncate(time.Microsecond) }

// kick asks Run to drive the instance at once. Without Run, or with a full
// queue, the poll finds it.
func (c *Coordinator) kick(id string) {
	if len(c.running) == 0 {
		return
	}
	select {
	case c.queue <- id:
	default:
	}
}
