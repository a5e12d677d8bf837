package transport_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/transport"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

const callTimeout = 250 * time.Millisecond

// till is a payment database with its worker, and a provider that is a program
// of its own as far as the worker can tell.
type till struct {
	t        *testing.T
	db       *sqldb.DB
	vault    *store.Vault
	acquirer *transport.Acquirer
	url      string
	book     func(reference string) provider.Account

	mu      sync.Mutex
	replies []string
	seen    chan struct{}
}

// onBoth runs a test on SQLite and on PostgreSQL.
func onBoth(t *testing.T, cfg provider.Config, test func(t *testing.T, s *till)) {
	t.Run("sqlite", func(t *testing.T) {
		test(t, openTill(t, openSQLite(t, "payment.db"), cfg))
	})
	t.Run("postgres", func(t *testing.T) { test(t, openTill(t, pgtest.DB(t), cfg)) })
}

func openSQLite(t *testing.T, name string) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), name), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func openTill(t *testing.T, db *sqldb.DB, cfg provider.Config) *till {
	t.Helper()
	cfg.DB, cfg.Key, cfg.Logger = openSQLite(t, "provider.db"), "sk_test", slog.New(slog.DiscardHandler)
	sim, err := provider.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { sim.Close(); server.Close() })
	if err := migrate.Up(t.Context(), db, "payment", store.Migrations()); err != nil {
		t.Fatal(err)
	}
	key := make([]byte, domain.KeySize)
	_, _ = rand.Read(key)
	vault, err := domain.NewVault(key)
	if err != nil {
		t.Fatal(err)
	}
	acquirer, err := transport.NewAcquirer(server.URL, "sk_test", callTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(acquirer.Close)
	s := &till{t: t, db: db, vault: store.NewVault(db, vault), acquirer: acquirer, url: server.URL, seen: make(chan struct{}, 100)}
	s.book = func(reference string) provider.Account { return ledger(t, server.URL, reference) }
	return s
}

// start runs a worker until the returned function is called.
func (s *till) start(acquirer domain.Acquirer, point func(context.Context, string)) (w *transport.Worker, stop func()) {
	s.t.Helper()
	w = transport.NewWorker(transport.WorkerConfig{
		DB: s.db, Vault: s.vault, Acquirer: acquirer, CallTimeout: callTimeout, Concurrency: 8,
		Logger: slog.New(slog.DiscardHandler), Point: point,
		Reply: func(_ context.Context, _ *sql.Tx, c domain.Claim, o domain.Outcome) error {
			s.mu.Lock()
			s.replies = append(s.replies, fmt.Sprintf("%s %s refused=%t %s", c.Intent.OrderID, c.Intent.Kind, o.Refused, o.Reason))
			s.mu.Unlock()
			s.seen <- struct{}{}
			return nil
		},
	})
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	stop = func() { cancel(); <-done }
	s.t.Cleanup(stop)
	return w, stop
}

// card stores a method for the customer "ann".
func (s *till) card(number string) string {
	s.t.Helper()
	m := domain.Method{
		ID: "pm_" + number[12:], UserID: "ann", Brand: domain.Brand(number), Last4: number[12:],
		ExpMonth: 12, ExpYear: time.Now().Year() + 2, CreatedAt: time.Now(),
	}
	if err := s.vault.Add(s.t.Context(), m, number); err != nil {
		s.t.Fatal(err)
	}
	return m.ID
}

