package idempotency

import "net/http"

// TransportConfig tunes [NewTransport]. The zero value is ready to use.
type TransportConfig struct {
	// Generate says whether a request without a key is given a fresh one.
	// Defaults to POST and PATCH.
	Generate func(r *http.Request) bool
}

// NewTransport returns a RoundTripper that sends a key with each write: the one
// the request's header has, else that of [WithKey], else a fresh one. Put it
// outside of the transport that retries, so that all attempts carry one key. A
// nil base is http.DefaultTransport.
func NewTransport(base http.RoundTripper, cfg *TransportConfig) http.RoundTripper {
	t := &transport{base: base, generate: isWrite}
	if base == nil {
		t.base = http.DefaultTransport
	}
	if cfg != nil && cfg.Generate != nil {
		t.generate = cfg.Generate
	}
	return t
}

type transport struct {
	base     http.RoundTripper
	generate func(*http.Request) bool
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(r.Header.Values(Header)) > 0 {
		return t.base.RoundTrip(r)
	}
	key, ok := KeyFrom(r.Context())
	switch {
	case ok && isSafe(r.Method): // a read needs no key
		return t.base.RoundTrip(r)
	case !ok && !t.generate(r):
		return t.base.RoundTrip(r)
	case !ok:
		key = NewKey()
	}
	r = r.Clone(r.Context()) // a RoundTripper does not change the caller's request
	r.Header.Set(Header, FormatKey(key))
	return t.base.RoundTrip(r)
}

func isWrite(r *http.Request) bool {
	return r.Method == http.MethodPost || r.Method == http.MethodPatch
}

func isSafe(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}
