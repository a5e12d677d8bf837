package contracttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/napkin-kit/napkin/contracttest/internal/bridge"
	"github.com/napkin-kit/napkin/contracttest/match"
	"github.com/napkin-kit/napkin/kit/events"
)

// protobufType is the media type of binary Protobuf, as the CloudEvents Protobuf
// format names it.
const protobufType = "application/protobuf"

// Attribute names of CloudEvents, and where topics are in contracts.
const (
	attrContentType = "datacontenttype"
	attrSchema      = "dataschema"
	attrType        = "type"
	metaTopic       = "topic"
)

// Event is an event that a consumer handles, and what it relies on of it. Name, Data
// and a type are required.
type Event struct {
	// Name is what has happened, for people, as in "an order was confirmed". The
	// provider makes the event by this name.
	Name  string
	Given States
	// Topic is where the consumer subscribes. "": the contract is silent.
	Topic string
	// Type is the CloudEvents type. Defaults to the full name of Data's message.
	Type string
	// Attributes are further attributes that the consumer relies on: bare strings, or
	// matchers of strings. Names are those of CloudEvents, such as "partitionkey".
	Attributes map[string]any
	// Data is the payload: a proto.Message, which is compared by the types of the
	// fields that it sets, as match.Message says; or an object of matchers.
	Data any
	// Schema is the full name of the message that Data, as an object, is an example
	// of. "": the event is JSON.
	Schema string
	// ContentType is that of the data on the wire; in the contract it is JSON.
	// Defaults to "application/protobuf" where there is a message, otherwise to
	// "application/json".
	ContentType string
}

// contract is what the file says of the event.
func (e Event) contract() (content any, attributes map[string]any, err error) {
	e = e.whole()
	switch {
	case e.Name == "":
		return nil, nil, errors.New("it needs a name")
	case e.Data == nil:
		return nil, nil, errors.New("it needs Data")
	case e.Type == "":
		return nil, nil, errors.New("it needs a Type")
	}
	attributes = map[string]any{attrType: e.Type, attrContentType: e.ContentType}
	if e.Schema != "" {
		attributes[attrSchema] = e.Schema
	}
	if e.Topic != "" {
		attributes[metaTopic] = e.Topic
	}
	for name, v := range e.Attributes {
		switch v := v.(type) {
		case string:
		case match.Matcher:
			if _, err := v.Rule(); err != nil {
				return nil, nil, fmt.Errorf("attribute %s: %w", name, err)
			}
		default:
			return nil, nil, fmt.Errorf("attribute %s is a %T; it is a string, or a matcher of one", name, v)
		}
		attributes[name] = v
	}
	return message(e.Data), attributes, nil
}

// whole is e with its defaults.
func (e Event) whole() Event {
	if m, ok := e.Data.(proto.Message); ok && e.Schema == "" {
		e.Schema = string(m.ProtoReflect().Descriptor().FullName())
	}
	e.Type = or(e.Type, e.Schema)
	if e.ContentType == "" {
		e.ContentType = jsonType
		if e.Schema != "" {
			e.ContentType = protobufType
		}
	}
	return e
}

// example is the message that the consumer's handler gets.
func (e Event) example(types bridge.Types, content []byte) (Message, error) {
	e = e.whole()
	m := Message{Topic: e.Topic, Data: content, Attributes: map[string]string{
		"specversion": events.SpecVersion, "id": "of-the-contract", "source": "of-the-contract",
		"time": "2026-01-01T00:00:00Z", attrType: e.Type, attrContentType: e.ContentType,
	}}
	if e.Schema != "" {
		m.Attributes[attrSchema] = e.Schema
		msg, err := types.Message(protoreflect.FullName(e.Schema))
		if err != nil {
			return m, err
		}
		if err := types.Read(content, msg); err != nil {
			return m, fmt.Errorf("the example is no %s: %w", e.Schema, err)
		}
		if e.ContentType == protobufType {
			if m.Data, err = proto.Marshal(msg); err != nil {
				return m, err
			}
		}
	}
	for name, v := range e.Attributes {
		if matcher, ok := v.(match.Matcher); ok {
			v = matcher.Example()
		}
		m.Attributes[name], _ = v.(string)
	}
	return m, nil
}

// Message is an event as it is on the wire.
type Message struct {
	// Topic is where it was published. Optional.
	Topic string
	// Attributes are its CloudEvents attributes, without the prefix of a broker's
	// binding. "datacontenttype" says how Data is to be read, and for Protobuf
	// "dataschema", or else "type", is the message's full name.
	Attributes map[string]string
	Data       []byte
}

// Of returns an event of Napkin's as a message: what a provider's function has
// appended to its outbox.
func Of(e events.Event) Message {
	return Message{Topic: e.Topic, Attributes: e.Attributes(), Data: e.Data}
}

// Event returns the message as an event of Napkin's, for a consumer's handler.
func (m Message) Event() (events.Event, error) {
	return events.FromAttributes(m.Topic, m.Attributes, m.Data)
}

// contract is the message as contracts have it: its data as JSON, and its metadata.
func (m Message) contract(types bridge.Types) (content []byte, metadata map[string]string, err error) {
	metadata = map[string]string{}
	maps.Copy(metadata, m.Attributes)
	if m.Topic != "" {
		metadata[metaTopic] = m.Topic
	}
	media := jsonType
	if s := m.Attributes[attrContentType]; s != "" {
		if media, _, err = mime.ParseMediaType(s); err != nil {
			return nil, nil, fmt.Errorf("the event's content type is %q: %w", s, err)
		}
	}
	switch {
	case media == jsonType || strings.HasSuffix(media, "+json"):
		if !json.Valid(m.Data) {
			return nil, nil, errors.New("the event says that it is JSON, and is not")
		}
		return m.Data, metadata, nil
	case media == protobufType || media == "application/x-protobuf" || media == "application/octet-stream":
		name := or(m.Attributes[attrSchema], m.Attributes[attrType])
		msg, err := types.Message(protoreflect.FullName(name))
		if err != nil {
			return nil, nil, err
		}
		if err := proto.Unmarshal(m.Data, msg); err != nil {
			return nil, nil, fmt.Errorf("the event's data is no %s: %w", name, err)
		}
		content, err := types.Answered(msg)
		return content, metadata, err
	}
	return nil, nil, fmt.Errorf("the event is %s; contracts are of JSON and Protobuf", media)
}
