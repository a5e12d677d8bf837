package page

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
)

//go:embed static
var static embed.FS

// asset is a file that pages refer to by its content's hash.
type asset struct {
	body    []byte
	version string
	kind    string
}

var kinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

var assets = func() map[string]asset {
	out := map[string]asset{}
	files, err := fs.ReadDir(static, "static")
	if err != nil {
		panic(err) // embedded: it is there or does not build
	}
	for _, f := range files {
		body, err := static.ReadFile("static/" + f.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(body)
		out[f.Name()] = asset{body, base64.RawURLEncoding.EncodeToString(sum[:9]), kinds[path.Ext(f.Name())]}
	}
	return out
}()

// assetURL is a static file's address: with its version, so that browsers keep it for good.
func assetURL(name string) string { return "/static/" + name + "?v=" + assets[name].version }

// Static serves GET /static/{file}.
func Static(w http.ResponseWriter, r *http.Request) {
	a, ok := assets[r.PathValue("file")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", `"`+a.version+`"`)
	if r.URL.Query().Get("v") == a.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	if r.Header.Get("If-None-Match") == `"`+a.version+`"` {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(a.body) // the reader is gone; nobody is left to tell
}
