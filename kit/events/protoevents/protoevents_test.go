package protoevents_test

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
)

func TestDecodeReadsJSONAndRefusesOthers(t *testing.T) {
	e, err := protoevents.New("", "orders", "k", durationpb.New(1e9))
	if err != nil {
		t.Fatal(err)
	}
	var d durationpb.Duration
	if err := protoevents.Decode(e, &d); err != nil || d.GetSeconds() != 1 {
		t.Fatal(err, &d)
	}
	var s wrapperspb.StringValue
	if err := protoevents.Decode(e, &s); !errors.Is(err, protoevents.ErrType) {
		t.Errorf("another message: %v", err)
	}
	j := e
	j.DataContentType, j.DataSchema, j.Data = "application/json; charset=utf-8", "", []byte(`"2s"`)
	if err := protoevents.Decode(j, &d); err != nil || d.GetSeconds() != 2 {
		t.Errorf("JSON: %v, %v", err, &d)
	}
	for name, spoil := range map[string]func(*events.Event){
		"truncated":          func(e *events.Event) { e.Data = e.Data[:1] },
		"other content type": func(e *events.Event) { e.DataContentType = "text/xml" },
		"bad content type":   func(e *events.Event) { e.DataContentType = ";;" },
	} {
		b := e
		spoil(&b)
		if err := protoevents.Decode(b, &d); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("application/protobuf", []byte{8, 1})
	f.Add("application/json", []byte(`"1s"`))
	f.Fuzz(func(t *testing.T, contentType string, data []byte) {
		e := events.Event{Type: "google.protobuf.Duration", DataContentType: contentType, Data: data}
		var d durationpb.Duration
		if err := protoevents.Decode(e, &d); err != nil && !errors.Is(err, events.ErrInvalid) {
			t.Error(err)
		}
	})
}

func Example() {
	e, err := protoevents.New("", "timers", "t-1", durationpb.New(90e9))
	if err != nil {
		fmt.Println(err)
	}
	var d durationpb.Duration
	err = protoevents.Decode(e, &d)
	fmt.Println(e.Type, e.DataContentType, d.AsDuration(), err)
	// Output: google.protobuf.Duration application/protobuf 1m30s <nil>
}
