package kit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/napkin-kit/napkin/kit/problem"
)

// validator checks requests against the protovalidate rules in their .proto files, and that no text in them
// has U+0000.
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
	if at := nul(m.ProtoReflect(), ""); at != "" {
		return problem.Invalid(problem.Field{Field: at, Message: "must not contain U+0000", Rule: "string.nul"})
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

// nul returns the path of the first text with U+0000 in it, "" where there is none. It is valid UTF-8, but
// no database column of text in PostgreSQL takes it: what SQLite would keep, fails there as a fault of ours.
func nul(m protoreflect.Message, at string) (found string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch path := at + string(f.Name()); {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, item protoreflect.Value) bool {
				here := fmt.Sprintf("%s[%q]", path, k.String())
				if found = nulIn(f.MapKey(), k.Value(), here); found == "" {
					found = nulIn(f.MapValue(), item, here)
				}
				return found == ""
			})
		case f.IsList():
			if f.Kind() != protoreflect.StringKind && f.Message() == nil {
				break
			}
			for i := range v.List().Len() {
				if found = nulIn(f, v.List().Get(i), fmt.Sprintf("%s[%d]", path, i)); found != "" {
					break
				}
			}
		default:
			found = nulIn(f, v, path)
		}
		return found == ""
	})
	return found
}

// nulIn is nul for one value of a field.
func nulIn(f protoreflect.FieldDescriptor, v protoreflect.Value, at string) string {
	switch {
	case f.Message() != nil:
		return nul(v.Message(), at+".")
	case f.Kind() == protoreflect.StringKind && strings.ContainsRune(v.String(), 0):
		return at
	}
	return ""
}
