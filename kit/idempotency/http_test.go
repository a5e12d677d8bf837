package idempotency_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func userScope(r *http.Request) (string, error) { return r.Header.Get("User"), nil }

func middleware(t testing.TB, cfg idempotency.ServerConfig) func(http.Handler) http.Handler {
	t.Helper()
	if cfg.Scope == nil {
		cfg.Scope = userScope
	}
	mw, err := idempotency.Middleware(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return mw
}

func memory(t testing.TB, cfg *idempotency.MemoryConfig) *idempotency.Memory {
	t.Helper()
	s, err := idempotency.NewMemory(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// post sends a request to h and returns the answer.
func post(h http.Handler, key, body string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/orders?dry=0", strings.NewReader(body))
	r.Header.Set("User", "u1")
	if key != "" {
		r.Header.Set(idempotency.Header, key)
	}
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func wantCode(t *testing.T, w *httptest.ResponseRecorder, code int, replayed bool) {
	t.Helper()
	if w.Code != code || (w.Header().Get(idempotency.ReplayedHeader) == "true") != replayed {
		t.Fatalf("got %d, replayed %q: %s; want %d, %v", w.Code, w.Header().Get(idempotency.ReplayedHeader), w.Body, code, replayed)
	}
}

// modes runs a test on the leased handler and on the transactional one over both
// databases. handle is called once for each run of the operation.
func modes(t *testing.T, test func(t *testing.T, serve func(handle func(r *http.Request) idempotency.Response) http.Handler)) {
	t.Run("leased", func(t *testing.T) {
		test(t, func(handle func(r *http.Request) idempotency.Response) http.Handler {
			return middleware(t, idempotency.ServerConfig{Leased: memory(t, nil)})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				idempotency.Write(w, handle(r), false)
			}))
		})
	})
	tx := func(t *testing.T, db *sqldb.DB) {
		if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
			t.Fatal(err)
		}
		s, err := sqlidempotency.New(db.Dialect, nil)
		if err != nil {
			t.Fatal(err)
		}
		test(t, func(handle func(r *http.Request) idempotency.Response) http.Handler {
			return middleware(t, idempotency.ServerConfig{})(idempotency.InTx(s, sqldb.Std(db),
				func(_ context.Context, _ *sql.Tx, r *http.Request) (idempotency.Response, error) {
					return handle(r), nil
				}))
		})
	}
	t.Run("sqlite", func(t *testing.T) { tx(t, sqlite(t)) })
	t.Run("postgres", func(t *testing.T) { tx(t, pgtest.DB(t)) })
}

