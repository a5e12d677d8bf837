package grpcidempotency_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

const (
	create = "/orders.v1.Orders/Create"
	search = "/orders.v1.Orders/Search"
	watch  = "/orders.v1.Orders/Watch"
)

// orders is a service without generated code: Create answers how often it ran.
type orders struct {
	db   *sqldb.DB
	keys idempotency.TxStore

	mu      sync.Mutex
	fail    error
	streams []idempotency.Key
}

func (o *orders) create(ctx context.Context, _ *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
	return grpcidempotency.Do(ctx, o.keys, sqldb.Std(o.db), func(ctx context.Context, tx *sql.Tx) (*wrapperspb.Int64Value, error) {
		if _, err := tx.ExecContext(ctx, `INSERT INTO effects VALUES (1)`); err != nil {
			return nil, err
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.fail != nil {
			return nil, o.fail
		}
		var n int64
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM effects`).Scan(&n)
		return wrapperspb.Int64(n), err
	})
}

func (o *orders) desc() *grpc.ServiceDesc {
	unary := func(method string) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: method[strings.LastIndex(method, "/")+1:], Handler: func(srv any, ctx context.Context, dec func(any) error, icpt grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			return icpt(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, func(ctx context.Context, req any) (any, error) {
				return o.create(ctx, req.(*wrapperspb.StringValue))
			})
		}}
	}
	return &grpc.ServiceDesc{
		ServiceName: "orders.v1.Orders", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{unary(create), unary(search)},
		Streams: []grpc.StreamDesc{{StreamName: "Watch", ServerStreams: true, ClientStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			if _, err := idempotency.Request(ss.Context()); err == nil {
				return errors.New("a key without its fingerprint was handed out")
			}
			for range 2 {
				if err := ss.RecvMsg(new(wrapperspb.StringValue)); err != nil {
					return err
				}
			}
			k, err := idempotency.Request(ss.Context())
			if err != nil {
				return err
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			o.streams = append(o.streams, k)
			return ss.SendMsg(wrapperspb.Int64(1))
		}}},
	}
}

func start(t *testing.T, db *sqldb.DB) (*orders, *grpc.ClientConn) {
	t.Helper()
	if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE effects (n BIGINT)`); err != nil {
		t.Fatal(err)
	}
	keys, err := sqlidempotency.New(db.Dialect, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := &orders{db: db, keys: keys}
	cfg := grpcidempotency.ServerConfig{
		Rules: map[string]grpcidempotency.Rule{create: {Required: true}, search: {}, watch: {Operation: "watching"}},
		Scope: func(ctx context.Context) (string, error) {
			user := metadata.ValueFromIncomingContext(ctx, "user")
			if len(user) == 0 {
				return "nobody", nil
			}
			return user[0], nil
		},
	}
	unary, err := grpcidempotency.UnaryServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := grpcidempotency.StreamServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
	srv.RegisterService(o.desc(), nil)
	lis := bufconn.Listen(1 << 16)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(lis) }()
	cc, err := grpc.NewClient("passthrough:orders", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithUnaryInterceptor(grpcidempotency.UnaryClient(grpcidempotency.ClientConfig{
			Generate: func(method string) bool { return method == search },
		})),
		grpc.WithStreamInterceptor(grpcidempotency.StreamClient(grpcidempotency.ClientConfig{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		srv.Stop()
		<-done
	})
	return o, cc
}

func both(t *testing.T, test func(t *testing.T, o *orders, cc *grpc.ClientConn)) {
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "o.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		o, cc := start(t, db)
		test(t, o, cc)
	})
	t.Run("postgres", func(t *testing.T) {
		o, cc := start(t, pgtest.DB(t))
		test(t, o, cc)
	})
}

// call returns the answer and whether it was replayed.
func call(ctx context.Context, cc *grpc.ClientConn, method, req string) (int64, bool, error) {
	var header metadata.MD
	out := new(wrapperspb.Int64Value)
	err := cc.Invoke(ctx, method, wrapperspb.String(req), out, grpc.Header(&header))
	return out.GetValue(), len(header.Get(grpcidempotency.MetadataReplayed)) > 0, err
}

func TestUnary(t *testing.T) {
	both(t, func(t *testing.T, o *orders, cc *grpc.ClientConn) {
		ctx := idempotency.WithKey(t.Context(), "k")
		for i := range 3 {
			n, replayed, err := call(ctx, cc, create, "mug")
			if err != nil || n != 1 || replayed != (i > 0) {
				t.Fatalf("call %d: %d, replayed %v, %v", i, n, replayed, err)
			}
		}
		_, _, err := call(ctx, cc, create, "another")
		if status.Code(err) != codes.FailedPrecondition || grpcproblem.Of(err).Status != 422 {
			t.Errorf("another request: %v", err)
		}
		if n, replayed, err := call(metadata.AppendToOutgoingContext(ctx, "user", "u2"), cc, create, "mug"); err != nil || replayed || n != 2 {
			t.Errorf("another user: %d, %v, %v", n, replayed, err)
		}
		_, _, err = call(t.Context(), cc, create, "mug")
		if status.Code(err) != codes.InvalidArgument || grpcproblem.Of(err).Code != "idempotency_key_missing" {
			t.Errorf("no key: %v", err)
		}
		for _, bad := range []string{"two words", `"open`, strings.Repeat("k", 300)} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), grpcidempotency.MetadataKey, bad)
			if _, _, err = call(ctx, cc, create, "mug"); grpcproblem.Of(err).Status != 400 {
				t.Errorf("key %.20q: %v", bad, err)
			}
		}
		twice := metadata.AppendToOutgoingContext(t.Context(), grpcidempotency.MetadataKey, "a", grpcidempotency.MetadataKey, "b")
		if _, _, err = call(twice, cc, create, "mug"); grpcproblem.Of(err).Status != 400 {
			t.Errorf("two keys: %v", err)
		}
	})
}

