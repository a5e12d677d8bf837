package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Line is a product and how many of it.
type Line struct {
	ProductID string
	Quantity  int64
}

// Status is where a reservation is.
//
//	active → committed → restocked
//	active → released
//	active → expired → (committed, if there is stock still)
type Status string

// The statuses of a reservation.
const (
	StatusActive    Status = "active"
	StatusCommitted Status = "committed"
	StatusReleased  Status = "released"
	StatusExpired   Status = "expired"
	StatusRestocked Status = "restocked"
)

// Reservation is stock promised to an order.
type Reservation struct {
	OrderID   string
	Status    Status
	Lines     []Line
	ExpiresAt time.Time
}

// Shelf is the stock and its reservations within one transaction: the port that
// the store implements. What it reads it locks until the transaction ends.
type Shelf interface {
	// Levels reads and locks the levels of products, always in the order of
	// their ids so that two orders never wait for each other. Unknown products
	// are left out.
	Levels(ctx context.Context, productIDs []string) (map[string]Level, error)
	// Move applies a movement and enters it in the ledger. It fails with
	// ErrInsufficient where the level would break its bounds, and with
	// ErrUnknownProduct; nothing is changed then.
	Move(ctx context.Context, m Movement) (Change, error)
	// Open makes a level of 0 for a product, unless there is one: opened tells.
	Open(ctx context.Context, productID string, at time.Time) (opened bool, err error)
	// Reservation reads and locks the reservation of an order, or fails with
	// ErrNoReservation.
	Reservation(ctx context.Context, orderID string) (Reservation, error)
	// Save writes a reservation.
	Save(ctx context.Context, r Reservation, at time.Time) error
}

// Rejection says why stock was not promised. It is an outcome, not a failure.
type Rejection struct {
	Reason     string
	ProductIDs []string
}

// Receive puts the initial stock of a new product on the shelf, once.
func Receive(ctx context.Context, s Shelf, productID string, quantity int64, now time.Time) ([]Change, error) {
	opened, err := s.Open(ctx, productID, now)
	if err != nil || !opened || quantity == 0 {
		return nil, err
	}
	c, err := s.Move(ctx, Movement{Kind: Received, ProductID: productID, Quantity: quantity, At: now})
	if err != nil {
		return nil, err
	}
	return []Change{c}, nil
}

// Adjust corrects the stock of a product by delta.
func Adjust(ctx context.Context, s Shelf, productID string, delta int64, reason string, now time.Time) (Change, error) {
	return s.Move(ctx, Movement{Kind: Adjusted, ProductID: productID, Quantity: delta, Reason: reason, At: now})
}

// Reserve promises lines to an order, all of them or none: a rejection leaves
// the shelf as it was. Reserving again for an order that has a reservation
// changes nothing.
func Reserve(ctx context.Context, s Shelf, orderID string, lines []Line, expiresAt, now time.Time) ([]Change, *Rejection, error) {
	switch r, err := s.Reservation(ctx, orderID); {
	case errors.Is(err, ErrNoReservation):
	case err != nil:
		return nil, nil, err
	case r.Status == StatusActive || r.Status == StatusCommitted:
		return nil, nil, nil
	default:
		return nil, &Rejection{Reason: "reservation_" + string(r.Status)}, nil
	}
	lines, err := merge(lines)
	if err != nil {
		return nil, nil, err
	}
	changes, rejection, err := take(ctx, s, orderID, lines, now)
	if err != nil || rejection != nil {
		return nil, rejection, err
	}
	r := Reservation{OrderID: orderID, Status: StatusActive, Lines: lines, ExpiresAt: expiresAt}
	return changes, nil, s.Save(ctx, r, now)
}

