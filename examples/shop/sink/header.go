package sink

import "mime"

// decodeHeader undoes RFC 2047; what is no encoded word stays as it is.
func decodeHeader(v string) string {
	if s, err := new(mime.WordDecoder).DecodeHeader(v); err == nil {
		return s
	}
	return v
}
