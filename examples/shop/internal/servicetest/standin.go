package servicetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
)

// StandIn stands for the peers of a service that is the consumer of a contract: the
// service calls it over mTLS as it calls them. It passes calls on to the contract's
// mock provider, and answers those that are beside the point itself. It is safe for
// concurrent use.
type StandIn struct {
	mu       sync.Mutex
	answers  map[string]proto.Message // by full method
	contract *grpc.ClientConn
}

// StandIn starts a stand-in for the peers of these names. The end of the test ends it.
func (w *World) StandIn(t testing.TB, names ...string) *StandIn {
	t.Helper()
	s := &StandIn{answers: map[string]proto.Message{}}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	id := w.CA.ID(t, "stand-in")
	identity := w.CA.Identity(t, id)
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(authn.ServerTLS(identity, tlsconfig.AuthorizeMemberOf(w.CA.TrustDomain())))),
		grpc.UnknownServiceHandler(s.handle),
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	for _, name := range names {
		w.Peers[name] = kit.Peer{Addr: l.Addr().String(), ID: id}
	}
	return s
}

// Answer has every call of a method answered with m, and returns what it was
// answered with before; nil is the contract's answer.
func (s *StandIn) Answer(method string, m proto.Message) (before proto.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.answers[method]
	s.answers[method] = m
	return before
}

// Contract has calls passed on to conn until the function that it returns is called.
func (s *StandIn) Contract(conn *grpc.ClientConn) (done func()) {
	s.set(conn)
	return func() { s.set(nil) }
}

func (s *StandIn) set(conn *grpc.ClientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contract = conn
}

func (s *StandIn) handle(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	s.mu.Lock()
	answer, conn := s.answers[full], s.contract
	s.mu.Unlock()
	method, err := methodOf(full)
	if err != nil {
		return err
	}
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	switch {
	case answer != nil:
		return stream.SendMsg(answer)
	case conn == nil:
		return status.Errorf(codes.Internal, "the test has no answer to %s", full)
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(stream.Context(), md))
	defer cancel()
	if !method.IsStreamingServer() {
		var header, trailer metadata.MD
		if err := conn.Invoke(ctx, full, in, out, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			return err
		}
		stream.SetTrailer(trailer)
		if err := stream.SetHeader(header); err != nil {
			return err
		}
		return stream.SendMsg(out)
	}
	call, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full)
	if err != nil {
		return err
	}
	if err := errors.Join(call.SendMsg(in), call.CloseSend()); err != nil {
		return err
	}
	for {
		if err := call.RecvMsg(out); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(out); err != nil {
			return err
		}
	}
}

func methodOf(full string) (protoreflect.MethodDescriptor, error) {
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", full, err)
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok || sd.Methods().ByName(protoreflect.Name(name)) == nil {
		return nil, status.Errorf(codes.Unimplemented, "there is no method %s", full)
	}
	return sd.Methods().ByName(protoreflect.Name(name)), nil
}
