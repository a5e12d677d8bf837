package saga

import (
	"bytes"
	"encoding/json"
)

// diff returns the JSON merge patch (RFC 7396) that makes b of a, or nil where
// they are equal. Branches of a group return their results as such patches.
func diff(a, b []byte) (json.RawMessage, error) {
	if bytes.Equal(a, b) {
		return nil, nil
	}
	am, aok := object(a)
	bm, bok := object(b)
	if !aok || !bok {
		return json.RawMessage(b), nil
	}
	out := make(map[string]json.RawMessage)
	for k, bv := range bm {
		av, had := am[k]
		if had && bytes.Equal(av, bv) {
			continue
		}
		if had {
			sub, err := diff(av, bv)
			if err != nil {
				return nil, err
			}
			if sub != nil {
				out[k] = sub
			}
			continue
		}
		out[k] = bv
	}
	for k := range am {
		if _, ok := bm[k]; !ok {
			out[k] = json.RawMessage("null")
		}
	}
	return json.Marshal(out)
}

// merge applies a merge patch. A null deletes a member, which decodes to the
// same zero value as a null would.
func merge(doc, patch []byte) ([]byte, error) {
	pm, ok := object(patch)
	if !ok {
		return patch, nil
	}
	dm, ok := object(doc)
	if !ok {
		dm = make(map[string]json.RawMessage)
	}
	for k, v := range pm {
		if bytes.Equal(v, []byte("null")) {
			delete(dm, k)
			continue
		}
		merged, err := merge(dm[k], v)
		if err != nil {
			return nil, err
		}
		dm[k] = merged
	}
	return json.Marshal(dm)
}

func object(b []byte) (map[string]json.RawMessage, bool) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || b[0] != '{' {
		return nil, false
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(b, &m) != nil {
		return nil, false
	}
	return m, true
}
