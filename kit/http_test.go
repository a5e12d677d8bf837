package kit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

// edge runs a service with a public HTTP listener.
func edge(t *testing.T, cfg kit.Config, routes func(*http.ServeMux)) (*kit.Service, *telemetrytest.Recorder, func() error) {
	t.Helper()
	w := newWorld(t)
	cfg.Name, cfg.HTTPAddr, cfg.PublicHTTP, cfg.GRPCAddr = "edge", "127.0.0.1:0", true, kit.None
	if cfg.Verifier == nil {
		cfg.Verifier = w.tokens.Verifier(t)
	}
	s, rec := w.service(t, policy(t), cfg)
	routes(s.HTTP())
	return s, rec, run(t, s)
}

// do sends one request on a connection of its own.
func do(t *testing.T, req *http.Request) (*http.Response, []byte) {
	t.Helper()
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req.WithContext(within(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestHTTPErrorsAreProblems(t *testing.T) {
	s, rec, _ := edge(t, kit.Config{MaxRequestBytes: 1000}, func(m *http.ServeMux) {
		m.HandleFunc("POST /v1/echo", func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				kit.WriteError(w, r, err)
				return
			}
			_, _ = w.Write(body)
		})
		m.HandleFunc("/api/", func(_ http.ResponseWriter, r *http.Request) { kit.SetRoute(r.Context(), "/api/{id}") })
		m.HandleFunc("GET /v1/panic", func(http.ResponseWriter, *http.Request) { panic("hunter2") })
		m.HandleFunc("GET /v1/err/{kind}", func(w http.ResponseWriter, r *http.Request) {
			kit.WriteError(w, r, map[string]error{
				"status":   status.Error(codes.NotFound, "no such order"),
				"problem":  problem.New(409, "taken", "taken"),
				"rejected": fmt.Errorf("calling: %w", &resilience.Rejection{Name: "payment", Err: resilience.ErrOpen, After: 1500 * time.Millisecond}),
				"limited":  &resilience.Rejection{Err: resilience.ErrLimited},
				"mismatch": fmt.Errorf("begin: %w", idempotency.ErrMismatch),
				"scope":    authn.ErrScopeMissing,
				"expired":  authn.ErrTokenExpired,
				"other":    errors.New("dial tcp 10.0.0.1: hunter2"),
			}[r.PathValue("kind")])
		})
	})
	base := "http://" + s.HTTPAddr()
	type unsized struct{ io.Reader } // hides the length: sent in chunks
	big := bytes.Repeat([]byte("x"), 10<<20)
	bearer := func(r *http.Request, v string) *http.Request { r.Header.Set("Authorization", v); return r }
	tests := []struct {
		name   string
		req    *http.Request
		status int
		code   string
	}{
		{"ok", request(t, "POST", base+"/v1/echo", strings.NewReader("hi")), 200, ""},
		{"declared too large", request(t, "POST", base+"/v1/echo", bytes.NewReader(big)), 413, "body_too_large"},
		{"chunked too large", request(t, "POST", base+"/v1/echo", unsized{bytes.NewReader(big)}), 413, "body_too_large"},
		{"panic", request(t, "GET", base+"/v1/panic", nil), 500, "internal"},
		{"status", request(t, "GET", base+"/v1/err/status", nil), 404, "not_found"},
		{"problem", request(t, "GET", base+"/v1/err/problem", nil), 409, "taken"},
		{"rejected", request(t, "GET", base+"/v1/err/rejected", nil), 503, "unavailable"},
		{"limited", request(t, "GET", base+"/v1/err/limited", nil), 429, "rate_limited"},
		{"mismatch", request(t, "GET", base+"/v1/err/mismatch", nil), 422, "idempotency_key_reused"},
		{"scope", request(t, "GET", base+"/v1/err/scope", nil), 403, "permission_denied"},
		{"expired", request(t, "GET", base+"/v1/err/expired", nil), 401, "token_expired"},
		{"other", request(t, "GET", base+"/v1/err/other", nil), 500, "internal"},
		{"bad token", bearer(request(t, "POST", base+"/v1/echo", nil), "Bearer x.y.z"), 401, "unauthenticated"},
		{"another scheme is the handler's", bearer(request(t, "POST", base+"/v1/echo", nil), "Basic Zm9vOmJhcg=="), 200, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := do(t, tt.req)
			if resp.StatusCode != tt.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, tt.status, body)
			}
			if id := resp.Header.Get(correlation.RequestIDHeader); !correlation.Valid(id) {
				t.Errorf("request ID %q", id)
			}
			if tt.code == "" {
				return
			}
			var p problem.Problem
			if err := json.Unmarshal(body, &p); err != nil {
				t.Fatal(err)
			}
			if p.Code != tt.code || p.Status != tt.status || resp.Header.Get("Content-Type") != problem.ContentType {
				t.Errorf("got %s %+v", resp.Header.Get("Content-Type"), p)
			}
			if bytes.Contains(body, []byte("hunter2")) {
				t.Error("the cause was told")
			}
			if tt.name == "rejected" && resp.Header.Get("Retry-After") != "2" {
				t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
			}
		})
	}
	if resp, _ := do(t, request(t, "GET", base+"/api/o-1", nil)); resp.StatusCode != http.StatusOK {
		t.Errorf("the inner router: %d", resp.StatusCode)
	}
	metrics := fmt.Sprint(rec.Metrics(t)["http.server.request.duration"].Data)
	if !strings.Contains(metrics, "/v1/err/{kind}") || !strings.Contains(metrics, "/api/{id}") {
		t.Errorf("the metrics lack a route: %s", metrics)
	}
	// One span per request, under its route, not its path.
	names := map[string]bool{}
	for _, span := range rec.Spans() {
		names[span.Name()] = true
	}
	if !names["GET /v1/err/{kind}"] || !names["POST /v1/echo"] || !names["GET /api/{id}"] {
		t.Errorf("span names: %v", names)
	}
}

