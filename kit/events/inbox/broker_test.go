package inbox_test

import (
	"context"
	"database/sql"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// proxy stands between a service and its broker, and may stop passing on.
type proxy struct {
	URL string

	mu   sync.Mutex
	cond *sync.Cond
	held bool
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{URL: "nats://" + ln.Addr().String()}
	p.cond = sync.NewCond(&p.mu)
	var wg sync.WaitGroup
	var conns []net.Conn
	pass := func(dst, src net.Conn) {
		defer dst.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			p.mu.Lock()
			for p.held {
				p.cond.Wait()
			}
			p.mu.Unlock()
			if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(to, "nats://"))
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			conns = append(conns, in, out)
			p.mu.Unlock()
			wg.Go(func() { pass(out, in) })
			wg.Go(func() { pass(in, out) })
		}
	})
	t.Cleanup(func() {
		p.hold(false)
		ln.Close()
		p.mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

func (p *proxy) hold(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = on
	p.cond.Broadcast()
}

// line is a relay and a consumer that run on one database and one broker.
type line struct {
	t  *testing.T
	db *sqldb.DB
	ob *outbox.Outbox
	b  *natsevents.Broker
	n  int
}

var lineKeys = names(10)

func newLine(t *testing.T, db *sqldb.DB, url string, cfg natsevents.Config) *line {
	t.Helper()
	if err := migrate.Up(t.Context(), db, outbox.Set, outbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(url, natsevents.Options("line", nil)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	cfg.AckWait, cfg.Timeout = 2*time.Second, time.Second
	b, err := natsevents.Connect(t.Context(), nc, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := outbox.NewRelay(db, ob, b, &outbox.RelayConfig{Poll: 20 * time.Millisecond, LeaseTTL: 500 * time.Millisecond,
		MaxBackoff: 100 * time.Millisecond, StreamCheck: 50 * time.Millisecond, CheckpointEvery: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	start(t, db, b, inbox.ConsumerConfig{Blocks: 4}, nil)
	return &line{t: t, db: db, ob: ob, b: b}
}

// write appends one event of each key.
func (l *line) write() {
	l.t.Helper()
	l.n++
	err := sqldb.InTx(l.t.Context(), l.db, func(ctx context.Context, tx *sql.Tx) error {
		for _, k := range lineKeys {
			e := event(k, l.n)
			e.KeySeq = 0
			if err := l.ob.Append(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *line) balanced() {
	l.t.Helper()
	happen(l.t, l.db, len(lineKeys)*l.n)
	drained(l.t, l.b)
	inOrder(l.t, effects(l.t, l.db), lineKeys, l.n)
	if x := letters(l.t, l.db); len(x) != 0 {
		l.t.Errorf("letters %+v", x)
	}
}

func lineDB(t *testing.T) *sqldb.DB {
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "line.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return migrated(t, db)
}

// The server comes back without what it had acknowledged, publications and
// positions: the relay publishes again, the inbox drops what it had.
func TestABrokerThatLostWhatItAcknowledged(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		if testing.Short() && db.Dialect == sqldb.Postgres {
			t.Skip("the short form is on SQLite")
		}
		srv := natstest.Start(t)
		l := newLine(t, db, srv.URL, natsevents.Config{})
		l.write()
		l.balanced()
		snapshot := srv.Snapshot()
		l.write()
		l.write()
		happen(t, db, len(lineKeys)*l.n)
		l.write() // under way while it is lost
		srv.Rollback(snapshot)
		l.write()
		l.balanced()
	})
}

// A broker that is silent for longer than a request may take, twice.
func TestABrokerThatStalls(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for time-outs")
	}
	srv := natstest.Start(t)
	p := startProxy(t, srv.URL)
	db := lineDB(t)
	l := newLine(t, db, p.URL, natsevents.Config{})
	for range 2 {
		l.write()
		p.hold(true)
		l.write()
		pass(t, 2500*time.Millisecond) // more than its Timeout and AckWait
		p.hold(false)
		l.write()
		l.balanced()
	}
}

// The consumers are deleted while they are in use, and the stream too.
func TestADeletedConsumerAndStream(t *testing.T) {
	srv := natstest.Start(t)
	l := newLine(t, lineDB(t), srv.URL, natsevents.Config{})
	l.write()
	l.balanced()
	js, err := jetstream.New(srv.Conn(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	for name := range s.ConsumerNames(t.Context()).Name() {
		if err := js.DeleteConsumer(t.Context(), "orders", name); err != nil {
			t.Fatal(err)
		}
	}
	l.write()
	l.balanced()
	if err := js.DeleteStream(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	l.write()
	l.balanced()
}

// A full stream refuses; the events wait in the outbox until an operator makes
// room.
func TestAFullStream(t *testing.T) {
	srv := natstest.Start(t)
	l := newLine(t, lineDB(t), srv.URL, natsevents.Config{MaxBytes: 10_000})
	js, err := jetstream.New(srv.Conn(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		l.write()
	}
	s, err := js.Stream(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream is full", func() bool {
		bl, err := outbox.ReadBacklog(t.Context(), l.db)
		info, err2 := s.Info(t.Context())
		return err == nil && err2 == nil && bl.Unpublished > 0 && info.State.Bytes > 9_000
	})
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = -1
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	l.balanced()
}
