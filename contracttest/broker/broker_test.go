package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/contracttest/broker"
	"github.com/napkin-kit/napkin/contracttest/broker/brokertest"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

// contract is one with a single interaction, by its description.
func contract(t testing.TB, consumer, provider, description string) *pact.File {
	t.Helper()
	f, err := pact.Parse("test", fmt.Appendf(nil, `{"consumer":{"name":%q},"provider":{"name":%q},
		"interactions":[{"type":"Synchronous/HTTP","description":%q,"request":{"method":"GET","path":"/"},"response":{"status":200}}],
		"metadata":{"pactSpecification":{"version":"4.0"}}}`, consumer, provider, description))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func start(t *testing.T, o *brokertest.Options, c *broker.Config) (*brokertest.Server, *broker.Client) {
	t.Helper()
	s := brokertest.Start(o)
	t.Cleanup(s.Close)
	client, err := broker.New(s.URL, c)
	if err != nil {
		t.Fatal(err)
	}
	return s, client
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, c *broker.Client, version, branch string, files ...*pact.File) {
	t.Helper()
	_, err := c.Publish(t.Context(), broker.Publication{Version: version, Branch: branch, Pacts: files})
	must(t, err)
}

func deployable(t *testing.T, c *broker.Client, name, version, env string) *broker.Answer {
	t.Helper()
	a, err := c.CanIDeploy(t.Context(), name, version, env)
	must(t, err)
	return a
}

// Credentials and contracts stay with the broker, whatever it redirects to.
func TestRedirects(t *testing.T) {
	var seen atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) })) // another port of the same host
	defer other.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/loop" {
			http.Redirect(w, r, "/loop", http.StatusFound)
			return
		}
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	for path, says := range map[string]string{"/": "leads to " + other.URL, "/loop": "10 redirects"} {
		c, err := broker.New(s.URL+path, &broker.Config{Token: "secret"})
		must(t, err)
		if _, err = c.Environments(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
		if path == "/" && !errors.Is(err, broker.ErrMalformed) {
			t.Errorf("no ErrMalformed: %v", err)
		}
	}
	if n := seen.Load(); n != 0 {
		t.Errorf("another server got %d requests", n)
	}
}

// A new expectation goes the whole way: published, pending at the provider and no reason to fail its build,
// fulfilled, and only then deployable.
func TestFromPublicationToDeployment(t *testing.T) {
	_, c := start(t, nil, nil)
	ctx := t.Context()
	must(t, c.CreateEnvironment(ctx, broker.Environment{Name: "production", Production: true}))

	notices, err := c.Publish(ctx, broker.Publication{
		Version: "w1", Branch: "main", Tags: []string{"web"}, BuildURL: "https://ci.example.com/1",
		Pacts: []*pact.File{contract(t, "Web Shop", "order/v1", "a list of orders")},
	})
	must(t, err)
	if len(notices) == 0 || notices[0].Type != "success" || !strings.Contains(notices[0].Text, "Web Shop version w1") {
		t.Errorf("notices: %v", notices)
	}
	if a := deployable(t, c, "Web Shop", "w1", "production"); a.Deployable || a.Unknown != 1 {
		t.Errorf("deployable though its provider is not there: %+v", a)
	}

	source := c.Source(broker.Selection{Selectors: broker.Usual(), ProviderBranch: "main", Pending: true})
	pacts, err := source.Pacts(ctx, "order/v1")
	must(t, err)
	if len(pacts) != 1 || !pacts[0].Pending || len(pacts[0].Notices) != 2 || pacts[0].Consumer != "Web Shop" || pacts[0].Interactions[0].Description != "a list of orders" {
		t.Fatalf("for verification: %+v", pacts)
	}

	result := pact.Verification{Provider: "order/v1", Version: "o1", Branch: "main", Success: false,
		Results: []pact.Result{{Consumer: "Web Shop", Interaction: "a list of orders", Problems: []string{"status is 404"}}}}
	must(t, pacts[0].Publish(ctx, result))
	must(t, c.RecordDeployment(ctx, "order/v1", "o1", "production"))
	if a := deployable(t, c, "Web Shop", "w1", "production"); a.Deployable || a.Failed != 1 || !strings.Contains(a.Reason, "failed") {
		t.Errorf("deployable though its contract does not hold: %+v", a)
	}
	// Nobody who waits for this contract is deployed, so the provider's version is free to go.
	if a := deployable(t, c, "order/v1", "o1", "production"); !a.Deployable {
		t.Errorf("the provider cannot be deployed: %+v", a)
	}

	result.Version, result.Success, result.Results = "o2", true, []pact.Result{{Consumer: "Web Shop", Interaction: "a list of orders"}}
	must(t, pacts[0].Publish(ctx, result))
	must(t, c.RecordDeployment(ctx, "order/v1", "o2", "production"))
	a := deployable(t, c, "Web Shop", "w1", "production")
	if !a.Deployable || len(a.Matrix) != 1 || a.Matrix[0].String() != "Web Shop w1 with order/v1 o2: holds" {
		t.Errorf("not deployable though its contract holds: %+v", a)
	}
	must(t, c.RecordDeployment(ctx, "Web Shop", "w1", "production"))
	pacts, err = source.Pacts(ctx, "order/v1")
	must(t, err)
	if len(pacts) != 1 || pacts[0].Pending {
		t.Errorf("still pending after main fulfilled it: %+v", pacts)
	}
	// From here on, a version of the provider that was not verified with it stays where it is.
	publish(t, c, "w2", "main", contract(t, "Web Shop", "order/v1", "one order"))
	must(t, pacts[0].Publish(ctx, pact.Verification{Provider: "order/v1", Version: "o3", Success: false}))
	if a := deployable(t, c, "order/v1", "o3", "production"); a.Deployable {
		t.Errorf("a breaking version of the provider can be deployed: %+v", a)
	}
}

