package druid

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/usage"
)

// object is a JSON object of a query.
type object map[string]any

// timeColumn is where Druid keeps the event time, in milliseconds.
const timeColumn = "__time"

// eternity is all of Druid's time. A control count needs every row, whatever
// its event time.
const eternity = beginning + "/" + end

const (
	beginning = "-146136543-09-08T08:23:32.096Z"
	end       = "146140482-04-24T15:36:27.903Z"
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
	if cfg.Bounded() && q.Boundary > 0 && q.Cut <= 0 {
		return fmt.Errorf("cut %d is no time that a record was appended at", q.Cut)
	}
	return nil
}

// until is the first event time that does not count.
func (q *Question) until(cfg *Config) usage.Time {
	if !cfg.byEventTime() {
		return q.End
	}
	return min(q.End, q.Cut-q.Cut%usage.Time(cfg.Granularity.Milliseconds()))
}

// query is a groupBy, and of how many cells its rows are.
type query struct {
	body  object
	cells int
}

func (q *Question) groupBy(cfg *Config, filters, dimensions, aggregations []object) query {
	return query{
		body: object{
			"queryType":    "groupBy",
			"dataSource":   cfg.Datasource,
			"intervals":    []string{q.interval(cfg)},
			"granularity":  "all",
			"filter":       object{"type": "and", "fields": filters},
			"dimensions":   dimensions,
			"aggregations": aggregations,
		},
		cells: len(dimensions) + len(aggregations),
	}
}

// whole is the query that carries sums and control count. It filters on
// partition and offset only. All rows of clients that were not asked for
// collapse into the null client (listFiltered, twice as fast as a lookup
// extraction and three times as fast as an expression), and time bounds are in
// filtered aggregators, so that the rows of every group add up to the control
// count.
func (q *Question) whole(cfg *Config) query {
	dimensions := []object{q.collapsed(cfg)}
	if cfg.Columns.Meter != "" {
		dimensions = append(dimensions, dimension(cfg.Columns.Meter, "meter"))
	}
	return q.groupBy(cfg, q.filters(cfg), dimensions, append(counted(cfg), q.within(cfg)...))
}

// control is the query of the control count alone, for each client. The values
// of fields are left to another query, which looks at rows of q's clients only:
// those of all others could be as many as there are rows.
func (q *Question) control(cfg *Config) query {
	return q.groupBy(cfg, q.filters(cfg), []object{q.collapsed(cfg)}, counted(cfg))
}

// details is the query of the sums by client, meter, fields and void.
func (q *Question) details(cfg *Config, kinds kinds) query {
	return q.groupBy(cfg, q.ours(cfg), groups(cfg, kinds), append(counted(cfg), q.within(cfg)...))
}

// latest is the query of the quantity at the greatest position of each of some
// event times. What happened at other times collapses into the null time, so
// that the rows of every group add up as those of details do.
func (q *Question) latest(cfg *Config, kinds kinds, times []usage.Time) query {
	values := make([]string, len(times))
	for i, t := range times {
		values[i] = strconv.FormatInt(int64(t), 10)
	}
	// Druid makes no text of the time column itself, which listFiltered needs.
	moment := object{"type": "expression", "name": "moment", "expression": timeColumn + " + 0", "outputType": kindLong}
	dimensions := append(groups(cfg, kinds), object{"type": "listFiltered", "values": values, "delegate": dimension("moment", "at")})
	last := aggregator("longLast", "latest", cfg.Columns.Quantity)
	last["timeColumn"] = cfg.position()
	asks := q.groupBy(cfg, q.ours(cfg), dimensions, append(counted(cfg), last))
	asks.body["virtualColumns"] = []object{moment}
	return asks
}

func (q *Question) collapsed(cfg *Config) object {
	return object{"type": "listFiltered", "values": slices.Sorted(slices.Values(q.Clients)), "delegate": dimension(cfg.Columns.Client, "client")}
}

