package sink_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"path/filepath"
	"strings"
	"testing"

	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestSinkKeepsEveryHandover(t *testing.T) {
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "sink.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s, err := sink.New(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := s.SMTP()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })

	mail := "Message-ID: <ntf_1@shop.test>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nTo: a@example.test\r\n\r\nYour order is confirmed.\r\n"
	for range 2 { // at least once: the second is a duplicate under the same id
		if err := smtp.SendMail(l.Addr().String(), nil, "shop@shop.test", []string{"a@example.test"}, []byte(mail)); err != nil {
			t.Fatal(err)
		}
	}
	if err := smtp.SendMail(l.Addr().String(), nil, "shop@shop.test", []string{"a@example.test"}, []byte("no header at all")); err == nil {
		t.Error("what is no message was accepted")
	}
	got, err := s.Messages(context.Background(), "email", "ntf_1@shop.test", "", 0)
	if err != nil || len(got) != 2 || got[0].Subject != "Grüße" || got[0].To != "a@example.test" {
		t.Fatalf("%+v, %v", got, err)
	}

	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	for body, want := range map[string]int{
		`{"id":"ntf_2","to":"+491234567","text":"confirmed"}`: 202,
		`{"id":"","to":"x","text":""}`:                        400,
		`{"id":"1","to":"x","text":"","extra":1}`:             400,
		`{`: 400,
	} {
		resp, err := http.Post(h.URL+"/sms", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", body, resp.StatusCode, want)
		}
	}
	resp, err := http.Get(h.URL + "/messages?channel=sms")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct {
		Messages []sink.Message
		Last     int64
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list.Messages) != 1 || list.Messages[0].ID != "ntf_2" || list.Last != 3 {
		t.Errorf("%+v, %v", list, err)
	}
}
