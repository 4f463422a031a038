package druid

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// schemaAge is how long a good look at the datasource's columns is relied on.
const schemaAge = time.Hour

// kinds are the types of columns, by name.
type kinds map[string]string

// Druid's names of types.
const (
	kindString = "STRING"
	kindLong   = "LONG"
	kindDouble = "DOUBLE"
	kindFloat  = "FLOAT"
)

// schema remembers when the columns were last found good, and their types.
type schema struct {
	mu    sync.Mutex
	good  time.Time // under mu; zero: never
	kinds kinds     // under mu; never changed once it is here
}

func (s *schema) find(now time.Time) (kinds, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kinds, !s.good.IsZero() && now.Sub(s.good) < schemaAge
}

// forget makes the next question look at the columns again.
func (s *schema) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.good = time.Time{}
}

// checkSchema returns the types of the columns. It returns ErrColumns when the
// datasource cannot give exact totals, whatever the question, and
// ErrIncomplete when it has no segments to tell.
func (s *Seeder) checkSchema(ctx context.Context) (kinds, error) {
	if known, ok := s.schema.find(s.now()); ok {
		return known, nil
	}
	return s.lookAtSchema(ctx)
}

// lookAtSchema is checkSchema for those who cannot rely on an earlier look.
func (s *Seeder) lookAtSchema(ctx context.Context) (kinds, error) {
	var segments []segmentMetadata
	err := s.http.query(ctx, s.cfg.segmentMetadata(), func(r io.Reader) error {
		if err := json.NewDecoder(r).Decode(&segments); err != nil {
			return malformed("segment metadata", err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at columns: %w", err)
	}
	if len(segments) == 0 {
		return nil, fmt.Errorf("%w: datasource %q has no segments", ErrIncomplete, s.cfg.Datasource)
	}
	found := kinds{}
	for _, m := range segments { // merged: there is one
		if err := m.check(&s.cfg); err != nil {
			return nil, err
		}
		for name, column := range m.Columns {
			found[name] = column.Type
		}
	}
	s.schema.mu.Lock()
	defer s.schema.mu.Unlock()
	s.schema.good, s.schema.kinds = s.now(), found
	return found, nil
}

// wanted is a column and the types that it may have.
type wanted struct {
	column string
	kinds  []string
}

// wanted returns the columns that are needed.
func (c *Config) wanted() []wanted {
	text, long := []string{kindString}, []string{kindLong}
	either := []string{kindLong, kindString}
	columns := &c.Columns
	list := []wanted{
		{columns.Client, text},
		{columns.Meter, text},
		{columns.Quantity, long},
		{columns.Partition, either},
		{c.position(), long},
		{columns.Count, long},
		{columns.Void, either},
	}
	for i, column := range columns.Fields {
		kinds := []string{kindString, kindLong, kindDouble, kindFloat}
		if columns.boolean(i) {
			kinds = either
		}
		list = append(list, wanted{column, kinds})
	}
	return slices.DeleteFunc(list, func(w wanted) bool { return w.column == "" })
}

func (c *Columns) boolean(field int) bool { return len(c.Booleans) > 0 && c.Booleans[field] }

func (c *Config) segmentMetadata() object {
	var columns []string
	for _, w := range c.wanted() {
		if !slices.Contains(columns, w.column) {
			columns = append(columns, w.column)
		}
	}
	return object{
		"queryType":     "segmentMetadata",
		"dataSource":    c.Datasource,
		"intervals":     []string{eternity},
		"merge":         true,
		"analysisTypes": []string{"rollup"},
		"toInclude":     object{"type": "list", "columns": columns},
	}
}

// segmentMetadata is Druid's answer to the query of this name, merged over all
// segments.
type segmentMetadata struct {
	Columns map[string]struct {
		Type              string
		HasMultipleValues bool
		ErrorMessage      string // set where segments differ in the type
	}
	Rollup *bool
}

func (m *segmentMetadata) check(cfg *Config) error {
	switch {
	case m.Rollup != nil && *m.Rollup && cfg.Columns.Count == "":
		return fmt.Errorf("%w: rows are rolled up", ErrColumns)
	case m.Rollup == nil && cfg.Bounded() && cfg.Columns.Count == "": // without offsets, no control count would tell
		return fmt.Errorf("%w: rows of some segments are rolled up", ErrColumns)
	}
	for _, w := range cfg.wanted() {
		found, ok := m.Columns[w.column]
		switch {
		case !ok:
			return fmt.Errorf("%w: there is no column %q", ErrColumns, w.column)
		case found.ErrorMessage != "":
			return fmt.Errorf("%w: column %q differs between segments: %s", ErrColumns, w.column, found.ErrorMessage)
		case found.HasMultipleValues:
			return fmt.Errorf("%w: column %q has several values in a row", ErrColumns, w.column)
		case !slices.Contains(w.kinds, found.Type):
			return fmt.Errorf("%w: column %q is %s, not %s", ErrColumns, w.column, found.Type, strings.Join(w.kinds, " or "))
		}
	}
	return nil
}
