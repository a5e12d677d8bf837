package shop

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn/workload"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/telemetry"
)

// DevDomain is the trust domain of the in-process issuer. A service that is configured from outside
// refuses it unless it is told that this is a demo.
const DevDomain = "shop.test"

// Variables are the environment variables that services of their own processes read, beside the
// chassis' NAPKIN_* ones (kit.Variables). Each may be prefixed with a service's name in capitals
// (ORDER_DATABASE_URL), which then holds for that service alone.
var Variables = []kit.Variable{
	{Name: "DATABASE_URL", Accepts: "postgres://… or sqlite:PATH; each service its own"},
	{Name: "NATS_URL", Accepts: "nats://host:port, comma separated"},
	{Name: "SHOP_PUBLIC_URL", Accepts: "where browsers reach the gateway; the OIDC issuer", Default: "http://localhost:8080"},
	{Name: "SHOP_CONSOLE_ADDR", Accepts: "host:port of the operators' console", Default: "localhost:8081"},
	{Name: "SHOP_CONSOLE_URL", Accepts: "where browsers reach the console", Default: "http:// and SHOP_CONSOLE_ADDR"},
	{Name: "SHOP_ADMIN_URLS", Accepts: "name=http://host:port of each service's admin listener, comma separated, for the console"},
	{Name: "SHOP_PROVIDER_URL", Accepts: "the payment provider"},
	{Name: "SHOP_PROVIDER_KEY", Accepts: "the payment provider's API key"},
	{Name: "SHOP_SMTP_ADDR", Accepts: "host:port of the mail server"},
	{Name: "SHOP_MESSAGES_URL", Accepts: "the SMS and push gateway"},
	{Name: "SHOP_SIGNING_KEY", Accepts: "32 bytes in base64; seals the keys that sign tokens"},
	{Name: "SHOP_VAULT_KEY", Accepts: "32 bytes in base64; encrypts card numbers"},
	{Name: "SHOP_PERSONAL_DATA_KEY", Accepts: "32 bytes in base64; encrypts personal data"},
	{Name: "SHOP_FORMER_PERSONAL_DATA_KEYS", Accepts: "keys that SHOP_PERSONAL_DATA_KEY replaced, comma separated; they still open what they sealed"},
	{Name: "SHOP_SESSION_KEY", Accepts: "32 bytes in base64; encrypts session cookies"},
}

// needs are the variables that a service cannot do without.
var needs = map[string][]string{
	"payment":      {"SHOP_PROVIDER_URL", "SHOP_PROVIDER_KEY", "SHOP_VAULT_KEY"},
	"auth":         {"SHOP_SIGNING_KEY"},
	"user":         {"SHOP_PERSONAL_DATA_KEY"},
	"notification": {"SHOP_SMTP_ADDR", "SHOP_PERSONAL_DATA_KEY"},
	"gateway":      {"SHOP_SESSION_KEY"},
}

// RunServices runs the services of a comma-separated list, configured by the environment, until ctx ends.
// demo allows what has no place in production: demo accounts, the in-process issuer's trust domain, and a
// payment provider over plain HTTP, such as the simulator.
func RunServices(ctx context.Context, list string, getenv func(string) string, demo bool, logs io.Writer, level slog.Level) error {
	chosen, err := choose(list)
	if err != nil {
		return err
	}
	env, err := externalEnvironment(ctx, chosen, getenv, demo, logs, level)
	if err != nil {
		return err
	}
	wired, err := assemble(ctx, env, chosen)
	if err != nil {
		return errors.Join(err, env.close())
	}
	for _, w := range wired {
		env.log.Info("serving", "service", w.name, "grpc", w.svc.GRPCAddr(), "http", w.svc.HTTPAddr(), "admin", w.svc.AdminAddr())
	}
	return errors.Join(run(ctx, wired), env.close())
}

