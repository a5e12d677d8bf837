//go:build unix

// Package chaos runs relays, consumers, a NATS server and PostgreSQL as processes
// of their own, kills them with SIGKILL, stops and resumes them, at random and at
// named crash points, while writers go on; and compares the ledgers at the end.
package chaos

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

// How a process of the test is told what it is.
const (
	envPart     = "EVENTS_CHAOS_PART" // relay, consumer, nats
	envDatabase = "EVENTS_CHAOS_DATABASE"
	envBroker   = "EVENTS_CHAOS_BROKER"
	envDir      = "EVENTS_CHAOS_DIR"
	envFew      = "EVENTS_CHAOS_FEW"   // only the first consumer, which never fails
	envPoint    = "EVENTS_CHAOS_POINT" // "<point>#<n>": kill yourself the n-th time
)

const happened = "chaos.v1.Happened"

func TestMain(m *testing.M) {
	part := os.Getenv(envPart)
	if part == "" {
		os.Exit(pgtest.Main(m).Run())
	}
	go obey()
	var err error
	switch part {
	case "nats":
		err = natstest.Serve(context.Background(), natstest.Config{Addr: os.Getenv(envBroker), Dir: os.Getenv(envDir)}, func(url string) { fmt.Println("ready", url) })
	case "relay":
		err = relay(context.Background(), os.Getenv(envDatabase), os.Getenv(envBroker))
	case "consumer":
		err = consumer(context.Background(), os.Getenv(envDatabase), os.Getenv(envBroker))
	default:
		err = fmt.Errorf("no part %q", part)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, part, err)
		os.Exit(1)
	}
}

// obey answers what the test asks, and ends the process with the test.
func obey() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "memory" {
			debug.FreeOSMemory()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			fmt.Println("memory", m.HeapAlloc, resident())
		}
	}
	os.Exit(0)
}

