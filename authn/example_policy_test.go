package authn_test

import (
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
)

func ExampleNewPolicy() {
	order := spiffeid.RequireFromString("spiffe://shop.test/order")
	gateway := spiffeid.RequireFromString("spiffe://shop.test/gateway")
	policy, err := authn.NewPolicy(
		authn.Rule{Method: "/shop.payment.v1.Payments/Capture", From: []spiffeid.ID{order}},
		authn.Rule{
			Method: "/shop.payment.v1.Payments/Refund", From: []spiffeid.ID{gateway},
			User: authn.UserRequired, Scopes: []string{"shop:admin"},
		},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	customer := &authn.Principal{Subject: "u1", Scopes: []string{"orders:write"}}

	fmt.Println(policy.Authorize("/shop.payment.v1.Payments/Capture", order, nil))
	fmt.Println(errors.Is(policy.Authorize("/shop.payment.v1.Payments/Capture", gateway, nil), authn.ErrDenied))
	fmt.Println(policy.Authorize("/shop.payment.v1.Payments/Refund", gateway, customer))
	// Output:
	// <nil>
	// true
	// authn: scope missing: /shop.payment.v1.Payments/Refund asks for shop:admin
}

// A rule that is misspelt and a method that is forgotten both stop the start.
func ExamplePolicy_Check() {
	order := spiffeid.RequireFromString("spiffe://shop.test/order")
	policy, err := authn.NewPolicy(authn.Rule{Method: "/shop.payment.v1.Payments/Captrue", From: []spiffeid.ID{order}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(policy.Check([]string{"/shop.payment.v1.Payments/Capture"})) // grpcauthn.Methods(server)
	// Output:
	// authn: policy does not fit the server: no rule for /shop.payment.v1.Payments/Capture; a rule names /shop.payment.v1.Payments/Captrue, which is not registered (did you mean /shop.payment.v1.Payments/Capture?)
}
