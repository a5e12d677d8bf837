package idempotency_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

func TestHandlerThatIgnoresTheKeyIsReported(t *testing.T) {
	var log bytes.Buffer
	mw := middleware(t, idempotency.ServerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	plain := mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Case") {
		case "asks":
			if _, err := idempotency.Request(r.Context()); err != nil {
				t.Error(err)
			}
		case "refuses":
			w.WriteHeader(http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	for _, c := range []string{"asks", "refuses"} {
		post(plain, "k1", "x", func(r *http.Request) { r.Header.Set("Case", c) })
		if log.Len() > 0 {
			t.Errorf("a handler that %s was reported: %s", c, log.String())
		}
	}
	post(plain, "k1", "x")
	post(plain, "k2", "x")
	if got := log.String(); strings.Count(got, "ignores its idempotency key") != 1 || !strings.Contains(got, `operation="POST /orders"`) {
		t.Errorf("the log is %q, want one line that names the operation", got)
	}
}

type failingRunner struct{ sqldb.Runner[*sql.Tx] }

func (failingRunner) InTx(context.Context, func(context.Context, *sql.Tx) error) error {
	return errors.New("the books do not balance")
}

func TestErrorOfInTxIsLogged(t *testing.T) {
	var log bytes.Buffer
	h := middleware(t, idempotency.ServerConfig{
		Rule:   func(*http.Request) idempotency.Rule { return idempotency.Rule{Operation: "order"} },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})(idempotency.InTx[*sql.Tx](nil, failingRunner{}, nil))
	w := post(h, "k1", "x")
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "books") || !strings.Contains(log.String(), "the books do not balance") {
		t.Errorf("%d %s, the log is %q", w.Code, w.Body, log.String())
	}
}
