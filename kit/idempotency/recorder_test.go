package idempotency_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/idempotency"
)

// serve runs a leased handler behind a real server and returns its URL.
func serve(t *testing.T, cfg idempotency.ServerConfig, handle http.HandlerFunc) string {
	t.Helper()
	if cfg.Leased == nil {
		cfg.Leased = memory(t, nil)
	}
	srv := httptest.NewUnstartedServer(middleware(t, cfg)(handle))
	srv.Config.ErrorLog = nil
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

func send(t *testing.T, ctx context.Context, url, key string) (*http.Response, string, error) { //nolint:revive // as the tests read
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(idempotency.Header, key)
	r.Header.Set("User", "u1")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// What is flushed goes out at once, and is stored whole if it is small.
func TestFlushedAnswersStream(t *testing.T) {
	seen := make(chan struct{})
	url := serve(t, idempotency.ServerConfig{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/jobs/1")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, "first ")
		rc := http.NewResponseController(w)
		if err := errors.Join(rc.Flush(), rc.SetWriteDeadline(time.Now().Add(time.Minute)), rc.SetReadDeadline(time.Time{})); err != nil {
			t.Error(err)
		}
		<-seen // the client has the first part while the handler runs
		fmt.Fprint(w, "second")
		w.(http.Flusher).Flush()
		if _, _, err := rc.Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("a connection whose answer is stored was given away: %v", err)
		}
	})
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	r.Header = http.Header{idempotency.Header: {"k"}, "User": {"u1"}}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	if first, err := br.ReadString(' '); err != nil || first != "first " {
		t.Fatalf("%q, %v", first, err)
	}
	close(seen)
	if rest, err := io.ReadAll(br); err != nil || string(rest) != "second" {
		t.Fatalf("%q, %v", rest, err)
	}
	again, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Header = r.Header
	resp2, err := http.DefaultTransport.RoundTrip(again)
	if err != nil {
		t.Fatal(err)
	}
	defer resp2.Body.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if body, err := io.ReadAll(resp2.Body); err != nil || string(body) != "first second" || resp2.StatusCode != 202 ||
		resp2.Header.Get(idempotency.ReplayedHeader) != "true" || resp2.Header.Get("Location") != "/jobs/1" {
		t.Errorf("a retry got %d %v %q, %v", resp2.StatusCode, resp2.Header, body, err)
	}
}

// An answer beyond the bound goes to its client as it is written; a retry gets its
// status and headers.
func TestLargeAnswersStream(t *testing.T) {
	const chunk = 1 << 10
	url := serve(t, idempotency.ServerConfig{MaxStoredBody: 4 * chunk}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Etag", `"v1"`)
		w.Header().Set("Trailer", "Checksum")
		for range 100 {
			fmt.Fprint(w, strings.Repeat("x", chunk))
		}
		w.Header().Set("Checksum", "abc")
	})
	resp, body, err := send(t, t.Context(), url, "k")
	if err != nil || len(body) != 100*chunk || resp.Trailer.Get("Checksum") != "abc" {
		t.Fatalf("%d bytes, trailer %v, %v", len(body), resp.Trailer, err)
	}
	resp, body, err = send(t, t.Context(), url, "k")
	if err != nil || body != "" || resp.StatusCode != 200 || resp.Header.Get("Idempotent-Body") != "omitted" || resp.Header.Get("Etag") != `"v1"` {
		t.Errorf("a retry got %d %v %d bytes, %v", resp.StatusCode, resp.Header, len(body), err)
	}
}

// unstorable fails to store.
type unstorable struct {
	idempotency.Store
	err error
}

func (s unstorable) Complete(context.Context, idempotency.Claim, idempotency.Response) error {
	return s.err
}

// What cannot be stored is no answer: not sent, or cut off where it has begun.
func TestAnswersThatCannotBeStored(t *testing.T) {
	full := errors.New("disk full")
	for name, flush := range map[string]bool{"held back": false, "flushed": true} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, idempotency.ServerConfig{Leased: unstorable{memory(t, nil), full}}, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "/orders/1")
				w.WriteHeader(201)
				fmt.Fprint(w, "order 1")
				if flush {
					w.(http.Flusher).Flush()
				}
			})
			resp, body, err := send(t, t.Context(), url, "k")
			switch {
			case flush && err == nil:
				t.Errorf("the client takes %d %q for whole", resp.StatusCode, body)
			case !flush && (err != nil || resp.StatusCode != 500 || resp.Header.Get("Location") != "" || strings.Contains(body, "order")):
				t.Errorf("got %v %q, %v", resp, body, err)
			}
		})
	}
}

// A panic after the first bytes cuts the connection and frees the key; headers of
// the dead handler do not stay for who answers instead.
func TestPanicsOfStreams(t *testing.T) {
	runs := 0
	url := serve(t, idempotency.ServerConfig{}, func(w http.ResponseWriter, r *http.Request) {
		if runs++; runs == 1 {
			fmt.Fprint(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "whole")
	})
	if _, body, err := send(t, t.Context(), url, "k"); err == nil {
		t.Errorf("the client takes %q for whole", body)
	}
	if resp, body, err := send(t, t.Context(), url, "k"); err != nil || body != "whole" || resp.Header.Get(idempotency.ReplayedHeader) != "" {
		t.Errorf("%q, %v", body, err)
	}

	h := middleware(t, idempotency.ServerConfig{Leased: memory(t, nil)})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/orders/1")
		w.Header().Set("Request-Id", "changed")
		panic("bug")
	}))
	w := httptest.NewRecorder()
	w.Header().Set("Request-Id", "r1")
	func() {
		defer func() { _ = recover() }()
		r := httptest.NewRequest(http.MethodPost, "/orders", nil)
		r.Header.Set(idempotency.Header, "k")
		r.Header.Set("User", "u1")
		h.ServeHTTP(w, r)
	}()
	if got := w.Header(); len(got) != 1 || got.Get("Request-Id") != "r1" {
		t.Errorf("a dead handler left %v", got)
	}
}

func TestEarlyHintsPass(t *testing.T) {
	url := serve(t, idempotency.ServerConfig{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusCreated)
		w.WriteHeader(http.StatusTeapot) // the first counts
		fmt.Fprint(w, "done")
	})
	hints := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil }})
	for i := range 2 {
		resp, body, err := send(t, ctx, url, "k")
		if err != nil || resp.StatusCode != 201 || body != "done" || hints != 1 {
			t.Errorf("request %d: %v %q, %v; %d hints", i, resp, body, err, hints)
		}
	}
}

// A status that net/http would refuse must not be stored, where every replay would meet it.
func TestImpossibleStatusIsNotStored(t *testing.T) {
	code := 42
	h := middleware(t, idempotency.ServerConfig{Leased: memory(t, nil)})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a status of 42 was accepted")
			}
		}()
		post(h, "k", "")
	}()
	code = 204
	w := post(h, "k", "")
	wantCode(t, w, 204, false)
	w = httptest.NewRecorder()
	idempotency.Write(w, idempotency.Response{Code: 42, Body: []byte("x")}, true) // stored by another hand
	wantCode(t, w, 500, false)
}
