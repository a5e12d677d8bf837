package natsevents

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/napkin-kit/napkin/kit/events"
)

const (
	headerPrefix = "ce-"
	hexDigits    = "0123456789ABCDEF"
)

func subject(e events.Event) string {
	return e.Topic + "." + strconv.Itoa(e.Partition()) + "." + e.Type
}

func encodeHeader(e events.Event) nats.Header {
	h := make(nats.Header)
	for name, value := range e.Attributes() {
		h[headerPrefix+name] = []string{percentEncode(value)}
	}
	return h
}

// decode makes an event of a message; the error says why it is none.
func decode(topic string, h nats.Header, data []byte) (events.Event, error) {
	attributes := make(map[string]string, len(h))
	var bad error
	for name, values := range h {
		name, ok := strings.CutPrefix(strings.ToLower(name), headerPrefix)
		if !ok {
			continue // the server's own
		}
		if len(values) != 1 {
			bad = fmt.Errorf("%w: header ce-%s has %d values", events.ErrInvalid, name, len(values))
			continue
		}
		value, err := percentDecode(values[0])
		if err != nil {
			bad = fmt.Errorf("%w: header ce-%s: %w", events.ErrInvalid, name, err)
			continue
		}
		attributes[name] = value
	}
	e, err := events.FromAttributes(topic, attributes, data)
	if bad == nil {
		bad = err
	}
	return e, bad
}

// percentEncode encodes a header value as section 3.1.3.2 of the CloudEvents
// HTTP binding says: space, double quote, percent and everything outside of
// printable ASCII.
func percentEncode(s string) string {
	plain := true
	for i := range len(s) {
		plain = plain && !escaped(s[i])
	}
	if plain {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; escaped(c) {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func escaped(c byte) bool { return c <= 0x20 || c >= 0x7f || c == '"' || c == '%' }

func percentDecode(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 > len(s) {
			return "", fmt.Errorf("%q ends inside an escape", s)
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("%q holds a bad escape", s)
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), nil
}
