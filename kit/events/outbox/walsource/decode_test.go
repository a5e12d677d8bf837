package walsource

import (
	"testing"

	"github.com/jackc/pglogrepl"
)

func TestSnapshotSees(t *testing.T) {
	for _, c := range []struct {
		snapshot string
		xids     []uint32
		want     bool
	}{
		{"100:100:", []uint32{99, 5}, true},
		{"100:100:", []uint32{100}, false},
		{"90:100:90,95", []uint32{94}, true},
		{"90:100:90,95", []uint32{94, 95}, false},
		{"8589934692:8589934692:", []uint32{99}, true}, // 2·2³² + 100
		{"8589934692:8589934692:", []uint32{101}, false},
		{"8589934692:8589934692:", []uint32{1<<32 - 1}, true}, // of the epoch before
		{"8589934591:8589934592:8589934591", []uint32{1<<32 - 1}, false},
		{"8589934592:8589934592:", []uint32{3}, false}, // of the epoch that has just begun
	} {
		s, err := parseSnapshot(c.snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.sees(c.xids); got != c.want {
			t.Errorf("%s sees %v: %v", c.snapshot, c.xids, got)
		}
	}
	for _, text := range []string{"", "1:2", "1:x:", "1:2:x"} {
		if _, err := parseSnapshot(text); err == nil {
			t.Errorf("%q parses", text)
		}
	}
}

// Servers before 14 send text.
func TestDecodeReadsBothFormats(t *testing.T) {
	names := []string{"part", "id", "topic", "key", "key_seq", "event_id", "attributes", "data", "created"}
	tuple := func(format uint8, values ...string) *pglogrepl.TupleData {
		m := &pglogrepl.TupleData{}
		for _, v := range values {
			m.Columns = append(m.Columns, &pglogrepl.TupleDataColumn{DataType: format, Data: []byte(v)})
		}
		return m
	}
	text := tuple('t', "63", "9000000000", "orders", "a", "7", "e", `\x7b7d`, `\x00ff`, "1")
	bin := tuple('b', "\x00\x3f", "\x00\x00\x00\x02\x18\x71\x1a\x00", "orders", "a", "\x00\x00\x00\x00\x00\x00\x00\x07", "e", "{}", "\x00\xff", "\x00\x00\x00\x00\x00\x00\x00\x01")
	for _, m := range []*pglogrepl.TupleData{text, bin} {
		r, err := decode(names, m)
		if err != nil {
			t.Fatal(err)
		}
		if r.Part != 63 || r.ID != 9_000_000_000 || r.Topic != "orders" || r.Key != "a" || r.KeySeq != 7 || string(r.Attributes) != "{}" || string(r.Data) != "\x00\xff" {
			t.Errorf("got %+v", r)
		}
	}
	for what, m := range map[string]*pglogrepl.TupleData{
		"no tuple":       nil,
		"too few":        tuple('t', "63"),
		"no integer":     tuple('t', "x", "9", "orders", "a", "7", "e", `\x7b7d`, `\x00ff`, "1"),
		"an odd size":    tuple('b', "\x00", "9", "orders", "a", "7", "e", "{}", "", "1"),
		"no bytea":       tuple('t', "1", "9", "orders", "a", "7", "e", `{}`, `\x00ff`, "1"),
		"an odd nibble":  tuple('t', "1", "9", "orders", "a", "7", "e", `\x7b7d`, `\x00f`, "1"),
		"NULL in a part": tuple('n', "", "", "", "", "", "", "", "", ""),
	} {
		if _, err := decode(names, m); err == nil {
			t.Errorf("%s decodes", what)
		}
	}
	if _, err := decode([]string{"part"}, tuple('t', "1")); err == nil {
		t.Error("another table decodes")
	}
}
