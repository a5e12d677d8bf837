package grpcidempotency_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// A handler runs once for each key; the interceptor found the key.
func ExampleDo() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqlitedb.Open(ctx, filepath.Join(dir, "order.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := migrate.Up(ctx, db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		log.Fatal(err)
	}
	keys, err := sqlidempotency.New(db.Dialect, nil)
	if err != nil {
		log.Fatal(err)
	}
	orders := 0
	create := func(ctx context.Context, req any) (any, error) {
		return grpcidempotency.Do(ctx, keys, sqldb.Std(db), func(ctx context.Context, tx *sql.Tx) (*wrapperspb.StringValue, error) {
			orders++ // in practice: rows, a saga, an event, all on tx
			return wrapperspb.String(fmt.Sprint("order ", orders)), nil
		})
	}
	const method = "/orders.v1.Orders/Create"
	intercept, err := grpcidempotency.UnaryServer(grpcidempotency.ServerConfig{
		Rules: map[string]grpcidempotency.Rule{method: {Required: true}},
		Scope: func(ctx context.Context) (string, error) { return "user-1", nil }, // from the principal
	})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		answer, err := intercept(metadata.NewIncomingContext(ctx, metadata.Pairs("idempotency-key", "k1")), wrapperspb.String("mug"), &grpc.UnaryServerInfo{FullMethod: method}, create)
		fmt.Println(answer.(*wrapperspb.StringValue).GetValue(), err)
	}
	// Output:
	// order 1 <nil>
	// order 1 <nil>
}

// The leased mode: the interceptor runs a handler that has no transaction once for
// each key.
func ExampleUnaryServer() {
	store, err := idempotency.NewMemory(nil) // or sqlidempotency.NewLeased
	if err != nil {
		log.Fatal(err)
	}
	leases, err := idempotency.NewLeases(store, nil)
	if err != nil {
		log.Fatal(err)
	}
	const method = "/mail.v1.Mail/Send"
	intercept, err := grpcidempotency.UnaryServer(grpcidempotency.ServerConfig{
		Rules:  map[string]grpcidempotency.Rule{method: {Required: true}},
		Scope:  func(ctx context.Context) (string, error) { return "user-1", nil }, // from the principal
		Leased: leases,
	})
	if err != nil {
		log.Fatal(err)
	}
	sent := 0
	send := func(ctx context.Context, req any) (any, error) {
		sent++
		return wrapperspb.String(fmt.Sprint("mail ", sent)), nil
	}
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("idempotency-key", "k1"))
	for range 2 {
		answer, err := intercept(ctx, wrapperspb.String("hello"), &grpc.UnaryServerInfo{FullMethod: method}, send)
		fmt.Println(answer.(*wrapperspb.StringValue).GetValue(), err)
	}
	// Output:
	// mail 1 <nil>
	// mail 1 <nil>
}

// Each call gets a key of its own, outside of the retries.
func ExampleUnaryClient() {
	intercept := grpcidempotency.UnaryClient(grpcidempotency.ClientConfig{
		Generate: func(method string) bool { return method == "/orders.v1.Orders/Create" },
	})
	attempts := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
		md, _ := metadata.FromOutgoingContext(ctx)
		fmt.Println(len(md.Get(grpcidempotency.MetadataKey)), "key")
		return nil
	}
	if err := intercept(context.Background(), "/orders.v1.Orders/Create", nil, nil, nil, attempts); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1 key
}
