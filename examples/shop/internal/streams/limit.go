// Package streams bounds how many event streams are open. A stream costs little while it is idle, but it
// holds a connection and one of the requests that are served at once for as long as its reader likes: some
// hundred of them, opened by one customer, must not keep the others out.
package streams

import (
	"net/http"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/problem"
)

// Limit counts open streams. A nil Limit bounds nothing. It is safe for concurrent use.
type Limit struct {
	perUser, total int

	mu   sync.Mutex
	open map[string]int // by user; none is zero
	all  int
}

// NewLimit returns a limit of so many streams of one user, and so many of all.
func NewLimit(perUser, total int) *Limit {
	return &Limit{perUser: perUser, total: total, open: map[string]int{}}
}

// Enter counts a stream of user's in, until leave is called, once. The error is a *problem.Problem: 429
// where the user has too many, 503 where there are too many altogether.
func (l *Limit) Enter(user string) (leave func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.open[user] >= l.perUser:
		return nil, refusal(http.StatusTooManyRequests, "too_many_streams", "you follow too many orders at once; close one of the pages")
	case l.all >= l.total:
		return nil, refusal(http.StatusServiceUnavailable, "unavailable", "too many orders are being followed just now; try again in a moment")
	}
	l.open[user]++
	l.all++
	return func() { l.leave(user) }, nil
}

func (l *Limit) leave(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[user]--; l.open[user] == 0 {
		delete(l.open, user)
	}
}

func refusal(status int, code, detail string) error {
	p := problem.New(status, code, detail)
	p.RetryAfter = 5 * time.Second
	return p
}
