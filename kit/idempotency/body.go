package idempotency

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"net/http"
	"sync"
)

// hashedBody hashes a request's body while the handler reads it. When the hash
// is asked for before the end, it reads the rest and keeps it for the handler.
type hashedBody struct {
	mu   sync.Mutex
	body io.ReadCloser // bounded by http.MaxBytesReader
	hash hash.Hash
	rest bytes.Reader // read ahead by sum, not yet by the handler
	done bool         // body has ended or failed
	err  error        // why it failed, not io.EOF
}

func hashBody(w http.ResponseWriter, r *http.Request, limit int64) *hashedBody {
	body := r.Body
	if body == nil {
		body = http.NoBody
	}
	b := &hashedBody{body: http.MaxBytesReader(w, body, limit), hash: sha256.New()}
	r.Body = b
	return b
}

func (b *hashedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rest.Len() > 0 {
		return b.rest.Read(p)
	}
	if b.done {
		if b.err != nil {
			return 0, b.err
		}
		return 0, io.EOF
	}
	n, err := b.body.Read(p)
	b.hash.Write(p[:n])
	b.note(err)
	return n, err
}

func (b *hashedBody) note(err error) {
	if err == nil {
		return
	}
	b.done = true
	if !errors.Is(err, io.EOF) {
		b.err = err
	}
}

func (b *hashedBody) Close() error { return b.body.Close() }

// sum returns the hash of the whole body.
func (b *hashedBody) sum() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.done {
		ahead, err := io.ReadAll(b.body)
		b.hash.Write(ahead)
		if err == nil {
			err = io.EOF
		}
		b.note(err)
		b.rest.Reset(ahead)
	}
	if b.err != nil {
		return nil, b.err
	}
	return b.hash.Sum(nil), nil
}
