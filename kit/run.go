package kit

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/napkin-kit/napkin/authn"
)

// healthInterval is how often grpc.health.v1 follows the readiness checks.
const healthInterval = 2 * time.Second

// Run serves until ctx ends or something fails, then shuts down in the order that the
// package documentation gives. It returns nil after an orderly stop, and otherwise
// what failed first: a worker, a listener, or a policy that does not fit the
// registered methods. It can be called once.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.state != stateNew {
		s.mu.Unlock()
		return errors.New("kit: " + s.cfg.Name + ": Run was called twice, or after Close")
	}
	s.state = stateRunning
	s.mu.Unlock()

	if err := s.checkPolicy(); err != nil {
		return errors.Join(err, s.Close()) //nolint:contextcheck // closing outlives the context that ended
	}
	failed := make(chan error, 3)
	servers := s.serve(failed)
	s.workers.start()
	stopHealth := s.followHealth() //nolint:contextcheck // it lives until shutdown, not until ctx ends
	s.log.LogAttrs(ctx, slog.LevelInfo, "serving",
		slog.String("grpc", s.GRPCAddr()), slog.String("http", s.HTTPAddr()), slog.String("admin", s.AdminAddr()))

	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	case cause = <-s.workers.failed:
	}
	if cause != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "stopping after a failure", slog.Any("error", cause))
	}
	// From here on ctx is done; what is left to do has limits of its own.
	err := s.shutdown(context.WithoutCancel(ctx), servers, stopHealth)
	return errors.Join(cause, err)
}

func (s *Service) isRunning() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == stateRunning
}

// servers are what Run has started and shutdown stops.
type servers struct{ http, admin *http.Server }

func (s *Service) serve(failed chan<- error) servers {
	var out servers
	start := func(name string, fn func() error) {
		go func() {
			if err := fn(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				failed <- fmt.Errorf("kit: %s: the %s listener failed: %w", s.cfg.Name, name, err)
			}
		}()
	}
	if s.adminL != nil {
		out.admin = s.newHTTPServer(s.adminMux)
		start("admin", func() error { return out.admin.Serve(s.adminL) })
	}
	if s.httpL != nil {
		out.http = s.newHTTPServer(s.httpChain(s.mux))
		start("HTTP", func() error {
			if s.cfg.PublicHTTP {
				return out.http.Serve(s.httpL)
			}
			cfg := authn.ServerTLS(s.identity, s.admitsHTTP())
			cfg.NextProtos = []string{"h2", "http/1.1"}
			out.http.TLSConfig = cfg
			return out.http.ServeTLS(s.httpL, "", "")
		})
	}
	if s.grpcL != nil {
		start("gRPC", func() error { return s.grpc.Serve(s.grpcL) })
	}
	return out
}

// followHealth keeps grpc.health.v1 in step with the readiness checks.
func (s *Service) followHealth() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(healthInterval)
		defer tick.Stop()
		was := ""
		for first := true; ; first = false {
			results, ok := s.checks.run(ctx)
			if ctx.Err() != nil {
				return
			}
			serving := grpc_health_v1.HealthCheckResponse_NOT_SERVING
			if ok {
				serving = grpc_health_v1.HealthCheckResponse_SERVING
			}
			s.health.SetServingStatus("", serving)
			was = s.logReadiness(ctx, was, results, first)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// logReadiness writes a line when what is failing changes, and returns what is failing.
func (s *Service) logReadiness(ctx context.Context, was string, results []CheckResult, first bool) string {
	now := ""
	for _, r := range results {
		if !r.OK {
			now += r.Name + ": " + r.Error + "; "
		}
	}
	switch {
	case now == was:
	case now != "" && first: // workers are starting at this very moment
		s.log.LogAttrs(ctx, slog.LevelInfo, "not ready yet", slog.String("waiting_for", now))
	case now != "":
		s.log.LogAttrs(ctx, slog.LevelWarn, "not ready", slog.String("failing", now))
	default:
		s.log.LogAttrs(ctx, slog.LevelInfo, "ready again")
	}
	return now
}

// shutdown: not ready → drain delay → stop accepting → finish in flight → stop workers
// → flush telemetry → close.
func (s *Service) shutdown(ctx context.Context, srv servers, stopHealth func()) error {
	stopHealth()
	close(s.draining)
	s.health.Shutdown()
	s.log.LogAttrs(ctx, slog.LevelInfo, "draining", slog.Int64("in_flight", s.inFlight.Load()))
	if s.cfg.DrainDelay > 0 {
		timer := time.NewTimer(s.cfg.DrainDelay)
		<-timer.C
	}

	var errs []error
	drain, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	if !s.finishInFlight(drain, srv) {
		errs = append(errs, fmt.Errorf("kit: %s: requests were cut off after the drain timeout of %v", s.cfg.Name, s.cfg.DrainTimeout))
	}
	errs = append(errs, s.workers.stop(s.cfg.StopTimeout))

	last, cancelLast := context.WithTimeout(ctx, s.cfg.StopTimeout)
	defer cancelLast()
	if err := s.tel.Flush(last); err != nil {
		// A collector that is away must not make an orderly stop a failure.
		s.log.LogAttrs(ctx, slog.LevelWarn, "telemetry was not flushed", slog.Any("error", err))
	}
	if srv.admin != nil { // last, so that one can look on
		errs = append(errs, srv.admin.Close())
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "stopped")
	errs = append(errs, s.close(last))
	return errors.Join(errs...)
}

// finishInFlight stops accepting and waits for both servers' requests; it reports
// whether all of them ended by themselves.
func (s *Service) finishInFlight(ctx context.Context, srv servers) bool {
	done := make(chan bool, 2)
	go func() {
		if srv.http == nil {
			done <- true
			return
		}
		err := srv.http.Shutdown(ctx)
		if err != nil {
			_ = srv.http.Close()
		}
		done <- err == nil
	}()
	go func() {
		graceful := make(chan struct{})
		go func() {
			s.grpc.GracefulStop()
			close(graceful)
		}()
		select {
		case <-graceful:
			done <- true
		case <-ctx.Done():
			s.grpc.Stop() // makes GracefulStop return too
			<-graceful
			done <- false
		}
	}()
	first, second := <-done, <-done
	return first && second
}

// Close releases what New opened, for a Service that is not run. After Run it does
// nothing.
func (s *Service) Close() error {
	s.workers.cancel()
	if s.grpc != nil {
		s.grpc.Stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.StopTimeout)
	defer cancel()
	return s.close(ctx)
}

func (s *Service) close(ctx context.Context) error {
	s.mu.Lock()
	closers := s.closers
	s.closers, s.state = nil, stateClosed
	s.mu.Unlock()
	var errs []error
	for _, l := range []net.Listener{s.grpcL, s.httpL, s.adminL} {
		if l != nil {
			_ = l.Close() // its server has closed it before, in the orderly case
		}
	}
	s.clients.close()
	for _, c := range slices.Backward(closers) {
		if err := c.fn(ctx); err != nil {
			errs = append(errs, fmt.Errorf("kit: closing %s: %w", c.name, err))
		}
	}
	return errors.Join(errs...)
}

// errorLog takes what net/http has to say, nearly all of it about clients that went away.
func errorLog(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }
