package devworkload_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn/devworkload"
	source "github.com/napkin-kit/napkin/authn/workload"
)

var (
	order   = spiffeid.RequireFromString("spiffe://shop.test/order")
	payment = spiffeid.RequireFromString("spiffe://shop.test/payment")
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newIssuer(t testing.TB, cfg devworkload.Config) *devworkload.Issuer {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet()
	}
	i, err := devworkload.New("shop.test", &cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

// shortDir is for sockets: t.TempDir's names are too long for them.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dw-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func listen(t testing.TB, i *devworkload.Issuer, id spiffeid.ID, dir string) string {
	t.Helper()
	addr, err := i.Listen(t.Context(), id, dir)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func connect(t testing.TB, addr string, id spiffeid.ID) *source.Source {
	t.Helper()
	s, err := source.Connect(t.Context(), addr, id, &source.Config{Timeout: 10 * time.Second, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func leaf(t testing.TB, s *source.Source) *x509.Certificate {
	t.Helper()
	svid, err := s.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	return svid.Certificates[0]
}

// until waits for an update of s after which ok holds.
func until(t testing.TB, s *source.Source, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		updated := s.Updated()
		if ok() {
			return
		}
		select {
		case <-updated:
		case <-deadline:
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

func TestASocketGivesItsOneIdentity(t *testing.T) {
	i := newIssuer(t, devworkload.Config{})
	orderAddr, paymentAddr := listen(t, i, order, ""), listen(t, i, payment, "")
	for addr, id := range map[string]spiffeid.ID{orderAddr: order, paymentAddr: payment} {
		s := connect(t, addr, id)
		svid, err := s.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		if svid.ID != id || s.ID() != id {
			t.Errorf("%s gives %s, want %s", addr, svid.ID, id)
		}
		if err := s.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		bundle, err := s.GetX509BundleForTrustDomain(i.TrustDomain())
		if err != nil || len(bundle.X509Authorities()) != 1 {
			t.Errorf("bundle: %v, %v", bundle, err)
		}
	}

	_, err := source.Connect(t.Context(), orderAddr, payment, &source.Config{Timeout: 300 * time.Millisecond, Logger: quiet()})
	if err == nil || !strings.Contains(err.Error(), "offers "+order.String()+", not "+payment.String()) {
		t.Errorf("payment at order's socket: %v", err)
	}
}

func TestConnectSaysWhatIsWrong(t *testing.T) {
	t.Setenv(workloadapi.SocketEnv, "")
	_ = os.Unsetenv(workloadapi.SocketEnv) // t.Setenv restores it
	short := &source.Config{Timeout: 200 * time.Millisecond, Logger: quiet()}
	for name, c := range map[string]struct {
		socket string
		id     spiffeid.ID
		want   string
	}{
		"no socket":      {"", order, workloadapi.SocketEnv},
		"not an address": {"/run/agent.sock", order, "scheme"},
		"no identity":    {"unix:///run/agent.sock", spiffeid.ID{}, "name the SPIFFE ID"},
		"nobody there":   {"unix:///nonexistent/agent.sock", order, "no SVID for " + order.String()},
	} {
		_, err := source.Connect(t.Context(), c.socket, c.id, short)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.want)
		}
	}
}

func TestConnectWaitsForAnIssuerThatStartsLater(t *testing.T) {
	dir := shortDir(t)
	addr, err := devworkload.SocketAddr(dir, order)
	if err != nil {
		t.Fatal(err)
	}
	i := newIssuer(t, devworkload.Config{})
	started := make(chan error, 1)
	timer := time.AfterFunc(200*time.Millisecond, func() {
		_, err := i.Listen(context.Background(), order, dir)
		started <- err
	})
	defer timer.Stop()
	connect(t, addr, order)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
}

// An authority kept in a directory outlives its process: services that kept
// running find the new one by itself and go on trusting each other.
func TestARestartedIssuerIsTheSameAuthority(t *testing.T) {
	dir, sockets := t.TempDir(), shortDir(t)
	first := newIssuer(t, devworkload.Config{Dir: dir})
	s := connect(t, listen(t, first, order, sockets), order)
	before := leaf(t, s)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetX509SVID(); err != nil {
		t.Errorf("without an issuer: %v", err)
	}

	second := newIssuer(t, devworkload.Config{Dir: dir})
	listen(t, second, order, sockets)
	until(t, s, "an SVID of the restarted issuer", func() bool { return !leaf(t, s).Equal(before) })
	bundle, err := s.GetX509BundleForTrustDomain(second.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	for _, r := range bundle.X509Authorities() {
		roots.AddCert(r)
	}
	if _, err := before.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Errorf("the restarted issuer does not vouch for its earlier SVIDs: %v", err)
	}

	info, err := os.Stat(filepath.Join(dir, "authority.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the kept authority: %v, %v", info.Mode(), err)
	}
}

func TestARotatedAuthorityIsKept(t *testing.T) {
	dir := t.TempDir()
	first := newIssuer(t, devworkload.Config{Dir: dir, CAOverlap: time.Nanosecond})
	s := connect(t, listen(t, first, order, ""), order)
	old := leaf(t, s)
	if err := first.RotateCA(); err != nil {
		t.Fatal(err)
	}
	until(t, s, "an SVID of the new authority", func() bool {
		return leaf(t, s).Issuer.SerialNumber != old.Issuer.SerialNumber
	})
	signer := leaf(t, s).Issuer.SerialNumber
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	second := newIssuer(t, devworkload.Config{Dir: dir})
	again := connect(t, listen(t, second, order, ""), order)
	if got := leaf(t, again).Issuer.SerialNumber; got != signer {
		t.Errorf("signed by %s after the restart, by %s before", got, signer)
	}
	bundle, err := again.GetX509BundleForTrustDomain(second.TrustDomain())
	if err != nil || len(bundle.X509Authorities()) != 2 {
		t.Errorf("the first authority is to be trusted still: %v, %v", bundle, err)
	}
}

func TestIssuersThatStartAtOnceShareTheAuthority(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			i, err := devworkload.New("shop.test", &devworkload.Config{Dir: dir, Logger: quiet()})
			if err != nil {
				t.Error(err)
				return
			}
			_ = i.Close()
		})
	}
	wg.Wait()
	kept, err := os.ReadFile(filepath.Join(dir, "authority.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(kept, []byte("BEGIN CERTIFICATE")); n != 1 {
		t.Errorf("%d authorities are kept, want 1", n)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestNewRefuses(t *testing.T) {
	ofAnother := t.TempDir()
	if i, err := devworkload.New("elsewhere.test", &devworkload.Config{Dir: ofAnother, Logger: quiet()}); err != nil {
		t.Fatal(err)
	} else if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "authority.pem"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		domain string
		cfg    devworkload.Config
		want   string
	}{
		"a bad name":              {"Shop Test", devworkload.Config{}, "trust domain"},
		"a TTL of nothing":        {"shop.test", devworkload.Config{TTL: time.Millisecond}, "Config.TTL"},
		"a CA shorter than SVIDs": {"shop.test", devworkload.Config{TTL: time.Hour, CATTL: time.Minute}, "Config.CATTL"},
		"an overlap too long":     {"shop.test", devworkload.Config{CATTL: time.Hour * 8, CAOverlap: time.Hour * 3}, "Config.CAOverlap"},
		"another's authority":     {"shop.test", devworkload.Config{Dir: ofAnother}, "not an authority of trust domain shop.test"},
		"a broken file":           {"shop.test", devworkload.Config{Dir: broken}, "authority.pem"},
	} {
		c.cfg.Logger = quiet()
		i, err := devworkload.New(c.domain, &c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.want)
		}
		if i != nil {
			_ = i.Close()
		}
	}
}

func TestListenRefuses(t *testing.T) {
	i, other := newIssuer(t, devworkload.Config{}), newIssuer(t, devworkload.Config{})
	dir := shortDir(t)
	listen(t, i, order, dir)
	inTheWay := shortDir(t)
	addr, err := devworkload.SocketAddr(inTheWay, order)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(strings.TrimPrefix(addr, "unix://"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	closed := newIssuer(t, devworkload.Config{})
	_ = closed.Close()
	for name, c := range map[string]struct {
		i    *devworkload.Issuer
		id   spiffeid.ID
		dir  string
		want string
	}{
		"an identity of another domain":     {i, spiffeid.RequireFromString("spiffe://elsewhere.test/order"), dir, "not an identity of shop.test"},
		"the trust domain itself":           {i, i.TrustDomain().ID(), dir, "not an identity"},
		"the zero identity":                 {i, spiffeid.ID{}, dir, "not an identity"},
		"one that is served already":        {i, order, shortDir(t), "already being served"},
		"one that another process serves":   {other, order, dir, "another process serves"},
		"a directory with a long name":      {other, order, filepath.Join(dir, strings.Repeat("x", 90)), "choose a shorter directory"},
		"a file where the socket should be": {other, order, inTheWay, "not a socket"},
		"a closed issuer":                   {closed, order, dir, "closed"},
	} {
		if _, err := c.i.Listen(t.Context(), c.id, c.dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.want)
		}
	}
	connect(t, listen(t, other, payment, dir), payment) // the refusals left it in order
}

func TestSocketsAreForThisUserAlone(t *testing.T) {
	i := newIssuer(t, devworkload.Config{})
	path := strings.TrimPrefix(listen(t, i, order, filepath.Join(shortDir(t), "new")), "unix://")
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", p, info.Mode(), err, want)
		}
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("Close left the socket behind")
	}
}

func TestTheWorkloadAPIDemandsItsHeader(t *testing.T) {
	i := newIssuer(t, devworkload.Config{})
	conn, err := grpc.NewClient(listen(t, i, order, ""), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := workload.NewSpiffeWorkloadAPIClient(conn)
	s, err := api.FetchX509SVID(t.Context(), &workload.X509SVIDRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("stream: %v", err)
	}
	_, err = api.FetchJWTSVID(t.Context(), &workload.JWTSVIDRequest{Audience: []string{"x"}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("unary: %v", err)
	}
}

func TestTheRestOfTheWorkloadAPI(t *testing.T) {
	i := newIssuer(t, devworkload.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(listen(t, i, order, "")))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	bundles, err := client.FetchX509Bundles(ctx)
	if err != nil || !bundles.Has(i.TrustDomain()) {
		t.Errorf("X.509 bundles: %v, %v", bundles, err)
	}
	svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "payment", Subject: order})
	if err != nil || svid.ID != order {
		t.Fatalf("JWT-SVID: %v, %v", svid, err)
	}
	if _, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "payment", Subject: payment}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another's JWT-SVID: %v", err)
	}
	jwtBundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), jwtBundles, []string{"payment"}); err != nil {
		t.Errorf("the bundle does not verify the JWT-SVID: %v", err)
	}
	if v, err := client.ValidateJWTSVID(ctx, svid.Marshal(), "payment"); err != nil || v.ID != order {
		t.Errorf("ValidateJWTSVID: %v, %v", v, err)
	}
	if _, err := client.ValidateJWTSVID(ctx, svid.Marshal(), "bank"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("ValidateJWTSVID for another audience: %v", err)
	}
	if _, err := client.FetchWITSVIDs(ctx, ""); status.Code(err) != codes.Unimplemented {
		t.Errorf("WIT-SVID: %v", err)
	}
}
