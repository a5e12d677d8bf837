package kit_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

// What the caller is not told, the log has: whichever way the handler answered.
func TestTheLogHasTheCauseOfA500(t *testing.T) {
	s, rec, _ := edge(t, kit.Config{NoAccessLog: true}, func(m *http.ServeMux) {
		m.HandleFunc("GET /kit", func(w http.ResponseWriter, r *http.Request) { kit.WriteError(w, r, errors.New("disk of kit is full")) })
		m.HandleFunc("GET /problem", func(w http.ResponseWriter, r *http.Request) {
			problem.Write(w, r, errors.New("disk of problem is full"))
		})
		m.HandleFunc("GET /mine", func(w http.ResponseWriter, r *http.Request) {
			kit.WriteError(w, r, problem.New(http.StatusNotFound, "no_note", "no such note"))
		})
	})
	for _, path := range []string{"/kit", "/problem", "/mine"} {
		resp, err := http.DefaultClient.Do(request(t, "GET", "http://"+s.HTTPAddr()+path, nil))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if strings.Contains(string(body), "disk") {
			t.Errorf("%s tells the caller %s", path, body)
		}
	}
	told := func() map[string]string {
		out := map[string]string{}
		for _, l := range rec.Logs(t) {
			if cause, ok := l["error"].(string); ok {
				path, _ := l["path"].(string)
				out[path] = cause
			}
		}
		return out
	}
	telemetrytest.Wait(t, "two causes in the log", func() bool { return len(told()) >= 2 })
	for path, want := range map[string]string{"/kit": "disk of kit is full", "/problem": "disk of problem is full"} {
		if !strings.Contains(told()[path], want) {
			t.Errorf("%s: the log says %q, want %q", path, told()[path], want)
		}
	}
	if got, ok := told()["/mine"]; ok {
		t.Errorf("a caller's own mistake is logged as an error: %q", got)
	}
}
