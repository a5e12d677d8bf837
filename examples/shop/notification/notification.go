package notification

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/letters"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

// Name is the service's name.
const Name = "notification"

// Config is what the service needs beside its chassis. DB, Broker, Key and SMTPAddr are required; the
// caller owns DB and Broker.
type Config struct {
	DB     *sqldb.DB
	Broker events.Broker
	// Key is 32 random bytes that seal addresses and texts at rest.
	Key []byte
	// SMTPAddr is the mail server, host:port; From the sender. From defaults to "orders@shop.test".
	SMTPAddr, From string
	// MessagesURL is the gateway for SMS and push; without it these are undeliverable.
	MessagesURL string
	Hooks       Hooks
}

// Hooks observe the service. Each may be left zero.
type Hooks struct {
	// Events carries the trace context through events.
	Events events.Hooks
	Inbox  inbox.Hooks
	// Sending is told where a worker stands with a notification: "before-send", "after-send", "after-mark".
	Sending func(ctx context.Context, where, channel string)
}

// Policy says who may call what: the gateway's console, for operators.
func Policy(td spiffeid.TrustDomain) (*authn.Policy, error) {
	gateway, err := spiffeid.FromSegments(td, "gateway")
	if err != nil {
		return nil, fmt.Errorf("notification: policy: %w", err)
	}
	return authn.NewPolicy(letters.Rule(gateway), authn.Rule{
		Method: notificationv1.NotificationService_ListNotifications_FullMethodName,
		From:   []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: []string{"shop:admin"},
	})
}

// New migrates the service's database and registers its calls and workers with svc.
func New(ctx context.Context, svc *kit.Service, cfg Config) error {
	if cfg.DB == nil || cfg.Broker == nil {
		return errors.New("notification: Config.DB and Config.Broker are required")
	}
	if cfg.From == "" {
		cfg.From = "orders@shop.test"
	}
	d := cfg.DB.Dialect
	if err := errors.Join(
		migrate.Up(ctx, cfg.DB, inbox.Set, inbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, Name, store.Migrations()),
	); err != nil {
		return err
	}
	if err := cfg.Broker.EnsureTopics(ctx, transport.OrderTopic, transport.UserTopic); err != nil {
		return err
	}
	due := make(chan struct{}, 1)
	st, err := store.New(cfg.DB, cfg.Key, func() {
		select {
		case due <- struct{}{}:
		default: // a look is due already
		}
	}, time.Now)
	if err != nil {
		return err
	}
	out, err := transport.NewOutgoing(cfg.SMTPAddr, cfg.From, cfg.MessagesURL)
	if err != nil {
		return err
	}
	consumer, err := inbox.NewConsumer(Name, cfg.DB, sqldb.Std(cfg.DB), cfg.Broker,
		&inbox.ConsumerConfig{Logger: svc.Logger(), Hooks: cfg.Hooks.Inbox, EventHooks: cfg.Hooks.Events})
	if err != nil {
		return err
	}
	transport.Subscribe(consumer, st)
	worker := transport.NewWorker(st, out, due, cfg.Hooks.point(), svc.Logger())

	letters.Register(svc, cfg.DB, svc.Logger())
	notificationv1.RegisterNotificationServiceServer(svc, transport.NewServer(st))
	svc.Ready("database", cfg.DB.Ping)
	svc.Go("order outcomes", consumer.Run)
	svc.Go("sending", worker.Run)
	return nil
}

func (h Hooks) point() transport.Point {
	if h.Sending == nil {
		return nil
	}
	return func(ctx context.Context, where string, n domain.Notification) {
		h.Sending(ctx, where, string(n.Channel))
	}
}
