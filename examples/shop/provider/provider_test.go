package provider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sim is a simulator behind a server, with a clock that the test moves.
type sim struct {
	t      *testing.T
	server *httptest.Server
	skew   atomic.Int64
}

func start(t *testing.T, cfg provider.Config) *sim {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "provider.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := &sim{t: t}
	cfg.DB, cfg.Key, cfg.Logger = db, "sk_test", slog.New(slog.DiscardHandler)
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }
	p, err := provider.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.server = httptest.NewServer(p.Handler())
	t.Cleanup(func() { p.Close(); s.server.Close() })
	return s
}

// post answers the status and the operation; status 0 means no answer came.
func (s *sim) post(path, key string, body any) (int, provider.Operation) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 300*time.Millisecond)
	defer cancel()
	raw, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, s.server.URL+path, bytes.NewReader(raw))
	if err != nil {
		s.t.Fatal(err)
	}
	rq.Header.Set("Idempotency-Key", key)
	return s.do(rq)
}

func (s *sim) query(key string) (int, provider.Operation) {
	s.t.Helper()
	rq, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.server.URL+"/v1/operations/"+key, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do(rq)
}

func (s *sim) do(rq *http.Request) (int, provider.Operation) {
	s.t.Helper()
	rq.Header.Set("Authorization", "Bearer sk_test")
	resp, err := s.server.Client().Do(rq)
	if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
		return 0, provider.Operation{}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var op provider.Operation
	if err := json.NewDecoder(resp.Body).Decode(&op); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, op
}

func (s *sim) account(reference string) provider.Account {
	s.t.Helper()
	rq, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.server.URL+"/v1/ledger?reference="+reference, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	rq.Header.Set("Authorization", "Bearer sk_test")
	resp, err := s.server.Client().Do(rq)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var ledger provider.LedgerResponse
	if err := json.NewDecoder(resp.Body).Decode(&ledger); err != nil {
		s.t.Fatal(err)
	}
	if len(ledger.Accounts) == 0 {
		return provider.Account{}
	}
	return ledger.Accounts[0]
}

func charge(card string) provider.AuthorizationRequest {
	return provider.AuthorizationRequest{
		Amount: 1999, Currency: "EUR", Reference: "ord_1",
		Card: provider.Card{Number: card, ExpMonth: 12, ExpYear: time.Now().Year() + 2},
	}
}

func TestChargeAndRefund(t *testing.T) {
	s := start(t, provider.Config{})
	code, auth := s.post("/v1/authorizations", "k1", charge("4242424242424242"))
	if code != http.StatusCreated || auth.Status != provider.Succeeded {
		t.Fatalf("authorise: %d %+v", code, auth)
	}
	path := "/v1/authorizations/" + auth.AuthorizationID
	if code, op := s.post(path+"/capture", "k2", provider.AmountRequest{Amount: 1999}); code != http.StatusCreated {
		t.Fatalf("capture: %d %+v", code, op)
	}
	if code, op := s.post(path+"/void", "k3", struct{}{}); code != http.StatusConflict || op.Reason != "already_captured" {
		t.Fatalf("void after capture: %d %+v", code, op)
	}
	if code, op := s.post(path+"/refund", "k4", provider.AmountRequest{Amount: 1999}); code != http.StatusCreated {
		t.Fatalf("refund: %d %+v", code, op)
	}
	if code, op := s.post(path+"/refund", "k5", provider.AmountRequest{Amount: 1}); code != http.StatusConflict {
		t.Fatalf("refund of more than was captured: %d %+v", code, op)
	}
	want := provider.Account{Reference: "ord_1", Authorized: 1999, Captured: 1999, Refunded: 1999, Authorizations: 1, Operations: 5}
	if got := s.account("ord_1"); got != want {
		t.Fatalf("ledger %+v, want %+v", got, want)
	}
}

func TestOneKeyOneCharge(t *testing.T) {
	s := start(t, provider.Config{})
	_, first := s.post("/v1/authorizations", "k", charge("4242424242424242"))
	code, again := s.post("/v1/authorizations", "k", charge("4242424242424242"))
	if code != http.StatusCreated || again.AuthorizationID != first.AuthorizationID {
		t.Fatalf("the same key answered %d %+v, first %+v", code, again, first)
	}
	other := charge("4242424242424242")
	other.Amount = 1
	if code, _ := s.post("/v1/authorizations", "k", other); code != http.StatusUnprocessableEntity {
		t.Fatalf("the same key with another body: %d", code)
	}
	if got := s.account("ord_1").Authorizations; got != 1 {
		t.Fatalf("%d authorisations", got)
	}
}

