package idempotency_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// A server process is killed at each named point between a request's claim and its
// answer, while a hundred clients send the same request until they are answered.
//
// Transactional mode: the effect is there once, whatever the point.
//
// Leased mode: an effect of the handler's own is there once, unless the process
// dies between it and the storing of its answer: then nobody knows of it, the next
// attempt runs once the lease has ended, and it is there twice. An effect that was
// handed the key is there once.
//
// In both every client gets one and the same answer.

// A crash point, and how often the handler has run in leased mode when all is over.
type crashPoint struct {
	name string
	runs int
}

var (
	transactionalPoints = []crashPoint{
		{"before begin", 1}, {"key taken", 1}, {"effect done", 1}, {"answer stored", 1}, {"during commit", 1},
		{"committed", 1}, {"answer half sent", 1}, {"answer sent", 1},
	}
	leasedPoints = []crashPoint{
		{"before claim", 1}, {"key taken", 1}, {"effect done", 2}, {"before complete", 2},
		{"answer stored", 1}, {"answer half sent", 1}, {"answer sent", 1},
	}
)

const crashLease = 3 * time.Second

func TestCrashAtEveryPoint(t *testing.T) {
	rounds := 1
	if !testing.Short() {
		rounds = 8
	}
	var mu sync.Mutex
	hits := map[string]int{}
	func() {
		var wg sync.WaitGroup // not t.Parallel, which counts CPUs: most of the time is spent waiting for leases
		defer wg.Wait()
		for _, mode := range []string{"transactional", "leased"} {
			points := transactionalPoints
			if mode == "leased" {
				points = leasedPoints
			}
			for _, dialect := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
				test := func(t *testing.T) {
					c := newCrash(t, mode, dialect)
					queue := slices.Repeat(points, rounds)
					at := func(i int) (key, point string) {
						if i == len(queue) {
							return "", ""
						}
						return fmt.Sprint("k-", i), queue[i].name
					}
					for i := 0; i < len(queue); i++ {
						if c.armed != i || c.server == nil {
							c.start(t, i, at)
						}
						hit, starved := c.run(t, i, queue[i], at)
						if starved && len(queue) < (rounds+3)*len(points) {
							queue = append(queue, queue[i]) // it says nothing: a lease ran out under a living process
						}
						if hit && !starved {
							mu.Lock()
							hits[mode+"/"+dialect.String()+": "+queue[i].name]++
							mu.Unlock()
						}
					}
				}
				wg.Go(func() { t.Run(mode+"/"+dialect.String(), test) })
			}
		}
	}()
	for _, mode := range []string{"transactional", "leased"} {
		points := transactionalPoints
		if mode == "leased" {
			points = leasedPoints
		}
		for _, dialect := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
			if dialect == sqldb.Postgres && noPostgres() {
				continue
			}
			for _, p := range points {
				name := mode + "/" + dialect.String() + ": " + p.name
				t.Logf("%3d hits  %s", hits[name], name)
				if hits[name] == 0 {
					t.Errorf("no process died at %q: the point proves nothing", name)
				}
			}
		}
	}
}

func noPostgres() bool {
	_, err := pgtest.Find()
	return errors.Is(err, pgtest.ErrNotInstalled)
}

// crash is one service whose process is killed and started again.
type crash struct {
	mode, url string
	db        *sqldb.DB
	client    *http.Client
	server    *server
	armed     int // for which run
	addr      atomic.Pointer[string]
}

