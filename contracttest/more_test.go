package contracttest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

var update = flag.Bool("update", false, "write the contracts in testdata afresh")

// TestFilesAreStable: the contracts that the other tests write are those in testdata,
// to the byte, so that a committed contract changes only where what it says does.
func TestFilesAreStable(t *testing.T) {
	needCore(t)
	for name, write := range map[string]func(*testing.T) string{
		"window-shelf.json": writeREST, "visitor-desk.json": writeGRPC, "buyer-shelf.json": writeEvent,
	} {
		got, err := os.ReadFile(filepath.Join(write(t), name))
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name)
		if *update {
			if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(golden); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what it was (%v); if that is right, run with -update:\n%s", name, err, got)
		}
	}
}

// TestValuesOfTheState: what only the provider knows stands in the request.
func TestValuesOfTheState(t *testing.T) {
	needCore(t)
	dir := t.TempDir()
	contracttest.Consumer{Name: "app", Provider: "shop", Dir: dir}.REST(t, contracttest.REST{
		Name: "reading an order", Given: contracttest.Given("an order"),
		Request:  contracttest.Request{Path: match.FromState("/orders/${id}", "/orders/o-1"), Query: map[string]any{"of": match.Array{"a", match.Like("b")}}},
		Response: contracttest.Response{Body: match.Object{"n": match.Integer(1)}},
	}, func(ctx context.Context, url string) error { return fetch(ctx, url+"/orders/o-1?of=a&of=b") })
	asked := ""
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]int{"n": 7})
	}))
	defer service.Close()
	contracttest.Verify(t, contracttest.Provider{
		Name: "shop", Pacts: pact.Dir(dir), URL: service.URL,
		States: map[string]contracttest.StateFunc{
			"an order": func(_ context.Context, s *contracttest.State) error { s.Set("id", "o-77"); return nil },
		},
	})
	if asked != "/orders/o-77?of=a&of=b" {
		t.Errorf("the provider was asked for %s", asked)
	}
}

func fetch(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

// TestExchangesOfOneTest: a consumer that makes a gRPC call and an HTTP request in
// one go, and a provider that takes both.
func TestExchangesOfOneTest(t *testing.T) {
	needCore(t)
	dir := t.TempDir()
	c := contracttest.Consumer{Name: "visitor", Provider: "desk", Dir: dir}
	c.Exchanges(t, []contracttest.Exchange{
		contracttest.REST{Name: "looking", Request: contracttest.Request{Path: "/look"}},
		contracttest.GRPC{
			Name: "waiting", Method: grpc_testing.TestService_StreamingOutputCall_FullMethodName,
			Request: &grpc_testing.StreamingOutputCallRequest{}, Stream: match.Array{},
		},
	}, func(ctx context.Context, m contracttest.Mock) error {
		s, err := grpc_testing.NewTestServiceClient(m.Conn).StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{})
		if err != nil {
			return err
		}
		_, _ = s.Recv() // the end
		return fetch(ctx, m.URL+"/look")
	})
	p := goodDesk().provider(t, dir)
	p.REST = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	contracttest.Verify(t, p)
}

// TestDeadlines: a consumer that waits longer than it has said, or without end,
// breaks its own contract.
func TestDeadlines(t *testing.T) {
	needCore(t)
	for name, allow := range map[string]time.Duration{"too long": 30 * time.Second, "without end": 0} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			said := trial(t, func(tb testing.TB) {
				contracttest.Consumer{Name: "visitor", Provider: "desk", Dir: dir, Timeout: time.Minute}.GRPC(tb, contracttest.GRPC{
					Name: "asking", Method: grpc_testing.TestService_UnaryCall_FullMethodName, Deadline: 2 * time.Second,
					Request: &grpc_testing.SimpleRequest{}, Response: match.Object{},
				}, func(ctx context.Context, conn *grpc.ClientConn) error {
					ctx = context.WithoutCancel(ctx)
					if allow > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, allow)
						defer cancel()
					}
					_, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(ctx, &grpc_testing.SimpleRequest{})
					return err
				})
			})
			wants(t, strings.ToLower(said), "asking", "grpc-timeout")
		})
	}
}

// TestConsumersInParallel: tests of one consumer run side by side and write one file.
func TestConsumersInParallel(t *testing.T) {
	needCore(t)
	dir := t.TempDir()
	const n = 8
	t.Run("all", func(t *testing.T) {
		for i := range n {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				path := fmt.Sprintf("/%d", i)
				contracttest.Consumer{Name: "a", Provider: "b", Dir: dir}.REST(t, contracttest.REST{
					Name: "reading " + path, Request: contracttest.Request{Path: path},
				}, func(ctx context.Context, url string) error { return fetch(ctx, url+path) })
			})
		}
	})
	f, err := pact.Read(filepath.Join(dir, "a-b.json"))
	if err != nil || len(f.Interactions) != n {
		t.Errorf("%v, %+v", err, f)
	}
}

// listed is a source that keeps what it is told.
type listed struct {
	of      pact.Source
	pending bool
	got     []pact.Verification
	fails   error
}

func (l *listed) Pacts(ctx context.Context, provider string) ([]pact.Pact, error) {
	all, err := l.of.Pacts(ctx, provider)
	for i := range all {
		all[i].Pending = l.pending
		all[i].Publish = func(_ context.Context, v pact.Verification) error {
			l.got = append(l.got, v)
			return l.fails
		}
	}
	return all, err
}

func TestPublishingAndPending(t *testing.T) {
	needCore(t)
	dir := writeREST(t)
	broken := &shelf{spoil: func(_ http.Header, b map[string]any) int { delete(b, "price"); return 0 }}

	l := &listed{of: pact.Dir(dir), pending: true}
	p := broken.provider(dir)
	p.Pacts, p.Version, p.Branch = l, "abc", "main"
	contracttest.Verify(t, p) // does not fail
	r, err := contracttest.Check(t.Context(), p)
	if err != nil || len(r.Flagged()) != 0 || !r.Contracts[0].Broken() {
		t.Errorf("pending: %v, %+v", err, r)
	}
	if len(l.got) != 2 || l.got[0].Success || l.got[0].Version != "abc" || l.got[0].Branch != "main" || len(l.got[0].Results) != 1 {
		t.Errorf("published %+v", l.got)
	}

	l.pending, l.fails = false, errors.New("the broker is away")
	if _, err := contracttest.Check(t.Context(), p); err == nil || !strings.Contains(err.Error(), "the broker is away") {
		t.Errorf("got %v", err)
	}
	l.got, l.fails, p.Version = nil, nil, ""
	if r, err := contracttest.Check(t.Context(), p); err != nil || !slices.Equal(r.Flagged(), []string{"window"}) || l.got != nil {
		t.Errorf("without a version: %v, %+v, %+v", err, r, l.got)
	}
}

// TestWithoutTheLibrary: skipped with one line, or failed where it is required.
func TestWithoutTheLibrary(t *testing.T) {
	_, err := contracttest.Check(t.Context(), contracttest.Provider{Name: "p", Pacts: pact.Dir("."), REST: http.NotFoundHandler()})
	if err == nil || !strings.Contains(err.Error(), "contract install") {
		t.Skip("the library is there")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %v", err)
	}
	t.Setenv("NAPKIN_TEST_REQUIRE", "postgres,pact")
	said := trial(t, func(t testing.TB) {
		contracttest.Consumer{Name: "a", Provider: "b"}.REST(t, readingAProduct, nil)
	})
	wants(t, said, "contract install", "contract test")
}
