package idempotency

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"net/http"
	"sync"
)

// hashedBody hashes a request's body while the handler reads it. When the hash
// is asked for before the end, it reads the rest and keeps it for the handler.
type hashedBody struct {
	mu    sync.Mutex
	body  io.ReadCloser // bounded by http.MaxBytesReader
	print *fingerprinter
	size  int64        // what the client says, or -1
	rest  bytes.Reader // read ahead by sum, not yet by the handler
	done  bool         // body has ended or failed
	err   error        // why it failed, not io.EOF
	hash  [sha256.Size]byte
}

// fingerprinter is a hash with room to build what it starts with.
type fingerprinter struct {
	hash.Hash
	buf []byte
}

var fingerprinters = sync.Pool{New: func() any { return &fingerprinter{Hash: sha256.New()} }}

// start begins a fingerprint with parts kept apart as by [Fingerprint].
func (f *fingerprinter) start(parts ...string) {
	f.buf = f.buf[:0]
	for _, p := range parts {
		f.buf = binary.BigEndian.AppendUint64(f.buf, uint64(len(p)))
		f.buf = append(f.buf, p...)
	}
	f.Reset()
	f.Write(f.buf)
	if cap(f.buf) > 4<<10 {
		f.buf = nil // a long URL's
	}
}

// open starts the fingerprint of r in scope. The body comes last, so that it
// needs no length before it and can be hashed as it passes by.
func (b *hashedBody) open(w http.ResponseWriter, r *http.Request, scope string, limit int64) {
	b.print = fingerprinters.Get().(*fingerprinter)
	b.print.start(r.Method, r.URL.Path, r.URL.RawQuery, scope)
	b.body, b.size = r.Body, r.ContentLength
	if b.body == nil || b.body == http.NoBody {
		b.body, b.done = http.NoBody, true
		return
	}
	b.body = http.MaxBytesReader(w, b.body, limit)
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
	b.print.Write(p[:n])
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

// sum returns the fingerprint of the whole request.
func (b *hashedBody) sum() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.done {
		ahead, err := b.readRest()
		b.print.Write(ahead)
		b.note(err)
		b.rest.Reset(ahead)
	}
	if b.err != nil {
		return nil, b.err
	}
	if b.print != nil {
		b.print.Sum(b.hash[:0])
		fingerprinters.Put(b.print)
		b.print = nil // nothing is read any more
	}
	return b.hash[:], nil
}

// readRest is io.ReadAll with room for what the client announced, up to a few
// KiB, which is all that an announcement may cost.
func (b *hashedBody) readRest() ([]byte, error) {
	const most = 4 << 10
	room := int64(512)
	if b.size >= 0 {
		room = min(b.size, most) + 1 // one more, to see the end
	}
	ahead := make([]byte, 0, room)
	for {
		n, err := b.body.Read(ahead[len(ahead):cap(ahead)])
		ahead = ahead[:len(ahead)+n]
		if err != nil {
			return ahead, err
		}
		if len(ahead) == cap(ahead) {
			ahead = append(ahead, 0)[:len(ahead)]
		}
	}
}
