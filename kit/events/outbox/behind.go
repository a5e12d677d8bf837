package outbox

import (
	"context"
	"math"
	"time"
)

// behind is a topic that took nothing, or took too long, and so fell behind the
// cursors: they pass its rows by, and it has a cursor of its own in each partition.
// Its rows are published beside the passes, until it has caught up.
type behind struct {
	topic    string
	at       map[int]int64 // by partition: the id up to which its events are published
	changed  bool          // at is not recorded yet
	failures int           // since it took something last
	retryAt  time.Time

	lane    *lane         // under way, or nil
	upTo    map[int]int64 // where at stands once all rows of the lane are published
	lowered map[int]int64 // rows that appeared meanwhile, below
	joined  bool          // its last rows are part of the present pass
}

// due returns how long the topic is to be left alone; while it has a lane, for ever.
func (x *behind) due(now time.Time) time.Duration {
	if x.lane != nil {
		return math.MaxInt64
	}
	return x.retryAt.Sub(now)
}

// passedBy names the topics whose rows the cursors pass by.
func (s *state) passedBy() []string {
	out := make([]string, 0, len(s.behind))
	for topic := range s.behind {
		out = append(out, topic)
	}
	return out
}

// endLanes waits for the publications that run beside the passes; what they
// brought is published again.
func (s *state) endLanes() {
	for _, x := range s.behind {
		if x.lane != nil {
			x.lane.abort()
			<-x.lane.done
			x.lane = nil
		}
	}
}

// fellBehind takes the topic out of the passes. Its rows from low on, by
// partition, are not published; where low has nothing, all up to next are.
func (r *Relay) fellBehind(ctx context.Context, s *state, topic string, low, next map[int]int64, cause error) *behind {
	x := &behind{topic: topic, at: make(map[int]int64), changed: true}
	for i, p := range s.parts {
		if p == nil {
			continue
		}
		x.at[i] = p.cursor
		if at, ok := next[i]; ok {
			x.at[i] = at
		}
		if id, ok := low[i]; ok {
			x.at[i] = id - 1
		}
	}
	s.behind[topic] = x
	r.cfg.Logger.WarnContext(ctx, "outbox: a topic falls behind; the others go on", "topic", topic, "error", cause)
	return x
}

// failed puts the next attempt off.
func (x *behind) failed(r *Relay) {
	x.retryAt = r.cfg.Now().Add(min(50*time.Millisecond<<min(x.failures, 10), r.cfg.MaxBackoff))
	x.failures++
}

// harvest takes up what the topic's lane brought.
func (x *behind) harvest(ctx context.Context, r *Relay, s *state) {
	l := x.lane
	x.lane = nil
	for part, id := range x.upTo {
		if s.parts[part] != nil {
			x.at[part] = id
		}
	}
	for part, id := range lowest(l.left) {
		x.lower(part, id-1)
	}
	for part, id := range x.lowered {
		x.lower(part, id)
	}
	x.lowered, x.changed = nil, true
	if l.trouble != nil {
		r.cfg.Logger.WarnContext(ctx, "outbox: a topic is still behind", "topic", x.topic, "error", l.trouble)
		x.failed(r)
		return
	}
	if x.failures > 0 {
		r.cfg.Logger.InfoContext(ctx, "outbox: a topic takes events again", "topic", x.topic)
	}
	x.failures = 0
}

func (x *behind) lower(part int, id int64) {
	if at, ok := x.at[part]; ok && id < at {
		x.at[part] = id
	}
}

// appeared notes a row of the topic in a hole.
func (x *behind) appeared(y row) {
	if x.lane != nil {
		if x.lowered == nil {
			x.lowered = make(map[int]int64)
		}
		if at, ok := x.lowered[y.part]; !ok || y.id-1 < at {
			x.lowered[y.part] = y.id - 1
		}
	}
	// While a lane runs too: the hole is about to be forgotten, so should this
	// process die now, the record must have it.
	if at := x.at[y.part]; y.id-1 < at {
		x.at[y.part], x.changed = y.id-1, true
	}
}

// lowest returns the lowest id of each partition.
func lowest(rows []row) map[int]int64 {
	out := make(map[int]int64)
	for _, x := range rows {
		if id, ok := out[x.part]; !ok || x.id < id {
			out[x.part] = x.id
		}
	}
	return out
}

// catchUp reads more of a topic that is behind, up to where the pass leaves the
// cursors. Where that is all and the topic takes events, the rows join the pass,
// and with it the topic has caught up; otherwise they are published beside it.
func (r *Relay) catchUp(ctx context.Context, s *state, b *batch, x *behind) (rows []row, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	var spans []span
	upTo := make(map[int]int64, len(x.at))
	for part, at := range x.at {
		cursor := b.cursor(s, part)
		upTo[part] = max(at, cursor)
		if cursor > at {
			spans = append(spans, span{part, at + 1, cursor})
		}
	}
	limit := max(1, r.cfg.BatchSize/max(1, len(spans)))
	if len(spans) > 0 {
		if rows, err = r.fetchTopic(ctx, spans, limit, x.topic); err != nil {
			return nil, err
		}
	}
	whole := true
	count := make(map[int]int)
	for _, y := range rows {
		if count[y.part]++; count[y.part] == limit {
			upTo[y.part], whole = y.id, false
		}
	}
	x.upTo, x.joined = upTo, false
	for part, at := range upTo {
		whole = whole && at <= b.cursor(s, part) // it went back below where the topic was
	}
	x.joined = whole && (x.failures == 0 || len(rows) == 0)
	return rows, nil
}

// cursor is where the pass leaves the partition.
func (b *batch) cursor(s *state, part int) int64 {
	if next := b.next[part]; next != nil {
		return next.cursor
	}
	return s.parts[part].cursor
}
