package client

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestPatientSendsAgainOnlyWhatIsSafe(t *testing.T) {
	var calls int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if n := r.ContentLength; r.Method == http.MethodPost && n != 2 {
			t.Errorf("the body was sent again with %d bytes", n)
		}
	}))
	defer srv.Close()
	c := Anonymous(srv.URL)
	for _, tc := range []struct {
		method, path string
		header       http.Header
		calls        int
	}{
		{"GET", "/v1/products", nil, 2},
		{"POST", "/v1/orders", http.Header{"Idempotency-Key": {"k"}}, 2},
		{"POST", "/v1/users", nil, 1},
	} {
		calls = 0
		var body any
		if tc.method == "POST" {
			body = []byte("{}")
		}
		_, err := c.Do(t.Context(), tc.method, tc.path, tc.header, body, nil)
		if calls != tc.calls || (err == nil) != (tc.calls == 2) {
			t.Errorf("%s %s: %d calls, %v", tc.method, tc.path, calls, err)
		}
	}
}
