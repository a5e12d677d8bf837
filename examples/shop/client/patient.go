package client

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// patient does what the store asks of its clients: after 503 or 429 with Retry-After it sends the same
// request again, where that is safe: reading, signing in, and whatever carries an idempotency key.
type patient struct{}

// tries bounds how often a request is sent; the client's timeout bounds it in time.
const tries = 10

func (patient) RoundTrip(req *http.Request) (*http.Response, error) {
	for n := 1; ; n++ {
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil || n == tries || !safe(req) || (req.Body != nil && req.GetBody == nil) {
			return resp, err
		}
		wait, asked := retryAfter(resp)
		if !asked {
			return resp, nil
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection is used again
		resp.Body.Close()
		select {
		case <-req.Context().Done():
			return nil, req.Context().Err()
		case <-time.After(wait):
		}
		if req.GetBody != nil {
			req = req.Clone(req.Context())
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

func safe(req *http.Request) bool {
	return req.Method == http.MethodGet || req.Header.Get("Idempotency-Key") != "" || strings.HasPrefix(req.URL.Path, "/oauth/")
}

func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests {
		return 0, false
	}
	s, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	return time.Duration(max(s, 0)) * time.Second, err == nil
}
