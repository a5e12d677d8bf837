// Package inventory is the service that knows what is in stock and to whom it
// is promised.
//
// It owns its database: levels, their ledger and the reservations, and the
// outbox, inbox and outcomes of commands that commit with them. The order
// service commands it over the broker, the catalogue tells it of new products,
// operators correct it through the gateway.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/letters"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/saga/participant"
)

// Name is the service's name.
const Name = "inventory"

// Config is what the service needs beside its chassis. DB and Broker are
// required; the caller owns both.
type Config struct {
	DB     *sqldb.DB
	Broker events.Broker
	// SweepEvery is how often expired reservations are looked for. Defaults to
	// 1 s.
	SweepEvery time.Duration
	Hooks      Hooks
}

// Hooks observe the service. Each may be left zero.
type Hooks struct {
	// Events carries the trace context through events.
	Events events.Hooks
	Relay  outbox.RelayHooks
	Inbox  inbox.Hooks
}

// Policy says who may call what: operators, through the gateway. Everything else
// comes over the broker.
func Policy(td spiffeid.TrustDomain) (*authn.Policy, error) {
	gateway, err := spiffeid.FromSegments(td, "gateway")
	if err != nil {
		return nil, fmt.Errorf("inventory: policy: %w", err)
	}
	rule := func(method string) authn.Rule {
		return authn.Rule{Method: method, From: []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: []string{"shop:admin"}}
	}
	return authn.NewPolicy(
		letters.Rule(gateway),
		rule(inventoryv1.InventoryService_AdjustStock_FullMethodName),
		rule(inventoryv1.InventoryService_ListStock_FullMethodName),
	)
}

// New migrates the service's database and registers its calls, handlers and
// workers with svc.
func New(ctx context.Context, svc *kit.Service, cfg Config) error {
	if cfg.DB == nil || cfg.Broker == nil {
		return errors.New("inventory: Config.DB and Config.Broker are required")
	}
	if cfg.SweepEvery <= 0 {
		cfg.SweepEvery = time.Second
	}
	d := cfg.DB.Dialect
	if err := errors.Join(
		migrate.Up(ctx, cfg.DB, outbox.Set, outbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, inbox.Set, inbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, participant.Set, participant.Migrations(d)),
		migrate.Up(ctx, cfg.DB, Name, store.Migrations()),
	); err != nil {
		return err
	}
	if err := cfg.Broker.EnsureTopics(ctx, transport.EventTopic, transport.StockTopic,
		transport.CommandTopic, transport.CatalogTopic); err != nil {
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
	handlers := transport.NewHandlers(cfg.DB, ob, steps)
	handlers.Register(consumer)
	sweeper := &transport.Sweeper{DB: cfg.DB, Handlers: handlers, Every: cfg.SweepEvery, Logger: svc.Logger()}

	letters.Register(svc, cfg.DB, svc.Logger())
	inventoryv1.RegisterInventoryServiceServer(svc, transport.NewServer(cfg.DB, handlers))
	svc.Ready("database", cfg.DB.Ping)
	svc.Go("outbox relay", relay.Run)
	svc.Go("stock commands", consumer.Run)
	svc.Go("reservation expiry", sweeper.Run)
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
