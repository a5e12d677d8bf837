// Package order is the service that takes orders and carries them through
// checkout.
//
// It is where the one idea of the store can be seen whole: an idempotency key,
// an order, its saga and the event that tells of it commit in one transaction of
// this service's own database. The sagas themselves are in internal/domain.
package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/letters"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

// Name is the service's name.
const Name = "order"

// keyWait is how long a second request with a key waits for the first one's
// answer before it is told that the first is under way.
const keyWait = 2 * time.Second

// Config is what the service needs beside its chassis, which needs the peers
// "cart" and "payment", and [Idempotency]. DB and Broker are required; the
// caller owns both.
type Config struct {
	DB     *sqldb.DB
	Broker events.Broker
	// Deadline is how long a checkout may take before it is taken back.
	// Defaults to 2 min.
	Deadline time.Duration
	// MaxOpen is how many orders may be under way before new ones are asked to come
	// back later. More than are finished well within Deadline would only fail.
	// Defaults to 1000.
	MaxOpen int
	// WatchEvery is how often a watched order is read again, for what other
	// replicas did to it. Defaults to 1 s.
	WatchEvery time.Duration
	Hooks      Hooks
}

// Hooks observe the service. Each may be left zero.
type Hooks struct {
	// Events carries the trace context through events.
	Events events.Hooks
	Relay  outbox.RelayHooks
	Inbox  inbox.Hooks
	Saga   saga.Hooks
}

// Idempotency says which calls take an idempotency key, for kit.Config.
func Idempotency() map[string]grpcidempotency.Rule {
	return map[string]grpcidempotency.Rule{
		orderv1.OrderService_CreateOrder_FullMethodName: {Required: true},
	}
}

// Policy says who may call what: customers and operators, through the gateway.
func Policy(td spiffeid.TrustDomain) (*authn.Policy, error) {
	gateway, err := spiffeid.FromSegments(td, "gateway")
	if err != nil {
		return nil, fmt.Errorf("order: policy: %w", err)
	}
	rule := func(method, scope string) authn.Rule {
		return authn.Rule{Method: method, From: []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: []string{scope}}
	}
	return authn.NewPolicy(
		letters.Rule(gateway),
		rule(orderv1.OrderService_CreateOrder_FullMethodName, "shop"),
		rule(orderv1.OrderService_ListOrders_FullMethodName, "shop"),
		rule(orderv1.OrderService_GetOrder_FullMethodName, "shop"),
		rule(orderv1.OrderService_CancelOrder_FullMethodName, "shop"),
		rule(orderv1.OrderService_WatchOrder_FullMethodName, "shop"),
		rule(orderv1.OrderAdminService_AdminListOrders_FullMethodName, "shop:admin"),
		rule(orderv1.OrderAdminService_GetTimeline_FullMethodName, "shop:admin"),
		rule(orderv1.OrderAdminService_ResolveSaga_FullMethodName, "shop:admin"),
	)
}