// resident is the most memory that the process ever had, in bytes; 0 where the
// system does not tell.
func resident() int64 {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// The crash points of a relay and of a consumer: their hooks.
var points = map[string][]string{
	"relay":    {"relay: before publish", "relay: after publish", "relay: before cursor", "relay: after cursor"},
	"consumer": {"consumer: before handle", "consumer: before commit", "consumer: after commit, before ack", "consumer: after ack"},
}

// pass returns what is called at a crash point.
func pass(point string) func() {
	at, n, _ := strings.Cut(os.Getenv(envPoint), "#")
	if at != point {
		return func() {}
	}
	times, _ := strconv.Atoi(n)
	var passed atomic.Int64
	return func() {
		if passed.Add(1) == int64(times) {
			fmt.Println("crash", point)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	}
}

func connect(ctx context.Context, database, broker string) (*sqldb.DB, events.Broker, error) {
	db, err := pgxdb.Open(ctx, database, &pgxdb.Config{IdleInTransaction: time.Second, MaxConns: 8})
	for try := 0; err != nil && try < 200; try++ { // it may be down at the moment
		time.Sleep(50 * time.Millisecond)
		db, err = pgxdb.Open(ctx, database, &pgxdb.Config{IdleInTransaction: time.Second, MaxConns: 8})
	}
	if err != nil {
		return nil, nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	nc, err := nats.Connect(broker, append(natsevents.Options("chaos", quiet), nats.RetryOnFailedConnect(true), nats.ReconnectWait(50*time.Millisecond))...)
	if err != nil {
		return nil, nil, err
	}
	cfg := &natsevents.Config{AckWait: 2 * time.Second, Timeout: time.Second, Logger: quiet}
	b, err := natsevents.Connect(ctx, nc, cfg)
	for try := 0; err != nil && try < 200; try++ {
		time.Sleep(50 * time.Millisecond)
		b, err = natsevents.Connect(ctx, nc, cfg)
	}
	return db, b, err
}

func relay(ctx context.Context, database, broker string) error {
	db, b, err := connect(ctx, database, broker)
	if err != nil {
		return err
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		return err
	}
	p := points["relay"]
	publishing, published, recording, recorded := pass(p[0]), pass(p[1]), pass(p[2]), pass(p[3])
	r, err := outbox.NewRelay(db, ob, b, &outbox.RelayConfig{
		Poll: 20 * time.Millisecond, LeaseTTL: time.Second, MaxBackoff: 200 * time.Millisecond, BatchSize: 200,
		StreamCheck: 500 * time.Millisecond, CheckpointEvery: 200 * time.Millisecond, PublishTimeout: 2 * time.Second, DatabaseTimeout: 2 * time.Second,
		Listen: pgxdb.Listen(database), Logger: slog.New(slog.DiscardHandler),
		Hooks: outbox.RelayHooks{
			BeforePublish: func(context.Context, events.Event) { publishing() },
			AfterPublish:  func(context.Context, events.Event) { published() },
			BeforeCursor:  func(context.Context, int64) { recording() },
			AfterCursor:   func(context.Context, int64) { recorded() },
		},
	})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// consumer is two consumers, mail and audit, in one process.
func consumer(ctx context.Context, database, broker string) error {
	db, b, err := connect(ctx, database, broker)
	if err != nil {
		return err
	}
	p := points["consumer"]
	before, committing, committed, acked := pass(p[0]), pass(p[1]), pass(p[2]), pass(p[3])
	names, few := consumers, os.Getenv(envFew) != ""
	if few {
		names = consumers[:1]
	}
	errs := make(chan error, len(names))
	for _, name := range names {
		c, err := inbox.NewConsumer(name, db, sqldb.Std(db), b, &inbox.ConsumerConfig{
			LeaseTTL: time.Second, Backoff: 5 * time.Millisecond, MaxBackoff: 100 * time.Millisecond, MaxAttempts: 1000, HandlerTimeout: 5 * time.Second,
			Sequences: map[string]inbox.Sequence{"orders": inbox.Strict}, GapTimeout: 10 * time.Minute,
			Logger: slog.New(slog.DiscardHandler),
			Hooks: inbox.Hooks{
				BeforeHandle: func(context.Context, string, events.Event) { before() },
				BeforeCommit: func(context.Context, string, events.Event) { committing() },
				AfterCommit:  func(context.Context, string, events.Event) { committed() },
				AfterAck:     func(context.Context, string, events.Event) { acked() },
			},
		})
		if err != nil {
			return err
		}
		c.Handle("orders", happened, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO effect (consumer, id, key, seq) VALUES ($1, $2, $3, $4)`, name, e.ID, e.Key, e.KeySeq)
			if err == nil && !few && rand.N(200) == 0 {
				return errors.New("now and then")
			}
			return err
		})
		go func() { errs <- c.Run(ctx) }()
	}
	for range names {
		err = errors.Join(err, <-errs)
	}
	return err
}

var consumers = []string{"mail", "audit"}

// process is one that the test has started.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	ended chan struct{}
}

// start runs this program as a part. It ends with the test at the latest.
func start(t testing.TB, part string, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], "-test.run=^$"), lines: make(chan string, 100), ended: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), envPart+"="+part), env...)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
		_ = p.cmd.Wait() // "killed"
		close(p.lines)
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // also where it is stopped, or has ended
	<-p.ended
}

func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// line waits for a line that begins with word.
func (p *process) line(t testing.TB, word string) []string {
	t.Helper()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for {
		select {
		case l, ok := <-p.lines:
			if f := strings.Fields(l); len(f) > 0 && f[0] == word {
				return f[1:]
			}
			if !ok {
				t.Fatalf("the process ended without %q", word)
			}
		case <-late.C:
			t.Fatalf("no %q within a minute", word)
		}
	}
}

// memory asks for the live heap and the most resident memory, in bytes.
func (p *process) memory(t testing.TB) (heap, resident int64) {
	t.Helper()
	fmt.Fprintln(p.in, "memory")
	f := p.line(t, "memory")
	heap, _ = strconv.ParseInt(f[0], 10, 64)
	resident, _ = strconv.ParseInt(f[1], 10, 64)
	return heap, resident
}

// tally counts by name.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[name]++
}

func (c *tally) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[name]
}
