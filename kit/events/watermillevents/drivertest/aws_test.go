package drivertest

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/Admiral-Piett/goaws/app/gosqs"
	"github.com/Admiral-Piett/goaws/app/models"
	"github.com/Admiral-Piett/goaws/app/servertest"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-aws/sns"
	"github.com/ThreeDotsLabs/watermill-aws/sqs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssns "github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/sirupsen/logrus"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/watermillevents"
)

const region, account = "us-west-2", "000000000000"

// amazon is a broker on goaws, a fake of SNS and SQS whose state is the process's.
func amazon(t testing.TB) *watermillevents.Broker {
	t.Helper()
	logrus.SetOutput(io.Discard)
	models.ResetResources()
	models.CurrentEnvironment.Region, models.CurrentEnvironment.AccountID = region, account
	srv, err := servertest.New("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// goaws tells clients its address as it was configured.
	models.CurrentEnvironment.Port = srv.URL()[strings.LastIndex(srv.URL(), ":")+1:]
	quit := make(chan bool)
	go gosqs.PeriodicTasks(50*time.Millisecond, quit) // ends visibility timeouts
	t.Cleanup(func() { close(quit); _ = srv.Quit() })

	cfg := aws.Config{Region: region, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")}
	snsOpts := []func(*awssns.Options){func(o *awssns.Options) { o.BaseEndpoint = aws.String(srv.URL()) }}
	sqsOpts := []func(*awssqs.Options){func(o *awssqs.Options) { o.BaseEndpoint = aws.String(srv.URL()) }}
	topics, err := sns.NewGenerateArnTopicResolver(account, region)
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := sns.NewPublisher(sns.PublisherConfig{AWSConfig: cfg, OptFns: snsOpts, TopicResolver: topics, Marshaler: byTopicArn{}}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = publisher.Close() })
	subscriber := func(s events.Subscription) (message.Subscriber, error) {
		return sns.NewSubscriber(
			sns.SubscriberConfig{AWSConfig: cfg, OptFns: snsOpts, TopicResolver: topics, DoNotSetQueueAccessPolicy: true,
				GenerateSqsQueueName: func(_ context.Context, arn sns.TopicArn) (string, error) {
					name, err := sns.ExtractTopicNameFromTopicArn(arn)
					return string(name) + "-" + s.Group, err
				}},
			sqs.SubscriberConfig{AWSConfig: cfg, OptFns: sqsOpts, QueueConfigAttributes: sqs.QueueConfigAttributes{VisibilityTimeout: "2"}},
			watermill.NopLogger{})
	}
	if _, err := awssns.NewFromConfig(cfg, snsOpts...).CreateTopic(t.Context(), &awssns.CreateTopicInput{Name: aws.String("suite")}); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"group", "one", "two"} {
		// The driver makes queues itself, but not on goaws: its error for one that is
		// not there is not the one that the driver knows.
		_, err := awssqs.NewFromConfig(cfg, sqsOpts...).CreateQueue(t.Context(), &awssqs.CreateQueueInput{
			QueueName: aws.String("suite-" + group), Attributes: map[string]string{"VisibilityTimeout": "2"}})
		if err != nil {
			t.Fatal(err)
		}
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
	c := watermillevents.SNSSQS()
	c.Features.AckWait = time.Second
	b, err := watermillevents.New(publisher, subscriber, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// byTopicArn names the topic as goaws wants it; SNS takes TargetArn too.
type byTopicArn struct {
	sns.DefaultMarshalerUnmarshaler
}

func (m byTopicArn) Marshal(arn sns.TopicArn, msg *message.Message) *awssns.PublishInput {
	in := m.DefaultMarshalerUnmarshaler.Marshal(arn, msg)
	in.TopicArn, in.TargetArn = in.TargetArn, nil
	return in
}

func TestSNSAndSQS(t *testing.T) {
	eventstest.TestBroker(t, func(t testing.TB) eventstest.Harness { return eventstest.Harness{Broker: amazon(t)} })
}
