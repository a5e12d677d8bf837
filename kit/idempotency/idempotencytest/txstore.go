package idempotencytest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// TestTxStore runs the conformance suite of idempotency.TxStore. newStore
// returns a fresh database with the store's tables in place, and the store, whose
// results are kept for exactly an hour.
func TestTxStore(t *testing.T, newStore func(t *testing.T, now func() time.Time) (*sqldb.DB, idempotency.TxStore)) {
	for _, c := range txCases {
		t.Run(c.name, func(t *testing.T) {
			clock := NewClock()
			db, s := newStore(t, clock.Now)
			if err := c.run(t.Context(), &txEnv{db, s, clock}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

type txCase struct {
	name string
	run  func(ctx context.Context, e *txEnv) error
}

type txEnv struct {
	db    *sqldb.DB
	store idempotency.TxStore
	clock *Clock
}

var txCases = []txCase{
	{"commits the result with the effect", txReplay},
	{"frees the key when the effect rolls back", txRollback},
	{"shows nothing before the commit", txInvisible},
	{"refuses another request", txMismatch},
	{"keeps scopes and operations apart", txApart},
	{"refuses an incomplete key", txIncomplete},
	{"forgets what has expired", txExpired},
	{"lets one of a hundred duplicates act", txContended},
}

var errCrash = errors.New("the process dies here")

// act runs the operation once, counting effects in a table, with crash in the
// place of the commit where it is not nil.
func (e *txEnv) act(ctx context.Context, k idempotency.Key, crash error) (*idempotency.Response, error) {
	var stored *idempotency.Response
	err := sqldb.InTx(ctx, e.db, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		if stored, err = e.store.Begin(ctx, sqldb.StdTx(tx), k); err != nil || stored != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO effects (k) VALUES ($1)`, k.Scope+k.Operation+k.Value); err != nil {
			return err
		}
		if err := e.store.Complete(ctx, tx, k, response()); err != nil {
			return err
		}
		return crash
	})
	return stored, err
}

func (e *txEnv) init(ctx context.Context) error {
	_, err := e.db.Write.ExecContext(ctx, `CREATE TABLE effects (k TEXT NOT NULL)`)
	return err
}

func (e *txEnv) effects(ctx context.Context, want int) error {
	var n int
	if err := e.db.Read.QueryRowContext(ctx, `SELECT count(*) FROM effects`).Scan(&n); err != nil {
		return err
	}
	if n != want {
		return fmt.Errorf("%d effects, want %d", n, want)
	}
	return nil
}

// first acts on a key that must be free.
func (e *txEnv) first(ctx context.Context, k idempotency.Key) error {
	stored, err := e.act(ctx, k, nil)
	if err != nil {
		return fmt.Errorf("the first request: %w", err)
	}
	if stored != nil {
		return fmt.Errorf("the first request got a stored response %+v", *stored)
	}
	return nil
}

func (e *txEnv) replayed(ctx context.Context, k idempotency.Key) error {
	for name, get := range map[string]func() (*idempotency.Response, error){
		"Begin": func() (*idempotency.Response, error) { return e.act(ctx, k, nil) },
		"Peek":  func() (*idempotency.Response, error) { return e.store.Peek(ctx, e.db, k) },
	} {
		stored, err := get()
		if err != nil {
			return fmt.Errorf("%s of a done key: %w", name, err)
		}
		if stored == nil {
			return fmt.Errorf("%s of a done key found nothing", name)
		}
		if err := same(*stored, response()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func txReplay(ctx context.Context, e *txEnv) error {
	if err := e.init(ctx); err != nil {
		return err
	}
	if err := e.first(ctx, key("k")); err != nil {
		return err
	}
	if err := e.replayed(ctx, key("k")); err != nil {
		return err
	}
	return e.effects(ctx, 1)
}

func txRollback(ctx context.Context, e *txEnv) error {
	if err := e.init(ctx); err != nil {
		return err
	}
	for range 2 {
		if _, err := e.act(ctx, key("k"), errCrash); !errors.Is(err, errCrash) {
			return fmt.Errorf("got %w, want the crash", err)
		}
		if err := e.effects(ctx, 0); err != nil {
			return err
		}
		if stored, err := e.store.Peek(ctx, e.db, key("k")); err != nil || stored != nil {
			return fmt.Errorf("peek after a rollback: %v, %w", stored, err)
		}
	}
	if err := e.first(ctx, key("k")); err != nil {
		return err
	}
	return e.effects(ctx, 1)
}

func txInvisible(ctx context.Context, e *txEnv) error {
	return sqldb.InTx(ctx, e.db, func(ctx context.Context, tx *sql.Tx) error {
		if stored, err := e.store.Begin(ctx, sqldb.StdTx(tx), key("k")); err != nil || stored != nil {
			return fmt.Errorf("begin: %v, %w", stored, err)
		}
		if err := e.store.Complete(ctx, tx, key("k"), response()); err != nil {
			return err
		}
		if stored, err := e.store.Peek(ctx, e.db, key("k")); err != nil || stored != nil {
			return fmt.Errorf("peek before the commit: %v, %w", stored, err)
		}
		return nil
	})
}

func txMismatch(ctx context.Context, e *txEnv) error {
	if err := e.init(ctx); err != nil {
		return err
	}
	if err := e.first(ctx, key("k")); err != nil {
		return err
	}
	other := key("k")
	other.Fingerprint = idempotency.Fingerprint([]byte("another request"))
	_, err := e.act(ctx, other, nil)
	if err := wantErr("begin another request", err, idempotency.ErrMismatch); err != nil {
		return err
	}
	_, err = e.store.Peek(ctx, e.db, other)
	if err := wantErr("peek another request", err, idempotency.ErrMismatch); err != nil {
		return err
	}
	return e.effects(ctx, 1)
}

func txApart(ctx context.Context, e *txEnv) error {
	if err := e.init(ctx); err != nil {
		return err
	}
	scope, operation, shifted := key("k"), key("k"), key("k")
	scope.Scope = "user-2"
	operation.Operation = "POST /carts"
	shifted.Scope, shifted.Operation = "user-1P", "OST /orders"
	keys := []idempotency.Key{key("k"), scope, operation, shifted, key("K")}
	for _, k := range keys {
		if err := e.first(ctx, k); err != nil {
			return fmt.Errorf("scope %q operation %q value %q: %w", k.Scope, k.Operation, k.Value, err)
		}
	}
	return e.effects(ctx, len(keys))
}

func txIncomplete(ctx context.Context, e *txEnv) error {
	for what, edit := range map[string]func(*idempotency.Key){
		"value":       func(k *idempotency.Key) { k.Value = "" },
		"scope":       func(k *idempotency.Key) { k.Scope = "" },
		"operation":   func(k *idempotency.Key) { k.Operation = "" },
		"fingerprint": func(k *idempotency.Key) { k.Fingerprint = nil },
	} {
		k := key("k")
		edit(&k)
		err := sqldb.InTx(ctx, e.db, func(ctx context.Context, tx *sql.Tx) error {
			_, err := e.store.Begin(ctx, sqldb.StdTx(tx), k)
			return err
		})
		if err == nil {
			return fmt.Errorf("a key without %s was accepted", what)
		}
	}
	return nil
}

func txExpired(ctx context.Context, e *txEnv) error {
	if err := e.init(ctx); err != nil {
		return err
	}
	if err := e.first(ctx, key("k")); err != nil {
		return err
	}
	e.clock.Add(time.Hour - time.Millisecond)
	if err := e.replayed(ctx, key("k")); err != nil {
		return err
	}
	e.clock.Add(time.Millisecond)
	if err := e.first(ctx, key("k")); err != nil {
		return err
	}
	if err := e.replayed(ctx, key("k")); err != nil {
		return err
	}
	return e.effects(ctx, 2)
}

func txContended(ctx context.Context, e *txEnv) error {
	if err := e.init(ctx); err != nil {
		return err
	}
	const callers = 100
	var mu sync.Mutex
	var failure error
	acted := 0
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			stored, err := e.act(ctx, key("k"), nil)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && stored == nil:
				acted++
			case err != nil && !errors.Is(err, idempotency.ErrInProgress):
				failure = fmt.Errorf("a duplicate failed: %w", err)
			}
		})
	}
	wg.Wait()
	if failure != nil {
		return failure
	}
	if acted != 1 {
		return fmt.Errorf("%d of %d duplicates acted, want 1", acted, callers)
	}
	if err := e.effects(ctx, 1); err != nil {
		return err
	}
	return e.replayed(ctx, key("k"))
}
