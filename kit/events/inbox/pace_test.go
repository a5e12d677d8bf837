package inbox

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

func TestPace(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := newPace(64, sqldb.Postgres)
	p.now = func() time.Time { return now }
	want := func(n int) {
		t.Helper()
		if got := p.limit(); got != n {
			t.Fatalf("limit %d, want %d", got, n)
		}
	}
	want(8)
	p.succeeded(3, time.Millisecond) // was not full: says nothing
	want(8)
	for range 5 {
		p.succeeded(p.limit(), time.Millisecond)
	}
	want(64)
	p.succeeded(64, 100*time.Millisecond)
	want(32)
	p.failed(errors.New("a handler's"))
	want(16)
	// A handler that hangs in company ends the sharing for longer each time.
	p.failed(context.DeadlineExceeded)
	p.succeeded(1, time.Millisecond)
	want(1)
	now = now.Add(time.Second)
	p.failed(context.DeadlineExceeded)
	now = now.Add(1500 * time.Millisecond)
	p.succeeded(1, time.Millisecond)
	want(1)
	now = now.Add(500 * time.Millisecond)
	p.succeeded(1, time.Millisecond)
	want(2)
}