func TestSelectors(t *testing.T) {
	s, c := start(t, nil, nil)
	ctx := t.Context()
	must(t, c.CreateEnvironment(ctx, broker.Environment{Name: "production"}))
	publish(t, c, "w1", "main", contract(t, "web", "order", "deployed"))
	publish(t, c, "w2", "main", contract(t, "web", "order", "newest of main"))
	publish(t, c, "w3", "feature/x", contract(t, "web", "order", "newest of feature"))
	publish(t, c, "a1", "trunk", contract(t, "app", "order", "app"))
	s.SetMainBranch("app", "trunk")
	must(t, c.RecordDeployment(ctx, "web", "w1", "production"))
	_, err := c.Publish(ctx, broker.Publication{Version: "w4", Tags: []string{"old"}, Pacts: []*pact.File{contract(t, "web", "order", "tagged")}})
	must(t, err)

	for _, tt := range []struct {
		selector string
		want     string
	}{
		{`{"mainBranch": true}`, "newest of main, app"},
		{`{"mainBranch": true, "consumer": "web"}`, "newest of main"},
		{`{"branch": "feature/x"}`, "newest of feature"},
		{`{"branch": "gone", "fallbackBranch": "main"}`, "newest of main"},
		{`{"matchingBranch": true}`, "newest of feature"},
		{`{"deployed": true}`, "deployed"},
		{`{"deployedOrReleased": true}`, "deployed"},
		{`{"environment": "production"}`, "deployed"},
		{`{"tag": "old", "latest": true}`, "tagged"},
		{`{"latest": true}`, "tagged, app"},
	} {
		sel, err := broker.ParseSelector(tt.selector)
		must(t, err)
		pacts, err := c.Source(broker.Selection{Selectors: []broker.Selector{sel}, ProviderBranch: "feature/x"}).Pacts(ctx, "order")
		must(t, err)
		var got []string
		for _, p := range pacts {
			got = append(got, p.Interactions[0].Description)
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("%s selects %v, not %s", tt.selector, got, tt.want)
		}
	}
	if _, err := broker.ParseSelector(`{"mainbrunch": true}`); err == nil || !strings.Contains(err.Error(), "mainbrunch") {
		t.Errorf("an unknown selector: %v", err)
	}
}

