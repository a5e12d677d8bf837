package walsource

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/napkin-kit/napkin/kit/events/outbox"
)

// statusEvery is how often the server is told the position, and asked for its own.
const statusEvery = time.Second

// Run implements outbox.Source.
func (s *Source) Run(ctx context.Context, f *outbox.Feed) error {
	err := s.run(ctx, f)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Source) run(ctx context.Context, f *outbox.Feed) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	changed, err := s.publish(ctx)
	if err != nil {
		return err
	}
	slot, err := s.slot(ctx)
	if err != nil {
		return fmt.Errorf("walsource: %w", err)
	}
	at, err := s.ready(ctx, slot, changed)
	if err != nil {
		return err
	}
	conn, err := s.start(ctx, slot)
	if err == nil {
		err = s.stream(ctx, f, slot, conn, at)
	}
	if ctx.Err() == nil && (useless(err) || errors.Is(err, errLag)) {
		err = errors.Join(err, s.drop(ctx, slot))
	}
	return err
}

var errLag = errors.New("walsource: the slot kept too much of the write-ahead log and is made anew")

// stream hands over what arrives on conn, which it closes.
func (s *Source) stream(ctx context.Context, f *outbox.Feed, slot string, conn *pgconn.PgConn, at pglogrepl.LSN) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := &stream{s: s, conn: conn, slot: slot, relations: make(map[uint32][]string), queue: newQueue()}
	x.received = at
	x.recorded.Store(uint64(at))
	var wg sync.WaitGroup
	for _, part := range []func(context.Context) error{
		x.receive,
		func(ctx context.Context) error { return x.hand(ctx, f) },
		x.watch,
	} {
		wg.Go(func() { cancel(part(ctx)) })
	}
	wg.Wait()
	hangUp(conn)
	return context.Cause(ctx)
}

// stream is one run of a source.
type stream struct {
	s    *Source
	conn *pgconn.PgConn // receive's
	slot string

	relations map[uint32][]string // the columns of the tables; receive's
	received  pglogrepl.LSN
	queue     *queue
	recorded  atomic.Uint64 // up to here everything is published and recorded
}

// receive reads the connection. It never waits for the relay without answering the
// server, which would take the source for dead.
func (x *stream) receive(ctx context.Context) error {
	xid, open := uint32(0), false
	next := time.Now()
	for {
		if !time.Now().Before(next) {
			if err := x.status(ctx); err != nil {
				return err
			}
			next = time.Now().Add(statusEvery)
		}
		if x.queue.full() {
			select {
			case <-x.queue.room:
			case <-time.After(time.Until(next)):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		waiting, cancel := context.WithDeadline(ctx, next)
		msg, err := x.conn.ReceiveMessage(waiting)
		cancel()
		if pgconn.Timeout(err) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return fmt.Errorf("walsource: receive: %w", err)
		}
		var data []byte
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			data = msg.Data
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("walsource: the server ended the stream: %w", pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.CopyDone:
			return errors.New("walsource: the server ended the stream")
		}
		if len(data) == 0 {
			continue
		}
		switch data[0] {
		case pglogrepl.PrimaryKeepaliveMessageByteID:
			alive, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
			if err != nil {
				return fmt.Errorf("walsource: %w", err)
			}
			if alive.ReplyRequested {
				next = time.Now()
			}
			x.received = max(x.received, alive.ServerWALEnd)
			// Everything up to here has arrived. While it is recorded too, the position
			// follows what others write, so that an idle outbox holds no log back.
			if !open && x.queue.idle() {
				x.advance(alive.ServerWALEnd)
			}
		case pglogrepl.XLogDataByteID:
			change, err := pglogrepl.ParseXLogData(data[1:])
			if err != nil {
				return fmt.Errorf("walsource: %w", err)
			}
			if len(change.WALData) == 0 {
				continue
			}
			x.received = max(x.received, change.WALStart)
			m, err := pglogrepl.Parse(change.WALData)
			if err != nil {
				return fmt.Errorf("walsource: decode a change of type %q: %w", change.WALData[0], err)
			}
			switch m := m.(type) {
			case *pglogrepl.BeginMessage:
				xid, open = m.Xid, true
			case *pglogrepl.RelationMessage:
				x.relations[m.RelationID] = columns(m)
			case *pglogrepl.InsertMessage:
				row, err := decode(x.relations[m.RelationID], m.Tuple)
				if err != nil {
					return err
				}
				x.queue.add(row, xid)
			case *pglogrepl.CommitMessage:
				open = false
				x.received = max(x.received, m.TransactionEndLSN)
				x.queue.commit(m.TransactionEndLSN)
			}
		}
	}
}

// advance notes that everything up to the position is recorded.
func (x *stream) advance(to pglogrepl.LSN) {
	for {
		at := x.recorded.Load()
		if uint64(to) <= at || x.recorded.CompareAndSwap(at, uint64(to)) {
			return
		}
	}
}

func (x *stream) status(ctx context.Context) error {
	at := pglogrepl.LSN(x.recorded.Load())
	err := pglogrepl.SendStandbyStatusUpdate(ctx, x.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: max(at, x.received), WALFlushPosition: at, WALApplyPosition: at, ReplyRequested: true})
	if err != nil {
		return fmt.Errorf("walsource: tell the position: %w", err)
	}
	return nil
}

