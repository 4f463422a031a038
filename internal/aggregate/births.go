package aggregate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/meterd/meterd/internal/usage"
)

// shapeOf returns a hash of all that the totals of meter m depend on.
func shapeOf(catalog *usage.Catalog, m int) uint64 {
	meter := &catalog.Meters[m]
	parts := []string{string(meter.Aggregation), fmt.Sprint(meter.Decimals)}
	if meter.When != nil {
		parts = append(parts, "when", meter.When.String())
	}
	for _, d := range meter.Dimensions {
		parts = append(parts, "group_by", catalog.Paths[d.Field])
	}
	if meter.Aggregation == usage.Unique {
		parts = append(parts, "value", catalog.Paths[meter.Value])
	}
	return xxh3.HashString(strings.Join(parts, "\x00"))
}

// bear makes all meters begin at position, decided at now, but for those that
// have begun.
func (s *State) bear(known []MeterBirth, position int64, now usage.Time) {
	births := make([]MeterBirth, 0, len(s.cfg.Catalog.Meters))
	for m := range s.cfg.Catalog.Meters {
		name := s.cfg.Catalog.Meters[m].Name
		if i := slices.IndexFunc(known, func(b MeterBirth) bool { return b.Name == name }); i >= 0 {
			births = append(births, known[i])
			continue
		}
		births = append(births, MeterBirth{Name: name, Shape: shapeOf(s.cfg.Catalog, m), Boundary: position, Time: now})
	}
	s.birth.Meters = births
}

// checkShapes returns an error where a meter is no longer what its totals were
// made of.
func (s *State) checkShapes(births []MeterBirth) error {
	for _, b := range births {
		if m, ok := s.meters[b.Name]; ok && shapeOf(s.cfg.Catalog, m) != b.Shape {
			return fmt.Errorf("%w: meter %s has another aggregation, decimals, when, group_by or value than its counters were made with: rename it to count anew",
				ErrForeignRecord, b.Name)
		}
	}
	return nil
}

// bearNew gives meters that are new, or were away for a while, their birth: at
// the position, from which on they are counted. What they had counted before
// they were away misses what came since, and is let go.
func (s *State) bearNew(now usage.Time) {
	known := s.birth.Meters
	s.bear(known, s.position, now)
	if !slices.Equal(known, s.birth.Meters) {
		s.fresh = true // to be kept with the first commit
	}
	for c := range s.clients.all() {
		var stale []*counter
		for k := range c.counters() {
			if k.seed.Boundary < s.birth.Meters[k.meter].Boundary {
				stale = append(stale, k)
			}
		}
		for _, k := range stale {
			s.stale = append(s.stale, k.record(s.cfg.Catalog))
			s.forget(k)
		}
	}
	s.open.touched = s.fresh || len(s.stale) > 0
}

// sweep returns the keys of stale records that the open transaction removes:
// not all at once, and none that a new counter has taken.
func (s *State) sweep() []string {
	s.open.stale = min(len(s.stale), maxDying)
	var keys []string
	for i := range s.stale[:s.open.stale] {
		r := &s.stale[i]
		if c := s.clients.named(r.Client); c != nil {
			if slot := s.slotOf(c, s.meters[r.Meter], r.Scope, r.Dimensions); slot != nil && slot.of(r.Period.ID) != nil {
				continue
			}
		}
		keys = append(keys, string(r.AppendCounterKey(nil)))
	}
	return keys
}
