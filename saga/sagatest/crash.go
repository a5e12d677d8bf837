package sagatest

import (
	"context"
	"errors"
	"fmt"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// errCrash is the end of the simulated process.
var errCrash = errors.New("sagatest: the process crashed here")

// crashStore ends the process at a commit: at an odd point before it, at an even
// one after it. A process that has crashed writes nothing more.
type crashStore struct {
	saga.Store
	at      int
	commits int
	crashed bool
	where   string
}

func (s *crashStore) InTx(ctx context.Context, fn func(context.Context, sqldb.Tx) error) error {
	if s.crashed {
		return errCrash
	}
	var number int
	err := s.Store.InTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
		if err := fn(ctx, tx); err != nil {
			return err
		}
		s.commits++
		number = s.commits
		if s.at == 2*number-1 {
			s.crashed = true
			s.where = fmt.Sprintf("before commit %d", number)
			return errCrash
		}
		return nil
	})
	if err == nil && s.at == 2*number {
		s.crashed = true
		s.where = fmt.Sprintf("after commit %d", number)
		return errCrash
	}
	return err
}