func newCrash(t *testing.T, mode string, dialect sqldb.Dialect) *crash {
	t.Helper()
	c := &crash{mode: mode}
	if dialect == sqldb.Postgres {
		c.url = pgtest.URL(t)
	} else {
		c.url = filepath.Join(t.TempDir(), "crash.db")
	}
	c.db = openCrash(t, c.url)
	t.Cleanup(func() { c.db.Close() })
	if err := migrate.Up(t.Context(), c.db, sqlidempotency.Set, sqlidempotency.Migrations(dialect)); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{`CREATE TABLE effects (k TEXT NOT NULL)`, `CREATE TABLE keyed_effects (k TEXT PRIMARY KEY)`} {
		if _, err := c.db.Write.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	c.client = &http.Client{Transport: tr}
	return c
}

func openCrash(t *testing.T, url string) *sqldb.DB {
	t.Helper()
	var db *sqldb.DB
	var err error
	if strings.HasPrefix(url, "postgres:") {
		db, err = pgxdb.Open(context.Background(), url, nil)
	} else {
		db, err = sqlitedb.Open(context.Background(), url, &sqlitedb.Config{BusyTimeout: time.Minute})
	}
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// run sends a hundred duplicates, the server dying at p, and reports whether it
// did. On a machine that lets a process stand still for longer than a lease the
// run is starved: the effect may then be there more often.
func (c *crash) run(t *testing.T, i int, p crashPoint, at func(int) (key, point string)) (hit, starved bool) {
	t.Helper()
	key, _ := at(i)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	type answer struct {
		code             int
		location, body   string
		replayed, failed bool // failed: not answered in time
	}
	answers := make([]answer, 100)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			for ctx.Err() == nil {
				code, h, body, err := c.post(ctx, key)
				if err != nil || code == http.StatusConflict || code >= 500 {
					select {
					case <-ctx.Done():
					case <-time.After(20 * time.Millisecond): // the client's pause between attempts
					}
					continue
				}
				answers[i] = answer{code, h.Get("Location"), body, h.Get(idempotency.ReplayedHeader) == "true", false}
				return
			}
			answers[i].failed = true
		})
	}
	// A point that nobody reaches would leave the server running; the clients are
	// answered then, and the run counts as no hit.
	answered := make(chan struct{})
	go func() { wg.Wait(); close(answered) }()
	select {
	case <-c.server.ended:
	case <-answered:
	}
	first := c.server
	hit = first.stop()
	c.start(t, i+1, at)
	<-answered
	code, h, body, err := c.post(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	want := answer{code, h.Get("Location"), body, false, false}
	if h.Get(idempotency.ReplayedHeader) != "true" || code != http.StatusCreated || body == "" {
		t.Errorf("%s: after all is over: %d %q, replayed %q", p.name, code, body, h.Get(idempotency.ReplayedHeader))
	}
	fresh := 0
	for i, a := range answers {
		if !a.replayed {
			fresh++
		}
		if a.replayed = false; a != want {
			t.Errorf("%s: client %d got %+v, a retry %+v", p.name, i, a, want)
		}
	}
	if fresh > 1 {
		t.Errorf("%s: %d clients got an answer that is not a replay", p.name, fresh)
	}
	starved = first.lost.Load() || c.server.lost.Load()
	for table, want := range map[string]int{"effects": p.runs, "keyed_effects": 1} {
		var n int
		if err := c.db.Read.QueryRowContext(ctx, `SELECT count(*) FROM `+table+` WHERE k = $1`, key).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if hit && n != want && !(starved && table == "effects") || n == 0 {
			t.Errorf("%s: %d rows in %s, want %d", p.name, n, table, want)
		}
	}
	return hit, starved
}

func (c *crash) post(ctx context.Context, key string) (code int, h http.Header, body string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+*c.addr.Load()+"/orders", strings.NewReader(`{"item":"mug"}`))
	if err != nil {
		return 0, nil, "", err
	}
	r.Header.Set(idempotency.Header, idempotency.FormatKey(key))
	resp, err := c.client.Do(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body) // half an answer is none
	return resp.StatusCode, resp.Header, string(text), err
}

// server is one process.
type server struct {
	cmd   *exec.Cmd
	ended chan struct{} // reaped
	hit   atomic.Bool
	lost  atomic.Bool // a lease
}

