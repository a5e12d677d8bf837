package events

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"
	"unicode/utf8"
)

// Partitions is the number of virtual partitions that keys are spread over. It
// is part of every stored row and every subject, so it never changes.
const Partitions = 64

// MaxNameLength bounds a topic, a type, an event ID, a source and a key, in
// bytes.
const MaxNameLength = 255

// Event is a CloudEvents 1.0 event with the extensions that Napkin adds. Treat
// an Event that was handed to you as read-only: copies share Data and
// Extensions.
//
// See https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md.
type Event struct {
	// ID names the event; with Source it is unique. Consumers recognise a
	// redelivery by it. Outbox.Append fills it where it is empty.
	ID string
	// Source is the service that the event comes from, for example "order".
	// Outbox.Append sets it.
	Source string
	// Type says what happened, dotted: the full name of its Protobuf message,
	// for example "shop.order.v1.OrderCreated".
	Type string
	// Topic is the stream the event is published to: letters, digits, '-' and
	// '_'. It is routing, not a CloudEvents attribute.
	Topic string
	// Key is what order is kept by (the CloudEvents partitionkey): usually the
	// aggregate's ID. Events of one topic and key are delivered in the order of
	// their commits. An empty key promises no order.
	Key string
	// KeySeq counts the events of one source, topic and key from 1, without a
	// gap; 0 where Key is empty. Outbox.Append sets it.
	KeySeq int64
	// Time is when the event was appended, in UTC. Outbox.Append fills it where
	// it is zero.
	Time time.Time
	// Subject is what the event is about, inside Source. Optional.
	Subject string
	// DataContentType is the media type of Data, for example
	// "application/protobuf" or "application/json".
	DataContentType string
	// DataSchema is a URI of the schema of Data. Optional.
	DataSchema string
	// Data is the payload.
	Data []byte

	// CorrelationID names the whole flow; CausationID the message or request
	// that directly caused this event. Outbox.Append fills both from the context.
	CorrelationID, CausationID string
	// TraceParent and TraceState are the W3C trace context of the producer.
	TraceParent, TraceState string
	// UserID is the subject of the user on whose behalf it happened. Never a
	// token, never a name.
	UserID string
	// Extensions are further CloudEvents extension attributes. Names are lower
	// case letters and digits, at most 20.
	Extensions map[string]string
}

// Extension returns an extension attribute, "" where it is absent.
func (e Event) Extension(name string) string { return e.Extensions[name] }

// WithExtension returns a copy of e that carries the extension attribute; e
// itself and other copies of it keep theirs.
func (e Event) WithExtension(name, value string) Event {
	m := make(map[string]string, len(e.Extensions)+1)
	for k, v := range e.Extensions {
		m[k] = v
	}
	m[name] = value
	e.Extensions = m
	return e
}

// Partition returns the event's virtual partition: that of its key, or of its
// ID where it has no key.
func (e Event) Partition() int {
	if e.Key == "" {
		return Partition(e.ID)
	}
	return Partition(e.Key)
}

// Partition returns the virtual partition of a key, 0 to [Partitions]-1: its
// 32-bit FNV-1a hash modulo 64. The mapping is part of the wire format.
func Partition(key string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // never fails
	return int(h.Sum32() % Partitions)
}

// Validate checks everything that an event needs to be published. The error
// wraps [ErrInvalid] and names the field.
func (e Event) Validate() error {
	switch {
	case e.ID == "":
		return invalid("ID", "is empty")
	case e.Source == "":
		return invalid("Source", "is empty")
	case e.KeySeq < 0:
		return invalid("KeySeq", "is negative")
	}
	if err := ValidTopic(e.Topic); err != nil {
		return err
	}
	if err := ValidType(e.Type); err != nil {
		return err
	}
	for _, f := range []struct{ name, value string }{
		{"ID", e.ID}, {"Source", e.Source}, {"Key", e.Key}, {"Subject", e.Subject},
		{"DataContentType", e.DataContentType}, {"DataSchema", e.DataSchema},
		{"CorrelationID", e.CorrelationID}, {"CausationID", e.CausationID},
		{"TraceParent", e.TraceParent}, {"UserID", e.UserID},
	} {
		if len(f.value) > MaxNameLength {
			return invalid(f.name, fmt.Sprintf("is %d bytes long; at most %d are allowed", len(f.value), MaxNameLength))
		}
		if !text(f.value) {
			return invalid(f.name, "holds a control character or is not UTF-8")
		}
	}
	if !text(e.TraceState) || len(e.TraceState) > 512 {
		return invalid("TraceState", "holds a control character or is longer than 512 bytes")
	}
	for name, value := range e.Extensions {
		if !validExtension(name) {
			return invalid("Extensions", fmt.Sprintf("name %q: use 1 to 20 lower case letters and digits, and no name that CloudEvents or this package defines", name))
		}
		if !text(value) || len(value) > 4096 {
			return invalid("Extensions", fmt.Sprintf("value of %q holds a control character or is longer than 4096 bytes", name))
		}
	}
	return nil
}

// ValidTopic checks a topic's name: 1 to 100 letters, digits, '-' and '_'.
func ValidTopic(topic string) error {
	if topic == "" {
		return invalid("Topic", "is empty")
	}
	if len(topic) > 100 {
		return invalid("Topic", "is longer than 100 bytes")
	}
	for i := range len(topic) {
		if !wordByte(topic[i]) {
			return invalid("Topic", fmt.Sprintf("%q: use letters, digits, '-' and '_' only", topic))
		}
	}
	return nil
}

// ValidType checks an event type: words of letters, digits, '-' and '_', joined
// by single dots, at most [MaxNameLength] bytes.
func ValidType(typ string) error {
	if typ == "" {
		return invalid("Type", "is empty")
	}
	if len(typ) > MaxNameLength {
		return invalid("Type", fmt.Sprintf("is longer than %d bytes", MaxNameLength))
	}
	for word := range strings.SplitSeq(typ, ".") {
		ok := word != ""
		for i := range len(word) {
			ok = ok && wordByte(word[i])
		}
		if !ok {
			return invalid("Type", fmt.Sprintf("%q: use words of letters, digits, '-' and '_', joined by single dots", typ))
		}
	}
	return nil
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// text reports whether s is UTF-8 without control characters, which no
// attribute may hold (CloudEvents 1.0, section 2.4) and no header could carry.
func text(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r <= 0x9f {
			return false
		}
	}
	return true
}

func validExtension(name string) bool {
	if len(name) == 0 || len(name) > 20 || reserved(name) {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
