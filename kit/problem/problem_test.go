package problem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/problem"
)

func TestWrite(t *testing.T) {
	secret := errors.New("pq: password is hunter2")
	tests := []struct {
		name   string
		err    error
		status int
		want   map[string]any
	}{
		{"plain", problem.New(404, "order_not_found", "no such order"), 404, map[string]any{
			"type": "about:blank", "title": "Not Found", "status": 404.0, "detail": "no such order", "code": "order_not_found", "instance": "/v1/x",
		}},
		{"wrapped", fmt.Errorf("placing: %w", problem.New(409, "taken", "taken")), 409, map[string]any{
			"type": "about:blank", "title": "Conflict", "status": 409.0, "detail": "taken", "code": "taken", "instance": "/v1/x",
		}},
		{"own type and title", &problem.Problem{Type: "https://x.test/p", Title: "T", Status: 422, Instance: "urn:1", Extensions: map[string]string{"order": "o-1", "status": "no"}}, 422, map[string]any{
			"type": "https://x.test/p", "title": "T", "status": 422.0, "instance": "urn:1", "order": "o-1",
		}},
		{"fields", problem.Invalid(problem.Field{Field: "qty", Message: "must be positive", Rule: "int.gt"}), 400, map[string]any{
			"type": "about:blank", "title": "Bad Request", "status": 400.0, "detail": "qty: must be positive", "code": "invalid_argument", "instance": "/v1/x",
			"errors": []any{map[string]any{"field": "qty", "message": "must be positive", "rule": "int.gt"}},
		}},
		{"unknown error gives nothing away", secret, 500, map[string]any{
			"type": "about:blank", "title": "Internal Server Error", "status": 500.0, "detail": "something went wrong on our side", "code": "internal", "instance": "/v1/x",
		}},
		{"cause is not rendered", problem.New(503, "db_down", "try later").Because(secret), 503, map[string]any{
			"type": "about:blank", "title": "Service Unavailable", "status": 503.0, "detail": "try later", "code": "db_down", "instance": "/v1/x",
		}},
		{"deadline", context.DeadlineExceeded, 504, map[string]any{
			"type": "about:blank", "title": "Gateway Timeout", "status": 504.0, "detail": "the request could not be answered in time", "code": "deadline_exceeded", "instance": "/v1/x",
		}},
		{"too large", fmt.Errorf("read: %w", &http.MaxBytesError{Limit: 10}), 413, map[string]any{
			"type": "about:blank", "title": "Request Entity Too Large", "status": 413.0, "detail": "the request body is larger than 10 bytes", "code": "body_too_large", "instance": "/v1/x",
		}},
		{"a status that is no error", &problem.Problem{Status: 200}, 500, map[string]any{
			"type": "about:blank", "title": "Internal Server Error", "status": 500.0, "instance": "/v1/x",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			w.Header().Set("Etag", `"a"`)
			w.Header().Set("Content-Length", "3")
			problem.Write(w, httptest.NewRequest(http.MethodPost, "/v1/x?token=secret", nil), tt.err)
			if w.Code != tt.status {
				t.Errorf("status %d, want %d", w.Code, tt.status)
			}
			if got := w.Header().Get("Content-Type"); got != problem.ContentType {
				t.Errorf("content type %q", got)
			}
			if w.Header().Get("Etag") != "" || w.Header().Get("Content-Length") != "" {
				t.Errorf("headers of the intended body stayed: %v", w.Header())
			}
			var got map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
			if strings.Contains(w.Body.String(), "hunter2") {
				t.Error("the cause was rendered")
			}
		})
	}
}

func TestWriteHeadAndRetryAfter(t *testing.T) {
	w := httptest.NewRecorder()
	problem.Write(w, httptest.NewRequest(http.MethodHead, "/", nil), &problem.Problem{Status: 429, RetryAfter: 1100 * time.Millisecond})
	if w.Header().Get("Retry-After") != "2" || w.Body.Len() != 0 || w.Code != 429 {
		t.Errorf("code %d, headers %v, body %q", w.Code, w.Header(), w.Body)
	}
}

func TestCauseStaysReachable(t *testing.T) {
	cause := errors.New("disk full")
	p := problem.New(503, "down", "later")
	err := fmt.Errorf("outer: %w", p.Because(cause))
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("lost the cause: %v", err)
	}
	if p.Unwrap() != nil {
		t.Error("Because changed its receiver")
	}
}

func TestRoundTrip(t *testing.T) {
	in := &problem.Problem{
		Type: "https://x.test/p", Title: "T", Status: 422, Detail: "d", Instance: "/i", Code: "c",
		Fields: []problem.Field{{Field: "a[0]", Message: "m"}}, Extensions: map[string]string{"k": "v"},
	}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out problem.Problem
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*in, out) {
		t.Errorf("got %+v, want %+v", out, *in)
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{}`, `null`, `{"status":"x","errors":{}}`, `{"type":1,"ext":"v"}`, `[`, `{"errors":[{"field":1}]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var p problem.Problem
		if json.Unmarshal([]byte(s), &p) != nil {
			return
		}
		if _, err := json.Marshal(&p); err != nil {
			t.Errorf("read %q but cannot render it: %v", s, err)
		}
	})
}
