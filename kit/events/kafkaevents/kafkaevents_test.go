package kafkaevents_test

import (
	"log/slog"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/kafkaevents"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

// cluster is a Kafka in this process.
type cluster struct {
	*kfake.Cluster
	opts  []kfake.Opt
	addrs []string
	t     testing.TB
}

// start starts three servers that keep their data over restarts.
func start(t testing.TB, opts ...kfake.Opt) *cluster {
	t.Helper()
	c := &cluster{t: t, opts: append([]kfake.Opt{kfake.NumBrokers(3), kfake.DataDir(t.TempDir())}, opts...)}
	var err error
	if c.Cluster, err = kfake.NewCluster(c.opts...); err != nil {
		t.Fatal(err)
	}
	c.addrs = c.ListenAddrs()
	t.Cleanup(func() { c.Close() })
	return c
}

// again starts the servers anew where they were.
func (c *cluster) again() {
	c.t.Helper()
	var ports []int
	for _, a := range c.addrs {
		_, p, err := net.SplitHostPort(a)
		if err != nil {
			c.t.Fatal(err)
		}
		n, err := strconv.Atoi(p)
		if err != nil {
			c.t.Fatal(err)
		}
		ports = append(ports, n)
	}
	var err error
	if c.Cluster, err = kfake.NewCluster(append(c.opts, kfake.Ports(ports...))...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) connect(cfg kafkaevents.Config, opts ...kgo.Opt) *kafkaevents.Broker {
	c.t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(c.t.Output(), nil))
	b, err := kafkaevents.Connect(c.t.Context(), &cfg, append([]kgo.Opt{kgo.SeedBrokers(c.addrs...)}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestBroker(t *testing.T) {
	eventstest.TestBroker(t, func(t testing.TB) eventstest.Harness {
		c := start(t)
		return eventstest.Harness{Broker: c.connect(kafkaevents.Config{AckWait: time.Second}), Restart: func() {
			c.Close()
			c.again()
		}}
	})
}
