package config

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meterd/meterd/internal/condition"
	"github.com/meterd/meterd/internal/usage"
)

func (h *History) validate(p *problems) {
	p.oneOf("history.on_crossed", h.OnCrossed, "announce", "mark")
	d := h.Druid
	if d == nil {
		return
	}
	p.url("history.druid.url", d.URL)
	if d.CoordinatorURL != "" {
		p.url("history.druid.coordinator_url", d.CoordinatorURL)
	}
	p.needed("history.druid.datasource", d.Datasource)
	p.needed("history.druid.columns.client", d.Columns.Client)
	d.validateLevel(p)
	between(p, "history.druid.timeout", d.Timeout, of(time.Second), of(10*time.Minute))
	p.together("history.druid", "username", d.Username, "password_file", d.PasswordFile)
	between(p, "history.druid.max_queries", d.MaxQueries, 1, 64)
}

// validateLevel checks what tells which rows are below a boundary: offsets, else
// the record's time, else the event's.
func (d *Druid) validateLevel(p *problems) {
	columns := &d.Columns
	switch {
	case columns.Partition == "" && columns.Offset != "":
		p.add("history.druid.columns.partition", "is required with offset; where rows have no offsets, both must be empty")
	case columns.Partition != "" && columns.Offset == "":
		p.add("history.druid.columns.offset", "is required with partition; where rows have no offsets, both must be empty")
	}
	byEventTime := columns.Bounded() && columns.RecordTime == ""
	if columns.Count != "" && !byEventTime {
		p.add("history.druid.columns.count", "is for rolled-up rows, which have neither offset nor record_time")
	}
	if columns.Bounded() && d.Supervisor == "" {
		p.add("history.druid.supervisor", "is required where history.druid.columns has no offset: nothing else could tell what is published")
	}
	switch g := d.Granularity; {
	case g == 0 && byEventTime:
		p.add("history.druid.granularity", "is required where history.druid.columns has neither offset nor record_time: it must be the datasource's queryGranularity")
	case g != 0 && (g < of(time.Millisecond) || of(24*time.Hour)%max(g, 1) != 0 || g%of(time.Millisecond) != 0):
		p.add("history.druid.granularity", "%v is not a part of a day from 1ms to 24h", g)
	}
}

// validateHistoryFields checks what history must know of what meters look at.
func (c *Config) validateHistoryFields(p *problems, catalog *usage.Catalog) {
	columns := &c.History.Druid.Columns
	if c.Usage.Fields.Void == "" && columns.Void != "" {
		p.add("history.druid.columns.void", "needs usage.fields.void")
	}
	for _, path := range slices.Sorted(maps.Keys(columns.Fields)) {
		key := fmt.Sprintf("history.druid.columns.fields[%q]", path)
		switch {
		case columns.Fields[path] == "":
			p.add(key, "is empty")
		case !slices.Contains(catalog.Paths, path):
			p.add(key, "no meter looks at it in when, group_by or value")
		}
	}
	first := map[string]string{} // path by column
	for _, path := range catalog.Paths {
		column := c.historyColumn(path)
		other, taken := first[column]
		_, listed := columns.Fields[path]
		_, otherListed := columns.Fields[other]
		if taken && (!listed || !otherListed) {
			p.add("history.druid.columns.fields", "%s and %s would both be the column %q: say which is which", other, path, column)
			continue
		}
		first[column] = path
	}
	for i := range catalog.Meters {
		switch m := &catalog.Meters[i]; m.Aggregation {
		case usage.Max, usage.Min, usage.Latest:
			if columns.Bounded() && columns.RecordTime == "" {
				p.add("history.druid.columns.record_time", "or offset, is required with the aggregation %s of %s: by event time alone, rows do not tell", m.Aggregation, m.Name)
			}
		}
	}
}

// HistoryVoid returns the column that tells of a row whether it takes another
// back, and "" where no record does.
func (c *Config) HistoryVoid() string {
	if c.Usage.Fields.Void == "" || c.History.Druid.Columns.Void != "" {
		return c.History.Druid.Columns.Void
	}
	return lastPart(c.Usage.Fields.Void)
}

// historyColumn returns the column of a path that a meter looks at: the one that
// is listed, the one of the mapped field that it is, or the last part of it.
func (c *Config) historyColumn(path string) string {
	columns, fields := &c.History.Druid.Columns, &c.Usage.Fields
	if column, ok := columns.Fields[path]; ok {
		return column
	}
	for _, mapped := range []struct{ path, column string }{
		{fields.Client, columns.Client}, {fields.Meter, columns.Meter}, {fields.Quantity, columns.Quantity}, {fields.Void, c.HistoryVoid()},
	} {
		if path == mapped.path && mapped.column != "" {
			return mapped.column
		}
	}
	return lastPart(path)
}

// HistoryField is what history calls a path that meters look at.
type HistoryField struct {
	Column  string
	Boolean bool // a condition takes it for one
}

// HistoryFields returns the columns of catalog.Paths, in their order. It is for
// configurations with history.druid alone.
func (c *Config) HistoryFields(catalog *usage.Catalog) []HistoryField {
	fields := make([]HistoryField, len(catalog.Paths))
	for i, path := range catalog.Paths {
		fields[i].Column = c.historyColumn(path)
	}
	for i := range catalog.Meters {
		if when, ok := catalog.Meters[i].When.(*condition.Condition); ok {
			for _, field := range when.Booleans() {
				fields[field].Boolean = true
			}
		}
	}
	return fields
}
