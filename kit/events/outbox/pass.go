package outbox

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// outcome is what came of the publications of a pass.
type outcome struct {
	resolved []row     // stalled rows that are published now
	failed   []failure // rows that were tried in vain
	waiting  []row     // new rows behind a failed one of their key
	behind   bool      // what is known of topics that are behind has changed
}

func (o *outcome) take(l *lane) {
	o.resolved = append(o.resolved, l.resolved...)
	o.failed = append(o.failed, l.failed...)
	o.waiting = append(o.waiting, l.waiting...)
}

func (o *outcome) empty() bool {
	return len(o.resolved)+len(o.failed)+len(o.waiting) == 0 && !o.behind
}

// pass reads what is new in the touched partitions, publishes it topic by topic
// side by side, and records how far it came. stop ends it between two publications.
func (l *leader) pass(stop, ctx context.Context, s *state, touched parts) (more bool, err error) {
	r, out := l.r, &outcome{}
	if err := l.look(ctx, s, touched == allParts); err != nil {
		return false, err
	}
	if back, err := r.goBack(ctx, s); back || err != nil {
		return l.back(s, err)
	}
	for _, x := range s.behind {
		if x.lane == nil || !x.lane.over() {
			continue
		}
		done := x.lane
		x.harvest(ctx, r, s)
		out.behind = true
		out.take(done)
		if back, err := r.learn(ctx, s, done); back || err != nil {
			return l.back(s, err)
		}
	}
	fed, catch := l.feed.take()
	if catch != nil {
		touched = allParts
	}
	b, err := r.read(ctx, s, touched, fed)
	if err != nil {
		return false, fmt.Errorf("outbox: read: %w", err)
	}
	lanes, err := l.lanes(stop, ctx, s, b, out)
	if err != nil {
		return false, fmt.Errorf("outbox: read: %w", err)
	}
	slow := time.NewTimer(r.cfg.SlowTopic)
	defer slow.Stop()
	late := false
	for _, x := range lanes {
		if !late {
			select {
			case <-x.done:
			case <-slow.C:
				late = true
			}
		}
	}
	for _, x := range lanes {
		if x.over() && x.stopped {
			// Nothing of this pass is recorded; the next relay publishes it again. What a
			// topic that is behind has failed to take, is forgotten with where it stood.
			endLanes(lanes)
			l.reset(s)
			return false, nil
		}
	}
	for i, x := range lanes {
		if back, err := l.settle(ctx, s, b, x, out); back || err != nil {
			endLanes(lanes[i:])
			return l.back(s, err)
		}
	}
	full := l.apply(s, b)
	if !out.empty() || l.checkpointDue(s) || s.dirty && time.Since(s.recorded) >= recordEvery {
		if err := l.record(ctx, s, out); err != nil {
			return false, fmt.Errorf("outbox: record: %w", err)
		}
	}
	drained := !slices.ContainsFunc(s.parts[:], func(p *partition) bool { return p != nil && p.full })
	l.feed.passed(catch, drained, !s.dirty)
	return full || len(out.resolved) > 0, nil
}

// back is the end of a pass that found a log to have lost events: the state is
// loaded again, from where the cursors were set back to.
func (l *leader) back(s *state, err error) (bool, error) {
	if err == nil {
		l.reset(s)
	}
	return true, err
}

// endLanes ends the lanes after their waves under way and waits for them.
func endLanes(lanes []*lane) {
	for _, x := range lanes {
		x.abort()
		<-x.done
	}
}

// apply moves the state to where the pass has come.
func (l *leader) apply(s *state, b *batch) (full bool) {
	for i, next := range b.next {
		p := s.parts[i]
		if p == nil {
			continue // its block was lost meanwhile
		}
		if next.cursor != p.cursor || !slices.Equal(next.holes, p.holes) {
			s.dirty = true
		}
		p.cursor, p.holes, p.full = next.cursor, next.holes, next.full
	}
	for _, p := range s.parts {
		full = full || p != nil && p.full && len(s.stalled) < l.r.cfg.MaxStalled
	}
	s.passed += b.passed
	return full
}

