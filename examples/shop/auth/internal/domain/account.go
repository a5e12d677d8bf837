// Package domain holds the rules of signing in: accounts and their passwords,
// sign-in requests, refresh tokens, signing keys. It knows neither SQL nor OAuth's
// wire forms.
package domain

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"
)

var (
	// ErrExists says that the e-mail address has an account.
	ErrExists = errors.New("auth: this e-mail address has an account")
	// ErrCredentials says that the e-mail address or the password is wrong; which
	// of the two is nobody's business.
	ErrCredentials = errors.New("auth: the e-mail address or the password is wrong")
	// ErrNotFound says that an account, request or token does not exist or is over.
	ErrNotFound = errors.New("auth: not found")
)

// FieldError is a value that breaks a rule.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string { return fmt.Sprintf("auth: %s: %s", e.Field, e.Message) }

// Account is someone who can sign in.
type Account struct {
	ID    string
	Email string // in lower case
	Name  string
	// PasswordHash is in the PHC string format; see Hasher.
	PasswordHash string
	// Operator may be given the scope shop:admin.
	Operator  bool
	CreatedAt time.Time
}

// Registration is a request for an account.
type Registration struct{ Email, Password, Name string }

const (
	minPassword = 10
	maxPassword = 128
)

func (r Registration) check() (Registration, error) {
	r.Email, r.Name = NormalizeEmail(r.Email), strings.TrimSpace(r.Name)
	addr, err := mail.ParseAddress(r.Email)
	n := utf8.RuneCountInString(r.Password)
	switch {
	case err != nil || addr.Address != r.Email || len(r.Email) > 254:
		return r, &FieldError{"email", "must be an e-mail address"}
	case r.Name == "" || utf8.RuneCountInString(r.Name) > 100:
		return r, &FieldError{"name", "must be 1 to 100 characters"}
	case n < minPassword || n > maxPassword:
		return r, &FieldError{"password", fmt.Sprintf("must be %d to %d characters", minPassword, maxPassword)}
	case strings.EqualFold(r.Password, r.Email):
		return r, &FieldError{"password", "must not be the e-mail address"}
	}
	return r, nil
}

// NormalizeEmail is how addresses are compared and kept: trimmed, in lower case.
func NormalizeEmail(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// Accounts keeps accounts. A new one commits with its event.
type Accounts interface {
	// CreateAccount adds a, or returns ErrExists.
	CreateAccount(ctx context.Context, a Account) error
	// AccountByEmail and Account return ErrNotFound where there is none.
	AccountByEmail(ctx context.Context, email string) (Account, error)
	Account(ctx context.Context, id string) (Account, error)
}

// Registered is the event of a new account.
type Registered struct{ Account Account }

// Registry registers and recognises people.
type Registry struct {
	accounts Accounts
	hasher   *Hasher
	now      func() time.Time
}

// NewRegistry returns a registry over accounts.
func NewRegistry(accounts Accounts, hasher *Hasher, now func() time.Time) *Registry {
	return &Registry{accounts: accounts, hasher: hasher, now: now}
}

// Register creates a customer's account.
func (r *Registry) Register(ctx context.Context, reg Registration) (Account, error) {
	return r.register(ctx, reg, false)
}

// RegisterOperator creates an account that may be given shop:admin.
func (r *Registry) RegisterOperator(ctx context.Context, reg Registration) (Account, error) {
	return r.register(ctx, reg, true)
}

func (r *Registry) register(ctx context.Context, reg Registration, operator bool) (Account, error) {
	reg, err := reg.check()
	if err != nil {
		return Account{}, err
	}
	// Hashing is slow by design: look first, though only the insert decides.
	if _, err := r.accounts.AccountByEmail(ctx, reg.Email); err == nil {
		return Account{}, ErrExists
	} else if !errors.Is(err, ErrNotFound) {
		return Account{}, err
	}
	hash, err := r.hasher.Hash(ctx, reg.Password)
	if err != nil {
		return Account{}, err
	}
	a := Account{ID: NewID("usr"), Email: reg.Email, Name: reg.Name, PasswordHash: hash, Operator: operator, CreatedAt: r.now()}
	return a, r.accounts.CreateAccount(ctx, a)
}

// Authenticate returns the account of an e-mail address and password, or
// ErrCredentials. It takes as long where there is no such account.
func (r *Registry) Authenticate(ctx context.Context, email, password string) (Account, error) {
	a, err := r.accounts.AccountByEmail(ctx, NormalizeEmail(email))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Account{}, err
	}
	known := err == nil
	ok, err := r.hasher.Verify(ctx, a.PasswordHash, password)
	switch {
	case err != nil:
		return Account{}, err
	case !known || !ok:
		return Account{}, ErrCredentials
	}
	return a, nil
}

// NewID returns prefix, an underscore and 128 random bits.
func NewID(prefix string) string { return prefix + "_" + Random(16) }

// Random returns n random bytes as text safe in URLs.
func Random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}
