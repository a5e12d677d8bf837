package transport_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/provider"
)

// ledger asks the provider what it knows of a reference.
func ledger(t *testing.T, base, reference string) provider.Account {
	t.Helper()
	rq, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/v1/ledger?reference="+reference, nil)
	if err != nil {
		t.Fatal(err)
	}
	rq.Header.Set("Authorization", "Bearer sk_test")
	rq.Close = true
	resp, err := http.DefaultClient.Do(rq)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var body provider.LedgerResponse
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if len(body.Accounts) == 0 {
		return provider.Account{}
	}
	return body.Accounts[0]
}

// countingAcquirer counts authorisations on their way to a real one.
type countingAcquirer struct {
	domain.Acquirer
	authorized int
}

func (c *countingAcquirer) Authorize(ctx context.Context, key string, card domain.Card, amount int64, currency, reference string) (domain.Answer, error) {
	c.authorized++
	return c.Acquirer.Authorize(ctx, key, card, amount, currency, reference)
}
