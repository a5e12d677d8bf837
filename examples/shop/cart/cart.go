// Package cart is the service that keeps what customers mean to buy, and says what
// it costs. Names and prices are the catalogue's, asked for each time.
package cart

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/transport"
	"github.com/napkin-kit/napkin/examples/shop/internal/letters"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

// Name is the service's name. It calls the peer "catalog".
const Name = "cart"

// Config is what the service needs beside its chassis. DB and Broker are
// required; the caller owns both.
type Config struct {
	DB     *sqldb.DB
	Broker events.Broker
	Hooks  Hooks
}

// Hooks observe the service. Each may be left zero.
type Hooks struct {
	// Events carries the trace context through events.
	Events events.Hooks
	Inbox  inbox.Hooks
}

// Policy says who may call what: the gateway for customers, the order service for a
// quote on behalf of one.
func Policy(td spiffeid.TrustDomain) (*authn.Policy, error) {
	gateway, err := spiffeid.FromSegments(td, "gateway")
	if err != nil {
		return nil, fmt.Errorf("cart: policy: %w", err)
	}
	order, err := spiffeid.FromSegments(td, "order")
	if err != nil {
		return nil, fmt.Errorf("cart: policy: %w", err)
	}
	customer := []string{"shop"}
	return authn.NewPolicy(
		authn.Rule{Method: "/shop.cart.v1.CartService/*", From: []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: customer},
		letters.Rule(gateway),
		authn.Rule{Method: cartv1.CartService_Quote_FullMethodName, From: []spiffeid.ID{order}, User: authn.UserRequired, Scopes: customer},
	)
}

// New migrates the service's database and registers its calls and workers with svc.
func New(ctx context.Context, svc *kit.Service, cfg Config) error {
	if cfg.DB == nil || cfg.Broker == nil {
		return errors.New("cart: Config.DB and Config.Broker are required")
	}
	if err := errors.Join(
		migrate.Up(ctx, cfg.DB, inbox.Set, inbox.Migrations(cfg.DB.Dialect)),
		migrate.Up(ctx, cfg.DB, Name, store.Migrations()),
	); err != nil {
		return err
	}
	if err := cfg.Broker.EnsureTopics(ctx, transport.OrderTopic); err != nil {
		return err
	}
	catalog, err := svc.Dial("catalog", kit.WithoutToken()) // prices are the same for everybody
	if err != nil {
		return err
	}
	st := store.New(cfg.DB)
	consumer, err := inbox.NewConsumer(Name, cfg.DB, sqldb.Std(cfg.DB), cfg.Broker, &inbox.ConsumerConfig{
		Logger: svc.Logger(), Hooks: cfg.Hooks.Inbox, EventHooks: cfg.Hooks.Events,
	})
	if err != nil {
		return err
	}
	consumer.Handle(transport.OrderTopic, transport.OrderCreatedType, transport.OrderCreated(st, time.Now))

	letters.Register(svc, cfg.DB, svc.Logger())
	cartv1.RegisterCartServiceServer(svc, transport.NewServer(domain.New(st, transport.NewCatalog(catalog), time.Now)))
	svc.Ready("database", cfg.DB.Ping)
	svc.Go("orders", consumer.Run)
	return nil
}

// Facts are what the service's own database says, for the shop's check.
type Facts struct {
	Carts       int `json:"carts"`
	DeadLetters int `json:"dead_letters"`
}

// Audit reads the facts. It changes nothing.
func Audit(ctx context.Context, db *sqldb.DB) (Facts, error) {
	var f Facts
	if err := db.Read.QueryRowContext(ctx, `SELECT count(*) FROM carts`).Scan(&f.Carts); err != nil {
		return Facts{}, fmt.Errorf("cart: audit: %w", err)
	}
	dead, err := inbox.ReadDeadLetters(ctx, db, "")
	f.DeadLetters = len(dead)
	return f, err
}
