package kafkaevents_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/kafkaevents"
)

// inOrder checks that each key came in order; events may repeat, but not overtake.
func inOrder(t *testing.T, got []string) {
	t.Helper()
	next := map[string]int{}
	for _, id := range got {
		key, num, _ := strings.Cut(id, "-")
		n, err := strconv.Atoi(num)
		if err != nil {
			t.Fatal(err)
		}
		if n > next[key]+1 {
			t.Fatalf("%s overtook event %d: %v", id, next[key]+1, got)
		}
		next[key] = max(next[key], n)
	}
}

// Leaders and coordinators move while events flow: none is lost or overtaken, and
// none stored twice. Some come again: kfake says of a new leader that has written
// nothing that it cannot tell where its log differs; Kafka knows.
func TestLeadersMove(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{})
		ensure(t, b)
		r := receive(t, b)
		var want []events.Event
		for n := 1; n <= 60; n++ {
			switch n % 10 {
			case 3:
				c.ShufflePartitionLeaders()
			case 6:
				c.RehashCoordinators()
			}
			wave := []events.Event{event("a", n), event("b", n), event("c", n)}
			publish(t, b, wave...)
			want = append(want, wave...)
		}
		r.await(ids(want)...)
		drained(t, b)
		r.stop()
		inOrder(t, r.all())
		var stored int64
		for _, p := range c.PartitionInfos("orders") {
			stored += p.HighWatermark
		}
		if stored != int64(len(want)) {
			t.Errorf("%d records of %d events", stored, len(want))
		}
	})
}

// The new leader cannot tell where its log differs from what was received (which
// is what kfake says here): everything comes again, and nothing is missed.
func TestALeaderThatKnowsLess(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{Partitions: 1})
		ensure(t, b)
		r := receive(t, b)
		publish(t, b, event("a", 1))
		publish(t, b, event("a", 2))
		r.await("a-002")
		c.ShufflePartitionLeaders()
		time.Sleep(time.Minute)
		again(t, b, event("a", 3))
		r.await("a-003")
		drained(t, b)
		r.stop()
		if got := r.all(); !slices.Equal(got, []string{"a-001", "a-002", "a-001", "a-002", "a-003"}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestAnUnreachableCluster(t *testing.T) {
	c := start(t)
	b := c.connect(kafkaevents.Config{Timeout: time.Second})
	ensure(t, b)
	r := receive(t, b)
	publish(t, b, event("a", 1))
	r.await("a-001")
	c.Close()
	err := b.Publish(t.Context(), event("a", 2), event("b", 1))
	var p *events.PublishError
	if !errors.As(err, &p) || len(p.Failed) != 2 || errors.Is(err, events.ErrRejected) {
		t.Errorf("publishing to nobody: %v; want both events failed, and none rejected", err)
	}
	if _, err := b.Pending(t.Context(), "g"); err == nil {
		t.Error("nobody was asked, yet Pending has an answer")
	}
	c.again()
	again(t, b, event("a", 2), event("b", 1))
	publish(t, b, event("a", 3))
	r.await("a-002", "a-003", "b-001")
	drained(t, b)
	r.stop()
	inOrder(t, r.all())
}

func TestConnectNeedsNoCluster(t *testing.T) {
	c := start(t)
	c.Close()
	b := c.connect(kafkaevents.Config{Timeout: time.Second})
	r := receive(t, b)
	if err := b.EnsureTopics(t.Context(), "orders"); err == nil {
		t.Error("a topic was made by nobody")
	}
	c.again()
	again(t, b, event("a", 1)) // the subscription has made the topic
	r.await("a-001")
	r.stop()
}

// An operator's topic takes less than this package was told: only the event that
// is too large is refused, though a batch is refused as a whole.
func TestTooLargeForTheTopic(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		if err := c.CreateTopic("orders", 1, map[string]string{"max.message.bytes": "2000"}); err != nil {
			t.Fatal(err)
		}
		b := c.connect(kafkaevents.Config{})
		big := event("b", 1)
		for i := range 6000 { // what compresses badly
			big.Data = fmt.Appendf(big.Data, "%x", i*2654435761%1000003)
		}
		err := b.Publish(t.Context(), event("a", 1), big, event("c", 1))
		var p *events.PublishError
		if !errors.As(err, &p) || len(p.Failed) != 1 || p.Failed[0].ID != big.ID || !errors.Is(err, events.ErrRejected) {
			t.Errorf("good, too large, good: %v; want the second rejected", err)
		}
		r := receive(t, b)
		r.await("a-001", "c-001")
		r.stop()
	})
}

