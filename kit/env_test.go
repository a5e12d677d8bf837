package kit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit"
)

func TestConfigFromEnv(t *testing.T) {
	env := map[string]string{
		"NAPKIN_GRPC_ADDR": "0.0.0.0:9000", "NAPKIN_HTTP_ADDR": "none", "NAPKIN_WORKLOAD_API": "unix:///run/a.sock",
		"NAPKIN_TRUST_DOMAIN": "shop.test", "NAPKIN_PEERS": "order=10.0.0.1:9000, order=10.0.0.2:9000,cart=cart:9000",
		"NAPKIN_HTTP_PEERS": "auth=auth:8080", "NAPKIN_PEER_IDS": "cart=spiffe://shop.test/ns/a/sa/cart",
		"NAPKIN_HTTP_CALLERS": "cart,gateway,spiffe://other.test/x", "NAPKIN_DRAIN_DELAY": "5s", "NAPKIN_ACCESS_LOG": "off",
	}
	cfg, err := kit.ConfigFromEnv("gateway", func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "gateway" || cfg.GRPCAddr != "0.0.0.0:9000" || cfg.HTTPAddr != "none" || cfg.DrainDelay != 5*time.Second || !cfg.NoAccessLog {
		t.Errorf("got %+v", cfg)
	}
	if got := cfg.SPIFFEID.String(); got != "spiffe://shop.test/gateway" {
		t.Errorf("SPIFFE ID %s", got)
	}
	if p := cfg.Peers["order"]; p.Addr != "10.0.0.1:9000,10.0.0.2:9000" || p.ID.String() != "spiffe://shop.test/order" {
		t.Errorf("order: %+v", p)
	}
	if p := cfg.Peers["cart"]; p.ID.String() != "spiffe://shop.test/ns/a/sa/cart" {
		t.Errorf("cart: %+v", p)
	}
	if p := cfg.Peers["auth"]; p.HTTPAddr != "auth:8080" || p.Addr != "" {
		t.Errorf("auth: %+v", p)
	}
	var callers []string
	for _, id := range cfg.HTTPCallers {
		callers = append(callers, id.String())
	}
	if got := strings.Join(callers, " "); got != "spiffe://shop.test/ns/a/sa/cart spiffe://shop.test/gateway spiffe://other.test/x" {
		t.Errorf("callers %s", got)
	}
}

func TestConfigFromEnvErrorsNameTheVariable(t *testing.T) {
	bad := map[string]string{
		"NAPKIN_GRPC_ADDR": "9000", "NAPKIN_HTTP_ADDR": ":x", "NAPKIN_ADMIN_ADDR": "h:70000", "NAPKIN_WORKLOAD_API": "/run/a.sock",
		"NAPKIN_TRUST_DOMAIN": "Shop!", "NAPKIN_SPIFFE_ID": "order", "NAPKIN_PEERS": "order", "NAPKIN_HTTP_PEERS": "a=b",
		"NAPKIN_PEER_IDS": "a=b", "NAPKIN_HTTP_CALLERS": "spiffe://", "NAPKIN_ACCESS_LOG": "maybe", "NAPKIN_DEFAULT_DEADLINE": "0s",
		"NAPKIN_MAX_IN_FLIGHT": "-1", "NAPKIN_DRAIN_DELAY": "5", "NAPKIN_DRAIN_TIMEOUT": "-5s",
		"NAPKIN_RESILIENCE_OFF": "retries", "NAPKIN_PEER_TIMEOUTS": "5s", "NAPKIN_SHEDDING": "maybe",
	}
	for _, v := range kit.Variables() {
		value, listed := bad[v.Name]
		if !listed {
			t.Errorf("%s has no bad value here", v.Name)
			continue
		}
		_, err := kit.ConfigFromEnv("order", func(k string) string {
			if k == v.Name {
				return value
			}
			return ""
		})
		if err == nil || !strings.Contains(err.Error(), v.Name+"=") || !strings.Contains(err.Error(), v.Accepts) {
			t.Errorf("%s=%q: %v", v.Name, value, err)
		}
	}
	_, err := kit.ConfigFromEnv("order", func(k string) string { return bad[k] })
	if err == nil || strings.Count(err.Error(), "NAPKIN_") < 10 {
		t.Errorf("one run tells of all faults: %v", err)
	}
}

func FuzzConfigFromEnv(f *testing.F) {
	f.Add("order=h:1,order=h:2", "a=spiffe://x/y", "x,spiffe://a/b", "shop.test")
	f.Add("=,=:,,", "==", "spiffe://", "")
	f.Fuzz(func(t *testing.T, peers, ids, callers, domain string) {
		env := map[string]string{"NAPKIN_PEERS": peers, "NAPKIN_PEER_IDS": ids, "NAPKIN_HTTP_CALLERS": callers, "NAPKIN_TRUST_DOMAIN": domain}
		cfg, err := kit.ConfigFromEnv("order", func(k string) string { return env[k] })
		if err != nil {
			return
		}
		for name, p := range cfg.Peers {
			if p.ID.IsZero() {
				t.Errorf("peer %q without an identity", name)
			}
		}
		for _, id := range cfg.HTTPCallers {
			if id.IsZero() {
				t.Error("an empty caller")
			}
		}
	})
}
