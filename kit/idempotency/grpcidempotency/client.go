package grpcidempotency

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/napkin-kit/napkin/kit/idempotency"
)

// ClientConfig tunes the client's interceptors. The zero value is ready to use.
type ClientConfig struct {
	// Generate says for which full methods a call without a key is given a
	// fresh one. Place the interceptor outside of the retries then, so that all
	// attempts carry the same. Defaults to none.
	Generate func(method string) bool
}

// UnaryClient returns the interceptor that sends the key of
// idempotency.WithKey. Metadata that the caller set itself is left alone.
func UnaryClient(cfg ClientConfig) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return next(cfg.outgoing(ctx, method), method, req, reply, cc, opts...)
	}
}

// StreamClient is [UnaryClient] for streams.
func StreamClient(cfg ClientConfig) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return next(cfg.outgoing(ctx, method), desc, cc, method, opts...)
	}
}

func (c ClientConfig) outgoing(ctx context.Context, method string) context.Context {
	if md, ok := metadata.FromOutgoingContext(ctx); ok && len(md.Get(MetadataKey)) > 0 {
		return ctx
	}
	key, ok := idempotency.KeyFrom(ctx)
	if !ok {
		if c.Generate == nil || !c.Generate(method) {
			return ctx
		}
		key = idempotency.NewKey()
	}
	return metadata.AppendToOutgoingContext(ctx, MetadataKey, idempotency.FormatKey(key))
}
