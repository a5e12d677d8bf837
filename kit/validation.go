package kit

import (
	"context"
	"errors"
	"fmt"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/kit/problem"
)

// validator checks requests against the protovalidate rules in their .proto files.
type validator struct{ rules protovalidate.Validator }

func newValidator() (*validator, error) {
	v, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("kit: protovalidate: %w", err)
	}
	return &validator{v}, nil
}

func (v *validator) check(msg any) error {
	m, ok := msg.(proto.Message)
	if !ok {
		return nil
	}
	err := v.rules.Validate(m)
	if err == nil {
		return nil
	}
	broken, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		return fmt.Errorf("kit: the validation rules of %s do not work: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	fields := make([]problem.Field, 0, len(broken.Violations))
	for _, b := range broken.Violations {
		fields = append(fields, problem.Field{
			Field:   protovalidate.FieldPathString(b.Proto.GetField()),
			Message: b.Proto.GetMessage(),
			Rule:    b.Proto.GetRuleId(),
		})
	}
	return problem.Invalid(fields...)
}

func (v *validator) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := v.check(req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (v *validator) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, validStream{ss, v})
}

// validStream checks each message as it is received.
type validStream struct {
	grpc.ServerStream
	v *validator
}

func (s validStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.v.check(m)
}
