package kit_test

import (
	"context"
	"errors"
	"io"
	"reflect"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
)

// orderType is `message Order { int32 quantity = 1 [(buf.validate.field).int32.gte = 1]; }`.
func orderType(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	rule := &descriptorpb.FieldOptions{}
	proto.SetExtension(rule, validate.E_Field, validate.FieldRules_builder{Int32: validate.Int32Rules_builder{Gte: proto.Int32(1)}.Build()}.Build())
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("kit_test.proto"), Package: proto.String("kittest"), Syntax: proto.String("proto3"),
		Dependency: []string{"buf/validate/validate.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Order"), Field: []*descriptorpb.FieldDescriptorProto{{
			Name: proto.String("quantity"), Number: proto.Int32(1), JsonName: proto.String("quantity"), Options: rule,
			Type: descriptorpb.FieldDescriptorProto_TYPE_INT32.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("Order")
}

func TestValidationOfUnaryAndStream(t *testing.T) {
	order := orderType(t)
	fresh := func() *dynamicpb.Message { return dynamicpb.NewMessage(order) }
	w := newWorld(t)
	s, _ := w.service(t, policy(t, authn.Rule{Method: "/kittest.Orders/*", AnyWorkload: true}), kit.Config{Name: "echo"})
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "kittest.Orders", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Place", Handler: func(_ any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
			m := fresh()
			if err := dec(m); err != nil {
				return nil, err
			}
			return in(ctx, m, &grpc.UnaryServerInfo{FullMethod: "/kittest.Orders/Place"}, func(_ context.Context, req any) (any, error) { return req, nil })
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "PlaceMany", ClientStreams: true, ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			for {
				m := fresh()
				if err := ss.RecvMsg(m); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := ss.SendMsg(m); err != nil {
					return err
				}
			}
		}}},
	}, struct{}{})
	run(t, s)
	client, _ := w.client(t, "caller", map[string]kit.Peer{"echo": w.peer(t, s)})
	conn, err := client.Dial("echo")
	if err != nil {
		t.Fatal(err)
	}
	with := func(n int32) *dynamicpb.Message {
		m := fresh()
		m.Set(order.Fields().ByName("quantity"), protoreflect.ValueOfInt32(n))
		return m
	}
	check := func(kind string, err error) {
		t.Helper()
		p := grpcproblem.Of(err)
		want := []problem.Field{{Field: "quantity", Message: "must be greater than or equal to 1", Rule: "int32.gte"}}
		if status.Code(err) != codes.InvalidArgument || p.Status != 400 || !reflect.DeepEqual(p.Fields, want) {
			t.Errorf("%s: %v, fields %+v", kind, err, p.Fields)
		}
	}
	ctx := within(t)
	if err := conn.Invoke(ctx, "/kittest.Orders/Place", with(2), fresh()); err != nil {
		t.Errorf("a valid order: %v", err)
	}
	check("unary", conn.Invoke(ctx, "/kittest.Orders/Place", with(-3), fresh()))
	ss, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/kittest.Orders/PlaceMany")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int32{5, 0} { // the second message of the stream is the bad one
		if err := ss.SendMsg(with(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := ss.RecvMsg(fresh()); err != nil {
		t.Errorf("the valid message: %v", err)
	}
	check("stream", ss.RecvMsg(fresh()))
}

// SQLite would keep U+0000 and PostgreSQL fail on it; so it is refused, wherever in a request it stands.
func TestTextWithNULIsRefused(t *testing.T) {
	w := newWorld(t)
	s, _ := w.service(t, policy(t, authn.Rule{Method: "/kittest.Notes/*", AnyWorkload: true}), kit.Config{Name: "echo"})
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "kittest.Notes", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Put", Handler: func(_ any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
			m := &structpb.Struct{}
			if err := dec(m); err != nil {
				return nil, err
			}
			return in(ctx, m, &grpc.UnaryServerInfo{FullMethod: "/kittest.Notes/Put"}, func(_ context.Context, req any) (any, error) { return req, nil })
		}}},
	}, struct{}{})
	run(t, s)
	client, _ := w.client(t, "caller", map[string]kit.Peer{"echo": w.peer(t, s)})
	conn, err := client.Dial("echo")
	if err != nil {
		t.Fatal(err)
	}
	for at, note := range map[string]map[string]any{
		"":                         {"a": "text", "b": []any{1, "é"}},
		`fields["a"].string_value`: {"a": "x\x00"},
		`fields["a"].list_value.values[1].string_value`: {"a": []any{"x", "\x00"}},
		`fields["\x00"]`: {"\x00": 1},
	} {
		in, err := structpb.NewStruct(note)
		if err != nil {
			t.Fatal(err)
		}
		err = conn.Invoke(within(t), "/kittest.Notes/Put", in, &structpb.Struct{})
		if at == "" {
			if err != nil {
				t.Errorf("good text: %v", err)
			}
			continue
		}
		p := grpcproblem.Of(err)
		if p.Status != 400 || len(p.Fields) != 1 || p.Fields[0].Field != at {
			t.Errorf("%s: %v, fields %+v", at, err, p.Fields)
		}
	}
}
