package druid

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// schemaAge is how long a good look at the datasource's columns is relied on.
const schemaAge = time.Hour

// schema remembers when the columns were last found good.
type schema struct {
	mu   sync.Mutex
	good time.Time // under mu; zero: never
}

// checkSchema returns ErrColumns when the datasource cannot give exact totals,
// whatever the question, and ErrIncomplete when it has no segments to tell.
func (s *Seeder) checkSchema(ctx context.Context) error {
	s.schema.mu.Lock()
	good := s.schema.good
	s.schema.mu.Unlock()
	if !good.IsZero() && s.now().Sub(good) < schemaAge {
		return nil
	}
	var segments []segmentMetadata
	err := s.http.query(ctx, s.cfg.segmentMetadata(), func(r io.Reader) error {
		if err := json.NewDecoder(r).Decode(&segments); err != nil {
			return malformed("segment metadata", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look at columns: %w", err)
	}
	if len(segments) == 0 {
		return fmt.Errorf("%w: datasource %q has no segments", ErrIncomplete, s.cfg.Datasource)
	}
	for _, m := range segments {
		if err := m.check(s.cfg.Columns); err != nil {
			return err
		}
	}
	s.schema.mu.Lock()
	defer s.schema.mu.Unlock()
	s.schema.good = s.now()
	return nil
}

func (c *Config) segmentMetadata() object {
	columns := []string{c.Columns.Client, c.Columns.Partition, c.Columns.Offset}
	for _, optional := range []string{c.Columns.Meter, c.Columns.Quantity} {
		if optional != "" {
			columns = append(columns, optional)
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

func (m *segmentMetadata) check(columns Columns) error {
	if m.Rollup != nil && *m.Rollup {
		return fmt.Errorf("%w: rows are rolled up", ErrColumns)
	}
	wanted := []struct{ column, kind, other string }{
		{columns.Client, "STRING", ""},
		{columns.Meter, "STRING", ""},
		{columns.Quantity, "LONG", ""},
		{columns.Partition, "LONG", "STRING"},
		{columns.Offset, "LONG", ""},
	}
	for _, w := range wanted {
		if w.column == "" {
			continue
		}
		found, ok := m.Columns[w.column]
		switch {
		case !ok:
			return fmt.Errorf("%w: there is no column %q", ErrColumns, w.column)
		case found.ErrorMessage != "":
			return fmt.Errorf("%w: column %q differs between segments: %s", ErrColumns, w.column, found.ErrorMessage)
		case found.HasMultipleValues:
			return fmt.Errorf("%w: column %q has several values in a row", ErrColumns, w.column)
		case found.Type != w.kind && (w.other == "" || found.Type != w.other):
			return fmt.Errorf("%w: column %q is %s, not %s", ErrColumns, w.column, found.Type, w.kind)
		}
	}
	return nil
}
