// Package store keeps contacts, outcomes and notifications in the service's own database, PostgreSQL or
// SQLite.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/notification/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the service's tables, the same text for both dialects.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil { // the folder is compiled in
		panic(err)
	}
	return sub
}

// Store is safe for concurrent use.
type Store struct {
	db   *sqldb.DB
	seal sealer
	// wake is told, after the commit, that there is something to send.
	wake func()
	now  func() time.Time
}

// New returns a store that seals personal data with key, 32 bytes. wake must return at once.
func New(db *sqldb.DB, key []byte, wake func(), now func() time.Time) (*Store, error) {
	s, err := newSealer(key)
	if err != nil {
		return nil, err
	}
	return &Store{db: db, seal: s, wake: wake, now: now}, nil
}

type personal struct{ Email, Name, Phone string }

type letter struct{ To, Body string }

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// PutContact records a contact.
func (s *Store) PutContact(ctx context.Context, tx *sql.Tx, c domain.Contact) error {
	sealed, err := s.seal.seal(c.UserID, personal{c.Email, c.Name, c.Phone})
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO contacts (user_id, sealed, want_email, want_sms, want_push) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id) DO UPDATE SET sealed = excluded.sealed, want_email = excluded.want_email, want_sms = excluded.want_sms, want_push = excluded.want_push`,
		c.UserID, sealed, bit(c.WantEmail), bit(c.WantSMS), bit(c.WantPush)); err != nil {
		return fmt.Errorf("notification store: record contact: %w", err)
	}
	sqldb.AfterCommit(ctx, s.wake)
	return nil
}

// DecideWaiting decides the outcomes whose customer's contact has arrived since. It is a worker's task and
// not PutContact's, because an outcome and a contact that arrive at the same moment do not see each other.
func (s *Store) DecideWaiting(ctx context.Context) error {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT o.order_id, o.kind, o.user_id, o.reason, o.total_minor, o.currency
		FROM outcomes o JOIN contacts c ON c.user_id = o.user_id WHERE o.decided = 0 LIMIT 100`)
	if err != nil {
		return fmt.Errorf("notification store: read waiting outcomes: %w", err)
	}
	defer rows.Close()
	var waiting []domain.Outcome
	for rows.Next() {
		var o domain.Outcome
		if err := rows.Scan(&o.OrderID, &o.Kind, &o.UserID, &o.Reason, &o.TotalMinor, &o.Currency); err != nil {
			return err
		}
		waiting = append(waiting, o)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, o := range waiting {
		if err := sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
			c, err := s.contact(ctx, tx, o.UserID)
			if err != nil {
				return err
			}
			return s.decide(ctx, tx, c, o)
		}); err != nil {
			return err
		}
	}
	return nil
}

// PutOutcome records how an order ended, and decides whom to tell; a customer whose contact has not
// arrived yet is told when it has (DecideWaiting).
func (s *Store) PutOutcome(ctx context.Context, tx *sql.Tx, o domain.Outcome) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO outcomes (order_id, kind, user_id, reason, total_minor, currency, decided)
		VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT DO NOTHING`, o.OrderID, o.Kind, o.UserID, o.Reason, o.TotalMinor, o.Currency); err != nil {
		return fmt.Errorf("notification store: record outcome: %w", err)
	}
	c, err := s.contact(ctx, tx, o.UserID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.decide(ctx, tx, c, o)
}

func (s *Store) contact(ctx context.Context, tx *sql.Tx, user string) (domain.Contact, error) {
	var sealed string
	var email, sms, push int
	err := tx.QueryRowContext(ctx, `SELECT sealed, want_email, want_sms, want_push FROM contacts WHERE user_id = $1`+s.db.Dialect.ForUpdate(), user).
		Scan(&sealed, &email, &sms, &push)
	if err != nil {
		return domain.Contact{}, err
	}
	var p personal
	if err := s.seal.open(user, sealed, &p); err != nil {
		return domain.Contact{}, err
	}
	return domain.Contact{UserID: user, Email: p.Email, Name: p.Name, Phone: p.Phone, WantEmail: email != 0, WantSMS: sms != 0, WantPush: push != 0}, nil
}

func (s *Store) decide(ctx context.Context, tx *sql.Tx, c domain.Contact, o domain.Outcome) error {
	for _, n := range domain.Decide(c, o, s.now()) {
		sealed, err := s.seal.seal(n.ID, letter{n.To, n.Body})
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO notifications (id, order_id, user_id, kind, channel, subject, sealed, status, attempts, due_at, created_at, sent_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', 0, $8, $8, 0) ON CONFLICT DO NOTHING`,
			n.ID, n.OrderID, n.UserID, n.Kind, n.Channel, n.Subject, sealed, sqldb.Micros(n.CreatedAt)); err != nil {
			return fmt.Errorf("notification store: record notification: %w", err)
		}
	}
	if _, err := tx.ExecContext(ctx, `UPDATE outcomes SET decided = 1 WHERE order_id = $1 AND kind = $2`, o.OrderID, o.Kind); err != nil {
		return fmt.Errorf("notification store: record decision: %w", err)
	}
	sqldb.AfterCommit(ctx, s.wake)
	return nil
}
