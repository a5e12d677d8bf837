// Package user is the service that keeps profiles and preferences.
//
// Personal data is sealed in the table with AES-256-GCM, under a key that can be
// rotated. The event ProfileChanged carries the contacts that a notification needs
// and so holds them in clear: in the outbox until it is trimmed (a day), and at the
// broker for as long as its stream keeps them.
package user

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/letters"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

// Name is the service's name.
const Name = "user"

// Config is what the service needs beside its chassis. DB, Broker and Key are
// required; the caller owns DB and Broker.
type Config struct {
	DB     *sqldb.DB
	Broker events.Broker
	// Key is 32 random bytes that seal personal data.
	Key []byte
	// FormerKeys still open what they sealed. The service seals it anew with Key
	// when it starts; the log says when they are no longer needed. With several
	// replicas, give a new key to all of them here before it becomes Key, so that
	// none meets a row it cannot open.
	FormerKeys [][]byte
	Hooks      Hooks
}

// Hooks observe the service. Each may be left zero.
type Hooks struct {
	// Events carries the trace context through events.
	Events events.Hooks
	Relay  outbox.RelayHooks
	Inbox  inbox.Hooks
}

// Policy says who may call what: the gateway, for a signed-in customer.
func Policy(td spiffeid.TrustDomain) (*authn.Policy, error) {
	gateway, err := spiffeid.FromSegments(td, "gateway")
	if err != nil {
		return nil, fmt.Errorf("user: policy: %w", err)
	}
	return authn.NewPolicy(
		letters.Rule(gateway),
		authn.Rule{Method: "/shop.user.v1.UserService/*", From: []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: []string{"shop"}},
	)
}

// New migrates the service's database and registers its calls and workers with svc.
func New(ctx context.Context, svc *kit.Service, cfg Config) error {
	if cfg.DB == nil || cfg.Broker == nil {
		return errors.New("user: Config.DB and Config.Broker are required")
	}
	keys, err := store.NewKeys(cfg.Key, cfg.FormerKeys...)
	if err != nil {
		return err
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
	if err := cfg.Broker.EnsureTopics(ctx, transport.Topic, transport.AuthTopic); err != nil {
		return err
	}
	st := store.New(cfg.DB, keys, ob, transport.Encode)
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
	consumer.Handle(transport.AuthTopic, transport.RegisteredType, transport.Registered(st, now))

	letters.Register(svc, cfg.DB, svc.Logger())
	userv1.RegisterUserServiceServer(svc, transport.NewServer(domain.NewProfiles(st, now)))
	svc.Ready("database", cfg.DB.Ping)
	svc.Go("outbox relay", relay.Run)
	svc.Go("registrations", consumer.Run)
	if len(cfg.FormerKeys) > 0 {
		svc.Go("seal anew", func(ctx context.Context) error { return reseal(ctx, svc, st) })
	}
	return nil
}

// now is as fine as the database keeps it, so that what is answered is what is read later.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// reseal moves personal data to the current key, once.
func reseal(ctx context.Context, svc *kit.Service, st *store.Store) error {
	n, err := st.Reseal(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		// Nothing is lost: the former keys open what is left, until the next start.
		svc.Logger().ErrorContext(ctx, "personal data could not all be sealed anew; keep the former keys configured", "sealed", n, "error", err)
	default:
		svc.Logger().InfoContext(ctx, "personal data is sealed with the current key; the former keys can be removed", "sealed", n)
	}
	return nil
}

// Facts are what the service's own database says, for the shop's check.
type Facts struct {
	Profiles    int            `json:"profiles"`
	Outbox      outbox.Backlog `json:"outbox"`
	DeadLetters int            `json:"dead_letters"`
}

// Audit reads the facts. It changes nothing.
func Audit(ctx context.Context, db *sqldb.DB) (Facts, error) {
	var f Facts
	if err := db.Read.QueryRowContext(ctx, `SELECT count(*) FROM profiles`).Scan(&f.Profiles); err != nil {
		return Facts{}, fmt.Errorf("user: audit: %w", err)
	}
	var err error
	if f.Outbox, err = outbox.ReadBacklog(ctx, db); err != nil {
		return Facts{}, err
	}
	dead, err := inbox.ReadDeadLetters(ctx, db, "")
	f.DeadLetters = len(dead)
	return f, err
}
