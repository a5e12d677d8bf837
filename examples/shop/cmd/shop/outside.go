package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn/devworkload"
	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// issuerCmd is the development stand-in for SPIRE where services run in processes of their own.
type issuerCmd struct {
	Domain  string        `default:"shop.test" help:"Trust domain."`
	Sockets string        `required:"" help:"Directory for the sockets; keep its path short. A line NAME=ADDRESS is printed for each service."`
	Data    string        `help:"Directory that keeps the authority across restarts."`
	TTL     time.Duration `default:"1h" help:"How long an identity is valid; half of it is the rotation."`
}

func (c *issuerCmd) Run(ctx context.Context) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	issuer, err := devworkload.New(c.Domain, &devworkload.Config{Dir: c.Data, TTL: c.TTL, Logger: log})
	if err != nil {
		return err
	}
	for _, name := range shop.Names() {
		id, err := spiffeid.FromSegments(issuer.TrustDomain(), name)
		if err != nil {
			return errors.Join(err, issuer.Close())
		}
		addr, err := issuer.Listen(ctx, id, c.Sockets)
		if err != nil {
			return errors.Join(err, issuer.Close())
		}
		fmt.Printf("%s=%s\n", name, addr)
	}
	<-ctx.Done()
	return issuer.Close()
}

// providerCmd is an outsider: its ledger is its own, and is never rolled back with the store's.
type providerCmd struct {
	Listen string `default:"127.0.0.1:8090" help:"Address."`
	Data   string `default:"provider.db" help:"SQLite file of its ledger."`
	Key    string `env:"SHOP_PROVIDER_KEY" required:"" help:"API key that callers must present."`
}

func (c *providerCmd) Run(ctx context.Context) error {
	db, err := sqlitedb.Open(ctx, c.Data, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	sim, err := provider.New(ctx, provider.Config{DB: db, Key: c.Key, Logger: slog.New(slog.NewJSONHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	return serveHTTP(ctx, c.Listen, sim.Handler(), sim.Close)
}

// serveHTTP serves until ctx ends, then lets what is in flight finish.
func serveHTTP(ctx context.Context, addr string, h http.Handler, release func()) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("%w; choose another address with --listen", err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	fmt.Println("http://" + l.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	release()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return srv.Shutdown(stop)
}

// sinkCmd is an outsider too: what the store says it has sent, it says it has got.
type sinkCmd struct {
	SMTP   string `name:"smtp" default:"127.0.0.1:2525" help:"Address for mail."`
	Listen string `default:"127.0.0.1:8091" help:"Address for SMS and push, and for GET /messages."`
	Data   string `default:"sink.db" help:"SQLite file of what was received."`
}

func (c *sinkCmd) Run(ctx context.Context) error {
	db, err := sqlitedb.Open(ctx, c.Data, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := sink.New(ctx, db, nil)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.SMTP)
	if err != nil {
		return fmt.Errorf("%w; choose another address with --smtp", err)
	}
	mail := s.SMTP()
	done := make(chan error, 1)
	go func() { done <- mail.Serve(l) }()
	fmt.Println("smtp://" + l.Addr().String())
	err = serveHTTP(ctx, c.Listen, s.Handler(), func() {})
	err = errors.Join(err, mail.Close())
	if serveErr := <-done; !errors.Is(serveErr, smtp.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

type envCmd struct{}

func (envCmd) Run() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VARIABLE\tACCEPTS\tDEFAULT")
	for _, v := range append(append([]kit.Variable(nil), shop.Variables...), kit.Variables()...) {
		if v.Name == "NAPKIN_TRUST_DOMAIN" {
			v.Default = shop.DevDomain
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", v.Name, v.Accepts, v.Default)
	}
	fmt.Fprintln(w, "OTEL_*\tas OpenTelemetry specifies\t")
	fmt.Fprintf(w, "\nEach may be prefixed with a service's name (%s_DATABASE_URL), and then holds for that service alone.\n", strings.ToUpper("order"))
	return w.Flush()
}
