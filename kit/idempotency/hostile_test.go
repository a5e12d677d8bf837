package idempotency_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

// orders is a database with an effect's table, and the handler that writes to it.
func orders(t *testing.T, db *sqldb.DB) (h http.Handler, count func() int) {
	t.Helper()
	if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE orders (item TEXT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	s, err := sqlidempotency.New(db.Dialect, nil)
	if err != nil {
		t.Fatal(err)
	}
	h = middleware(t, idempotency.ServerConfig{})(idempotency.InTx(s, sqldb.Std(db),
		func(ctx context.Context, tx *sql.Tx, r *http.Request) (idempotency.Response, error) {
			_, err := tx.ExecContext(ctx, `INSERT INTO orders VALUES ($1)`, r.Header.Get(idempotency.Header))
			return idempotency.Response{Code: 201, Body: []byte(strings.Repeat("order ", 1000))}, err
		}))
	return h, func() (n int) {
		t.Helper()
		if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM orders`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// A full disk refuses, says 503, and loses nothing; once there is room again every
// request that was refused is done once.
func TestFullDisk(t *testing.T) {
	check := func(t *testing.T, db *sqldb.DB, fill, free func()) {
		h, count := orders(t, db)
		var done, refused []string
		var cause error
		observed := func(r *http.Request) {
			*r = *r.WithContext(problem.Observe(r.Context(), func(err error) { cause = err }))
		}
		fill()
		for i := range 200 {
			key := fmt.Sprint("k", i)
			switch w := post(h, key, "", observed); w.Code {
			case 201:
				done = append(done, key)
			case 503:
				refused = append(refused, key)
				if w.Header().Get("Retry-After") == "" || !errors.Is(cause, idempotency.ErrUnavailable) || !sqldb.IsUnavailable(cause) {
					t.Fatalf("refused with %v: %v", w.Header(), cause)
				}
			default:
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if len(refused) == 5 {
				break
			}
		}
		if len(refused) == 0 || count() != len(done) {
			t.Fatalf("%d done, %d refused, %d effects", len(done), len(refused), count())
		}
		for _, key := range done {
			wantCode(t, post(h, key, ""), 201, true) // what was done is there, full disk or not
		}
		free()
		for _, key := range refused {
			wantCode(t, post(h, key, ""), 201, false)
			wantCode(t, post(h, key, ""), 201, true)
		}
		if count() != len(done)+len(refused) {
			t.Errorf("%d effects of %d requests", count(), len(done)+len(refused))
		}
	}
	exec := func(t *testing.T, db *sqldb.DB, q string) {
		t.Helper()
		if _, err := db.Write.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		db := sqlite(t)
		check(t, db, func() { exec(t, db, `PRAGMA max_page_count = 60`) }, func() { exec(t, db, `PRAGMA max_page_count = 1000000`) })
	})
	// PostgreSQL's own error, raised by the table, since a disk cannot be had to be filled.
	t.Run("postgres", func(t *testing.T) {
		db := pgtest.DB(t)
		check(t, db, func() {
			exec(t, db, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF (SELECT count(*) FROM napkin_idempotency) >= 10 THEN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END IF;
RETURN NEW; END $$`)
			exec(t, db, `CREATE TRIGGER full_disk BEFORE INSERT ON napkin_idempotency FOR EACH ROW EXECUTE FUNCTION full_disk()`)
		}, func() { exec(t, db, `DROP TRIGGER full_disk ON napkin_idempotency`) })
	})
}

// A row that another hand spoilt is an error that names it, for its key alone.
func TestSpoiltRows(t *testing.T) {
	for _, spoil := range []string{`header = 'no JSON'`, `code = 42`, `code = -1`} {
		t.Run(spoil, func(t *testing.T) {
			db := sqlite(t)
			h, count := orders(t, db)
			wantCode(t, post(h, "k", ""), 201, false)
			if _, err := db.Write.ExecContext(t.Context(), `UPDATE napkin_idempotency SET `+spoil); err != nil {
				t.Fatal(err)
			}
			var cause error
			w := post(h, "k", "", func(r *http.Request) {
				*r = *r.WithContext(problem.Observe(r.Context(), func(err error) { cause = err }))
			})
			if w.Code != 500 || cause == nil || strings.Contains(w.Body.String(), "JSON") {
				t.Errorf("%d %s, cause %v", w.Code, w.Body, cause)
			}
			wantCode(t, post(h, "k2", ""), 201, false)
			if count() != 2 {
				t.Errorf("%d effects", count())
			}
		})
	}
}

