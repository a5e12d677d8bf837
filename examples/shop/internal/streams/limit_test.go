package streams_test

import (
	"errors"
	"testing"

	"github.com/napkin-kit/napkin/examples/shop/internal/streams"
	"github.com/napkin-kit/napkin/kit/problem"
)

func TestLimit(t *testing.T) {
	l := streams.NewLimit(2, 3)
	enter := func(user string, status int) func() {
		t.Helper()
		leave, err := l.Enter(user)
		if status == 0 {
			if err != nil {
				t.Fatal(err)
			}
			return leave
		}
		if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Status != status || p.RetryAfter == 0 {
			t.Fatalf("%s: %v, want %d", user, err, status)
		}
		return nil
	}
	first := enter("ann", 0)
	enter("ann", 0)
	enter("ann", 429)
	bob := enter("bob", 0) // one user's do not count for another
	enter("cat", 503)      // all of them do
	first()
	enter("ann", 0)
	bob()
	enter("cat", 0)

	var none *streams.Limit
	leave, err := none.Enter("ann")
	if err != nil {
		t.Fatal(err)
	}
	leave()
}
