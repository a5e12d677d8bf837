package illustration

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"testing"
)

func TestSVGIsWellFormedAndStable(t *testing.T) {
	for _, c := range []string{"Kitchen", "Coffee & Tea", "Ämter", "", "<script>"} {
		svg := SVG("a-product", c, `A "quoted" <name> & more`)
		d := xml.NewDecoder(bytes.NewReader(svg))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("category %q: %v\n%s", c, err, svg)
			}
		}
		if !bytes.Equal(svg, SVG("a-product", c, `A "quoted" <name> & more`)) {
			t.Errorf("category %q: drawn differently the second time", c)
		}
		if bytes.Contains(svg, []byte("<script")) {
			t.Errorf("category %q: not escaped", c)
		}
	}
}
