// Package catalog is the service that keeps the products and finds them.
//
// It owns its database: the products, the outbox of what happened to them, the
// inbox of what the inventory service said about their stock. The search index is
// a copy in memory, built from the table.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/search"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/seed"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/transport"
	"github.com/napkin-kit/napkin/examples/shop/internal/letters"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

// Name is the service's name.
const Name = "catalog"

// Config is what the service needs beside its chassis. DB and Broker are
// required; the caller owns both.
type Config struct {
	DB     *sqldb.DB
	Broker events.Broker
	// Seed fills an empty catalogue with the demo products.
	Seed  bool
	Hooks Hooks
}

// Hooks observe the service. Each may be left zero.
type Hooks struct {
	// Events carries the trace context through events.
	Events events.Hooks
	Relay  outbox.RelayHooks
	Inbox  inbox.Hooks
}

// Policy says who may call what: the gateway for customers, who need no account
// to browse, and for operators; the cart service for prices.
func Policy(td spiffeid.TrustDomain) (*authn.Policy, error) {
	gateway, err := spiffeid.FromSegments(td, "gateway")
	if err != nil {
		return nil, fmt.Errorf("catalog: policy: %w", err)
	}
	cart, err := spiffeid.FromSegments(td, "cart")
	if err != nil {
		return nil, fmt.Errorf("catalog: policy: %w", err)
	}
	admin := []string{"shop:admin"}
	return authn.NewPolicy(
		letters.Rule(gateway),
		authn.Rule{Method: catalogv1.CatalogService_ListProducts_FullMethodName, From: []spiffeid.ID{gateway}, User: authn.NoUser},
		authn.Rule{Method: catalogv1.CatalogService_GetProduct_FullMethodName, From: []spiffeid.ID{gateway}, User: authn.NoUser},
		authn.Rule{Method: catalogv1.CatalogService_BatchGetProducts_FullMethodName, From: []spiffeid.ID{gateway, cart}, User: authn.NoUser},
		authn.Rule{Method: catalogv1.CatalogService_CreateProduct_FullMethodName, From: []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: admin},
		authn.Rule{Method: catalogv1.CatalogService_UpdateProduct_FullMethodName, From: []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: admin},
	)
}

// New migrates the service's database and registers its calls, pages and workers
// with svc.
func New(ctx context.Context, svc *kit.Service, cfg Config) error {
	if cfg.DB == nil || cfg.Broker == nil {
		return errors.New("catalog: Config.DB and Config.Broker are required")
	}
	d := cfg.DB.Dialect
	ob, err := outbox.New(d, Name, &outbox.Config{Hooks: cfg.Hooks.Events})
	if err != nil {
		return err
	}
	if err := errors.Join(
		migrate.Up(ctx, cfg.DB, outbox.Set, outbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, inbox.Set, inbox.Migrations(d)),
		migrate.Up(ctx, cfg.DB, Name, store.Migrations()),
	); err != nil {
		return err
	}
	if err := cfg.Broker.EnsureTopics(ctx, transport.Topic, transport.StockTopic); err != nil {
		return err
	}

	// The index reads the store and the store tells the index: changed stands
	// between the two.
	changed := make(chan struct{}, 1)
	st := store.New(cfg.DB, ob, transport.Encode, func() {
		select {
		case changed <- struct{}{}:
		default: // a look at the table is due already
		}
	})
	if cfg.Seed {
		drafts, err := seed.Drafts()
		if err != nil {
			return err
		}
		n, err := domain.New(st, nil, time.Now).Seed(ctx, drafts)
		if err != nil {
			return err
		}
		if n > 0 {
			svc.Logger().InfoContext(ctx, "catalogue seeded", "products", n)
		}
	}
	index, err := search.New(ctx, st, changed, svc.Logger())
	if err != nil {
		return err
	}
	svc.OnClose("search index", func(context.Context) error { return index.Close() })
	catalog := domain.New(st, index, time.Now)

	relay, err := outbox.NewRelay(cfg.DB, ob, cfg.Broker, &outbox.RelayConfig{Logger: svc.Logger(), Hooks: cfg.Hooks.Relay})
	if err != nil {
		return err
	}
	consumer, err := inbox.NewConsumer(Name, cfg.DB, sqldb.Std(cfg.DB), cfg.Broker, &inbox.ConsumerConfig{
		Logger: svc.Logger(), Hooks: cfg.Hooks.Inbox, EventHooks: cfg.Hooks.Events,
	})
	if err != nil {
		return err
	}
	consumer.Handle(transport.StockTopic, transport.StockType, transport.StockLevelChanged(st, svc.Logger()))

	letters.Register(svc, cfg.DB, svc.Logger())
	catalogv1.RegisterCatalogServiceServer(svc, transport.NewServer(catalog))
	svc.HTTP().Handle("GET /images/{file}", transport.Images(catalog))
	svc.Ready("database", cfg.DB.Ping)
	svc.Go("outbox relay", relay.Run)
	svc.Go("stock levels", consumer.Run)
	svc.Go("search index", index.Run)
	return nil
}

// Facts are what the service's own database says, for the shop's check.
type Facts struct {
	Products    int            `json:"products"`
	Outbox      outbox.Backlog `json:"outbox"`
	DeadLetters int            `json:"dead_letters"`
}

// Audit reads the facts. It changes nothing.
func Audit(ctx context.Context, db *sqldb.DB) (Facts, error) {
	var f Facts
	var err error
	if err = db.Read.QueryRowContext(ctx, `SELECT count(*) FROM products`).Scan(&f.Products); err != nil {
		return Facts{}, fmt.Errorf("catalog: audit: %w", err)
	}
	if f.Outbox, err = outbox.ReadBacklog(ctx, db); err != nil {
		return Facts{}, err
	}
	dead, err := inbox.ReadDeadLetters(ctx, db, "")
	f.DeadLetters = len(dead)
	return f, err
}
