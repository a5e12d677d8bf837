package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/napkin-kit/napkin/contracttest/broker"
	"github.com/napkin-kit/napkin/contracttest/broker/brokertest"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

const webOrder = `{"consumer":{"name":"web"},"provider":{"name":"order"},"interactions":[{"type":"Synchronous/HTTP","description":"an order",
"request":{"method":"GET","path":"/orders/1"},"response":{"status":200}}],"metadata":{"pactSpecification":{"version":"4.0"}}}`

// The commands of a pipeline, one after the other: published, not deployable, verified, deployable, deployed.
func TestPipelineWithABroker(t *testing.T) {
	t.Chdir(t.TempDir())
	git(t, "init", "-q")
	write(t, "pacts/web-order.json", webOrder)
	commit(t, "web reads an order")
	hash := git(t, "rev-parse", "HEAD")
	s := brokertest.Start(&brokertest.Options{Token: "let me in"})
	t.Cleanup(s.Close)
	env := []string{"PACT_BROKER_BASE_URL=" + s.URL, "PACT_BROKER_TOKEN=let me in"}
	c, err := broker.New(s.URL, &broker.Config{Token: "let me in"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreateEnvironment(t.Context(), broker.Environment{Name: "production"}); err != nil {
		t.Fatal(err)
	}

	napkin(t, nil, "contract", "publish", "--broker", s.URL).expect(t, 2, "refuses the credentials")
	napkin(t, env, "contract", "publish").expect(t, 0, "Pact successfully published for web version "+hash)

	ask := []string{"contract", "can-i-deploy", "--name", "web", "--to", "production"}
	r := napkin(t, append(env, "GITHUB_ACTIONS=true"), append(ask, "--junit", "no.xml")...)
	r.expect(t, 1, "cannot be deployed to production: There is no verified pact")
	if !strings.Contains(r.stdout, "::error title=web "+hash+" to production%3A web with order::web "+hash+" with order ?: not verified") {
		t.Errorf("no annotation in:\n%s", r.stdout)
	}
	if tests, failures, _ := suites(t, "no.xml"); tests != 1 || failures != 1 {
		t.Errorf("JUnit has %d tests, %d failed", tests, failures)
	}

	// The provider fulfils it while can-i-deploy waits for that.
	pacts, err := c.Source(broker.Selection{Pending: true, ProviderBranch: "main"}).Pacts(t.Context(), "order")
	if err != nil {
		t.Fatal(err)
	}
	var waited ran
	var waiting sync.WaitGroup
	waiting.Go(func() { waited = napkin(t, env, append(ask, "--wait", "2m", "--every", "20ms")...) })
	t.Cleanup(waiting.Wait)
	if err := pacts[0].Publish(t.Context(), pact.Verification{Provider: "order", Version: "o1", Branch: "main", Success: true}); err != nil {
		t.Error(err)
	}
	napkin(t, env, "contract", "record-deployment", "--name", "order", "--version", "o1", "--to", "production").expect(t, 0, "order o1 is recorded")
	waiting.Wait()
	waited.expect(t, 0, "can be deployed to production")

	napkin(t, env, "contract", "record-deployment", "--name", "web", "--to", "moon").expect(t, 2, `"moon"; there are: production`)
	napkin(t, env, append(ask[:3:3], "web", "--to", "moon")...).expect(t, 2, "'moon' does not exist")
	// The branch came from git.
	main, err := c.Source(broker.Selection{Selectors: []broker.Selector{{Branch: "main"}}}).Pacts(t.Context(), "order")
	if err != nil || len(main) != 1 {
		t.Errorf("the contract has no branch: %v, %v", main, err)
	}
}

// A broker that says nothing useful, or nothing at all, ends the command in time.
func TestBadBrokersEndTheCommand(t *testing.T) {
	hang := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(hang) })
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	t.Cleanup(page.Close)
	ask := []string{"contract", "can-i-deploy", "--name", "web", "--version", "1", "--to", "production", "--broker"}
	napkin(t, nil, append(ask, silent.URL, "--timeout", "200ms")...).expect(t, 2, "no answer within 200ms")
	napkin(t, nil, append(ask, page.URL)...).expect(t, 2, "not an answer of a Pact Broker")
}

const api = `openapi: 3.0.3
info: {title: orders, version: "1"}
paths:
  /orders/{id}:
    get:
      parameters: [{name: id, in: path, required: true, schema: {type: string}}]
      responses:
        "200":
          description: the order
          content: {application/json: {schema: {type: object, properties: {id: {type: string}, total: {type: integer}}}}}
`

func TestBreaking(t *testing.T) {
	need(t, "oasdiff")
	t.Chdir(t.TempDir())
	git(t, "init", "-q")
	write(t, "api.yaml", api)
	commit(t, "orders")
	check := []string{"contract", "breaking", "--openapi", "api.yaml"}
	napkin(t, nil, check...).expect(t, 0, "first commit")
	write(t, "api.yaml", strings.Replace(api, "id: {type: string}, total", "id: {type: string}, note: {type: string}, total", 1))
	commit(t, "a note")
	napkin(t, nil, check...).expect(t, 0, "no breaking change")

	write(t, "api.yaml", strings.Replace(api, ", total: {type: integer}", "", 1))
	git(t, "checkout", "-q", "-b", "feature")
	commit(t, "no total")
	onMain := append(check, "--branch", "main")
	r := napkin(t, nil, append(onMain, "--github", "--junit", "out.xml")...)
	r.expect(t, 1, "2 breaking changes since "+git(t, "rev-parse", "main"))
	if !strings.Contains(r.stdout, "::error file=api.yaml,") || !strings.Contains(r.stdout, "GET /orders/{id}: breaking: removed the optional property `total`") {
		t.Errorf("no annotation or no line for people:\n%s", r.stdout)
	}
	if tests, failures, _ := suites(t, "out.xml"); tests != 2 || failures != 2 {
		t.Errorf("JUnit has %d tests, %d failed", tests, failures)
	}
	napkin(t, nil, append(check, "--against", "v9")...).expect(t, 2, `no commit "v9"`)
	napkin(t, nil, append(onMain, "--junit", "no/such/dir.xml")...).expect(t, 2, "no/such/dir.xml")

	napkin(t, nil, append(onMain, "--accepted", "accepted", "--accept")...).expect(t, 0, "2 changes added")
	napkin(t, nil, append(onMain, "--accepted", "accepted")...).expect(t, 0, "2 accepted")
	napkin(t, nil, append(check, "--against", "HEAD", "--accepted", "accepted")...).expect(t, 0, "take the line out")
	if err := os.WriteFile("saved.yaml", []byte(api), 0o644); err != nil {
		t.Fatal(err)
	}
	napkin(t, nil, append(check, "--against", "saved.yaml")...).expect(t, 1, "1 breaking changes since saved.yaml")

	t.Setenv("PATH", "/nowhere")
	napkin(t, nil, append(check, "--against", "saved.yaml")...).expect(t, 2, "run: go install github.com/oasdiff/oasdiff@v")
}
