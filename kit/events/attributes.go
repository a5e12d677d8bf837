package events

import (
	"maps"
	"strconv"
	"time"
)

// SpecVersion is the CloudEvents version of the events this package writes.
const SpecVersion = "1.0"

// Attribute names, as CloudEvents context attributes. A broker binding adds its
// own prefix ("ce-" on NATS and HTTP, "ce_" on Kafka).
const (
	attrSpecVersion     = "specversion"
	attrID              = "id"
	attrSource          = "source"
	attrType            = "type"
	attrTime            = "time"
	attrSubject         = "subject"
	attrDataContentType = "datacontenttype"
	attrDataSchema      = "dataschema"
	attrKey             = "partitionkey" // CloudEvents partitioning extension
	attrKeySeq          = "keyseq"
	attrCorrelationID   = "correlationid"
	attrCausationID     = "causationid"
	attrTraceParent     = "traceparent" // CloudEvents distributed tracing extension
	attrTraceState      = "tracestate"
	attrUserID          = "userid"
)

func reserved(name string) bool {
	switch name {
	case attrSpecVersion, attrID, attrSource, attrType, attrTime, attrSubject, attrDataContentType,
		attrDataSchema, attrKey, attrKeySeq, attrCorrelationID, attrCausationID, attrTraceParent,
		attrTraceState, attrUserID, "data", "database64":
		return true
	}
	return false
}

// Attributes returns the event's CloudEvents context attributes in their
// canonical string form, without Topic and Data. Empty ones are left out. The
// map is the caller's.
func (e Event) Attributes() map[string]string {
	m := make(map[string]string, 12+len(e.Extensions))
	maps.Copy(m, e.Extensions)
	m[attrSpecVersion] = SpecVersion
	put := func(name, value string) {
		if value != "" {
			m[name] = value
		}
	}
	put(attrID, e.ID)
	put(attrSource, e.Source)
	put(attrType, e.Type)
	put(attrSubject, e.Subject)
	put(attrDataContentType, e.DataContentType)
	put(attrDataSchema, e.DataSchema)
	put(attrKey, e.Key)
	put(attrCorrelationID, e.CorrelationID)
	put(attrCausationID, e.CausationID)
	put(attrTraceParent, e.TraceParent)
	put(attrTraceState, e.TraceState)
	put(attrUserID, e.UserID)
	if !e.Time.IsZero() {
		m[attrTime] = e.Time.UTC().Format(time.RFC3339Nano)
	}
	if e.KeySeq != 0 {
		m[attrKeySeq] = strconv.FormatInt(e.KeySeq, 10)
	}
	return m
}

// FromAttributes makes an event of what a broker delivered: the inverse of
// [Event.Attributes]. Names that it does not know become Extensions. The error
// wraps [ErrInvalid]; the event returned beside it holds whatever could be read,
// so that it can be dead-lettered with what is known of it.
func FromAttributes(topic string, attributes map[string]string, data []byte) (Event, error) {
	e := Event{Topic: topic, Data: data}
	var bad error
	for name, value := range attributes {
		switch name {
		case attrSpecVersion:
			if value != SpecVersion {
				bad = invalid("specversion", strconv.Quote(value)+" is not supported; this reads 1.0")
			}
		case attrID:
			e.ID = value
		case attrSource:
			e.Source = value
		case attrType:
			e.Type = value
		case attrSubject:
			e.Subject = value
		case attrDataContentType:
			e.DataContentType = value
		case attrDataSchema:
			e.DataSchema = value
		case attrKey:
			e.Key = value
		case attrCorrelationID:
			e.CorrelationID = value
		case attrCausationID:
			e.CausationID = value
		case attrTraceParent:
			e.TraceParent = value
		case attrTraceState:
			e.TraceState = value
		case attrUserID:
			e.UserID = value
		case attrTime:
			t, err := time.Parse(time.RFC3339Nano, value)
			if err != nil {
				bad = invalid("time", strconv.Quote(value)+" is not RFC 3339")
			}
			e.Time = t.UTC()
		case attrKeySeq:
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				bad = invalid("keyseq", strconv.Quote(value)+" is not a count")
				n = 0
			}
			e.KeySeq = n
		default:
			if e.Extensions == nil {
				e.Extensions = make(map[string]string)
			}
			e.Extensions[name] = value
		}
	}
	if bad == nil && attributes[attrSpecVersion] == "" {
		bad = invalid("specversion", "is missing; this is no CloudEvents message")
	}
	if bad == nil {
		bad = e.Validate()
	}
	return e, bad
}
