package transport

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/illustration"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Images serves the illustrations: GET /images/{file}, file being "<id>.svg".
func Images(c *domain.Catalog) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := strings.CutSuffix(r.PathValue("file"), ".svg")
		if !ok {
			problem.Write(w, r, answer(domain.ErrNotFound))
			return
		}
		p, err := c.Get(r.Context(), id)
		if errors.Is(err, domain.ErrNotFound) {
			err = answer(err)
		}
		if err != nil {
			problem.Write(w, r, err)
			return
		}
		svg := illustration.SVG(p.ID, p.Category, p.Name)
		sum := sha256.Sum256(svg)
		etag := `"` + hex.EncodeToString(sum[:8]) + `"`
		h := w.Header()
		h.Set("Content-Type", "image/svg+xml")
		h.Set("Cache-Control", "public, max-age=3600")
		// The file is opened on its own in a browser, too: nothing in it may run.
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(svg) // the reader is gone; nobody is left to tell
	})
}
