package events_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

func full() events.Event {
	return events.Event{
		ID: "1", Source: "order", Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: "o-1", KeySeq: 3,
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Subject: "s", DataContentType: "application/protobuf",
		DataSchema: "shop.order.v1.OrderCreated", Data: []byte("x"), CorrelationID: "c", CausationID: "d",
		TraceParent: "00-a-b-01", TraceState: "k=v", UserID: "u", Extensions: map[string]string{"sagaid": "g"},
	}
}

func TestAttributesAreInvertible(t *testing.T) {
	want := full()
	got, err := events.FromAttributes(want.Topic, want.Attributes(), want.Data)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	if err := full().Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*events.Event){
		"ID":         func(e *events.Event) { e.ID = "" },
		"Source":     func(e *events.Event) { e.Source = "" },
		"Topic":      func(e *events.Event) { e.Topic = "a.b" },
		"Type":       func(e *events.Event) { e.Type = "a..b" },
		"Key":        func(e *events.Event) { e.Key = "a\x00b" },
		"KeySeq":     func(e *events.Event) { e.KeySeq = -1 },
		"UserID":     func(e *events.Event) { e.UserID = strings.Repeat("x", 300) },
		"TraceState": func(e *events.Event) { e.TraceState = "\n" },
		"Extensions": func(e *events.Event) { e.Extensions = map[string]string{"type": "x"} },
	} {
		e := full()
		spoil(&e)
		if err := e.Validate(); !errors.Is(err, events.ErrInvalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s spoiled: %v", field, err)
		}
	}
}

func TestWithExtensionLeavesTheOriginal(t *testing.T) {
	e := full()
	f := e.WithExtension("sagastep", "x")
	if e.Extension("sagastep") != "" || f.Extension("sagastep") != "x" || f.Extension("sagaid") != "g" {
		t.Errorf("%v, %v", e.Extensions, f.Extensions)
	}
}

// The mapping of keys to partitions is stored in rows and subjects.
func TestPartitionsAreFixed(t *testing.T) {
	for key, want := range map[string]int{"": 5, "o-1": 40, "customer-42": 62} {
		if got := events.Partition(key); got != want {
			t.Errorf("Partition(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestPublishErrorUnwraps(t *testing.T) {
	err := error(&events.PublishError{Failed: []events.FailedEvent{{ID: "a", Err: errors.New("x")}, {Index: 1, ID: "b", Err: events.ErrRejected}}})
	if !errors.Is(err, events.ErrRejected) || !strings.Contains(err.Error(), "2 events") {
		t.Error(err)
	}
}

func FuzzFromAttributes(f *testing.F) {
	f.Add("specversion", "1.0", "time", "2026-01-02T03:04:05Z", []byte("x"))
	f.Add("keyseq", "-1", "time", "yesterday", []byte(nil))
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2 string, data []byte) {
		m := full().Attributes()
		m[n1], m[n2] = v1, v2
		e, err := events.FromAttributes("orders", m, data)
		if err != nil {
			return
		}
		// What is accepted survives another trip.
		again, err := events.FromAttributes("orders", e.Attributes(), data)
		if err != nil || !maps.Equal(e.Attributes(), again.Attributes()) {
			t.Errorf("%v: %v\n%v", err, e.Attributes(), again.Attributes())
		}
	})
}

func ExampleEvent_Attributes() {
	e := events.Event{ID: "7", Source: "order", Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: "o-1", KeySeq: 1}
	a := e.Attributes()
	fmt.Println(a["specversion"], a["id"], a["source"], a["type"], a["partitionkey"], a["keyseq"])
	// Output: 1.0 7 order shop.order.v1.OrderCreated o-1 1
}
