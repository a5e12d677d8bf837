package grpcresilience

import (
	"context"
	"errors"
	"io"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
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
// its name in d, usually the peer's. Nil destinations mean some of its own, with
// the defaults. Interceptors given to grpc.NewClient before these options run
// outside, those given after run once per attempt.
//
// grpc's own retries are turned off. Without a name, or where
// DestinationsConfig.Configure sets a bad value, each call fails with INTERNAL.
func DialOptions(d *resilience.Destinations, destination string) []grpc.DialOption {
	c := NewClient(d, destination)
	return []grpc.DialOption{
		grpc.WithDisableRetry(),
		grpc.WithChainUnaryInterceptor(c.Unary),
		grpc.WithChainStreamInterceptor(c.Stream),
	}
}

// Client makes calls through the pipeline of a destination. [DialOptions] is the
// shorter way to the same; a Client is for those who order the interceptors
// themselves, and who then pass grpc.WithDisableRetry too. It is safe for
// concurrent use.
type Client struct {
	destinations *resilience.Destinations
	name         string
	methods      methodSet // declared idempotent
}

// NewClient returns the client side for a destination: its name in d, usually
// the peer's. Nil destinations mean some of its own, with the defaults.
func NewClient(d *resilience.Destinations, destination string) *Client {
	if d == nil {
		var err error
		if d, err = resilience.NewDestinations(nil); err != nil {
			panic(err) // the defaults are valid
		}
	}
	return &Client{destinations: d, name: destination}
}

func (c *Client) pipeline() (*resilience.Pipeline, error) {
	p, err := c.destinations.Get(c.name)
	if err != nil {
		return nil, &rejected{err: err, code: codes.Internal} // a mistake in this process
	}
	return p, nil
}

// Unary is a grpc.UnaryClientInterceptor.
func (c *Client) Unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	p, err := c.pipeline()
	if err != nil {
		return err
	}
	call := resilience.Call{Idempotent: c.idempotent(ctx, method), Endpoint: method}
	u := &unary{method: method, req: req, reply: reply, cc: cc, invoker: invoker}
	if p.Hedge() != nil {
		if m, ok := reply.(proto.Message); ok {
			call.Overlap = true
			return StatusError(hedged(ctx, p, call, u, m, opts))
		}
	}
	u.observe(opts)
	return StatusError(p.Call(ctx, call, u.attempt))
}

// unary is one call with all its attempts, which do not overlap.
type unary struct {
	method     string
	req, reply any
	cc         *grpc.ClientConn
	invoker    grpc.UnaryInvoker

	opts    []grpc.CallOption
	space   [6]grpc.CallOption // for opts
	on      peer.Peer          // of the last attempt
	trailer metadata.MD        // of the last attempt
}

// observe adds to the caller's options what tells how an attempt ended.
func (u *unary) observe(opts []grpc.CallOption) {
	u.opts = append(append(u.space[:0], opts...), grpc.Peer(&u.on), grpc.Trailer(&u.trailer))
}

func (u *unary) attempt(ctx context.Context) error {
	u.on, u.trailer = peer.Peer{}, nil
	err := u.invoker(toWire(ctx), u.method, u.req, u.reply, u.cc, u.opts...)
	if err == nil {
		return nil
	}
	if err := unsendable(err, u.req); err != nil {
		return err
	}
	// Without a peer the attempt never had a stream on a connection.
	return attemptError(err, u.on.Addr != nil, u.trailer)
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

func (c *Client) idempotent(ctx context.Context, method string) bool {
	return c.methods.has(method) || resilience.IsIdempotent(ctx) || len(metadata.ValueFromOutgoingContext(ctx, metaKey)) > 0
}

// methodSet remembers which methods have an idempotency_level. The methods of a
// connection are few, so the answers are kept, up to maxMethods of them.
type methodSet struct {
	known atomic.Pointer[map[string]bool] // replaced, never written to
	mu    sync.Mutex
}

const maxMethods = 1024

func (s *methodSet) has(method string) bool {
	if known := s.known.Load(); known != nil {
		if declared, ok := (*known)[method]; ok {
			return declared
		}
	}
	declared := declaredIdempotent(method)
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[string]bool{}
	if known := s.known.Load(); known != nil {
		if len(*known) >= maxMethods {
			return declared
		}
		next = maps.Clone(*known)
	}
	next[strings.Clone(method)] = declared
	s.known.Store(&next)
	return declared
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

// Stream is a grpc.StreamClientInterceptor.
func (c *Client) Stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	p, err := c.pipeline()
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
	default:
		s.pass.Answered(s.caller)
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
