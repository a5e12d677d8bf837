package shop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn/devworkload"
	"github.com/napkin-kit/napkin/authn/workload"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/telemetry"
)

// Options are the choices of a store that runs whole in one process.
type Options struct {
	// Data is the directory that keeps the state; "" keeps it in a temporary one, removed at the end.
	Data string
	// Listen is the public address, Console the operators'. Port 0 picks a free one.
	// Default to "localhost:8080" and "localhost:8081".
	Listen, Console string
	// PublicURL is where browsers reach the store. Defaults to "http://" and Listen's address.
	PublicURL string
	// ProviderURL and ProviderKey, SMTPAddr and MessagesURL name a payment provider and a mail server
	// outside this process. Left empty, their simulators run inside.
	ProviderURL, ProviderKey string
	SMTPAddr, MessagesURL    string
	// FullSync makes every SQLite commit wait for the disk.
	FullSync bool
	// Progress receives what the start is doing, for a person. nil: nothing.
	Progress io.Writer
	// Logs receives the log as JSON lines, from Level on. nil: nothing.
	Logs  io.Writer
	Level slog.Level
	// Telemetry adjusts each service's telemetry, for tests that read the spans.
	Telemetry func(*telemetry.Config)
}

// Store is a whole store in one process: nine services that talk gRPC over mTLS and JetStream, exactly
// as they do in processes of their own.
type Store struct {
	env      *environment
	services []wired
	progress io.Writer
	accounts []Account
}

// Account is a demo account.
type Account struct{ Email, Password, What string }

// Open starts everything the services need and makes the services. Run serves them; a Store that is not
// run must be closed.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	if o.Listen == "" {
		o.Listen = "localhost:8080"
	}
	if o.Console == "" {
		o.Console = "localhost:8081"
	}
	if o.Logs == nil {
		o.Logs = io.Discard
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	env := &environment{
		domain: spiffeid.RequireTrustDomainFromString("shop.test"),
		log:    slog.New(slog.NewJSONHandler(o.Logs, &slog.HandlerOptions{Level: o.Level})),
		demo:   true,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, env.close())
		}
	}()

	if env.shedder, err = newShedder(); err != nil {
		return nil, err
	}
	edge, err := listen(ctx, "the store", o.Listen, "--listen")
	if err != nil {
		return nil, err
	}
	console, err := listen(ctx, "the console", o.Console, "--console")
	if err != nil {
		return nil, errors.Join(err, edge.Close())
	}
	env.publicURL, env.consoleURL = o.PublicURL, "http://"+address(o.Console, console)
	if env.publicURL == "" {
		env.publicURL = "http://" + address(o.Listen, edge)
	}
	data, err := openDataDir(o.Data)
	if err != nil {
		return nil, errors.Join(err, edge.Close(), console.Close())
	}
	env.onClose(data.close)
	fmt.Fprintf(o.Progress, "data in %s\n", data.path)
	for name, key := range map[string]*[]byte{"signing": &env.signingKey, "vault": &env.vaultKey, "personal-data": &env.personalDataKey, "session": &env.sessionKey} {
		if *key, err = data.key(name); err != nil {
			return nil, err
		}
	}

	ids, err := issueIdentities(ctx, env, data)
	if err != nil {
		return nil, err
	}
	ns, err := startBroker(data.file("nats"))
	if err != nil {
		return nil, err
	}
	env.onClose(func() error { stopBroker(ns); return nil })
	fmt.Fprintln(o.Progress, "message broker and workload identities are up")
	if err := startSimulators(ctx, env, o, data); err != nil {
		return nil, err
	}

	dbs := data.file("db")
	if err := os.MkdirAll(dbs, 0o700); err != nil {
		return nil, err
	}
	env.database = func(ctx context.Context, name string) (*sqldb.DB, error) {
		return sqlitedb.Open(ctx, filepath.Join(dbs, name+".db"), &sqlitedb.Config{FullSync: o.FullSync})
	}
	env.broker = func(ctx context.Context, name string) (events.Broker, error) {
		nc, err := connectBroker(ctx, name, "", ns, env.log.With("service", name))
		if err != nil {
			return nil, err
		}
		env.onClose(func() error { nc.Close(); return nil })
		return natsevents.Connect(ctx, nc, nil)
	}
	if err := openListeners(ctx, env, o, edge, console, ids); err != nil {
		return nil, err
	}
	s := &Store{env: env, progress: o.Progress, accounts: DemoAccounts()}
	if s.services, err = assemble(ctx, env, services); err != nil {
		return nil, err
	}
	return s, nil
}

