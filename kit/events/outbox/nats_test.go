package outbox_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/internal/natstest"
)

func natsStreams(t *testing.T, s *natstest.Server) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(s.Conn(t))
	if err != nil {
		t.Fatal(err)
	}
	return js
}