// start starts the server, which is to die at the i-th point.
func (c *crash) start(t *testing.T, i int, at func(int) (key, point string)) {
	t.Helper()
	key, point := at(i)
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperServes$")
	cmd.Env = append(os.Environ(), "NAPKIN_CRASH_SERVER="+c.mode, "NAPKIN_CRASH_DB="+c.url, "NAPKIN_CRASH_KEY="+key, "NAPKIN_CRASH_POINT="+point)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: cmd, ended: make(chan struct{})}
	ready := make(chan struct{})
	go func() {
		defer close(s.ended)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if a, ok := strings.CutPrefix(sc.Text(), "addr "); ok {
				c.addr.Store(&a)
				close(ready)
			}
			if strings.HasPrefix(sc.Text(), "hit ") {
				s.hit.Store(true)
			}
			if sc.Text() == "lost" {
				s.lost.Store(true)
			}
		}
		_ = cmd.Wait() // killed: that is no news
	}()
	t.Cleanup(func() { s.stop() })
	select {
	case <-ready:
	case <-s.ended:
		t.Fatal("the server ended before it served")
	}
	c.stopServer()
	c.server, c.armed = s, i
}

func (c *crash) stopServer() {
	if c.server != nil {
		c.server.stop()
	}
}

// stop kills the process where it still runs, and reports whether it died at its point.
func (s *server) stop() bool {
	_ = s.cmd.Process.Kill() // fails only where it has ended
	<-s.ended
	return s.hit.Load()
}

// TestHelperServes is the process that is killed.
func TestHelperServes(t *testing.T) {
	mode := os.Getenv("NAPKIN_CRASH_SERVER")
	if mode == "" {
		t.Skip("runs in a child process only")
	}
	db := openCrash(t, os.Getenv("NAPKIN_CRASH_DB"))
	k := killer{key: os.Getenv("NAPKIN_CRASH_KEY"), point: os.Getenv("NAPKIN_CRASH_POINT")}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := k.handler(t, mode, db)
	fmt.Println("addr " + lis.Addr().String())
	t.Fatal(http.Serve(lis, h)) //nolint:gosec // until it is killed
}

// killer ends its process at one point of the request with one key.
type killer struct{ key, point string }

func (k killer) at(key, point string) {
	if key == k.key && point == k.point {
		k.die()
	}
}

func (k killer) die() {
	fmt.Println("hit " + k.point)
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill()
	}
	select {} // nothing happens after the point
}

func (k killer) handler(t *testing.T, mode string, db *sqldb.DB) http.Handler {
	cfg := idempotency.ServerConfig{Scope: func(*http.Request) (string, error) { return "user:7", nil }, LeaseTTL: crashLease}
	effect := func(ctx context.Context, x sqldb.Execer, key string) (idempotency.Response, error) {
		_, err := x.ExecContext(ctx, `INSERT INTO effects VALUES ($1)`, key)
		if err == nil { // an effect that was handed the key
			_, err = x.ExecContext(ctx, `INSERT INTO keyed_effects VALUES ($1) ON CONFLICT DO NOTHING`, key)
		}
		k.at(key, "effect done")
		id := fmt.Sprintf("o-%d", rand.Uint64()) // of this run of the handler
		return idempotency.Response{
			Code: http.StatusCreated, Body: []byte("order " + id), Header: map[string][]string{"Location": {"/orders/" + id}},
		}, err
	}
	var h http.Handler
	if mode == "leased" {
		store, err := sqlidempotency.NewLeased(db, nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Leased = killingStore{store, k}
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key, err := idempotency.Request(r.Context())
			if err != nil {
				t.Error(err)
			}
			resp, err := effect(r.Context(), db.Write, key.Value)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			idempotency.Write(w, resp, false)
		})
	} else {
		store, err := sqlidempotency.New(db.Dialect, nil)
		if err != nil {
			t.Fatal(err)
		}
		h = idempotency.InTx(killingTxStore{store, k}, killingRunner{sqldb.Std(db), k}, func(ctx context.Context, tx *sql.Tx, r *http.Request) (idempotency.Response, error) {
			key, err := idempotency.Request(ctx)
			if err != nil {
				return idempotency.Response{}, err
			}
			return effect(ctx, tx, key.Value)
		})
	}
	mw, err := idempotency.Middleware(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h = mw(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, _ := idempotency.ParseKey(r.Header.Get(idempotency.Header))
		out := &killingWriter{w, k, key}
		h.ServeHTTP(out, r)
		if w.Header().Get("Location") != "" && w.Header().Get(idempotency.ReplayedHeader) == "" {
			_ = http.NewResponseController(w).Flush()
			k.at(key, "answer sent")
		}
	})
}

