package grpcproblem_test

import (
	"fmt"

	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
)

// The status keeps what HTTP said, so an edge renders the very same problem.
func ExampleToStatus() {
	s := grpcproblem.ToStatus(problem.New(422, "key_reused", "this key was used for another request"))
	fmt.Println(s.Code(), s.Message())
	fmt.Println(grpcproblem.FromStatus(s).Status, grpcproblem.FromStatus(s).Code)
	// Output:
	// FailedPrecondition this key was used for another request
	// 422 key_reused
}