// intend runs T1.
func (s *till) intend(fn func(ctx context.Context, b domain.Book) (domain.Decision, error)) domain.Decision {
	s.t.Helper()
	var d domain.Decision
	err := sqldb.InTx(s.t.Context(), s.db, func(ctx context.Context, tx *sql.Tx) (err error) {
		d, err = fn(ctx, store.Book(sqldb.StdTx(tx), s.db.Dialect))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *till) authorize(order, method string) domain.Decision {
	s.t.Helper()
	return s.intend(func(ctx context.Context, b domain.Book) (domain.Decision, error) {
		return domain.Authorize(ctx, b, "checkout/"+order+"/authorize", domain.Charge{
			OrderID: order, UserID: "ann", MethodID: method, Amount: 1999, Currency: "EUR",
		}, domain.Origin{}, time.Now())
	})
}

func (s *till) capture(order string) domain.Decision {
	s.t.Helper()
	return s.intend(func(ctx context.Context, b domain.Book) (domain.Decision, error) {
		return domain.Capture(ctx, b, "checkout/"+order+"/capture", order, 1999, domain.Origin{}, time.Now())
	})
}

func (s *till) void(order string) domain.Decision {
	s.t.Helper()
	return s.intend(func(ctx context.Context, b domain.Book) (domain.Decision, error) {
		return domain.Void(ctx, b, "checkout/"+order+"/authorize/undo", order, domain.Origin{}, time.Now())
	})
}

func (s *till) refund(order string) domain.Decision {
	s.t.Helper()
	return s.intend(func(ctx context.Context, b domain.Book) (domain.Decision, error) {
		return domain.Refund(ctx, b, "refund/"+order+"/refund", order, 1999, domain.Origin{}, time.Now())
	})
}

// reply waits for the next reply of the worker.
func (s *till) reply() string {
	s.t.Helper()
	select {
	case <-s.seen:
	case <-time.After(20 * time.Second):
		s.t.Fatal("no reply")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replies[len(s.replies)-1]
}

// check compares the order's ledger here with the provider's.
func (s *till) check(order string, want domain.Sums) {
	s.t.Helper()
	s.settled(order) // the reply is seen inside T2, a moment before it commits
	facts, err := store.Orders(s.t.Context(), s.db)
	if err != nil {
		s.t.Fatal(err)
	}
	f := facts[order]
	if f.Sums != want || f.OpenIntents != 0 {
		s.t.Errorf("our ledger: %+v, want %+v and nothing open", f, want)
	}
	p := s.book(order)
	theirs := domain.Sums{Authorized: p.Authorized, Voided: p.Voided, Captured: p.Captured, Refunded: p.Refunded}
	if theirs != want || p.Authorizations > 1 {
		s.t.Errorf("the provider's ledger: %+v, want %+v", p, want)
	}
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestChargeAndRefund(t *testing.T) {
	for _, number := range []string{
		"4242424242424242",
		"4000000000000119", // no operation is ever answered: queries find out
		"4000000000000259", // captured late
		"4000000000005126", // the refund fails twice first
	} {
		t.Run(number[12:], func(t *testing.T) {
			onBoth(t, provider.Config{LateBy: 300 * time.Millisecond}, func(t *testing.T, s *till) {
				w, _ := s.start(s.acquirer, nil)
				if d := s.authorize("o1", s.card(number)); !d.Deferred {
					t.Fatalf("%+v", d)
				}
				w.Wake()
				want(t, s.reply(), "o1 authorize refused=false ")
				s.capture("o1")
				w.Wake()
				want(t, s.reply(), "o1 capture refused=false ")
				if d := s.void("o1"); d.Refusal != "payment_captured" {
					t.Fatalf("void after capture: %+v", d)
				}
				s.refund("o1")
				w.Wake()
				want(t, s.reply(), "o1 refund refused=false ")
				if d := s.refund("o1"); d.Refusal == "" {
					t.Fatalf("a second refund: %+v", d)
				}
				s.check("o1", domain.Sums{Authorized: 1999, Captured: 1999, Refunded: 1999})
			})
		})
	}
}

func TestDeclined(t *testing.T) {
	onBoth(t, provider.Config{}, func(t *testing.T, s *till) {
		w, _ := s.start(s.acquirer, nil)
		s.authorize("o1", s.card("4000000000000002"))
		w.Wake()
		want(t, s.reply(), "o1 authorize refused=true card_declined")
		if d := s.void("o1"); d.Deferred || d.Refusal != "" {
			t.Fatalf("void of a declined payment: %+v", d)
		}
		if d := s.capture("o1"); d.Refusal != "payment_declined" {
			t.Fatalf("capture of a declined payment: %+v", d)
		}
		s.check("o1", domain.Sums{})
		if d := s.authorize("o2", "pm_of_somebody_else"); d.Refusal != "unknown_payment_method" {
			t.Fatalf("a method that is not the customer's: %+v", d)
		}
	})
}

func TestVoid(t *testing.T) {
	t.Run("of nothing", func(t *testing.T) {
		onBoth(t, provider.Config{}, func(t *testing.T, s *till) {
			if d := s.void("o1"); d.Deferred || d.Refusal != "" {
				t.Fatalf("%+v", d)
			}
		})
	})
	t.Run("before anybody called", func(t *testing.T) {
		onBoth(t, provider.Config{}, func(t *testing.T, s *till) {
			s.authorize("o1", s.card("4242424242424242")) // no worker runs
			if d := s.void("o1"); !d.Deferred {
				t.Fatalf("%+v", d)
			}
			w, _ := s.start(s.acquirer, func(_ context.Context, name string) {
				if name == "payment.authorize.called" {
					t.Error("an authorisation that was taken back was called")
				}
			})
			w.Wake()
			want(t, s.reply(), "o1 void refused=false nothing_to_reverse")
			s.check("o1", domain.Sums{})
		})
	})
	t.Run("of a known authorisation", func(t *testing.T) {
		onBoth(t, provider.Config{}, func(t *testing.T, s *till) {
			w, _ := s.start(s.acquirer, nil)
			s.authorize("o1", s.card("4242424242424242"))
			w.Wake()
			s.reply()
			if d := s.void("o1"); !d.Deferred {
				t.Fatalf("%+v", d)
			}
			w.Wake()
			want(t, s.reply(), "o1 void refused=false ")
			s.check("o1", domain.Sums{Authorized: 1999, Voided: 1999})
		})
	})
	// The void meets an authorisation that was sent and not answered. Whether it
	// took effect or never arrived, the end is the same on both sides.
	for name, fault := range map[string]provider.Fault{
		"of one that took effect unseen": provider.LoseAnswer,
		"of one that never arrived":      provider.LoseRequest,
	} {
		t.Run(name, func(t *testing.T) {
			faults := func(kind provider.Kind, _ string) provider.Fault {
				if kind == provider.Authorize {
					return fault
				}
				return provider.NoFault
			}
			onBoth(t, provider.Config{Fault: faults}, func(t *testing.T, s *till) {
				called := make(chan struct{}, 10)
				w, _ := s.start(s.acquirer, func(_ context.Context, name string) {
					if name == "payment.authorize.called" {
						called <- struct{}{}
					}
				})
				s.authorize("o1", s.card("4242424242424242"))
				w.Wake()
				<-called
				if d := s.void("o1"); !d.Deferred {
					t.Fatalf("%+v", d)
				}
				w.Wake()
				reply := s.reply()
				for reply == "o1 authorize refused=false " {
					reply = s.reply() // the query was quicker than the void
				}
				sums := domain.Sums{}
				if s.book("o1").Authorized > 0 {
					sums = domain.Sums{Authorized: 1999, Voided: 1999}
				}
				if !slices.Contains([]string{
					"o1 void refused=false ", "o1 void refused=false nothing_to_reverse",
					"o1 authorize refused=true reversed", // and with that nothing is left to void
				}, reply) {
					t.Fatalf("reply %q", reply)
				}
				s.check("o1", sums)
			})
		})
	}
}

// settled waits until no intent of the order is open.
func (s *till) settled(order string) {
	s.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		facts, err := store.Orders(s.t.Context(), s.db)
		if err != nil {
			s.t.Fatal(err)
		}
		if facts[order].OpenIntents == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("still open: %+v", facts[order])
		}
		select {
		case <-s.t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// A process that dies between the call and T2 leaves a claim that lapses. The
// next one asks the provider, and finds what happened, instead of calling again.
func TestCrashAfterCallIsQueriedNotRepeated(t *testing.T) {
	onBoth(t, provider.Config{}, func(t *testing.T, s *till) {
		s.authorize("o1", s.card("4242424242424242"))
		// The life before: claimed and called, never settled.
		claims, _, err := store.Claim(t.Context(), s.db, s.vault, time.Now(), 0, 1)
		if err != nil || len(claims) != 1 || claims[0].Ask {
			t.Fatalf("first claim: %+v %v", claims, err)
		}
		if _, err := domain.Perform(t.Context(), s.acquirer, claims[0]); err != nil {
			t.Fatal(err)
		}
		calls := &countingAcquirer{Acquirer: s.acquirer}
		w, _ := s.start(calls, nil)
		w.Wake()
		want(t, s.reply(), "o1 authorize refused=false ")
		if calls.authorized != 0 {
			t.Fatalf("called again %d times", calls.authorized)
		}
		s.check("o1", domain.Sums{Authorized: 1999})
	})
}

// A claim that lapsed is worked on twice; what the first one finds out later
// changes nothing.
func TestStaleClaimChangesNothing(t *testing.T) {
	onBoth(t, provider.Config{}, func(t *testing.T, s *till) {
		s.authorize("o1", s.card("4242424242424242"))
		claim := func() domain.Claim {
			claims, _, err := store.Claim(t.Context(), s.db, s.vault, time.Now(), 0, 1)
			if err != nil || len(claims) != 1 {
				t.Fatalf("%v %v", claims, err)
			}
			return claims[0]
		}
		settle := func(c domain.Claim, a domain.Answer) (o domain.Outcome) {
			s.intend(func(ctx context.Context, b domain.Book) (_ domain.Decision, err error) {
				o, err = domain.Settle(ctx, b, c, a, time.Now(), time.Now())
				return domain.Decision{}, err
			})
			return o
		}
		stale, current := claim(), claim()
		if o := settle(stale, domain.Answer{Verdict: domain.VerdictNotSent}); o.Reply {
			t.Fatalf("%+v", o)
		}
		if o := settle(current, domain.Answer{Verdict: domain.VerdictDone, AuthorizationID: "a"}); !o.Reply {
			t.Fatalf("%+v", o)
		}
		if o := settle(stale, domain.Answer{Verdict: domain.VerdictDone, AuthorizationID: "a"}); o.Reply {
			t.Fatalf("replied twice: %+v", o)
		}
	})
}

func TestProviderOutOfReachLosesNothing(t *testing.T) {
	onBoth(t, provider.Config{}, func(t *testing.T, s *till) {
		nobody := httptest.NewServer(nil)
		nobody.Close() // its port answers no more
		unreachable, err := transport.NewAcquirer(nobody.URL, "sk_test", callTimeout)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(unreachable.Close)
		tried := make(chan struct{}, 10)
		w, stop := s.start(unreachable, func(_ context.Context, name string) {
			if name == "payment.authorize.settled" {
				tried <- struct{}{}
			}
		})
		s.authorize("o1", s.card("4242424242424242"))
		w.Wake()
		<-tried
		<-tried // and tries again
		stop()
		w, _ = s.start(s.acquirer, nil)
		w.Wake()
		want(t, s.reply(), "o1 authorize refused=false ")
		s.check("o1", domain.Sums{Authorized: 1999})
	})
}
