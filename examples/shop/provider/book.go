package provider

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Kind names an operation.
type Kind string

// The kinds of operations.
const (
	Authorize Kind = "authorize"
	Capture   Kind = "capture"
	Void      Kind = "void"
	Refund    Kind = "refund"
	Reverse   Kind = "reverse"
)

// Status is how far an operation got.
type Status string

// The statuses of an operation.
const (
	// Succeeded took effect.
	Succeeded Status = "succeeded"
	// Pending was accepted and takes effect later.
	Pending Status = "pending"
	// Declined was refused by the card's bank.
	Declined Status = "declined"
	// Refused was refused by the provider: see Reason.
	Refused Status = "refused"
)

// Operation is what one idempotency key did.
type Operation struct {
	Key             string    `json:"key"`
	Kind            Kind      `json:"kind"`
	Status          Status    `json:"status"`
	Reason          string    `json:"reason,omitempty"`
	AuthorizationID string    `json:"authorization_id,omitempty"`
	Reference       string    `json:"reference,omitempty"`
	Amount          int64     `json:"amount"`
	Currency        string    `json:"currency,omitempty"`
	CreatedAt       time.Time `json:"created_at"`
}

// Account is what the ledger says of one reference. Captured and Refunded count
// what has taken effect.
type Account struct {
	Reference  string `json:"reference"`
	Authorized int64  `json:"authorized"`
	Voided     int64  `json:"voided"`
	Captured   int64  `json:"captured"`
	Refunded   int64  `json:"refunded"`
	// Authorizations counts the successful ones: more than one is a double
	// charge.
	Authorizations int `json:"authorizations"`
	// Operations counts everything that was recorded.
	Operations int `json:"operations"`
}

var (
	errNoOperation = errors.New("provider: no operation with this key")
	errNoAuth      = errors.New("provider: no such authorisation")
	errKeyReused   = errors.New("provider: this key was used for another request")
)

// request is an operation that is asked for.
type request struct {
	key         string
	kind        Kind
	fingerprint string
	authID      string    // of an authorisation that exists
	target      string    // key that a Reverse takes back
	amount      int64     // minor units
	currency    string    // Authorize only
	reference   string    // Authorize only
	behaviour   Behaviour // Authorize only
	expired     bool      // Authorize only: the card's date has passed
}

// book is the ledger. Every operation is one transaction.
type book struct {
	db     *sqldb.DB
	now    func() time.Time
	lateBy time.Duration
}

type authorization struct {
	id, reference, currency    string
	amount, captured, refunded int64
	voided                     bool
	behaviour                  Behaviour
	capturedAt                 int64
}

// record performs rq once: a key seen before gives its first outcome.
func (b book) record(ctx context.Context, rq request) (op Operation, replayed bool, err error) {
	err = sqldb.InTx(ctx, b.db, func(ctx context.Context, std *sql.Tx) error {
		tx := sqldb.StdTx(std)
		stored, fingerprint, err := b.operation(ctx, tx, rq.key)
		if err == nil {
			// A reversed key refuses whatever comes under it, so there is nothing
			// to compare with.
			if fingerprint != "" && fingerprint != rq.fingerprint {
				return errKeyReused
			}
			op, replayed = stored, true
			return nil
		}
		if !errors.Is(err, errNoOperation) {
			return err
		}
		op, err = b.perform(ctx, tx, rq)
		return err
	})
	return op, replayed, err
}

func (b book) perform(ctx context.Context, tx sqldb.Tx, rq request) (Operation, error) {
	now := b.now()
	op := Operation{Key: rq.key, Kind: rq.kind, Status: Succeeded, AuthorizationID: rq.authID, Amount: rq.amount, CreatedAt: now}
	effective := now
	var err error
	switch rq.kind {
	case Authorize:
		err = b.authorize(ctx, tx, rq, &op)
	case Reverse:
		err = b.reverse(ctx, tx, rq, &op)
	default:
		var a authorization
		if a, err = b.authorization(ctx, tx, rq.authID); err != nil {
			return Operation{}, err
		}
		op.Reference, op.Currency = a.reference, a.currency
		effective, err = b.change(ctx, tx, a, rq, &op)
	}
	if err != nil {
		return Operation{}, err
	}
	if err := insertOperation(ctx, tx, op, rq.fingerprint, effective); err != nil {
		return Operation{}, err
	}
	if effective.After(now) {
		op.Status = Pending
	}
	return op, nil
}