func sqlite(t testing.TB) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(context.Background(), filepath.Join(t.TempDir(), "keys.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestTheTable(t *testing.T) {
	modes(t, func(t *testing.T, serve func(func(r *http.Request) idempotency.Response) http.Handler) {
		ran := 0
		h := serve(func(r *http.Request) idempotency.Response {
			ran++
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			return idempotency.Response{
				Code: 201, ContentType: "application/json", Body: fmt.Appendf(nil, `{"n":%d,"got":%q}`, ran, body),
				Header: map[string][]string{"Location": {"/orders/1"}, "Set-Cookie": {"secret"}, "X-Trace": {"t"}},
			}
		})
		first := post(h, "k", "body")
		wantCode(t, first, 201, false)
		if first.Header().Get("Set-Cookie") == "" || first.Header().Get("X-Trace") == "" {
			t.Error("the first answer lost a header")
		}
		again := post(h, `"k"`, "body") // quoted is the same key
		wantCode(t, again, 201, true)
		if again.Body.String() != `{"n":1,"got":"body"}` || again.Header().Get("Content-Type") != "application/json" || again.Header().Get("Location") != "/orders/1" {
			t.Errorf("replayed %s with %v", again.Body, again.Header())
		}
		if again.Header().Get("Set-Cookie") != "" || again.Header().Get("X-Trace") != "" {
			t.Errorf("a header that must not be stored was: %v", again.Header())
		}
		for name, w := range map[string]*httptest.ResponseRecorder{
			"body":   post(h, "k", "another"),
			"prefix": post(h, "k", "bod"),
			"query":  post(h, "k", "body", func(r *http.Request) { r.URL.RawQuery = "dry=1" }),
		} {
			if w.Code != 422 || w.Header().Get("Content-Type") != problem.ContentType {
				t.Errorf("another %s: %d %s", name, w.Code, w.Body)
			}
		}
		wantCode(t, post(h, "k", "body", func(r *http.Request) { r.Header.Set("User", "u2") }), 201, false)
		wantCode(t, post(h, "", "body"), 400, false)
		wantCode(t, post(h, strings.Repeat("k", 10_000), "body"), 400, false)
		wantCode(t, post(h, "k", "body", func(r *http.Request) { r.Header.Add(idempotency.Header, "k2") }), 400, false)
		wantCode(t, post(h, "big", strings.Repeat("x", 1<<20+1)), 413, false)
		if ran != 2 {
			t.Errorf("ran %d times, want 2", ran)
		}
	})
}

func TestUnfinishedAnswersFreeTheKey(t *testing.T) {
	modes(t, func(t *testing.T, serve func(func(r *http.Request) idempotency.Response) http.Handler) {
		var code int
		h := serve(func(*http.Request) idempotency.Response {
			return idempotency.Response{Code: code, Body: []byte("x"), Header: map[string][]string{"Retry-After": {"3"}}}
		})
		for _, code = range []int{429, 500, 503} {
			w := post(h, "k", "")
			wantCode(t, w, code, false)
			if w.Header().Get("Retry-After") != "3" {
				t.Errorf("%d lost Retry-After", code)
			}
		}
		code = 404 // a definite answer is kept
		wantCode(t, post(h, "k", ""), 404, false)
		code = 200
		wantCode(t, post(h, "k", ""), 404, true)
	})
}

func TestPanicFreesTheKey(t *testing.T) {
	modes(t, func(t *testing.T, serve func(func(r *http.Request) idempotency.Response) http.Handler) {
		crash := true
		h := serve(func(*http.Request) idempotency.Response {
			if crash {
				panic(http.ErrAbortHandler)
			}
			return idempotency.Response{Code: 200}
		})
		func() {
			defer func() {
				if recover() != http.ErrAbortHandler { //nolint:errorlint // the very same value
					t.Error("the panic was swallowed")
				}
			}()
			post(h, "k", "")
		}()
		crash = false
		wantCode(t, post(h, "k", ""), 200, false)
	})
}

func TestAHundredDuplicatesRunOnce(t *testing.T) {
	modes(t, func(t *testing.T, serve func(func(r *http.Request) idempotency.Response) http.Handler) {
		var ran atomic.Int32
		h := serve(func(*http.Request) idempotency.Response {
			return idempotency.Response{Code: 201, Body: fmt.Append(nil, ran.Add(1))}
		})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				w := post(h, "k", "body")
				switch {
				case w.Code == 201 && w.Body.String() == "1":
				case w.Code == 409 && w.Header().Get("Retry-After") != "":
				default:
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		wg.Wait()
		wantCode(t, post(h, "k", "body"), 201, true)
		if ran.Load() != 1 {
			t.Errorf("ran %d times", ran.Load())
		}
	})
}

// A client that has gone before the commit leaves nothing behind.
func TestClientGoneBeforeCommit(t *testing.T) {
	for _, dialect := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(dialect.String(), func(t *testing.T) {
			var db *sqldb.DB
			if dialect == sqldb.SQLite {
				db = sqlite(t)
			} else {
				db = pgtest.DB(t)
			}
			if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(dialect)); err != nil {
				t.Fatal(err)
			}
			s, err := sqlidempotency.New(dialect, nil)
			if err != nil {
				t.Fatal(err)
			}
			gone := func() {}
			h := middleware(t, idempotency.ServerConfig{})(idempotency.InTx(s, sqldb.Std(db),
				func(context.Context, *sql.Tx, *http.Request) (idempotency.Response, error) {
					gone()
					return idempotency.Response{Code: 200}, nil
				}))
			ctx, cancel := context.WithCancel(t.Context())
			gone = cancel
			if w := post(h, "k", "", func(r *http.Request) { *r = *r.WithContext(ctx) }); w.Code < 400 {
				t.Fatalf("answered %d", w.Code)
			}
			gone = func() {}
			wantCode(t, post(h, "k", ""), 200, false)
			wantCode(t, post(h, "k", ""), 200, true)
		})
	}
}

