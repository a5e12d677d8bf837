package kafkaevents

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/napkin-kit/napkin/kit/events"
)

// topic is what the cluster says of a topic.
type topic struct {
	id         [16]byte // zero before Kafka 2.8
	partitions int      // divides events.Partitions
}

// of is the Kafka partition of a virtual one.
func (t topic) of(partition int) int32 {
	return int32(partition * t.partitions / events.Partitions) //nolint:gosec // at most 63
}

// block is the Kafka partitions of a block.
func (t topic) block(b events.Block) ([]int32, error) {
	if b.Size() < events.Partitions/t.partitions {
		return nil, fmt.Errorf("block %v is finer than the %d partitions of the topic: share at most %d blocks, or make a topic with more partitions", b, t.partitions, t.partitions)
	}
	var all []int32
	for p := b.First(); p < b.First()+b.Size(); p += events.Partitions / t.partitions {
		all = append(all, t.of(p))
	}
	return all, nil
}

// identity is the topic's ID as a commit carries it.
func (t topic) identity() string {
	if t.id == [16]byte{} {
		return ""
	}
	return fmt.Sprintf("%x", t.id)
}

// EnsureTopics implements events.Broker. A topic that exists is left as it is: it
// may be an operator's.
func (b *Broker) EnsureTopics(ctx context.Context, topics ...string) error {
	if b.isClosed() {
		return events.ErrClosed
	}
	for _, t := range topics {
		if err := events.ValidTopic(t); err != nil {
			return err
		}
		if _, err := b.ensure(ctx, t); err != nil {
			return err
		}
		b.mu.Lock()
		b.ensured[t] = true
		b.mu.Unlock()
	}
	return nil
}

// ensure finds or makes a topic.
func (b *Broker) ensure(ctx context.Context, name string) (topic, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	t, err := b.look(ctx, name)
	if !errors.Is(err, events.ErrNoTopic) {
		return t, err
	}
	if err := b.create(ctx, name); err != nil {
		return topic{}, fmt.Errorf("kafkaevents: make topic %s: %w", name, err)
	}
	for { // the other servers learn of it a moment later
		t, err = b.look(ctx, name)
		if err == nil || errors.Is(err, errSetup) || ctx.Err() != nil {
			return t, err
		}
		pause(ctx, 50*time.Millisecond)
	}
}

func (b *Broker) create(ctx context.Context, name string) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = int32(min(b.cfg.Timeout.Milliseconds(), 60_000)) //nolint:gosec // bounded
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic = name
	t.NumPartitions = int32(b.cfg.Partitions) //nolint:gosec // at most 64
	t.ReplicationFactor = -1
	if b.cfg.Replicas > 0 {
		t.ReplicationFactor = int16(b.cfg.Replicas) //nolint:gosec // at most 100
	}
	set := func(key, value string) {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = key, kmsg.StringPtr(value)
		t.Configs = append(t.Configs, c)
	}
	set("cleanup.policy", "delete")
	set("retention.ms", strconv.FormatInt(b.cfg.MaxAge.Milliseconds(), 10))
	set("max.message.bytes", strconv.Itoa(b.cfg.MaxEvent+overhead))
	if b.cfg.Replicas >= 3 {
		set("min.insync.replicas", "2")
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, b.client)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		err := kerr.ErrorForCode(t.ErrorCode)
		if err == nil || errors.Is(err, kerr.TopicAlreadyExists) { // another service was faster
			continue
		}
		if t.ErrorMessage != nil {
			err = fmt.Errorf("%w: %s", err, *t.ErrorMessage)
		}
		return err
	}
	return nil
}

// look asks the cluster for a topic; ErrNoTopic where there is none.
func (b *Broker) look(ctx context.Context, name string) (topic, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(name)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, b.client)
	if err != nil {
		return topic{}, fmt.Errorf("kafkaevents: look up topic %s: %w", name, err)
	}
	if len(resp.Topics) != 1 {
		return topic{}, fmt.Errorf("kafkaevents: look up topic %s: the answer holds %d topics", name, len(resp.Topics))
	}
	found := topic{id: resp.Topics[0].TopicID, partitions: len(resp.Topics[0].Partitions)}
	err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		err = fmt.Errorf("%w: %w", events.ErrNoTopic, err)
	case err == nil && (found.partitions == 0 || events.Partitions%found.partitions != 0):
		err = fmt.Errorf("%w: it has %d partitions; a topic needs 1, 2, 4, 8, 16, 32 or 64", errSetup, found.partitions)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		delete(b.topics, name)
		return topic{}, fmt.Errorf("kafkaevents: topic %s: %w", name, err)
	}
	b.topics[name] = found
	return found, nil
}

// known is a topic as last seen, or else looked up; made again where it was
// ensured and has vanished.
func (b *Broker) known(ctx context.Context, name string) (topic, error) {
	b.mu.Lock()
	t, ok := b.topics[name]
	ensured := b.ensured[name]
	b.mu.Unlock()
	switch {
	case ok:
		return t, nil
	case ensured:
		return b.ensure(ctx, name)
	default:
		return b.look(ctx, name)
	}
}

// forget makes the next publication look a topic up.
func (b *Broker) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.topics, name)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
