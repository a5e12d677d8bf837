// Command shop runs the example store: all of it in one process, or any of its services alone.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/examples/shop/client"
)

var cli struct {
	Run      runCmd      `cmd:"" default:"withargs" help:"Run the whole store in this process, or the named services configured by the environment."`
	Token    tokenCmd    `cmd:"" help:"Sign in to a running store and print an access token."`
	Check    checkCmd    `cmd:"" help:"Read every service's database and the outsiders' ledgers, and report the store's invariants."`
	Issuer   issuerCmd   `cmd:"" help:"Run the development SPIFFE issuer: one Workload API socket per service."`
	Provider providerCmd `cmd:"" help:"Run the payment provider's simulator."`
	Sink     sinkCmd     `cmd:"" help:"Run the mail, SMS and push sink."`
	Env      envCmd      `cmd:"" help:"List the environment variables that services read."`
}

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k := kong.Parse(&cli, kong.Name("shop"), kong.UsageOnError(), kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Description("A complete store on Napkin: "+strings.Join(shop.Names(), ", ")+"."))
	if err := k.Run(); err != nil && !errors.Is(err, context.Canceled) {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintln(os.Stderr, "shop:", line)
		}
		if errors.Is(err, errLate) {
			return 2
		}
		return 1
	}
	return 0
}

type runCmd struct {
	Services  string `arg:"" optional:"" help:"Services to run alone, comma separated, configured by the environment (shop env lists the variables). Left out: all, in this process."`
	Data      string `default:"shop-data" help:"Directory that keeps the state."`
	Ephemeral bool   `help:"Keep the state in a temporary directory and remove it at the end."`
	Listen    string `default:"localhost:8080" help:"Address of the store."`
	Console   string `default:"localhost:8081" help:"Address of the operators' console."`
	FullSync  bool   `help:"Make every commit wait for the disk, so that a power cut loses nothing either."`
	Demo      bool   `help:"With named services: allow demo accounts, the development issuer and the provider's simulator."`
	Logs      string `placeholder:"PATH" help:"File that receives the log, - for standard error. Defaults to shop.log in the data directory. Named services log to standard error."`
	Verbose   bool   `short:"v" help:"Log at debug level."`

	ProviderURL string `help:"Payment provider; left out, its simulator runs in this process."`
	ProviderKey string `help:"The payment provider's API key."`
	SMTPAddr    string `help:"Mail server; left out, a sink runs in this process."`
	MessagesURL string `help:"SMS and push gateway; left out, a sink runs in this process."`
}

func (c *runCmd) Run(ctx context.Context) error {
	level := slog.LevelInfo
	if c.Verbose {
		level = slog.LevelDebug
	}
	if c.Services != "" {
		logDefault(os.Stderr, level)
		return shop.RunServices(ctx, c.Services, os.Getenv, c.Demo, os.Stderr, level)
	}
	started := time.Now()
	fmt.Println("Napkin shop: starting nine services in one process")
	logs, err := c.openLog()
	if err != nil {
		return err
	}
	defer logs.Close()
	logDefault(logs, level)
	data := c.Data
	if c.Ephemeral {
		data = ""
	}
	store, err := shop.Open(ctx, shop.Options{
		Data: data, Listen: c.Listen, Console: c.Console, FullSync: c.FullSync,
		ProviderURL: c.ProviderURL, ProviderKey: c.ProviderKey, SMTPAddr: c.SMTPAddr, MessagesURL: c.MessagesURL,
		Progress: indent{os.Stdout}, Logs: logs, Level: level,
	})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		err := store.Run(running)
		stop() // it may have ended by itself
		done <- err
	}()
	if err := store.Wait(running); err != nil {
		stop()
		return errors.Join(err, <-done)
	}
	fmt.Printf("\n  store    %s\n  console  %s\n", store.PublicURL(), store.ConsoleURL())
	for _, a := range store.Accounts() {
		fmt.Printf("  %-8s %s  password %s\n", a.What, a.Email, a.Password)
	}
	fmt.Printf("\nready in %.1f s; Ctrl-C drains and stops\n", time.Since(started).Seconds())
	err = <-done
	fmt.Println("stopped")
	return err
}

// logDefault gives libraries that know only the process's default logger the same place.
func logDefault(w io.Writer, level slog.Level) {
	slog.SetDefault(slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})))
}

// openLog opens the log: a file in the data directory, unless another place is named.
func (c *runCmd) openLog() (io.WriteCloser, error) {
	path := c.Logs
	switch {
	case path == "-":
		return nopCloser{os.Stderr}, nil // errors are printed there after the log is closed
	case path == "" && c.Ephemeral:
		return nopCloser{io.Discard}, nil
	case path == "":
		if err := os.MkdirAll(c.Data, 0o700); err != nil {
			return nil, fmt.Errorf("data directory: %w; name another one with --data", err)
		}
		path = filepath.Join(c.Data, "shop.log")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log file: %w; name another one with --logs", err)
	}
	return f, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// indent sets the lines of progress apart from what matters.
type indent struct{ w io.Writer }

func (i indent) Write(b []byte) (int, error) {
	_, err := i.w.Write(append([]byte("  … "), b...))
	return len(b), err
}

type tokenCmd struct {
	User     string   `default:"demo@shop.test" help:"E-mail of the account."`
	Password string   `env:"SHOP_PASSWORD" help:"Its password; left out, the demo account's."`
	URL      string   `default:"http://localhost:8080" help:"The store."`
	Scope    []string `help:"Scopes to ask for beside a customer's, such as shop:admin for an operator."`
}

func (c *tokenCmd) Run(ctx context.Context) error {
	password := c.Password
	if password == "" {
		for _, a := range shop.DemoAccounts() {
			if a.Email == c.User {
				password = a.Password
			}
		}
	}
	if password == "" {
		return fmt.Errorf("no password for %s: give --password or SHOP_PASSWORD", c.User)
	}
	scopes := append(append([]string(nil), client.CustomerScopes...), c.Scope...)
	signed, err := client.SignIn(ctx, c.URL, c.User, password, scopes...)
	if err != nil {
		return err
	}
	t, err := signed.Token()
	if err != nil {
		return err
	}
	fmt.Println(t.AccessToken)
	return nil
}