func (b book) authorize(ctx context.Context, tx sqldb.Tx, rq request, op *Operation) error {
	op.Reference, op.Currency = rq.reference, rq.currency
	switch {
	case rq.expired:
		op.Status, op.Reason = Declined, "expired_card"
		return nil
	case rq.behaviour == Declines:
		op.Status, op.Reason = Declined, "card_declined"
		return nil
	case rq.behaviour == NoFunds:
		op.Status, op.Reason = Declined, "insufficient_funds"
		return nil
	}
	op.AuthorizationID = "auth_" + strings.ToLower(rand.Text())
	_, err := tx.ExecContext(ctx, `INSERT INTO authorizations (id, reference, amount, currency, behaviour) VALUES ($1, $2, $3, $4, $5)`,
		op.AuthorizationID, rq.reference, rq.amount, rq.currency, string(rq.behaviour))
	if err != nil {
		return fmt.Errorf("provider: authorize: %w", err)
	}
	return nil
}

// change applies a capture, void or refund to a.
func (b book) change(ctx context.Context, tx sqldb.Tx, a authorization, rq request, op *Operation) (effective time.Time, err error) {
	now := op.CreatedAt
	refuse := func(reason string) (time.Time, error) {
		op.Status, op.Reason = Refused, reason
		return now, nil
	}
	switch rq.kind {
	case Capture:
		switch {
		case a.voided:
			return refuse("authorization_voided")
		case a.captured > 0:
			return refuse("already_captured")
		case rq.amount > a.amount:
			return refuse("amount_exceeds_authorization")
		}
		effective = now
		if a.behaviour == CapturesLate {
			effective = now.Add(b.lateBy)
		}
		_, err = tx.ExecContext(ctx, `UPDATE authorizations SET captured = $2, captured_at = $3 WHERE id = $1`,
			a.id, rq.amount, sqldb.Micros(effective))
		return effective, err
	case Void:
		op.Amount = a.amount
		if a.captured > 0 {
			return refuse("already_captured")
		}
		_, err = tx.ExecContext(ctx, `UPDATE authorizations SET voided = TRUE WHERE id = $1`, a.id)
		return now, err
	case Refund:
		switch {
		case a.captured == 0 || a.capturedAt > sqldb.Micros(now):
			return refuse("not_captured")
		case a.refunded+rq.amount > a.captured:
			return refuse("amount_exceeds_captured")
		}
		_, err = tx.ExecContext(ctx, `UPDATE authorizations SET refunded = refunded + $2 WHERE id = $1`, a.id, rq.amount)
		return now, err
	default:
		return now, fmt.Errorf("provider: unknown operation %q", rq.kind)
	}
}

// reverse takes back what rq.target did; where it did nothing, it leaves a
// refusal under that key for a request that is still under way.
func (b book) reverse(ctx context.Context, tx sqldb.Tx, rq request, op *Operation) error {
	target, _, err := b.operation(ctx, tx, rq.target)
	if errors.Is(err, errNoOperation) {
		op.Reason = "nothing_to_reverse"
		return insertOperation(ctx, tx, Operation{
			Key: rq.target, Kind: Authorize, Status: Refused, Reason: "reversed", CreatedAt: op.CreatedAt,
		}, "", op.CreatedAt)
	}
	if err != nil {
		return err
	}
	op.Reference, op.Currency = target.Reference, target.Currency
	if target.Kind != Authorize {
		op.Status, op.Reason = Refused, "only_authorizations_are_reversed"
		return nil
	}
	if target.Status != Succeeded {
		op.Reason = "nothing_to_reverse"
		return nil
	}
	a, err := b.authorization(ctx, tx, target.AuthorizationID)
	if err != nil {
		return err
	}
	op.AuthorizationID, op.Amount = a.id, a.amount
	if a.captured > 0 {
		op.Status, op.Reason = Refused, "already_captured"
		return nil
	}
	_, err = tx.ExecContext(ctx, `UPDATE authorizations SET voided = TRUE WHERE id = $1`, a.id)
	return err
}

func insertOperation(ctx context.Context, tx sqldb.Tx, op Operation, fingerprint string, effective time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO operations
		(key, kind, fingerprint, authorization_id, reference, amount, currency, status, reason, created_at, effective_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		op.Key, string(op.Kind), fingerprint, op.AuthorizationID, op.Reference, op.Amount, op.Currency,
		string(op.Status), op.Reason, sqldb.Micros(op.CreatedAt), sqldb.Micros(effective))
	if err != nil {
		return fmt.Errorf("provider: record operation: %w", err)
	}
	return nil
}

