package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

func (r *Relay) streamState(ctx context.Context, topic string) (events.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.PublishTimeout)
	defer cancel()
	st, err := r.log.StreamState(ctx, topic)
	if err != nil {
		return st, fmt.Errorf("outbox: state of topic %s: %w", topic, err)
	}
	return st, nil
}

// look reads what the relays of other blocks have recorded: the sequences that
// the broker acknowledged to them, below which nothing new can be stored unless a
// log lost its tail. It lets go of blocks that were taken over or set back by one
// of them. A relay that holds every block need not look.
func (l *leader) look(ctx context.Context, s *state, polling bool) error {
	r := l.r
	if len(s.blocks) == r.cfg.Blocks || !polling && time.Since(s.seen) < recordEvery {
		return nil
	}
	seen := time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DatabaseTimeout)
	defer cancel()
	epochs := make(map[int]int64)
	err := each(ctx, r.db.Read, func(rows *sql.Rows) error {
		var first int
		var epoch int64
		var streams []byte
		if err := rows.Scan(&first, &epoch, &streams); err != nil {
			return err
		}
		epochs[first] = epoch
		var marks map[string]mark
		err := json.Unmarshal(streams, &marks)
		for topic, m := range marks {
			s.foreign[topic] = max(s.foreign[topic], m.High)
		}
		return err
	}, `SELECT first, epoch, streams FROM napkin_outbox_block`)
	if err != nil {
		return fmt.Errorf("outbox: read the other blocks: %w", err)
	}
	s.seen = seen
	for i := 0; i < len(s.blocks); i++ {
		if b := s.blocks[i]; epochs[b.first] != b.epoch {
			r.cfg.Logger.InfoContext(ctx, "outbox: another relay has taken over", "block", b.Block.String())
			s.endLanes()
			l.release(ctx, s, b)
			i--
		}
	}
	return nil
}

// learn takes up what a lane found out about its topic's log: what the log holds
// of each block's events. Where it has lost some it sets the cursors back and
// reports so.
func (r *Relay) learn(ctx context.Context, s *state, l *lane) (back bool, err error) {
	if r.log == nil {
		return false, nil
	}
	switch {
	case l.trouble != nil:
		// The broker may come back with less. Once something new is stored above
		// what it lost, the next relay could not tell.
		delete(s.checked, l.topic)
	case l.check:
		s.checked[l.topic] = r.cfg.Now()
	}
	if l.lost {
		s.lost[l.topic] = l.intact
		return r.goBack(ctx, s)
	}
	for _, b := range s.blocks {
		if _, ok := b.streams[l.topic]; !ok && l.log != nil {
			b.streams[l.topic] = mark{Identity: l.log.Identity}
		}
	}
	for part, seq := range l.acked {
		if p := s.parts[part]; p != nil {
			m := p.block.streams[l.topic]
			if seq > m.High {
				m.High = seq
				p.block.streams[l.topic] = m
				s.dirty = true
			}
		}
	}
	return false, nil
}

// goBack goes back for the topics whose logs lost events, and reports whether there
// were any.
func (r *Relay) goBack(ctx context.Context, s *state) (back bool, err error) {
	for topic, intact := range s.lost {
		if back, err = r.lostTail(ctx, s, topic, intact); err != nil {
			return false, err
		}
		delete(s.lost, topic)
	}
	return back, nil
}

// lostTail goes back in every block, whoever holds it, whose events lay above
// what is left of the topic's log. The holders of other blocks find their epoch
// changed, and take them over again.
func (r *Relay) lostTail(ctx context.Context, s *state, topic string, intact uint64) (back bool, err error) {
	st, err := r.streamState(ctx, topic)
	if err != nil {
		return false, err
	}
	intact = min(intact, st.LastSeq)
	var went []events.Block
	err = r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		went = nil
		held := false
		for _, b := range s.blocks { // one whose lease went to another relay says nothing any more
			err := b.lease.Guard(ctx, sqldb.StdTx(tx))
			if err != nil && !errors.Is(err, lease.ErrLost) {
				return err
			}
			held = held || err == nil
		}
		if !held {
			return nil
		}
		type stored struct {
			first, size int
			cursors     []int64
			streams     map[string]mark
		}
		var all []stored
		err := each(ctx, tx, func(rows *sql.Rows) error {
			var x stored
			var cursors, streams []byte
			err := rows.Scan(&x.first, &x.size, &cursors, &streams)
			if err == nil {
				err = errors.Join(json.Unmarshal(cursors, &x.cursors), json.Unmarshal(streams, &x.streams))
			}
			all = append(all, x)
			return err
		}, `SELECT first, size, cursors, streams FROM napkin_outbox_block ORDER BY first`+r.db.Dialect.ForUpdate())
		if err != nil {
			return err
		}
		for _, x := range all {
			m, ok := x.streams[topic]
			if !ok || m.Identity == st.Identity && m.High <= intact {
				continue
			}
			if m.Identity == st.Identity {
				x.streams[topic] = mark{Identity: st.Identity, High: intact}
			} else {
				x.streams[topic] = mark{Identity: st.Identity}
			}
			if m.High == 0 { // the log held nothing of this block
				if _, err := tx.ExecContext(ctx, `UPDATE napkin_outbox_block SET streams = $1 WHERE first = $2`, jsonText(x.streams), x.first); err != nil {
					return err
				}
				continue
			}
			if err := r.rewind(ctx, tx, x.first, x.size, x.cursors, topic, x.streams); err != nil {
				return err
			}
			went = append(went, events.Block{Index: x.first / x.size, Count: r.cfg.Blocks})
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("outbox: go back for topic %s: %w", topic, err)
	}
	if len(went) > 0 {
		r.cfg.Logger.WarnContext(ctx, "outbox: the topic's stream lost acknowledged events or was made anew; publishing them again", "topic", topic, "left", intact, "blocks", len(went))
	}
	if f := r.cfg.Hooks.Republish; f != nil {
		for _, b := range went {
			f(ctx, topic, b)
		}
	}
	return true, nil
}

