// Package illustration draws a product: a small SVG, the same one every time.
package illustration

import (
	"fmt"
	"hash/fnv"
	"html"
	"strings"
	"unicode/utf8"
)

// motifs are line drawings of 100 × 100, one for each category of the demo
// catalogue. Any other category gets its initial.
var motifs = map[string]string{
	"Kitchen":      `<path d="M14 46h52v10a22 22 0 0 1-22 22h-8a22 22 0 0 1-22-22z"/><path d="M66 50l24-8"/><path d="M30 36q-4-6 0-12M42 36q-4-6 0-12M54 36q-4-6 0-12"/>`,
	"Table":        `<circle cx="50" cy="52" r="25"/><circle cx="50" cy="52" r="15"/><path d="M12 24v18q0 6 5 6v32M22 24v18q0 6-5 6M86 24q-8 8-6 26h6zM86 50v30"/>`,
	"Coffee & Tea": `<path d="M22 42h44v18a20 20 0 0 1-20 20h-4a20 20 0 0 1-20-20z"/><path d="M66 46h6a9 9 0 0 1 0 18h-6"/><path d="M34 34q-5-7 0-13M46 34q-5-7 0-13M58 34q-5-7 0-13"/>`,
	"Lighting":     `<path d="M34 20h32l14 30H20z"/><path d="M50 50v30M34 82h32"/><path d="M30 60l-6 8M70 60l6 8"/>`,
	"Stationery":   `<rect x="22" y="18" width="42" height="64" rx="4"/><path d="M32 32h22M32 42h22M32 52h14"/><path d="M84 24L62 66l-3 11 9-7 22-42z"/>`,
	"Textiles":     `<path d="M20 26q30 10 60 0v46q-30 10-60 0z"/><path d="M20 40q30 10 60 0M20 58q30 10 60 0M36 30v46M64 30v46"/>`,
	"Garden":       `<path d="M30 56h40l-6 26H36z"/><path d="M50 56V30"/><path d="M50 40q-20 2-22-18 20 0 22 18zM50 34q18 2 22-18-20 0-22 18z"/>`,
	"Travel":       `<rect x="18" y="36" width="64" height="42" rx="7"/><path d="M38 36v-8a5 5 0 0 1 5-5h14a5 5 0 0 1 5 5v8M34 36v42M66 36v42"/>`,
}

// palette: background and ink, each pair with a contrast of at least 4.5.
var palette = [][2]string{
	{"#f3efe6", "#4a4034"}, {"#e7efe9", "#2c5243"}, {"#e9eef4", "#2d4a6b"}, {"#f6e9e3", "#7a3b24"},
	{"#f1ebf3", "#58406b"}, {"#f7f0d8", "#6b5412"}, {"#e5f0f0", "#1f5557"}, {"#f4e7eb", "#78304a"},
}

// SVG draws the product with the given id and category, for a reader who cannot
// see it described by name.
func SVG(id, category, name string) []byte {
	h := fnv.New32a()
	h.Write([]byte(id)) // never fails
	n := h.Sum32()
	c := palette[n%uint32(len(palette))]
	motif, ok := motifs[category]
	if !ok {
		r, _ := utf8.DecodeRuneInString(strings.ToUpper(category))
		motif = fmt.Sprintf(`<text x="50" y="68" text-anchor="middle" font-family="serif" font-size="52" stroke="none" fill=%q>%s</text>`,
			c[1], html.EscapeString(string(r)))
	}
	// A tilt and a disc of its own make neighbours on a page differ.
	tilt, x, y, radius := int(n>>8%13)-6, 60+n>>12%200, 40+n>>16%200, 70+n>>20%60
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 320" role="img" aria-label="%s">`, html.EscapeString(name))
	fmt.Fprintf(&b, `<rect width="320" height="320" fill=%q/>`, c[0])
	fmt.Fprintf(&b, `<circle cx="%d" cy="%d" r="%d" fill=%q opacity="0.08"/>`, x, y, radius, c[1])
	fmt.Fprintf(&b, `<g transform="translate(60 60) scale(2) rotate(%d 50 50)" fill="none" stroke=%q stroke-width="2.5" stroke-linecap="round" stroke-linejoin="round">%s</g></svg>`,
		tilt, c[1], motif)
	return []byte(b.String())
}
