// Package grpcidempotency carries idempotency keys over gRPC, in the metadata
// "idempotency-key".
//
// The server's interceptor parses the key; the handler runs its effect and its
// result in one transaction with [Do]:
//
//	func (s *server) CreateOrder(ctx context.Context, req *orderv1.CreateOrderRequest) (*orderv1.Order, error) {
//		return grpcidempotency.Do(ctx, s.keys, s.runner, func(ctx context.Context, tx *sql.Tx) (*orderv1.Order, error) {
//			…
//		})
//	}
//
// Where ServerConfig.Leased names a store, the interceptor itself runs a handler
// that has no transaction once for each key, see idempotency.Leases:
//
//	unary, err := grpcidempotency.UnaryServer(grpcidempotency.ServerConfig{
//		Rules: rules, Scope: userOf, Leased: leases,
//	})
//
// An answer that was stored earlier carries the header metadata
// "idempotent-replayed: true". Only successes are stored: an error rolls back,
// and the key is free again. Errors travel as the problems of package problem.
package grpcidempotency

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// MetadataKey and MetadataReplayed are the metadata of a key and of a replayed answer.
const (
	MetadataKey      = "idempotency-key"
	MetadataReplayed = "idempotent-replayed"
)

// Rule says how a method uses keys.
type Rule struct {
	// Required refuses a call without a key with InvalidArgument.
	Required bool
	// Operation names what is done, where two methods do the same. Defaults to
	// the full method.
	Operation string
}

// ServerConfig tunes the server's interceptors.
type ServerConfig struct {
	// Rules by full method, such as "/shop.order.v1.OrderService/CreateOrder".
	// A key sent to a method without a rule is ignored.
	Rules map[string]Rule
	// Scope returns whose key it is: the end user where there is one, else the
	// calling service. Required. Its error is the call's.
	Scope func(ctx context.Context) (string, error)
	// Leased turns on the leased mode for unary calls of methods with a rule, whose
	// handlers have no transaction. Defaults to nil: the transactional mode, in
	// which the handler calls [Do]. Streams are never run under a lease; their
	// handlers find the key in the context.
	Leased *idempotency.Leases
}

func (c ServerConfig) validate() error {
	if c.Scope == nil {
		return errors.New("grpcidempotency: ServerConfig.Scope is required: return the end user, else the calling service")
	}
	for m := range c.Rules {
		if len(m) < 4 || m[0] != '/' {
			return fmt.Errorf("grpcidempotency: ServerConfig.Rules[%q]: write the full method, like /shop.order.v1.OrderService/CreateOrder", m)
		}
	}
	return nil
}

// UnaryServer returns the interceptor that parses the key into the handler's
// context, for [Do] or idempotency.RequestFrom. The fingerprint covers the
// method, the scope and the request's deterministic encoding. Place it after
// authentication and validation.
func UnaryServer(cfg ServerConfig) (grpc.UnaryServerInterceptor, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		k, err := cfg.parse(ctx, info.FullMethod)
		if err != nil {
			return nil, grpcproblem.ToStatus(err).Err()
		}
		if k.Value == "" {
			return next(idempotency.WithoutRequest(ctx), req)
		}
		if k.Fingerprint, err = fingerprint(info.FullMethod, k.Scope, req); err != nil {
			return nil, grpcproblem.ToStatus(err).Err()
		}
		ctx = idempotency.WithRequest(ctx, k)
		if cfg.Leased != nil {
			return leased(ctx, cfg.Leased, k, req, next)
		}
		return next(ctx, req)
	}, nil
}

// ErrOmitted: the operation is done, but its answer was too large to be stored
// (leased mode). It is answered as Aborted, with the reason
// "idempotency_answer_omitted".
var ErrOmitted error = problem.New(http.StatusConflict, "idempotency_answer_omitted",
	"this request is done; its answer was too large to be kept, so look for its effect instead")

