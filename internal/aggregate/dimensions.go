package aggregate

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// view is what a limit takes of its meter's dimensions: events with the
// required values, told apart by others.
type view struct {
	where []required
	per   []int // dimensions of the meter, by their place in it
	whole bool  // every dimension is one or the other
	names []usage.Dimension
}

type required struct {
	dimension int // of the meter, by its place in it
	value     string
}

// viewOf returns the view of required values and of names that are told apart.
func viewOf(m *usage.Meter, where map[string]string, per []string) view {
	v := view{names: m.Dimensions}
	for i, d := range m.Dimensions {
		if value, ok := where[d.Name]; ok {
			v.where = append(v.where, required{i, value})
		} else if slices.Contains(per, d.Name) {
			v.per = append(v.per, i)
		}
	}
	v.whole = len(v.where)+len(v.per) == len(m.Dimensions)
	return v
}

// standard tells whether default counters take dimensions as v does.
func (v *view) standard() bool { return v.whole || len(v.where)+len(v.per) == 0 }

// takes tells whether an event with these values is taken.
func (v *view) takes(values [][]byte) bool {
	for _, r := range v.where {
		if string(values[r.dimension]) != r.value {
			return false
		}
	}
	return true
}

// takesDims is takes for the dimensions of a combination counter.
func (v *view) takesDims(dims map[string]string) bool {
	for _, r := range v.where {
		if value, ok := dims[v.names[r.dimension].Name]; !ok || value != r.value {
			return false
		}
	}
	return true
}

// perOf returns those of dims that v tells apart.
func (v *view) perOf(dims map[string]string) map[string]string {
	if len(v.per) == 0 {
		return nil
	}
	per := make(map[string]string, len(v.per))
	for _, i := range v.per {
		per[v.names[i].Name] = dims[v.names[i].Name]
	}
	return per
}

// required returns the values that v requires, nil for none.
func (v *view) required() map[string]string {
	if len(v.where) == 0 {
		return nil
	}
	dims := make(map[string]string, len(v.where))
	for _, r := range v.where {
		dims[v.names[r.dimension].Name] = r.value
	}
	return dims
}

// appendValue appends a value to the key of a combination.
func appendValue[T string | []byte](key []byte, value T) []byte {
	key = binary.AppendUvarint(key, uint64(len(value)))
	return append(key, value...)
}

// appendPer appends the key of the values that v tells apart.
func (v *view) appendPer(key []byte, values [][]byte) []byte {
	for _, i := range v.per {
		key = appendValue(key, values[i])
	}
	return key
}

// defaultView tells all dimensions of a meter apart.
func defaultView(m *usage.Meter) view {
	names := make([]string, 0, len(m.Dimensions))
	for _, d := range m.Dimensions {
		names = append(names, d.Name)
	}
	return viewOf(m, nil, names)
}

// newGroup returns the group of the combination with these values.
func (v *view) newGroup(values func(dimension int) string) *group {
	g := &group{dims: make(map[string]string, len(v.where)+len(v.per)), over: len(v.per) > 0}
	for _, r := range v.where {
		g.dims[v.names[r.dimension].Name] = r.value
	}
	var key []byte
	for _, i := range v.per {
		value := values(i)
		g.over = g.over && value == usage.OverflowValue
		g.dims[v.names[i].Name] = value
		key = appendValue(key, value)
	}
	g.key = string(key)
	return g
}

// keyOfDims returns the key of the combination that has dims, and false where
// dims are not of v.
func (v *view) keyOfDims(dims map[string]string) (string, bool) {
	if len(dims) != len(v.where)+len(v.per) || !v.takesDims(dims) {
		return "", false
	}
	var key []byte
	for _, i := range v.per {
		value, ok := dims[v.names[i].Name]
		if !ok {
			return "", false
		}
		key = appendValue(key, value)
	}
	return string(key), true
}

// slotOf returns where f, whose view is v, has the counters of dims, or nil.
// None, and the required values alone, are those of no group.
func (f *family) slotOf(v *view, dims map[string]string) *slot {
	if len(v.per) == 0 || len(dims) == len(v.where) {
		return &f.slot
	}
	key, ok := v.keyOfDims(dims)
	if !ok {
		return nil
	}
	if g := f.groups[key]; g != nil {
		return &g.slot
	}
	return nil
}

// slotOf returns where c has the counters of a meter, scope and dimensions, or
// nil.
func (s *State) slotOf(c *client, meter int, scope Scope, dims map[string]string) *slot {
	if scope.Default() {
		return c.slots[meter].slotOf(&s.views[meter], dims)
	}
	if o := c.scope(scope, meter); o != nil {
		return o.slotOf(&o.view, dims)
	}
	return nil
}

// place returns the group of f for a combination whose key is in s.key, nil
// where it is yet to be made, and whether it is the overflow. What is taken
// back was counted in the overflow, if there is one, and its combination not.
func (s *State) place(f *family, meter int, ev *usage.Event, named func() bool) (g *group, over bool) {
	g = f.groups[string(s.key)]
	if ev.Void && g.find(ev.Time) == nil && f.overflow.find(ev.Time) != nil {
		return f.overflow, true
	}
	if g != nil && (g.alive > 0 || g.over) {
		return g, false
	}
	if f.alive < s.cfg.Catalog.Meters[meter].MaxCombinations || named() {
		return g, false
	}
	return f.overflow, true
}

// named tells whether a contract in force names the combination of values of
// meter one by one: it has its counter, however many there are.
func (c *client) named(meter int, values [][]byte) bool {
	return slices.ContainsFunc(c.terms, func(t term) bool {
		return t.limit.Meter == meter && t.shared && t.view.whole && len(t.view.per) == 0 && t.view.takes(values)
	})
}

func never() bool { return false }

// scopeOf returns the scope of the counters that limit has of its own, where
// it has any.
func scopeOf(contract *contracts.Contract, limit *contracts.Limit) Scope {
	scope := Scope{
		Contract: contract.ID, Kind: limit.Schedule.Kind,
		Timezone: limit.Schedule.Zone.String(), StartsAt: contract.StartsAt,
	}
	if len(limit.Where) > 0 {
		scope.Where = string(usage.AppendCanonicalMap(nil, limit.Where))
	}
	if len(limit.Per) > 0 {
		per := slices.Sorted(slices.Values(limit.Per))
		text := []byte{'['}
		for i, name := range per {
			if i > 0 {
				text = append(text, ',')
			}
			text = usage.AppendCanonicalString(text, name)
		}
		scope.Per = string(append(text, ']'))
	}
	return scope
}

// viewOfScope returns the view that scope was made of, and false where the
// meter has no such dimensions.
func viewOfScope(m *usage.Meter, scope Scope) (view, bool) {
	var where map[string]string
	var per []string
	if scope.Where != "" && json.Unmarshal([]byte(scope.Where), &where) != nil {
		return view{}, false
	}
	if scope.Per != "" && json.Unmarshal([]byte(scope.Per), &per) != nil {
		return view{}, false
	}
	v := viewOf(m, where, per)
	return v, len(v.where) == len(where) && len(v.per) == len(per)
}

// union returns the pairs of both.
func union(a, b map[string]string) map[string]string {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	both := maps.Clone(a)
	maps.Copy(both, b)
	return both
}
