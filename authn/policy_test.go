package authn_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
)

var (
	order   = spiffeid.RequireFromString("spiffe://shop.test/order")
	cart    = spiffeid.RequireFromString("spiffe://shop.test/cart")
	gateway = spiffeid.RequireFromString("spiffe://shop.test/gateway")
	foreign = spiffeid.RequireFromString("spiffe://elsewhere.test/order")
)

func samplePolicy(t testing.TB) *authn.Policy {
	t.Helper()
	p, err := authn.NewPolicy(
		authn.Rule{Method: "/shop.Payments/*", From: []spiffeid.ID{order}},
		authn.Rule{Method: "/shop.Payments/Refund", From: []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: []string{"shop:admin"}},
		authn.Rule{Method: "/shop.Payments/List", From: []spiffeid.ID{gateway}, User: authn.UserRequired},
		authn.Rule{Method: "/shop.Payments/Ping", From: []spiffeid.ID{gateway}, User: authn.UserOptional},
		authn.Rule{Method: "/grpc.health.v1.Health/Check", AnyWorkload: true},
	)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicyAuthorize(t *testing.T) {
	p := samplePolicy(t)
	user := &authn.Principal{Subject: "u1"}
	admin := &authn.Principal{Subject: "a1", Scopes: []string{"shop:admin", "x"}}
	for _, c := range []struct {
		method string
		peer   spiffeid.ID
		user   *authn.Principal
		want   error
	}{
		{"/shop.Payments/Capture", order, nil, nil},
		{"/shop.Payments/Capture", cart, nil, authn.ErrDenied},
		{"/shop.Payments/Capture", foreign, nil, authn.ErrDenied},
		{"/shop.Payments/Capture", spiffeid.ID{}, nil, authn.ErrPeerUnknown},
		{"/shop.Payments/Capture", cart, admin, authn.ErrDenied}, // a user does not lift the caller
		{"/shop.Payments/Refund", order, admin, authn.ErrDenied}, // the full name decides alone
		{"/shop.Payments/Refund", gateway, nil, authn.ErrTokenMissing},
		{"/shop.Payments/Refund", gateway, &authn.Principal{Workload: gateway}, authn.ErrTokenMissing},
		{"/shop.Payments/Refund", gateway, user, authn.ErrScopeMissing},
		{"/shop.Payments/Refund", gateway, admin, nil},
		{"/shop.Payments/List", gateway, user, nil},
		{"/shop.Payments/Ping", gateway, nil, nil},
		{"/shop.Payments/Ping", gateway, user, nil},
		{"/grpc.health.v1.Health/Check", cart, nil, nil},
		{"/grpc.health.v1.Health/Watch", cart, nil, authn.ErrDenied},
		{"/shop.Unknown/X", order, nil, authn.ErrDenied},
		{"/shop.Payments", order, nil, authn.ErrDenied},
		{"shop.Payments/Capture", order, nil, authn.ErrDenied},
		{"", order, nil, authn.ErrDenied},
	} {
		err := p.Authorize(c.method, c.peer, c.user)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("Authorize(%q, %v, %v) = %v, want %v", c.method, c.peer, c.user, err, c.want)
		}
	}
}

func TestNilPolicyDeniesEverything(t *testing.T) {
	var p *authn.Policy
	if err := p.Authorize("/a.B/C", order, nil); !errors.Is(err, authn.ErrDenied) {
		t.Errorf("Authorize: %v", err)
	}
	if err := p.Authorizer(order.TrustDomain())(order, nil); !errors.Is(err, authn.ErrDenied) {
		t.Errorf("Authorizer: %v", err)
	}
	if err := p.Check([]string{"/a.B/C"}); err == nil {
		t.Error("Check passed a method without a rule")
	}
	if p.NeedsVerifier() {
		t.Error("NeedsVerifier")
	}
}

func TestPolicyAuthorizerAdmitsWhomAnyRuleNames(t *testing.T) {
	p, err := authn.NewPolicy(
		authn.Rule{Method: "/a.B/C", From: []spiffeid.ID{order}},
		authn.Rule{Method: "/a.B/D", From: []spiffeid.ID{foreign}},
	)
	if err != nil {
		t.Fatal(err)
	}
	authorize := p.Authorizer(order.TrustDomain())
	for id, want := range map[spiffeid.ID]bool{order: true, foreign: true, cart: false} {
		if got := authorize(id, nil) == nil; got != want {
			t.Errorf("%s admitted: %v, want %v", id, got, want)
		}
	}
	anyWorkload := samplePolicy(t).Authorizer(order.TrustDomain())
	for id, want := range map[spiffeid.ID]bool{order: true, cart: true, foreign: false} {
		if got := anyWorkload(id, nil) == nil; got != want {
			t.Errorf("with AnyWorkload, %s admitted: %v, want %v", id, got, want)
		}
	}
}

