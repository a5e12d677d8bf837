package kafkaevents

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/napkin-kit/napkin/kit/events"
)

// commitLoop commits the window's position until ctx ends, and once more then.
func (b *Broker) commitLoop(ctx context.Context, group, name string, t topic, w *window) {
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	for failures := 0; ctx.Err() == nil; {
		all := false
		select {
		case <-w.changed:
		case <-renew.C:
			all = true
		case <-ctx.Done():
		}
		last, cancel := ctx, context.CancelFunc(func() {})
		if ctx.Err() != nil {
			last, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastCommit)
		}
		at := w.uncommitted(all)
		err := b.commit(last, group, name, t, at)
		cancel()
		wait := b.cfg.CommitEvery
		if err == nil {
			w.commit(at)
			failures = 0
		} else if !b.isClosed() {
			wait = max(wait, min(100*time.Millisecond<<min(failures, 10), 5*time.Second))
			failures++
			b.cfg.Logger.WarnContext(ctx, "kafkaevents: a position was not committed; what was acknowledged may come again", "group", group, "topic", name, "error", err)
			signal(w.changed)
		}
		pause(ctx, wait)
	}
}

// commit stores positions as a group without members does. With them goes the
// topic's identity.
func (b *Broker) commit(ctx context.Context, group, name string, t topic, at map[int32]position) error {
	if len(at) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = group
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = name, t.id
	for id, pos := range at {
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch = id, pos.offset, pos.epoch
		rp.Metadata = kmsg.StringPtr(t.identity())
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, b.client)
	if err != nil {
		return err
	}
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
				return fmt.Errorf("partition %d: %w", rp.Partition, err)
			}
		}
	}
	return nil
}

// committed is a group's position in a partition, and the identity of the topic
// that it was committed for, where that is known.
type committed struct {
	position
	identity string
}

// fetchCommits returns a group's positions by topic and partition.
func (b *Broker) fetchCommits(ctx context.Context, group string) (map[string]map[int32]committed, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = group // before Kafka 3.0
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	req.Groups = append(req.Groups, g)
	resp, err := req.RequestWith(ctx, b.client)
	if err != nil {
		return nil, err
	}
	all := make(map[string]map[int32]committed)
	for _, g := range resp.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); errors.Is(err, kerr.GroupIDNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, rt := range g.Topics {
			for _, rp := range rt.Partitions {
				if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
					return nil, fmt.Errorf("topic %s, partition %d: %w", rt.Topic, rp.Partition, err)
				}
				if rp.Offset < 0 {
					continue // nothing committed
				}
				if all[rt.Topic] == nil {
					all[rt.Topic] = make(map[int32]committed)
				}
				c := committed{position: position{rp.Offset, rp.LeaderEpoch}}
				if rp.Metadata != nil {
					c.identity = *rp.Metadata
				}
				all[rt.Topic][rp.Partition] = c
			}
		}
	}
	return all, nil
}

// Timestamps that ask for an end of a log.
const (
	newest = -1
	oldest = -2
)

// listOffsets returns one end of each partition's log. A topic that is not there
// is left out.
func (b *Broker) listOffsets(ctx context.Context, which int64, of map[string][]int32) (map[string]map[int32]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for name, partitions := range of {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = name
		for _, id := range partitions {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = id, which
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	all := make(map[string]map[int32]int64)
	if len(req.Topics) == 0 {
		return all, nil
	}
	resp, err := req.RequestWith(ctx, b.client)
	if err != nil {
		return nil, err
	}
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			err := kerr.ErrorForCode(rp.ErrorCode)
			if errors.Is(err, kerr.UnknownTopicOrPartition) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("topic %s, partition %d: %w", rt.Topic, rp.Partition, err)
			}
			if all[rt.Topic] == nil {
				all[rt.Topic] = make(map[int32]int64)
			}
			all[rt.Topic][rp.Partition] = rp.Offset
		}
	}
	return all, nil
}

// positions is where a group goes on in the partitions. Those that it has no
// position in, or none that holds, begin at the oldest event, and are committed so.
func (b *Broker) positions(ctx context.Context, group, name string, t topic, partitions []int32) (map[int32]position, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	commits, err := b.fetchCommits(ctx, group)
	if err != nil {
		return nil, fmt.Errorf("kafkaevents: position of group %s in topic %s: %w", group, name, err)
	}
	first, err := b.listOffsets(ctx, oldest, map[string][]int32{name: partitions})
	if err != nil {
		return nil, fmt.Errorf("kafkaevents: start of topic %s: %w", name, err)
	}
	last, err := b.listOffsets(ctx, newest, map[string][]int32{name: partitions})
	if err != nil {
		return nil, fmt.Errorf("kafkaevents: end of topic %s: %w", name, err)
	}
	at, anew := make(map[int32]position), make(map[int32]position)
	for _, id := range partitions {
		lo, ok1 := first[name][id]
		hi, ok2 := last[name][id]
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("kafkaevents: topic %s: partition %d has vanished", name, id)
		}
		c, ok := commits[name][id]
		wrong := ""
		switch {
		case !ok:
		case c.identity != "" && t.identity() != "" && c.identity != t.identity():
			wrong = "the topic was made anew; receiving it from its beginning"
		case c.offset < lo:
			wrong = "events were deleted by retention before the group received them"
		case c.offset > hi:
			wrong = "the log ends before the group's position; receiving it again from its beginning"
		default:
			at[id] = c.position
			continue
		}
		if wrong != "" {
			b.cfg.Logger.ErrorContext(ctx, "kafkaevents: "+wrong, "group", group, "topic", name, "partition", id, "position", c.offset, "oldest", lo, "end", hi)
		}
		at[id] = position{lo, -1}
		anew[id] = at[id]
	}
	if err := b.commit(ctx, group, name, t, anew); err != nil {
		return nil, fmt.Errorf("kafkaevents: first position of group %s in topic %s: %w", group, name, err)
	}
	return at, nil
}

// Pending implements events.Broker; see the package documentation for what is
// counted.
func (b *Broker) Pending(ctx context.Context, group string) (int, error) {
	if b.isClosed() {
		return 0, events.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	n, err := b.pending(ctx, group)
	if err != nil {
		return 0, fmt.Errorf("kafkaevents: pending of group %s: %w", group, err)
	}
	return n, nil
}

func (b *Broker) pending(ctx context.Context, group string) (int, error) {
	commits, err := b.fetchCommits(ctx, group)
	if err != nil {
		return 0, err
	}
	of := make(map[string][]int32)
	for name, partitions := range commits {
		for id := range partitions {
			of[name] = append(of[name], id)
		}
	}
	first, err := b.listOffsets(ctx, oldest, of)
	if err != nil {
		return 0, err
	}
	last, err := b.listOffsets(ctx, newest, of)
	if err != nil {
		return 0, err
	}
	var n int64
	for name, partitions := range commits {
		for id, c := range partitions {
			n += max(0, last[name][id]-max(c.offset, first[name][id]))
		}
	}
	return int(n), nil
}
