package shop

import (
	"context"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/telemetry/instrument"
)

// hooks are what a service's messaging reports to: telemetry, and in a build for crash drills the points
// at which the process may kill itself.
type hooks struct {
	service string
	ins     *instrument.Instruments
}

func (h hooks) events() events.Hooks { return h.ins.Events() }

func (h hooks) relay() outbox.RelayHooks {
	r := h.ins.Relay()
	if crashPoints {
		before, after := r.BeforePublish, r.AfterPublish
		r.BeforePublish = func(ctx context.Context, e events.Event) {
			call(before, ctx, e)
			h.crash("outbox/before-send/" + e.Type)
		}
		r.AfterPublish = func(ctx context.Context, e events.Event) {
			call(after, ctx, e)
			h.crash("outbox/after-send/" + e.Type)
		}
		beforeCursor, afterCursor := r.BeforeCursor, r.AfterCursor
		r.BeforeCursor = func(ctx context.Context, cursor int64) {
			if beforeCursor != nil {
				beforeCursor(ctx, cursor)
			}
			h.crash("outbox/before-cursor/pass")
		}
		r.AfterCursor = func(ctx context.Context, cursor int64) {
			if afterCursor != nil {
				afterCursor(ctx, cursor)
			}
			h.crash("outbox/after-cursor/pass")
		}
	}
	return r
}

func (h hooks) inbox() inbox.Hooks {
	i := h.ins.Consumer()
	if crashPoints {
		at := func(where string, next func(context.Context, string, events.Event)) func(context.Context, string, events.Event) {
			return func(ctx context.Context, consumer string, e events.Event) {
				if next != nil {
					next(ctx, consumer, e)
				}
				h.crash("inbox/" + where + "/" + e.Type)
			}
		}
		i.BeforeCommit = at("before-commit", i.BeforeCommit)
		i.AfterCommit = at("before-ack", i.AfterCommit)
		i.AfterAck = at("after-ack", i.AfterAck)
	}
	return i
}

func (h hooks) saga() saga.Hooks {
	s := h.ins.Saga()
	if crashPoints {
		at := func(where string, next func(context.Context, saga.Point)) func(context.Context, saga.Point) {
			return func(ctx context.Context, p saga.Point) {
				if next != nil {
					next(ctx, p)
				}
				step := p.Step
				if step == "" {
					step = "saga"
				}
				h.crash("saga/" + where + "/" + p.Saga + "." + step + "." + p.Phase)
			}
		}
		s.BeforeCommit = at("before-commit", s.BeforeCommit)
		s.AfterCommit = at("after-commit", s.AfterCommit)
	}
	return s
}

// point is for the places that services name themselves, around calls to the outside.
func (h hooks) point(_ context.Context, where string) { h.crash("outside/" + where) }

func (h hooks) crash(point string) {
	if crashPoints {
		crash(h.service + "/" + point)
	}
}

func call(fn func(context.Context, events.Event), ctx context.Context, e events.Event) {
	if fn != nil {
		fn(ctx, e)
	}
}