func TestErrorFreesTheKey(t *testing.T) {
	both(t, func(t *testing.T, o *orders, cc *grpc.ClientConn) {
		ctx := idempotency.WithKey(t.Context(), "k")
		o.fail = status.Error(codes.ResourceExhausted, "not now")
		if _, _, err := call(ctx, cc, create, "mug"); status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
		o.fail = nil
		if n, replayed, err := call(ctx, cc, create, "mug"); err != nil || replayed || n != 1 {
			t.Fatalf("%d, %v, %v: the failed call left something", n, replayed, err)
		}
	})
}

func TestDuplicatesRunOnce(t *testing.T) {
	both(t, func(t *testing.T, o *orders, cc *grpc.ClientConn) {
		ctx := idempotency.WithKey(t.Context(), "k")
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				n, _, err := call(ctx, cc, create, "mug")
				if err == nil && n != 1 {
					t.Errorf("answer %d", n)
				}
				if err != nil && grpcproblem.Of(err).Code != "idempotency_in_progress" {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n, replayed, err := call(ctx, cc, create, "mug"); err != nil || n != 1 || !replayed {
			t.Errorf("%d, %v, %v", n, replayed, err)
		}
	})
}

// Without a required key each call acts; a client that generates keys sends a
// new one for each call.
func TestOptionalKey(t *testing.T) {
	both(t, func(t *testing.T, o *orders, cc *grpc.ClientConn) {
		for want := range int64(2) {
			if n, replayed, err := call(t.Context(), cc, search, "q"); err != nil || replayed || n != want+1 {
				t.Fatalf("%d, %v, %v", n, replayed, err)
			}
		}
	})
}

func TestDoOutsideOfTheInterceptorRunsNothing(t *testing.T) {
	both(t, func(t *testing.T, o *orders, _ *grpc.ClientConn) {
		if _, err := o.create(t.Context(), nil); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "UnaryServer") {
			t.Errorf("got %v", err)
		}
		if n, err := o.create(idempotency.WithoutRequest(t.Context()), nil); err != nil || n.GetValue() != 1 {
			t.Errorf("%d, %v", n.GetValue(), err)
		}
	})
}

