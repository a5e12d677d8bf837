package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/napkin-kit/napkin/kit/events"
)

// learnStreams asks the broker for the identity of topics that are new to us, or
// that were gone. One that does not exist fails its own rows only.
func (r *Relay) learnStreams(ctx context.Context, s *state, queues []*queue, out *outcome) error {
	if r.log == nil {
		return nil
	}
	for _, q := range queues {
		topic := q.rows[0].event.Topic
		m := s.marks[topic]
		if m != nil && !m.gone || q.rows[0].bad != nil || out.missing[topic] != nil {
			continue
		}
		st, err := r.streamState(ctx, topic)
		switch {
		case errors.Is(err, events.ErrNoTopic):
			out.missing[topic] = err
		case err != nil:
			return err
		case m == nil:
			// Sequences up to here are not ours to miss.
			s.marks[topic] = &mark{identity: st.Identity, high: st.LastSeq}
		default: // it is back: see what it holds
			m.gone = false
			out.regressed, out.regressedTo = topic, m.high
			return nil
		}
	}
	return nil
}

func (r *Relay) streamState(ctx context.Context, topic string) (events.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.PublishTimeout)
	defer cancel()
	st, err := r.log.StreamState(ctx, topic)
	if err != nil {
		return st, fmt.Errorf("outbox: state of topic %s: %w", topic, err)
	}
	return st, nil
}

// observe takes the receipts of a wave to the marks. A new event stored at or
// below a sequence that was acknowledged before means that the log lost its tail.
func (r *Relay) observe(s *state, evs []events.Event, receipts []events.Receipt, out *outcome) {
	highs := make(map[string]uint64)
	for i, rc := range receipts {
		topic := evs[i].Topic
		m := s.marks[topic]
		if rc.Seq == 0 || m == nil {
			continue
		}
		// A copy lies where its first lies, which may be a sequence that a leader
		// before us did not live to record.
		if !rc.Duplicate && rc.Seq <= m.high && (out.regressed == "" || out.regressed == topic && rc.Seq <= out.regressedTo) {
			out.regressed, out.regressedTo = topic, rc.Seq-1
		}
		highs[topic] = max(highs[topic], rc.Seq)
	}
	for topic, high := range highs {
		if topic != out.regressed {
			s.marks[topic].high = max(s.marks[topic].high, high)
		}
	}
}

// checkStreams compares every known log with the broker's.
func (r *Relay) checkStreams(ctx context.Context, s *state) error {
	if r.log == nil {
		return nil
	}
	for topic, m := range s.marks {
		if err := r.checkStream(ctx, s, topic, m.high); err != nil {
			return err
		}
	}
	return nil
}

// checkStream goes back where the topic's log is another one, or where at most
// the sequences up to intact are left of what was acknowledged.
func (r *Relay) checkStream(ctx context.Context, s *state, topic string, intact uint64) error {
	m := s.marks[topic]
	st, err := r.streamState(ctx, topic)
	if errors.Is(err, events.ErrNoTopic) {
		m.gone = true // which concerns the events of this topic, if there are any more
		return nil
	}
	if err != nil {
		return err
	}
	intact = min(intact, st.LastSeq)
	switch {
	case st.Identity != m.identity:
		r.cfg.Logger.WarnContext(ctx, "outbox: the topic's stream was made anew, publishing all retained events again", "topic", topic)
		return r.rewind(ctx, s, topic, 0, mark{identity: st.Identity, high: 0})
	case intact < m.high:
		r.cfg.Logger.WarnContext(ctx, "outbox: the topic's stream lost acknowledged events, publishing them again", "topic", topic, "acknowledged", m.high, "left", intact)
		return r.rewind(ctx, s, topic, intact, mark{identity: st.Identity, high: intact})
	}
	return nil
}

// rewind sets the cursor back to where everything up to the log's sequence
// intact was published. Other topics' events after it are published again too;
// consumers recognise them.
func (r *Relay) rewind(ctx context.Context, s *state, topic string, intact uint64, m mark) error {
	target := s.trimmed
	err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var at int64
		err := tx.QueryRowContext(ctx, `SELECT cursor_id FROM napkin_outbox_checkpoint WHERE topic = $1 AND seq <= $2 ORDER BY seq DESC LIMIT 1`, topic, int64(intact)).Scan(&at) //nolint:gosec // sequences stay below 2^63
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		target = min(max(at, s.trimmed), s.cursor)
		res, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_relay SET cursor_id = $1 WHERE name = 'outbox' AND epoch = $2`, target, s.epoch)
		if err := fenced(res, err); err != nil {
			return err
		}
		// What lies above the target is found again on the way.
		for _, q := range []string{
			`DELETE FROM napkin_outbox_hole WHERE lo > $1`,
			`UPDATE napkin_outbox_hole SET hi = $1 WHERE hi > $1`,
			`DELETE FROM napkin_outbox_stalled WHERE id > $1`,
			// Checkpoints of other topics stay true: they speak of what the
			// broker holds, and going back takes nothing from it.
		} {
			if _, err := tx.ExecContext(ctx, q, target); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM napkin_outbox_checkpoint WHERE topic = $1 AND seq > $2`, topic, int64(intact)); err != nil { //nolint:gosec // as above
			return err
		}
		return saveMark(ctx, tx, topic, &m)
	})
	if err != nil {
		return fmt.Errorf("outbox: go back for topic %s: %w", topic, err)
	}
	if f := r.cfg.Hooks.Republish; f != nil {
		f(ctx, topic, target)
	}
	s.cursor, s.marks[topic] = target, &m
	err = s.loadHoles(ctx, r.db.Read)
	return errors.Join(err, s.loadStalled(ctx, r.db.Read))
}

func saveMark(ctx context.Context, tx *sql.Tx, topic string, m *mark) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO napkin_outbox_stream (topic, identity, high_seq) VALUES ($1, $2, $3)
		ON CONFLICT (topic) DO UPDATE SET identity = excluded.identity, high_seq = excluded.high_seq`, topic, m.identity, int64(m.high)) //nolint:gosec // as above
	return err
}

// dueCheckpoints names the topics whose next checkpoint is due.
func (r *Relay) dueCheckpoints(s *state) []string {
	now := r.cfg.Now().UnixMicro()
	var topics []string
	for topic, m := range s.marks {
		if m.high > m.checkpoint && now-m.at >= r.cfg.CheckpointEvery.Microseconds() {
			topics = append(topics, topic)
		}
	}
	return topics
}

// recordMarks stores the marks of the topics published to, and checkpoints: "all
// events up to this id lie at or below this sequence".
func (r *Relay) recordMarks(ctx context.Context, tx *sql.Tx, next *state, topics map[string]struct{}, checkpoints []string) error {
	for topic := range topics {
		if m := next.marks[topic]; m != nil {
			if err := saveMark(ctx, tx, topic, m); err != nil {
				return err
			}
		}
	}
	for _, topic := range checkpoints {
		m := next.marks[topic]
		_, err := tx.ExecContext(ctx, `INSERT INTO napkin_outbox_checkpoint (topic, seq, cursor_id, created) VALUES ($1, $2, $3, $4)
			ON CONFLICT (topic, seq) DO UPDATE SET cursor_id = excluded.cursor_id, created = excluded.created`,
			topic, int64(m.high), next.frontier(), r.cfg.Now().UnixMicro()) //nolint:gosec // as above
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Relay) checkpointed(s *state, topics []string) {
	for _, topic := range topics {
		m := s.marks[topic]
		m.checkpoint, m.at = m.high, r.cfg.Now().UnixMicro()
	}
}
