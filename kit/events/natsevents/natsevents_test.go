package natsevents_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(stoppedURL); url != "" { // this process is a part of a test
		if err := subscriberProcess(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

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
