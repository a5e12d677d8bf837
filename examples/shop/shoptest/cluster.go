package shoptest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // to make the databases and their roles

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn/devworkload"
	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/internal/pgtest"
)

// Cluster is the store as one process per service, on one PostgreSQL server (a database and a role each),
// one nats-server, and the issuer, the payment provider and the mail sink as processes too.
type Cluster struct {
	URL, Console string
	Postgres     *pgtest.Server
	Out          *Outsiders
	Services     map[string]*Process
	NATS, Issuer *Process

	dir, shop, nats string
	natsAddr        string
	env             []string
	admin           map[string]string
	databases       map[string]string
	more            func(service string) []string
}

// StartCluster starts everything and waits until every service is ready. The test is skipped where
// PostgreSQL is not installed.
func StartCluster(t testing.TB, tags string) *Cluster {
	t.Helper()
	return StartClusterWith(t, tags, func(string) []string { return nil })
}

// StartClusterWith is StartCluster with more environment for each service.
func StartClusterWith(t testing.TB, tags string, env func(service string) []string) *Cluster {
	t.Helper()
	if _, err := pgtest.Find(); err != nil {
		if pgtest.Required("postgres") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "np") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &Cluster{
		dir: dir, shop: Build(t, tags), nats: BuildNATS(t),
		Services: map[string]*Process{}, admin: map[string]string{}, databases: map[string]string{},
		more: env,
	}
	pgAddr := FreeAddr(t)
	var port int
	if _, err := fmt.Sscanf(pgAddr, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	if c.Postgres, err = pgtest.Start("", port); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Postgres.Close() })
	c.makeDatabases(t, pgAddr)
	c.Out = StartOutsiders(t, c.shop, dir)
	c.natsAddr = FreeAddr(t)
	c.StartNATS(t)
	sockets := filepath.Join(dir, "s")
	c.Issuer = Start(t, Spec{Name: "issuer", Path: c.shop, Args: []string{"issuer", "--sockets", sockets, "--data", filepath.Join(dir, "ca")}})
	for _, name := range shop.Names() {
		c.Issuer.WaitOutput(t, name+"=", 20*time.Second)
	}
	c.configure(t)
	for _, name := range shop.Names() {
		c.StartService(t, name)
	}
	for _, name := range shop.Names() {
		c.Services[name].WaitReady(t, c.admin[name]+"/readyz", 60*time.Second)
	}
	return c
}