// leased runs a unary handler under a claim.
func leased(ctx context.Context, l *idempotency.Leases, k idempotency.Key, req any, next grpc.UnaryHandler) (any, error) {
	var answer any
	var inner error
	stored, replayed, err := l.Do(ctx, k, func(ctx context.Context) (idempotency.Response, error) {
		if answer, inner = next(ctx, req); inner != nil {
			return idempotency.Response{}, inner
		}
		m, ok := answer.(proto.Message)
		if !ok {
			return idempotency.Response{}, fmt.Errorf("grpcidempotency: the answer %T is no Protobuf message", answer)
		}
		return Store(m)
	})
	switch {
	case inner != nil:
		return nil, inner
	case err != nil:
		return nil, grpcproblem.ToStatus(err).Err()
	case !replayed:
		return answer, nil
	case stored.BodyOmitted:
		return nil, grpcproblem.ToStatus(ErrOmitted).Err()
	}
	m, err := decode(&stored)
	if err == nil {
		err = SetReplayed(ctx)
	}
	if err != nil {
		return nil, grpcproblem.ToStatus(err).Err()
	}
	return m, nil
}

// decode makes the message of a stored answer, whose type the program knows.
func decode(stored *idempotency.Response) (proto.Message, error) {
	name, ok := strings.CutPrefix(stored.ContentType, contentType)
	if !ok {
		return nil, fmt.Errorf("grpcidempotency: the stored answer is %q, no Protobuf message", stored.ContentType)
	}
	mt, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return nil, fmt.Errorf("grpcidempotency: the stored answer is a %s, which this program does not know: %w", name, err)
	}
	m := mt.New().Interface()
	if err := proto.Unmarshal(stored.Body, m); err != nil {
		return nil, fmt.Errorf("grpcidempotency: the stored answer does not parse: %w", err)
	}
	return m, nil
}

// StreamServer is [UnaryServer] for streams. The fingerprint covers the first
// message that the client sent; until it has been received idempotency.Request
// returns an error.
func StreamServer(cfg ServerConfig) (grpc.StreamServerInterceptor, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		k, err := cfg.parse(ss.Context(), info.FullMethod)
		if err != nil {
			return grpcproblem.ToStatus(err).Err()
		}
		if k.Value == "" {
			return next(srv, &keyless{ss, idempotency.WithoutRequest(ss.Context())})
		}
		s := &stream{ServerStream: ss, method: info.FullMethod, key: k}
		s.ctx = idempotency.WithLazyRequest(ss.Context(), s.request)
		return next(srv, s)
	}, nil
}

// keyless is a stream that came without a key, or needs none.
type keyless struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *keyless) Context() context.Context { return s.ctx }

type stream struct {
	grpc.ServerStream
	ctx    context.Context
	method string

	mu  sync.Mutex
	key idempotency.Key
	err error
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key.Fingerprint == nil && s.err == nil {
		s.key.Fingerprint, s.err = fingerprint(s.method, s.key.Scope, m)
	}
	return nil
}

func (s *stream) request() (idempotency.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key.Fingerprint == nil && s.err == nil {
		return idempotency.Key{}, errors.New("grpcidempotency: receive the stream's first message before asking for the key")
	}
	return s.key, s.err
}

// parse returns the call's key without its fingerprint; an empty one where the
// call has none and needs none.
func (c ServerConfig) parse(ctx context.Context, method string) (idempotency.Key, error) {
	rule, ok := c.Rules[method]
	if !ok {
		return idempotency.Key{}, nil
	}
	values := metadata.ValueFromIncomingContext(ctx, MetadataKey)
	if len(values) > 1 {
		return idempotency.Key{}, fmt.Errorf("%w: it was sent %d times", idempotency.ErrKeyInvalid, len(values))
	}
	value, err := "", idempotency.ErrKeyMissing
	if len(values) == 1 {
		value, err = idempotency.ParseKey(values[0])
	}
	if errors.Is(err, idempotency.ErrKeyMissing) && !rule.Required {
		return idempotency.Key{}, nil
	}
	if err != nil {
		return idempotency.Key{}, err
	}
	scope, err := c.Scope(ctx)
	if err != nil {
		return idempotency.Key{}, err
	}
	operation := rule.Operation
	if operation == "" {
		operation = method
	}
	return idempotency.Key{Value: value, Scope: scope, Operation: operation}, nil
}

