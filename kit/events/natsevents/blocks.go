package natsevents

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/kit/events"
)

// maxFilters bounds a consumer's filter subjects. Where partitions and types make
// more, the types are sorted out here.
const maxFilters = 128

// durable is the name of the consumer of a group's block.
func durable(group string, b events.Block) string {
	if b.Whole() {
		return group
	}
	return fmt.Sprintf("%s=%dof%d", group, b.Index, b.Count)
}

// blockOf is the inverse of durable; false where the name is another group's.
func blockOf(group, name string) (events.Block, bool) {
	if name == group {
		return events.Block{Count: 1}, true
	}
	rest, ok := strings.CutPrefix(name, group+"=")
	if !ok {
		return events.Block{}, false
	}
	var b events.Block
	if n, err := fmt.Sscanf(rest, "%dof%d", &b.Index, &b.Count); n != 2 || err != nil || b.Validate() != nil || durable(group, b) != name {
		return events.Block{}, false
	}
	return b, true
}

// filters are the subjects of a subscription's events.
func filters(s events.Subscription, topic string) []string {
	var partitions []string
	if s.Block.Whole() {
		partitions = []string{"*"}
	} else {
		for p := range s.Block.Size() {
			partitions = append(partitions, fmt.Sprint(s.Block.First()+p))
		}
	}
	types := s.Types
	if len(types) == 0 || len(types)*len(partitions) > maxFilters {
		types = []string{">"}
	}
	var out []string
	for _, p := range partitions {
		for _, t := range types {
			out = append(out, topic+"."+p+"."+t)
		}
	}
	return out
}

// consumers lists the consumers that a group has on a stream, whichever blocks
// they are of.
func (b *Broker) consumers(ctx context.Context, stream, group string) (map[events.Block]*jetstream.ConsumerInfo, error) {
	s, err := b.js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := s.ListConsumers(ctx)
	all := make(map[events.Block]*jetstream.ConsumerInfo)
	for info := range list.Info() {
		if block, ok := blockOf(group, info.Name); ok {
			all[block] = info
		}
	}
	return all, list.Err()
}

// start is the stream sequence at which a block's new consumer starts: 1, or
// where the blocks of another cut had all come to.
func start(all map[events.Block]*jetstream.ConsumerInfo, block events.Block) uint64 {
	start := uint64(1)
	for cut := 1; cut <= events.Partitions; cut *= 2 {
		floor, complete := ^uint64(0), true
		for _, other := range events.Blocks(cut) {
			if !overlap(other, block) {
				continue
			}
			info := all[other]
			if info == nil {
				complete = false
				break
			}
			floor = min(floor, info.AckFloor.Stream)
		}
		if complete {
			start = max(start, floor+1)
		}
	}
	return start
}

func overlap(a, b events.Block) bool {
	return a.First() < b.First()+b.Size() && b.First() < a.First()+a.Size()
}

// retire removes the group's consumers of other cuts that nobody asks any more,
// once every block that they gave events to has a consumer of the cut in use.
func (b *Broker) retire(ctx context.Context, stream, group string, block events.Block) error {
	all, err := b.consumers(ctx, stream, group)
	if err != nil {
		return err
	}
	count := events.Partitions / block.Size()
	for old, info := range all {
		if old.Size() == block.Size() || info.NumWaiting > 0 {
			continue
		}
		covered := true
		for _, other := range events.Blocks(count) {
			covered = covered && (!overlap(old, other) || all[events.Block{Index: other.Index, Count: count}] != nil)
		}
		if !covered {
			continue
		}
		if err := b.js.DeleteConsumer(ctx, stream, info.Name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return err
		}
		b.cfg.Logger.InfoContext(ctx, "natsevents: removed the consumer of a cut into other blocks", "consumer", info.Name, "topic", stream)
	}
	return nil
}
