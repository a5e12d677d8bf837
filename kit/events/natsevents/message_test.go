package natsevents

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/napkin-kit/napkin/kit/events"
)

func FuzzDecode(f *testing.F) {
	f.Add("ce-id", "1", "ce-specversion", "1.0", []byte("x"))
	f.Add("Ce-Type", "a%2", "ce-time", "%41%zz", []byte(nil))
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2 string, data []byte) {
		h := encodeHeader(events.Event{ID: "1", Source: "s", Type: "a.b", Topic: "orders"})
		h[n1], h[n2] = []string{v1}, []string{v2}
		e, err := decode("orders", h, data)
		if err != nil {
			if !errors.Is(err, events.ErrInvalid) {
				t.Errorf("%v is no ErrInvalid", err)
			}
			return
		}
		if err := e.Validate(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
	})
}

func FuzzPercentEncode(f *testing.F) {
	f.Add("plain")
	f.Add("with space, \"quote\", 100 % and ü")
	f.Fuzz(func(t *testing.T, s string) {
		enc := percentEncode(s)
		for i := range len(enc) {
			if enc[i] <= 0x20 || enc[i] >= 0x7f {
				t.Fatalf("%q encodes as %q", s, enc)
			}
		}
		if got, err := percentDecode(enc); err != nil || got != s {
			t.Errorf("%q comes back as %q, %v", s, got, err)
		}
	})
}

func TestHeadersWithSeveralValuesAreRefused(t *testing.T) {
	h := encodeHeader(events.Event{ID: "1", Source: "s", Type: "a.b", Topic: "orders"})
	h["ce-id"] = []string{"1", "2"}
	if _, err := decode("orders", h, nil); !errors.Is(err, events.ErrInvalid) {
		t.Error(err)
	}
	if _, err := decode("orders", nats.Header{}, []byte("raw")); !errors.Is(err, events.ErrInvalid) {
		t.Error(err)
	}
}
