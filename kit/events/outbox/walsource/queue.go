package walsource

import (
	"sync"

	"github.com/jackc/pglogrepl"

	"github.com/napkin-kit/napkin/kit/events/outbox"
)

// maxQueued bounds the bytes of events that wait for the relay.
const maxQueued = 16 << 20

// queue holds what has arrived until the relay takes it, all at a time.
type queue struct {
	ready chan struct{} // something can be taken
	room  chan struct{} // it was

	mu    sync.Mutex
	rows  []outbox.Row
	xids  []uint32 // of the rows' transactions
	bytes int
	end   pglogrepl.LSN // of the last transaction that has arrived whole
	some  bool          // there is something to take
	taken int           // times that something was taken and is not recorded
}

func newQueue() *queue {
	return &queue{ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is signalled already
	}
}

func (q *queue) add(r outbox.Row, xid uint32) {
	q.mu.Lock()
	q.rows = append(q.rows, r)
	if n := len(q.xids); n == 0 || q.xids[n-1] != xid {
		q.xids = append(q.xids, xid)
	}
	q.bytes += len(r.Data) + len(r.Attributes) + 256
	full := q.bytes >= maxQueued
	q.some = q.some || full
	q.mu.Unlock()
	if full { // of a large transaction the rest need not have arrived
		signal(q.ready)
	}
}

func (q *queue) commit(end pglogrepl.LSN) {
	q.mu.Lock()
	q.end, q.some = end, true
	q.mu.Unlock()
	signal(q.ready)
}

func (q *queue) take() (rows []outbox.Row, xids []uint32, end pglogrepl.LSN) {
	q.mu.Lock()
	rows, xids, end = q.rows, q.xids, q.end
	q.rows, q.xids, q.bytes, q.some = nil, nil, 0, false
	q.taken++
	q.mu.Unlock()
	signal(q.room)
	return rows, xids, end
}

func (q *queue) recorded() {
	q.mu.Lock()
	q.taken--
	q.mu.Unlock()
}

func (q *queue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes >= maxQueued
}

// idle reports whether everything that has arrived is recorded.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.some && len(q.rows) == 0 && q.taken == 0
}