// The points of the transactional mode.
type killingTxStore struct {
	idempotency.TxStore
	k killer
}

func (s killingTxStore) Begin(ctx context.Context, tx sqldb.Tx, k idempotency.Key) (*idempotency.Response, error) {
	s.k.at(k.Value, "before begin")
	stored, err := s.TxStore.Begin(ctx, tx, k)
	if err == nil && stored == nil {
		s.k.at(k.Value, "key taken")
	}
	return stored, err
}

type completed struct{ key string }

func (s killingTxStore) Complete(ctx context.Context, tx sqldb.Execer, k idempotency.Key, r idempotency.Response) error {
	err := s.TxStore.Complete(ctx, tx, k, r)
	if err != nil {
		return err
	}
	s.k.at(k.Value, "answer stored")
	if done, ok := ctx.Value(completed{}).(*completed); ok {
		done.key = k.Value
	}
	return nil
}

type killingRunner struct {
	sqldb.Runner[*sql.Tx]
	k killer
}

func (r killingRunner) InTx(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	done := &completed{}
	ctx = context.WithValue(ctx, completed{}, done)
	err := r.Runner.InTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		err := fn(ctx, tx)
		if err == nil && done.key != "" && done.key == r.k.key && r.k.point == "during commit" {
			go func() { // beside the commit: sometimes before, sometimes after its point of no return
				time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
				r.k.die()
			}()
		}
		return err
	})
	if err == nil && done.key != "" {
		r.k.at(done.key, "committed")
	}
	return err
}

// The points of the leased mode.
type killingStore struct {
	idempotency.Store
	k killer
}

func (s killingStore) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	s.k.at(k.Value, "before claim")
	c, stored, err := s.Store.Claim(ctx, k, ttl)
	if err == nil && stored == nil {
		s.k.at(k.Value, "key taken")
	}
	return c, stored, err
}

func (s killingStore) Complete(ctx context.Context, c idempotency.Claim, r idempotency.Response) error {
	s.k.at(c.Key.Value, "before complete")
	err := s.Store.Complete(ctx, c, r)
	if err == nil {
		s.k.at(c.Key.Value, "answer stored")
	}
	return s.notice(err)
}

func (s killingStore) Renew(ctx context.Context, c idempotency.Claim, ttl time.Duration) error {
	return s.notice(s.Store.Renew(ctx, c, ttl))
}

func (killingStore) notice(err error) error {
	if errors.Is(err, idempotency.ErrLeaseLost) {
		fmt.Println("lost")
	}
	return err
}

// killingWriter dies with half of a fresh answer on its way.
type killingWriter struct {
	http.ResponseWriter
	k   killer
	key string
}

func (w *killingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *killingWriter) Write(p []byte) (int, error) {
	if w.key == w.k.key && w.k.point == "answer half sent" && w.Header().Get("Location") != "" && w.Header().Get(idempotency.ReplayedHeader) == "" {
		_, _ = w.ResponseWriter.Write(p[:len(p)/2])
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		w.k.die()
	}
	return w.ResponseWriter.Write(p)
}
