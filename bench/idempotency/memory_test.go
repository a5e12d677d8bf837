// Package idempotency measures what an idempotent write costs beside the write
// alone, in one run on one machine:
//
//	make bench-idempotency
//
// In memory, the middleware in leased mode with idempotency.Memory: every request
// has a new key, a body of 77 bytes and an answer of 33; about 10,000 keys are
// held, older ones expire. The handler alone is reported apart.
//
// In a database, see sql_test.go.
package idempotency

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/idempotency"
)

const order = `{"payment_method_id":"pm_1","items":[{"product_id":"mug-blue","quantity":2}]}`

var answer = []byte(`{"id":"o-1","status":"pending"}` + "\n\n")

// place is a handler that reads its request and answers in a few words.
func place(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Location"] = location
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer)
}

var jsonType, location = []string{"application/json"}, []string{"/v1/orders/o-1"}

// sink takes an answer, as cheaply as can be.
type sink struct {
	header http.Header
	code   int
	n      int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(code int)        { s.code = code }
func (s *sink) Write(p []byte) (int, error) { s.n += len(p); return len(p), nil }

// body is a request's body that can be read again.
type body struct{ left string }

func (b *body) Read(p []byte) (int, error) {
	n := copy(p, b.left)
	b.left = b.left[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (b *body) Close() error { return nil }

// serve sends h one request after the other with the key that next returns.
func serve(b *testing.B, h http.Handler, next func(i int) string, replayed bool) {
	payload := &body{}
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/v1/orders"}, Pattern: "POST /v1/orders",
		Header: http.Header{"Content-Type": jsonType}, ContentLength: int64(len(order)),
	}
	r = r.WithContext(b.Context())
	key := make([]string, 1)
	r.Header[idempotency.Header] = key
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		payload.left, r.Body = order, payload
		key[0] = next(i)
		i++
		clear(w.header)
		h.ServeHTTP(w, r)
		if w.code != http.StatusCreated || (w.header[idempotency.ReplayedHeader] != nil) != (replayed && i > 1) {
			b.Fatalf("answered %d %v", w.code, w.header)
		}
	}
}

func user(*http.Request) (string, error) { return "user:7", nil }

// inMemory is the middleware on a store whose time moves a millisecond with each
// claim, so that it holds as many keys as ttl has milliseconds.
func inMemory(b *testing.B, ttl time.Duration) http.Handler {
	b.Helper()
	now := time.Unix(1_750_000_000, 0)
	store, err := idempotency.NewMemory(&idempotency.MemoryConfig{
		TTL: ttl,
		Now: func() time.Time { now = now.Add(time.Millisecond); return now },
	})
	if err != nil {
		b.Fatal(err)
	}
	mw, err := idempotency.Middleware(idempotency.ServerConfig{Scope: user, Leased: store})
	if err != nil {
		b.Fatal(err)
	}
	return mw(http.HandlerFunc(place))
}

func fresh(i int) string {
	buf := [24]byte{}
	return string(strconv.AppendInt(append(buf[:0], "8e03978e-40d5-"...), int64(i), 10))
}

func same(int) string { return "8e03978e-40d5" }

func BenchmarkMemory(b *testing.B) {
	b.Run("handler-alone", func(b *testing.B) { serve(b, http.HandlerFunc(place), fresh, false) })
	b.Run("napkin", func(b *testing.B) { serve(b, inMemory(b, 10*time.Second), fresh, false) })
	b.Run("napkin-replay", func(b *testing.B) { serve(b, inMemory(b, 1000*time.Hour), same, true) })
}
