package kafkaevents

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
)

func FuzzDecode(f *testing.F) {
	f.Add("ce_id", []byte("1"), "content-type", []byte("text/plain"), []byte("x"))
	f.Add("ce_specversion", []byte("2.0"), "ce_keyseq", []byte("-1"), []byte(nil))
	f.Add("ce_x", []byte{0xff, 0}, "ce_datacontenttype", []byte("a"), []byte{0})
	f.Fuzz(func(t *testing.T, n1 string, v1 []byte, n2 string, v2, data []byte) {
		r, _ := encode(events.Event{ID: "1", Source: "s", Type: "a.b", Topic: "orders"})
		whole, err := decode(r)
		if err != nil || whole.ID != "1" {
			t.Fatalf("an event comes back as %+v, %v", whole, err)
		}
		r.Value = data
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: n1, Value: v1}, kgo.RecordHeader{Key: n2, Value: v2})
		e, err := decode(r)
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

func TestBinding(t *testing.T) {
	r, _ := encode(events.Event{ID: "1", Source: "s", Type: "a.b", Topic: "orders", Key: "k", DataContentType: "application/json"})
	got := map[string]string{}
	for _, h := range r.Headers {
		got[h.Key] = string(h.Value)
	}
	for name, want := range map[string]string{"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "a.b", "ce_partitionkey": "k", "content-type": "application/json"} {
		if got[name] != want {
			t.Errorf("header %s is %q, want %q", name, got[name], want)
		}
	}
	if string(r.Key) != "k" || r.Value == nil || got["ce_datacontenttype"] != "" {
		t.Errorf("the record is %+v", r)
	}
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "ce_id", Value: []byte("2")})
	if _, err := decode(r); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("a header that is there twice: %v", err)
	}
	if _, err := decode(&kgo.Record{Topic: "orders", Value: []byte("raw")}); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("no event: %v", err)
	}
}

// Blocks are whole Kafka partitions, and every partition is in one of them.
func TestBlocksAreWholePartitions(t *testing.T) {
	for n := 1; n <= 64; n *= 2 {
		for cut := 1; cut <= 64; cut *= 2 {
			seen := map[int32]bool{}
			for _, block := range events.Blocks(cut) {
				all, err := topic{partitions: n}.block(block)
				if (err != nil) != (cut > n) {
					t.Fatalf("%d partitions, block %v: %v", n, block, err)
				}
				for _, id := range all {
					if seen[id] {
						t.Errorf("%d partitions, %d blocks: partition %d is in two", n, cut, id)
					}
					seen[id] = true
				}
				for p := range 64 {
					if err == nil && block.Contains(p) && !seen[(topic{partitions: n}).of(p)] {
						t.Errorf("%d partitions, block %v: its partition %d is elsewhere", n, block, p)
					}
				}
			}
			if cut <= n && len(seen) != n {
				t.Errorf("%d partitions, %d blocks: %d are read", n, cut, len(seen))
			}
		}
	}
}
