// Package payment is the service that keeps cards and moves money.
//
// It owns its database: the vault, the payments with the intents that stand
// around each call to the provider, the ledger, and the outbox, inbox and
// outcomes of commands that commit with them. The order service commands it
// over the broker; customers reach it through the gateway for their cards only.
package payment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/letters"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/saga/participant"
)

// Name is the service's name.
const Name = "payment"

// VaultKeySize is the size of a vault key in bytes.
const VaultKeySize = domain.KeySize

// Config is what the service needs beside its chassis. The caller owns DB and
// Broker.
type Config struct {
	DB     *sqldb.DB     // required
	Broker events.Broker // required
	// ProviderURL and ProviderKey are the payment provider's address and the
	// merchant's bearer key. Required.
	ProviderURL, ProviderKey string
	// ProviderTimeout bounds one call to the provider. Defaults to 2 s.
	ProviderTimeout time.Duration
	// VaultKey encrypts card numbers: VaultKeySize random bytes. Required.
	VaultKey []byte
	// OldVaultKeys still open what was sealed before VaultKey was rotated.
	OldVaultKeys [][]byte
	// Concurrency bounds the provider calls in flight. Defaults to 16.
	Concurrency int
	Hooks       Hooks
}

// Hooks observe the service. Each may be left zero.
type Hooks struct {
	// Events carries the trace context through events.
	Events events.Hooks
	Relay  outbox.RelayHooks
	Inbox  inbox.Hooks
	// Point is called around each call to the provider: "payment.<kind>.called"
	// (claimed, not called yet), ".answered" (not recorded yet) and ".settled",
	// where <kind> is authorize, capture, void or refund.
	Point func(ctx context.Context, name string)
}

// Policy says who may call what: customers through the gateway, and the order
// service on a customer's behalf.
func Policy(td spiffeid.TrustDomain) (*authn.Policy, error) {
	gateway, err := spiffeid.FromSegments(td, "gateway")
	if err != nil {
		return nil, fmt.Errorf("payment: policy: %w", err)
	}
	order, err := spiffeid.FromSegments(td, "order")
	if err != nil {
		return nil, fmt.Errorf("payment: policy: %w", err)
	}
	customer := []string{"shop"}
	rule := func(method string, from ...spiffeid.ID) authn.Rule {
		return authn.Rule{Method: method, From: from, User: authn.UserRequired, Scopes: customer}
	}
	return authn.NewPolicy(
		letters.Rule(gateway),
		rule(paymentv1.PaymentService_CreatePaymentMethod_FullMethodName, gateway),
		rule(paymentv1.PaymentService_ListPaymentMethods_FullMethodName, gateway),
		rule(paymentv1.PaymentService_GetPaymentMethod_FullMethodName, order),
	)
}

// New migrates the service's database and registers its calls, handlers and
// workers with svc.
func New(ctx context.Context, svc *kit.Service, cfg Config) error {
	if cfg.DB == nil || cfg.Broker == nil {
		return errors.New("payment: Config.DB and Config.Broker are required")
	}
	if cfg.ProviderTimeout <= 0 {
		cfg.ProviderTimeout = 2 * time.Second
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 16
	}
	sealer, err := domain.NewVault(cfg.VaultKey, cfg.OldVaultKeys...)
	if err != nil {
		return fmt.Errorf("Config.VaultKey: %w", err)
	}
	acquirer, err := transport.NewAcquirer(cfg.ProviderURL, cfg.ProviderKey, cfg.ProviderTimeout)
	if err != nil {
		return err
	}
	svc.OnClose("payment provider", func(context.Context) error { acquirer.Close(); return nil })
	d := cfg.DB.Dialect
	if err := errors.Join(
		migrate.Up(ctx, cfg.DB, outbox.Set, outbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, inbox.Set, inbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, participant.Set, participant.Migrations(d)),
		migrate.Up(ctx, cfg.DB, Name, store.Migrations()),
	); err != nil {
		return err
	}
	if err := cfg.Broker.EnsureTopics(ctx, transport.EventTopic, transport.CommandTopic); err != nil {
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
	steps, err := participant.New(d, ob, &participant.Config{Topic: transport.EventTopic})
	if err != nil {
		return err
	}
	consumer, err := inbox.NewConsumer(Name, cfg.DB, sqldb.Std(cfg.DB), cfg.Broker, &inbox.ConsumerConfig{
		Logger: svc.Logger(), Hooks: cfg.Hooks.Inbox, EventHooks: cfg.Hooks.Events,
		IsInfrastructure: kit.IsInfrastructure,
		// An undo does not wait behind the command that it undoes, and a command
		// that is given up is refused: its saga does not wait for its deadline.
		BypassParking: participant.IsUndo, OnDeadLetter: steps.DeadLettered,
	})
	if err != nil {
		return err
	}

	// Commands record intents and wake the worker; the worker settles them and
	// has the commands answered.
	var worker *transport.Worker
	commands := transport.NewCommands(cfg.DB, steps, cfg.Hooks.Events, func() { worker.Wake() })
	vault := store.NewVault(cfg.DB, sealer)
	worker = transport.NewWorker(transport.WorkerConfig{
		DB: cfg.DB, Vault: vault, Acquirer: acquirer, Reply: commands.Reply, Resume: commands.Resume,
		CallTimeout: cfg.ProviderTimeout, Concurrency: cfg.Concurrency,
		Logger: svc.Logger(), Point: cfg.Hooks.Point,
	})
	commands.Register(consumer)

	letters.Register(svc, cfg.DB, svc.Logger())
	paymentv1.RegisterPaymentServiceServer(svc, transport.NewServer(vault))
	svc.Ready("database", cfg.DB.Ping)
	svc.Go("outbox relay", relay.Run)
	svc.Go("payment commands", consumer.Run)
	svc.Go("payment provider", worker.Run)
	svc.Go("step outcomes", func(ctx context.Context) error { return forget(ctx, svc, steps, cfg.DB) })
	return nil
}

// keepOutcomes is how long the outcomes and tombstones of saga steps are kept:
// far longer than any saga waits, a stuck one included.
const keepOutcomes = 90 * 24 * time.Hour

// forget removes the outcomes of steps that no saga will ask for again.
func forget(ctx context.Context, svc *kit.Service, steps *participant.Participant, db *sqldb.DB) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if _, err := steps.Purge(ctx, db.Write, now.Add(-keepOutcomes)); err != nil && ctx.Err() == nil {
				svc.Logger().WarnContext(ctx, "forgetting old step outcomes failed; it is tried again", "error", err)
			}
		}
	}
}
