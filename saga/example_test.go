package saga_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

type trip struct {
	Guest   string
	Booking string
}

// book is a saga of two calls and a local step. The card decides.
func book(charge func(context.Context, *trip) error) saga.Definition[trip] {
	return saga.Definition[trip]{
		Name: "book-trip",
		Steps: []saga.Step[trip]{
			&saga.Call[trip]{
				Name: "hotel",
				Do: func(ctx context.Context, t *trip) error {
					fmt.Println("reserve a room, key", saga.StepKey(ctx))
					t.Booking = "room 7"
					return nil
				},
				Undo: func(ctx context.Context, t *trip) error {
					fmt.Println("release", t.Booking+", key", saga.StepKey(ctx))
					return nil
				},
			},
			&saga.Call[trip]{Name: "charge", Kind: saga.Pivot, Do: charge},
			&saga.Local[trip]{
				Name: "confirm", Kind: saga.Retriable,
				Do: func(ctx context.Context, tx sqldb.Tx, t *trip) error {
					_, err := tx.ExecContext(ctx, `INSERT INTO trips (guest, booking) VALUES ($1, $2)`, t.Guest, t.Booking)
					return err
				},
			},
		},
		OnCompleted: func(_ context.Context, _ sqldb.Tx, t *trip) error {
			fmt.Println(t.Guest, "sleeps in", t.Booking)
			return nil
		},
		OnCompensated: func(_ context.Context, _ sqldb.Tx, t *trip, c saga.Cause) error {
			fmt.Printf("%s stays at home: %s at %s: %s\n", t.Guest, c.Kind, c.Step, c.Reason)
			return nil
		},
	}
}

// withCoordinator opens a database for an example.
func withCoordinator(run func(ctx context.Context, db *sqldb.DB, c *saga.Coordinator) error) {
	ctx := context.Background()
	err := func() error {
		dir, err := os.MkdirTemp("", "saga")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		db, err := sqlitedb.Open(ctx, filepath.Join(dir, "trips.db"), nil)
		if err != nil {
			return err
		}
		defer db.Close()
		if err := migrate.Up(ctx, db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect)); err != nil {
			return err
		}
		if _, err := db.Write.ExecContext(ctx, `CREATE TABLE trips (guest TEXT, booking TEXT)`); err != nil {
			return err
		}
		store, err := sqlsaga.New(db, nil)
		if err != nil {
			return err
		}
		c, err := saga.NewCoordinator(store, nil)
		if err != nil {
			return err
		}
		return run(ctx, db, c)
	}()
	if err != nil {
		fmt.Println(err)
	}
}

// A saga is started in the caller's transaction and driven by Run; here RunDue
// makes one pass.
func Example() {
	withCoordinator(func(ctx context.Context, db *sqldb.DB, c *saga.Coordinator) error {
		trips, err := saga.Register(c, book(func(_ context.Context, t *trip) error {
			if t.Guest == "Bob" {
				return saga.Refuse("the card was declined")
			}
			return nil
		}))
		if err != nil {
			return err
		}
		for _, guest := range []string{"Ann", "Bob"} {
			err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
				return trips.Start(ctx, tx, "trip-of-"+guest, trip{Guest: guest})
			})
			if err != nil {
				return err
			}
			if _, err := c.RunDue(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	// Output:
	// reserve a room, key book-trip/trip-of-Ann/hotel
	// Ann sleeps in room 7
	// reserve a room, key book-trip/trip-of-Bob/hotel
	// release room 7, key book-trip/trip-of-Bob/hotel/undo
	// Bob stays at home: refused at charge: the card was declined
}

// What the rules forbid is refused when it is registered.
func ExampleRegister() {
	withCoordinator(func(_ context.Context, _ *sqldb.DB, c *saga.Coordinator) error {
		nothing := func(context.Context, *trip) error { return nil }
		_, err := saga.Register(c, saga.Definition[trip]{
			Name: "wrong",
			Steps: []saga.Step[trip]{
				&saga.Call[trip]{Name: "charge", Kind: saga.Pivot, Do: nothing},
				&saga.Call[trip]{Name: "hotel", Do: nothing, Undo: nothing},
			},
		})
		fmt.Println(errors.Is(err, saga.ErrDefinition))
		fmt.Println(err)
		return nil
	})
	// Output:
	// true
	// saga: faulty definition: saga "wrong": step "hotel" is compensatable and stands after the pivot "charge"; move it before the pivot, or make it Retriable
}

// A cancellation compensates while the pivot has not been attempted.
func ExampleHandle_Cancel() {
	withCoordinator(func(ctx context.Context, db *sqldb.DB, c *saga.Coordinator) error {
		trips, err := saga.Register(c, book(func(context.Context, *trip) error { return nil }))
		if err != nil {
			return err
		}
		return sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			if err := trips.Start(ctx, tx, "trip-1", trip{Guest: "Cleo"}); err != nil {
				return err
			}
			result, err := trips.Cancel(ctx, sqldb.StdTx(tx), "trip-1", "changed her mind")
			fmt.Println(result)
			return err
		})
	})
	// Output:
	// Cleo stays at home: cancelled at : changed her mind
	// compensating
}

// A definition draws itself.
func ExampleDefinition_Mermaid() {
	fmt.Print(book(nil).Mermaid())
	// Output:
	// flowchart TD
	//   started([started])
	//   s_hotel["hotel<br/>call"]
	//   started --> s_hotel
	//   s_hotel -. undo .-> s_hotel_undo["undo hotel"]
	//   s_charge{"charge<br/>call, pivot"}
	//   s_hotel --> s_charge
	//   s_confirm[["confirm<br/>local, retriable"]]
	//   s_charge --> s_confirm
	//   completed([completed])
	//   s_confirm --> completed
}
