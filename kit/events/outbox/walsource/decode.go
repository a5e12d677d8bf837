package walsource

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/napkin-kit/napkin/kit/events/outbox"
)

func columns(m *pglogrepl.RelationMessage) []string {
	names := make([]string, len(m.Columns))
	for i, c := range m.Columns {
		names[i] = c.Name
	}
	return names
}

// decode makes the row of a tuple.
func decode(columns []string, tuple *pglogrepl.TupleData) (outbox.Row, error) {
	var r outbox.Row
	if tuple == nil || len(tuple.Columns) != len(columns) {
		return r, fmt.Errorf("walsource: a row of a table with the columns %v does not fit them", columns)
	}
	seen := 0
	for i, c := range tuple.Columns {
		var err error
		var part int64
		seen++
		switch columns[i] {
		case "part":
			part, err = integer(c)
			r.Part = int(part)
		case "id":
			r.ID, err = integer(c)
		case "topic":
			r.Topic = string(c.Data)
		case "key":
			r.Key = string(c.Data)
		case "key_seq":
			r.KeySeq, err = integer(c)
		case "attributes":
			r.Attributes, err = bytea(c)
		case "data":
			r.Data, err = bytea(c)
		default:
			seen--
		}
		if err != nil {
			return r, fmt.Errorf("walsource: column %s: %w", columns[i], err)
		}
	}
	if seen != 7 {
		return r, fmt.Errorf("walsource: a table with the columns %v is not the outbox's: what does the publication publish?", columns)
	}
	return r, nil
}

// integer reads a SMALLINT or BIGINT in either format.
func integer(c *pglogrepl.TupleDataColumn) (int64, error) {
	switch {
	case c.DataType == pglogrepl.TupleDataTypeText:
		return strconv.ParseInt(string(c.Data), 10, 64)
	case c.DataType == pglogrepl.TupleDataTypeBinary && len(c.Data) == 2:
		return int64(int16(binary.BigEndian.Uint16(c.Data))), nil //nolint:gosec // it is signed
	case c.DataType == pglogrepl.TupleDataTypeBinary && len(c.Data) == 8:
		return int64(binary.BigEndian.Uint64(c.Data)), nil //nolint:gosec // it is signed
	}
	return 0, fmt.Errorf("%d bytes in format %q are no integer", len(c.Data), c.DataType)
}

// bytea reads a BYTEA in either format.
func bytea(c *pglogrepl.TupleDataColumn) ([]byte, error) {
	switch {
	case c.DataType == pglogrepl.TupleDataTypeBinary:
		return c.Data, nil
	case c.DataType == pglogrepl.TupleDataTypeText && strings.HasPrefix(string(c.Data), `\x`):
		return hex.AppendDecode([]byte{}, c.Data[2:])
	}
	return nil, fmt.Errorf("%d bytes in format %q are no bytea", len(c.Data), c.DataType)
}

// visible waits until whoever reads the tables sees what the transactions wrote. A
// commit is decoded once it is in the log, which is before it takes effect.
func (x *stream) visible(ctx context.Context, xids []uint32) error {
	wait := time.Millisecond
	for {
		var text string
		if err := x.s.db.Write.QueryRowContext(ctx, `SELECT pg_current_snapshot()::text`).Scan(&text); err != nil {
			return fmt.Errorf("walsource: %w", err)
		}
		s, err := parseSnapshot(text)
		if err != nil {
			return err
		}
		if s.sees(xids) {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait = min(2*wait, 50*time.Millisecond)
	}
}

// snapshot is a pg_snapshot: all below xmax have ended, but for those running.
type snapshot struct {
	xmax    uint64
	running map[uint64]bool
}

// parseSnapshot reads xmin:xmax:running,….
func parseSnapshot(text string) (snapshot, error) {
	s := snapshot{running: make(map[uint64]bool)}
	fields := strings.Split(text, ":")
	if len(fields) != 3 {
		return s, fmt.Errorf("walsource: %q is no snapshot", text)
	}
	var err error
	if s.xmax, err = strconv.ParseUint(fields[1], 10, 64); err != nil {
		return s, fmt.Errorf("walsource: %q is no snapshot: %w", text, err)
	}
	for id := range strings.SplitSeq(fields[2], ",") {
		if id == "" {
			continue
		}
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return s, fmt.Errorf("walsource: %q is no snapshot: %w", text, err)
		}
		s.running[n] = true
	}
	return s, nil
}

// sees reports whether all the transactions have ended. The protocol gives the
// lower half of their ids; they are within two billion of the present.
func (s snapshot) sees(xids []uint32) bool {
	for _, id := range xids {
		full := s.xmax + uint64(int64(int32(id-uint32(s.xmax)))) //nolint:gosec // the difference, modulo 2^32, is signed
		if full >= s.xmax || s.running[full] {
			return false
		}
	}
	return true
}