func TestDeclines(t *testing.T) {
	s := start(t, provider.Config{})
	expired := charge("4242424242424242")
	expired.Card.ExpYear = 2020
	for i, c := range []struct {
		rq     provider.AuthorizationRequest
		reason string
	}{
		{charge("4000000000000002"), "card_declined"},
		{charge("4000000000009995"), "insufficient_funds"},
		{expired, "expired_card"},
	} {
		code, op := s.post("/v1/authorizations", fmt.Sprint(i), c.rq)
		if code != http.StatusPaymentRequired || op.Status != provider.Declined || op.Reason != c.reason {
			t.Errorf("%s: %d %+v", c.reason, code, op)
		}
	}
	if code, _ := s.post("/v1/authorizations", "luhn", charge("4242424242424241")); code != http.StatusBadRequest {
		t.Errorf("a number that fails the Luhn check: %d", code)
	}
	if got := s.account("ord_1"); got.Authorized != 0 || got.Authorizations != 0 {
		t.Errorf("declined, yet %+v", got)
	}
}

func TestAmbiguousCardChargesWithoutAnswering(t *testing.T) {
	s := start(t, provider.Config{})
	if code, _ := s.post("/v1/authorizations", "k", charge("4000000000000119")); code != 0 {
		t.Fatalf("answered %d", code)
	}
	code, op := s.query("k")
	if code != http.StatusOK || op.Status != provider.Succeeded || op.AuthorizationID == "" {
		t.Fatalf("query: %d %+v", code, op)
	}
}

func TestLateCapture(t *testing.T) {
	s := start(t, provider.Config{LateBy: time.Hour})
	_, auth := s.post("/v1/authorizations", "k1", charge("4000000000000259"))
	code, op := s.post("/v1/authorizations/"+auth.AuthorizationID+"/capture", "k2", provider.AmountRequest{Amount: 1999})
	if code != http.StatusAccepted || op.Status != provider.Pending {
		t.Fatalf("capture: %d %+v", code, op)
	}
	if got := s.account("ord_1").Captured; got != 0 {
		t.Fatalf("captured %d before its time", got)
	}
	s.skew.Store(int64(2 * time.Hour))
	if _, op := s.query("k2"); op.Status != provider.Succeeded {
		t.Fatalf("later: %+v", op)
	}
	if got := s.account("ord_1").Captured; got != 1999 {
		t.Fatalf("captured %d", got)
	}
}

func TestRefundFailsFirst(t *testing.T) {
	s := start(t, provider.Config{})
	_, auth := s.post("/v1/authorizations", "k1", charge("4000000000005126"))
	path := "/v1/authorizations/" + auth.AuthorizationID
	s.post(path+"/capture", "k2", provider.AmountRequest{Amount: 1999})
	for i, want := range []int{503, 503, 201, 201} {
		if code, _ := s.post(path+"/refund", "k3", provider.AmountRequest{Amount: 1999}); code != want {
			t.Fatalf("attempt %d: %d, want %d", i, code, want)
		}
	}
	if got := s.account("ord_1").Refunded; got != 1999 {
		t.Fatalf("refunded %d", got)
	}
}

func TestReverse(t *testing.T) {
	t.Run("takes an authorisation back", func(t *testing.T) {
		s := start(t, provider.Config{})
		s.post("/v1/authorizations", "k1", charge("4242424242424242"))
		code, op := s.post("/v1/operations/k1/reverse", "k2", struct{}{})
		if code != http.StatusCreated || op.AuthorizationID == "" || op.Amount != 1999 {
			t.Fatalf("reverse: %d %+v", code, op)
		}
		if got := s.account("ord_1"); got.Voided != 1999 {
			t.Fatalf("ledger %+v", got)
		}
	})
	t.Run("refuses one that comes later", func(t *testing.T) {
		s := start(t, provider.Config{})
		if code, op := s.post("/v1/operations/k1/reverse", "k2", struct{}{}); code != http.StatusCreated || op.Reason != "nothing_to_reverse" {
			t.Fatalf("reverse: %d %+v", code, op)
		}
		code, op := s.post("/v1/authorizations", "k1", charge("4242424242424242"))
		if code != http.StatusConflict || op.Reason != "reversed" {
			t.Fatalf("late authorisation: %d %+v", code, op)
		}
	})
}

func TestFaults(t *testing.T) {
	var fault atomic.Int64
	s := start(t, provider.Config{Fault: func(provider.Kind, string) provider.Fault { return provider.Fault(fault.Load()) }})
	for _, c := range []struct {
		fault          provider.Fault
		status, lookup int
	}{
		{provider.LoseRequest, 0, http.StatusNotFound},
		{provider.LoseAnswer, 0, http.StatusOK},
		{provider.Unavailable, http.StatusServiceUnavailable, http.StatusNotFound},
		{provider.FailAfter, http.StatusInternalServerError, http.StatusOK},
	} {
		fault.Store(int64(c.fault))
		key := fmt.Sprint("fault-", c.fault)
		if code, _ := s.post("/v1/authorizations", key, charge("4242424242424242")); code != c.status {
			t.Errorf("fault %d: answered %d, want %d", c.fault, code, c.status)
		}
		if code, _ := s.query(key); code != c.lookup {
			t.Errorf("fault %d: query %d, want %d", c.fault, code, c.lookup)
		}
	}
}

func TestWrongKeyIsRefused(t *testing.T) {
	s := start(t, provider.Config{})
	rq, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+"/v1/ledger", nil)
	rq.Header.Set("Authorization", "Bearer sk_other")
	resp, err := s.server.Client().Do(rq)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("status %d", resp.StatusCode)
	}
}
