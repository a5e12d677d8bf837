package resilience

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A streamed answer gives its place back with the first flush, once, and its life is
// no sample of the latency.
func TestMiddlewareStreams(t *testing.T) {
	for name, stream := range map[string]func(t *testing.T, w http.ResponseWriter){
		"Flusher": func(t *testing.T, w http.ResponseWriter) {
			t.Helper()
			f, ok := w.(http.Flusher)
			if !ok {
				t.Fatal("the writer is no http.Flusher")
			}
			f.Flush()
			f.Flush()
		},
		"ResponseController": func(t *testing.T, w http.ResponseWriter) {
			t.Helper()
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		},
		"Hijacker": func(t *testing.T, w http.ResponseWriter) {
			t.Helper()
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_ = conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			shedder := mustShedder(t, fixedLimit(1))
			guard, err := Middleware(&MiddlewareConfig{Shedder: shedder})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			srv := httptest.NewServer(guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				defer close(done)
				if n := shedder.Snapshot().InFlight; n != 1 {
					t.Errorf("%d places held before the stream, want 1", n)
				}
				stream(t, w)
				if n := shedder.Snapshot().InFlight; n != 0 {
					t.Errorf("%d places held while streaming, want 0", n)
				}
			})))
			resp, err := http.Get(srv.URL) //nolint:noctx // a server of this test
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			<-done
			srv.Close() // waits for the handler, but for a hijacked one
			if s := shedder.Snapshot(); s.InFlight != 0 || s.ServiceTime != 0 {
				t.Errorf("after the stream: %+v", s)
			}
		})
	}
}

func TestMiddlewareExempt(t *testing.T) {
	shedder := mustShedder(t, fixedLimit(1))
	guard, err := Middleware(&MiddlewareConfig{Shedder: shedder, Exempt: func(r *http.Request) bool { return r.URL.Path == "/healthz" }})
	if err != nil {
		t.Fatal(err)
	}
	busy, err := shedder.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Release(ShedIgnore)
	h := guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for path, want := range map[string]int{"/healthz": http.StatusOK, "/orders": http.StatusServiceUnavailable} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}