// New migrates the service's database and registers its calls, sagas and workers
// with svc.
func New(ctx context.Context, svc *kit.Service, cfg Config) error {
	if cfg.DB == nil || cfg.Broker == nil {
		return errors.New("order: Config.DB and Config.Broker are required")
	}
	if cfg.Deadline <= 0 {
		cfg.Deadline = 2 * time.Minute
	}
	if cfg.MaxOpen <= 0 {
		cfg.MaxOpen = 1000
	}
	if cfg.WatchEvery <= 0 {
		cfg.WatchEvery = time.Second
	}
	cart, err := svc.Dial("cart")
	if err != nil {
		return err
	}
	payment, err := svc.Dial("payment")
	if err != nil {
		return err
	}
	d := cfg.DB.Dialect
	if err := errors.Join(
		migrate.Up(ctx, cfg.DB, outbox.Set, outbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, inbox.Set, inbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, sqlidempotency.Set, sqlidempotency.Migrations(d)),
		migrate.Up(ctx, cfg.DB, sqlsaga.Set, sqlsaga.Migrations(d)),
		migrate.Up(ctx, cfg.DB, Name, store.Migrations()),
	); err != nil {
		return err
	}
	if err := cfg.Broker.EnsureTopics(ctx, transport.Topics()...); err != nil {
		return err
	}
	ob, err := outbox.New(d, Name, &outbox.Config{Hooks: cfg.Hooks.Events})
	if err != nil {
		return err
	}
	relay, err := outbox.NewRelay(cfg.DB, ob, cfg.Broker, &outbox.RelayConfig{Logger: svc.Logger(), Hooks: cfg.Hooks.Relay})
	if err != nil {
		return err
	}
	keys, err := sqlidempotency.New(d, &sqlidempotency.Config{Wait: keyWait})
	if err != nil {
		return err
	}
	changes := &transport.Changes{}
	orders := store.New(cfg.DB, ob, transport.Encode, changes.Tell)
	coordinator, sagas, checkouts, err := newSagas(svc, cfg, ob, orders)
	if err != nil {
		return err
	}
	consumer, err := inbox.NewConsumer(Name, cfg.DB, sqldb.Std(cfg.DB), cfg.Broker, &inbox.ConsumerConfig{
		Logger: svc.Logger(), Hooks: cfg.Hooks.Inbox, EventHooks: cfg.Hooks.Events,
		IsInfrastructure: kit.IsInfrastructure,
	})
	if err != nil {
		return err
	}
	transport.RegisterReplies(consumer, coordinator)

	intake := &transport.Intake{}
	letters.Register(svc, cfg.DB, svc.Logger())
	orderv1.RegisterOrderServiceServer(svc, &transport.Server{
		DB: cfg.DB, Orders: orders, Keys: keys, Sagas: sagas, Checkouts: checkouts,
		Cart: cartv1.NewCartServiceClient(cart), Payment: paymentv1.NewPaymentServiceClient(payment),
		Changes: changes, WatchEvery: cfg.WatchEvery, Intake: intake,
	})
	orderv1.RegisterOrderAdminServiceServer(svc, &transport.Admin{Orders: orders, Coordinator: coordinator})
	svc.Ready("database", cfg.DB.Ping)
	svc.Ready("sagas", coordinator.Ready)
	svc.Go("outbox relay", relay.Run)
	svc.Go("sagas", coordinator.Run)
	svc.Go("saga replies", consumer.Run)
	svc.Go("intake", func(ctx context.Context) error {
		return intake.Run(ctx, cfg.MaxOpen, func(ctx context.Context) (int, error) {
			open, stuck, err := sqlsaga.Unfinished(ctx, cfg.DB)
			return open - stuck, err // a stuck one waits for an operator, and holds nobody up
		}, svc.Logger())
	})
	svc.Go("idempotency keys", func(ctx context.Context) error { return sweepKeys(ctx, svc, keys, cfg.DB) })
	return nil
}

// newSagas registers the two definitions. The checkout starts refunds, so it is
// given the handle of the one that is registered first.
func newSagas(svc *kit.Service, cfg Config, ob *outbox.Outbox, orders *store.Store) (
	*saga.Coordinator, domain.Sagas, *saga.Handle[domain.Checkout], error,
) {
	fail := func(err error) (*saga.Coordinator, domain.Sagas, *saga.Handle[domain.Checkout], error) {
		return nil, domain.Sagas{}, nil, err
	}
	st, err := sqlsaga.New(cfg.DB, nil)
	if err != nil {
		return fail(err)
	}
	coordinator, err := saga.NewCoordinator(st, &saga.Config{Outbox: ob, Node: Name, Logger: svc.Logger(), Hooks: cfg.Hooks.Saga})
	if err != nil {
		return fail(err)
	}
	sagas := domain.Sagas{Messages: transport.Messages{}, Orders: orders.In, Deadline: cfg.Deadline, Now: time.Now}
	refunds, err := saga.Register(coordinator, sagas.Refund())
	if err != nil {
		return fail(err)
	}
	sagas.StartRefund = func(ctx context.Context, tx sqldb.Tx, c domain.Checkout) error {
		return refunds.Start(ctx, tx, domain.RefundID(c.OrderID), c)
	}
	checkouts, err := saga.Register(coordinator, sagas.Checkout())
	if err != nil {
		return fail(err)
	}
	return coordinator, sagas, checkouts, nil
}

// sweepKeys forgets idempotency keys that have expired.
func sweepKeys(ctx context.Context, svc *kit.Service, keys *sqlidempotency.Store, db *sqldb.DB) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := keys.Sweep(ctx, db); err != nil && ctx.Err() == nil {
				svc.Logger().WarnContext(ctx, "sweeping idempotency keys failed; it is tried again", "error", err)
			}
		}
	}
}