func TestHostileHeaders(t *testing.T) {
	ran := 0
	h := middleware(t, idempotency.ServerConfig{Leased: memory(t, nil)})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { ran++ }))
	for _, key := range []string{
		"a\r\nSet-Cookie: x=1", "a\x00", "\x7f", "\"a\nb\"", strings.Repeat("k", 1<<20), `"` + strings.Repeat(`\"`, 1<<19) + `"`,
		`"a"` + strings.Repeat(";a", 1<<19) + "!", "ключ", "\xff\xfe", "'; DROP TABLE napkin_idempotency; --", `""`, `"`,
	} {
		w := post(h, "placeholder", "", func(r *http.Request) { r.Header[idempotency.Header] = []string{key} })
		if w.Code != 400 || w.Header().Get("Set-Cookie") != "" || w.Body.Len() > 2000 {
			t.Errorf("key %.30q: %d %.200s", key, w.Code, w.Body)
		}
	}
	if ran != 0 {
		t.Errorf("ran %d times", ran)
	}
}

// Stored headers are bounded, and an answer above the bound rolls back.
func TestHugeStoredHeaders(t *testing.T) {
	for _, dialect := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(dialect.String(), func(t *testing.T) {
			db := sqlite(t)
			if dialect == sqldb.Postgres {
				db = pgtest.DB(t)
			}
			if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(dialect)); err != nil {
				t.Fatal(err)
			}
			s, err := sqlidempotency.New(dialect, nil)
			if err != nil {
				t.Fatal(err)
			}
			h := middleware(t, idempotency.ServerConfig{})(idempotency.InTx(s, sqldb.Std(db),
				func(context.Context, *sql.Tx, *http.Request) (idempotency.Response, error) {
					return idempotency.Response{Code: 201, Header: map[string][]string{"Link": {strings.Repeat("x", 1<<20)}}}, nil
				}))
			if w := post(h, "k", ""); w.Code != 500 || !strings.Contains(w.Body.String(), "idempotency_response_too_large") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

// A store in memory is bounded by bytes, and forgets released keys at once.
func TestMemoryIsBoundedInBytes(t *testing.T) {
	s := memory(t, &idempotency.MemoryConfig{MaxBytes: 1 << 20})
	h := middleware(t, idempotency.ServerConfig{Leased: s})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "fail" {
			w.WriteHeader(503)
		}
		fmt.Fprint(w, strings.Repeat("x", 32<<10))
	}))
	for i := range 5000 { // an outage leaves nothing behind
		wantCode(t, post(h, fmt.Sprint("f", i), "", func(r *http.Request) { r.URL.RawQuery = "fail" }), 503, false)
	}
	done := 0
	for i := range 100 {
		w := post(h, fmt.Sprint("k", i), "")
		if w.Code == 503 && strings.Contains(w.Body.String(), "idempotency_store_full") {
			break
		}
		wantCode(t, w, 200, false)
		done++
	}
	if done < 30 || done > 33 {
		t.Errorf("%d answers of 32 KiB in 1 MiB", done)
	}
	for i := range done {
		wantCode(t, post(h, fmt.Sprint("k", i), ""), 200, true)
	}
}

// Leases over other transports, and their configuration.
func TestLeases(t *testing.T) {
	l, err := idempotency.NewLeases(memory(t, nil), &idempotency.LeaseConfig{MaxBody: 4})
	if err != nil {
		t.Fatal(err)
	}
	k := idempotency.Key{Value: "k", Scope: "s", Operation: "o", Fingerprint: []byte("f")}
	fail := errors.New("not now")
	for i, c := range []struct {
		fn       func(ctx context.Context) (idempotency.Response, error)
		err      error
		replayed bool
		body     string
	}{
		{func(context.Context) (idempotency.Response, error) { return idempotency.Response{}, fail }, fail, false, ""},
		{func(ctx context.Context) (idempotency.Response, error) {
			if _, _, err := l.Do(ctx, k, nil); !errors.Is(err, idempotency.ErrInProgress) {
				t.Errorf("inside: %v", err)
			}
			return idempotency.Response{Body: []byte("done")}, nil
		}, nil, false, "done"},
		{nil, nil, true, "done"},
	} {
		resp, replayed, err := l.Do(t.Context(), k, c.fn)
		if !errors.Is(err, c.err) || replayed != c.replayed || string(resp.Body) != c.body {
			t.Errorf("%d: %q, %v, %v", i, resp.Body, replayed, err)
		}
	}
	k.Value = "large"
	for i := range 2 {
		resp, _, err := l.Do(t.Context(), k, func(context.Context) (idempotency.Response, error) {
			return idempotency.Response{Body: []byte("large")}, nil
		})
		if err != nil || resp.BodyOmitted != (i > 0) {
			t.Errorf("%d: %+v, %v", i, resp, err)
		}
	}
	for want, cfg := range map[string]idempotency.LeaseConfig{"TTL": {TTL: -1}, "Wait": {Wait: -1 * time.Second}, "MaxBody": {MaxBody: -1}} {
		if _, err := idempotency.NewLeases(memory(t, nil), &cfg); err == nil || !strings.Contains(err.Error(), "LeaseConfig."+want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
	if _, err := idempotency.NewLeases(nil, nil); err == nil {
		t.Error("no store was accepted")
	}
}