// take looks at every line before it moves the first, so that a rejection has
// nothing to take back.
func take(ctx context.Context, s Shelf, orderID string, lines []Line, now time.Time) ([]Change, *Rejection, error) {
	ids := make([]string, len(lines))
	for i, l := range lines {
		ids[i] = l.ProductID
	}
	levels, err := s.Levels(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	var unknown, short []string
	for _, l := range lines {
		level, ok := levels[l.ProductID]
		switch {
		case !ok:
			unknown = append(unknown, l.ProductID)
		case level.Available() < l.Quantity:
			short = append(short, l.ProductID)
		}
	}
	if len(unknown) > 0 {
		return nil, &Rejection{Reason: "unknown_product", ProductIDs: unknown}, nil
	}
	if len(short) > 0 {
		return nil, &Rejection{Reason: "out_of_stock", ProductIDs: short}, nil
	}
	changes, err := moveAll(ctx, s, Reserved, orderID, lines, now)
	return changes, nil, err
}

// Commit turns a reservation into stock sold. One that expired is reserved
// again, or rejected. Committing twice changes nothing.
func Commit(ctx context.Context, s Shelf, orderID string, now time.Time) ([]Change, *Rejection, error) {
	r, err := s.Reservation(ctx, orderID)
	if errors.Is(err, ErrNoReservation) {
		return nil, &Rejection{Reason: "not_reserved"}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var changes []Change
	switch r.Status {
	case StatusCommitted:
		return nil, nil, nil
	case StatusActive:
		// Past its time, perhaps, but nobody has taken it away yet.
	case StatusExpired:
		again, rejection, err := take(ctx, s, orderID, r.Lines, now)
		if err != nil || rejection != nil {
			return nil, rejection, err
		}
		changes = again
	default:
		return nil, &Rejection{Reason: "reservation_" + string(r.Status)}, nil
	}
	sold, err := moveAll(ctx, s, Committed, orderID, r.Lines, now)
	if err != nil {
		return nil, nil, err
	}
	r.Status = StatusCommitted
	return append(changes, sold...), nil, s.Save(ctx, r, now)
}

// Release gives an active reservation back. Where there is none, or it has
// ended already, there is nothing to do.
func Release(ctx context.Context, s Shelf, orderID string, now time.Time) ([]Change, error) {
	return end(ctx, s, orderID, StatusActive, StatusReleased, Released, now)
}

// Restock takes a sale back: the goods are on hand again. Where nothing was
// sold, or it came back already, there is nothing to do.
func Restock(ctx context.Context, s Shelf, orderID string, now time.Time) ([]Change, error) {
	return end(ctx, s, orderID, StatusCommitted, StatusRestocked, Restocked, now)
}

// Expire ends an active reservation whose time has passed.
func Expire(ctx context.Context, s Shelf, orderID string, now time.Time) ([]Change, error) {
	r, err := s.Reservation(ctx, orderID)
	if err != nil {
		return nil, err
	}
	if now.Before(r.ExpiresAt) {
		return nil, nil
	}
	return end(ctx, s, orderID, StatusActive, StatusExpired, Expired, now)
}

func end(ctx context.Context, s Shelf, orderID string, from, to Status, kind Kind, now time.Time) ([]Change, error) {
	r, err := s.Reservation(ctx, orderID)
	if errors.Is(err, ErrNoReservation) {
		return nil, nil
	}
	if err != nil || r.Status != from {
		return nil, err
	}
	changes, err := moveAll(ctx, s, kind, orderID, r.Lines, now)
	if err != nil {
		return nil, err
	}
	r.Status = to
	return changes, s.Save(ctx, r, now)
}

func moveAll(ctx context.Context, s Shelf, kind Kind, orderID string, lines []Line, now time.Time) ([]Change, error) {
	changes := make([]Change, 0, len(lines))
	for _, l := range lines {
		c, err := s.Move(ctx, Movement{Kind: kind, ProductID: l.ProductID, Quantity: l.Quantity, OrderID: orderID, At: now})
		if err != nil {
			return nil, fmt.Errorf("inventory: %s %d of %s for %s: %w", kind, l.Quantity, l.ProductID, orderID, err)
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// merge adds up lines of one product and puts them in the order in which rows
// are locked.
func merge(lines []Line) ([]Line, error) {
	sum := make(map[string]int64, len(lines))
	for _, l := range lines {
		if l.Quantity <= 0 || l.ProductID == "" {
			return nil, fmt.Errorf("inventory: a line of %d of product %q cannot be reserved", l.Quantity, l.ProductID)
		}
		sum[l.ProductID] += l.Quantity
	}
	merged := make([]Line, 0, len(sum))
	for id, q := range sum {
		merged = append(merged, Line{ProductID: id, Quantity: q})
	}
	slices.SortFunc(merged, func(a, b Line) int { return cmp.Compare(a.ProductID, b.ProductID) })
	return merged, nil
}
