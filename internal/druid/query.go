package druid

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/usage"
)

// object is a JSON object of a query.
type object map[string]any

// eternity is all of Druid's time. A control count needs every row, whatever
// its event time.
const eternity = "-146136543-09-08T08:23:32.096Z/146140482-04-24T15:36:27.903Z"

// The cells of an answer's row: the two dimensions, the control count of all
// rows of the group, and the aggregates of those within the time bounds.
const (
	cellClient = iota
	cellMeter
	cellRows
	cellMinOffset
	cellMaxOffset
	cellSumOffset
	cellEvents
	cellFirst
	cellLast
	cellNulls // this and the rest only with a quantity column
	cellSum
	cellFloatSum
	cellMin
	cellMax
	cells
)

func (q *Question) validate(cfg *Config) error {
	switch {
	case q.Partition < 0:
		return fmt.Errorf("partition %d is negative", q.Partition)
	case q.Boundary < 0:
		return fmt.Errorf("boundary %d is negative", q.Boundary)
	case len(q.Clients) == 0 || len(q.Clients) > cfg.BatchClients:
		return fmt.Errorf("%d clients are not within 1 to %d", len(q.Clients), cfg.BatchClients)
	}
	for _, c := range q.Clients {
		if c == "" || len(c) > usage.MaxIDBytes || !utf8.ValidString(c) {
			return fmt.Errorf("client %q is no client id", c)
		}
	}
	if q.Start > q.End {
		return errors.New("start is after end")
	}
	return nil
}

// groupBy builds the one query that carries sums and control count. It filters
// on partition and offset only. All rows of clients that were not asked for
// collapse into the null client (listFiltered, twice as fast as a lookup
// extraction and three times as fast as an expression), and time bounds are in
// filtered aggregators, so that the rows of every group add up to the control
// count.
func (q *Question) groupBy(cfg *Config) object {
	dimensions := []object{
		{"type": "listFiltered", "values": slices.Sorted(slices.Values(q.Clients)), "delegate": dimension(cfg.Columns.Client, "client")},
	}
	if cfg.Columns.Meter != "" {
		dimensions = append(dimensions, dimension(cfg.Columns.Meter, "meter"))
	}
	return object{
		"queryType":   "groupBy",
		"dataSource":  cfg.Datasource,
		"intervals":   []string{eternity},
		"granularity": "all",
		"filter": object{"type": "and", "fields": []object{
			{"type": "equals", "column": cfg.Columns.Partition, "matchValueType": "LONG", "matchValue": q.Partition},
			{"type": "range", "column": cfg.Columns.Offset, "matchValueType": "LONG", "upper": q.Boundary, "upperOpen": true},
		}},
		"dimensions":   dimensions,
		"aggregations": q.aggregations(cfg),
	}
}

func dimension(column, as string) object {
	return object{"type": "default", "dimension": column, "outputName": as}
}

func (q *Question) aggregations(cfg *Config) []object {
	offset, quantity := cfg.Columns.Offset, cfg.Columns.Quantity
	control := []object{
		{"type": "count", "name": "rows"},
		aggregator("longMin", "min_offset", offset),
		aggregator("longMax", "max_offset", offset),
		aggregator("longSum", "sum_offset", offset),
	}
	within := []object{
		{"type": "count", "name": "events"},
		aggregator("longMin", "first", "__time"),
		aggregator("longMax", "last", "__time"),
	}
	if quantity != "" {
		within = append(
			within,
			filtered(object{"type": "null", "column": quantity}, object{"type": "count", "name": "nulls"}),
			aggregator("longSum", "sum", quantity),
			aggregator("doubleSum", "float_sum", quantity),
			aggregator("longMin", "min", quantity),
			aggregator("longMax", "max", quantity),
		)
	}
	if times := q.times(); times != nil {
		for i, a := range within {
			within[i] = filtered(times, a)
		}
	}
	return append(control, within...)
}

func aggregator(kind, name, column string) object {
	return object{"type": kind, "name": name, "fieldName": column}
}

func filtered(filter, aggregator object) object {
	return object{"type": "filtered", "filter": filter, "aggregator": aggregator}
}

// times returns the filter on event time, nil where both sides are open.
func (q *Question) times() object {
	if q.Start == usage.MinTime && q.End == usage.MaxTime {
		return nil
	}
	f := object{"type": "range", "column": "__time", "matchValueType": "LONG"}
	if q.Start != usage.MinTime {
		f["lower"] = int64(q.Start)
	}
	if q.End != usage.MaxTime {
		f["upper"], f["upperOpen"] = int64(q.End), true
	}
	return f
}

// context returns what goes with every query. Druid's own time-out is a little
// before ours, so that its 504 is seen.
func (c *Config) context(id string) object {
	timeout := c.Timeout - min(time.Second, c.Timeout/10)
	ctx := object{
		"queryId":       id,
		"timeout":       timeout.Milliseconds(),
		"priority":      -10,
		"useCache":      false,
		"populateCache": false,
		"resultAsArray": true,
	}
	if c.Lane != "" {
		ctx["lane"] = c.Lane
	}
	return ctx
}
