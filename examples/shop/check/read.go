package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/auth"
	"github.com/napkin-kit/napkin/examples/shop/cart"
	"github.com/napkin-kit/napkin/examples/shop/catalog"
	"github.com/napkin-kit/napkin/examples/shop/inventory"
	"github.com/napkin-kit/napkin/examples/shop/notification"
	"github.com/napkin-kit/napkin/examples/shop/order"
	"github.com/napkin-kit/napkin/examples/shop/payment"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/examples/shop/user"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Sources say where the facts are. Databases are opened by the caller, one for each stateful service.
type Sources struct {
	Databases map[string]*sqldb.DB
	Ledger    func(context.Context) ([]provider.Account, error)
	Messages  func(context.Context) ([]sink.Message, error)
	// Pending asks the broker; nil where it cannot be asked.
	Pending func(context.Context) (map[string]int, error)
}

// Read collects the facts, but for the events. They are read one after another, so they fit together only once nothing moves.
func (s Sources) Read(ctx context.Context) (Facts, error) {
	var f Facts
	var errs []error
	errs = append(errs,
		audit(ctx, s, auth.Name, auth.Audit, &f.Auth),
		audit(ctx, s, user.Name, user.Audit, &f.User),
		audit(ctx, s, catalog.Name, catalog.Audit, &f.Catalog),
		audit(ctx, s, cart.Name, cart.Audit, &f.Cart),
		audit(ctx, s, order.Name, order.Audit, &f.Order),
		audit(ctx, s, payment.Name, payment.Audit, &f.Payment),
		audit(ctx, s, inventory.Name, inventory.Audit, &f.Inventory),
		audit(ctx, s, notification.Name, notification.Audit, &f.Notification),
	)
	var err error
	if f.Provider, err = s.Ledger(ctx); err != nil {
		errs = append(errs, fmt.Errorf("the provider's ledger: %w", err))
	}
	if f.Messages, err = s.Messages(ctx); err != nil {
		errs = append(errs, fmt.Errorf("the sink's messages: %w", err))
	}
	if s.Pending != nil {
		if f.Pending, err = s.Pending(ctx); err != nil {
			errs = append(errs, fmt.Errorf("the broker's consumers: %w", err))
		}
	}
	return f, errors.Join(errs...)
}

// readEvents reads every outbox and inbox. The inboxes come first, so that an event in one of them is in its
// outbox too.
func (s Sources) readEvents(ctx context.Context, f *Facts) error {
	f.Handled = map[string]map[string]int64{}
	var err error
	for _, name := range []string{user.Name, catalog.Name, cart.Name, order.Name, payment.Name, inventory.Name, notification.Name} {
		if db := s.Databases[name]; db != nil {
			if f.Handled[name], err = readHandled(ctx, db, name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for _, name := range []string{auth.Name, user.Name, catalog.Name, order.Name, payment.Name, inventory.Name} {
		db := s.Databases[name]
		if db == nil {
			continue
		}
		sent, err := readSent(ctx, db)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		f.Sent = append(f.Sent, sent...)
		backlog, err := outbox.ReadBacklog(ctx, db)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		f.Trimmed = f.Trimmed || !backlog.Trimmed.IsZero()
	}
	return nil
}

func audit[F any](ctx context.Context, s Sources, name string, read func(context.Context, *sqldb.DB) (F, error), into *F) error {
	db := s.Databases[name]
	if db == nil {
		return fmt.Errorf("%s: no database", name)
	}
	facts, err := read(ctx, db)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	*into = facts
	return nil
}

// Settled reads and compares until nothing is under way and nothing is breached, or until wait has passed;
// then it returns what it saw last. The events, of which there may be many, are read last of all.
func (s Sources) Settled(ctx context.Context, wait time.Duration) (Report, error) {
	deadline := time.Now().Add(wait)
	for {
		over := !time.Now().Before(deadline)
		f, err := s.Read(ctx)
		r := Compare(f)
		settled := err == nil && r.Quiescent() && r.Breaches() == 0
		if settled || err == nil && over {
			err = s.readEvents(ctx, &f)
			r = Compare(f)
			settled = settled && err == nil && r.Breaches() == 0
		}
		if settled || over {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// RemoteLedger reads the ledger of a provider in another process.
func RemoteLedger(base, key string) func(context.Context) ([]provider.Account, error) {
	return func(ctx context.Context) ([]provider.Account, error) {
		var out provider.LedgerResponse
		err := getJSON(ctx, base+"/v1/ledger", "Bearer "+key, &out)
		return out.Accounts, err
	}
}

// RemoteMessages reads the messages of a sink in another process.
func RemoteMessages(base string) func(context.Context) ([]sink.Message, error) {
	return pages(func(ctx context.Context, after int64) ([]sink.Message, error) {
		var out struct {
			Messages []sink.Message `json:"messages"`
		}
		err := getJSON(ctx, base+"/messages?"+url.Values{"after": {fmt.Sprint(after)}}.Encode(), "", &out)
		return out.Messages, err
	})
}

// LocalMessages reads the messages of a sink on this machine.
func LocalMessages(s *sink.Sink) func(context.Context) ([]sink.Message, error) {
	return pages(func(ctx context.Context, after int64) ([]sink.Message, error) {
		return s.Messages(ctx, "", "", "", after)
	})
}

func pages(next func(context.Context, int64) ([]sink.Message, error)) func(context.Context) ([]sink.Message, error) {
	return func(ctx context.Context) ([]sink.Message, error) {
		var all []sink.Message
		for after := int64(0); ; {
			page, err := next(ctx, after)
			if err != nil || len(page) == 0 {
				return all, err
			}
			all = append(all, page...)
			after = page[len(page)-1].Seq
		}
	}
}

func getJSON(ctx context.Context, u, authorization string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", u, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
