// Package protoevents puts Protobuf messages into events and takes them out
// again.
//
//	e, err := protoevents.New("", "orders", order.Id, &orderv1.OrderCreated{OrderId: order.Id})
//	…
//	var created orderv1.OrderCreated
//	err := protoevents.Decode(e, &created)
//
// Data is the binary encoding, or ProtoJSON where the event's content type says
// JSON: a consumer reads both, so that a producer without Protobuf can join.
package protoevents

import (
	"errors"
	"fmt"
	"mime"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/kit/events"
)

// ContentType is the media type of binary Protobuf, as the CloudEvents Protobuf
// format names it.
const ContentType = "application/protobuf"

// ErrType is returned by [Decode] where the event's type is not the message's.
var ErrType = errors.New("protoevents: the event holds another message")

// New makes an event of m for topic, ordered by key. typ is the event's type,
// the full name of m where it is "". The outbox fills in the rest.
func New(typ, topic, key string, m proto.Message) (events.Event, error) {
	name := string(m.ProtoReflect().Descriptor().FullName())
	if typ == "" {
		typ = name
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return events.Event{}, fmt.Errorf("protoevents: encode %s: %w", name, err)
	}
	return events.Event{Type: typ, Topic: topic, Key: key, DataContentType: ContentType, DataSchema: name, Data: data}, nil
}

// Type returns the event type that [New] gives m by default: its full name.
func Type(m proto.Message) string { return string(m.ProtoReflect().Descriptor().FullName()) }

// Decode reads the event's data into m. Fields that m does not know are kept in
// binary and ignored in JSON, so that a producer may be newer. The error wraps
// [ErrType] where the event says that it holds another message, and
// events.ErrInvalid where the data does not decode.
func Decode(e events.Event, m proto.Message) error {
	name := string(m.ProtoReflect().Descriptor().FullName())
	if e.DataSchema != "" && e.DataSchema != name {
		return fmt.Errorf("%w: event %s of type %s holds %s, not %s", ErrType, e.ID, e.Type, e.DataSchema, name)
	}
	if e.DataSchema == "" && e.Type != name {
		return fmt.Errorf("%w: event %s is of type %s, not %s", ErrType, e.ID, e.Type, name)
	}
	media := ContentType
	if e.DataContentType != "" {
		t, _, err := mime.ParseMediaType(e.DataContentType)
		if err != nil {
			return fmt.Errorf("%w: content type %q of event %s: %w", events.ErrInvalid, e.DataContentType, e.ID, err)
		}
		media = t
	}
	var err error
	switch {
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(e.Data, m)
	case media == ContentType || media == "application/x-protobuf" || media == "application/octet-stream":
		err = proto.Unmarshal(e.Data, m)
	default:
		return fmt.Errorf("%w: event %s is %s; this reads Protobuf and JSON", events.ErrInvalid, e.ID, media)
	}
	if err != nil {
		return fmt.Errorf("%w: decode %s of event %s: %w", events.ErrInvalid, name, e.ID, err)
	}
	return nil
}
