package inbox

import (
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// pace finds how many events share a transaction. A transaction holds the locks
// of all its events until it ends, so it is kept short: more events where it was
// quick, fewer where it was slow, and one where sharing made trouble. How long its
// commit takes is the disk's affair, and the same for one event: where commits are
// slow, more must share them, not fewer.
type pace struct {
	most       int
	quick, max time.Duration // one that worked for less, before its commit, may grow, for more shrinks
	now        func() time.Time

	mu       sync.Mutex
	size     int
	troubles int       // in a row
	until    time.Time // no sharing before
}

func newPace(most int, d sqldb.Dialect) *pace {
	p := &pace{most: most, size: min(most, 8), quick: 10 * time.Millisecond, max: 25 * time.Millisecond, now: time.Now}
	if d == sqldb.SQLite { // whose only writer it is
		p.quick, p.max = 4*time.Millisecond, 10*time.Millisecond
	}
	return p
}

func (p *pace) limit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now().Before(p.until) {
		return 1
	}
	return p.size
}

// succeeded is told of a transaction of n events that worked for so long before
// its commit. One that was less than half full says nothing.
func (p *pace) succeeded(n int, worked time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case worked > p.max && n > 1 && 2*n > p.size:
		p.size = max(1, n/2)
	case worked < p.quick && n >= p.size && !p.now().Before(p.until):
		p.size = min(2*p.size, p.most)
		p.troubles = 0
	}
}

// failed is told of a transaction of several events that did not commit. A
// deadlock, and a handler that took all the time there was, come of sharing.
func (p *pace) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size = max(1, p.size/2)
	if sqldb.IsRetryable(err) || isTimeout(err) {
		p.size = 1
		p.until = p.now().Add(min(time.Second<<min(p.troubles, 10), 5*time.Minute))
		p.troubles++
	}
}
