package shop

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/napkin-kit/napkin/examples/shop/auth"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// DemoAccounts are the accounts of a demo, which everybody may know.
func DemoAccounts() []Account {
	var out []Account
	for _, a := range auth.DemoAccounts() {
		what := "customer"
		if a.Operator {
			what = "operator"
		}
		out = append(out, Account{Email: a.Email, Password: a.Password, What: what})
	}
	return out
}

// startSimulators runs the outside world of a store on its own: the payment provider and the mail, SMS and
// push sink. Each keeps its own database and is reached over loopback, as in processes of their own.
func startSimulators(ctx context.Context, env *environment, o Options, data *dataDir) error {
	env.providerURL, env.providerKey = o.ProviderURL, o.ProviderKey
	env.smtpAddr, env.messagesURL = o.SMTPAddr, o.MessagesURL
	if env.providerURL == "" {
		db, err := sqlitedb.Open(ctx, data.file("provider.db"), nil)
		if err != nil {
			return err
		}
		env.onClose(db.Close)
		env.providerKey = rand.Text()
		sim, err := provider.New(ctx, provider.Config{DB: db, Key: env.providerKey, Logger: env.log})
		if err != nil {
			return err
		}
		if env.providerURL, err = serveLoopback(ctx, env, sim.Handler(), sim.Close); err != nil {
			return err
		}
	}
	if env.smtpAddr != "" && env.messagesURL != "" {
		return nil
	}
	db, err := sqlitedb.Open(ctx, data.file("sink.db"), nil)
	if err != nil {
		return err
	}
	env.onClose(db.Close)
	s, err := sink.New(ctx, db, nil)
	if err != nil {
		return err
	}
	if env.smtpAddr == "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		env.smtpAddr = l.Addr().String()
		srv := s.SMTP()
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		env.onClose(func() error {
			err := srv.Close()
			if serveErr := <-done; !errors.Is(serveErr, smtp.ErrServerClosed) {
				err = errors.Join(err, serveErr)
			}
			return err
		})
	}
	if env.messagesURL == "" {
		env.messagesURL, err = serveLoopback(ctx, env, s.Handler(), func() {})
	}
	return err
}

// serveLoopback serves h on a free loopback port until the environment is closed. release lets go of
// requests that would keep it waiting.
func serveLoopback(ctx context.Context, env *environment, h http.Handler, release func()) (url string, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	env.onClose(func() error {
		release()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err := srv.Shutdown(stop)
		if serveErr := <-done; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
		return err
	})
	return "http://" + l.Addr().String(), nil
}