// lanes starts the publications of a pass, a lane for each topic, and returns
// those that the pass waits for.
func (l *leader) lanes(stop, ctx context.Context, s *state, b *batch, out *outcome) ([]*lane, error) {
	r, now := l.r, l.r.cfg.Now()
	held := make(map[orderKey]bool, len(s.stalled))
	for _, x := range s.stalled {
		held[x.orderKey()] = true
	}
	// A topic that is behind may just have failed to take some, not listed yet.
	for _, x := range out.failed {
		held[x.orderKey()] = true
	}
	for _, x := range out.waiting {
		held[keyOf(x.event.Topic, x.event.Key, x.part, x.id)] = true
	}
	topics := make(map[string]*lane)
	of := func(topic string) *lane {
		if topics[topic] == nil {
			topics[topic] = r.newLane(s, topic, now)
		}
		return topics[topic]
	}
	for _, x := range b.retries {
		of(x.event.Topic).add(x, true)
	}
	sort := func(lane *lane, x row) {
		if held[keyOf(x.event.Topic, x.event.Key, x.part, x.id)] {
			out.waiting = append(out.waiting, x) // behind those of its key that are stalled
			return
		}
		lane.add(x, false)
	}
	for _, x := range b.rows {
		if late := s.behind[x.event.Topic]; late != nil {
			late.appeared(x)
			continue
		}
		sort(of(x.event.Topic), x)
	}
	for topic, x := range s.behind {
		if x.due(now) > 0 {
			continue
		}
		rows, err := r.catchUp(ctx, s, b, x)
		if err != nil {
			return nil, err
		}
		lane := r.newLane(s, topic, now)
		for _, y := range rows {
			sort(lane, y)
		}
		if x.joined {
			topics[topic] = lane
			continue
		}
		x.lane = lane
		lane.start(stop, ctx, r)
	}
	for _, b := range s.blocks {
		for topic := range b.streams {
			if r.log != nil && s.behind[topic] == nil && now.Sub(s.checked[topic]) >= r.cfg.StreamCheck {
				of(topic)
			}
		}
	}
	lanes := make([]*lane, 0, len(topics))
	for _, x := range topics {
		x.start(stop, ctx, r)
		lanes = append(lanes, x)
	}
	return lanes, nil
}

// newLane returns a lane of the topic, without rows.
func (r *Relay) newLane(s *state, topic string, now time.Time) *lane {
	l := &lane{topic: topic, byKey: make(map[orderKey]*queue), base: s.foreign[topic], known: make(map[string]bool), done: make(chan struct{})}
	l.check = r.log != nil && now.Sub(s.checked[topic]) >= r.cfg.StreamCheck
	for _, b := range s.blocks {
		m, ok := b.streams[topic]
		if !ok {
			l.check = r.log != nil
			continue
		}
		l.known[m.Identity] = true
		l.base = max(l.base, m.High)
	}
	return l
}

// add puts a row in the lane.
func (l *lane) add(x row, retry bool) {
	k := keyOf(x.event.Topic, x.event.Key, x.part, x.id)
	q := l.byKey[k]
	if q == nil {
		q = &queue{retry: retry}
		l.byKey[k] = q
		l.queues = append(l.queues, q)
	}
	q.rows = append(q.rows, x)
	if !retry {
		l.fresh = append(l.fresh, x)
	}
}

func (l *lane) start(stop, ctx context.Context, r *Relay) {
	stop, l.abort = context.WithCancel(stop)
	go l.run(stop, ctx, r)
}

// settle takes up what a lane of the pass brought. It reports whether the topic's
// log has lost events and the cursors were set back.
func (l *leader) settle(ctx context.Context, s *state, b *batch, x *lane, out *outcome) (back bool, err error) {
	next := make(map[int]int64, len(b.next))
	for i, p := range b.next {
		next[i] = p.cursor
	}
	known := s.behind[x.topic] // it was behind, and has come to its end
	if !x.over() {
		late := l.r.fellBehind(ctx, s, x.topic, lowest(x.fresh), next, fmt.Errorf("no answer within %v", l.r.cfg.SlowTopic))
		late.lane, late.failures, late.upTo = x, 1, make(map[int]int64)
		for i, p := range s.parts {
			if p != nil {
				late.upTo[i] = b.cursor(s, i)
			}
		}
		out.behind = true
		return false, nil
	}
	if back, err := l.r.learn(ctx, s, x); back || err != nil {
		return back, err
	}
	out.take(x)
	if len(x.left) > 0 {
		late := l.r.fellBehind(ctx, s, x.topic, lowest(x.left), next, x.trouble)
		late.failed(l.r)
		if known != nil {
			late.failures = max(late.failures, known.failures)
		}
		out.behind = true
	} else if known != nil {
		delete(s.behind, x.topic)
		s.caughtUp = append(s.caughtUp, x.topic)
		out.behind = true
	}
	return false, nil
}