func TestWorkInProgress(t *testing.T) {
	_, c := start(t, nil, nil)
	ctx := t.Context()
	publish(t, c, "w1", "main", contract(t, "web", "order", "old"))
	publish(t, c, "w2", "idea", contract(t, "web", "order", "new idea"))
	select1 := broker.Selection{Selectors: []broker.Selector{{MainBranch: true}}, ProviderBranch: "main", Pending: true, WIPSince: time.Now().Add(-time.Hour)}
	pacts, err := c.Source(select1).Pacts(ctx, "order")
	must(t, err)
	if len(pacts) != 2 || pacts[1].Interactions[0].Description != "new idea" || !pacts[1].Pending {
		t.Errorf("work in progress is missing or would fail the build: %+v", pacts)
	}
	select1.WIPSince = time.Now().Add(time.Hour)
	if pacts, err = c.Source(select1).Pacts(ctx, "order"); err != nil || len(pacts) != 1 {
		t.Errorf("older than asked for: %v, %v", pacts, err)
	}
	select1.Pending = false
	if _, err = c.Source(select1).Pacts(ctx, "order"); err == nil {
		t.Error("work in progress without pending is accepted")
	}
}

func TestCredentials(t *testing.T) {
	basic, token := &brokertest.Options{Username: "ci", Password: "secret word"}, &brokertest.Options{Token: "s3cret"}
	for _, tt := range []struct {
		name   string
		server *brokertest.Options
		client *broker.Config
		ok     bool
	}{
		{"basic", basic, &broker.Config{Username: "ci", Password: "secret word"}, true},
		{"bearer", token, &broker.Config{Token: "s3cret"}, true},
		{"none", basic, nil, false},
		{"wrong password", basic, &broker.Config{Username: "ci", Password: "secret"}, false},
		{"wrong token", token, &broker.Config{Token: "secret"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, c := start(t, tt.server, tt.client)
			_, err := c.Environments(t.Context())
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, broker.ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has the password: %v", err)
			}
		})
	}
	if _, err := broker.New("http://localhost", &broker.Config{Token: "t", Username: "u"}); err == nil {
		t.Error("a token and a user name are accepted together")
	}
}

