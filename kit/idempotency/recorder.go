package idempotency

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// recorder keeps a handler's answer back until it is stored, as long as it is
// small. What the handler flushes goes out at once, and so does an answer that
// grows beyond the limit; only its body is then not kept.
//
// It forwards what http.ResponseController asks for, but no Hijack, whose answer
// could not be seen.
type recorder struct {
	w      http.ResponseWriter
	before http.Header // set by those around the handler
	limit  int         // bytes of body kept

	code    int
	body    []byte
	omitted bool // there was more
	sent    bool // header and body so far have gone out: the rest follows at once
}

func (r *recorder) start(w http.ResponseWriter, limit int) {
	r.w, r.limit = w, limit
	if h := w.Header(); len(h) > 0 {
		r.before = maps.Clone(h)
	}
}

// undo takes back what the handler set, for another answer.
func (r *recorder) undo() {
	if !r.sent {
		h := r.w.Header()
		clear(h)
		maps.Copy(h, r.before)
	}
}

func (r *recorder) Header() http.Header { return r.w.Header() }

func (r *recorder) WriteHeader(code int) {
	if code < 100 || code > 999 { // as net/http does, and before such a code is stored
		panic(fmt.Sprintf("invalid WriteHeader code %v", code))
	}
	switch {
	case r.code != 0:
	case code >= 200:
		r.code = code
	case code != http.StatusSwitchingProtocols: // 1xx is no answer
		r.w.WriteHeader(code)
	}
}

func (r *recorder) Write(p []byte) (int, error) {
	if code := r.status(); code == http.StatusNoContent || code == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	if !r.omitted {
		if len(p) <= r.limit-len(r.body) {
			r.body = append(r.body, p...)
			if !r.sent {
				return len(p), nil
			}
		} else {
			r.omitted = true
			r.begin()
			r.body = nil
		}
	}
	return r.w.Write(p)
}

// FlushError sends what there is.
func (r *recorder) FlushError() error {
	r.begin()
	return http.NewResponseController(r.w).Flush()
}

// Flush is for callers that know http.Flusher only.
func (r *recorder) Flush() {
	_ = r.FlushError() // http.Flusher has no way to say so
}

// SetReadDeadline serves http.ResponseController, like the two below.
func (r *recorder) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(r.w).SetReadDeadline(t)
}

func (r *recorder) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(r.w).SetWriteDeadline(t)
}

func (r *recorder) EnableFullDuplex() error {
	return http.NewResponseController(r.w).EnableFullDuplex()
}

// status is that of the answer.
func (r *recorder) status() int {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	return r.code
}

// response is what is stored, but for its header.
func (r *recorder) response() Response {
	ct := r.w.Header().Get("Content-Type")
	if ct == "" && len(r.body) > 0 {
		ct = http.DetectContentType(r.body)
	}
	return Response{Code: r.status(), ContentType: ct, Body: r.body, BodyOmitted: r.omitted}
}

// autoLength is the size up to which net/http finds a Content-Length by itself.
const autoLength = 2 << 10

// send answers with all there is, unless it has gone out already.
func (r *recorder) send() {
	h := r.w.Header()
	if n := len(r.body); n > autoLength && !r.sent && h["Content-Length"] == nil && h["Trailer"] == nil {
		h.Set("Content-Length", strconv.Itoa(n))
	}
	r.begin()
}

// begin sends header and body so far.
func (r *recorder) begin() {
	if r.sent {
		return
	}
	r.sent = true
	r.w.WriteHeader(r.status())
	if len(r.body) > 0 {
		r.w.Write(r.body) //nolint:errcheck // the caller is gone; its retry gets the stored answer
	}
}
