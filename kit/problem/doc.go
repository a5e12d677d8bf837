// Package problem is RFC 9457 "Problem Details for HTTP APIs": one error type that
// handlers return and that HTTP renders as application/problem+json.
//
// A handler says what went wrong in terms its caller may read:
//
//	return problem.New(http.StatusNotFound, "order_not_found", "no such order")
//
// and, for input that does not hold, which fields and why:
//
//	return problem.Invalid(problem.Field{Field: "items[0].quantity", Message: "must be at least 1", Rule: "int32.gte"})
//
// The HTTP side renders any error:
//
//	if err := place(r); err != nil {
//		problem.Write(w, r, err)
//		return
//	}
//
// Package grpcproblem carries the same value over gRPC and back without loss.
//
// # Errors
//
// A [Problem] is an error. [Of] finds one in a chain with errors.As; an error that
// holds none becomes a 500 whose text says nothing of the cause, for what the
// operator reads is not what the user reads. The cause stays reachable by
// errors.Is through [Problem.Unwrap] and is never written to a response.
package problem