// groups are the dimensions by which totals are kept apart.
func groups(cfg *Config, kinds kinds) []object {
	list := []object{dimension(cfg.Columns.Client, "client")}
	if cfg.Columns.Meter != "" {
		list = append(list, dimension(cfg.Columns.Meter, "meter"))
	}
	typed := func(column, as string) {
		d := dimension(column, as)
		d["outputType"] = kinds[column]
		list = append(list, d)
	}
	for i, column := range cfg.Columns.Fields {
		typed(column, "field_"+strconv.Itoa(i))
	}
	if cfg.Columns.Void != "" {
		typed(cfg.Columns.Void, "void")
	}
	return list
}

func dimension(column, as string) object {
	return object{"type": "default", "dimension": column, "outputName": as}
}

// filters pass the rows below the boundary and, where their control count need
// not be that of all of them, within the time bounds.
func (q *Question) filters(cfg *Config) []object {
	c := &cfg.Columns
	if !cfg.Bounded() {
		return []object{
			{"type": "equals", "column": c.Partition, "matchValueType": "LONG", "matchValue": q.Partition},
			{"type": "range", "column": c.Offset, "matchValueType": "LONG", "upper": q.Boundary, "upperOpen": true},
		}
	}
	var list []object
	if !cfg.byEventTime() {
		list = append(list, object{"type": "range", "column": c.RecordTime, "matchValueType": "LONG", "upper": int64(q.Cut), "upperOpen": true})
	}
	if times := q.times(cfg); times != nil {
		list = append(list, times)
	}
	return list
}

// ours is filters for the rows of q's clients.
func (q *Question) ours(cfg *Config) []object {
	clients := object{"type": "in", "dimension": cfg.Columns.Client, "values": slices.Sorted(slices.Values(q.Clients))}
	return append(q.filters(cfg), clients)
}

// counted are the aggregates that tell which rows a group has.
func counted(cfg *Config) []object {
	position := cfg.position()
	return []object{
		{"type": "count", "name": "rows"},
		aggregator("longMin", "min_offset", position),
		aggregator("longMax", "max_offset", position),
		aggregator("longSum", "sum_offset", position),
	}
}

// within are the aggregates of what lies within the time bounds.
func (q *Question) within(cfg *Config) []object {
	quantity, count := cfg.Columns.Quantity, cfg.Columns.Count
	events := object{"type": "count", "name": "events"}
	if count != "" {
		events = aggregator("longSum", "events", count)
	}
	list := []object{
		events,
		aggregator("longMin", "first", timeColumn),
		aggregator("longMax", "last", timeColumn),
	}
	if quantity != "" {
		null := object{"type": "null", "column": quantity}
		list = append(list, filtered(null, object{"type": "count", "name": "nulls"}))
		if count != "" {
			list = append(list, filtered(null, aggregator("longSum", "null_events", count)))
		}
		list = append(
			list,
			aggregator("longSum", "sum", quantity),
			aggregator("doubleSum", "float_sum", quantity),
			aggregator("longMin", "min", quantity),
			aggregator("longMax", "max", quantity),
		)
	}
	if times := q.times(cfg); times != nil && !cfg.Bounded() {
		for i, a := range list {
			list[i] = filtered(times, a)
		}
	}
	return list
}

func aggregator(kind, name, column string) object {
	return object{"type": kind, "name": name, "fieldName": column}
}

func filtered(filter, aggregator object) object {
	return object{"type": "filtered", "filter": filter, "aggregator": aggregator}
}

// times returns the filter on event time, nil where both sides are open.
func (q *Question) times(cfg *Config) object {
	until := q.until(cfg)
	if q.Start == usage.MinTime && until == usage.MaxTime {
		return nil
	}
	f := object{"type": "range", "column": timeColumn, "matchValueType": "LONG"}
	if q.Start != usage.MinTime {
		f["lower"] = int64(q.Start)
	}
	if until != usage.MaxTime {
		f["upper"], f["upperOpen"] = int64(until), true
	}
	return f
}

// interval is the time whose segments are looked at: where the filter is on
// event time, no more than it needs.
func (q *Question) interval(cfg *Config) string {
	from, to := beginning, end
	if cfg.Bounded() {
		if q.Start.Valid() {
			from = q.Start.String()
		}
		if until := q.until(cfg); until.Valid() {
			to = until.String()
		}
	}
	return strings.Join([]string{from, to}, "/")
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
