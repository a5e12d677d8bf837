// Package httpstream tells when a handler begins to stream its answer.
package httpstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
)

// Writer is a response writer that calls Began once, when the handler first flushes
// or takes the connection over.
type Writer struct {
	http.ResponseWriter
	Began func()
	once  sync.Once
}

// Unwrap lets http.ResponseController through to the deadlines.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError serves http.ResponseController. The flush comes after Began: a client
// that reads slowly delays it.
func (w *Writer) FlushError() error {
	w.once.Do(w.Began)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *Writer) Flush() {
	_ = w.FlushError() // http.Flusher has no way to say so
}

// Hijack implements http.Hijacker; it fails where the connection cannot be taken over.
func (w *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.once.Do(w.Began)
	}
	return conn, rw, err
}

// ReadFrom implements io.ReaderFrom, by which net/http sends files.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }
