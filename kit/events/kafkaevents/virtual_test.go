package kafkaevents_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/kafkaevents"
)

// virtual runs f with a cluster on a network in memory and in virtual time. The
// cluster stays up: the client holds a lock while it waits for one that is down,
// and asks one that has come back again without a pause, both of which stop
// virtual time.
func virtual(t *testing.T, f func(t *testing.T, c *fake), opts ...kfake.Opt) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &fake{t: t, net: new(kfake.VirtualNetwork), dir: t.TempDir(), opts: opts}
		c.start()
		t.Cleanup(func() { c.Close() })
		f(t, c)
	})
}

type fake struct {
	*kfake.Cluster
	t    *testing.T
	net  *kfake.VirtualNetwork
	dir  string
	opts []kfake.Opt
}

func (c *fake) start() {
	c.t.Helper()
	var err error
	c.Cluster, err = kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.Ports(9092, 9093, 9094), kfake.ListenFn(c.net.Listen), kfake.DataDir(c.dir)}, c.opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
}

// clientOpts reach the cluster.
func (c *fake) clientOpts() []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers("127.0.0.1:9092", "127.0.0.1:9093", "127.0.0.1:9094"), kgo.Dialer(c.net.DialContext)}
}

func (c *fake) connect(cfg kafkaevents.Config, opts ...kgo.Opt) *kafkaevents.Broker {
	c.t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(c.t.Output(), nil))
	b, err := kafkaevents.Connect(c.t.Context(), &cfg, append(c.clientOpts(), opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = b.Close() })
	return b
}

// event is the n-th of a key.
func event(key string, n int) events.Event {
	return events.Event{ID: key + "-" + string(rune('0'+n/100)) + string(rune('0'+n/10%10)) + string(rune('0'+n%10)), Source: "test", Type: "test.v1.Happened", Topic: "orders", Key: key, KeySeq: int64(n)}
}

func ensure(t *testing.T, b *kafkaevents.Broker) {
	t.Helper()
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, b *kafkaevents.Broker, evs ...events.Event) {
	t.Helper()
	if err := b.Publish(t.Context(), evs...); err != nil {
		t.Fatal(err)
	}
}

// receiver collects what a subscription is given.
type receiver struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan error // closed behind the one result

	mu   sync.Mutex
	got  []string
	news chan struct{}
}

// receive subscribes and acknowledges everything.
func receive(t *testing.T, b *kafkaevents.Broker) *receiver {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &receiver{t: t, cancel: cancel, done: make(chan error, 1), news: make(chan struct{}, 1)}
	go func() {
		r.done <- b.Subscribe(ctx, events.Subscription{Group: "g", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
			if err := d.Ack(ctx); err != nil {
				t.Error(err)
			}
			r.mu.Lock()
			r.got = append(r.got, d.Event().ID)
			r.mu.Unlock()
			select {
			case r.news <- struct{}{}:
			default:
			}
		})
		close(r.done)
	}()
	t.Cleanup(r.stop)
	return r
}

func (r *receiver) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		r.t.Error(err)
	}
}

// await waits until every ID has come.
func (r *receiver) await(ids ...string) {
	r.t.Helper()
	deadline := time.After(10 * time.Minute) // in virtual time
	for {
		r.mu.Lock()
		missing := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(r.got, id) })
		r.mu.Unlock()
		if len(missing) == 0 {
			return
		}
		select {
		case <-r.news:
		case <-deadline:
			r.t.Fatalf("%v did not come; got %v", missing, r.all())
		}
	}
}

func (r *receiver) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// drained waits until the group has nothing pending.
func drained(t *testing.T, b *kafkaevents.Broker) {
	t.Helper()
	var n int
	var err error
	for range 1000 {
		if n, err = b.Pending(t.Context(), "g"); err == nil && n == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%d pending, %v", n, err)
}

// again publishes as a relay does: until it is acknowledged.
func again(t *testing.T, b *kafkaevents.Broker, evs ...events.Event) {
	t.Helper()
	began := time.Now()
	for {
		err := b.Publish(t.Context(), evs...)
		if err == nil {
			t.Logf("acknowledged after %v", time.Since(began))
			return
		}
		if time.Since(began) > 10*time.Minute { // in virtual time
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func ids(evs []events.Event) []string {
	var out []string
	for _, e := range evs {
		out = append(out, e.ID)
	}
	return out
}
