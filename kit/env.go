package kit

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Variables are the environment variables that [ConfigFromEnv] reads, with what each
// accepts, for a program's help text.
func Variables() []Variable { return append([]Variable(nil), variables...) }

// Variable describes one environment variable.
type Variable struct{ Name, Accepts, Default string }

var variables = []Variable{
	{"NAPKIN_GRPC_ADDR", `host:port, or "none"`, "127.0.0.1:0"},
	{"NAPKIN_HTTP_ADDR", `host:port, or "none"`, "none"},
	{"NAPKIN_ADMIN_ADDR", `host:port, or "none"`, "127.0.0.1:0"},
	{"NAPKIN_WORKLOAD_API", "a SPIFFE Workload API: unix:///path or tcp://ip:port", ""},
	{"NAPKIN_TRUST_DOMAIN", "a SPIFFE trust domain name, such as shop.example", "napkin.local"},
	{"NAPKIN_SPIFFE_ID", "this service's SPIFFE ID", "spiffe://<trust domain>/<name>"},
	{"NAPKIN_PEERS", "name=host:port, comma separated; a name repeated is another replica", ""},
	{"NAPKIN_HTTP_PEERS", "name=host:port, comma separated", ""},
	{"NAPKIN_PEER_IDS", "name=spiffe://domain/path, comma separated", "spiffe://<trust domain>/<name>"},
	{"NAPKIN_HTTP_CALLERS", "names of peers, or SPIFFE IDs, comma separated", ""},
	{"NAPKIN_ACCESS_LOG", "on or off", "on"},
	{"NAPKIN_DEFAULT_DEADLINE", "a duration above 0, such as 10s", "10s"},
	{"NAPKIN_RESILIENCE_OFF", "parts to leave out of the calls to peers, comma separated: deadline, retry, budget, breaker, bulkhead; name=part for one peer", ""},
	{"NAPKIN_PEER_TIMEOUTS", "name=duration, comma separated: what a call to that peer may take with all its attempts", "10s"},
	{"NAPKIN_SHEDDING", "on or off", "on"},
	{"NAPKIN_MAX_IN_FLIGHT", "a number above 0", "4096"},
	{"NAPKIN_DRAIN_DELAY", "a duration, such as 5s", "0s"},
	{"NAPKIN_DRAIN_TIMEOUT", "a duration above 0, such as 30s", "30s"},
}

// ConfigFromEnv reads a service's configuration from the environment, usually with
// os.Getenv; [Variables] lists what it reads. Unset variables leave the defaults. The
// error joins one line per bad value, which names the variable and what it accepts.
func ConfigFromEnv(name string, getenv func(string) string) (Config, error) {
	e := env{getenv: getenv}
	cfg := Config{
		Name:            name,
		GRPCAddr:        e.addr("NAPKIN_GRPC_ADDR"),
		HTTPAddr:        e.addr("NAPKIN_HTTP_ADDR"),
		AdminAddr:       e.addr("NAPKIN_ADMIN_ADDR"),
		WorkloadAPI:     e.workloadAPI("NAPKIN_WORKLOAD_API"),
		NoAccessLog:     !e.toggle("NAPKIN_ACCESS_LOG", true),
		NoShedding:      !e.toggle("NAPKIN_SHEDDING", true),
		DefaultDeadline: e.duration("NAPKIN_DEFAULT_DEADLINE", false),
		MaxInFlight:     e.count("NAPKIN_MAX_IN_FLIGHT"),
		DrainDelay:      e.duration("NAPKIN_DRAIN_DELAY", true),
		DrainTimeout:    e.duration("NAPKIN_DRAIN_TIMEOUT", false),
	}
	domain := e.trustDomain("NAPKIN_TRUST_DOMAIN", "napkin.local")
	cfg.SPIFFEID = e.id("NAPKIN_SPIFFE_ID", getenv("NAPKIN_SPIFFE_ID"))
	if cfg.SPIFFEID.IsZero() {
		cfg.SPIFFEID = idOf(domain, name)
	}
	cfg.Peers = e.peers(domain)
	e.resilience(&cfg)
	for _, caller := range list(getenv("NAPKIN_HTTP_CALLERS")) {
		switch p, known := cfg.Peers[caller]; {
		case known:
			cfg.HTTPCallers = append(cfg.HTTPCallers, p.ID)
		case strings.HasPrefix(caller, "spiffe://"):
			cfg.HTTPCallers = append(cfg.HTTPCallers, e.id("NAPKIN_HTTP_CALLERS", caller))
		default:
			cfg.HTTPCallers = append(cfg.HTTPCallers, idOf(domain, caller))
		}
	}
	if err := errors.Join(e.faults...); err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	return cfg, nil
}

