package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/config"
)

// datasource is the only one that the embedded history has.
const datasource = "usage"

func historyColumns() config.Columns {
	return config.Columns{Client: "client_id", Meter: "meter", Quantity: "quantity", Partition: "k_partition", Offset: "k_offset"}
}

// row is a usage record as history has it.
type row struct {
	client, meter     string
	quantity          int64
	time              int64 // milliseconds
	partition, offset int64
}

func (r *row) text(column string) (string, bool) {
	switch column {
	case "client_id":
		return r.client, true
	case "meter":
		return r.meter, true
	}
	return "", false
}

func (r *row) number(column string) (int64, bool) {
	switch column {
	case "quantity":
		return r.quantity, true
	case "__time":
		return r.time, true
	case "k_partition":
		return r.partition, true
	case "k_offset":
		return r.offset, true
	}
	return 0, false
}

// history answers what meterd asks of Druid, groupBy and segmentMetadata, from
// a list of rows. What it does not know it refuses. As a Druid that is fed from
// the usage topic it goes on to get rows: the counter of a limit's next period
// may ask for those too.
type history struct {
	mu   sync.RWMutex // guards rows
	rows []row
}

// History is the embedded history by itself, which answers as Druid does.
type History struct{ history }

// Add takes in a usage record.
func (h *History) Add(client, meter string, quantity int64, at time.Time, partition int32, offset int64) {
	h.add(row{client: client, meter: meter, quantity: quantity, time: at.UnixMilli(), partition: int64(partition), offset: offset})
}

// add takes rows in, in any order.
func (h *history) add(rows ...row) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rows = append(h.rows, rows...)
}

// Boundaries returns for each of n partitions the first offset that history
// does not have.
func (h *history) Boundaries(n int) map[int32]int64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	ends := map[int32]int64{}
	for p := range n {
		ends[int32(p)] = 0
	}
	for i := range h.rows {
		p := int32(h.rows[i].partition)
		ends[p] = max(ends[p], h.rows[i].offset+1)
	}
	return ends
}

var errQuery = errors.New("query is not supported")

// query is the part of a native query that is understood.
type query struct {
	Type         string        `json:"queryType"`
	DataSource   string        `json:"dataSource"`
	Filter       *filter       `json:"filter"`
	Dimensions   []dimension   `json:"dimensions"`
	Aggregations []aggregation `json:"aggregations"`
}

type filter struct {
	Type       string   `json:"type"`
	Fields     []filter `json:"fields"`
	Column     string   `json:"column"`
	Dimension  string   `json:"dimension"`
	Values     []string `json:"values"`
	MatchValue int64    `json:"matchValue"`
	Lower      *int64   `json:"lower"`
	Upper      *int64   `json:"upper"`
	LowerOpen  bool     `json:"lowerOpen"`
	UpperOpen  bool     `json:"upperOpen"`
}

type dimension struct {
	Type      string     `json:"type"`
	Dimension string     `json:"dimension"`
	Values    []string   `json:"values"`
	Delegate  *dimension `json:"delegate"`
}

type aggregation struct {
	Type       string       `json:"type"`
	FieldName  string       `json:"fieldName"`
	Filter     *filter      `json:"filter"`
	Aggregator *aggregation `json:"aggregator"`
}

func (h *history) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/druid/v2/" {
		http.NotFound(w, r)
		return
	}
	var q query
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<20)).Decode(&q)
	var answer any
	if err == nil {
		answer, err = h.answer(&q)
	}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		answer = map[string]string{"error": "druidException", "category": "UNSUPPORTED", "errorMessage": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(answer) // who asked and went away does not mind
}

func (h *history) answer(q *query) (any, error) {
	switch {
	case q.DataSource != datasource:
		return nil, fmt.Errorf("%w: datasource %q", errQuery, q.DataSource)
	case q.Type == "segmentMetadata":
		return h.metadata(), nil
	case q.Type == "groupBy":
		return h.groupBy(q)
	}
	return nil, fmt.Errorf("%w: type %q", errQuery, q.Type)
}

// metadata describes the one segment that all rows are in.
func (h *history) metadata() any {
	columns := map[string]any{}
	for name, kind := range map[string]string{
		"client_id": "STRING", "meter": "STRING", "quantity": "LONG", "k_partition": "LONG", "k_offset": "LONG",
	} {
		columns[name] = map[string]any{"type": kind, "hasMultipleValues": false}
	}
	return []any{map[string]any{"id": "merged", "columns": columns, "rollup": false}}
}