// rewind sets a block's cursors back to where all of the topic's events up to the
// log's present end were published. Other topics' events after it are published
// again too; consumers recognise them.
func (r *Relay) rewind(ctx context.Context, tx *sql.Tx, first, size int, cursors []int64, topic string, streams map[string]mark) error {
	high := int64(streams[topic].High) //nolint:gosec // sequences stay below 2^63
	target := make([]int64, size)      // everything retained, where no checkpoint is known
	var text []byte
	err := tx.QueryRowContext(ctx, `SELECT cursors FROM napkin_outbox_checkpoint
		WHERE first = $1 AND size = $2 AND topic = $3 AND seq <= $4 ORDER BY seq DESC LIMIT 1`, first, size, topic, high).Scan(&text)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(text, &target); err != nil {
			return err
		}
	}
	for i := range target {
		target[i] = min(target[i], cursors[i])
	}
	_, err = tx.ExecContext(ctx, `UPDATE napkin_outbox_block SET cursors = $1, streams = $2, epoch = epoch + 1 WHERE first = $3`,
		jsonText(target), jsonText(streams), first)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM napkin_outbox_checkpoint WHERE first = $1 AND size = $2 AND topic = $3 AND seq > $4`,
		first, size, topic, high); err != nil {
		return err
	}
	type place struct {
		Part int   `json:"part"`
		ID   int64 `json:"id"`
	}
	places := make([]place, size)
	for i, at := range target {
		places[i] = place{first + i, at}
	}
	// What lies above the target is found again on the way.
	to := r.records("part bigint", "id bigint")
	for _, q := range []string{
		`DELETE FROM napkin_outbox_hole WHERE lo > (SELECT x.id FROM ` + to + ` WHERE x.part = napkin_outbox_hole.part)`,
		`UPDATE napkin_outbox_hole SET hi = x.id FROM ` + to + ` WHERE x.part = napkin_outbox_hole.part AND hi > x.id`,
		`DELETE FROM napkin_outbox_stalled WHERE id > (SELECT x.id FROM ` + to + ` WHERE x.part = napkin_outbox_stalled.part)`,
		`UPDATE napkin_outbox_behind SET cursor_id = x.id FROM ` + to + ` WHERE x.part = napkin_outbox_behind.part AND cursor_id > x.id`,
	} {
		if _, err := tx.ExecContext(ctx, q, jsonText(places)); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `UPDATE napkin_outbox_segment SET published = 0`)
	return err
}

// dueCheckpoint says that a topic's events of a block up to cursors lie at or
// below seq.
type dueCheckpoint struct {
	block *block
	topic string
	seq   uint64
}

type checkpointRecord struct {
	First   int    `json:"first"`
	Size    int    `json:"size"`
	Topic   string `json:"topic"`
	Seq     uint64 `json:"seq"`
	Cursors string `json:"cursors"`
	Created int64  `json:"created"`
}

var checkpointColumns = []string{"first bigint", "size bigint", "topic text", "seq bigint", "cursors text", "created bigint"}

func (l *leader) dueCheckpoints(s *state) (due []dueCheckpoint) {
	now := l.r.cfg.Now().UnixMicro()
	for _, b := range s.blocks {
		for topic, m := range b.streams {
			if c := b.checkpoints[topic]; m.High > c.seq && now-c.at >= l.r.cfg.CheckpointEvery.Microseconds() {
				due = append(due, dueCheckpoint{b, topic, m.High})
			}
		}
	}
	return due
}

func (l *leader) checkpointDue(s *state) bool { return len(l.dueCheckpoints(s)) > 0 }

func (w *recording) checkpoints(ctx context.Context, s *state, out *outcome, due []dueCheckpoint) {
	var recs []checkpointRecord
	for _, d := range due {
		if w.kept.has(d.block.first) {
			recs = append(recs, checkpointRecord{d.block.first, d.block.size, d.topic, d.seq,
				jsonText(s.frontier(d.block, d.topic, out)), w.r.cfg.Now().UnixMicro()})
		}
	}
	write(ctx, w, recs, `INSERT INTO napkin_outbox_checkpoint (first, size, topic, seq, cursors, created)
		SELECT x.first, x.size, x.topic, x.seq, x.cursors, x.created FROM `+w.r.records(checkpointColumns...)+`
		WHERE true ON CONFLICT (first, size, topic, seq) DO UPDATE SET cursors = excluded.cursors, created = excluded.created`)
}