func TestHTTPKnowsTheCaller(t *testing.T) {
	w := newWorld(t)
	seen := make(chan correlation.IDs, 1)
	s, rec, _ := edge(t, kit.Config{Verifier: w.tokens.Verifier(t)}, func(m *http.ServeMux) {
		m.HandleFunc("GET /me", func(_ http.ResponseWriter, r *http.Request) {
			if resilience.HasCriticality(r.Context()) {
				t.Error("the outside set a criticality")
			}
			seen <- correlation.From(r.Context())
		})
	})
	req := request(t, "GET", "http://"+s.HTTPAddr()+"/me?token=hunter2", nil)
	req.Header.Set("Authorization", "Bearer "+w.tokens.Token(t, "alice"))
	req.Header.Set("X-Correlation-Id", "flow-1")
	req.Header.Set("X-Request-Id", "bad id\t!")
	req.Header.Set(resilience.HeaderCriticality, "CRITICAL_PLUS")
	resp, _ := do(t, req)
	ids := <-seen
	if ids.UserID != "alice" || ids.CorrelationID != "flow-1" || ids.RequestID == "bad id\t!" || ids.RequestID != resp.Header.Get("X-Request-Id") {
		t.Errorf("got %+v", ids)
	}
	for _, span := range rec.Spans() {
		if strings.Contains(fmt.Sprint(span.Attributes()), "hunter2") {
			t.Errorf("the query is on the span: %v", span.Attributes())
		}
	}
	for _, l := range rec.Logs(t) {
		if strings.Contains(fmt.Sprint(l), "hunter2") {
			t.Errorf("the query was logged: %v", l)
		}
	}
}