// A cluster short of replicas refuses for a while: that is not the event's fault.
func TestTooFewReplicas(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{Timeout: 3 * time.Second})
		ensure(t, b)
		h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
		if err := b.Publish(t.Context(), event("a", 1)); err == nil || errors.Is(err, events.ErrRejected) {
			t.Errorf("too few replicas: %v; want an error that waiting mends", err)
		}
		h.Remove()
		again(t, b, event("a", 2))
		r := receive(t, b)
		r.await("a-002")
		r.stop()
	})
}

// The answer is an error though the event was stored: the idempotent producer
// sends it again, and the cluster stores it once.
func TestAnAnswerThatIsLost(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{})
		ensure(t, b)
		for n := 1; n <= 5; n++ {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut})
			publish(t, b, event("a", n))
		}
		r := receive(t, b)
		r.await("a-005")
		drained(t, b)
		r.stop()
		if got := r.all(); len(got) != 5 {
			t.Errorf("got %v", got)
		}
	})
}

// The group's position is lost to retention: it goes on at the oldest event.
func TestAnOffsetOutOfRange(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{Partitions: 1})
		ensure(t, b)
		publish(t, b, event("a", 1))
		r := receive(t, b)
		r.await("a-001")
		drained(t, b)
		r.stop()
		for n := 2; n <= 9; n++ {
			publish(t, b, event("a", n))
		}
		if err := c.DeleteRecords("orders", 0, 6); err != nil {
			t.Fatal(err)
		}
		if n, err := b.Pending(t.Context(), "g"); n != 3 || err != nil {
			t.Errorf("%d pending, %v; want the 3 that are left", n, err)
		}
		r = receive(t, b)
		r.await("a-009")
		drained(t, b)
		r.stop()
		if got := r.all(); len(got) != 3 || got[0] != "a-007" {
			t.Errorf("got %v", got)
		}
	})
}

// The same under a subscription that runs, and is cut off meanwhile.
func TestAnOffsetOutOfRangeMeanwhile(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{Partitions: 1})
		ensure(t, b)
		r := receive(t, b)
		publish(t, b, event("a", 1))
		r.await("a-001")
		drained(t, b)
		h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: -1})
		time.Sleep(10 * time.Second) // the fetch that waits at the server ends
		for n := 2; n <= 9; n++ {
			publish(t, b, event("a", n))
		}
		if err := c.DeleteRecords("orders", 0, 6); err != nil {
			t.Fatal(err)
		}
		h.Remove()
		r.await("a-007", "a-008", "a-009")
		drained(t, b)
		r.stop()
		if got := r.all(); len(got) != 4 {
			t.Errorf("got %v", got)
		}
	})
}

// The topic is deleted under a publisher that had made it and a consumer.
func TestADeletedTopicIsMadeAgain(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{Timeout: 5 * time.Second})
		other := c.connect(kafkaevents.Config{Timeout: 5 * time.Second})
		ensure(t, b)
		r := receive(t, b)
		publish(t, b, event("a", 1))
		publish(t, other, event("a", 2))
		r.await("a-001", "a-002")
		drained(t, b)
		r.stop()
		if err := c.DeleteTopic("orders"); err != nil {
			t.Fatal(err)
		}
		// Who has not made it, does not make it.
		err := other.Publish(t.Context(), event("a", 3))
		if err == nil {
			t.Error("an event was published to no topic")
		}
		if err := other.Publish(t.Context(), event("a", 3)); !errors.Is(err, events.ErrNoTopic) {
			t.Errorf("publishing to a topic that is not there: %v; want ErrNoTopic", err)
		}
		again(t, b, event("a", 3))
		again(t, other, event("a", 4))
		r = receive(t, b)
		r.await("a-003", "a-004")
		r.stop()
	})
}

func TestATopicDeletedUnderItsConsumer(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{})
		ensure(t, b)
		r := receive(t, b)
		publish(t, b, event("a", 1), event("b", 1))
		r.await("a-001", "b-001")
		if err := c.DeleteTopic("orders"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the consumer makes it again
		if c.TopicInfo("orders") == nil {
			t.Fatal("the topic was not made again")
		}
		again(t, b, event("a", 2), event("b", 2))
		r.await("a-002", "b-002")
		drained(t, b)
		r.stop()
	})
}

