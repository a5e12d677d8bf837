package simulation

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

const (
	happened = "simulated.v1.Happened"
	replied  = "simulated.v1.Replied"

	drainTime = 2 * time.Minute // of virtual time, once nothing fails any more
)

// broken names the faults that the simulation is shown to find.
type broken struct {
	ackFirst    bool // deliveries are acknowledged before the commit
	cursorFirst bool // the cursor moves before the publication
	nack        bool // an event is put off by a delayed negative acknowledgement
	oneMark     bool // marks without the consumer
	unparked    bool // events overtake a dead letter of their key
	lastFirst   bool // a parked list is drained from its end
}

// shape is what a seed makes of the system.
type shape struct {
	relays, mails, audits int
	blocks, batch         int
	many                  bool // audit has a batch handler
	strict                bool // consumers go by the events' numbers, and logs lose events
	trims                 bool // rows are removed soon after they were published
	faults                time.Duration
	transactions          int
	keys                  int
}

// world is one run.
type world struct {
	seed   uint64
	rand   *rand.Rand
	db     *store
	b      *memevents.Broker
	broken *broken
	shape  shape
	begun  time.Time
	log    func(format string, args ...any)

	mu      sync.Mutex
	pending []*call
	calls   int
	trace   uint64 // a hash of entries
	entries []noted
	outage  string // "database", "broker" or ""
	faults  map[string]int
	points  map[string]int // hits of the crash points
	crashes map[string]int // by point, or by call
	tries   map[string]int
	fixed   map[string]bool
	losses  int // how often the broker lost events

	replicas []*replica
	running  sync.WaitGroup
	app      *process
	appDB    *sqldb.DB
	judgeDB  *sqldb.DB
	outbox   *outbox.Outbox
	next     int
	written  int // transactions begun
	undone   []string
	done     []string // ids that their writer knows to be committed
}

// replica is a process that is started again when it ends.
type replica struct {
	name  string
	run   func(ctx context.Context, p *process, db *sqldb.DB) error
	p     *process
	lives int
	again time.Time
}

func newWorld(seed uint64, db *store, b *broken) *world {
	w := &world{seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), db: db, broken: b, begun: time.Now(),
		faults: map[string]int{}, points: map[string]int{}, crashes: map[string]int{}, tries: map[string]int{}, fixed: map[string]bool{}}
	r := w.rand
	w.shape = shape{
		relays: 1 + r.IntN(2), mails: 1 + r.IntN(2), audits: 1 + r.IntN(2),
		blocks: []int{1, 1, 2}[r.IntN(3)], batch: []int{1, 4, 64}[r.IntN(3)],
		many: r.IntN(2) == 0, strict: r.IntN(3) == 0,
		faults: time.Duration(2+r.IntN(5)) * time.Second, transactions: 2 + r.IntN(6), keys: 1 + r.IntN(3),
	}
	w.shape.trims = !w.shape.strict && r.IntN(3) == 0
	w.b = memevents.New(&memevents.Config{AckWait: 3 * time.Second})
	return w
}

func (w *world) faulty() bool { return time.Since(w.begun) < w.shape.faults }

func (w *world) faultyNow() bool { return w.faulty() }

// run is one seed from its begin to its ledger.
func (w *world) run() (err error) {
	if err := w.db.script(`BEGIN`); err != nil {
		return err
	}
	w.db.spoil = w.broken.spoil
	defer func() {
		w.db.spoil, w.db.owner = nil, nil
		err = errors.Join(err, w.db.script(`ROLLBACK`))
	}()
	quiet := slog.New(slog.DiscardHandler)
	cfg := &outbox.Config{}
	if w.shape.trims {
		cfg.Retention = 2 * time.Second
	}
	if w.outbox, err = outbox.New(sqldb.SQLite, "order", cfg); err != nil {
		return err
	}
	if err := w.b.EnsureTopics(context.Background(), "orders", "replies"); err != nil {
		return err
	}
	w.app = &process{w: w, name: "app", hits: map[string]int{}}
	w.appDB = w.db.open(w.app)
	defer w.appDB.Close()
	w.judgeDB = w.db.open(&process{w: w, name: "judge", free: true})
	defer w.judgeDB.Close()
	for i := range w.shape.relays {
		w.replicas = append(w.replicas, &replica{name: fmt.Sprintf("relay%d", i), run: func(ctx context.Context, p *process, db *sqldb.DB) error {
			return w.relay(ctx, p, db, quiet)
		}})
	}
	consumer := func(name string, n int) {
		for i := range n {
			w.replicas = append(w.replicas, &replica{name: fmt.Sprintf("%s%d", name, i), run: func(ctx context.Context, p *process, db *sqldb.DB) error {
				return w.consumer(ctx, name, p, db, quiet)
			}})
		}
	}
	consumer("mail", w.shape.mails)
	consumer("audit", w.shape.audits)
	err = w.drive()
	w.end()
	if err != nil {
		return err
	}
	return w.ledger()
}

