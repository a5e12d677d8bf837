package simulation

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
)

// ledger compares what was committed with what came of it.
func (w *world) ledger() error {
	var wrong []error
	report := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	table := func(query string) [][]driver.Value {
		r, err := w.db.query(query, nil)
		if err != nil {
			report("%w", err)
			return nil
		}
		return r.left
	}
	committed := map[string]string{} // topic by id
	for _, x := range table(`SELECT id, topic FROM written`) {
		committed[x[0].(string)] = x[1].(string)
	}
	for _, id := range w.done {
		if committed[id] == "" {
			report("event %s was committed and is gone", id)
		}
	}
	for _, id := range w.undone {
		if committed[id] != "" {
			report("event %s was rolled back and is there", id)
		}
	}
	dropped := map[[2]string]bool{}
	for _, x := range table(`SELECT consumer, event_id, state, count(*) FROM napkin_dead_letter GROUP BY 1, 2, 3`) {
		consumer, id, state, n := x[0].(string), x[1].(string), x[2].(string), x[3].(int64)
		if state != "redriven" && state != "dropped" || n != 1 {
			report("%s has %d dead letters of event %s, %s", consumer, n, id, state)
		}
		dropped[[2]string{consumer, id}] = state == "dropped"
	}
	effects := map[[2]string]int{}
	last := map[string]int64{}
	lastID := map[string]string{}
	for _, x := range table(`SELECT consumer, id, key, seq FROM effect ORDER BY n`) {
		consumer, id, key, seq := x[0].(string), x[1].(string), x[2].(string), x[3].(int64)
		effects[[2]string{consumer, id}]++
		if committed[id] == "" {
			report("%s handled event %s, which was never committed", consumer, id)
		}
		if strings.HasSuffix(key, "/") {
			continue // without a key
		}
		at := consumer + " " + key
		if seq <= last[at] {
			report("%s handled event %s, number %d of %s, after %s, number %d", consumer, id, seq, key, lastID[at], last[at])
		}
		last[at], lastID[at] = seq, id
	}
	for id, topic := range committed {
		for _, consumer := range []string{"mail", "audit"} {
			if consumer == "mail" && topic != "orders" {
				continue
			}
			want := 1
			if dropped[[2]string{consumer, id}] {
				want = 0
			}
			if n := effects[[2]string{consumer, id}]; n != want {
				report("event %s had %d effects at %s instead of %d", id, n, consumer, want)
			}
		}
	}
	return errors.Join(wrong...)
}

// spoil plants the faults that are statements.
func (b *broken) spoil(query string, args []driver.NamedValue) string {
	switch {
	case b.oneMark && strings.Contains(query, "INTO napkin_inbox ("):
		args[0].Value = "all"
	case b.unparked && strings.HasPrefix(query, "SELECT topic, key, gap FROM napkin_parked_key"):
		return strings.Replace(query, "WHERE", "WHERE 0 AND", 1)
	case b.lastFirst && strings.Contains(query, "state IN ('dead', 'parked') ORDER BY id LIMIT 1"):
		return strings.Replace(query, "ORDER BY id", "ORDER BY id DESC", 1)
	}
	return query
}
