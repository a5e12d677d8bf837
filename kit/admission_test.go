package kit_test

import (
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/resilience"
)

// front calls back, and both share one shedder, as services of one process do. With
// every place taken by calls to front, each of them still gets its answer from back.
func TestSharedShedderAdmitsOnce(t *testing.T) {
	const places = 10
	shared, err := resilience.NewShedder(&resilience.ShedderConfig{InitialLimit: places, MinLimit: places, MaxLimit: places, MaxQueue: 1})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	back, _ := w.service(t, w.allow(t, authn.NoUser, "front", "caller"), kit.Config{Name: "back", Shedder: shared})
	grpc_testing.RegisterTestServiceServer(back, &server{})
	run(t, back)
	front, _ := w.service(t, w.allow(t, authn.NoUser, "caller"), kit.Config{Name: "front", Shedder: shared, Peers: map[string]kit.Peer{"back": w.peer(t, back)}})
	next := stub(t, front, "back", kit.WithoutResilience())
	arrived, full := make(chan struct{}), make(chan struct{})
	grpc_testing.RegisterTestServiceServer(front, &server{unary: func(ctx context.Context, req *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		arrived <- struct{}{}
		<-full
		if _, err := next.UnaryCall(ctx, req); err != nil {
			return nil, err
		}
		ss, err := next.FullDuplexCall(ctx)
		if err != nil {
			return nil, err
		}
		if err := ss.Send(&grpc_testing.StreamingOutputCallRequest{}); err != nil {
			return nil, err
		}
		if _, err := ss.Recv(); err != nil {
			return nil, err
		}
		return &grpc_testing.SimpleResponse{}, ss.CloseSend()
	}})
	run(t, front)
	caller, _ := w.client(t, "caller", map[string]kit.Peer{"front": w.peer(t, front), "back": w.peer(t, back)})
	c := stub(t, caller, "front", kit.WithoutResilience())

	const held = places * 95 / 100 // what the class CRITICAL may fill
	var calls sync.WaitGroup
	errs := make(chan error, held)
	for range held {
		calls.Go(func() {
			_, err := c.UnaryCall(within(t), &grpc_testing.SimpleRequest{})
			errs <- err
		})
	}
	for range held {
		<-arrived
	}
	// Others are shed, whichever service they ask, also with a token they made up.
	if _, err := stub(t, caller, "back", kit.WithoutResilience()).UnaryCall(within(t), &grpc_testing.SimpleRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a call from outside while all places are taken: %v", err)
	}
	close(full)
	calls.Wait()
	for range held {
		if err := <-errs; err != nil {
			t.Errorf("an admitted request: %v", err)
		}
	}
}