// groupBy returns a row of cells for each group: its dimensions, then its
// aggregates.
func (h *history) groupBy(q *query) ([][]any, error) {
	type group struct {
		cells []any
		sums  []total
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	groups := map[string]*group{}
	var order []*group
	for i := range h.rows {
		r := &h.rows[i]
		if ok, err := q.Filter.match(r); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		cells := make([]any, 0, len(q.Dimensions)+len(q.Aggregations))
		for d := range q.Dimensions {
			cell, err := q.Dimensions[d].value(r)
			if err != nil {
				return nil, err
			}
			cells = append(cells, cell)
		}
		key := fmt.Sprintf("%q", cells)
		g := groups[key]
		if g == nil {
			g = &group{cells: cells, sums: make([]total, len(q.Aggregations))}
			groups[key], order = g, append(order, g)
		}
		for a := range q.Aggregations {
			if err := q.Aggregations[a].add(&g.sums[a], r); err != nil {
				return nil, err
			}
		}
	}
	answer := make([][]any, 0, len(order))
	for _, g := range order {
		for a := range q.Aggregations {
			g.cells = append(g.cells, q.Aggregations[a].cell(&g.sums[a]))
		}
		answer = append(answer, g.cells)
	}
	return answer, nil
}

// match tells whether r passes; everything passes no filter.
func (f *filter) match(r *row) (bool, error) {
	if f == nil {
		return true, nil
	}
	if f.Type == "and" {
		for i := range f.Fields {
			if ok, err := f.Fields[i].match(r); err != nil || !ok {
				return false, err
			}
		}
		return true, nil
	}
	if f.Type == "in" {
		text, ok := r.text(f.Dimension)
		if !ok {
			return false, fmt.Errorf("%w: filter on column %q", errQuery, f.Dimension)
		}
		return slices.Contains(f.Values, text), nil
	}
	n, ok := r.number(f.Column)
	if !ok {
		return false, fmt.Errorf("%w: filter on column %q", errQuery, f.Column)
	}
	switch f.Type {
	case "equals":
		return n == f.MatchValue, nil
	case "null":
		return false, nil // every row has all columns
	case "range":
		above := f.Lower == nil || n > *f.Lower || n == *f.Lower && !f.LowerOpen
		below := f.Upper == nil || n < *f.Upper || n == *f.Upper && !f.UpperOpen
		return above && below, nil
	}
	return false, fmt.Errorf("%w: filter %q", errQuery, f.Type)
}

// value returns r's cell of the dimension: a string, or nil where a list of
// values does not have it.
func (d *dimension) value(r *row) (any, error) {
	switch {
	case d.Type == "listFiltered" && d.Delegate != nil:
		cell, err := d.Delegate.value(r)
		if text, ok := cell.(string); !ok || !slices.Contains(d.Values, text) {
			return nil, err
		}
		return cell, nil
	case d.Type == "default":
		if text, ok := r.text(d.Dimension); ok {
			return text, nil
		}
	}
	return nil, fmt.Errorf("%w: dimension %q of type %q", errQuery, d.Dimension, d.Type)
}

// total is an aggregate of the rows so far.
type total struct {
	rows, sum, least, most int64
	float                  float64
}

func (a *aggregation) add(t *total, r *row) error {
	var n int64
	switch a.Type {
	case "filtered":
		if a.Aggregator == nil {
			return fmt.Errorf("%w: filtered without an aggregator", errQuery)
		}
		ok, err := a.Filter.match(r)
		if err != nil || !ok {
			return err
		}
		return a.Aggregator.add(t, r)
	case "count":
	case "longSum", "longMin", "longMax", "doubleSum":
		var ok bool
		if n, ok = r.number(a.FieldName); !ok {
			return fmt.Errorf("%w: aggregation of column %q", errQuery, a.FieldName)
		}
	default:
		return fmt.Errorf("%w: aggregation %q", errQuery, a.Type)
	}
	if t.rows == 0 {
		t.least, t.most = n, n
	}
	t.rows++
	t.sum += n
	t.float += float64(n)
	t.least, t.most = min(t.least, n), max(t.most, n)
	return nil
}

// cell returns the aggregate; of no rows, a count is 0 and all others are null.
func (a *aggregation) cell(t *total) any {
	switch {
	case a.Type == "filtered":
		return a.Aggregator.cell(t)
	case a.Type == "count":
		return t.rows
	case t.rows == 0:
		return nil
	case a.Type == "longMin":
		return t.least
	case a.Type == "longMax":
		return t.most
	case a.Type == "doubleSum":
		return t.float
	}
	return t.sum
}
