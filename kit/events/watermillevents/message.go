package watermillevents

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/napkin-kit/napkin/kit/events"
)

const (
	metaContentType = "content-type"
	metaKey         = "partitionkey"
	structured      = "application/cloudevents+json"
	member          = "data"        // of the JSON format: a JSON value
	memberBase64    = "data_base64" // bytes
)

// encode makes a message in the CloudEvents JSON format, see
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md.
func encode(e events.Event) (*message.Message, error) {
	body := e.Attributes()
	if e.Data != nil {
		body[memberBase64] = base64.StdEncoding.EncodeToString(e.Data)
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	m := message.NewMessage(e.ID, payload)
	m.Metadata.Set(metaContentType, structured)
	if e.Key != "" {
		m.Metadata.Set(metaKey, e.Key)
	}
	return m, nil
}

// decode makes an event of a message; the error says why it is none.
func decode(topic string, payload []byte) (events.Event, error) {
	var body map[string]json.RawMessage
	if err := json.Unmarshal(payload, &body); err != nil {
		return events.Event{Topic: topic, Data: payload}, fmt.Errorf("%w: the message is no CloudEvent in JSON: %w", events.ErrInvalid, err)
	}
	attributes := make(map[string]string, len(body))
	var data []byte
	var bad error
	for name, raw := range body {
		var err error
		switch name {
		case memberBase64:
			err = json.Unmarshal(raw, &data) // which takes base64 for bytes
		case member:
			data = plain(raw)
		default:
			if string(raw) == "null" {
				continue // is absent
			}
			attributes[name], err = attribute(raw)
		}
		if err != nil {
			bad = fmt.Errorf("%w: member %q: %w", events.ErrInvalid, name, err)
		}
	}
	if body[member] != nil && body[memberBase64] != nil {
		bad = fmt.Errorf("%w: it has both data and data_base64", events.ErrInvalid)
	}
	e, err := events.FromAttributes(topic, attributes, data)
	if bad == nil {
		bad = err
	}
	if bad != nil {
		e.Data = payload // a dead letter holds all that came
	}
	return e, bad
}

// plain is the data of another producer: a string stands for itself, every other
// JSON value is the data.
func plain(raw json.RawMessage) []byte {
	var s string
	if json.Unmarshal(raw, &s) == nil && len(raw) > 0 && raw[0] == '"' {
		return []byte(s)
	}
	return raw
}

// attribute is a string, or a boolean or integer in its canonical form.
func attribute(raw json.RawMessage) (string, error) {
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return "", err
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return fmt.Sprint(v), nil
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return v.String(), nil
		}
	}
	return "", fmt.Errorf("%s is no attribute value", raw)
}

// size is an event's attributes and data together.
func size(e events.Event) int {
	n := len(e.Data)
	for name, value := range e.Attributes() {
		n += len(name) + len(value)
	}
	return n
}

// digest makes any text fit for SNS's identifiers: 128 letters and digits at most.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
