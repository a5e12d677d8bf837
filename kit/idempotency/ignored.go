package idempotency

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
)

// maxIgnored bounds the operations that are remembered: by default they may be paths.
const maxIgnored = 1000

// ignoredKeys are the operations whose handler was reported to ignore the key.
type ignoredKeys struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (i *ignoredKeys) report(ctx context.Context, log *slog.Logger, operation string) {
	i.mu.Lock()
	told := i.seen[operation] || len(i.seen) >= maxIgnored
	if !told {
		if i.seen == nil {
			i.seen = make(map[string]bool)
		}
		i.seen[operation] = true
	}
	i.mu.Unlock()
	if !told {
		log.LogAttrs(ctx, slog.LevelError, "a handler ignores its idempotency key, so a request that is sent twice happens twice: "+
			"make it with idempotency.InTx, or use idempotency.Request with idempotency.Do, or set ServerConfig.Leased", slog.String("operation", operation))
	}
}

// statusWriter sees the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) ok() bool { return w.code == 0 || w.code/100 == 2 }

// Unwrap lets http.ResponseController through.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) WriteHeader(code int) {
	if w.code == 0 && code >= 200 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	w.implicit()
	return w.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom, by which net/http sends files.
func (w *statusWriter) ReadFrom(r io.Reader) (int64, error) {
	w.implicit()
	return io.Copy(w.ResponseWriter, r)
}

// Flush implements http.Flusher.
func (w *statusWriter) Flush() {
	w.implicit()
	_ = http.NewResponseController(w.ResponseWriter).Flush() // http.Flusher has no way to say so
}

func (w *statusWriter) implicit() {
	if w.code == 0 {
		w.code = http.StatusOK
	}
}
