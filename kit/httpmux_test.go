package kit_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem"
)

// What the mux answers by itself is a problem as well; what handlers answer is theirs.
func TestTheMuxAnswersWithProblems(t *testing.T) {
	s, _, _ := edge(t, kit.Config{}, func(m *http.ServeMux) {
		m.HandleFunc("GET /v1/orders", func(http.ResponseWriter, *http.Request) {})
		m.HandleFunc("GET /own", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "mine", http.StatusNotFound) })
		m.HandleFunc("GET /dir/", func(http.ResponseWriter, *http.Request) {})
	})
	base := "http://" + s.HTTPAddr()
	for _, tt := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/nowhere", 404, "not_found", ""},
		{"HEAD", "/nowhere", 404, "", ""},
		{"POST", "/v1/orders", 405, "method_not_allowed", "GET, HEAD"},
	} {
		resp, body := do(t, request(t, tt.method, base+tt.path, nil))
		if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != problem.ContentType || resp.Header.Get("Allow") != tt.allow {
			t.Errorf("%s %s: %d %v", tt.method, tt.path, resp.StatusCode, resp.Header)
		}
		var p problem.Problem
		if tt.method == http.MethodHead {
			continue
		}
		if err := json.Unmarshal(body, &p); err != nil || p.Code != tt.code || p.Status != tt.status || p.Instance != tt.path {
			t.Errorf("%s %s: %q, %v", tt.method, tt.path, body, err)
		}
	}
	if resp, body := do(t, request(t, "GET", base+"/own", io.Reader(nil))); resp.StatusCode != 404 || string(body) != "mine\n" {
		t.Errorf("the handler's own: %d %q", resp.StatusCode, body)
	}
	if resp, _ := do(t, request(t, "GET", base+"/dir", nil)); resp.StatusCode/100 != 3 || resp.Header.Get("Location") != "/dir/" {
		t.Errorf("redirect: %d %v", resp.StatusCode, resp.Header)
	}
}
