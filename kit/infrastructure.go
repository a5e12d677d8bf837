package kit

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/resilience"
)

// IsInfrastructure reports whether err says something of the state of the system and
// nothing of the message that was handled: a policy of this process refused a call, a
// retry budget is spent, or a peer is away or overloaded. For
// inbox.ConsumerConfig.IsInfrastructure: such a failure pauses the consumer and counts
// for nothing.
func IsInfrastructure(err error) bool {
	if resilience.IsLocalRejection(err) || errors.Is(err, resilience.ErrBudgetExhausted) {
		return true
	}
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return false
	}
	c := carrier.GRPCStatus().Code()
	return c == codes.Unavailable || c == codes.ResourceExhausted
}
