package sqlidempotency

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Leased is an idempotency.Store in the database, for handlers without a
// transaction. Times are the database's, so replicas' clocks need not agree. It
// is safe for concurrent use.
type Leased struct {
	db  *sqldb.DB
	cfg Config
	now string // SQL expression, unless the clock is replaced
}

var _ idempotency.Store = (*Leased)(nil)

// NewLeased returns a store on db. Config.Wait plays no part here: see
// idempotency.ServerConfig.Wait.
func NewLeased(db *sqldb.DB, cfg *Config) (*Leased, error) {
	c, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	l := &Leased{db: db, cfg: c}
	if cfg == nil || cfg.Now == nil {
		l.now = db.Dialect.NowMicros()
	}
	return l, nil
}

func (l *Leased) clock() string {
	if l.now != "" {
		return l.now
	}
	return "CAST(" + strconv.FormatInt(sqldb.Micros(l.cfg.Now()), 10) + " AS BIGINT)"
}

// Claim implements [idempotency.Store].
func (l *Leased) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	if err := k.Validate(); err != nil {
		return idempotency.Claim{}, nil, err
	}
	if l.db.Dialect == sqldb.SQLite {
		// Duplicates look on the read pool first: were they to queue for the one
		// writer, the claim's holder could not renew and complete in time.
		if stored, held, err := l.peek(ctx, k); err != nil || held {
			return idempotency.Claim{}, stored, err
		}
	}
	c := idempotency.Claim{Key: k, Token: rand.Text()}
	now := l.clock()
	// One statement decides: the row is new, its result has expired, or its
	// claim was abandoned by the same request.
	res, err := l.db.Write.ExecContext(ctx, `INSERT INTO napkin_idempotency_leased AS have
(scope, operation, key, fingerprint, done, token, lease_until, code, header, content_type, body, body_omitted, expires)
VALUES ($1, $2, $3, $4, 0, $5, `+now+` + $6, 0, $7, '', $7, 0, `+now+` + $8)
ON CONFLICT (scope, operation, key) DO UPDATE SET fingerprint = excluded.fingerprint, done = 0, token = excluded.token,
lease_until = excluded.lease_until, expires = excluded.expires
WHERE (have.expires <= `+now+` AND (have.done = 1 OR have.lease_until <= `+now+`))
OR (have.done = 0 AND have.lease_until <= `+now+` AND have.fingerprint = excluded.fingerprint)`,
		k.Scope, k.Operation, k.Value, k.Fingerprint, c.Token, ttl.Microseconds(), []byte{}, l.cfg.TTL.Microseconds())
	if err != nil {
		return idempotency.Claim{}, nil, failed("claim the key", err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return idempotency.Claim{}, nil, fmt.Errorf("sqlidempotency: claim the key: %w", err)
	} else if n == 1 {
		return c, nil, nil
	}
	stored, err := l.read(ctx, l.db.Write, k)
	return idempotency.Claim{}, stored, err
}

// peek is read without the write connection; held says whether the key is taken,
// by a live claim or a result that is still kept.
func (l *Leased) peek(ctx context.Context, k idempotency.Key) (stored *idempotency.Response, held bool, err error) {
	now := l.clock()
	var live int
	err = l.db.Read.QueryRowContext(ctx, `SELECT count(*) FROM napkin_idempotency_leased
WHERE scope = $1 AND operation = $2 AND key = $3 AND (done = 0 AND lease_until > `+now+` OR done = 1 AND expires > `+now+`)`,
		k.Scope, k.Operation, k.Value).Scan(&live)
	if err != nil {
		return nil, false, failed("look for the key", err)
	}
	if live == 0 {
		return nil, false, nil
	}
	stored, err = l.read(ctx, l.db.Read, k)
	return stored, true, err
}

// read returns what stands in the way of a claim.
func (l *Leased) read(ctx context.Context, db *sql.DB, k idempotency.Key) (*idempotency.Response, error) {
	var found found
	var done, omitted int
	err := db.QueryRowContext(ctx, `SELECT fingerprint, done, code, header, content_type, body, body_omitted
FROM napkin_idempotency_leased WHERE scope = $1 AND operation = $2 AND key = $3`, k.Scope, k.Operation, k.Value).
		Scan(&found.fingerprint, &done, &found.r.Code, &found.header, &found.r.ContentType, &found.r.Body, &omitted)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, idempotency.ErrInProgress // released since: the next try gets it
	}
	if err == nil && done == 0 {
		found.header = []byte("null")
	}
	found.r.BodyOmitted = omitted == 1
	stored, err := found.response(err, k)
	if err == nil && done == 0 {
		return nil, idempotency.ErrInProgress
	}
	return stored, err
}

const mine = ` WHERE scope = $1 AND operation = $2 AND key = $3 AND token = $4 AND done = 0`

// Renew implements [idempotency.Store].
func (l *Leased) Renew(ctx context.Context, c idempotency.Claim, ttl time.Duration) error {
	return l.held(ctx, "renew", `UPDATE napkin_idempotency_leased SET lease_until = `+l.clock()+` + $5`+mine, c, ttl.Microseconds())
}

// Complete implements [idempotency.Store].
func (l *Leased) Complete(ctx context.Context, c idempotency.Claim, r idempotency.Response) error {
	header, err := l.cfg.encode(r)
	if err != nil {
		return err
	}
	omitted := 0
	if r.BodyOmitted {
		omitted = 1
	}
	return l.held(ctx, "complete", `UPDATE napkin_idempotency_leased SET done = 1, code = $5, header = $6, content_type = $7, body = $8, body_omitted = $9`+mine,
		c, r.Code, header, r.ContentType, nonNil(r.Body), omitted)
}

// Release implements [idempotency.Store].
func (l *Leased) Release(ctx context.Context, c idempotency.Claim) error {
	return l.held(ctx, "release", `DELETE FROM napkin_idempotency_leased`+mine, c)
}

// held runs a statement that changes a claim's row, if it is still the claim's.
func (l *Leased) held(ctx context.Context, what, query string, c idempotency.Claim, args ...any) error {
	args = append([]any{c.Key.Scope, c.Key.Operation, c.Key.Value, c.Token}, args...)
	res, err := l.db.Write.ExecContext(ctx, query, args...)
	if err != nil {
		return failed(what+" the claim", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("sqlidempotency: %s the claim: %w", what, err)
	}
	if n == 0 {
		return idempotency.ErrLeaseLost
	}
	return nil
}

// Sweep deletes results that have expired, in small transactions, and returns
// how many.
func (l *Leased) Sweep(ctx context.Context) (int, error) {
	now := l.clock()
	// A claim that runs is kept, however old.
	return sweep(ctx, l.db, "napkin_idempotency_leased", "expires <= "+now+" AND (done = 1 OR lease_until <= "+now+")")
}