// drive lets the world go on until everything is drained.
func (w *world) drive() error {
	quiet := 0
	for {
		for w.step() {
		}
		if !w.faulty() && time.Since(w.begun)%time.Second == 0 {
			rest, err := w.rest()
			if err != nil {
				return err
			}
			if quiet++; rest != "" {
				quiet = 0
			}
			if quiet == 2 {
				return nil
			}
			if time.Since(w.begun) > w.shape.faults+drainTime {
				return fmt.Errorf("not drained within %v after the last fault: %s", drainTime, rest)
			}
		}
		if err := w.act(); err != nil {
			return err
		}
		for w.step() { // what that has set off
		}
		time.Sleep(quantum)
	}
}

// end stops all processes as a deployment does.
func (w *world) end() {
	for _, r := range w.replicas {
		if r.p != nil {
			r.p.cancel()
		}
	}
	ended := make(chan struct{})
	go func() {
		w.running.Wait()
		close(ended)
	}()
	for {
		select {
		case <-ended:
			return
		default:
			if !w.step() {
				time.Sleep(quantum)
			}
		}
	}
}

// act is what happens at a step of time, beside what the processes do.
func (w *world) act() error {
	w.mu.Lock()
	free := w.db.holder() == nil
	faulty := w.faulty()
	r := w.rand
	if !faulty {
		w.outage = ""
		for _, x := range w.replicas {
			if x.p != nil {
				x.p.paused = time.Time{}
			}
		}
	}
	w.mu.Unlock()
	for _, x := range w.replicas {
		if x.p != nil {
			select {
			case <-x.p.ended:
				x.p = nil
				x.again = time.Now()
				if faulty {
					x.again = x.again.Add(time.Duration(r.IntN(20)) * quantum)
				}
			default:
			}
		}
		if x.p == nil && (!faulty || !time.Now().Before(x.again)) {
			w.spawn(x)
		}
	}
	if w.written < w.shape.transactions && (r.IntN(8) == 0 || !faulty) {
		w.written++
		w.write()
	}
	if faulty {
		w.trouble()
	}
	if free && (!faulty && time.Since(w.begun)%time.Second == 0 || r.IntN(30) == 0) {
		return w.operate()
	}
	return nil
}

// trouble is a fault of the whole, or of one process.
func (w *world) trouble() {
	r := w.rand
	w.mu.Lock()
	defer w.mu.Unlock()
	switch r.IntN(40) {
	case 0:
		w.outage = "database"
	case 1:
		w.outage = "broker"
	case 2, 3, 4:
		w.outage = ""
	case 5, 6:
		if x := w.replicas[r.IntN(len(w.replicas))]; x.p != nil && w.db.holder() != x.p {
			x.p.paused = time.Now().Add(time.Duration(5+r.IntN(60)) * quantum)
			w.faults["process paused"]++
			w.note("pause", x.p.name)
		}
	case 7:
		// Only one that is at rest: of several things that are ready at once, it
		// would take up any.
		if x := w.replicas[r.IntN(len(w.replicas))]; x.p != nil && !w.busy(x.p) {
			x.p.cancel()
			w.faults["process stopped"]++
			w.note("stop", x.p.name)
		}
	case 8:
		if !w.shape.strict {
			return
		}
		topic := []string{"orders", "replies"}[r.IntN(2)]
		n := r.IntN(5)
		w.losses++
		if w.note("lose", fmt.Sprint(topic, n)); n > 0 {
			w.b.LoseTail(topic, n)
			w.faults["stream lost its tail"]++
		} else {
			w.b.Recreate(topic)
			w.faults["stream made anew"]++
		}
	}
}

// busy reports whether the process waits for a call. w.mu is held.
func (w *world) busy(p *process) bool {
	return slices.ContainsFunc(w.pending, func(c *call) bool { return c.p == p })
}

