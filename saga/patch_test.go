package saga

import (
	"encoding/json"
	"reflect"
	"testing"
)

type doc struct {
	A string
	N int64
	P *int
	L []string
	M map[string]doc `json:",omitempty"`
}

// Merging what differs gives the other state, as far as decoding can tell.
func FuzzPatch(f *testing.F) {
	f.Add(`{}`, `{"A":"x","N":9007199254740993}`)
	f.Add(`{"A":"x","P":1,"L":["a"]}`, `{"A":"y","P":null,"L":["a","b"]}`)
	f.Add(`{"M":{"k":{"A":"x"}}}`, `{"M":{"k":{"A":"y"},"l":{"N":1}}}`)
	f.Add(`{"M":{"k":{"A":"x"}}}`, `{}`)
	f.Fuzz(func(t *testing.T, a, b string) {
		var from, to doc
		if json.Unmarshal([]byte(a), &from) != nil || json.Unmarshal([]byte(b), &to) != nil {
			return
		}
		x, err := json.Marshal(from)
		if err != nil {
			return
		}
		y, err := json.Marshal(to)
		if err != nil {
			return
		}
		p, err := diff(x, y)
		if err != nil {
			t.Fatal(err)
		}
		got := x
		if p != nil {
			if got, err = merge(x, p); err != nil {
				t.Fatal(err)
			}
		}
		var back doc
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatalf("%s merged to %s: %v", p, got, err)
		}
		var want doc
		if err := json.Unmarshal(y, &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, want) {
			t.Fatalf("%s + %s = %s, want %s", x, p, got, y)
		}
	})
}
