package contracttest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/contracttest/internal/bridge"
	"github.com/napkin-kit/napkin/contracttest/internal/engine"
)

// Paths of the verifier itself. No service has them.
const (
	statePath   = "/__napkin_contract/state"
	messagePath = "/__napkin_contract/message"
)

// server stands between the core's verifier and the provider: it changes states,
// makes events, and passes requests on to the provider's HTTP or gRPC.
type server struct {
	p      Provider
	types  bridge.Types
	rest   http.Handler // nil: the provider has none
	grpc   http.Handler // nil: the provider has none
	http   *http.Server
	done   chan struct{}
	target engine.Target

	mu  sync.Mutex
	run *run
}

func serve(ctx context.Context, p Provider) (*server, error) {
	s := &server{p: p, types: bridge.NewTypes(p.Types), rest: p.REST, done: make(chan struct{})}
	if p.URL != "" {
		u, err := url.Parse(p.URL)
		if err != nil {
			return nil, fmt.Errorf("contracttest: provider %s: %w", p.Name, err)
		}
		proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, ErrorLog: log.New(io.Discard, "", 0)}
		s.rest = proxy
	}
	if p.GRPC != nil {
		s.grpc = bridge.Handler(p.GRPC, s.types)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("contracttest: %w", err)
	}
	at, _ := l.Addr().(*net.TCPAddr)
	s.target = engine.Target{
		Provider: p.Name, Host: "127.0.0.1", Port: uint16(at.Port), //nolint:gosec // a port
		StatePath: statePath, MessagePath: messagePath,
		Timeout: p.Timeout + time.Second, // ours ends first, and says why
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: p.Timeout, ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l) // ends with Close
	}()
	return s, nil
}

func (s *server) close() {
	_ = s.http.Close() // a handler that hangs is not waited for
	<-s.done
}

// run is the verification of one interaction.
type run struct {
	Interaction
	ctx     context.Context
	timeout time.Duration

	mu       sync.Mutex
	states   []*State
	problems []string
	said     string // the provider's last answer
}

func (s *server) begin(ctx context.Context, i Interaction, timeout time.Duration) *run {
	r := &run{Interaction: i, ctx: ctx, timeout: timeout}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = r
	return r
}

func (s *server) current() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run
}

func (r *run) problem(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// bounded runs f, and leaves it behind where it does not come back.
func (r *run) bounded(what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		returned := false
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("%s panicked: %v", what, p)
			} else if !returned { // not on the test's goroutine
				done <- errors.New("it ended by t.FailNow, t.Skip or runtime.Goexit; return an error instead")
			}
		}()
		err := f(ctx)
		returned = true
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s did not end within %v", what, r.timeout)
	}
}

// end undoes the states that the core has not, because it stopped early, and returns
// what went wrong on this side.
func (r *run) end() []string {
	if err := r.cleanup(); err != nil {
		r.problem("%v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problems
}

func (r *run) cleanup() error {
	r.mu.Lock()
	states := r.states
	r.states = nil
	r.mu.Unlock()
	for i := len(states) - 1; i >= 0; i-- {
		st := states[i]
		if err := r.bounded(fmt.Sprintf("the cleanup of provider state %q", st.Name), st.cleanup); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) answer() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said == "" {
		return nil
	}
	return []string{"the provider answered " + r.said}
}

// grpcPath is the path of a gRPC method of a service in a package.
var grpcPath = regexp.MustCompile(`^/[A-Za-z_]\w*(\.[A-Za-z_]\w*)+/[A-Za-z_]\w*$`)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	run := s.current()
	if run == nil {
		http.Error(w, "no interaction", http.StatusInternalServerError)
		return
	}
	switch r.URL.Path {
	case statePath:
		s.state(w, r, run)
		return
	case messagePath:
		s.event(w, run)
		return
	}
	next := s.rest
	if s.grpc != nil && r.Method == http.MethodPost && grpcPath.MatchString(r.URL.Path) {
		next = s.grpc
	}
	if next == nil {
		run.problem("the contract calls %s %s; set Provider.REST or Provider.URL", r.Method, r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
		return
	}
	s.pass(w, r, run, next)
}

// pass hands a request to the provider, bounded, and keeps what it answered.
func (s *server) pass(w http.ResponseWriter, r *http.Request, run *run, next http.Handler) {
	var answer *recorder
	err := run.bounded("the provider's answer to "+r.Method+" "+r.URL.Path, func(ctx context.Context) error {
		req := r.Clone(ctx)
		if s.p.Filter != nil {
			if err := s.p.Filter(req, run.Interaction); err != nil {
				return fmt.Errorf("Provider.Filter: %w", err)
			}
		}
		rec := &recorder{header: http.Header{}, code: http.StatusOK}
		next.ServeHTTP(rec, req)
		answer = rec
		return nil
	})
	if err != nil {
		run.problem("%v", err)
		w.WriteHeader(http.StatusGatewayTimeout)
		return
	}
	run.mu.Lock()
	run.said = fmt.Sprintf("%d %s", answer.code, strings.TrimSpace(excerpt(answer.body.String())))
	run.mu.Unlock()
	answer.WriteHeader(http.StatusOK) // where it wrote nothing
	for k, v := range answer.sent {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.code)
	_, _ = w.Write(answer.body.Bytes()) // the verifier has gone: it says so itself
}

func excerpt(s string) string {
	const most = 500
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

func (s *server) state(w http.ResponseWriter, r *http.Request, run *run) {
	var change struct {
		Action string
		State  string
		Params map[string]any
	}
	if err := json.NewDecoder(r.Body).Decode(&change); err != nil {
		run.problem("the core's state change: %v", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	var values map[string]any
	switch {
	case change.State == "": // an interaction without states
	case change.Action == "teardown":
		// The run ends with it, in one place.
	default:
		st := &State{Name: change.State, Params: change.Params}
		run.mu.Lock()
		run.states = append(run.states, st)
		run.mu.Unlock()
		err := run.bounded(fmt.Sprintf("provider state %q", st.Name), func(ctx context.Context) error {
			return s.p.States[st.Name](ctx, st)
		})
		if err != nil {
			run.problem("%v", err)
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		values = st.values
	}
	w.Header().Set("Content-Type", jsonType)
	if values == nil {
		values = map[string]any{}
	}
	_ = json.NewEncoder(w).Encode(values) // the verifier has gone: it says so itself
}

func (s *server) event(w http.ResponseWriter, run *run) {
	var content []byte
	var metadata map[string]string
	err := run.bounded(fmt.Sprintf("the event %q", run.Name), func(ctx context.Context) error {
		m, err := s.p.Events[run.Name](ctx, run.Interaction)
		if err != nil {
			return err
		}
		content, metadata, err = m.contract(s.types)
		return err
	})
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(metadata); err == nil {
			w.Header().Set("Pact-Message-Metadata", base64.StdEncoding.EncodeToString(raw))
		}
	}
	if err != nil {
		run.problem("%v", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	run.mu.Lock()
	run.said = excerpt(string(content))
	run.mu.Unlock()
	w.Header().Set("Content-Type", jsonType)
	_, _ = w.Write(content) // the verifier has gone: it says so itself
}

// recorder keeps an answer, so that one that comes too late goes nowhere.
type recorder struct {
	header http.Header
	sent   http.Header // header when the answer began: what is set later is not sent
	code   int
	wrote  bool
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(code int) {
	if !r.wrote && code >= 200 {
		r.code, r.wrote, r.sent = code, true, r.header.Clone()
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

// Flush is for handlers that insist on one.
func (r *recorder) Flush() { r.WriteHeader(http.StatusOK) }