// operation reads what key did, with the fingerprint of its request.
func (b book) operation(ctx context.Context, tx sqldb.Tx, key string) (Operation, string, error) {
	var (
		op                 Operation
		fingerprint        string
		kind, status       string
		created, effective int64
	)
	err := tx.QueryRow(ctx, `SELECT key, kind, fingerprint, authorization_id, reference, amount, currency, status, reason, created_at, effective_at
		FROM operations WHERE key = $1`+b.db.Dialect.ForUpdate(), key).
		Scan(&op.Key, &kind, &fingerprint, &op.AuthorizationID, &op.Reference, &op.Amount, &op.Currency, &status, &op.Reason, &created, &effective)
	if errors.Is(err, sql.ErrNoRows) {
		return Operation{}, "", errNoOperation
	}
	if err != nil {
		return Operation{}, "", fmt.Errorf("provider: read operation: %w", err)
	}
	op.Kind, op.Status, op.CreatedAt = Kind(kind), Status(status), sqldb.FromMicros(created)
	if effective > sqldb.Micros(b.now()) {
		op.Status = Pending
	}
	return op, fingerprint, nil
}

func (b book) authorization(ctx context.Context, tx sqldb.Tx, id string) (authorization, error) {
	var a authorization
	var behaviour string
	err := tx.QueryRow(ctx, `SELECT id, reference, currency, amount, captured, refunded, voided, behaviour, captured_at
		FROM authorizations WHERE id = $1`+b.db.Dialect.ForUpdate(), id).
		Scan(&a.id, &a.reference, &a.currency, &a.amount, &a.captured, &a.refunded, &a.voided, &behaviour, &a.capturedAt)
	if errors.Is(err, sql.ErrNoRows) {
		return a, errNoAuth
	}
	if err != nil {
		return a, fmt.Errorf("provider: read authorisation: %w", err)
	}
	a.behaviour = Behaviour(behaviour)
	return a, nil
}

// inTx runs fn for a read or a small write outside record.
func (b book) inTx(ctx context.Context, fn func(context.Context, sqldb.Tx) error) error {
	return sqldb.InTx(ctx, b.db, func(ctx context.Context, tx *sql.Tx) error { return fn(ctx, sqldb.StdTx(tx)) })
}

// countFailure adds one to the failures of key and returns how many there are.
func (b book) countFailure(ctx context.Context, key string) (n int, err error) {
	err = b.inTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
		return tx.QueryRow(ctx, `INSERT INTO failures (key, count) VALUES ($1, 1)
			ON CONFLICT (key) DO UPDATE SET count = failures.count + 1 RETURNING count`, key).Scan(&n)
	})
	return n, err
}

// accounts sums the ledger by reference, all or the one named.
func (b book) accounts(ctx context.Context, reference string) ([]Account, error) {
	rows, err := b.db.Read.QueryContext(ctx, `SELECT o.reference, COUNT(*),
			COALESCE(SUM(CASE WHEN o.kind = 'authorize' AND o.status = 'succeeded' THEN 1 ELSE 0 END), 0)
		FROM operations o WHERE o.reference <> '' AND ($1 = '' OR o.reference = $1)
		GROUP BY o.reference ORDER BY o.reference`, reference)
	if err != nil {
		return nil, fmt.Errorf("provider: read ledger: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []Account
	at := map[string]int{}
	for rows.Next() {
		var a Account
		if err := rows.Scan(&a.Reference, &a.Operations, &a.Authorizations); err != nil {
			return nil, fmt.Errorf("provider: read ledger: %w", err)
		}
		at[a.Reference] = len(all)
		all = append(all, a)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("provider: read ledger: %w", err)
	}
	sums, err := b.db.Read.QueryContext(ctx, `SELECT reference, SUM(amount),
			SUM(CASE WHEN voided THEN amount ELSE 0 END),
			SUM(CASE WHEN captured_at <= $2 THEN captured ELSE 0 END), SUM(refunded)
		FROM authorizations WHERE ($1 = '' OR reference = $1) GROUP BY reference`, reference, sqldb.Micros(b.now()))
	if err != nil {
		return nil, fmt.Errorf("provider: read ledger: %w", err)
	}
	defer func() { _ = sums.Close() }()
	for sums.Next() {
		var a Account
		if err := sums.Scan(&a.Reference, &a.Authorized, &a.Voided, &a.Captured, &a.Refunded); err != nil {
			return nil, fmt.Errorf("provider: read ledger: %w", err)
		}
		// The two reads are not one snapshot: an authorisation may be newer than
		// the first.
		if i, ok := at[a.Reference]; ok {
			a.Operations, a.Authorizations = all[i].Operations, all[i].Authorizations
			all[i] = a
		}
	}
	return all, sums.Err()
}
