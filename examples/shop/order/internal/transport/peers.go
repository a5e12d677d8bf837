package transport

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func isNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// peerError passes on what another service said to our caller, where it is our
// caller's to know. A peer that did not let us in is our fault, not theirs.
func peerError(err error) error {
	switch status.Code(err) {
	case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.Aborted,
		codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Canceled:
		return err
	}
	return fmt.Errorf("order: a service that this one needs refused: %v", err) //nolint:errorlint // its status must not become ours
}