// spawn starts a replica's next life.
func (w *world) spawn(x *replica) {
	x.lives++
	p := &process{w: w, name: fmt.Sprintf("%s.%d", x.name, x.lives), hits: map[string]int{}, ended: make(chan struct{})}
	r := w.rand
	if w.faulty() {
		switch r.IntN(4) {
		case 0:
			p.planned = plan{n: 1 + r.IntN(60), after: r.IntN(2) == 0}
		case 1, 2:
			points := consumerPoints
			if strings.HasPrefix(x.name, "relay") {
				points = relayPoints
			}
			p.planned = plan{point: points[r.IntN(len(points))], n: 1 + r.IntN(4)}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	x.p = p
	w.running.Go(func() {
		defer cancel()
		db := w.db.open(p)
		err := x.run(ctx, p, db)
		db.Close()
		if err != nil {
			w.locked(func() { w.note("ended", p.name+" "+err.Error()) })
		}
		close(p.ended)
	})
}

// The crash points of the two packages: their hooks.
var (
	relayPoints    = []string{"relay: before publish", "relay: after publish", "relay: before cursor", "relay: after cursor"}
	consumerPoints = []string{"consumer: before handle", "consumer: before commit", "consumer: after commit, before ack", "consumer: after ack"}
)

func (w *world) relay(ctx context.Context, p *process, db *sqldb.DB, quiet *slog.Logger) error {
	at := func(point string) func(context.Context, events.Event) {
		return func(context.Context, events.Event) { p.hit(point) }
	}
	r, err := outbox.NewRelay(db, w.outbox, newLink(p), &outbox.RelayConfig{
		Poll: 5 * quantum, LeaseTTL: 3 * time.Second, MaxBackoff: 4 * quantum, BatchSize: 4, TrimEvery: time.Second,
		StreamCheck: time.Second, CheckpointEvery: 5 * quantum, SlowTopic: 15 * quantum, Logger: quiet,
		Hooks: outbox.RelayHooks{
			BeforePublish: at(relayPoints[0]), AfterPublish: at(relayPoints[1]),
			BeforeCursor: func(context.Context, int64) { p.hit(relayPoints[2]) },
			AfterCursor:  func(context.Context, int64) { p.hit(relayPoints[3]) },
		},
	})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

func (w *world) consumer(ctx context.Context, name string, p *process, db *sqldb.DB, quiet *slog.Logger) error {
	at := func(point string) func(context.Context, string, events.Event) {
		return func(context.Context, string, events.Event) { p.hit(point) }
	}
	cfg := &inbox.ConsumerConfig{
		Blocks: w.shape.blocks, Batch: w.shape.batch, Concurrency: 1, MaxInFlight: 8, MaxAttempts: 3,
		// Its jitter is none that the seed decides, so the wait after a failure is that
		// of the hook.
		Backoff: 1, MaxBackoff: 1,
		HandlerTimeout: 5 * time.Second, DrainTimeout: time.Second, RedrivePoll: time.Second, LeaseTTL: 3 * time.Second,
		GapTimeout: time.Hour, Logger: quiet,
		Hooks: inbox.Hooks{
			BeforeHandle: at(consumerPoints[0]), BeforeCommit: at(consumerPoints[1]),
			AfterCommit: at(consumerPoints[2]), AfterAck: at(consumerPoints[3]),
			Failed: func(_ context.Context, _ string, _ events.Event, _ error, counted bool) {
				if !counted {
					time.Sleep(2 * quantum)
				}
			},
		},
	}
	topics := []string{"orders"}
	if name == "audit" {
		topics = []string{"orders", "replies"}
	}
	if w.shape.strict {
		cfg.Sequences = map[string]inbox.Sequence{}
		for _, t := range topics {
			cfg.Sequences[t] = inbox.Strict
		}
	}
	c, err := inbox.NewConsumer(name, db, sqldb.Std(db), newLink(p), cfg)
	if err != nil {
		return err
	}
	for _, topic := range topics {
		typ := happened
		if topic == "replies" {
			typ = replied
		}
		if name == "audit" && w.shape.many {
			c.HandleBatch(topic, typ, func(ctx context.Context, tx *sql.Tx, evs []events.Event) error {
				for _, e := range evs {
					if err := w.handle(ctx, name, tx, e); err != nil {
						return err
					}
				}
				return nil
			})
			continue
		}
		c.Handle(topic, typ, func(ctx context.Context, tx *sql.Tx, e events.Event) error { return w.handle(ctx, name, tx, e) })
	}
	return c.Run(ctx)
}

// handle has the event's effect, sends a reply, and fails as the seed says.
func (w *world) handle(ctx context.Context, consumer string, tx *sql.Tx, e events.Event) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO effect (consumer, id, key, seq) VALUES ($1, $2, $3, $4)`, consumer, e.ID, e.Topic+"/"+e.Key, e.KeySeq); err != nil {
		return err
	}
	if consumer == "mail" {
		if err := w.append(ctx, tx, events.Event{ID: "re-" + e.ID, Type: replied, Topic: "replies", Key: e.Key}); err != nil {
			return err
		}
	}
	name := consumer + " " + e.ID
	tries, fixed := 0, false
	w.locked(func() {
		w.tries[name]++
		tries, fixed = w.tries[name], w.fixed[name]
	})
	n := w.chance("handler", name)
	switch {
	case n < 8:
		if tries < 3 {
			return errors.New("now and then")
		}
	case n < 16 && w.shape.strict:
		// A list that events joined while their log had gaps is not drained by their
		// numbers.
	case n < 14:
		if !fixed {
			return errors.New("poison")
		}
	case n < 16:
		if !fixed {
			return inbox.Permanent(errors.New("never"))
		}
	case n < 18:
		if tries == 1 {
			panic("a mistake in the program")
		}
	case n < 22:
		if tries == 1 {
			return inbox.Infrastructure(errors.New("the provider is away"))
		}
	case n < 26:
		if tries == 1 {
			time.Sleep(3 * quantum)
		}
	}
	return nil
}

func (w *world) append(ctx context.Context, tx *sql.Tx, e events.Event) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO written (id, topic, key) VALUES ($1, $2, $3)`, e.ID, e.Topic, e.Key); err != nil {
		return err
	}
	return w.outbox.Append(ctx, tx, e)
}

// write begins a transaction of the application, which may be rolled back.
func (w *world) write() {
	r := w.rand
	var evs []events.Event
	var ids []string
	for range 1 + r.IntN(3) {
		w.next++
		e := events.Event{ID: fmt.Sprintf("e%02d", w.next), Type: happened, Topic: "orders"}
		if r.IntN(10) > 0 {
			e.Key = fmt.Sprintf("key%d", r.IntN(w.shape.keys))
		}
		evs, ids = append(evs, e), append(ids, e.ID)
	}
	undo := r.IntN(5) == 0
	w.running.Go(func() {
		err := sqldb.InTx(context.Background(), w.appDB, func(ctx context.Context, tx *sql.Tx) error {
			for _, e := range evs {
				if err := w.append(ctx, tx, e); err != nil {
					return err
				}
			}
			if undo {
				return errors.New("rolled back")
			}
			return nil
		})
		w.locked(func() {
			switch {
			case undo:
				w.undone = append(w.undone, ids...)
			case err == nil:
				w.done = append(w.done, ids...)
			}
		})
	})
}

// operate redrives or drops the dead letters, as an operator does who has mended
// their cause.
func (w *world) operate() error {
	ctx := context.Background()
	letters, err := inbox.ReadDeadLetters(ctx, w.judgeDB, "")
	for _, l := range letters {
		if l.State != inbox.Dead {
			continue
		}
		name := l.Consumer + " " + l.Event.ID
		if w.chance("drop", name) < 25 {
			w.locked(func() { w.faults["dead letter dropped"]++; w.note("drop", name) })
			err = errors.Join(err, ignoreNotDead(inbox.Drop(ctx, w.judgeDB, l.ID)))
			continue
		}
		w.locked(func() { w.fixed[name] = true; w.faults["dead letter redriven"]++; w.note("redrive", name) })
		err = errors.Join(err, ignoreNotDead(inbox.Redrive(ctx, w.judgeDB, l.ID)))
	}
	return err
}

func ignoreNotDead(err error) error {
	if errors.Is(err, inbox.ErrNotDead) {
		return nil
	}
	return err
}

// rest says what is still to be done.
func (w *world) rest() (string, error) {
	if w.db.holder() != nil {
		return "a transaction is open", nil
	}
	ctx := context.Background()
	var rest []string
	backlog, err := outbox.ReadBacklog(ctx, w.judgeDB)
	if err != nil {
		return "", err
	}
	if !backlog.Empty() || backlog.Stalled > 0 {
		rest = append(rest, fmt.Sprintf("outbox %+v", backlog))
	}
	for _, group := range []string{"mail", "audit"} {
		if n, err := w.b.Pending(ctx, group); err != nil || n > 0 {
			rest = append(rest, fmt.Sprintf("%d events pending for %s", n, group))
		}
	}
	letters, err := inbox.ReadDeadLetters(ctx, w.judgeDB, "")
	if err != nil {
		return "", err
	}
	for _, l := range letters {
		rest = append(rest, fmt.Sprintf("letter %s/%s %s %s", l.Consumer, l.Event.ID, l.State, l.Cause))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.pending); n > 0 {
		rest = append(rest, fmt.Sprintf("%d calls pending", n))
	}
	if w.written < w.shape.transactions {
		rest = append(rest, "transactions to be written")
	}
	return strings.Join(rest, "; "), nil
}
