// Package search is the catalogue's index: bleve in memory, filled from the
// service's own database when it starts and kept up with it afterwards.
//
// Each replica has its own index. It follows the table, not the process's own
// writes, so a product edited on one replica is found on all of them.
package search

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/blevesearch/bleve/v2"
	"github.com/blevesearch/bleve/v2/analysis"
	"github.com/blevesearch/bleve/v2/analysis/analyzer/keyword"
	"github.com/blevesearch/bleve/v2/analysis/lang/en"
	"github.com/blevesearch/bleve/v2/index/scorch"
	"github.com/blevesearch/bleve/v2/mapping"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
)

// Source is where the index is read from.
type Source interface {
	// ChangedSince returns the products that changed at or after t.
	ChangedSince(ctx context.Context, t time.Time) ([]domain.Product, error)
}

const (
	// poll is how often the table is looked at without a hint, for the writes of
	// other replicas.
	poll = 2 * time.Second
	// overlap is how far back each look goes: a transaction may commit later than
	// the time it wrote, and clocks of replicas differ.
	overlap = 15 * time.Second
)

// Index is a domain.Index. It is safe for concurrent use.
type Index struct {
	source Source
	log    *slog.Logger
	bleve  bleve.Index
	words  analysis.Analyzer
	hint   <-chan struct{}

	mu        sync.Mutex // orders refreshes; never held while searching
	revisions map[string]int32
	seen      time.Time // the latest UpdatedAt met
}

var _ domain.Index = (*Index)(nil)

// document is what bleve stores of a product.
type document struct {
	Name        string  `json:"name"`
	Description string  `json:"description"`
	Category    string  `json:"category"`    // searched as words
	CategoryIs  string  `json:"category_is"` // filtered and counted as a whole
	SortName    string  `json:"sort_name"`   // as people sort: without case
	Price       float64 `json:"price"`       // minor units
	InStock     float64 `json:"in_stock"`    // 1 or 0
	Updated     float64 `json:"updated"`     // microseconds
}

// New builds the index from source. Each value received from hint makes Run look at
// the source at once. Close the index after Run has returned.
func New(ctx context.Context, source Source, hint <-chan struct{}, log *slog.Logger) (*Index, error) {
	m := newMapping()
	// An empty path keeps every segment in memory.
	b, err := bleve.NewUsing("", m, scorch.Name, scorch.Name, nil)
	if err != nil {
		return nil, fmt.Errorf("catalog search: %w", err)
	}
	x := &Index{
		source: source, log: log, bleve: b, words: m.AnalyzerNamed(en.AnalyzerName),
		hint: hint, revisions: map[string]int32{},
	}
	if err := x.Refresh(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return x, nil
}

func newMapping() *mapping.IndexMappingImpl {
	// Nothing is stored or put in the _all field: rows are read from the database.
	text := bleve.NewTextFieldMapping()
	text.Analyzer, text.Store, text.IncludeInAll, text.IncludeTermVectors, text.DocValues = en.AnalyzerName, false, false, false, false
	exact := bleve.NewTextFieldMapping()
	exact.Analyzer, exact.Store, exact.IncludeInAll, exact.IncludeTermVectors = keyword.Name, false, false, false
	number := bleve.NewNumericFieldMapping()
	number.Store, number.IncludeInAll = false, false

	doc := bleve.NewDocumentStaticMapping()
	for _, f := range []string{fieldName, fieldDescription, fieldCategory} {
		doc.AddFieldMappingsAt(f, text)
	}
	for _, f := range []string{fieldCategoryIs, fieldSortName} {
		doc.AddFieldMappingsAt(f, exact)
	}
	for _, f := range []string{fieldPrice, fieldInStock, fieldUpdated} {
		doc.AddFieldMappingsAt(f, number)
	}
	m := bleve.NewIndexMapping()
	m.DefaultMapping = doc
	return m
}

// Run keeps the index up with the table until ctx ends. A database that cannot be
// read leaves the index as it is.
func (x *Index) Run(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-x.hint:
		case <-tick.C:
		}
		if err := x.Refresh(ctx); err != nil && ctx.Err() == nil {
			x.log.WarnContext(ctx, "the search index could not be refreshed and may be behind", "error", err)
		}
	}
}

// Refresh brings the index up to what the table holds now.
func (x *Index) Refresh(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	since := time.Unix(0, 0)
	if !x.seen.IsZero() {
		since = x.seen.Add(-overlap)
	}
	changed, err := x.source.ChangedSince(ctx, since)
	if err != nil {
		return err
	}
	batch := x.bleve.NewBatch()
	for _, p := range changed {
		if x.revisions[p.ID] == p.Revision {
			continue // met in an earlier look: looks overlap
		}
		err := batch.Index(p.ID, document{
			Name: p.Name, Description: p.Description, Category: p.Category, CategoryIs: p.Category,
			SortName: strings.ToLower(p.Name), Price: float64(p.PriceMinor), InStock: number(p.InStock),
			Updated: float64(p.UpdatedAt.UnixMicro()),
		})
		if err != nil {
			return fmt.Errorf("catalog search: index %s: %w", p.ID, err)
		}
	}
	if batch.Size() > 0 {
		if err := x.bleve.Batch(batch); err != nil {
			return fmt.Errorf("catalog search: %w", err)
		}
	}
	for _, p := range changed { // only now: a batch that failed is tried again
		x.revisions[p.ID] = p.Revision
		if p.UpdatedAt.After(x.seen) {
			x.seen = p.UpdatedAt
		}
	}
	return nil
}

// Close frees the index.
func (x *Index) Close() error { return x.bleve.Close() }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
