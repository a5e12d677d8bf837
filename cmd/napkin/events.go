package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// eventsCmd is `napkin events`: what an operator does about events that were given up or refused, in the database
// of the service that they concern. A running service notices within seconds.
type eventsCmd struct {
	Database string `required:"" short:"d" env:"NAPKIN_DATABASE" placeholder:"URL" help:"The service's database: a postgres:// URL, or the path of a SQLite file."`
	JSON     bool   `help:"Print JSON instead of text."`

	List    eventsListCmd    `cmd:"" help:"List dead letters and the events parked behind them."`
	Show    eventsShowCmd    `cmd:"" help:"Show one of them: its cause, the attempts at it, its data."`
	Redrive eventsRedriveCmd `cmd:"" help:"Have dead letters handled again, and then what is parked behind them, in order."`
	Drop    eventsDropCmd    `cmd:"" help:"Give events up for good; what is parked behind a dead letter is handled, in order."`
	Backlog eventsBacklogCmd `cmd:"" help:"Say what the outbox still has to publish."`
	Stalled eventsStalledCmd `cmd:"" help:"List the events that the broker refused, and those behind them."`
	Discard eventsDiscardCmd `cmd:"" help:"Give refused events up for good; those behind them are published."`
}

// do opens the database and calls f; what f returns is printed as JSON where that is wanted, else by text.
func (c *eventsCmd) do(ctx context.Context, f func(ctx context.Context, db *sqldb.DB) (result any, text func(io.Writer), err error)) error {
	db, err := openDatabase(ctx, c.Database)
	if err != nil {
		return err
	}
	defer db.Close()
	result, text, err := f(ctx, db)
	if sqldb.IsNoTable(err) {
		return fmt.Errorf("the database has no tables of an inbox or outbox; is it the service's, and are its migrations applied? %w", err)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	text(os.Stdout)
	return nil
}

// openDatabase opens a PostgreSQL URL or a SQLite file that exists.
func openDatabase(ctx context.Context, database string) (*sqldb.DB, error) {
	if strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://") {
		return pgxdb.Open(ctx, database, &pgxdb.Config{MaxConns: 2})
	}
	if info, err := os.Stat(database); err != nil {
		return nil, fmt.Errorf("--database is neither a postgres:// URL nor a file: %w", err)
	} else if info.IsDir() {
		return nil, fmt.Errorf("--database %s is a folder; name the file in it", database)
	}
	return sqlitedb.Open(ctx, database, nil)
}

