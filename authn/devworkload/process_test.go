package devworkload_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn/devworkload"
	source "github.com/napkin-kit/napkin/authn/workload"
)

// issuerEnv makes the test binary an issuer process instead, with its value
// the socket directory.
const issuerEnv = "DEVWORKLOAD_TEST_ISSUER"

var nine = []string{"gateway", "auth", "user", "catalog", "cart", "order", "payment", "inventory", "notification"}

func nineIDs() []spiffeid.ID {
	ids := make([]spiffeid.ID, len(nine))
	for n, name := range nine {
		ids[n] = spiffeid.RequireFromString("spiffe://shop.test/" + name)
	}
	return ids
}

// runIssuerProcess serves nine identities until its standard input ends.
func runIssuerProcess() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir := os.Getenv(issuerEnv)
	i, err := devworkload.New("shop.test", &devworkload.Config{Dir: dir + "/ca", TTL: time.Minute})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := i.ListenAll(ctx, dir, nineIDs()...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := i.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// issuerProcess is started, and killed at the end of the test if it still runs.
func issuerProcess(t *testing.T, dir string) (kill func(), stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), issuerEnv+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func(how func() error) func() {
		return func() {
			if !ended {
				ended = true
				_ = how()
				_ = cmd.Wait()
			}
		}
	}
	t.Cleanup(end(cmd.Process.Kill))
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		t.Fatalf("the issuer process said %q (%v)", line, err)
	}
	return end(cmd.Process.Kill), end(stdin.Close)
}

func TestAProcessOfItsOwnServesNineIdentities(t *testing.T) {
	dir := shortDir(t)
	kill, _ := issuerProcess(t, dir)

	sources := map[spiffeid.ID]*source.Source{}
	for _, id := range nineIDs() {
		addr, err := devworkload.SocketAddr(dir, id)
		if err != nil {
			t.Fatal(err)
		}
		sources[id] = connect(t, addr, id)
	}
	for _, to := range sources {
		for _, from := range sources {
			if err := handshake(t, from, to); err != nil {
				t.Errorf("%s to %s: %v", from.ID(), to.ID(), err)
			}
		}
	}

	// kill -9: everyone keeps what they have, and finds the next one.
	order := sources[order]
	before := leaf(t, order)
	kill()
	if err := handshake(t, order, sources[payment]); err != nil {
		t.Errorf("without an issuer: %v", err)
	}
	_, stop := issuerProcess(t, dir)
	until(t, order, "an SVID of the restarted process", func() bool { return !leaf(t, order).Equal(before) })
	if err := handshake(t, order, sources[payment]); err != nil {
		t.Errorf("new SVID to old SVID: %v", err)
	}
	stop()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "ca" {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