func TestNewPolicyNamesEveryFault(t *testing.T) {
	from := []spiffeid.ID{order}
	_, err := authn.NewPolicy(
		authn.Rule{Method: "shop.Payments/Capture", From: from},
		authn.Rule{Method: "/shop.Payments/Cap*", From: from},
		authn.Rule{Method: "/shop.A/Nobody"},
		authn.Rule{Method: "/shop.A/Both", From: from, AnyWorkload: true},
		authn.Rule{Method: "/shop.A/Zero", From: []spiffeid.ID{{}}},
		authn.Rule{Method: "/shop.A/Domain", From: []spiffeid.ID{order.TrustDomain().ID()}},
		authn.Rule{Method: "/shop.A/Rule", From: from, User: 7},
		authn.Rule{Method: "/shop.A/Scopes", From: from, Scopes: []string{"x"}},
		authn.Rule{Method: "/shop.A/Space", From: from, User: authn.UserRequired, Scopes: []string{"a b"}},
		authn.Rule{Method: "/shop.A/Twice", From: from},
		authn.Rule{Method: "/shop.A/Twice", From: from},
	)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`"shop.Payments/Capture": Method must be`, `"/shop.Payments/Cap*": Method must be`,
		`"/shop.A/Nobody" admits nobody`, `"/shop.A/Both" has both`, `"/shop.A/Zero": From holds an empty`,
		`"/shop.A/Domain": From holds a trust domain`, `"/shop.A/Rule": User must be`,
		`"/shop.A/Scopes" asks for scopes`, `"/shop.A/Space": Scopes holds`, `"/shop.A/Twice" stands twice`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Error("the error has several lines")
	}
}

func TestPolicyIsNotChangedThroughItsRules(t *testing.T) {
	from := []spiffeid.ID{order}
	p, err := authn.NewPolicy(authn.Rule{Method: "/a.B/C", From: from})
	if err != nil {
		t.Fatal(err)
	}
	from[0] = cart
	if err := p.Authorize("/a.B/C", cart, nil); !errors.Is(err, authn.ErrDenied) {
		t.Error("changing the caller's slice changed the policy")
	}
}

func TestPolicyCheck(t *testing.T) {
	p := samplePolicy(t)
	registered := []string{
		"/shop.Payments/Capture", "/shop.Payments/Refund", "/shop.Payments/List", "/shop.Payments/Ping",
		"/grpc.health.v1.Health/Check",
	}
	if err := p.Check(registered); err != nil {
		t.Errorf("a policy that fits: %v", err)
	}

	err := p.Check(append(registered, "/grpc.health.v1.Health/Watch", "/shop.Other/Do"))
	for _, want := range []string{"no rule for /grpc.health.v1.Health/Watch", "no rule for /shop.Other/Do"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from: %v", want, err)
		}
	}

	misspelt, err := authn.NewPolicy(
		authn.Rule{Method: "/shop.Payment/*", From: []spiffeid.ID{order}},
		authn.Rule{Method: "/shop.Payments/Refnud", From: []spiffeid.ID{order}},
		authn.Rule{Method: "/grpc.health.v1.Health/*", AnyWorkload: true},
	)
	if err != nil {
		t.Fatal(err)
	}
	err = misspelt.Check(registered)
	for _, want := range []string{
		"a rule names /shop.Payments/Refnud, which is not registered (did you mean /shop.Payments/Refund?)",
		"a rule names /shop.Payment/, which is not registered (did you mean /shop.Payments/?)",
		"no rule for /shop.Payments/Capture",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from: %v", want, err)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add("/shop.Payments/Capture", "spiffe://shop.test/order")
	f.Add("/shop.Payments/", "spiffe://shop.test/cart")
	f.Add("//", "")
	p, err := authn.NewPolicy(authn.Rule{Method: "/shop.Payments/*", From: []spiffeid.ID{order}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, peer string) {
		id, err := spiffeid.FromString(peer)
		if err != nil {
			id = spiffeid.ID{}
		}
		if p.Authorize(method, id, nil) == nil && (id != order || !strings.HasPrefix(method, "/shop.Payments/")) {
			t.Errorf("admitted %q from %q", method, peer)
		}
	})
}