// A client that sends its header a byte at a time is gone within seconds, and does
// not keep others from being served.
func TestSlowLoris(t *testing.T) {
	s, _, _ := edge(t, kit.Config{}, func(m *http.ServeMux) {
		m.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	})
	start := time.Now()
	var conns []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", s.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX-"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if resp, _ := do(t, request(t, "GET", "http://"+s.HTTPAddr()+"/", nil)); resp.StatusCode != http.StatusOK {
		t.Errorf("others get %d", resp.StatusCode)
	}
	for _, c := range conns {
		_ = c.SetReadDeadline(start.Add(8 * time.Second))
		if _, err := io.ReadAll(c); err != nil {
			t.Fatalf("still connected after %v: %v", time.Since(start), err)
		}
	}
}

func TestHugeHeaderIsRefused(t *testing.T) {
	s, _, _ := edge(t, kit.Config{}, func(m *http.ServeMux) {
		m.HandleFunc("GET /", func(http.ResponseWriter, *http.Request) {})
	})
	req := request(t, "GET", "http://"+s.HTTPAddr()+"/", nil)
	req.Header.Set("Idempotency-Key", strings.Repeat("k", 10<<10)) // reaches the handler, who refuses it
	if resp, _ := do(t, req); resp.StatusCode != http.StatusOK {
		t.Errorf("10 kB of header: %d", resp.StatusCode)
	}
	req.Header.Set("X", strings.Repeat("k", 100<<10))
	if resp, _ := do(t, req); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("100 kB of header: %d", resp.StatusCode)
	}
}

// A stream of events outlives the deadline of ordinary requests, and ends with the drain.
func TestServerSentEvents(t *testing.T) {
	next := make(chan string)
	s, _, stop := edge(t, kit.Config{DefaultDeadline: time.Second}, func(m *http.ServeMux) {
		m.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			for {
				select {
				case msg := <-next:
					fmt.Fprintf(w, "data: %s\n\n", msg)
					w.(http.Flusher).Flush()
				case <-kit.Draining(r.Context()):
					return
				case <-r.Context().Done():
					t.Error("the stream was cut off: ", r.Context().Err())
					return
				}
			}
		})
		m.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			kit.WriteError(w, r, r.Context().Err())
		})
	})
	req := request(t, "GET", "http://"+s.HTTPAddr()+"/events", nil).WithContext(within(t))
	req.Header.Set("Accept", "text/event-stream")
	go func() { next <- "one" }()
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || lines.Text() != "data: one" {
		t.Fatalf("got %q, %v", lines.Text(), lines.Err())
	}
	if resp, _ := do(t, request(t, "GET", "http://"+s.HTTPAddr()+"/slow", nil)); resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("an ordinary request past its deadline: %d", resp.StatusCode)
	}
	next <- "two" // past the deadline by now
	lines.Scan()
	if !lines.Scan() || lines.Text() != "data: two" {
		t.Fatalf("got %q, %v", lines.Text(), lines.Err())
	}
	if err := stop(); err != nil {
		t.Errorf("the drain waited for the stream: %v", err)
	}
	for lines.Scan() {
	}
	if lines.Err() != nil {
		t.Errorf("the stream did not end in order: %v", lines.Err())
	}
}

