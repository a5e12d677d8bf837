package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Wait returns once a running store is of use: every service says that it is ready, and, on a store's first
// start, the seeded catalogue is on the shelves. It reports progress on the way.
func (s *Store) Wait(ctx context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	for _, w := range s.services {
		if err := until(ctx, func() error {
			return getJSON(ctx, client, "http://"+w.svc.AdminAddr()+"/readyz", nil)
		}); err != nil {
			return fmt.Errorf("%s is not ready: %w", w.name, err)
		}
	}
	fmt.Fprintf(s.progress, "%d services are ready\n", len(s.services))
	// Catalogue and stock belong to two services; events carry what is new from one to the other and back.
	last, same := -1, 0
	err := until(ctx, func() error {
		var all, have struct{ Total int }
		base := s.env.publicURL + "/v1/products?page_size=1"
		if err := errors.Join(getJSON(ctx, client, base, &all), getJSON(ctx, client, base+"&in_stock=true", &have)); err != nil {
			return err
		}
		if have.Total == last {
			same++
		} else {
			last, same = have.Total, 0
		}
		if all.Total > 0 && (last == 0 || same < 3) {
			return fmt.Errorf("%d of %d products are on the shelves", last, all.Total)
		}
		fmt.Fprintf(s.progress, "%d products, %d of them in stock\n", all.Total, have.Total)
		return nil
	})
	if err != nil {
		return fmt.Errorf("the catalogue is not ready: %w", err)
	}
	return nil
}

// until tries until ok returns nil, for half a minute.
func until(ctx context.Context, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func getJSON(ctx context.Context, c *http.Client, url string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