// What the broker refuses or does not know has the reason in the error.
func TestRefusals(t *testing.T) {
	s, c := start(t, nil, nil)
	ctx := t.Context()
	publish(t, c, "w1", "main", contract(t, "web", "order", "one"))
	must(t, c.CreateEnvironment(ctx, broker.Environment{Name: "test"}))
	for _, tt := range []struct {
		name string
		do   func() error
		is   error
		says string
	}{
		{"the same version with another contract", func() error {
			_, err := c.Publish(ctx, broker.Publication{Version: "w1", Pacts: []*pact.File{contract(t, "web", "order", "two")}})
			return err
		}, broker.ErrRefused, "unique consumer version number"},
		{"unknown provider", func() error { _, err := c.Source(broker.Selection{}).Pacts(ctx, "nobody"); return err }, broker.ErrNotFound, `"nobody"`},
		{"nothing selected", func() error {
			_, err := c.Source(broker.Selection{Selectors: []broker.Selector{{Branch: "gone"}}}).Pacts(ctx, "order")
			return err
		}, nil, "no contract with order matches"},
		{"unknown environment", func() error { _, err := c.CanIDeploy(ctx, "web", "w1", "moon"); return err }, broker.ErrRefused, "'moon' does not exist"},
		{"deployment of an unknown version", func() error { return c.RecordDeployment(ctx, "web", "w9", "test") }, broker.ErrNotFound, "version w9 of web"},
		{"deployment to an unknown environment", func() error { return c.RecordDeployment(ctx, "web", "w1", "moon") }, broker.ErrNotFound, `"moon"; there are: test`},
		{"an environment twice", func() error { return c.CreateEnvironment(ctx, broker.Environment{Name: "test"}) }, broker.ErrRefused, "already exists"},
		{"no version", func() error { _, err := c.Publish(ctx, broker.Publication{}); return err }, nil, "version"},
		{"no contract", func() error { _, err := c.Publish(ctx, broker.Publication{Version: "1"}); return err }, nil, "no contract"},
	} {
		err := tt.do()
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	if a := deployable(t, c, "web", "w9", "test"); a.Deployable || !strings.Contains(a.Reason, "version w9 of web") {
		t.Errorf("an unknown version: %+v", a)
	}
	for _, r := range s.Requests() {
		if strings.Contains(r, "//") {
			t.Errorf("a path is put together wrongly: %s", r)
		}
	}
}

// A broker that is none, is broken, or is not there: each has its error, and nothing hangs.
func TestBadBrokers(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); fmt.Fprint(w, body) }
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		is      error
		says    string
	}{
		{"a web page", answer(200, "<html>Welcome</html>"), broker.ErrMalformed, "invalid character"},
		{"JSON that is no HAL", answer(200, `{"status":"ok"}`), broker.ErrMalformed, "has no _links"},
		{"links of another kind", answer(200, `{"_links":{"self":"here"}}`), broker.ErrMalformed, "cannot unmarshal"},
		{"an old broker", answer(200, `{"_links":{"self":{"href":"/"}}}`), broker.ErrMalformed, "pb:environments"},
		{"links elsewhere", answer(200, `{"_links":{"pb:environments":{"href":"https://elsewhere.test/environments"}}}`), broker.ErrMalformed, "https://elsewhere.test"},
		{"a failure", answer(500, `{"error":{"message":"out of\nmemory"}}`), broker.ErrRefused, "HTTP 500: out of memory"},
		{"nothing there", answer(404, ""), broker.ErrNotFound, "HTTP 404"},
		{"an endless answer", answer(200, strings.Repeat(" ", 2000)), broker.ErrMalformed, "larger than 1000 bytes"},
		{"no answer", func(http.ResponseWriter, *http.Request) { <-hang }, broker.ErrUnreachable, "no answer within 100ms"},
		{"half an answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "{")
		}, broker.ErrUnreachable, "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(tt.handler)
			config := &broker.Config{MaxBody: 1000}
			if tt.name == "no answer" { // the only one that is to run into it
				config.Timeout = 100 * time.Millisecond
			} else {
				t.Cleanup(s.Close)
			}
			c, err := broker.New(s.URL, config)
			must(t, err)
			_, err = c.Environments(t.Context())
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
		})
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	c, err := broker.New(gone.URL, nil)
	must(t, err)
	if _, err := c.Environments(t.Context()); !errors.Is(err, broker.ErrUnreachable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody listens: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Environments(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: %v", err)
	}
	for _, bad := range []string{"", "broker.example.com", "ftp://broker", "http://"} {
		if _, err := broker.New(bad, nil); err == nil {
			t.Errorf("%q is accepted as a broker's URL", bad)
		}
	}
	if _, err := broker.FromEnv(func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "PACT_BROKER_BASE_URL") {
		t.Errorf("an empty environment: %v", err)
	}
}

func Example() {
	s := brokertest.Start(nil) // in CI: broker.FromEnv(os.Getenv)
	defer s.Close()
	ctx := context.Background()
	client, err := broker.New(s.URL, nil)
	if err != nil {
		panic(err)
	}
	_ = client.CreateEnvironment(ctx, broker.Environment{Name: "production", Production: true})
	f, err := pact.Parse("web-order.json", []byte(`{"consumer":{"name":"web"},"provider":{"name":"order"},"interactions":[{"type":"Synchronous/HTTP",
		"description":"an order","request":{"method":"GET","path":"/orders/1"},"response":{"status":200}}],"metadata":{"pactSpecification":{"version":"4.0"}}}`))
	if err != nil {
		panic(err)
	}
	if _, err := client.Publish(ctx, broker.Publication{Version: "4f2a", Branch: "main", Pacts: []*pact.File{f}}); err != nil {
		panic(err)
	}
	answer, err := client.CanIDeploy(ctx, "web", "4f2a", "production")
	if err != nil {
		panic(err)
	}
	fmt.Println(answer.Deployable, answer.Reason)
	// Output: false There is no verified pact between version 4f2a of web and a version of order currently deployed or released and supported in production
}