// batchRows bounds what the relay is handed at once.
const batchRows = 1024

// hand gives the relay what has arrived, once others see it too.
func (x *stream) hand(ctx context.Context, f *outbox.Feed) error {
	if err := x.alone(ctx); err != nil {
		return err
	}
	if err := f.Begin(ctx); err != nil {
		return err
	}
	if on := x.s.cfg.Hooks.Streaming; on != nil {
		on(ctx, true)
		defer on(context.WithoutCancel(ctx), false)
	}
	for {
		select {
		case <-x.queue.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		rows, xids, end := x.queue.take()
		if err := x.visible(ctx, xids); err != nil {
			return err
		}
		for len(rows) > batchRows {
			if err := f.Rows(ctx, rows[:batchRows:batchRows], func() {}); err != nil {
				return err
			}
			rows = rows[batchRows:]
		}
		err := f.Rows(ctx, rows, func() {
			x.advance(end)
			x.queue.recorded()
		})
		if err != nil {
			return err
		}
	}
}

// alone returns an error where commits wait for this connection, as for a standby:
// they would wait for each other.
func (x *stream) alone(ctx context.Context) error {
	var waited bool
	err := x.s.db.Write.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE pid = $1 AND sync_state <> 'async')`, int64(x.conn.PID())).Scan(&waited)
	if err != nil {
		return fmt.Errorf("walsource: %w", err)
	}
	if waited {
		return errors.New("walsource: synchronous_standby_names takes this connection (napkin_outbox) for a standby: name the standbys instead of *")
	}
	return nil
}

// watch looks at how much of the log the slot keeps.
func (x *stream) watch(ctx context.Context) error {
	c := x.s.cfg
	tick := time.NewTicker(c.CheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var kept int64
		err := x.s.db.Write.QueryRowContext(ctx, `SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint FROM pg_replication_slots WHERE slot_name = $1`, x.slot).Scan(&kept)
		if err != nil {
			if ctx.Err() == nil {
				c.Logger.WarnContext(ctx, "walsource: the slot's lag is not known", "slot", x.slot, "error", err)
			}
			continue
		}
		if c.Hooks.Lag != nil {
			c.Hooks.Lag(ctx, kept)
		}
		if kept > c.MaxLag {
			c.Logger.ErrorContext(ctx, "walsource: the slot keeps too much of the write-ahead log; it is made anew, and the tables are read meanwhile", "slot", x.slot, "bytes", kept, "limit", c.MaxLag)
			x.s.alarm(ctx, kept)
			return fmt.Errorf("%w: %d bytes, at most %d are allowed (walsource.Config.MaxLag)", errLag, kept, c.MaxLag)
		}
	}
}
