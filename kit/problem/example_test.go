package problem_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/napkin-kit/napkin/kit/problem"
)

func ExampleWrite() {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/v1/orders/o-1", nil)
	problem.Write(w, r, problem.New(http.StatusNotFound, "order_not_found", "no such order"))
	fmt.Println(w.Code, w.Body)
	// Output: 404 {"code":"order_not_found","detail":"no such order","instance":"/v1/orders/o-1","status":404,"title":"Not Found","type":"about:blank"}
}

// What the caller reads is not what the operator reads.
func ExampleProblem_Because() {
	cause := errors.New("dial tcp 10.0.0.7:5432: connection refused")
	err := problem.New(http.StatusServiceUnavailable, "try_again", "please try again").Because(cause)
	fmt.Println("log:   ", err)
	fmt.Println("caller:", problem.Of(err).Detail)
	// Output:
	// log:    try_again: please try again: dial tcp 10.0.0.7:5432: connection refused
	// caller: please try again
}

func ExampleInvalid() {
	p := problem.Invalid(problem.Field{Field: "items[0].quantity", Message: "must be at least 1", Rule: "int32.gte"})
	fmt.Println(p.Status, p.Code, p.Detail)
	// Output: 400 invalid_argument items[0].quantity: must be at least 1
}
