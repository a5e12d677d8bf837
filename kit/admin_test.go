package kit_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

// get asks a plain HTTP listener, and keeps no connection.
func get(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestReadinessNamesWhatIsMissing(t *testing.T) {
	w, s, client, _ := pair(t, &server{}, kit.Config{})
	var down atomic.Bool
	down.Store(true)
	s.Ready("database", func(context.Context) error {
		if down.Load() {
			return errors.New("connection refused")
		}
		return nil
	})
	s.Ready("broken check", func(context.Context) error { panic("nil map") })
	code, body := get(t, s.AdminAddr(), "/readyz")
	var report kit.ReadyReport
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatal(err)
	}
	if code != 503 || report.Ready || len(report.Checks) != 3 {
		t.Fatalf("got %d %s", code, body)
	}
	for i, want := range []kit.CheckResult{{Name: "broken check", Error: "the check panicked: nil map"}, {Name: "database", Error: "connection refused"}, {Name: "identity", OK: true}} {
		got := report.Checks[i]
		got.Milliseconds = 0
		if got != want {
			t.Errorf("check %d: got %+v, want %+v", i, got, want)
		}
	}
	if code, _ := get(t, s.AdminAddr(), "/livez"); code != 200 {
		t.Errorf("a service that is not ready is alive: %d", code)
	}
	down.Store(false)
	s.Ready("broken check", func(context.Context) error { return nil })
	if code, body := get(t, s.AdminAddr(), "/readyz"); code != 200 {
		t.Errorf("ready again: %d %s", code, body)
	}

	// grpc.health.v1 follows, and needs no rule in the policy.
	anyone, _ := w.client(t, "stranger", map[string]kit.Peer{"echo": w.peer(t, s)})
	conn, err := anyone.Dial("echo")
	if err != nil {
		t.Fatal(err)
	}
	health := grpc_health_v1.NewHealthClient(conn)
	telemetrytest.Wait(t, "SERVING", func() bool {
		resp, err := health.Check(within(t), &grpc_health_v1.HealthCheckRequest{})
		return err == nil && resp.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
	})
	_ = client
}

func TestAdminEndpoints(t *testing.T) {
	_, s, client, _ := pair(t, &server{}, kit.Config{Version: "v1.2.3"})
	if _, err := stub(t, client, "echo").UnaryCall(within(t), &grpc_testing.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/buildinfo":           `"version": "v1.2.3"`,
		"/debug/pprof/":        "goroutine",
		"/debug/pprof/cmdline": "kit",
		"/metrics":             "rpc_server_call_duration_seconds_bucket",
		"/livez":               "ok",
	} {
		telemetrytest.Wait(t, path+" to show "+want, func() bool { // a call is counted just after it is answered
			code, body := get(t, s.AdminAddr(), path)
			return code == 200 && strings.Contains(body, want)
		})
	}
	telemetrytest.Wait(t, "an exemplar", func() bool {
		_, body := get(t, s.AdminAddr(), "/metrics")
		return strings.Contains(body, `# {span_id="`) || strings.Contains(body, `# {trace_id="`)
	})
}
