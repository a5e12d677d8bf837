package natsevents_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t testing.TB, s *natstest.Server) *natsevents.Broker {
	t.Helper()
	b, err := natsevents.Connect(t.Context(), s.Conn(t), &natsevents.Config{AckWait: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestBroker(t *testing.T) {
	eventstest.TestBroker(t, func(t testing.TB) eventstest.Harness {
		s := natstest.Start(t)
		return eventstest.Harness{Broker: connect(t, s), Restart: s.Restart}
	})
}

var _ events.Broker = (*natsevents.Broker)(nil)
