package kit

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"time"
)

func (s *Service) adminRoutes() {
	m := s.adminMux
	m.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
	m.HandleFunc("GET /readyz", s.serveReady)
	m.Handle("GET /metrics", s.tel.MetricsHandler())
	m.HandleFunc("GET /buildinfo", s.serveBuildInfo)
	m.HandleFunc("/debug/pprof/", pprof.Index)
	m.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	m.HandleFunc("/debug/pprof/profile", pprof.Profile)
	m.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// ReadyReport is the answer of /readyz: status 200 where Ready, else 503.
type ReadyReport struct {
	Service string `json:"service"`
	Ready   bool   `json:"ready"`
	// Draining is set from the begin of shutdown on.
	Draining bool `json:"draining,omitempty"`
	// Checks are the dependencies, by name; all must be OK.
	Checks []CheckResult `json:"checks"`
	// Peers are the connections to peers and their state. They are shown, and count
	// for nothing: a peer's outage must not make this service unready too.
	Peers map[string]string `json:"peers,omitempty"`
}

func (s *Service) serveReady(w http.ResponseWriter, r *http.Request) {
	checks, ok := s.checks.run(r.Context())
	report := ReadyReport{Service: s.cfg.Name, Checks: checks, Draining: s.isDraining(), Peers: s.clients.states()}
	report.Ready = ok && !report.Draining && s.isRunning()
	code := http.StatusOK
	if !report.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, report)
}

func (s *Service) serveBuildInfo(w http.ResponseWriter, _ *http.Request) {
	out := map[string]string{"service": s.cfg.Name, "version": s.cfg.Version}
	if info, ok := debug.ReadBuildInfo(); ok {
		out["go"], out["module"] = info.GoVersion, info.Main.Path
		if out["version"] == "" {
			out["version"] = info.Main.Version
		}
		for _, set := range info.Settings {
			switch set.Key {
			case "vcs.revision", "vcs.time", "vcs.modified":
				out[set.Key] = set.Value
			}
		}
	}
	writeJSON(w, http.StatusOK, out)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the reader is gone; nobody is left to tell
}

// newHTTPServer returns a server that no client can hold up for long: headers must
// come within 5 s and fit in 64 KiB. Bodies and answers have their own limits, set per
// read and write, since a limit on the whole exchange would cut off streams.
func (s *Service) newHTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          errorLog(s.log),
		HTTP2:             &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 30 * time.Second},
	}
}