// env collects what is wrong, so that one run tells all of it.
type env struct {
	getenv func(string) string
	faults []error
}

func (e *env) fault(name, value string) {
	for _, v := range variables {
		if v.Name == name {
			e.faults = append(e.faults, fmt.Errorf("%s=%q: it accepts %s", name, value, v.Accepts))
		}
	}
}

func (e *env) addr(name string) string {
	v := e.getenv(name)
	if v == "" || v == None {
		return v
	}
	if !isAddr(v, true) {
		e.fault(name, v)
	}
	return v
}

func isAddr(v string, zeroPort bool) bool {
	_, port, err := net.SplitHostPort(v)
	n, perr := strconv.ParseUint(port, 10, 16)
	return err == nil && perr == nil && (n > 0 || zeroPort)
}

func (e *env) workloadAPI(name string) string {
	v := e.getenv(name)
	if v != "" && !strings.HasPrefix(v, "unix:") && !strings.HasPrefix(v, "tcp:") {
		e.fault(name, v)
	}
	return v
}

func (e *env) toggle(name string, otherwise bool) bool {
	switch v := strings.ToLower(e.getenv(name)); v {
	case "":
		return otherwise
	case "on", "true", "1":
		return true
	case "off", "false", "0":
		return false
	default:
		e.fault(name, v)
		return otherwise
	}
}

func (e *env) duration(name string, zero bool) time.Duration {
	v := e.getenv(name)
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d == 0 && !zero {
		e.fault(name, v)
	}
	return d
}

func (e *env) count(name string) int {
	v := e.getenv(name)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n <= 0 {
		e.fault(name, v)
	}
	return n
}

func (e *env) trustDomain(name, otherwise string) spiffeid.TrustDomain {
	v := e.getenv(name)
	if v == "" {
		v = otherwise
	}
	td, err := spiffeid.TrustDomainFromString(v)
	if err != nil {
		e.fault(name, v)
	}
	return td
}

func (e *env) id(name, v string) spiffeid.ID {
	if v == "" {
		return spiffeid.ID{}
	}
	id, err := spiffeid.FromString(v)
	if err != nil || id.Path() == "" {
		e.fault(name, v)
	}
	return id
}

// peers joins the three lists by name.
func (e *env) peers(domain spiffeid.TrustDomain) map[string]Peer {
	peers := make(map[string]Peer)
	each := func(variable string, take func(p *Peer, value string) bool) {
		for _, entry := range list(e.getenv(variable)) {
			name, value, ok := strings.Cut(entry, "=")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			p := peers[name]
			if !ok || name == "" || !take(&p, value) {
				e.fault(variable, entry)
				continue
			}
			peers[name] = p
		}
	}
	each("NAPKIN_PEERS", func(p *Peer, v string) bool {
		if p.Addr != "" {
			p.Addr += ","
		}
		p.Addr += v
		return isAddr(v, false)
	})
	each("NAPKIN_HTTP_PEERS", func(p *Peer, v string) bool {
		p.HTTPAddr = v
		return isAddr(v, false)
	})
	each("NAPKIN_PEER_IDS", func(p *Peer, v string) bool {
		id, err := spiffeid.FromString(v)
		p.ID = id
		return err == nil && id.Path() != ""
	})
	for name, p := range peers {
		if p.ID.IsZero() {
			p.ID = idOf(domain, name)
		}
		if p.ID.IsZero() {
			e.fault("NAPKIN_PEERS", name)
		}
		peers[name] = p
	}
	return peers
}

func idOf(domain spiffeid.TrustDomain, name string) spiffeid.ID {
	if domain.IsZero() {
		return spiffeid.ID{}
	}
	id, err := spiffeid.FromSegments(domain, name)
	if err != nil {
		return spiffeid.ID{}
	}
	return id
}

func list(v string) []string {
	var out []string
	for _, s := range strings.Split(v, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}
