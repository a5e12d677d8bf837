// Package auth is the service that knows who people are: it registers accounts and
// is the shop's OpenID Connect provider.
//
// Passwords are kept as Argon2id hashes, tokens and codes as SHA-256 sums, signing
// keys sealed. Access tokens are JWTs of fifteen minutes that every service verifies
// by itself; refresh tokens rotate, and one that is used twice ends its sign-in.
package auth

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

// Name is the service's name, Audience that of the tokens it gives.
const (
	Name     = "auth"
	Audience = transport.Audience
)

// consoleClient is the OpenID client that the operators' console is.
const consoleClient = "console"

// Config is what the service needs beside its chassis. DB, Broker, Issuer and Key
// are required; the caller owns DB and Broker.
type Config struct {
	DB     *sqldb.DB
	Broker events.Broker
	// Issuer is the public address of the shop, without a path: https, or http on
	// loopback. Browsers reach this service's HTTP paths below it, by the gateway.
	Issuer string
	// ConsoleURL is the address of the operators' console, without a path. Empty
	// leaves the client "console" out.
	ConsoleURL string
	// Key is 32 random bytes that seal signing keys and authorization codes. With
	// another one the service does not start on its old database.
	Key []byte
	// ServiceClients sign in as themselves, with client credentials.
	ServiceClients []ServiceClient
	// Demo creates the accounts of DemoAccounts. Never where strangers come by.
	Demo  bool
	Hooks Hooks
}

// ServiceClient is a program that signs in with a secret of its own.
type ServiceClient struct {
	ID string
	// Secret is 32 characters or more.
	Secret string
	Scopes []string
}

// Hooks observe the service. Each may be left zero.
type Hooks struct {
	// Events carries the trace context through events.
	Events events.Hooks
	Relay  outbox.RelayHooks
}

// DemoAccount is an account that everybody may know.
type DemoAccount struct {
	Email, Password, Name string
	Operator              bool
}

// DemoAccounts are the ones created with Config.Demo.
func DemoAccounts() []DemoAccount {
	return []DemoAccount{
		{Email: "demo@shop.test", Password: "napkin-demo", Name: "Dana Demo"},
		{Email: "admin@shop.test", Password: "napkin-admin", Name: "Ada Admin", Operator: true},
	}
}

// Policy says who may call what over gRPC: the gateway, for people who want an
// account. OpenID Connect is HTTP, and open to the gateway alone.
func Policy(td spiffeid.TrustDomain) (*authn.Policy, error) {
	gateway, err := spiffeid.FromSegments(td, "gateway")
	if err != nil {
		return nil, fmt.Errorf("auth: policy: %w", err)
	}
	return authn.NewPolicy(
		authn.Rule{Method: authv1.AuthService_Register_FullMethodName, From: []spiffeid.ID{gateway}, User: authn.NoUser},
	)
}

// New migrates the service's database and registers its calls, pages and workers
// with svc.
func New(ctx context.Context, svc *kit.Service, cfg Config) error {
	if cfg.DB == nil || cfg.Broker == nil {
		return errors.New("auth: Config.DB and Config.Broker are required")
	}
	if len(cfg.Key) != 32 {
		return fmt.Errorf("auth: Config.Key has %d bytes; give 32 random ones", len(cfg.Key))
	}
	// One secret to configure, a key for each purpose (RFC 5869).
	atRest, err1 := hkdf.Key(sha256.New, cfg.Key, nil, "shop auth: signing keys at rest", 32)
	codes, err2 := hkdf.Key(sha256.New, cfg.Key, nil, "shop auth: authorization codes", 32)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("auth: derive keys: %w", err)
	}
	clients, err := clientsOf(cfg)
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
		migrate.Up(ctx, cfg.DB, Name, store.Migrations()),
	); err != nil {
		return err
	}
	if err := cfg.Broker.EnsureTopics(ctx, transport.Topic); err != nil {
		return err
	}
	st, err := store.New(cfg.DB, ob, transport.Encode, atRest)
	if err != nil {
		return err
	}
	keys, err := transport.NewKeyring(ctx, st, svc.Logger(), time.Now)
	if err != nil {
		return err
	}
	registry := domain.NewRegistry(st, domain.NewHasher(), time.Now)
	var note func(clientID string) string
	if cfg.Demo {
		if err := createDemoAccounts(ctx, registry); err != nil {
			return err
		}
		note = demoNote
	}
	provider, err := transport.NewProvider(transport.ProviderConfig{
		Issuer: cfg.Issuer, Store: st, Keys: keys, Registry: registry, Clients: clients,
		CryptoKey: [32]byte(codes), Note: note, Logger: svc.Logger(), Now: time.Now,
	})
	if err != nil {
		return err
	}
	relay, err := outbox.NewRelay(cfg.DB, ob, cfg.Broker, &outbox.RelayConfig{Logger: svc.Logger(), Hooks: cfg.Hooks.Relay})
	if err != nil {
		return err
	}

	authv1.RegisterAuthServiceServer(svc, transport.NewServer(registry))
	provider.Routes(svc.HTTP())
	svc.Ready("database", cfg.DB.Ping)
	svc.Go("outbox relay", relay.Run)
	svc.Go("signing keys", keys.Run)
	svc.Go("sweeper", func(ctx context.Context) error { return sweep(ctx, svc, st) })
	return nil
}