// makeDatabases gives each service a database that only its own role may enter.
func (c *Cluster) makeDatabases(t testing.TB, addr string) {
	t.Helper()
	admin, err := sql.Open("pgx", c.Postgres.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, name := range shop.Names() {
		if name == "gateway" {
			continue
		}
		role := "shop_" + name
		for _, q := range []string{
			`CREATE ROLE ` + role + ` LOGIN PASSWORD 'test'`,
			`CREATE DATABASE ` + role + ` OWNER ` + role,
			`REVOKE ALL ON DATABASE ` + role + ` FROM PUBLIC`,
		} {
			if _, err := admin.ExecContext(ctx, q); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
		c.databases[name] = fmt.Sprintf("postgres://%s:test@%s/%s?sslmode=disable", role, addr, role)
	}
}

// Database is the URL of a service's database, as its own role.
func (c *Cluster) Database(service string) string { return c.databases[service] }

// Foreign is the URL of one service's database with another one's role.
func (c *Cluster) Foreign(service, role string) string {
	u, err := url.Parse(c.databases[service])
	if err != nil {
		return ""
	}
	u.User = url.UserPassword("shop_"+role, "test")
	return u.String()
}

func (c *Cluster) configure(t testing.TB) {
	t.Helper()
	gateway, console := FreeAddr(t), FreeAddr(t)
	c.URL, c.Console = "http://"+gateway, "http://"+console
	grpc, http, admins := []string{}, []string{}, []string{}
	env := []string{
		"NATS_URL=nats://" + c.natsAddr,
		"SHOP_PUBLIC_URL=" + c.URL, "SHOP_CONSOLE_ADDR=" + console, "SHOP_CONSOLE_URL=" + c.Console,
		"SHOP_PROVIDER_URL=" + c.Out.ProviderURL, "SHOP_PROVIDER_KEY=" + ProviderKey,
		"SHOP_SMTP_ADDR=" + c.Out.SMTPAddr, "SHOP_MESSAGES_URL=" + c.Out.MessageURL,
		"SHOP_SIGNING_KEY=" + newKey(), "SHOP_VAULT_KEY=" + newKey(), "SHOP_PERSONAL_DATA_KEY=" + newKey(), "SHOP_SESSION_KEY=" + newKey(),
		"NAPKIN_TRUST_DOMAIN=shop.test", "GATEWAY_NAPKIN_HTTP_ADDR=" + gateway,
	}
	for _, name := range shop.Names() {
		prefix := strings.ToUpper(name) + "_"
		g, a := FreeAddr(t), FreeAddr(t)
		grpc = append(grpc, name+"="+g)
		admins = append(admins, name+"=http://"+a)
		c.admin[name] = "http://" + a
		socket, err := devworkload.SocketAddr(filepath.Join(c.dir, "s"), spiffeid.RequireFromSegments(spiffeid.RequireTrustDomainFromString("shop.test"), name))
		if err != nil {
			t.Fatal(err)
		}
		env = append(env,
			prefix+"NAPKIN_GRPC_ADDR="+g, prefix+"NAPKIN_ADMIN_ADDR="+a,
			prefix+"NAPKIN_WORKLOAD_API="+socket,
		)
		if db := c.databases[name]; db != "" {
			env = append(env, prefix+"DATABASE_URL="+db)
		}
		if name == "auth" || name == "catalog" {
			h := FreeAddr(t)
			http = append(http, name+"="+h)
			env = append(env, prefix+"NAPKIN_HTTP_ADDR="+h, prefix+"NAPKIN_HTTP_CALLERS="+strings.Join(shop.Names(), ","))
		}
	}
	c.env = env
	c.env = append(c.env, "NAPKIN_PEERS="+strings.Join(grpc, ","), "NAPKIN_HTTP_PEERS="+strings.Join(http, ","), "SHOP_ADMIN_URLS="+strings.Join(admins, ","))
}

// StartService starts one service's process.
func (c *Cluster) StartService(t testing.TB, name string) {
	t.Helper()
	c.Services[name] = Start(t, Spec{Name: name, Path: c.shop, Args: []string{"run", name, "--demo"}, Env: append(slices.Clone(c.env), c.more(name)...)})
}

// WaitReady waits until a service says that it is ready.
func (c *Cluster) WaitReady(t testing.TB, name string) {
	t.Helper()
	c.Services[name].WaitReady(t, c.admin[name]+"/readyz", 60*time.Second)
}

// StartNATS starts the broker, on the same address and files each time.
func (c *Cluster) StartNATS(t testing.TB) {
	t.Helper()
	var port int
	if _, err := fmt.Sscanf(c.natsAddr, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	c.NATS = Start(t, Spec{Name: "nats-server", Path: c.nats, Args: []string{"-a", "127.0.0.1", "-p", fmt.Sprint(port), "-js", "-sd", filepath.Join(c.dir, "js")}})
	c.NATS.WaitOutput(t, "Server is ready", 20*time.Second)
}

// Getenv looks a variable up as the services do.
func (c *Cluster) Getenv(key string) string {
	for _, kv := range c.env {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// Check runs `shop check --wait` against the cluster and returns its report.
func (c *Cluster) Check(t testing.TB, timeout time.Duration) (string, error) {
	t.Helper()
	p := Start(t, Spec{Name: "check", Path: c.shop, Args: []string{"check", "--wait", timeout.String(), "--external"}, Env: c.env})
	<-p.Done()
	return p.Output(), p.err
}

func newKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	return base64.StdEncoding.EncodeToString(key)
}