func fingerprint(method, scope string, req any) ([]byte, error) {
	m, ok := req.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.Internal, "grpcidempotency: %T is no Protobuf message", req)
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("grpcidempotency: encode the request: %w", err)
	}
	return idempotency.Fingerprint([]byte(method), []byte(scope), body), nil
}

// Do runs fn once for the key that the interceptor found, in a transaction of r
// together with its result, and answers a stored result again. Where the method's
// rule lets a call come without a key, fn runs in a plain transaction. Outside of
// the interceptor (see idempotency.Parsed) it fails with Internal. An error
// of fn is returned as it is; those of this package as a gRPC status.
func Do[T any, M proto.Message](ctx context.Context, s idempotency.TxStore, r sqldb.Runner[T], fn func(ctx context.Context, tx T) (M, error)) (M, error) {
	var fresh, none M
	if !idempotency.Parsed(ctx) {
		return none, status.Error(codes.Internal, "grpcidempotency.Do stands outside grpcidempotency.UnaryServer or StreamServer: install the interceptor")
	}
	k, err := idempotency.Request(ctx)
	if errors.Is(err, idempotency.ErrKeyMissing) {
		err = r.InTx(ctx, func(ctx context.Context, tx T) (err error) {
			fresh, err = fn(ctx, tx)
			return err
		})
		if err != nil {
			return none, err
		}
		return fresh, nil
	}
	if err != nil {
		return none, grpcproblem.ToStatus(err).Err()
	}
	var inner error
	resp, replayed, err := idempotency.Do(ctx, s, r, k, func(ctx context.Context, tx T) (idempotency.Response, error) {
		if fresh, inner = fn(ctx, tx); inner != nil {
			return idempotency.Response{}, inner
		}
		return Store(fresh)
	})
	switch {
	case err != nil && inner != nil:
		return none, err
	case err != nil:
		return none, grpcproblem.ToStatus(err).Err()
	case replayed:
		if err := SetReplayed(ctx); err != nil {
			return none, err
		}
		return Replay[M](&resp)
	}
	return fresh, nil
}

const contentType = "application/x-protobuf; messageType="

// Store encodes a successful answer for a store's Complete.
func Store(m proto.Message) (idempotency.Response, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return idempotency.Response{}, fmt.Errorf("grpcidempotency: encode the answer: %w", err)
	}
	return idempotency.Response{
		Code: int(codes.OK), Body: body,
		ContentType: contentType + string(m.ProtoReflect().Descriptor().FullName()),
	}, nil
}

// Replay decodes an answer that [Store] encoded. It refuses one of another
// message type, which a renamed operation or a wrong type parameter would give.
func Replay[M proto.Message](stored *idempotency.Response) (M, error) {
	var zero M
	m := zero.ProtoReflect().New().Interface().(M)
	if want := contentType + string(m.ProtoReflect().Descriptor().FullName()); stored.ContentType != want {
		return zero, fmt.Errorf("grpcidempotency: the stored answer is %q, not %q", stored.ContentType, want)
	}
	if err := proto.Unmarshal(stored.Body, m); err != nil {
		return zero, fmt.Errorf("grpcidempotency: the stored answer does not parse: %w", err)
	}
	return m, nil
}

// SetReplayed marks the call's answer as stored earlier, in its header. Outside
// of a gRPC call, as in a unit test, it does nothing.
func SetReplayed(ctx context.Context) error {
	if grpc.ServerTransportStreamFromContext(ctx) == nil {
		return nil
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs(MetadataReplayed, "true")); err != nil {
		return fmt.Errorf("grpcidempotency: mark the answer as replayed: %w", err)
	}
	return nil
}
