// Package sink receives what the store sends to its customers: e-mail over SMTP, SMS and push over HTTP.
// It delivers nothing. It keeps every message, duplicates too, in a database of its own, so that it can
// judge what the store says it has sent.
//
//	POST /sms, POST /push   {"id", "to", "text"}: 202
//	GET  /messages          [?channel=&message_id=&to=&after=]: {"messages": […], "last"}
package sink

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/mail"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// maxMessage bounds one message, in bytes.
const maxMessage = 1 << 20

// Message is one that was received. Those with one ID are the same message, handed over again.
type Message struct {
	Seq        int64     `json:"seq"`
	Channel    string    `json:"channel"` // email, sms or push
	ID         string    `json:"message_id"`
	To         string    `json:"to"`
	Subject    string    `json:"subject,omitempty"`
	Body       string    `json:"body"`
	ReceivedAt time.Time `json:"received_at"`
}

// Sink stores messages. It is safe for concurrent use.
type Sink struct {
	db  *sqldb.DB
	now func() time.Time
}

// New migrates db, which the caller owns, and returns a sink on it. A nil now means time.Now.
func New(ctx context.Context, db *sqldb.DB, now func() time.Time) (*Sink, error) {
	if db == nil {
		return nil, errors.New("sink: give it a database of its own")
	}
	if now == nil {
		now = time.Now
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := migrate.Up(ctx, db, "sink", files); err != nil {
		return nil, err
	}
	return &Sink{db: db, now: now}, nil
}

func (s *Sink) store(ctx context.Context, m Message) error {
	_, err := s.db.Write.ExecContext(ctx, `INSERT INTO messages (channel, message_id, recipient, subject, body, received_at)
		VALUES ($1, $2, $3, $4, $5, $6)`, m.Channel, m.ID, m.To, m.Subject, m.Body, sqldb.Micros(s.now()))
	return err
}

// Handler is the HTTP side.
func (s *Sink) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /sms", s.receive("sms"))
	mux.HandleFunc("POST /push", s.receive("push"))
	mux.HandleFunc("GET /messages", s.list)
	return mux
}

func (s *Sink) receive(channel string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in struct{ ID, To, Text string }
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil || in.ID == "" || in.To == "" {
			http.Error(w, `send {"id", "to", "text"}, id and to not empty`, http.StatusBadRequest)
			return
		}
		if err := s.store(r.Context(), Message{Channel: channel, ID: in.ID, To: in.To, Body: in.Text}); err != nil {
			http.Error(w, "not stored; send it again", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

func (s *Sink) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after := int64(0)
	if v := q.Get("after"); v != "" {
		var err error
		if after, err = strconv.ParseInt(v, 10, 64); err != nil {
			http.Error(w, "after is a message's seq", http.StatusBadRequest)
			return
		}
	}
	messages, err := s.Messages(r.Context(), q.Get("channel"), q.Get("message_id"), q.Get("to"), after)
	if err != nil {
		http.Error(w, "the messages cannot be read just now", http.StatusServiceUnavailable)
		return
	}
	last := after
	if n := len(messages); n > 0 {
		last = messages[n-1].Seq
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"messages": messages, "last": last}) // a reader that has gone away needs no answer
}

// Messages are those received after seq, oldest first, 1000 at most. An empty filter matches all.
func (s *Sink) Messages(ctx context.Context, channel, id, to string, after int64) ([]Message, error) {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT seq, channel, message_id, recipient, subject, body, received_at FROM messages
		WHERE seq > $1 AND ($2 = '' OR channel = $2) AND ($3 = '' OR message_id = $3) AND ($4 = '' OR recipient = $4)
		ORDER BY seq LIMIT 1000`, after, channel, id, to)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Message{}
	for rows.Next() {
		var m Message
		var at int64
		if err := rows.Scan(&m.Seq, &m.Channel, &m.ID, &m.To, &m.Subject, &m.Body, &at); err != nil {
			return nil, err
		}
		m.ReceivedAt = sqldb.FromMicros(at)
		out = append(out, m)
	}
	return out, rows.Err()
}

// SMTP is the mail side: serve it on a listener of the caller's, and close it at the end.
func (s *Sink) SMTP() *smtp.Server {
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{sink: s}, nil }))
	srv.Domain = "sink.shop.test"
	srv.MaxMessageBytes = maxMessage
	srv.MaxRecipients = 10
	srv.ReadTimeout, srv.WriteTimeout = 30*time.Second, 30*time.Second
	return srv
}

// session is one SMTP conversation.
type session struct {
	sink *Sink
	to   []string
}

func (c *session) Reset()                                    { c.to = nil }
func (c *session) Logout() error                             { return nil }
func (c *session) Mail(string, *smtp.MailOptions) error      { c.to = nil; return nil }
func (c *session) Rcpt(to string, _ *smtp.RcptOptions) error { c.to = append(c.to, to); return nil }

// Data stores the message before it is accepted, so that an accepted one is never lost.
func (c *session) Data(r io.Reader) error {
	m, err := mail.ReadMessage(r)
	if err != nil {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "not a message (RFC 5322)"}
	}
	body, err := io.ReadAll(m.Body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, to := range c.to {
		err := c.sink.store(ctx, Message{
			Channel: "email", ID: strings.Trim(m.Header.Get("Message-ID"), "<> "), To: to,
			Subject: decodeHeader(m.Header.Get("Subject")), Body: string(body),
		})
		if err != nil {
			return fmt.Errorf("451 4.3.0 not stored; send it again: %w", err)
		}
	}
	return nil
}
