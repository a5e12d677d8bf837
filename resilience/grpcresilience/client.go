package grpcresilience

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/napkin-kit/napkin/resilience"
)

// Names in gRPC metadata.
var (
	metaCriticality = strings.ToLower(resilience.HeaderCriticality)
	metaAttempt     = strings.ToLower(resilience.HeaderAttempt)
	metaKey         = strings.ToLower(resilience.HeaderIdempotencyKey)
)

// DialOptions makes a connection's calls through the pipeline of a destination:
// its name in d, usually the peer's. Interceptors given to grpc.NewClient before
// these options run outside, those given after run once per attempt.
func DialOptions(d *resilience.Destinations, destination string) []grpc.DialOption {
	c := &client{destinations: d, name: destination}
	return []grpc.DialOption{
		grpc.WithDisableRetry(),
		grpc.WithChainUnaryInterceptor(c.unary),
		grpc.WithChainStreamInterceptor(c.stream),
	}
}

type client struct {
	destinations *resilience.Destinations
	name         string
	methods      sync.Map // method → bool: declared idempotent
}

func (c *client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	p, err := c.destinations.Get(c.name)
	if err != nil {
		return err
	}
	err = p.Call(ctx, resilience.Call{Idempotent: c.idempotent(ctx, method), Endpoint: method}, func(ctx context.Context) error {
		var (
			on      peer.Peer
			trailer metadata.MD
		)
		err := invoker(toWire(ctx), method, req, reply, cc, append(opts[:len(opts):len(opts)], grpc.Peer(&on), grpc.Trailer(&trailer))...)
		if err == nil {
			return nil
		}
		if err := unsendable(err, req); err != nil {
			return err
		}
		// Without a peer the attempt never had a stream on a connection.
		return attemptError(err, on.Addr != nil, trailer)
	})
	return StatusError(err)
}

// toWire adds criticality and attempt number to the outgoing metadata.
func toWire(ctx context.Context) context.Context {
	if resilience.HasCriticality(ctx) {
		ctx = metadata.AppendToOutgoingContext(ctx, metaCriticality, resilience.CriticalityFrom(ctx).String())
	}
	if n := resilience.AttemptFrom(ctx); n > 1 {
		ctx = metadata.AppendToOutgoingContext(ctx, metaAttempt, strconv.Itoa(n))
	}
	return ctx
}

func (c *client) idempotent(ctx context.Context, method string) bool {
	if c.declared(method) || resilience.IsIdempotent(ctx) {
		return true
	}
	md, ok := metadata.FromOutgoingContext(ctx)
	return ok && len(md.Get(metaKey)) > 0
}

// declared reports whether the method has an idempotency_level. The methods of
// a connection are few, so the answers are kept.
func (c *client) declared(method string) bool {
	if v, ok := c.methods.Load(method); ok {
		return v.(bool)
	}
	v := declaredIdempotent(method)
	c.methods.Store(method, v)
	return v
}

func declaredIdempotent(method string) bool {
	name := strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return false
	}
	options, ok := d.Options().(*descriptorpb.MethodOptions)
	if !ok {
		return false
	}
	return options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
}

func (c *client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	p, err := c.destinations.Get(c.name)
	if err != nil {
		return nil, err
	}
	pass, err := p.Begin(ctx, resilience.Call{Endpoint: method})
	if err != nil {
		return nil, StatusError(err)
	}
	started := false
	defer func() {
		if !started { // also after a panic of the streamer
			pass.End(ctx, errNotStarted)
		}
	}()
	streamCtx, cancel := context.WithCancel(ctx)
	inner, err := streamer(toWire(streamCtx), desc, cc, method, opts...)
	if err != nil {
		cancel()
		pass.End(ctx, attemptError(err, false, nil))
		started = true
		return nil, StatusError(err)
	}
	started = true
	s := &clientStream{ClientStream: inner, caller: ctx, pass: pass, cancel: cancel, single: !desc.ServerStreams}
	// A stream that its caller drops ends with its context, at the latest.
	s.stopWatch = context.AfterFunc(ctx, func() { s.end(ctx.Err()) })
	return s, nil
}

var errNotStarted = errors.New("grpcresilience: the stream did not start")

// clientStream reports its end to the pipeline, once.
type clientStream struct {
	grpc.ClientStream
	caller    context.Context //nolint:containedctx // a stream lives in its caller's context
	pass      *resilience.Pass
	cancel    context.CancelFunc
	stopWatch func() bool
	single    bool // one response, then the end
}

func (s *clientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	switch {
	case errors.Is(err, io.EOF):
		s.finish(nil)
	case err != nil:
		s.finish(err)
	case s.single:
		s.finish(nil)
	}
	return err
}

func (s *clientStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	if err != nil {
		s.finish(err)
	}
	return md, err
}

func (s *clientStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	// io.EOF means that the stream is over and RecvMsg knows why.
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if bad := unsendable(err, m); bad != nil {
		err = bad
	}
	s.finish(err)
	return err
}

func (s *clientStream) finish(err error) {
	s.stopWatch()
	s.end(err)
}

func (s *clientStream) end(err error) {
	var classified *callError
	if err != nil && !errors.As(err, &classified) {
		err = attemptError(err, true, nil)
	}
	s.pass.End(s.caller, err)
	s.cancel()
}
