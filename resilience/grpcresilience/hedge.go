package grpcresilience

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/resilience"
)

// hedged makes a call whose attempts may overlap: each has a reply of its own,
// and its own place for whatever the caller's options write to. Only the
// attempt that decides the call is seen by the caller.
func hedged(ctx context.Context, p *resilience.Pipeline, call resilience.Call, u *unary, reply proto.Message, opts []grpc.CallOption) error {
	var (
		mu    sync.Mutex
		over  bool
		ended []*hedgedAttempt
	)
	kind := reply.ProtoReflect().Type() // asked now: a late attempt must not look at reply
	err := p.Call(ctx, call, func(ctx context.Context) error {
		a := newHedgedAttempt(u, kind.New().Interface(), opts)
		a.err = a.attempt(ctx)
		mu.Lock()
		defer mu.Unlock()
		if !over {
			ended = append(ended, a)
		}
		return a.err
	})
	mu.Lock()
	defer mu.Unlock()
	over = true
	for _, a := range ended {
		// The first success, or the very failure that the call ends with.
		if err == nil && a.err == nil {
			proto.Reset(reply)
			proto.Merge(reply, a.reply.(proto.Message))
			a.publish()
			break
		}
		if err != nil && a.err != nil && errors.Is(err, a.err) {
			a.publish()
			break
		}
	}
	return err
}

// hedgedAttempt is one attempt beside others.
type hedgedAttempt struct {
	unary
	given    []grpc.CallOption // the caller's
	header   metadata.MD
	trailers metadata.MD
	peer     peer.Peer
	err      error
}

func newHedgedAttempt(u *unary, reply proto.Message, opts []grpc.CallOption) *hedgedAttempt {
	a := &hedgedAttempt{given: opts, unary: unary{
		method: u.method, req: u.req, cc: u.cc, invoker: u.invoker,
		reply: reply,
	}}
	own := make([]grpc.CallOption, len(opts))
	for i, o := range opts {
		switch o.(type) {
		case grpc.HeaderCallOption:
			o = grpc.Header(&a.header)
		case grpc.TrailerCallOption:
			o = grpc.Trailer(&a.trailers)
		case grpc.PeerCallOption:
			o = grpc.Peer(&a.peer)
		}
		own[i] = o
	}
	a.observe(own)
	return a
}

// publish writes what the attempt saw to where the caller wants it.
func (a *hedgedAttempt) publish() {
	for _, o := range a.given {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = a.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = a.trailers
		case grpc.PeerCallOption:
			*o.PeerAddr = a.peer
		}
	}
}
