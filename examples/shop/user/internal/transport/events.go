package transport

import (
	"context"
	"database/sql"
	"time"

	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/domain"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Topics: Topic is what the service tells, AuthTopic what it listens to.
const (
	Topic     = "user"
	AuthTopic = "auth"
)

// RegisteredType is the event that makes a profile.
var RegisteredType = protoevents.Type(&authv1.UserRegistered{})

// Encode makes the event that other services read, keyed by the user. It carries
// what they need to write to the customer, and not the address.
func Encode(e domain.Changed) (events.Event, error) {
	p := e.Profile
	return protoevents.New("", Topic, p.ID, &userv1.ProfileChanged{
		UserId: p.ID, Email: p.Personal.Email, Name: p.Personal.Name, Phone: p.Personal.Phone, Preferences: preferences(p),
	})
}

// Creator is where profiles are made by events.
type Creator interface {
	Create(ctx context.Context, tx sqldb.Execer, p domain.Profile) error
}

// Registered makes the profile of a new account: one transaction with the inbox's
// mark and the outgoing ProfileChanged.
func Registered(store Creator, now func() time.Time) inbox.Handler[*sql.Tx] {
	return func(ctx context.Context, tx *sql.Tx, e events.Event) error {
		var r authv1.UserRegistered
		if err := protoevents.Decode(e, &r); err != nil {
			return inbox.Permanent(err) // the same bytes will never decode
		}
		return store.Create(ctx, tx, domain.New(r.GetUserId(), r.GetEmail(), r.GetName(), now()))
	}
}