// Streams hold no place with the shedder, whatever their clients accept, and a handler
// that does not stream has no more time for a client that would accept events.
func TestStreamsHoldNoPlace(t *testing.T) {
	const places = 4
	end := make(chan struct{})
	s, _, _ := edge(t, kit.Config{
		DefaultDeadline: time.Second, StreamDeadline: time.Hour,
		Shedding: resilience.ShedderConfig{MinLimit: places, InitialLimit: places, MaxLimit: places, MaxWait: time.Millisecond},
	}, func(m *http.ServeMux) {
		m.HandleFunc("GET /events", func(w http.ResponseWriter, _ *http.Request) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			<-end
		})
		m.HandleFunc("GET /slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	})
	for i := range 2 * places {
		resp, err := http.DefaultTransport.RoundTrip(request(t, "GET", "http://"+s.HTTPAddr()+"/events", nil).WithContext(within(t)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("stream %d: %d", i, resp.StatusCode)
		}
	}
	defer close(end)
	slow := request(t, "GET", "http://"+s.HTTPAddr()+"/slow", nil)
	slow.Header.Set("Accept", "text/event-stream")
	do(t, slow) // fails after the test's bound
}

func TestHTTPBetweenServices(t *testing.T) {
	w := newWorld(t)
	type seenT struct {
		ids      correlation.IDs
		workload spiffeid.ID
		key      string
		critical resilience.Criticality
	}
	seen := make(chan seenT, 1)
	s, _ := w.service(t, policy(t), kit.Config{Name: "auth", GRPCAddr: kit.None, HTTPAddr: "127.0.0.1:0", HTTPCallers: []spiffeid.ID{w.ca.ID(t, "caller")}})
	s.HTTP().HandleFunc("POST /token", func(_ http.ResponseWriter, r *http.Request) {
		p, _ := authn.PrincipalFrom(r.Context())
		seen <- seenT{correlation.From(r.Context()), p.Workload, r.Header.Get("Idempotency-Key"), resilience.CriticalityFrom(r.Context())}
	})
	run(t, s)
	peers := map[string]kit.Peer{"auth": w.peer(t, s)}
	caller, _ := w.client(t, "caller", peers)
	c, err := caller.HTTPClient("auth")
	if err != nil {
		t.Fatal(err)
	}
	ctx := correlation.With(within(t), correlation.IDs{RequestID: "r", CorrelationID: "c"})
	ctx = resilience.WithCriticality(idempotency.WithKey(ctx, "k-1"), resilience.CriticalPlus)
	post := func(ctx context.Context, c *http.Client, url string) error {
		resp, err := c.Do(request(t, "POST", url, strings.NewReader("x")).WithContext(ctx))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := post(ctx, c, "https://auth/token"); err != nil {
		t.Fatal(err)
	}
	want := seenT{correlation.IDs{RequestID: "r", CorrelationID: "c"}, w.ca.ID(t, "caller"), `"k-1"`, resilience.CriticalPlus}
	if got := <-seen; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, url := range []string{"https://elsewhere/token", "http://auth/token"} {
		if err := post(ctx, c, url); err == nil || !strings.Contains(err.Error(), "not this client's peer") {
			t.Errorf("%s: %v", url, err)
		}
	}

	// Over the same client a service fetches the keys that its tokens are checked by.
	s.HTTP().Handle("GET /jwks", w.tokens)
	back, _ := w.service(t, w.allow(t, authn.UserRequired, "caller"), kit.Config{Name: "caller", Peers: peers, NewVerifier: func(s *kit.Service) (*authn.Verifier, error) {
		cfg := w.tokens.VerifierConfig()
		cfg.JWKSURL = "https://auth/jwks"
		var err error
		if cfg.Client, err = s.HTTPClient("auth"); err != nil {
			return nil, err
		}
		return authn.NewVerifier(cfg)
	}})
	grpc_testing.RegisterTestServiceServer(back, &server{})
	run(t, back)
	self, _ := w.client(t, "caller", map[string]kit.Peer{"caller": w.peer(t, back)})
	authed := metadata.AppendToOutgoingContext(within(t), "authorization", "Bearer "+w.tokens.Token(t, "alice"))
	if _, err := stub(t, self, "caller").UnaryCall(authed, &grpc_testing.SimpleRequest{}); err != nil {
		t.Errorf("a token checked by keys fetched over mTLS: %v", err)
	}

	stranger, _ := w.client(t, "stranger", peers)
	c2, err := stranger.HTTPClient("auth", kit.WithoutResilience())
	if err != nil {
		t.Fatal(err)
	}
	if err := post(within(t), c2, "https://auth/token"); err == nil {
		t.Error("a workload that HTTPCallers does not name got through")
	}
}
