package saga_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/saga"
)

func TestConsole(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	broken := true
	c := e.coordinator()
	h := register(t, c, saga.Definition[state]{Name: "work", Steps: []saga.Step[state]{
		&saga.Call[state]{Name: "decide", Kind: saga.Pivot, Do: func(context.Context, *state) error {
			if broken {
				return errors.New("<script>alert(1)</script>")
			}
			return nil
		}},
	}})
	orders := register(t, c, checkout())
	start(e, h, "stuck-1", state{A: "personal data"})
	for range 6 {
		e.run(c)
		e.pass(time.Minute)
	}
	start(e, orders, "order-1", state{})

	mux := http.NewServeMux()
	mux.Handle("/ops/sagas", http.RedirectHandler("/ops/sagas/", http.StatusSeeOther))
	mux.Handle("/ops/sagas/", http.StripPrefix("/ops/sagas", c.Console(func(w http.ResponseWriter, r *http.Request) (string, bool) {
		if r.Header.Get("X-Test-User") == "" {
			http.Error(w, "sign in", http.StatusUnauthorized)
			return "", false
		}
		return r.Header.Get("X-Test-User"), true
	})))
	srv := httptest.NewServer(mux)
	defer srv.Close()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	defer client.CloseIdleConnections()
	do := func(method, path, origin string, form url.Values) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Test-User", "ann")
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := client.Do(req)
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
	wants := func(page string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %q:\n%s", want, page)
			}
		}
	}

	resp, err := http.Get(srv.URL + "/ops/sagas/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without authorization: %d", resp.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()

	_, page := do("GET", "/ops/sagas/", "", nil)
	wants(page, "instance?id=stuck-1", "instance?id=order-1", "stuck <b>1</b>", "running <b>1</b>")
	_, page = do("GET", "/ops/sagas/?status=stuck", "", nil)
	wants(page, "instance?id=stuck-1")
	if strings.Contains(page, "order-1") {
		t.Error("the filter by state shows others")
	}
	_, page = do("GET", "/ops/sagas/?id=order-1", "", nil)
	wants(page, "reserve", "in prepare", "command, compensatable", "attempted")
	_, page = do("GET", "/ops/sagas/instance?id=stuck-1", "", nil)
	wants(page, "Stuck at decide", "&lt;script&gt;", "attempt 3", "Retry the step", "Compensate: the pivot has not happened")
	if strings.Contains(page, "<script>") || strings.Contains(page, "personal data") {
		t.Error("the page shows what it should not")
	}
	if status, _ := do("GET", "/ops/sagas/instance?id=nobody", "", nil); status != http.StatusNotFound {
		t.Errorf("an unknown id: %d", status)
	}
	if status, css := do("GET", "/ops/sagas/style.css", "", nil); status != http.StatusOK || !strings.Contains(css, "body") {
		t.Errorf("the style sheet: %d", status)
	}

	token := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(page)
	if token == nil {
		t.Fatal("the form has no token")
	}
	form := url.Values{"csrf": {token[1]}, "id": {"stuck-1"}, "act": {"retry"}, "reason": {"the provider is back"}}
	without := func(key, value string) url.Values {
		f := url.Values{}
		for k, v := range form {
			f[k] = v
		}
		f.Set(key, value)
		return f
	}
	for name, try := range map[string]struct {
		origin string
		form   url.Values
		want   int
	}{
		"no origin":      {"", form, http.StatusForbidden},
		"foreign origin": {"https://evil.test", form, http.StatusForbidden},
		"no token":       {srv.URL, without("csrf", ""), http.StatusForbidden},
		"wrong token":    {srv.URL, without("csrf", strings.Repeat("A", 26)), http.StatusForbidden},
		"no reason":      {srv.URL, without("reason", " "), http.StatusBadRequest},
		"unknown act":    {srv.URL, without("act", "delete"), http.StatusBadRequest},
		"unknown id":     {srv.URL, without("id", "nobody"), http.StatusNotFound},
		"not stuck":      {srv.URL, without("id", "order-1"), http.StatusConflict},
	} {
		if got, _ := do("POST", "/ops/sagas/act", try.origin, try.form); got != try.want {
			t.Errorf("%s: %d, want %d", name, got, try.want)
		}
	}
	e.expect(c, "stuck-1", saga.StatusStuck)
	broken = false
	status, page := do("POST", "/ops/sagas/act", srv.URL, form)
	if status != http.StatusOK {
		t.Fatalf("the act: %d %s", status, page)
	}
	wants(page, "The saga goes on.", "retried", "the provider is back", "ann")
	e.run(c)
	e.expect(c, "stuck-1", saga.StatusCompleted)
}
