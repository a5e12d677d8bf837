// Command napkin is the toolkit's hand on a service that uses it: contracts between services, stored
// events, and migrations.
//
// # Exit codes
//
// 0: all is well. 1: the command did its work and found something wrong, such as a breaking change or a
// contract that does not hold. 2: wrong usage, or the command could not do its work.
//
// Errors are one line on standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli has one struct per group of commands, each in its own file.
type cli struct {
	Contract contractCmd `cmd:"" help:"Contracts with other teams: Pact verification, the Pact Broker, breaking changes."`
	Events   eventsCmd   `cmd:"" help:"Events that were given up, refused, or not published yet."`
	Migrate  migrateCmd  `cmd:"" help:"The tables of Napkin's packages, and a service's own, in its database."`
	Version  versionCmd  `cmd:"" help:"Print the version of this program."`
}

// errFound is for commands that worked and found something wrong: it ends the program with 1.
var errFound = errors.New("found something wrong")

// found makes the one-line verdict of such a command.
func found(format string, args ...any) error {
	return &verdict{fmt.Sprintf(format, args...)}
}

type verdict struct{ text string }

func (v *verdict) Error() string        { return v.text }
func (v *verdict) Is(target error) bool { return target == errFound }

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) == 1 && args[0] == "--version" { // as every program has it; below it, --version is that of a service
		args = []string{"version"}
	}
	k := kong.Must(&cli{}, kong.Name("napkin"),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Description("Contracts, stored events and migrations of services that use Napkin."))
	parsed, err := k.Parse(args)
	if err == nil {
		err = parsed.Run()
	}
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintln(os.Stderr, "napkin:", oneLine(err.Error()))
	if errors.Is(err, errFound) {
		return 1
	}
	return 2
}

// oneLine keeps an error on one line, whatever the parts it was made from brought along.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return strings.Join(lines, "; ")
}

type versionCmd struct{}

func (versionCmd) Run() error {
	_, err := fmt.Println(version())
	return err
}

// version is what the module system says this program was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}
