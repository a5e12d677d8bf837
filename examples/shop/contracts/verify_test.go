package contracts_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

// providers are the services that somebody relies on.
var providers = []string{"auth", "user", "catalog", "cart", "payment", "inventory", "order", "notification", "gateway"}

func TestProviders(t *testing.T) {
	contracttest.Need(t)
	s := open(t)
	for _, name := range providers {
		t.Run(name, func(t *testing.T) { contracttest.Verify(t, s.provider(name)) })
	}
}

// Every pair that talks to each other has a contract, and every contract is of such
// a pair.
func TestPairs(t *testing.T) {
	want := []string{
		"cart-catalog", "client-gateway", "storefront-gateway", // calls
		"order-cart", "order-payment", "order-inventory", // calls, and replies to commands
		"payment-order", "inventory-order", // commands
		"cart-order", "catalog-inventory", "inventory-catalog", "notification-order", "notification-user", "user-auth", // events
	}
	for _, p := range []string{"auth", "user", "catalog", "cart", "payment", "order"} {
		want = append(want, "storefront-"+p, "gateway-"+p)
	}
	want = append(want, "gateway-inventory")
	for _, p := range []string{"user", "catalog", "cart", "payment", "inventory", "order", "notification"} {
		want = append(want, "console-"+p)
	}
	slices.Sort(want)
	files, err := filepath.Glob("pacts/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, path := range files {
		f, err := pact.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(path) != pact.FileName(f.Consumer, f.Provider) {
			t.Errorf("%s is the contract of %s with %s", path, f.Consumer, f.Provider)
		}
		have = append(have, f.Consumer+"-"+f.Provider)
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("contracts are there of\n%v\nwant\n%v", have, want)
	}
}