// raw commits a position as another program, or an older time, left it.
func raw(t *testing.T, c *fake, offset int64, identity string) {
	t.Helper()
	cl, err := kgo.NewClient(c.clientOpts()...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = "g"
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = "orders", c.TopicInfo("orders").TopicID
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Offset, rp.LeaderEpoch, rp.Metadata = offset, -1, &identity
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAPositionThatDoesNotHold(t *testing.T) {
	for _, tt := range []struct {
		name     string
		offset   int64
		identity string
		want     int // the first event that comes
	}{
		{"of a topic by that name that is no more", 3, strings.Repeat("ab", 16), 1},
		{"behind the end of a log that was cut", 50, "", 1},
		{"set by other tools", 3, "", 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			virtual(t, func(t *testing.T, c *fake) {
				b := c.connect(kafkaevents.Config{Partitions: 1})
				ensure(t, b)
				for n := 1; n <= 5; n++ {
					publish(t, b, event("a", n))
				}
				raw(t, c, tt.offset, tt.identity)
				r := receive(t, b)
				r.await("a-005")
				drained(t, b)
				r.stop()
				if got := r.all(); got[0] != fmt.Sprintf("a-%03d", tt.want) || len(got) != 6-tt.want {
					t.Errorf("got %v", got)
				}
			})
		})
	}
}

func TestPartitionsThatDoNotFit(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{Partitions: 8})
		ensure(t, b)
		err := b.Subscribe(t.Context(), events.Subscription{Group: "g", Topics: []string{"orders"}, Block: events.Block{Index: 3, Count: 16}}, nil)
		if err == nil || !strings.Contains(err.Error(), "finer than the 8 partitions") {
			t.Errorf("a block finer than the topic's partitions: %v", err)
		}
		if err := c.CreateTopic("ten", 10, nil); err != nil {
			t.Fatal(err)
		}
		if err := b.EnsureTopics(t.Context(), "ten"); err == nil || !strings.Contains(err.Error(), "10 partitions") {
			t.Errorf("a topic of 10 partitions: %v", err)
		}
		e := event("a", 1)
		e.Topic = "ten"
		if err := b.Publish(t.Context(), e); err == nil {
			t.Error("an event went to a topic that keeps no block together")
		}
		err = b.Subscribe(t.Context(), events.Subscription{Group: "g", Topics: []string{"orders", "ten"}}, nil)
		if err == nil || !strings.Contains(err.Error(), "10 partitions") {
			t.Errorf("a subscription to a topic of 10 partitions: %v", err)
		}
	})
}

// Commits fail for a while: what was acknowledged is committed once they do not.
func TestCommitsThatFail(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{Timeout: time.Second})
		ensure(t, b)
		r := receive(t, b)
		publish(t, b, event("a", 1))
		r.await("a-001")
		h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.CoordinatorLoadInProgress, Count: -1})
		publish(t, b, event("a", 2))
		r.await("a-002")
		time.Sleep(time.Minute)
		if h.Hits() == 0 {
			t.Error("nothing was committed")
		}
		h.Remove()
		drained(t, b)
		r.stop()
	})
}

// Kafka forgets the offsets of a group without members after a week, unless they
// are committed again.
func TestAPositionIsRenewed(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{})
		ensure(t, b)
		r := receive(t, b)
		publish(t, b, event("a", 1))
		r.await("a-001")
		drained(t, b)
		h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Observe: true, Count: -1})
		time.Sleep(3*time.Hour + time.Minute)
		if n := h.Hits(); n != 3 {
			t.Errorf("%d commits in three idle hours, want 3", n)
		}
		r.stop()
	})
}

func TestAuthentication(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		login := func(password string) kgo.Opt {
			return kgo.SASL(scram.Auth{User: "order", Pass: password}.AsSha256Mechanism())
		}
		b := c.connect(kafkaevents.Config{}, login("secret"))
		ensure(t, b)
		publish(t, b, event("a", 1))
		r := receive(t, b)
		r.await("a-001")
		r.stop()
		stranger := c.connect(kafkaevents.Config{Timeout: 2 * time.Second}, login("guess"))
		if err := stranger.Publish(t.Context(), event("a", 2)); err == nil || errors.Is(err, events.ErrRejected) {
			t.Errorf("a stranger publishes: %v", err)
		}
	}, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "order", "secret"))
}

func TestClose(t *testing.T) {
	virtual(t, func(t *testing.T, c *fake) {
		b := c.connect(kafkaevents.Config{})
		ensure(t, b)
		done := make(chan error, 1)
		go func() {
			done <- b.Subscribe(context.Background(), events.Subscription{Group: "g", Topics: []string{"orders"}}, func(context.Context, events.Delivery) {})
		}()
		time.Sleep(time.Second)
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, events.ErrClosed) {
			t.Errorf("a subscription of a closed broker ended with %v", err)
		}
		_, err := b.Pending(t.Context(), "g")
		for _, err := range []error{b.Publish(t.Context(), event("a", 1)), b.EnsureTopics(t.Context(), "orders"), err,
			b.Subscribe(t.Context(), events.Subscription{Group: "g", Topics: []string{"orders"}}, nil)} {
			if !errors.Is(err, events.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []kafkaevents.Config{{Partitions: 10}, {Partitions: -1}, {Partitions: 128}, {Replicas: -1}, {MaxEvent: 1}, {AckWait: -1}, {MaxAge: -1}, {Timeout: -1}, {CommitEvery: -1}} {
		if _, err := kafkaevents.Connect(t.Context(), &cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
