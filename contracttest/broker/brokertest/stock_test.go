//go:build pact && cgo

package brokertest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/pact-foundation/pact-go/v2/provider"

	"github.com/napkin-kit/napkin/contracttest/broker"
	"github.com/napkin-kit/napkin/contracttest/broker/brokertest"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

// Pact's own verifier, which knows nothing of this client, finds its way through the server: selectors, pending
// contracts, branches and results.
func TestPactsOwnVerifier(t *testing.T) {
	s := brokertest.Start(&brokertest.Options{Token: "t0ken"})
	t.Cleanup(s.Close)
	c, err := broker.New(s.URL, &broker.Config{Token: "t0ken"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := pact.Parse("test", []byte(`{"consumer":{"name":"Web Shop"},"provider":{"name":"order"},"interactions":[{"type":"Synchronous/HTTP",
		"description":"an order","request":{"method":"GET","path":"/orders/1"},"response":{"status":200}}],"metadata":{"pactSpecification":{"version":"4.0"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreateEnvironment(t.Context(), broker.Environment{Name: "production"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), broker.Publication{Version: "w1", Branch: "main", Pacts: []*pact.File{f}}); err != nil {
		t.Fatal(err)
	}
	status := http.StatusNotFound
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(service.Close)
	verify := func(version string) error {
		return provider.NewVerifier().VerifyProvider(t, provider.VerifyRequest{
			Provider: "order", ProviderBaseURL: service.URL, ProviderVersion: version, ProviderBranch: "main",
			BrokerURL: s.URL, BrokerToken: "t0ken", PublishVerificationResults: true, EnablePending: true,
			ConsumerVersionSelectors: []provider.Selector{&provider.ConsumerVersionSelector{MainBranch: true}},
		})
	}
	deployable := func(version string) bool {
		if err := c.RecordDeployment(t.Context(), "order", version, "production"); err != nil {
			t.Fatal(err)
		}
		a, err := c.CanIDeploy(t.Context(), "Web Shop", "w1", "production")
		if err != nil {
			t.Fatal(err)
		}
		return a.Deployable
	}
	if err := verify("o1"); err != nil { // pending: it fails nothing
		t.Error(fmt.Errorf("pending contract: %w", err))
	}
	if deployable("o1") {
		t.Error("deployable after a result that says no")
	}
	status = http.StatusOK
	if err := verify("o2"); err != nil {
		t.Error(err)
	}
	if !deployable("o2") {
		t.Error("not deployable after a result that says yes")
	}
}