// issueIdentities starts the in-process SPIFFE issuer and connects each service to its own Workload API
// listener, through the client that would talk to SPIRE.
func issueIdentities(ctx context.Context, env *environment, data *dataDir) (map[string]*workload.Source, error) {
	issuer, err := devworkload.New(env.domain.Name(), &devworkload.Config{Logger: env.log})
	if err != nil {
		return nil, err
	}
	env.onClose(issuer.Close)
	// Beside the data, where the next start finds and replaces what a killed one left; a unix socket's path
	// has about 100 bytes, so a deep directory has its sockets in a temporary one.
	sockets := data.file("id")
	if abs, err := filepath.Abs(sockets); err != nil || len(abs) > 50 {
		if sockets, err = os.MkdirTemp("", "shop-id-"); err != nil {
			return nil, err
		}
		env.onClose(func() error { return os.RemoveAll(sockets) })
	}
	out := map[string]*workload.Source{}
	for _, s := range services {
		id, err := spiffeid.FromSegments(env.domain, s.name)
		if err != nil {
			return nil, err
		}
		addr, err := issuer.Listen(ctx, id, sockets)
		if err != nil {
			return nil, err
		}
		src, err := workload.Connect(ctx, addr, id, nil)
		if err != nil {
			return nil, err
		}
		env.onClose(src.Close)
		out[s.name] = src
	}
	return out, nil
}

// openListeners opens every service's ports, so that each service's peers are known before any is made.
func openListeners(ctx context.Context, env *environment, o Options, edge, console net.Listener, ids map[string]*workload.Source) error {
	configs := map[string]*kit.Config{}
	peers := map[string]kit.Peer{}
	admin := map[string]string{}
	loopback := func() (net.Listener, error) { return (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0") }
	for _, s := range services {
		tc := telemetry.Config{Service: s.name, Logs: o.Logs, Level: o.Level}
		if o.Telemetry != nil {
			o.Telemetry(&tc)
		}
		tel, err := telemetry.Start(ctx, tc)
		if err != nil {
			return err
		}
		env.onClose(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return tel.Shutdown(ctx)
		})
		cfg := &kit.Config{
			Name: s.name, Identity: ids[s.name], SPIFFEID: ids[s.name].ID(), Telemetry: tel,
			Peers: map[string]kit.Peer{}, HTTPAddr: kit.None,
		}
		if cfg.GRPCListener, err = loopback(); err != nil {
			return err
		}
		if cfg.AdminListener, err = loopback(); err != nil {
			return err
		}
		admin[s.name] = "http://" + cfg.AdminListener.Addr().String()
		peer := kit.Peer{Addr: cfg.GRPCListener.Addr().String(), ID: cfg.SPIFFEID}
		switch {
		case s.name == "gateway":
			cfg.PublicHTTP, cfg.HTTPListener = true, edge
		case s.http:
			if cfg.HTTPListener, err = loopback(); err != nil {
				return err
			}
			peer.HTTPAddr = cfg.HTTPListener.Addr().String()
		}
		configs[s.name], peers[s.name] = cfg, peer
	}
	for _, s := range services {
		for _, p := range append([]string{"auth"}, s.peers...) { // auth's keys check the users' tokens, its own too
			configs[s.name].Peers[p] = peers[p]
			if peers[p].HTTPAddr != "" && !slices.Contains(configs[p].HTTPCallers, configs[s.name].SPIFFEID) {
				configs[p].HTTPCallers = append(configs[p].HTTPCallers, configs[s.name].SPIFFEID)
			}
		}
	}
	env.consoleListener = console
	env.adminURLs = admin
	env.chassis = func(_ context.Context, name string) (kit.Config, error) { return *configs[name], nil }
	return nil
}

// PublicURL and ConsoleURL are where browsers go.
func (s *Store) PublicURL() string  { return s.env.publicURL }
func (s *Store) ConsoleURL() string { return s.env.consoleURL }

// Accounts are the demo accounts.
func (s *Store) Accounts() []Account { return s.accounts }

// Run serves the store until ctx ends, then drains it: the gateway first, then the services.
func (s *Store) Run(ctx context.Context) error {
	return errors.Join(run(ctx, s.services), s.env.close())
}

// Close releases a store that is not run.
func (s *Store) Close() error {
	var err error
	for _, w := range s.services {
		err = errors.Join(err, w.svc.Close())
	}
	return errors.Join(err, s.env.close())
}

func listen(ctx context.Context, what, addr, flag string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s cannot listen on %s: the port is taken; stop what uses it, or choose another with %s", what, addr, flag)
	case err != nil:
		return nil, fmt.Errorf("%s cannot listen on %q: %w; give %s as host:port", what, addr, err, flag)
	}
	return l, nil
}

// address is how a browser spells a listener: by the name that was asked for, with the port it got.
func address(asked string, l net.Listener) string {
	host, _, err := net.SplitHostPort(asked)
	if err != nil || host == "" || host == "0.0.0.0" || strings.Contains(host, ":") {
		host = "localhost"
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port)
}
