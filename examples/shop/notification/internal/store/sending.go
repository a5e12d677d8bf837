package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/notification/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

const columns = `id, order_id, user_id, kind, channel, subject, sealed, status, attempts, created_at, sent_at`

func (s *Store) scan(row sqldb.Row) (domain.Notification, error) {
	var n domain.Notification
	var sealed string
	var created, sent int64
	if err := row.Scan(&n.ID, &n.OrderID, &n.UserID, &n.Kind, &n.Channel, &n.Subject, &sealed, &n.Status, &n.Attempts, &created, &sent); err != nil {
		return n, err
	}
	var l letter
	if err := s.seal.open(n.ID, sealed, &l); err != nil {
		return n, err
	}
	n.To, n.Body, n.CreatedAt = l.To, l.Body, sqldb.FromMicros(created)
	if sent != 0 {
		n.SentAt = sqldb.FromMicros(sent)
	}
	return n, nil
}

// Claim takes the next notification that is due and counts the attempt. Nobody else gets it for hold:
// a worker that dies gives it back that way. ok is false where nothing is due.
func (s *Store) Claim(ctx context.Context, hold time.Duration) (n domain.Notification, ok bool, err error) {
	now := s.now()
	err = sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		var id string
		err := tx.QueryRowContext(ctx, `SELECT id FROM notifications WHERE status = 'pending' AND due_at <= $1 ORDER BY due_at LIMIT 1`+
			s.db.Dialect.ForUpdateSkipLocked(), sqldb.Micros(now)).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		n, err = s.scan(tx.QueryRowContext(ctx, `UPDATE notifications SET attempts = attempts + 1, due_at = $2 WHERE id = $1 RETURNING `+columns,
			id, sqldb.Micros(now.Add(hold))))
		ok = err == nil
		return err
	})
	if err != nil {
		return n, false, fmt.Errorf("notification store: claim: %w", err)
	}
	return n, ok, nil
}

// MarkSent records that the other side has taken the notification.
func (s *Store) MarkSent(ctx context.Context, id string) error {
	return s.end(ctx, `UPDATE notifications SET status = 'sent', sent_at = $2 WHERE id = $1 AND status = 'pending'`, id, sqldb.Micros(s.now()))
}

// MarkUndeliverable records that it never will.
func (s *Store) MarkUndeliverable(ctx context.Context, id string) error {
	return s.end(ctx, `UPDATE notifications SET status = 'undeliverable' WHERE id = $1 AND status = 'pending'`, id)
}

// Postpone gives a notification back, to be tried again at due.
func (s *Store) Postpone(ctx context.Context, id string, due time.Time) error {
	return s.end(ctx, `UPDATE notifications SET due_at = $2 WHERE id = $1 AND status = 'pending'`, id, sqldb.Micros(due))
}

func (s *Store) end(ctx context.Context, query string, args ...any) error {
	if _, err := s.db.Write.ExecContext(ctx, query, args...); err != nil {
		return fmt.Errorf("notification store: record attempt: %w", err)
	}
	return nil
}

// List returns notifications, newest first, after a place (zero for the first page). An empty order means all.
func (s *Store) List(ctx context.Context, order string, after Place, limit int) ([]domain.Notification, error) {
	if after.CreatedAt == 0 {
		after.CreatedAt = 1<<63 - 1
	}
	rows, err := s.db.Read.QueryContext(ctx, `SELECT `+columns+` FROM notifications
		WHERE ($1 = '' OR order_id = $1) AND (created_at < $2 OR (created_at = $2 AND id < $3)) ORDER BY created_at DESC, id DESC LIMIT $4`,
		order, after.CreatedAt, after.ID, limit)
	if err != nil {
		return nil, fmt.Errorf("notification store: list: %w", err)
	}
	defer rows.Close()
	var out []domain.Notification
	for rows.Next() {
		n, err := s.scan(rows)
		if err != nil {
			return nil, fmt.Errorf("notification store: list: %w", err)
		}
		out = append(out, n)
	}
	return out, rows.Err()
}

// Place is where a page ends.
type Place struct {
	CreatedAt int64
	ID        string
}
