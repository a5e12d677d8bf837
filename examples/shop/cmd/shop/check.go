package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	shop "github.com/napkin-kit/napkin/examples/shop"
)

type checkCmd struct {
	Data        string        `default:"shop-data" help:"Directory of a store in one process; it may be running."`
	External    bool          `help:"Check services that the environment configures, instead of a data directory."`
	Wait        time.Duration `help:"Wait this long until nothing is under way any more."`
	ProviderURL string        `help:"The payment provider, where it runs in a process of its own."`
	ProviderKey string        `env:"SHOP_PROVIDER_KEY" help:"Its API key."`
	MessagesURL string        `help:"The sink, where it runs in a process of its own."`
}

// errLate is for a store that is still at work: what looks like a breach may only be late.
var errLate = errors.New("still under way, so what is breached may only be late: --wait 30s waits until nothing is")

// Run exits with 0 where every line holds, 1 on a breach and where something is still under way at the end
// of the wait, 2 where it was not asked to wait and cannot tell yet.
func (c *checkCmd) Run(ctx context.Context) error {
	r, err := shop.Check(ctx, shop.CheckOptions{
		Data: c.Data, External: c.External, Wait: c.Wait,
		ProviderURL: c.ProviderURL, ProviderKey: c.ProviderKey, MessagesURL: c.MessagesURL,
	}, os.Getenv)
	if err != nil {
		return err
	}
	r.Print(os.Stdout)
	switch {
	case !r.Quiescent() && c.Wait > 0:
		return fmt.Errorf("still under way after %s", c.Wait)
	case !r.Quiescent() && r.Breaches() > 0:
		return errLate
	case r.Breaches() == 1:
		return errors.New("1 breach")
	case r.Breaches() > 1:
		return fmt.Errorf("%d breaches", r.Breaches())
	}
	return nil
}