func TestErrorsOfTheHandler(t *testing.T) {
	db := sqlite(t)
	if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	s, err := sqlidempotency.New(db.Dialect, nil)
	if err != nil {
		t.Fatal(err)
	}
	fail := problem.New(404, "no_product", "there is no such product")
	h := middleware(t, idempotency.ServerConfig{})(idempotency.InTx(s, sqldb.Std(db),
		func(ctx context.Context, tx *sql.Tx, r *http.Request) (idempotency.Response, error) {
			return idempotency.Response{}, fail
		}))
	w := post(h, "k", "")
	wantCode(t, w, 404, false)
	var p problem.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code != "no_product" {
		t.Fatalf("%s, %v", w.Body, err)
	}
	wantCode(t, post(h, "k", ""), 404, false) // asked anew
}

// Without the middleware a key would be ignored and a repeated write done twice.
func TestInTxOutsideOfTheMiddlewareRunsNothing(t *testing.T) {
	db := sqlite(t)
	s, err := sqlidempotency.New(db.Dialect, nil)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	h := idempotency.InTx(s, sqldb.Std(db), func(ctx context.Context, tx *sql.Tx, r *http.Request) (idempotency.Response, error) {
		ran++
		return idempotency.Response{Code: 201}, nil
	})
	var cause error
	observed := func(r *http.Request) {
		*r = *r.WithContext(problem.Observe(r.Context(), func(err error) { cause = err }))
	}
	for _, key := range []string{"k", ""} {
		w := post(h, key, "", observed)
		wantCode(t, w, 500, false)
		if ran != 0 || cause == nil || !strings.Contains(cause.Error(), "outside idempotency.Middleware: wrap it") || strings.Contains(w.Body.String(), "Middleware") {
			t.Errorf("ran %d times, cause %v, answer %s", ran, cause, w.Body)
		}
	}
	// A rule that asks for no key is not the same as no middleware.
	for i, rule := range []idempotency.Rule{{}, {Operation: "place"}} {
		mw := middleware(t, idempotency.ServerConfig{Rule: func(*http.Request) idempotency.Rule { return rule }})
		wantCode(t, post(mw(h), "", ""), 201, false)
		if ran != i+1 {
			t.Errorf("ran %d times", ran)
		}
	}
}

// A handler that decodes its body first, and one that asks for the key first,
// see the same body and the same fingerprint.
func TestBodyIsHashedWhileRead(t *testing.T) {
	const body = "a body of some length"
	var prints []string
	for _, ahead := range []int{0, 1, 7, len(body), 100} {
		h := middleware(t, idempotency.ServerConfig{})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			head := make([]byte, ahead)
			n, err := io.ReadFull(r.Body, head)
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
			k, err := idempotency.Request(r.Context())
			if err != nil {
				t.Error(err)
			}
			rest, err := io.ReadAll(r.Body)
			if err != nil || string(head[:n])+string(rest) != body {
				t.Errorf("the handler read %q, %v", string(head[:n])+string(rest), err)
			}
			if again, ok := idempotency.RequestFrom(r.Context()); !ok || string(again.Fingerprint) != string(k.Fingerprint) {
				t.Error("the key changed")
			}
			prints = append(prints, string(k.Fingerprint))
		}))
		wantCode(t, post(h, "k", body), 200, false)
	}
	for _, p := range prints {
		if p != prints[0] {
			t.Fatal("fingerprints differ")
		}
	}
}

func TestRules(t *testing.T) {
	h := middleware(t, idempotency.ServerConfig{
		Rule: func(r *http.Request) idempotency.Rule {
			return idempotency.Rule{Operation: map[string]string{"POST": "create"}[r.Method]}
		},
		Scope: func(r *http.Request) (string, error) {
			if r.Header.Get("User") == "nobody" {
				return "", problem.New(401, "unauthenticated", "sign in")
			}
			return "u", nil
		},
	})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := idempotency.Request(r.Context())
		fmt.Fprint(w, err == nil)
	}))
	get := func(r *http.Request) { r.Method = "GET" }
	for name, c := range map[string]struct {
		w    *httptest.ResponseRecorder
		want string
	}{
		"optional, with":    {post(h, "k", ""), "true"},
		"optional, without": {post(h, "", ""), "false"},
		"no operation":      {post(h, "k", "", get), "false"},
	} {
		if c.w.Body.String() != c.want {
			t.Errorf("%s: key in context %s, want %s", name, c.w.Body, c.want)
		}
	}
	wantCode(t, post(h, "k", "", func(r *http.Request) { r.Header.Set("User", "nobody") }), 401, false)
	wantCode(t, post(h, "a b", ""), 400, false)
}

