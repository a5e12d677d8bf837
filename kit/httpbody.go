package kit

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/napkin-kit/napkin/kit/problem"
)

// A request's body arrives before the request takes a place under the shedder. Few
// places do a service's work; a client that sends its body a byte at a time would hold
// one for as long as it likes, and a few dozen such clients all of them.
const (
	bodyGrace = 10 * time.Second // all of a small body; what a large one may take on top
	bodyRate  = 10 << 10         // bytes per second that a large one must keep up
	bodyAfter = 5 * time.Second  // for what the handler has not read, see linger

	smallBody   = 16 << 10 // held for any request in flight
	largeBody   = 1 << 20  // held for largeAtOnce of them; what is longer is read in the place
	largeAtOnce = 64
)

// arrived reads r's body, as far as it is held, and puts what it has read in its place.
// release gives back what that took, once the request has been served.
func (s *Service) arrived(r *http.Request) (release func(), err error) {
	release = func() {}
	if r.Body == nil || r.Body == http.NoBody {
		return release, nil
	}
	var held bytes.Buffer
	whole, err := holdBody(&held, r.Body, smallBody)
	if err == nil && !whole {
		select {
		case s.largeBodies <- struct{}{}:
			release = func() { <-s.largeBodies }
		default:
			p := problem.New(http.StatusServiceUnavailable, "overloaded", "too many large requests at once")
			p.RetryAfter = time.Second
			return nil, p
		}
		whole, err = holdBody(&held, r.Body, largeBody)
	}
	if err != nil {
		release()
		return nil, bodyProblem(err)
	}
	var rest io.Reader = r.Body
	if whole {
		rest = http.NoBody
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&held, rest), r.Body}
	return release, nil
}

// holdBody reads into held until body's end, or until there are more than n bytes.
func holdBody(held *bytes.Buffer, body io.Reader, n int64) (whole bool, err error) {
	_, err = io.Copy(held, io.LimitReader(body, n+1-int64(held.Len())))
	return int64(held.Len()) <= n, err
}

// bodyProblem is how a body that cannot be read is answered.
func bodyProblem(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem.Of(tooLarge)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return problem.New(http.StatusRequestTimeout, "body_too_slow", "the body arrived too slowly").Because(err)
	}
	return problem.New(http.StatusBadRequest, "bad_body", "the body could not be read").Because(err)
}

// steadyBody cuts a client off that sends slower than bodyRate, after bodyGrace. Only
// the time spent waiting for it counts. At the end it takes the deadline away, so that
// the connection's own wait for the next request, or for the client to go, is not
// bounded by it.
type steadyBody struct {
	io.ReadCloser
	control *http.ResponseController
	waited  time.Duration
	read    int64
	over    bool // it has ended, or failed
}

func (b *steadyBody) Read(p []byte) (int, error) {
	start := time.Now()
	_ = b.control.SetReadDeadline(start.Add(bodyGrace + time.Duration(b.read)*time.Second/bodyRate - b.waited)) // a writer without deadlines has none to set
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Since(start)
	b.read += int64(n)
	b.over = b.over || err != nil
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// linger bounds what comes after the handler: before it sends the answer, net/http reads
// what the handler has left of the body, for as long as the client likes.
func (b *steadyBody) linger() {
	if !b.over {
		_ = b.control.SetReadDeadline(time.Now().Add(bodyAfter))
	}
}
