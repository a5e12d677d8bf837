package match

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// JSON is how messages are written in contracts: names as in the .proto file, zero
// values left out.
var JSON = protojson.MarshalOptions{UseProtoNames: true}

// Exactly returns the example as JSON, field by field, for equality. Fields may be
// replaced by matchers afterwards.
func Exactly(m proto.Message) (Object, error) {
	raw, err := JSON.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("match: %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	var o Object
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("match: %s is not an object in JSON: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return o, nil
}

// Message matches each field that the example sets, by the type in its descriptor:
// a string by any string, a number by its kind of number, an enum by that very
// value, a timestamp by any timestamp, a repeated field by one or more elements
// like those of the example. Fields that the example leaves at zero are not relied
// on.
//
// The result is ready to be altered: Message(m)["status"] = match.Enum("ACTIVE",
// "RETIRED").
func Message(m proto.Message) Object {
	return fields(m.ProtoReflect())
}

func fields(m protoreflect.Message) Object {
	o := Object{}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		o[string(f.Name())] = field(f, v)
		return true
	})
	return o
}

func field(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case f.IsMap():
		o := Object{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			o[k.String()] = value(f.MapValue(), v)
			return true
		})
		return o
	case f.IsList():
		list := v.List()
		elements := make(Array, list.Len())
		for i := range elements {
			elements[i] = value(f, list.Get(i))
		}
		return Matcher{kind: "type", example: elements, more: map[string]any{"min": 1}}
	}
	return value(f, v)
}

func value(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return Bool(v.Bool())
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return Equal(string(e.Name()))
		}
		return Equal(int(v.Enum()))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return Integer(v.Int())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return Integer(int64(v.Uint())) //nolint:gosec // of 32 bits
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return Regex(v.String(), `-?\d+`) // ProtoJSON quotes them
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return Regex(v.String(), `\d+`)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return Number(v.Float())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return message(v.Message())
	case protoreflect.BytesKind:
		return Like(v.Bytes()) // encoding/json writes base64, as ProtoJSON does
	default:
		return Like(v.String())
	}
}

// message matches a message that is a field. The well-known types have JSON of
// their own.
func message(m protoreflect.Message) any {
	name := m.Descriptor().FullName()
	if name.Parent() != "google.protobuf" {
		return fields(m)
	}
	switch name.Name() {
	case "Timestamp":
		return text(m, rfc3339)
	case "Duration":
		return text(m, `-?\d+(\.\d+)?s`)
	case "BoolValue", "StringValue", "BytesValue", "Int32Value", "UInt32Value", "Int64Value", "UInt64Value", "FloatValue", "DoubleValue":
		f := m.Descriptor().Fields().ByName("value")
		return value(f, m.Get(f))
	case "Empty":
		return Object{}
	default: // Any, Struct, Value, ListValue, FieldMask
		v, err := plain(m)
		return Matcher{kind: "type", example: v, err: err}
	}
}

func text(m protoreflect.Message, pattern string) Matcher {
	v, err := plain(m)
	s, _ := v.(string)
	if err != nil {
		return Matcher{kind: "regex", err: err}
	}
	return Regex(s, pattern)
}

func plain(m protoreflect.Message) (v any, err error) {
	raw, err := JSON.Marshal(m.Interface())
	if err != nil {
		return nil, fmt.Errorf("match: %s: %w", m.Descriptor().FullName(), err)
	}
	err = json.Unmarshal(raw, &v)
	return v, err
}