// The leased mode: the interceptor does all there is to do.
func TestLeased(t *testing.T) {
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "k.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	memory, err := idempotency.NewMemory(nil)
	if err != nil {
		t.Fatal(err)
	}
	inFile, err := sqlidempotency.NewLeased(db, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, store := range map[string]idempotency.Store{"memory": memory, "sqlite": inFile} {
		t.Run(name, func(t *testing.T) {
			leases, err := idempotency.NewLeases(store, &idempotency.LeaseConfig{MaxBody: 20, Wait: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			icpt, err := grpcidempotency.UnaryServer(grpcidempotency.ServerConfig{
				Rules: map[string]grpcidempotency.Rule{create: {Required: true}}, Leased: leases,
				Scope: func(context.Context) (string, error) { return "user-1", nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			var ran atomic.Int64
			var fail error
			call := func(key, req string) (string, error) {
				ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(grpcidempotency.MetadataKey, key))
				m, err := icpt(ctx, wrapperspb.String(req), &grpc.UnaryServerInfo{FullMethod: create}, func(ctx context.Context, req any) (any, error) {
					n := ran.Add(1)
					return wrapperspb.String(fmt.Sprint(req.(*wrapperspb.StringValue).GetValue(), n)), fail
				})
				if err != nil {
					return "", err
				}
				return m.(*wrapperspb.StringValue).GetValue(), nil
			}
			var wg sync.WaitGroup
			for range 20 { // each waits for the result
				wg.Go(func() {
					if got, err := call("k", "mug"); err != nil || got != "mug1" {
						t.Errorf("%q, %v", got, err)
					}
				})
			}
			wg.Wait()
			if ran.Load() != 1 {
				t.Errorf("ran %d times", ran.Load())
			}
			if _, err := call("k", "cup"); grpcproblem.Of(err).Status != 422 {
				t.Errorf("another request: %v", err)
			}
			fail = status.Error(codes.ResourceExhausted, "not now")
			if _, err := call("k2", "mug"); status.Code(err) != codes.ResourceExhausted {
				t.Error(err)
			}
			fail = nil
			if got, err := call("k2", "mug"); err != nil || got != "mug3" {
				t.Errorf("%q, %v: an error did not free the key", got, err)
			}
			large := strings.Repeat("x", 30)
			if got, err := call("k3", large); err != nil || got != large+"4" {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := call("k3", large); status.Code(err) != codes.Aborted || grpcproblem.Of(err).Code != "idempotency_answer_omitted" || ran.Load() != 4 {
				t.Errorf("a large answer asked for again: %v, ran %d times", err, ran.Load())
			}
		})
	}
}

// One key for all attempts of a call: the interceptor stands outside the retries.
func TestClientSendsOneKeyForAllAttempts(t *testing.T) {
	var keys []string
	retry := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		for range 3 {
			md, _ := metadata.FromOutgoingContext(ctx)
			keys = append(keys, strings.Join(md.Get(grpcidempotency.MetadataKey), ","))
		}
		return nil
	}
	icpt := grpcidempotency.UnaryClient(grpcidempotency.ClientConfig{Generate: func(string) bool { return true }})
	for range 2 {
		err := icpt(t.Context(), create, nil, nil, nil, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			return retry(ctx, method, req, reply, cc, nil, opts...)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if keys[0] == "" || keys[0] != keys[1] || keys[1] != keys[2] || keys[3] == keys[0] || keys[3] != keys[5] {
		t.Errorf("sent %q", keys)
	}
}

func TestStreamCarriesTheKey(t *testing.T) {
	both(t, func(t *testing.T, o *orders, cc *grpc.ClientConn) {
		ctx := idempotency.WithKey(t.Context(), "k")
		for _, first := range []string{"a", "a", "b"} {
			s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, watch)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range []string{first, "more"} {
				if err := s.SendMsg(wrapperspb.String(m)); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if err := s.RecvMsg(new(wrapperspb.Int64Value)); err != nil {
				t.Fatal(err)
			}
			if err := s.RecvMsg(new(wrapperspb.Int64Value)); err == nil {
				t.Fatal("more than one answer")
			}
		}
		a, b, c := o.streams[0], o.streams[1], o.streams[2]
		if a.Value != "k" || a.Operation != "watching" || a.Scope != "nobody" {
			t.Errorf("key %+v", a)
		}
		if string(a.Fingerprint) != string(b.Fingerprint) || string(a.Fingerprint) == string(c.Fingerprint) {
			t.Error("the fingerprint is not that of the first message")
		}
	})
}

func TestReplayRefusesAnotherType(t *testing.T) {
	stored, err := grpcidempotency.Store(wrapperspb.Int64(7))
	if err != nil {
		t.Fatal(err)
	}
	got, err := grpcidempotency.Replay[*wrapperspb.Int64Value](&stored)
	if err != nil || got.GetValue() != 7 {
		t.Fatalf("%v, %v", got, err)
	}
	if _, err := grpcidempotency.Replay[*durationpb.Duration](&stored); err == nil {
		t.Fatal("an Int64Value was read as a Duration")
	}
	stored.Body = []byte{0xff}
	if _, err := grpcidempotency.Replay[*wrapperspb.Int64Value](&stored); err == nil {
		t.Fatal("rubbish was read")
	}
}

func TestServerConfigNamesTheField(t *testing.T) {
	if _, err := grpcidempotency.UnaryServer(grpcidempotency.ServerConfig{}); err == nil || !strings.Contains(err.Error(), "ServerConfig.Scope") {
		t.Errorf("got %v", err)
	}
	_, err := grpcidempotency.StreamServer(grpcidempotency.ServerConfig{
		Scope: func(context.Context) (string, error) { return "", nil },
		Rules: map[string]grpcidempotency.Rule{"Create": {}},
	})
	if err == nil || !strings.Contains(err.Error(), `ServerConfig.Rules["Create"]`) {
		t.Errorf("got %v", err)
	}
}
