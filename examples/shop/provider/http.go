package provider

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Card is a card as the API takes it.
type Card struct {
	Number   string `json:"number"`
	ExpMonth int    `json:"exp_month"`
	ExpYear  int    `json:"exp_year"`
}

// AuthorizationRequest is the body of POST /v1/authorizations.
type AuthorizationRequest struct {
	Amount    int64  `json:"amount"`
	Currency  string `json:"currency"`
	Reference string `json:"reference"`
	Card      Card   `json:"card"`
}

// AmountRequest is the body of a capture and a refund.
type AmountRequest struct {
	Amount int64 `json:"amount"`
}

// LedgerResponse is the body of GET /v1/ledger.
type LedgerResponse struct {
	Accounts []Account `json:"accounts"`
}

// ErrorResponse is the body of an error that is no outcome of an operation.
type ErrorResponse struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

const maxBody = 16 << 10

// Handler returns the API.
func (s *Simulator) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/authorizations", s.post(Authorize))
	mux.HandleFunc("POST /v1/authorizations/{id}/capture", s.post(Capture))
	mux.HandleFunc("POST /v1/authorizations/{id}/void", s.post(Void))
	mux.HandleFunc("POST /v1/authorizations/{id}/refund", s.post(Refund))
	mux.HandleFunc("POST /v1/operations/{key}/reverse", s.post(Reverse))
	mux.HandleFunc("GET /v1/operations/{key}", s.getOperation)
	mux.HandleFunc("GET /v1/ledger", s.getLedger)
	want := sha256.Sum256([]byte("Bearer " + s.cfg.Key))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			fail(w, http.StatusUnauthorized, "unauthorized", "send Authorization: Bearer <key>")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// post handles an operation of one kind: read, break what is to be broken,
// record, answer.
func (s *Simulator) post(kind Kind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rq, bad := s.parse(w, r, kind)
		if bad != nil {
			fail(w, http.StatusBadRequest, bad.Code, bad.Message)
			return
		}
		behaviour, err := s.behaviour(r.Context(), rq)
		if err != nil {
			s.failed(w, err)
			return
		}
		fault := s.cfg.Fault(kind, rq.key)
		if behaviour == Ambiguous && fault == NoFault {
			fault = LoseAnswer
		}
		if behaviour == RefundFails && kind == Refund {
			n, err := s.book.countFailure(r.Context(), rq.key)
			if err != nil {
				s.failed(w, err)
				return
			}
			if n <= refundFailures {
				fault = Unavailable
			}
		}
		switch fault {
		case LoseRequest:
			s.hang(r)
			return
		case Unavailable:
			w.Header().Set("Retry-After", "1")
			fail(w, http.StatusServiceUnavailable, "unavailable", "try again later")
			return
		}
		// Recorded even where the caller has gone: its going is no answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Second)
		defer cancel()
		op, replayed, err := s.book.record(ctx, rq)
		if err != nil {
			s.failed(w, err)
			return
		}
		s.cfg.Logger.Info("provider operation", "kind", op.Kind, "key", op.Key, "reference", op.Reference,
			"status", op.Status, "reason", op.Reason, "replayed", replayed)
		switch fault {
		case LoseAnswer:
			s.hang(r)
		case FailAfter:
			fail(w, http.StatusInternalServerError, "internal", "something went wrong; the outcome is not known")
		default:
			answer(w, op)
		}
	}
}