func externalEnvironment(ctx context.Context, chosen []service, getenv func(string) string, demo bool, logs io.Writer, level slog.Level) (_ *environment, err error) {
	r := reader{getenv: getenv}
	env := &environment{
		log:         slog.New(slog.NewJSONHandler(logs, &slog.HandlerOptions{Level: level})),
		publicURL:   strings.TrimRight(r.or("SHOP_PUBLIC_URL", "http://localhost:8080"), "/"),
		demo:        demo,
		providerURL: r.url("SHOP_PROVIDER_URL"), providerKey: getenv("SHOP_PROVIDER_KEY"),
		smtpAddr: getenv("SHOP_SMTP_ADDR"), messagesURL: r.url("SHOP_MESSAGES_URL"),
		signingKey: r.key("SHOP_SIGNING_KEY"), vaultKey: r.key("SHOP_VAULT_KEY"), personalDataKey: r.key("SHOP_PERSONAL_DATA_KEY"), sessionKey: r.key("SHOP_SESSION_KEY"),
		adminURLs:              r.pairs("SHOP_ADMIN_URLS"),
		formerPersonalDataKeys: r.keys("SHOP_FORMER_PERSONAL_DATA_KEYS"),
	}
	if env.domain, err = spiffeid.TrustDomainFromString(r.or("NAPKIN_TRUST_DOMAIN", DevDomain)); err != nil {
		r.fault("NAPKIN_TRUST_DOMAIN", err.Error())
	}
	for _, s := range chosen {
		for _, name := range needs[s.name] {
			if getenv(name) == "" {
				r.fault(name, s.name+" needs it")
			}
		}
		if s.stateful {
			if forService(getenv, s.name)("DATABASE_URL") == "" {
				r.fault(strings.ToUpper(s.name)+"_DATABASE_URL", s.name+" needs it: postgres://… or sqlite:PATH")
			}
			if getenv("NATS_URL") == "" {
				r.fault("NATS_URL", s.name+" needs it: nats://host:port")
			}
		}
	}
	if !demo {
		if env.domain.Name() == DevDomain {
			r.fault("NAPKIN_TRUST_DOMAIN", DevDomain+" is the in-process issuer's; name your own, or add --demo")
		}
		if strings.HasPrefix(env.providerURL, "http://") {
			r.fault("SHOP_PROVIDER_URL", "plain HTTP is for the simulator; use https, or add --demo")
		}
	}
	if err := errors.Join(r.faults...); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, env.close())
		}
	}()
	if env.shedder, err = newShedder(); err != nil {
		return nil, err
	}
	for _, s := range chosen {
		if s.name != "gateway" {
			continue
		}
		addr := r.or("SHOP_CONSOLE_ADDR", "localhost:8081")
		if env.consoleListener, err = listen(ctx, "the console", addr, "SHOP_CONSOLE_ADDR"); err != nil {
			return nil, err
		}
		env.consoleURL = r.or("SHOP_CONSOLE_URL", "http://"+address(addr, env.consoleListener))
	}
	env.chassis = func(ctx context.Context, name string) (kit.Config, error) {
		return externalChassis(ctx, env, name, forService(getenv, name), logs, level)
	}
	env.database = func(ctx context.Context, name string) (*sqldb.DB, error) {
		return openDatabase(ctx, forService(getenv, name)("DATABASE_URL"))
	}
	env.broker = func(ctx context.Context, name string) (events.Broker, error) {
		nc, err := connectBroker(ctx, name, getenv("NATS_URL"), nil, env.log.With("service", name))
		if err != nil {
			return nil, err
		}
		env.onClose(func() error { nc.Close(); return nil })
		return natsevents.Connect(ctx, nc, nil)
	}
	return env, nil
}

// externalChassis reads a service's NAPKIN_* variables and connects it to the Workload API.
func externalChassis(ctx context.Context, env *environment, name string, getenv func(string) string, logs io.Writer, level slog.Level) (kit.Config, error) {
	domain := func(key string) string {
		if v := getenv(key); v != "" || key != "NAPKIN_TRUST_DOMAIN" {
			return v
		}
		return env.domain.Name()
	}
	cfg, err := kit.ConfigFromEnv(name, domain)
	if err != nil {
		return cfg, err
	}
	if cfg.Telemetry, err = telemetry.Start(ctx, telemetry.Config{Service: name, Logs: logs, Level: level}); err != nil {
		return cfg, err
	}
	env.onClose(func() error { return cfg.Telemetry.Shutdown(context.WithoutCancel(ctx)) })
	src, err := workload.Connect(ctx, cfg.WorkloadAPI, cfg.SPIFFEID, nil)
	if err != nil {
		return cfg, fmt.Errorf("workload identity (NAPKIN_WORKLOAD_API=%q): %w", cfg.WorkloadAPI, err)
	}
	env.onClose(src.Close)
	cfg.Identity, cfg.WorkloadAPI = src, ""
	cfg.PublicHTTP = name == "gateway"
	return cfg, nil
}

// forService looks a variable up with the service's prefix first: ORDER_DATABASE_URL before DATABASE_URL.
func forService(getenv func(string) string, name string) func(string) string {
	prefix := strings.ToUpper(name) + "_"
	return func(key string) string {
		if v := getenv(prefix + key); v != "" {
			return v
		}
		return getenv(key)
	}
}

func openDatabase(ctx context.Context, dsn string) (*sqldb.DB, error) {
	if path, ok := strings.CutPrefix(dsn, "sqlite:"); ok {
		return sqlitedb.Open(ctx, path, nil)
	}
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		return pgxdb.Open(ctx, dsn, nil)
	}
	return nil, errors.New("DATABASE_URL accepts postgres://… or sqlite:PATH")
}

// reader collects what is wrong with the environment, so that one run tells all of it.
type reader struct {
	getenv func(string) string
	faults []error
}

func (r *reader) fault(name, what string) {
	r.faults = append(r.faults, fmt.Errorf("%s: %s", name, what))
}

func (r *reader) or(name, otherwise string) string {
	if v := r.getenv(name); v != "" {
		return v
	}
	return otherwise
}

func (r *reader) url(name string) string {
	v := strings.TrimRight(r.getenv(name), "/")
	if u, err := url.Parse(v); v != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		r.fault(name, fmt.Sprintf("%q is not an http or https URL", v))
	}
	return v
}

// keys reads a comma-separated list of keys.
func (r *reader) keys(name string) [][]byte {
	var out [][]byte
	for v := range strings.SplitSeq(r.getenv(name), ",") {
		if key := r.parseKey(name, v); key != nil {
			out = append(out, key)
		}
	}
	return out
}

func (r *reader) key(name string) []byte { return r.parseKey(name, r.getenv(name)) }

func (r *reader) parseKey(name, v string) []byte {
	if v == "" {
		return nil
	}
	key, err := base64.StdEncoding.DecodeString(v)
	if err != nil || len(key) != 32 {
		r.fault(name, "it accepts 32 bytes in base64 (openssl rand -base64 32)")
	}
	return key
}

func (r *reader) pairs(name string) map[string]string {
	out := map[string]string{}
	for pair := range strings.SplitSeq(r.getenv(name), ",") {
		if pair == "" {
			continue
		}
		k, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok {
			r.fault(name, fmt.Sprintf("%q is not name=value", pair))
		}
		out[k] = v
	}
	return out
}
