package pgxdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Listen returns a func that receives what is notified on a channel of the
// database that url names, on a connection of its own, until ctx ends; then it
// returns nil. It connects again where the connection is lost; notifications sent
// meanwhile are missed, so it calls notified with "" after every connection made
// again. An error says that url does not parse.
//
// LISTEN belongs to a session: url must not lead through a pooler that shares
// sessions between transactions. notified is called on one goroutine and should
// return at once.
func Listen(url string) func(ctx context.Context, channel string, notified func(payload string)) error {
	return func(ctx context.Context, channel string, notified func(payload string)) error {
		cfg, err := pgx.ParseConfig(url)
		if err != nil {
			return fmt.Errorf("pgxdb: the database URL does not parse: %w", err) // pgx masks the password
		}
		if cfg.ConnectTimeout == 0 {
			cfg.ConnectTimeout = 5 * time.Second
		}
		for again := false; ctx.Err() == nil; again = true {
			listen(ctx, cfg, channel, again, notified)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
		return nil
	}
}

// listen receives until ctx ends or the connection is lost.
func listen(ctx context.Context, cfg *pgx.ConnConfig, channel string, again bool, notified func(string)) {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return // the caller tries again
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // it holds nothing
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return
	}
	if again {
		notified("")
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return
		}
		notified(n.Payload)
	}
}