// parse reads a request; bad says what is wrong with it.
func (s *Simulator) parse(w http.ResponseWriter, r *http.Request, kind Kind) (rq request, bad *ErrorResponse) {
	rq = request{kind: kind, key: r.Header.Get("Idempotency-Key"), authID: r.PathValue("id"), target: r.PathValue("key")}
	if rq.key == "" || len(rq.key) > 255 {
		return rq, &ErrorResponse{"idempotency_key", "send an Idempotency-Key of 1 to 255 characters"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return rq, &ErrorResponse{"body", "the body could not be read"}
	}
	// Keyed, since a plain hash of a card number can be guessed back.
	mac := hmac.New(sha256.New, []byte(s.cfg.Key))
	_, _ = io.WriteString(mac, r.Method+" "+r.URL.Path+"\n")
	_, _ = mac.Write(body)
	rq.fingerprint = hex.EncodeToString(mac.Sum(nil))

	switch kind {
	case Authorize:
		var in AuthorizationRequest
		if err := json.Unmarshal(body, &in); err != nil {
			return rq, &ErrorResponse{"body", "the body is not the JSON of an authorisation"}
		}
		switch {
		case in.Amount <= 0:
			return rq, &ErrorResponse{"amount", "amount must be above 0"}
		case len(in.Currency) != 3 || in.Reference == "":
			return rq, &ErrorResponse{"body", "currency and reference are required"}
		case !luhn(in.Card.Number):
			return rq, &ErrorResponse{"card_number", "this is not a card number"}
		}
		rq.amount, rq.currency, rq.reference = in.Amount, in.Currency, in.Reference
		rq.behaviour = behaviourOf(in.Card.Number)
		// A card is good until the last moment of its month.
		ends := time.Date(in.Card.ExpYear, time.Month(in.Card.ExpMonth)+1, 1, 0, 0, 0, 0, time.UTC)
		rq.expired = !s.cfg.Now().Before(ends)
	case Capture, Refund:
		var in AmountRequest
		if err := json.Unmarshal(body, &in); err != nil || in.Amount <= 0 {
			return rq, &ErrorResponse{"amount", "amount must be above 0"}
		}
		rq.amount = in.Amount
	}
	return rq, nil
}

// behaviour finds the behaviour of the card behind rq.
func (s *Simulator) behaviour(ctx context.Context, rq request) (b Behaviour, err error) {
	switch rq.kind {
	case Authorize:
		return rq.behaviour, nil
	case Reverse:
		// The way out of ambiguity is not ambiguous itself.
		return Succeeds, nil
	}
	err = s.book.inTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
		a, err := s.book.authorization(ctx, tx, rq.authID)
		b = a.behaviour
		return err
	})
	return b, err
}

func (s *Simulator) getOperation(w http.ResponseWriter, r *http.Request) {
	var op Operation
	err := s.book.inTx(r.Context(), func(ctx context.Context, tx sqldb.Tx) (err error) {
		op, _, err = s.book.operation(ctx, tx, r.PathValue("key"))
		return err
	})
	if err != nil {
		s.failed(w, err)
		return
	}
	respond(w, http.StatusOK, op)
}

// Ledger returns what GET /v1/ledger does, for a reader in the same process.
func (s *Simulator) Ledger(ctx context.Context) ([]Account, error) { return s.book.accounts(ctx, "") }

func (s *Simulator) getLedger(w http.ResponseWriter, r *http.Request) {
	accounts, err := s.book.accounts(r.Context(), r.URL.Query().Get("reference"))
	if err != nil {
		s.failed(w, err)
		return
	}
	respond(w, http.StatusOK, LedgerResponse{Accounts: accounts})
}

func (s *Simulator) failed(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errNoOperation), errors.Is(err, errNoAuth):
		fail(w, http.StatusNotFound, "not_found", "there is no such thing")
	case errors.Is(err, errKeyReused):
		fail(w, http.StatusUnprocessableEntity, "idempotency_key_reused", "this key was used for another request")
	default:
		s.cfg.Logger.Error("provider request failed", "error", err)
		fail(w, http.StatusInternalServerError, "internal", "something went wrong; the outcome is not known")
	}
}

func answer(w http.ResponseWriter, op Operation) {
	code := http.StatusCreated
	switch op.Status {
	case Pending:
		code = http.StatusAccepted
	case Declined:
		code = http.StatusPaymentRequired
	case Refused:
		code = http.StatusConflict
	}
	respond(w, code, op)
}

func fail(w http.ResponseWriter, status int, code, message string) {
	respond(w, status, ErrorResponse{Code: code, Message: message})
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller may have gone
}
