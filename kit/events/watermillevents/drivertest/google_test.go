// Package drivertest runs the suite of events.Broker over Watermill's drivers, each
// on a fake of its broker in this process. It is a module of its own, so that the
// drivers' dependencies reach nobody who takes the library.
package drivertest

import (
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-googlecloud/v2/pkg/googlecloud"
	"github.com/ThreeDotsLabs/watermill/message"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/watermillevents"
)

const project = "project"

// google is a broker on Google's own fake of Pub/Sub.
func google(t testing.TB) *watermillevents.Broker {
	t.Helper()
	srv := pstest.NewServer()
	t.Cleanup(func() { _ = srv.Close() })
	// Each client closes its own connection.
	options := func() []option.ClientOption {
		return []option.ClientOption{option.WithEndpoint(srv.Addr), option.WithoutAuthentication(), option.WithTelemetryDisabled(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
	}
	publisher, err := googlecloud.NewPublisher(googlecloud.PublisherConfig{ProjectID: project, ClientOptions: options()}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = publisher.Close() })
	subscriber := func(s events.Subscription) (message.Subscriber, error) {
		return googlecloud.NewSubscriber(googlecloud.SubscriberConfig{ProjectID: project, ClientOptions: options(),
			GenerateSubscriptionName: googlecloud.TopicSubscriptionNameWithSuffix("-" + s.Group)}, watermill.NopLogger{})
	}
	// A subscription receives what is published after it was made.
	for _, group := range []string{"group", "one", "two"} {
		s, err := subscriber(events.Subscription{Group: group})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.(message.SubscribeInitializer).SubscribeInitialize("suite"); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cfg := watermillevents.GooglePubSub()
	cfg.Features.AckWait = 2 * time.Second
	b, err := watermillevents.New(publisher, subscriber, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGooglePubSub(t *testing.T) {
	eventstest.TestBroker(t, func(t testing.TB) eventstest.Harness { return eventstest.Harness{Broker: google(t)} })
}
