package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/napkin-kit/napkin/resilience"
)

// A search that is slow now and then is asked a second time, beside the first.
// It costs a permit of the retry budget; the slower answer is discarded.
func ExampleConfig_hedge() {
	slow := make(chan struct{})
	requests := make(chan int, 2)
	requests <- 1
	requests <- 2
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if <-requests == 1 {
			select { // the loser is cancelled
			case <-slow:
			case <-r.Context().Done():
			}
		}
	}))
	defer server.Close()
	defer close(slow)

	destinations, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: resilience.Config{
		Hedge: resilience.HedgeConfig{On: true, Delay: 20 * time.Millisecond},
		Hooks: &resilience.Hooks{Hedged: func(_ context.Context, _ string, attempt int) {
			fmt.Println("attempt", attempt, "starts")
		}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: resilience.NewTransport(nil, destinations)}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output:
	// attempt 2 starts
	// 200
}

// A handler that was refused by a policy of its own answers with the status that
// says so.
func ExampleHTTPStatus() {
	for _, err := range []error{
		&resilience.Rejection{Policy: "limiter", Err: resilience.ErrLimited},
		&resilience.Rejection{Policy: "breaker", Name: "payments", Err: resilience.ErrOpen},
		context.DeadlineExceeded,
		errors.New("no such order"),
	} {
		fmt.Println(resilience.HTTPStatus(err))
	}
	// Output:
	// 429
	// 503
	// 504
	// 0
}

// Retry-After is a number of seconds or a date, never more than 24 hours here.
func ExampleParseRetryAfter() {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, value := range []string{"120", "Fri, 02 Jan 2026 03:04:35 GMT", "31536000", "soon"} {
		fmt.Println(resilience.ParseRetryAfter(value, now))
	}
	// Output:
	// 2m0s true
	// 30s true
	// 24h0m0s true
	// 0s false
}
