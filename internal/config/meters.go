package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/condition"
	"github.com/meterd/meterd/internal/usage"
)

// Bounds of what meters look at.
const (
	maxPaths               = 64 // of all meters together
	maxDimensions          = 8  // of one meter
	defaultMaxCombinations = 10_000
	limitMaxCombinations   = 1_000_000
)

// Catalog returns the meters and their schedule. Of a configuration that
// Validate has found right there is no error.
func (c *Config) Catalog() (usage.Catalog, error) {
	schedule, err := usage.NewSchedule(usage.Kind(c.Schedule.Period), c.Schedule.Timezone)
	if err != nil {
		return usage.Catalog{}, fmt.Errorf("schedule: %w", err)
	}
	var p problems
	catalog := c.catalog(&p)
	if err := errors.Join(p...); err != nil {
		return usage.Catalog{}, err
	}
	catalog.Schedule = schedule
	return catalog, nil
}

// catalog makes a catalog of the meters, without a schedule, and notes all that
// is wrong with them.
func (c *Config) catalog(p *problems) usage.Catalog {
	var catalog usage.Catalog
	seen := map[string]bool{}
	for i := range c.Meters {
		m := &c.Meters[i]
		key := fmt.Sprintf("meters[%d]", i)
		switch {
		case m.Name == "":
			p.add(key+".name", "is required")
		case len(m.Name) > usage.MaxIDBytes || !utf8.ValidString(m.Name) || strings.ContainsFunc(m.Name, unicode.IsControl):
			p.add(key+".name", "must be at most %d bytes of UTF-8 without control characters", usage.MaxIDBytes)
		case seen[m.Name]:
			p.add(key+".name", "%q is there twice", m.Name)
		}
		seen[m.Name] = true
		catalog.Meters = append(catalog.Meters, m.meter(p, key, &catalog.Paths))
	}
	if len(catalog.Paths) > maxPaths {
		p.add("meters", "when, group_by and value of all of them name %d paths, more than %d", len(catalog.Paths), maxPaths)
	}
	return catalog
}

// meter makes the meter of m, which is at key, and adds the paths that it looks
// at to paths.
func (m *Meter) meter(p *problems, key string, paths *[]string) usage.Meter {
	made := usage.Meter{
		Name: m.Name, Aggregation: usage.Aggregation(m.Aggregation), Unit: m.Unit, Decimals: m.Decimals,
		MaxCombinations: defaultMaxCombinations,
	}
	p.oneOf(key+".aggregation", m.Aggregation, "count", "sum", "max", "min", "latest", "unique")
	between(p, key+".decimals", m.Decimals, 0, usage.MaxDecimals)
	made.Dimensions = m.dimensions(p, key+".group_by", paths)
	if m.MaxCombinations != nil {
		made.MaxCombinations = *m.MaxCombinations
		between(p, key+".max_combinations", made.MaxCombinations, 1, limitMaxCombinations)
	}
	if m.When != "" {
		when, err := condition.Compile(m.When, func(path string) (int, error) {
			return field(paths, path), checkPath(path)
		})
		if err != nil {
			p.add(key+".when", "%v", err)
		} else {
			made.When = when
		}
	}
	switch unique := made.Aggregation == usage.Unique; {
	case unique && m.Value == "":
		p.add(key+".value", "is required with the aggregation unique")
	case !unique && m.Value != "":
		p.add(key+".value", "is for the aggregation unique alone")
	case unique:
		p.path(key+".value", m.Value)
		made.Value = field(paths, m.Value)
	}
	return made
}

// dimensions makes the dimensions of group_by, in the order of their names.
func (m *Meter) dimensions(p *problems, key string, paths *[]string) []usage.Dimension {
	if len(m.GroupBy) > maxDimensions {
		p.add(key, "%d dimensions, more than %d", len(m.GroupBy), maxDimensions)
	}
	var dimensions []usage.Dimension
	first := map[string]string{} // path by name
	for i, path := range m.GroupBy {
		at := fmt.Sprintf("%s[%d]", key, i)
		if path == "" {
			p.add(at, "is empty")
			continue
		}
		p.path(at, path)
		name := lastPart(path)
		if other, taken := first[name]; taken {
			p.add(at, "%q and %q would both be the dimension %q", other, path, name)
			continue
		}
		first[name] = path
		dimensions = append(dimensions, usage.Dimension{Name: name, Field: field(paths, path)})
	}
	slices.SortFunc(dimensions, func(a, b usage.Dimension) int { return cmp.Compare(a.Name, b.Name) })
	return dimensions
}

// field returns the index of path in paths, to which it is added if it is not
// there yet.
func field(paths *[]string, path string) int {
	if i := slices.Index(*paths, path); i >= 0 {
		return i
	}
	*paths = append(*paths, path)
	return len(*paths) - 1
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
