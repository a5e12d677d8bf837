package shop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/check"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// CheckOptions say which store is checked.
type CheckOptions struct {
	// Data is the directory of a store in one process, which may be running. External checks services
	// that are configured by the environment instead.
	Data     string
	External bool
	// ProviderURL, ProviderKey and MessagesURL name outsiders in processes of their own; left empty, a
	// store in one process has them in its data directory.
	ProviderURL, ProviderKey, MessagesURL string
	// Wait is how long to wait until nothing is under way.
	Wait time.Duration
}

// Check reports the store's invariants. It changes nothing.
func Check(ctx context.Context, o CheckOptions, getenv func(string) string) (_ check.Report, err error) {
	sources := check.Sources{Databases: map[string]*sqldb.DB{}}
	var closers []func() error
	defer func() {
		for _, c := range closers {
			err = errors.Join(err, c())
		}
	}()
	if o.External {
		o.ProviderURL, o.ProviderKey, o.MessagesURL = getenv("SHOP_PROVIDER_URL"), getenv("SHOP_PROVIDER_KEY"), getenv("SHOP_MESSAGES_URL")
		if o.ProviderURL == "" || o.MessagesURL == "" {
			return check.Report{}, errors.New("set SHOP_PROVIDER_URL, SHOP_PROVIDER_KEY and SHOP_MESSAGES_URL, as for the services")
		}
		nc, err := connectBroker(ctx, "check", getenv("NATS_URL"), nil, slog.New(slog.DiscardHandler))
		if err != nil {
			return check.Report{}, err
		}
		closers = append(closers, func() error { nc.Close(); return nil })
		broker, err := natsevents.Connect(ctx, nc, nil)
		if err != nil {
			return check.Report{}, err
		}
		closers = append(closers, broker.Close)
		sources.Pending = func(ctx context.Context) (map[string]int, error) {
			pending := map[string]int{}
			for _, s := range services {
				if !s.stateful {
					continue
				}
				n, err := broker.Pending(ctx, s.name)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", s.name, err)
				}
				pending[s.name] = n
			}
			return pending, nil
		}
	} else if _, err := os.Stat(filepath.Join(o.Data, "db")); err != nil {
		return check.Report{}, fmt.Errorf("no store in %s: name its directory with --data, or services configured by the environment with --external", o.Data)
	}
	for _, s := range services {
		if !s.stateful {
			continue
		}
		dsn := "sqlite:" + filepath.Join(o.Data, "db", s.name+".db")
		if o.External {
			dsn = forService(getenv, s.name)("DATABASE_URL")
		}
		db, err := openDatabase(ctx, dsn)
		if err != nil {
			return check.Report{}, fmt.Errorf("%s: %w", s.name, err)
		}
		closers = append(closers, db.Close)
		sources.Databases[s.name] = db
	}
	sources.Ledger = check.RemoteLedger(o.ProviderURL, o.ProviderKey)
	if o.ProviderURL == "" {
		db, err := sqlitedb.Open(ctx, filepath.Join(o.Data, "provider.db"), nil)
		if err != nil {
			return check.Report{}, err
		}
		closers = append(closers, db.Close)
		sim, err := provider.New(ctx, provider.Config{DB: db, Key: "unused", Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			return check.Report{}, err
		}
		sources.Ledger = sim.Ledger
	}
	sources.Messages = check.RemoteMessages(o.MessagesURL)
	if o.MessagesURL == "" {
		db, err := sqlitedb.Open(ctx, filepath.Join(o.Data, "sink.db"), nil)
		if err != nil {
			return check.Report{}, err
		}
		closers = append(closers, db.Close)
		s, err := sink.New(ctx, db, nil)
		if err != nil {
			return check.Report{}, err
		}
		sources.Messages = check.LocalMessages(s)
	}
	return sources.Settled(ctx, o.Wait)
}
