package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	if err := (&runtime.JSONPb{UnmarshalOptions: protojson.UnmarshalOptions{}}).NewDecoder(bytes.NewReader(raw)).Decode(v); err != nil {
		return describe(err, raw, nil)
	}
	return nil
}

func decodeStrict(raw []byte, m proto.Message) error {
	if err := protojson.Unmarshal(raw, m); err != nil {
		return describe(err, raw, m.ProtoReflect().Descriptor())
	}
	return nil
}

func describe(err error, raw []byte, d protoreflect.MessageDescriptor) error {
	var any any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if jsonErr := dec.Decode(&any); jsonErr != nil {
		if errors.Is(jsonErr, io.ErrUnexpectedEOF) {
			return errors.New(bodyError + "$: the JSON ends too early")
		}
		return fmt.Errorf("%s$: malformed JSON at byte %d", bodyError, dec.InputOffset())
	}
	if d != nil {
		if path, what := findFault(any, d, ""); path != "" {
			return fmt.Errorf("%s%s: %s", bodyError, path, what)
		}
	}
	text := err.Error()
	if _, after, ok := strings.Cut(text, "): "); ok {
		text = after
	}
	return errors.New(bodyError + "$: " + text)
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
	for key, value := range object {
		f := d.Fields().ByName(protoreflect.Name(key))
		if f == nil {
			f = d.Fields().ByJSONName(key)
		}
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
		if i, err := n.Int64(); err != nil || i != int64(int32(i)) {
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
		key = key[:80]
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
