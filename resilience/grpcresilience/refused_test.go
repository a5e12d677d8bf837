package grpcresilience

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/resilience"
)

// What a Shedder refuses on the server is told apart from a server that is
// down, by what is on the wire.
func TestClassifyTellsSheddingFromFailure(t *testing.T) {
	shed := &resilience.Rejection{Policy: "shedder", After: time.Second, Err: resilience.ErrShed}
	onWire := status.Convert(StatusError(shed)).Err()
	var local *resilience.Rejection
	if errors.As(onWire, &local) {
		t.Fatal("the client sees the server's own value")
	}
	want := resilience.Class{Health: resilience.Unhealthy, Retry: true, After: time.Second, Refused: true}
	if got := Classify(onWire); got != want {
		t.Errorf("shed: %+v, want %+v", got, want)
	}
	if got := Classify(status.Error(codes.Unavailable, "connection refused")); got.Refused {
		t.Errorf("down: %+v, want a failure", got)
	}
}