func TestServerConfigNamesTheField(t *testing.T) {
	for want, cfg := range map[string]idempotency.ServerConfig{
		"Scope":         {},
		"MaxBody":       {Scope: userScope, MaxBody: -1},
		"LeaseTTL":      {Scope: userScope, LeaseTTL: -1},
		"MaxStoredBody": {Scope: userScope, MaxStoredBody: -1},
		"Wait":          {Scope: userScope, Wait: -1},
	} {
		if _, err := idempotency.Middleware(cfg); err == nil || !strings.Contains(err.Error(), "ServerConfig."+want+" ") {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}

// The lease is kept alive while the handler runs, and a duplicate waits for it.
func TestLeaseIsKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := middleware(t, idempotency.ServerConfig{Leased: memory(t, nil), LeaseTTL: 3 * time.Second, Wait: time.Minute})(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(20 * time.Second) // the handler's work, on the bubble's clock
				fmt.Fprint(w, "done")
			}))
		var wg sync.WaitGroup
		var replays atomic.Int32
		for range 3 {
			wg.Go(func() {
				w := post(h, "k", "")
				if w.Code != 200 || w.Body.String() != "done" {
					t.Errorf("%d %s", w.Code, w.Body)
				}
				if w.Header().Get(idempotency.ReplayedHeader) == "true" {
					replays.Add(1)
				}
			})
		}
		wg.Wait()
		if replays.Load() != 2 {
			t.Errorf("%d replays, want 2", replays.Load())
		}
	})
}

// lossy loses its lease at the first renewal.
type lossy struct{ idempotency.Store }

func (lossy) Renew(context.Context, idempotency.Claim, time.Duration) error {
	return idempotency.ErrLeaseLost
}

func TestLostLeaseEndsTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := middleware(t, idempotency.ServerConfig{Leased: lossy{memory(t, nil)}, LeaseTTL: 3 * time.Second})(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				problem.Write(w, r, context.Cause(r.Context()))
			}))
		wantCode(t, post(h, "k", ""), 409, false)
	})
}

func TestLargeAnswerIsNotStoredButTheKeyIs(t *testing.T) {
	ran := 0
	h := middleware(t, idempotency.ServerConfig{Leased: memory(t, nil), MaxStoredBody: 3})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ran++; fmt.Fprint(w, "four") }))
	if w := post(h, "k", ""); w.Body.String() != "four" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	w := post(h, "k", "")
	wantCode(t, w, 200, true)
	if w.Header().Get("Idempotent-Body") != "omitted" || w.Body.Len() != 0 || ran != 1 {
		t.Fatalf("%v, ran %d", w.Header(), ran)
	}
}

func TestMemoryForgetsAndIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	s := memory(t, &idempotency.MemoryConfig{TTL: time.Hour, MaxEntries: 2, Now: func() time.Time { return now }})
	claim := func(v string) error {
		k := idempotency.Key{Value: v, Scope: "s", Operation: "o", Fingerprint: []byte("f")}
		c, _, err := s.Claim(t.Context(), k, time.Second)
		if err == nil {
			err = s.Complete(t.Context(), c, idempotency.Response{})
		}
		return err
	}
	if err := errors.Join(claim("a"), claim("b")); err != nil {
		t.Fatal(err)
	}
	if err := claim("c"); !errors.Is(err, idempotency.ErrFull) {
		t.Fatalf("got %v", err)
	}
	now = now.Add(time.Hour)
	if err := claim("c"); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkMiddlewareInMemory(b *testing.B) {
	body := []byte("{}")
	h := middleware(b, idempotency.ServerConfig{Leased: memory(b, &idempotency.MemoryConfig{MaxEntries: 1 << 30})})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(body) }))
	r := httptest.NewRequest(http.MethodPost, "/orders", nil)
	r.Header.Set("User", "u1")
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Header[idempotency.Header] = []string{fmt.Sprint(i)}
		w.Body.Reset()
		h.ServeHTTP(w, r)
	}
}
