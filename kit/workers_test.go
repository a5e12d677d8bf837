package kit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit"
)

func TestWorkerFailureStopsTheService(t *testing.T) {
	cause := errors.New("no space left")
	tests := []struct {
		name string
		fn   func(context.Context) error
		want string
	}{
		{"error", func(context.Context) error { return cause }, `worker "relay": no space left`},
		{"panic", func(context.Context) error { panic("nil map") }, `worker "relay" panicked: nil map`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s, _ := w.service(t, policy(t), kit.Config{Name: "echo"})
			s.Go("done early", func(context.Context) error { return nil })
			s.Go("relay", tt.fn)
			err := s.Run(within(t))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run returned %v, want %q", err, tt.want)
			}
			if tt.name == "error" && !errors.Is(err, cause) {
				t.Error("the cause is lost")
			}
		})
	}
}

func TestWorkerThatDoesNotStopIsNamed(t *testing.T) {
	w := newWorld(t)
	s, _ := w.service(t, policy(t), kit.Config{Name: "echo", StopTimeout: 50 * time.Millisecond})
	hang := make(chan struct{})
	defer close(hang)
	running := make(chan struct{})
	s.Go("stubborn", func(context.Context) error { close(running); <-hang; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-running; cancel() }()
	if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), "did not stop within 50ms: stubborn") {
		t.Errorf("Run returned %v", err)
	}
}

func TestGoWhileRunning(t *testing.T) {
	w := newWorld(t)
	s, _ := w.service(t, policy(t), kit.Config{Name: "echo"})
	late := make(chan struct{})
	s.Go("first", func(context.Context) error {
		s.Go("second", func(ctx context.Context) error { close(late); <-ctx.Done(); return nil })
		return nil
	})
	stop := run(t, s)
	<-late
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "called twice") {
		t.Errorf("a second Run: %v", err)
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	w := newWorld(t)
	id := w.ca.Identity(t, w.ca.ID(t, "echo"))
	taken := freePort(t)
	l, _ := w.service(t, policy(t), kit.Config{Name: "holder", GRPCAddr: taken})
	_ = l
	tests := []struct {
		name string
		cfg  kit.Config
		want string
	}{
		{"no name", kit.Config{Identity: id}, "Config.Name"},
		{"no identity", kit.Config{Name: "echo"}, "Config.Identity"},
		{"workload API without an ID", kit.Config{Name: "echo", WorkloadAPI: "unix:///x"}, "Config.SPIFFEID"},
		{"another identity", kit.Config{Name: "echo", Identity: id, SPIFFEID: w.ca.ID(t, "other")}, "Config.SPIFFEID"},
		{"peer without address", kit.Config{Name: "echo", Identity: id, Peers: map[string]kit.Peer{"x": {ID: w.ca.ID(t, "x")}}}, `Config.Peers["x"]`},
		{"peer without ID", kit.Config{Name: "echo", Identity: id, Peers: map[string]kit.Peer{"x": {Addr: "h:1"}}}, `Config.Peers["x"].ID`},
		{"HTTP for nobody", kit.Config{Name: "echo", Identity: id, HTTPAddr: "127.0.0.1:0"}, "Config.HTTPCallers"},
		{"negative", kit.Config{Name: "echo", Identity: id, DrainDelay: -1}, "Config.DrainDelay"},
		{"taken port", kit.Config{Name: "echo", Identity: id, GRPCAddr: taken}, "Config.GRPCAddr"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := kit.New(t.Context(), policy(t), tt.cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to name %s", err, tt.want)
			}
		})
	}
	if _, err := kit.New(t.Context(), nil, kit.Config{Name: "echo", Identity: id}); err == nil || !strings.Contains(err.Error(), "policy is nil") {
		t.Errorf("without a policy: %v", err)
	}
	if _, err := kit.New(t.Context(), w.allow(t, 2, "x"), kit.Config{Name: "echo", Identity: id}); err == nil || !strings.Contains(err.Error(), "Config.Verifier") {
		t.Errorf("a policy that wants users, without a verifier: %v", err)
	}
}

func TestDialUnknownPeer(t *testing.T) {
	w := newWorld(t)
	s, _ := w.client(t, "caller", map[string]kit.Peer{"order": {Addr: "127.0.0.1:1", ID: w.ca.ID(t, "order")}})
	if _, err := s.Dial("ordr"); err == nil || !strings.Contains(err.Error(), `no peer "ordr" in Config.Peers, only: order`) {
		t.Errorf("got %v", err)
	}
	if _, err := s.HTTPClient("order"); err == nil || !strings.Contains(err.Error(), `Config.Peers["order"].HTTPAddr`) {
		t.Errorf("got %v", err)
	}
}
