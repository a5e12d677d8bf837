package transport

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/resilience"
)

// Acquirer speaks to the payment provider over HTTP. It is safe for concurrent
// use.
type Acquirer struct {
	base   string
	key    string
	client *http.Client
}

// NewAcquirer returns a client of the provider at base, such as
// "http://127.0.0.1:7070", with the merchant's key. One request takes at most
// timeout.
//
// The pipeline has a breaker and a bulkhead but makes no retries: whether an
// operation may be sent again is decided by a query (domain.Perform), never by
// a transport.
func NewAcquirer(base, key string, timeout time.Duration) (*Acquirer, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("payment: provider address %q: give an absolute http or https URL", base)
	}
	if key == "" {
		return nil, errors.New("payment: the provider's key is empty; set the merchant's bearer key")
	}
	dests, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: resilience.Config{
		Deadline: resilience.DeadlineConfig{Total: timeout, Attempt: timeout},
		Retry:    resilience.RetryConfig{Off: true},
	}})
	if err != nil {
		return nil, fmt.Errorf("payment: provider client: %w", err)
	}
	return &Acquirer{
		base: strings.TrimSuffix(base, "/"),
		key:  key,
		client: &http.Client{
			Transport: resilience.NewTransport(&http.Transport{
				MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
				DialContext: (&net.Dialer{Timeout: timeout}).DialContext,
			}, dests),
			Timeout: timeout,
			// A redirect would carry the key, and a card, to somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close lets go of idle connections.
func (a *Acquirer) Close() { a.client.CloseIdleConnections() }

// The provider's JSON, as far as this service reads and writes it.
type (
	cardBody struct {
		Number   string `json:"number"`
		ExpMonth int    `json:"exp_month"`
		ExpYear  int    `json:"exp_year"`
	}
	authorizationBody struct {
		Amount    int64    `json:"amount"`
		Currency  string   `json:"currency"`
		Reference string   `json:"reference"`
		Card      cardBody `json:"card"`
	}
	amountBody struct {
		Amount int64 `json:"amount"`
	}
	operationBody struct {
		Status          string `json:"status"`
		Reason          string `json:"reason"`
		AuthorizationID string `json:"authorization_id"`
		Amount          int64  `json:"amount"`
	}
)

// Authorize implements domain.Acquirer.
func (a *Acquirer) Authorize(ctx context.Context, key string, card domain.Card, amount int64, currency, reference string) (domain.Answer, error) {
	return a.post(ctx, "/v1/authorizations", key, authorizationBody{
		Amount: amount, Currency: currency, Reference: reference,
		Card: cardBody{Number: card.Number, ExpMonth: card.ExpMonth, ExpYear: card.ExpYear},
	})
}

// Capture implements domain.Acquirer.
func (a *Acquirer) Capture(ctx context.Context, key, authorizationID string, amount int64) (domain.Answer, error) {
	return a.post(ctx, "/v1/authorizations/"+url.PathEscape(authorizationID)+"/capture", key, amountBody{Amount: amount})
}

// Void implements domain.Acquirer.
func (a *Acquirer) Void(ctx context.Context, key, authorizationID string) (domain.Answer, error) {
	return a.post(ctx, "/v1/authorizations/"+url.PathEscape(authorizationID)+"/void", key, struct{}{})
}

// Refund implements domain.Acquirer.
func (a *Acquirer) Refund(ctx context.Context, key, authorizationID string, amount int64) (domain.Answer, error) {
	return a.post(ctx, "/v1/authorizations/"+url.PathEscape(authorizationID)+"/refund", key, amountBody{Amount: amount})
}

// Reverse implements domain.Acquirer.
func (a *Acquirer) Reverse(ctx context.Context, key, otherKey string) (domain.Answer, error) {
	return a.post(ctx, "/v1/operations/"+url.PathEscape(otherKey)+"/reverse", key, struct{}{})
}

// Query implements domain.Acquirer.
func (a *Acquirer) Query(ctx context.Context, key string) (domain.Answer, error) {
	return a.do(ctx, http.MethodGet, "/v1/operations/"+url.PathEscape(key), "", nil)
}

func (a *Acquirer) post(ctx context.Context, path, key string, body any) (domain.Answer, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return domain.Answer{}, fmt.Errorf("%w: encode: %w", domain.ErrNotSent, err)
	}
	return a.do(ctx, http.MethodPost, path, key, raw)
}

func (a *Acquirer) do(ctx context.Context, method, path, key string, body []byte) (domain.Answer, error) {
	rq, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return domain.Answer{}, fmt.Errorf("%w: %w", domain.ErrNotSent, err)
	}
	rq.Header.Set("Authorization", "Bearer "+a.key)
	if key != "" {
		rq.Header.Set("Idempotency-Key", key)
		rq.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.client.Do(rq)
	if err != nil {
		if neverSent(err) {
			return domain.Answer{}, fmt.Errorf("%w: %w", domain.ErrNotSent, err)
		}
		return domain.Answer{}, fmt.Errorf("payment: provider: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return domain.Answer{}, fmt.Errorf("payment: provider: read answer: %w", err)
	}
	return verdict(method, resp.StatusCode, raw)
}

// verdict reads an answer. What is not certain is an error: it leaves the
// outcome unknown.
func verdict(method string, code int, raw []byte) (domain.Answer, error) {
	switch {
	case code == http.StatusNotFound && method == http.MethodGet:
		return domain.Answer{Verdict: domain.VerdictAbsent}, nil
	case code == http.StatusOK, code == http.StatusCreated, code == http.StatusAccepted,
		code == http.StatusPaymentRequired, code == http.StatusConflict:
	case code == http.StatusBadRequest:
		// Refused before anything was done, for what we sent.
		return domain.Answer{Verdict: domain.VerdictRefused, Reason: "rejected_by_provider"}, nil
	default:
		return domain.Answer{}, fmt.Errorf("payment: provider answered %d", code)
	}
	var op operationBody
	if err := json.Unmarshal(raw, &op); err != nil {
		return domain.Answer{}, fmt.Errorf("payment: provider answered %d with something else than JSON", code)
	}
	answer := domain.Answer{Reason: op.Reason, AuthorizationID: op.AuthorizationID, Amount: op.Amount}
	switch op.Status {
	case "succeeded":
		answer.Verdict = domain.VerdictDone
	case "pending":
		answer.Verdict = domain.VerdictPending
	case "declined", "refused":
		answer.Verdict = domain.VerdictRefused
	default:
		return domain.Answer{}, fmt.Errorf("payment: provider answered %d with status %q", code, op.Status)
	}
	return answer, nil
}

// neverSent reports whether err proves that no byte of the request left: a
// policy of this process refused it, or no connection was made.
func neverSent(err error) bool {
	if resilience.IsLocalRejection(err) {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
