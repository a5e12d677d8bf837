package idempotency

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	peer "github.com/gofiber/fiber/v2/middleware/idempotency"
	"github.com/valyala/fasthttp"
)

// Fiber's middleware, in its memory, with its defaults: no fingerprint, no scope,
// and the lifetime that holds as many keys as fit in it. Its server is fasthttp,
// whose requests are reused and cost less than net/http's; the handler alone is
// reported beside it.
func BenchmarkFiberMemory(b *testing.B) {
	handler := func(c *fiber.Ctx) error {
		c.Set("Location", "/v1/orders/o-1")
		c.Set("Content-Type", "application/json")
		return c.Status(http.StatusCreated).Send(answer)
	}
	run := func(b *testing.B, with ...fiber.Handler) {
		app := fiber.New(fiber.Config{DisableStartupMessage: true})
		app.Post("/v1/orders", append(with, handler)...)
		h := app.Handler()
		var ctx fasthttp.RequestCtx
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			ctx.Request.Reset()
			ctx.Response.Reset()
			ctx.Request.Header.SetMethod(http.MethodPost)
			ctx.Request.SetRequestURI("/v1/orders")
			ctx.Request.SetBodyString(order)
			ctx.Request.Header.Set("X-Idempotency-Key", uuid(i))
			i++
			h(&ctx)
			if ctx.Response.StatusCode() != http.StatusCreated {
				b.Fatalf("answered %d %s", ctx.Response.StatusCode(), ctx.Response.Body())
			}
		}
	}
	b.Run("handler-alone", func(b *testing.B) { run(b) })
	b.Run("fiber", func(b *testing.B) { run(b, peer.New(peer.Config{Lifetime: 10 * time.Second})) })
}

// uuid is a key of the 36 characters that fiber wants.
func uuid(i int) string {
	s := strconv.Itoa(i)
	return "8e03978e-40d5-43dd-bc93-000000000000"[:36-len(s)] + s
}