// letter is a dead letter as JSON. Data is base64 there.
type letter struct {
	ID         int64             `json:"id"`
	Consumer   string            `json:"consumer"`
	State      inbox.State       `json:"state"`
	Topic      string            `json:"topic"`
	Key        string            `json:"key"`
	EventID    string            `json:"event_id"`
	Type       string            `json:"type"`
	Cause      string            `json:"cause,omitempty"`
	Attempts   int               `json:"attempts"`
	Since      time.Time         `json:"since"`
	History    []inbox.Failure   `json:"history,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Data       []byte            `json:"data,omitempty"`
}

func toLetter(l inbox.DeadLetter, whole bool) letter {
	x := letter{ID: l.ID, Consumer: l.Consumer, State: l.State, Topic: l.Event.Topic, Key: l.Event.Key, EventID: l.Event.ID, Type: l.Event.Type,
		Cause: l.Cause, Attempts: l.Attempts, Since: l.Created}
	if whole {
		x.History, x.Attributes, x.Data = l.History, l.Event.Attributes(), l.Event.Data
	}
	return x
}

type eventsListCmd struct {
	Consumer string `help:"Only this consumer's."`
}

func (c *eventsListCmd) Run(ctx context.Context, p *cli) error {
	return p.Events.do(ctx, func(ctx context.Context, db *sqldb.DB) (any, func(io.Writer), error) {
		letters, err := inbox.ReadDeadLetters(ctx, db, c.Consumer)
		out := make([]letter, 0, len(letters))
		for _, l := range letters {
			out = append(out, toLetter(l, false))
		}
		return out, func(w io.Writer) {
			table(w, "ID\tSTATE\tCONSUMER\tTOPIC\tKEY\tTYPE\tATTEMPTS\tSINCE\tCAUSE", len(out), func(i int) []any {
				l := out[i]
				return []any{l.ID, l.State, l.Consumer, l.Topic, l.Key, l.Type, l.Attempts, l.Since.Format(time.RFC3339), short(l.Cause)}
			})
		}, err
	})
}

type eventsShowCmd struct {
	ID int64 `arg:"" help:"As list prints it."`
}

func (c *eventsShowCmd) Run(ctx context.Context, p *cli) error {
	return p.Events.do(ctx, func(ctx context.Context, db *sqldb.DB) (any, func(io.Writer), error) {
		d, err := inbox.ReadDeadLetter(ctx, db, c.ID)
		if errors.Is(err, inbox.ErrNotDead) {
			err = fmt.Errorf("there is no dead letter or parked event with id %d", c.ID)
		}
		l := toLetter(d, true)
		return l, func(w io.Writer) {
			fmt.Fprintf(w, "%d is %s since %s\nconsumer   %s\ntopic      %s\nkey        %s\nattempts   %d\n", l.ID, l.State, l.Since.Format(time.RFC3339), l.Consumer, l.Topic, l.Key, l.Attempts)
			if l.Cause != "" {
				fmt.Fprintf(w, "cause      %s\n", oneLine(l.Cause))
			}
			for _, f := range l.History {
				fmt.Fprintf(w, "  %s  %s\n", f.At.Format(time.RFC3339), oneLine(f.Cause))
			}
			fmt.Fprintln(w, "attributes")
			for _, n := range slices.Sorted(maps.Keys(l.Attributes)) {
				fmt.Fprintf(w, "  %s: %q\n", n, l.Attributes[n])
			}
			fmt.Fprintf(w, "data       %d bytes; --json has them\n", len(l.Data))
		}, err
	})
}

type eventsRedriveCmd struct {
	IDs []int64 `arg:"" name:"id" help:"Dead letters, as list prints them."`
}

func (c *eventsRedriveCmd) Run(ctx context.Context, p *cli) error {
	return p.Events.act(ctx, c.IDs, "will be handled again", inbox.Redrive)
}

type eventsDropCmd struct {
	IDs []int64 `arg:"" name:"id" help:"Dead letters or parked events, as list prints them."`
}

func (c *eventsDropCmd) Run(ctx context.Context, p *cli) error {
	return p.Events.act(ctx, c.IDs, "is dropped", inbox.Drop)
}

type eventsDiscardCmd struct {
	Rows []int64 `arg:"" name:"row" help:"Refused events, as stalled prints them."`
}

func (c *eventsDiscardCmd) Run(ctx context.Context, p *cli) error {
	return p.Events.act(ctx, c.Rows, "is discarded", outbox.DiscardStalled)
}

// act applies f to each id and goes on behind one that fails.
func (c *eventsCmd) act(ctx context.Context, ids []int64, what string, f func(context.Context, *sqldb.DB, int64) error) error {
	var errs []error
	err := c.do(ctx, func(ctx context.Context, db *sqldb.DB) (any, func(io.Writer), error) {
		done := []int64{}
		for _, id := range ids {
			if err := f(ctx, db, id); sqldb.IsNoTable(err) {
				return nil, nil, err
			} else if err != nil {
				errs = append(errs, err)
				continue
			}
			done = append(done, id)
		}
		return done, func(w io.Writer) {
			for _, id := range done {
				fmt.Fprintln(w, id, what)
			}
		}, nil
	})
	return errors.Join(append([]error{err}, errs...)...)
}

type eventsBacklogCmd struct{}

func (*eventsBacklogCmd) Run(ctx context.Context, p *cli) error {
	return p.Events.do(ctx, func(ctx context.Context, db *sqldb.DB) (any, func(io.Writer), error) {
		b, err := outbox.ReadBacklog(ctx, db)
		return b, func(w io.Writer) {
			fmt.Fprintf(w, "unpublished  %d\nstalled      %d\nopen holes   %d\n", b.Unpublished, b.Stalled, b.OpenHoles)
			if !b.Oldest.IsZero() {
				fmt.Fprintf(w, "oldest       %s\n", b.Oldest.Format(time.RFC3339))
			}
		}, err
	})
}

type eventsStalledCmd struct {
	Limit int `default:"100" help:"At most so many."`
}

func (c *eventsStalledCmd) Run(ctx context.Context, p *cli) error {
	return p.Events.do(ctx, func(ctx context.Context, db *sqldb.DB) (any, func(io.Writer), error) {
		out, err := outbox.ReadStalled(ctx, db, c.Limit)
		if out == nil {
			out = []outbox.StalledEvent{}
		}
		return out, func(w io.Writer) {
			table(w, "ROW\tTOPIC\tKEY\tTYPE\tEVENT\tATTEMPTS\tCAUSE", len(out), func(i int) []any {
				s := out[i]
				return []any{s.RowID, s.Topic, s.Key, s.Type, s.EventID, s.Attempts, short(s.Cause)}
			})
		}, err
	})
}

// table prints rows under a heading, or that there are none.
func table(w io.Writer, heading string, n int, row func(i int) []any) {
	if n == 0 {
		fmt.Fprintln(w, "none")
		return
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, heading)
	for i := range n {
		cells := row(i)
		text := make([]string, len(cells))
		for j, c := range cells {
			text[j] = fmt.Sprint(c)
		}
		fmt.Fprintln(t, strings.Join(text, "\t"))
	}
	_ = t.Flush() // standard output: nobody could be told
}

// short makes a cause fit a table's row.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 100 {
		return string(r[:100]) + "…"
	}
	return s
}
