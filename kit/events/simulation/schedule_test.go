// Package simulation runs the outbox's relays and the inbox's consumers, the real
// ones, on one SQLite database in memory and the memory broker, in virtual time and
// under faults that a seed chooses: lost and repeated messages, lost
// acknowledgements, delays, other orders across keys, errors and crashes at every
// call, paused processes, lost streams, failing handlers. A ledger then says
// whether each event had its effect once and in the order of its key.
//
//	go test ./kit/events/simulation -run TestSeeds -seeds 100000
//	go test ./kit/events/simulation -run TestSeeds -seed 4711 -v
package simulation

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"testing/synctest"
	"time"
)

// quantum is the step of virtual time. Timers in between fire, but what they set
// off waits for its turn at the end of the step.
const quantum = 100 * time.Millisecond

var (
	errCrashed = errors.New("simulation: the process has crashed")
	errLost    = errors.New("simulation: the connection was lost")
)

// call is a call that a process makes to the world around it. It waits for its
// turn, so that the seed alone decides what comes before what.
type call struct {
	p       *process
	kind    string // "publish", "commit"…
	label   string
	at      time.Time // not before
	granted chan turn
	number  int
	waited  bool
}

// turn is what becomes of a call.
type turn struct {
	err   error  // it fails, before it has done anything
	after error  // it is done, and its answer is lost
	crash bool   // the process ends once it is done
	wait  bool   // it gets no answer yet
	luck  uint64 // for what the call itself leaves to chance
}

func (x turn) rand() *rand.Rand { return rand.New(rand.NewPCG(x.luck, 1)) }

// process is one life of a replica: its calls fail once it has crashed.
type process struct {
	w       *world
	name    string
	free    bool // its calls are not subject to anything: the judge's
	planned plan

	// Guarded by w.mu.
	crashed bool
	calls   int
	hits    map[string]int
	paused  time.Time // until when
	cancel  context.CancelFunc
	ended   chan struct{}
}

// plan says where a process crashes.
type plan struct {
	point string // a named point, or "" for any call
	n     int    // the n-th time; 0: never
	after bool   // once the call is done
}

// turn waits until the call may be made. The caller does what it says.
func (p *process) turn(kind, label string) turn {
	w := p.w
	if p.free {
		return turn{}
	}
	w.mu.Lock()
	if p.crashed {
		w.mu.Unlock()
		return turn{err: errCrashed}
	}
	w.calls++
	c := &call{p: p, kind: kind, label: p.name + " " + kind + " " + label, granted: make(chan turn, 1), number: w.calls}
	w.pending = append(w.pending, c)
	w.mu.Unlock()
	return <-c.granted
}

// done is called after a call: it returns what the caller gets to know.
func (p *process) done(t turn, err error) error {
	if t.crash {
		p.crash()
		return errCrashed
	}
	return cmp.Or(err, t.after)
}

// hit is a crash point: the process may end here.
func (p *process) hit(point string) {
	p.w.mu.Lock()
	p.hits[point]++
	p.w.points[point]++
	now := p.planned.point == point && p.planned.n == p.hits[point]
	if now {
		p.w.crashes[point]++
	}
	p.w.mu.Unlock()
	if now {
		p.crash()
	}
}

// crash ends the process at once: nothing that it does from here on has an effect.
func (p *process) crash() {
	w := p.w
	w.mu.Lock()
	if p.crashed {
		w.mu.Unlock()
		return
	}
	p.crashed = true
	w.note("crash", p.name)
	w.pending = slices.DeleteFunc(w.pending, func(c *call) bool {
		if c.p == p {
			c.granted <- turn{err: errCrashed}
		}
		return c.p == p
	})
	w.mu.Unlock()
	w.db.abandon(p)
	p.cancel()
}

// noted is an entry of the trace.
type noted struct {
	at          time.Time
	what, label string
	t           turn
}

func (n noted) String() string {
	s := n.at.Format("05.000") + " " + n.what + " " + n.label
	switch {
	case n.t.crash:
		s += ": crashes once it is done"
	case n.t.err != nil:
		s += ": " + n.t.err.Error()
	case n.t.after != nil:
		s += ": is done, and its answer lost"
	}
	return s
}

// note adds to the trace. w.mu is held.
func (w *world) note(what, label string) { w.noteTurn(what, label, turn{}) }

func (w *world) noteTurn(what, label string, t turn) {
	n := noted{time.Now(), what, label, t}
	h := fnv.New64a()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], w.trace^uint64(n.at.UnixMilli())^t.luck) //nolint:gosec // to mix them
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte(what))
	_, _ = h.Write([]byte(label))
	w.trace = h.Sum64()
	w.entries = append(w.entries, n)
	if w.log != nil {
		w.log("%s", n)
	}
}

// turns is the trace as text.
func (w *world) turns() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := make([]string, len(w.entries))
	for i, n := range w.entries {
		text[i] = n.String()
	}
	return text
}

// step makes one pending call, and reports whether there was one.
func (w *world) step() bool {
	synctest.Wait()
	w.mu.Lock()
	var may []*call
	holder := w.db.holder()
	now := time.Now()
	for _, c := range w.pending {
		if now.Before(c.at) || now.Before(c.p.paused) {
			continue
		}
		// One transaction at a time: SQLite has one writer, and a reader beside it
		// sees what it would have seen before.
		if database := c.kind == "begin" || c.kind == "exec" || c.kind == "query"; database && holder != nil {
			continue
		}
		may = append(may, c)
	}
	if len(may) == 0 {
		w.mu.Unlock()
		return false
	}
	slices.SortFunc(may, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.label, b.label), cmp.Compare(a.number, b.number))
	})
	c := may[w.rand.IntN(len(may))]
	if w.faulty() && w.rand.IntN(40) == 0 {
		c.at = now.Add(time.Duration(1+w.rand.IntN(20)) * quantum)
		w.faults["delay"]++
		w.mu.Unlock()
		return true
	}
	t := w.judge(c)
	if t.wait { // its answer does not come for a while
		c.at, c.waited = now.Add(time.Duration(1+w.rand.IntN(5))*quantum), true
		w.mu.Unlock()
		return true
	}
	w.pending = slices.DeleteFunc(w.pending, func(x *call) bool { return x == c })
	w.noteTurn("turn", c.label, t)
	w.mu.Unlock()
	if errors.Is(t.err, errCrashed) {
		c.granted <- t
		c.p.crash()
		return true
	}
	c.granted <- t
	return true
}

// judge says what becomes of a call. w.mu is held.
func (w *world) judge(c *call) turn {
	p := c.p
	if !c.waited {
		p.calls++
	}
	t := turn{luck: w.rand.Uint64()}
	if !c.waited && p.planned.point == "" && p.planned.n == p.calls {
		w.crashes[c.kind]++
		if p.planned.after {
			t.crash = true
		} else {
			t.err = errCrashed
		}
		return t
	}
	if !w.faulty() {
		return t
	}
	away := w.outage == "database"
	switch c.kind {
	case "publish", "state", "ack", "deliver":
		away = w.outage == "broker"
	}
	switch {
	case away && !c.waited:
		t.wait = true
	case away:
		w.faults["call in an outage"]++
		t.err = errLost
	case w.rand.IntN(50) > 0:
	case w.rand.IntN(2) == 0:
		w.faults[c.kind+" lost"]++
		t.err = errLost
	default:
		w.faults[c.kind+"'s answer lost"]++
		t.after = errLost
	}
	return t
}

// locked keeps the world's state for one goroutine.
func (w *world) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}
