// Package domain holds the rules of profiles and preferences. It knows neither SQL
// nor gRPC.
package domain

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrNotFound says that there is no such profile (yet).
var ErrNotFound = errors.New("user: no such profile")

// FieldError is a value that breaks a rule.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string { return fmt.Sprintf("user: %s: %s", e.Field, e.Message) }

// Profile is who a customer is, and how they want to be told about an order.
type Profile struct {
	ID       string
	Personal Personal
	Prefers  Preferences
	// CreatedAt is when the profile was made, UpdatedAt when it last changed.
	CreatedAt, UpdatedAt time.Time
}

// Personal is what is encrypted at rest.
type Personal struct {
	Email   string `json:"email"`
	Name    string `json:"name"`
	Phone   string `json:"phone,omitempty"` // E.164
	Address string `json:"address,omitempty"`
}

// String keeps personal data out of logs.
func (Personal) String() string { return "[personal data]" }

// GoString keeps personal data out of logs.
func (p Personal) GoString() string { return p.String() }

// Preferences are the channels a customer wants to be told by.
type Preferences struct{ Email, SMS, Push bool }

// New returns the profile of someone who has just registered: told by e-mail.
func New(id, email, name string, now time.Time) Profile {
	return Profile{ID: id, Personal: Personal{Email: email, Name: name}, Prefers: Preferences{Email: true}, CreatedAt: now, UpdatedAt: now}
}

// Change is an edit: nil leaves a field as it is.
type Change struct{ Name, Phone, Address *string }

var phonePattern = regexp.MustCompile(`^(\+[1-9][0-9]{6,14})?$`)

// Apply returns p changed by c, and whether anything differs. The error is a
// *FieldError.
func (p Profile) Apply(c Change, now time.Time) (Profile, bool, error) {
	was := p
	if c.Name != nil {
		p.Personal.Name = strings.TrimSpace(*c.Name)
	}
	if c.Phone != nil {
		p.Personal.Phone = *c.Phone
	}
	if c.Address != nil {
		p.Personal.Address = strings.TrimSpace(*c.Address)
	}
	switch {
	case p.Personal.Name == "" || utf8.RuneCountInString(p.Personal.Name) > 100:
		return was, false, &FieldError{"name", "must be 1 to 100 characters"}
	case !phonePattern.MatchString(p.Personal.Phone):
		return was, false, &FieldError{"phone", "must be a number such as +4930123456, or empty"}
	case utf8.RuneCountInString(p.Personal.Address) > 500:
		return was, false, &FieldError{"address", "must be at most 500 characters"}
	case p.Personal.Phone == "" && p.Prefers.SMS:
		return was, false, &FieldError{"phone", "is needed while you want text messages; turn them off first"}
	case p == was:
		return was, false, nil
	}
	p.UpdatedAt = now
	return p, true, nil
}

// Prefer returns p with other preferences, and whether anything differs. The error
// is a *FieldError.
func (p Profile) Prefer(want Preferences, now time.Time) (Profile, bool, error) {
	if want.SMS && p.Personal.Phone == "" {
		return p, false, &FieldError{"preferences.sms", "needs a phone number in the profile"}
	}
	if p.Prefers == want {
		return p, false, nil
	}
	p.Prefers, p.UpdatedAt = want, now
	return p, true, nil
}

// Changed is the event of a new or changed profile.
type Changed struct{ Profile Profile }

// Store keeps profiles. Each write commits with its event.
type Store interface {
	// Get returns a profile, or ErrNotFound.
	Get(ctx context.Context, id string) (Profile, error)
	// Update changes a profile under its lock. change reports whether anything
	// differs.
	Update(ctx context.Context, id string, change func(Profile) (Profile, bool, error)) (Profile, error)
}

// Profiles is what can be done with profiles.
type Profiles struct {
	store Store
	now   func() time.Time
	// patience is how long to wait for a profile that is on its way.
	patience, step time.Duration
}

// NewProfiles returns the profiles in store.
func NewProfiles(store Store, now func() time.Time) *Profiles {
	return &Profiles{store: store, now: now, patience: 2 * time.Second, step: 25 * time.Millisecond}
}

// Get returns a profile. Someone who registered a moment ago may be here before the
// event that makes the profile: their token says that it will come, so it is waited
// for.
func (s *Profiles) Get(ctx context.Context, id string) (Profile, error) {
	p, err := s.store.Get(ctx, id)
	if !errors.Is(err, ErrNotFound) {
		return p, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	tick := time.NewTicker(s.step)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return Profile{}, ErrNotFound
		case <-tick.C:
		}
		if p, err := s.store.Get(ctx, id); err == nil {
			return p, nil
		} else if !errors.Is(err, ErrNotFound) && ctx.Err() == nil {
			return Profile{}, err
		}
	}
}

// Update edits a profile.
func (s *Profiles) Update(ctx context.Context, id string, c Change) (Profile, error) {
	return s.change(ctx, id, func(p Profile) (Profile, bool, error) { return p.Apply(c, s.now()) })
}

// Prefer sets the preferences.
func (s *Profiles) Prefer(ctx context.Context, id string, want Preferences) (Profile, error) {
	return s.change(ctx, id, func(p Profile) (Profile, bool, error) { return p.Prefer(want, s.now()) })
}

func (s *Profiles) change(ctx context.Context, id string, change func(Profile) (Profile, bool, error)) (Profile, error) {
	if _, err := s.Get(ctx, id); err != nil { // waits outside the transaction
		return Profile{}, err
	}
	return s.store.Update(ctx, id, change)
}
