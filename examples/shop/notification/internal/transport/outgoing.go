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
	"net/textproto"
	"strconv"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/napkin-kit/napkin/examples/shop/notification/internal/domain"
)

// ErrRefused means that the receiving side will never take the notification.
var ErrRefused = errors.New("refused for good")

// sendTimeout bounds one hand-over.
const sendTimeout = 10 * time.Second

// Outgoing hands notifications over. It is safe for concurrent use.
type Outgoing struct {
	host, from  string
	port        int
	messagesURL string
	http        *http.Client
}

// NewOutgoing sends mail through the server at smtpAddr, SMS and push through messagesURL, which may be
// empty where neither is in use.
func NewOutgoing(smtpAddr, from, messagesURL string) (*Outgoing, error) {
	host, port, err := net.SplitHostPort(smtpAddr)
	if err != nil {
		return nil, fmt.Errorf("notification: SMTP address %q: give host:port", smtpAddr)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("notification: SMTP address %q: the port is no number", smtpAddr)
	}
	return &Outgoing{host: host, port: n, from: from, messagesURL: messagesURL, http: &http.Client{Timeout: sendTimeout}}, nil
}

// Send hands one notification over. It may do so twice if the answer is lost: the id stays the same.
func (o *Outgoing) Send(ctx context.Context, n domain.Notification) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if n.Channel == domain.Email {
		return o.mail(ctx, n)
	}
	return o.message(ctx, n)
}

func (o *Outgoing) mail(ctx context.Context, n domain.Notification) error {
	m := mail.NewMsg()
	if err := m.FromFormat("Napkin shop", o.from); err != nil {
		return err
	}
	if err := m.To(n.To); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	m.SetMessageIDWithValue(n.ID + "@shop.test")
	m.Subject(n.Subject)
	m.SetBodyString(mail.TypeTextPlain, n.Body)
	// TLS wherever the server offers it.
	c, err := mail.NewClient(o.host, mail.WithPort(o.port), mail.WithTimeout(sendTimeout), mail.WithTLSPolicy(mail.TLSOpportunistic), mail.WithoutNoop())
	if err != nil {
		return err
	}
	err = c.DialAndSendWithContext(ctx, m)
	var sendErr *mail.SendError
	if errors.As(err, &sendErr) && !sendErr.IsTemp() && sendErr.ErrorCode() >= 500 {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var protoErr *textproto.Error
	if errors.As(err, &protoErr) && protoErr.Code >= 500 {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

func (o *Outgoing) message(ctx context.Context, n domain.Notification) error {
	if o.messagesURL == "" {
		return fmt.Errorf("%w: no gateway for %s is configured (SHOP_MESSAGES_URL)", ErrRefused, n.Channel)
	}
	body, err := json.Marshal(map[string]string{"id": n.ID, "to": n.To, "text": n.Subject + ". " + n.Body})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.messagesURL+"/"+string(n.Channel), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", n.ID)
	resp, err := o.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection is used again
	switch {
	case resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode >= 500:
		return fmt.Errorf("the gateway answers %s", resp.Status)
	default:
		return fmt.Errorf("%w: the gateway answers %s", ErrRefused, resp.Status)
	}
}