func clientsOf(cfg Config) ([]*transport.Client, error) {
	issuer := strings.TrimRight(cfg.Issuer, "/")
	clients := []*transport.Client{
		{
			ID: "storefront", Scopes: []string{domain.ScopeShop},
			Redirects: []string{issuer + "/auth/callback"}, LogoutURIs: []string{issuer + "/"},
		},
		{
			ID: "cli", Scopes: []string{domain.ScopeShop, domain.ScopeAdmin}, Loopback: true,
			Redirects: []string{"http://127.0.0.1/callback", "http://localhost/callback"},
		},
	}
	if cfg.ConsoleURL != "" {
		console := strings.TrimRight(cfg.ConsoleURL, "/")
		clients = append(clients, &transport.Client{
			ID: consoleClient, Scopes: []string{domain.ScopeShop, domain.ScopeAdmin},
			Redirects: []string{console + "/auth/callback"}, LogoutURIs: []string{console + "/"},
		})
	}
	for _, c := range cfg.ServiceClients {
		if c.ID == "" || len(c.Secret) < 32 {
			return nil, fmt.Errorf("auth: service client %q: give an ID and a Secret of 32 characters or more", c.ID)
		}
		clients = append(clients, &transport.Client{
			ID: c.ID, Scopes: c.Scopes, Service: true, SecretSHA256: sha256.Sum256([]byte(c.Secret)),
		})
	}
	return clients, nil
}

func createDemoAccounts(ctx context.Context, registry *domain.Registry) error {
	for _, a := range DemoAccounts() {
		register := registry.Register
		if a.Operator {
			register = registry.RegisterOperator
		}
		_, err := register(ctx, domain.Registration{Email: a.Email, Password: a.Password, Name: a.Name})
		if err != nil && !errors.Is(err, domain.ErrExists) {
			return err
		}
	}
	return nil
}

// demoNote names the account that fits the client: in the console only an operator
// can do anything.
func demoNote(clientID string) string {
	for _, a := range DemoAccounts() {
		if a.Operator == (clientID == consoleClient) {
			return fmt.Sprintf("This is a demo: sign in as %s with the password %s.", a.Email, a.Password)
		}
	}
	return ""
}

// sweep removes expired sign-ins and tokens now and then.
func sweep(ctx context.Context, svc *kit.Service, st *store.Store) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := st.Sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			svc.Logger().WarnContext(ctx, "expired sign-ins could not be removed; trying again later", "error", err)
		}
	}
}

// Facts are what the service's own database says, for the shop's check.
type Facts struct {
	Accounts int            `json:"accounts"`
	Outbox   outbox.Backlog `json:"outbox"`
}

// Audit reads the facts. It changes nothing.
func Audit(ctx context.Context, db *sqldb.DB) (Facts, error) {
	var f Facts
	if err := db.Read.QueryRowContext(ctx, `SELECT count(*) FROM accounts`).Scan(&f.Accounts); err != nil {
		return Facts{}, fmt.Errorf("auth: audit: %w", err)
	}
	var err error
	f.Outbox, err = outbox.ReadBacklog(ctx, db)
	return f, err
}
