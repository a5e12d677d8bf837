package kit_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/resilience"
)

func TestIsInfrastructure(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("no such product"), false},
		{context.DeadlineExceeded, false},
		{&resilience.Rejection{Err: resilience.ErrOpen}, true},
		{&resilience.RetryError{Cause: errors.New("x"), Reason: resilience.ErrBudgetExhausted}, true},
		{fmt.Errorf("calling: %w", status.Error(codes.Unavailable, "x")), true},
		{status.Error(codes.ResourceExhausted, "x"), true},
		{status.Error(codes.InvalidArgument, "x"), false},
	} {
		if got := kit.IsInfrastructure(tt.err); got != tt.want {
			t.Errorf("%v: %t", tt.err, got)
		}
	}
}
