package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startBroker runs a NATS JetStream server in this process, with its streams in dir.
// It opens no port: clients connect in memory.
func startBroker(dir string) (*server.Server, error) {
	ns, err := server.NewServer(&server.Options{
		ServerName: "shop",
		DontListen: true,
		JetStream:  true,
		StoreDir:   dir,
		NoSigs:     true,
		NoLog:      true,
	})
	if err != nil {
		return nil, fmt.Errorf("message broker: %w", err)
	}
	go ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		ns.Shutdown()
		return nil, fmt.Errorf("message broker: not ready after 10 s; its files are in %s", dir)
	}
	return ns, nil
}

func stopBroker(ns *server.Server) {
	ns.Shutdown()
	ns.WaitForShutdown()
}

// connectBroker connects a service; it reconnects for ever, since the outbox holds what cannot be sent.
func connectBroker(ctx context.Context, name, url string, embedded *server.Server, log *slog.Logger) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.Timeout(5 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("message broker lost, reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("message broker is back") }),
	}
	if embedded != nil {
		opts = append(opts, nats.InProcessServer(embedded))
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("message broker %s: %w", url, err)
	}
	for start := time.Now(); !nc.IsConnected(); {
		select {
		case <-ctx.Done():
			nc.Close()
			return nil, errors.Join(ctx.Err(), nc.LastError())
		case <-time.After(20 * time.Millisecond):
			if time.Since(start) > 30*time.Second {
				nc.Close()
				return nil, fmt.Errorf("message broker %s does not answer; is NATS_URL right?", url)
			}
		}
	}
	return nc, nil
}
