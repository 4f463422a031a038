package druid_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// row is a row of a datasource: column to string, int64, float64, float32, a
// list of strings or nothing.
type row map[string]any

// engine answers groupBys from rows as Druid does, as far as these tests go.
type engine struct {
	*fake
	mu   sync.Mutex
	rows []row
	lose func(n int, r row) bool // tells which rows the n-th query, from 0, does not see
	n    int
}

func newEngine(t testing.TB, columns map[string]string, rows ...row) *engine {
	e := &engine{rows: rows}
	e.fake = &fake{t: t, groupBy: e.answer, columns: columnsOf(columns, "false"), supervisor: published, unavailable: available}
	return e
}

// columnsOf is what segment metadata say of columns.
func columnsOf(types map[string]string, rollup string) string {
	list := map[string]any{"__time": map[string]any{"type": "LONG"}}
	for name, kind := range types {
		list[name] = map[string]any{"type": kind}
	}
	text, _ := json.Marshal(list) // of strings: cannot fail
	return `[{"columns":` + string(text) + `,"rollup":` + rollup + `}]`
}

func (e *engine) set(rows ...row) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rows = rows
}

// expression is any part of a query.
type expression struct {
	Type, Column, Dimension, Name string
	FieldName, TimeColumn         string
	OutputType                    string
	MatchValue, Lower, Upper      *int64
	UpperOpen                     bool
	Values                        []string
	Filter, Delegate, Aggregator  *expression
	Fields                        []expression
	Dimensions, Aggregations      []expression
}

func (e *engine) answer(w http.ResponseWriter, r *http.Request) {
	text, _ := json.Marshal(r.Context().Value(queryKey{}))
	var q expression
	if err := json.Unmarshal(text, &q); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	groups := map[string][]row{}
	keys := map[string][]any{}
	for _, r := range e.rows {
		if e.lose != nil && e.lose(e.n, r) || !q.Filter.passes(r) {
			continue
		}
		for _, key := range q.keys(r) {
			id := fmt.Sprintf("%#v", key)
			groups[id], keys[id] = append(groups[id], r), key
		}
	}
	e.n++
	answer := [][]any{}
	for id, rows := range groups {
		cells := keys[id]
		for i := range q.Aggregations {
			cells = append(cells, q.Aggregations[i].of(rows))
		}
		answer = append(answer, cells)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	says(http.StatusOK, string(body), "true")(w, r)
}

// keys are the groups that r is in: several where a column has several values.
func (q *expression) keys(r row) [][]any {
	keys := [][]any{nil}
	for i := range q.Dimensions {
		var longer [][]any
		for _, v := range q.Dimensions[i].values(r) {
			for _, key := range keys {
				longer = append(longer, append(slices.Clone(key), v))
			}
		}
		keys = longer
	}
	return keys
}

func (q *expression) values(r row) []any {
	if q.Dimension == "moment" { // the one virtual column there is
		return []any{strconv.FormatInt(r["__time"].(int64), 10)}
	}
	if q.Type == "listFiltered" {
		v := q.Delegate.values(r)[0]
		if text, ok := v.(string); !ok || !slices.Contains(q.Values, text) {
			v = nil
		}
		return []any{v}
	}
	switch v := r[q.Dimension].(type) {
	case []string:
		list := []any{}
		for _, one := range v {
			list = append(list, one)
		}
		return list
	case int64:
		if q.OutputType != "LONG" {
			return []any{strconv.FormatInt(v, 10)}
		}
	case float64:
		if math.IsNaN(v) {
			return []any{"NaN"}
		}
	}
	return []any{r[q.Dimension]}
}

func (q *expression) passes(r row) bool {
	if q == nil {
		return true
	}
	n, number := r[q.Column].(int64)
	switch q.Type {
	case "and":
		return !slices.ContainsFunc(q.Fields, func(f expression) bool { return !f.passes(r) })
	case "equals":
		return number && n == *q.MatchValue
	case "range":
		return number && (q.Lower == nil || n >= *q.Lower) && (q.Upper == nil || n < *q.Upper)
	case "null":
		return r[q.Column] == nil
	case "in":
		text, ok := r[q.Dimension].(string)
		return ok && slices.Contains(q.Values, text)
	}
	return false
}

// of is the aggregate of rows; without any that has a value, a count is 0 and
// all others are null.
func (q *expression) of(rows []row) any {
	if q.Type == "filtered" {
		var passed []row
		for _, r := range rows {
			if q.Filter.passes(r) {
				passed = append(passed, r)
			}
		}
		return q.Aggregator.of(passed)
	}
	if q.Type == "count" {
		return len(rows)
	}
	if q.Type == "longLast" {
		last := slices.MaxFunc(rows, func(a, b row) int { return int(a[q.TimeColumn].(int64) - b[q.TimeColumn].(int64)) })
		return last[q.FieldName]
	}
	var values []int64
	for _, r := range rows {
		if n, ok := r[q.FieldName].(int64); ok {
			values = append(values, n)
		}
	}
	if len(values) == 0 {
		return nil
	}
	sum := int64(0)
	for _, n := range values {
		sum += n
	}
	switch q.Type {
	case "longMin":
		return slices.Min(values)
	case "longMax":
		return slices.Max(values)
	case "doubleSum":
		return float64(sum)
	}
	return sum
}
