package resilience

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers on the wire. In gRPC metadata they are in lower case.
const (
	// HeaderCriticality carries a [Criticality].
	HeaderCriticality = "X-Criticality"
	// HeaderAttempt carries the attempt number from the second attempt on.
	HeaderAttempt = "X-Retry-Attempt"
	// HeaderIdempotencyKey marks a request as safe to repeat
	// (draft-ietf-httpapi-idempotency-key-header).
	HeaderIdempotencyKey = "Idempotency-Key"
)

// maxParsedRetryAfter bounds what is read from a header before any cap of the
// configuration, so that arithmetic cannot overflow.
const maxParsedRetryAfter = 24 * time.Hour

// ParseRetryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds
// or a date. ok is false if it is neither. The result is between 0 and 24 h.
func ParseRetryAfter(value string, now time.Time) (d time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(maxParsedRetryAfter/time.Second) {
			return maxParsedRetryAfter, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(date.Sub(now), 0), maxParsedRetryAfter), true
}

// retryAfterSeconds is the header for a wait: whole seconds, at least one.
func retryAfterSeconds(d time.Duration) string {
	return strconv.Itoa(max(int(math.Ceil(d.Seconds())), 1))
}

// setQuota writes the RateLimit and RateLimit-Policy headers of
// draft-ietf-httpapi-ratelimit-headers.
func setQuota(h http.Header, q Quota) {
	h.Set("RateLimit-Policy", fmt.Sprintf(`"default";q=%d;w=%d`, q.Limit, max(int(math.Ceil(q.Window.Seconds())), 1)))
	h.Set("RateLimit", fmt.Sprintf(`"default";r=%d;t=%d`, q.Remaining, int(math.Ceil(q.Reset.Seconds()))))
}
