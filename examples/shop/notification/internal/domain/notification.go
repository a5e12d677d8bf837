// Package domain says who is told what about an order, and by which channels.
package domain

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"time"
)

// Kind is what a customer is told.
type Kind string

// The kinds of notifications: one for each way in which an order ends.
const (
	Confirmed Kind = "order-confirmed"
	Failed    Kind = "order-failed"
	Cancelled Kind = "order-cancelled"
	Refunded  Kind = "order-refunded"
)

// Channel is a way to reach a customer.
type Channel string

// The channels.
const (
	Email Channel = "email"
	SMS   Channel = "sms"
	Push  Channel = "push"
)

// Status is how far a notification is.
type Status string

// The statuses. Undeliverable means that the receiving side refused it for good, or that it was tried for
// Patience.
const (
	Pending       Status = "pending"
	Sent          Status = "sent"
	Undeliverable Status = "undeliverable"
)

// Patience is how long a notification is tried.
const Patience = 72 * time.Hour

// Contact is how a customer wants to be reached.
type Contact struct {
	UserID, Email, Name, Phone   string
	WantEmail, WantSMS, WantPush bool
}

// Outcome is how an order ended.
type Outcome struct {
	OrderID, UserID string
	Kind            Kind
	Reason          string // of a failure or cancellation
	TotalMinor      int64
	Currency        string
}

// Notification is one message to one customer by one channel.
type Notification struct {
	ID              string // stable: it is the Message-ID too
	OrderID, UserID string
	Kind            Kind
	Channel         Channel
	To              string
	Subject, Body   string
	Status          Status
	Attempts        int
	CreatedAt       time.Time
	SentAt          time.Time // zero until sent
}

// Decide makes the notifications of an outcome, one for each channel that the customer wants and can be
// reached by. A customer who wants none is told nothing.
func Decide(c Contact, o Outcome, now time.Time) []Notification {
	subject, body := text(c, o)
	var out []Notification
	add := func(want bool, ch Channel, to string) {
		if want && to != "" {
			out = append(out, Notification{
				ID: id(o.OrderID, o.Kind, ch), OrderID: o.OrderID, UserID: o.UserID, Kind: o.Kind, Channel: ch,
				To: to, Subject: subject, Body: body, Status: Pending, CreatedAt: now,
			})
		}
	}
	add(c.WantEmail, Email, c.Email)
	add(c.WantSMS, SMS, c.Phone)
	add(c.WantPush, Push, c.UserID) // the push service knows the user's devices
	return out
}

// id is made of what the notification is about, so that deciding it again gives the same one.
func id(order string, k Kind, c Channel) string {
	sum := sha256.Sum256([]byte(order + "\x00" + string(k) + "\x00" + string(c)))
	return "ntf_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:15]))
}

func text(c Contact, o Outcome) (subject, body string) {
	hello := "Hello"
	if c.Name != "" {
		hello += " " + c.Name
	}
	total := fmt.Sprintf("%d.%02d %s", o.TotalMinor/100, o.TotalMinor%100, o.Currency)
	switch o.Kind {
	case Confirmed:
		return "Your order is confirmed", fmt.Sprintf("%s,\n\nyour order %s over %s is confirmed and on its way.\n", hello, o.OrderID, total)
	case Failed:
		return "Your order could not be completed", fmt.Sprintf("%s,\n\nyour order %s could not be completed: %s. You have not been charged.\n", hello, o.OrderID, o.Reason)
	case Cancelled:
		return "Your order is cancelled", fmt.Sprintf("%s,\n\nyour order %s is cancelled. You have not been charged.\n", hello, o.OrderID)
	default:
		return "Your order is refunded", fmt.Sprintf("%s,\n\n%s for your order %s is on its way back to you.\n", hello, total, o.OrderID)
	}
}

// Backoff is the wait before attempt n+1: doubling from 1 s, 5 min at most.
func Backoff(attempts int) time.Duration {
	return min(time.Second<<min(max(attempts-1, 0), 9), 5*time.Minute)
}
