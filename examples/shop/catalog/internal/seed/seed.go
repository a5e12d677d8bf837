// Package seed is the demo catalogue: a few hundred products as drafts.
package seed

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
)

//go:embed products.txt
var text string

// Drafts returns the demo catalogue.
func Drafts() ([]domain.Draft, error) { return parse(text) }

// parse reads lines "name | cents | stock | text" under headers "== Category | motto".
// A product's description is its text and its category's motto.
func parse(text string) ([]domain.Draft, error) {
	var (
		out             []domain.Draft
		category, motto string
	)
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if head, ok := strings.CutPrefix(line, "== "); ok {
			category, motto, ok = strings.Cut(head, " | ")
			if !ok {
				return nil, fmt.Errorf("catalog seed: line %d: want \"== Category | motto\"", i+1)
			}
			continue
		}
		parts := strings.Split(line, " | ")
		if len(parts) != 4 || category == "" {
			return nil, fmt.Errorf("catalog seed: line %d: want \"name | cents | stock | text\" below a category", i+1)
		}
		price, err := strconv.ParseInt(parts[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("catalog seed: line %d: price: %w", i+1, err)
		}
		stock, err := strconv.ParseInt(parts[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("catalog seed: line %d: stock: %w", i+1, err)
		}
		out = append(out, domain.Draft{
			Name: parts[0], Description: parts[3] + " " + motto, Category: category,
			PriceMinor: int32(price), Currency: domain.Currency, InitialStock: int32(stock),
		})
	}
	return out, nil
}
