package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// strictJSON decodes request bodies by the contract and nothing else: an unknown or mistyped field is
// refused, with its path. Protobuf's own decoder names a line and a column, which is of no use to a client.
type strictJSON struct{ *runtime.JSONPb }

func (s strictJSON) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		raw, err := io.ReadAll(r)
		if err != nil {
			return err // *http.MaxBytesError among them
		}
		if len(bytes.TrimSpace(raw)) == 0 {
			return io.EOF
		}
		m, ok := v.(proto.Message)
		if !ok { // a body bound to a field: v points to that field's message pointer
			return s.decodeField(raw, v)
		}
		return decodeStrict(raw, m)
	})
}

// decodeField decodes a body that is bound to one field (`body: "preferences"`), for which generated code
// passes a pointer to the field.
func (s strictJSON) decodeField(raw []byte, v any) error {
	field := reflect.ValueOf(v)
	if field.Kind() != reflect.Pointer || field.Elem().Kind() != reflect.Pointer {
		return fmt.Errorf("gateway: a body is bound to %T, not to a message", v)
	}
	fresh := reflect.New(field.Elem().Type().Elem())
	m, ok := fresh.Interface().(proto.Message)
	if !ok {
		return fmt.Errorf("gateway: a body is bound to %T, not to a message", v)
	}
	if err := decodeStrict(raw, m); err != nil {
		return err
	}
	field.Elem().Set(fresh)
	return nil
}

// decodeStrict checks first what Protobuf's decoder would let pass, numbers in quotes and names in camel
// case, and leaves to it what is left: texts, fields that are there twice, forms of times.
func decodeStrict(raw []byte, m proto.Message) error {
	value, err := parse(raw)
	if err != nil {
		return err
	}
	if path, what := findFault(value, m.ProtoReflect().Descriptor(), ""); path != "" {
		return fmt.Errorf("%s%s: %s", bodyError, path, what)
	}
	if err := protojson.Unmarshal(raw, m); err != nil {
		text := err.Error()
		if _, after, ok := strings.Cut(text, "): "); ok {
			text = after
		}
		return errors.New(bodyError + "$: " + text)
	}
	return nil
}

func parse(raw []byte) (value any, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err = dec.Decode(&value); err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return value, nil
		}
		return nil, fmt.Errorf("%s$: something follows the JSON at byte %d", bodyError, dec.InputOffset())
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.New(bodyError + "$: the JSON ends too early")
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, fmt.Errorf("%s$: malformed JSON at byte %d", bodyError, syntax.Offset)
	}
	return nil, errors.New(bodyError + "$: malformed JSON")
}

// findFault walks the JSON beside the message's description to the first field that does not fit.
func findFault(v any, d protoreflect.MessageDescriptor, at string) (path, what string) {
	switch d.FullName() {
	case "google.protobuf.Timestamp", "google.protobuf.Duration":
		return "", ""
	}
	object, ok := v.(map[string]any)
	if !ok {
		return name(at), "must be an object"
	}
	for _, key := range slices.Sorted(maps.Keys(object)) { // the same fault each time
		value := object[key]
		f := d.Fields().ByName(protoreflect.Name(key))
		here := join(at, key)
		if f == nil {
			return here, "unknown field"
		}
		if value == nil || f.IsMap() {
			continue
		}
		if !f.IsList() {
			if path, what = findScalarFault(value, f, here); path != "" {
				return path, what
			}
			continue
		}
		list, ok := value.([]any)
		if !ok {
			return here, "must be a list"
		}
		for i, item := range list {
			if path, what = findScalarFault(item, f, fmt.Sprintf("%s[%d]", here, i)); path != "" {
				return path, what
			}
		}
	}
	return "", ""
}

func findScalarFault(v any, f protoreflect.FieldDescriptor, at string) (path, what string) {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return findFault(v, f.Message(), at)
	case protoreflect.StringKind, protoreflect.BytesKind:
		if _, ok := v.(string); !ok {
			return at, "must be a string"
		}
	case protoreflect.BoolKind:
		if _, ok := v.(bool); !ok {
			return at, "must be true or false"
		}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, ok := v.(json.Number)
		if !ok {
			return at, "must be a whole number"
		}
		if x, err := n.Float64(); err != nil || x != math.Trunc(x) || x < math.MinInt32 || x > math.MaxInt32 {
			return at, "must be a whole number of at most 32 bits"
		}
	}
	return "", ""
}

func join(at, key string) string {
	key = strings.Map(func(r rune) rune {
		if r <= ' ' || r == ':' {
			return '_'
		}
		return r
	}, key)
	if len(key) > 80 {
		key = strings.ToValidUTF8(key[:80], "")
	}
	if key == "" {
		key = `""`
	}
	if at == "" {
		return key
	}
	return at + "." + key
}

func name(at string) string {
	if at == "" {
		return "$"
	}
	return at
}
