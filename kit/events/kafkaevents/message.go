package kafkaevents

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
)

// Header names of the CloudEvents Kafka binding in binary mode, see
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md.
const (
	headerPrefix      = "ce_"
	headerContentType = "content-type"
	attrContentType   = "datacontenttype"
)

// encode makes a record, and says how large the event is.
func encode(e events.Event) (*kgo.Record, int) {
	attributes := e.Attributes()
	size := len(e.Data)
	r := &kgo.Record{Topic: e.Topic, Value: e.Data, Headers: make([]kgo.RecordHeader, 0, len(attributes))}
	if r.Value == nil {
		r.Value = []byte{} // no value would be a tombstone
	}
	if e.Key != "" {
		r.Key = []byte(e.Key)
	}
	for name, value := range attributes {
		size += len(name) + len(value)
		key := headerPrefix + name
		if name == attrContentType {
			key = headerContentType
		}
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	slices.SortFunc(r.Headers, func(a, b kgo.RecordHeader) int { return strings.Compare(a.Key, b.Key) })
	return r, size
}

// decode makes an event of a record; the error says why it is none.
func decode(r *kgo.Record) (events.Event, error) {
	attributes := make(map[string]string, len(r.Headers))
	var bad error
	for _, h := range r.Headers {
		name, ok := strings.CutPrefix(h.Key, headerPrefix)
		if h.Key == headerContentType {
			name, ok = attrContentType, true
		}
		if !ok {
			continue // somebody else's
		}
		if _, twice := attributes[name]; twice {
			bad = fmt.Errorf("%w: header %s is there twice", events.ErrInvalid, h.Key)
			continue
		}
		attributes[name] = string(h.Value)
	}
	e, err := events.FromAttributes(r.Topic, attributes, r.Value)
	if bad == nil {
		bad = err
	}
	return e, bad
}
