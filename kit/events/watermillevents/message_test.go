package watermillevents

import (
	"errors"
	"maps"
	"testing"

	"github.com/napkin-kit/napkin/kit/events"
)

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"a.b","data_base64":"AP8="}`))
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"a.b","keyseq":3,"flag":true,"data":{"x":1}}`))
	f.Add([]byte(`{"specversion":"1.0","id":1.5,"data":"x","data_base64":"!"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := decode("orders", payload)
		if err != nil {
			if !errors.Is(err, events.ErrInvalid) {
				t.Errorf("%v is no ErrInvalid", err)
			}
			return
		}
		if err := e.Validate(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
		m, err := encode(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode("orders", m.Payload)
		if err != nil || !maps.Equal(again.Attributes(), e.Attributes()) || string(again.Data) != string(e.Data) {
			t.Errorf("%+v comes back as %+v, %v", e, again, err)
		}
	})
}

func TestOtherProducers(t *testing.T) {
	const head = `{"specversion":"1.0","id":"1","source":"s","type":"a.b",`
	for _, tt := range []struct{ members, data, extension string }{
		{`"data":{"x":1}`, `{"x":1}`, ""},
		{`"data":"text"`, `text`, ""},
		{`"data_base64":"AP8="`, "\x00\xff", ""},
		{`"x":true`, "", "true"},
		{`"x":12`, "", "12"},
		{`"x":null`, "", ""},
	} {
		e, err := decode("orders", []byte(head+tt.members+"}"))
		if err != nil || string(e.Data) != tt.data || e.Extension("x") != tt.extension {
			t.Errorf("%s: %+v, %v", tt.members, e, err)
		}
	}
	for _, members := range []string{`"data":1,"data_base64":""`, `"x":1.5`, `"x":{}`, `"data_base64":"?"`, `"keyseq":"x"`} {
		e, err := decode("orders", []byte(head+members+"}"))
		if !errors.Is(err, events.ErrInvalid) || e.ID != "1" || len(e.Data) == 0 {
			t.Errorf("%s: %+v, %v; want what can be read, all that came, and ErrInvalid", members, e, err)
		}
	}
}
