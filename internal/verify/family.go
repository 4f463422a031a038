package verify

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// family has the counters of a client, meter and scope: of each period one
// that counts whatever the values of dimensions are, and one for each
// combination of those that are told apart.
type family struct {
	client *client
	meter  int
	loose  bool // what it takes is left open
	whole  []*counter
	apart  map[cell]*counter
	list   []*counter // all of them

	combinations map[string]usage.Time // to when the last of their counters expires
	unsure       map[string]bool       // those that nothing but history is known of
	soonest      usage.Time            // before which none of them does
}

// cell is a combination, in the form of appendValue, and a period.
type cell struct{ values, period string }

// find returns the counter of all values in a period, or nil.
func (f *family) find(period string) *counter {
	for i, k := range f.whole {
		if k.period.ID == period {
			f.whole[0], f.whole[i] = k, f.whole[0]
			return k
		}
	}
	return nil
}

func appendValue(key []byte, value string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(value))), value...)
}

// places returns the places of the dimensions of a meter that are told apart:
// all of them in default counters.
func (a *audit) places(meter int, o *ownScope) []int {
	if o != nil {
		return o.per
	}
	list := make([]int, len(a.cfg.Catalog.Meters[meter].Dimensions))
	for i := range list {
		list[i] = i
	}
	return list
}

// total returns the counter of a period that takes whatever the values are,
// made if need be.
func (a *audit) total(f *family, o *ownScope, period *usage.Period) *counter {
	if k := f.find(period.ID); k != nil {
		return k
	}
	var dimensions map[string]string
	scope := aggregate.Scope{}
	if o != nil {
		scope, dimensions = o.scope, maps.Clone(o.where)
	}
	k := a.newCounter(f.client, f.meter, scope, dimensions, *period)
	k.loose = f.loose
	a.put(f, o, k)
	return k
}

// put puts a new counter where it is found again, and finds the limits on it.
func (a *audit) put(f *family, o *ownScope, k *counter) {
	if o != nil {
		late := a.late[k.key]
		k.loose, k.behind = k.loose || late.loose, late.records
	}
	f.list = append(f.list, k)
	values, apart, spill := a.apart(k.meter, o, k.dimensions)
	if !apart {
		k.anchor = o != nil && len(o.per) > 0
		f.whole = append(f.whole, k)
		a.watch(k)
		return
	}
	k.spill = spill
	if f.apart == nil {
		f.apart = map[cell]*counter{}
	}
	f.apart[cell{values, k.period.ID}] = k
	if !spill {
		f.keep(values, a.expiry(k.scope, &k.period), a.mayInherit(k))
	}
	a.watch(k)
}

// mayInherit tells whether k may have been made by history alone.
func (a *audit) mayInherit(k *counter) bool {
	return k.waits() && (k.seed().Events != 0 || a.cfg.VoidMapped || a.takenOut(k))
}

// apart returns the combination that a counter with these dimensions is of,
// false where it is of none, and whether it takes what is beyond the bound.
func (a *audit) apart(meter int, o *ownScope, dimensions map[string]string) (values string, apart, spill bool) {
	var key []byte
	spill = true
	for _, i := range a.places(meter, o) {
		value, ok := dimensions[a.cfg.Catalog.Meters[meter].Dimensions[i].Name]
		apart, spill = apart || ok, spill && value == usage.OverflowValue
		key = appendValue(key, value)
	}
	return string(key), apart, apart && spill
}

// keep notes that a combination has a counter until it expires. One that may
// have come of history alone came nobody knows when.
func (f *family) keep(values string, until usage.Time, seeded bool) {
	if f.combinations == nil {
		f.combinations, f.unsure, f.soonest = map[string]usage.Time{}, map[string]bool{}, usage.MaxTime
	}
	before, known := f.combinations[values]
	f.combinations[values] = max(before, until)
	if !known {
		f.combinations[values] = until
		f.unsure[values] = seeded
	}
	f.soonest = min(f.soonest, until)
}

// one returns the counter of the combination that an event has, made if need
// be: the one that takes what is beyond the bound, where there are too many.
func (a *audit) one(f *family, o *ownScope, values []string, period *usage.Period, ch *change) *counter {
	places := a.places(f.meter, o)
	a.buffer = a.buffer[:0]
	for _, i := range places {
		a.buffer = appendValue(a.buffer, values[i])
	}
	key := string(a.buffer)
	k := f.apart[cell{key, period.ID}]
	before := (k == nil || ch.record.Offset < k.seed().Boundary) && a.cameBefore(f, o, values, period, ch.record.Offset)
	if k != nil && !before {
		delete(f.unsure, key)
		return k
	}
	loose := f.loose
	over := before || !slices.ContainsFunc(places, func(i int) bool { return values[i] != usage.OverflowValue })
	if _, known := f.combinations[key]; !known && !over {
		least, most := f.count(ch.moment)
		if a.forgetful() {
			most = math.MaxInt
		}
		bound := a.cfg.Catalog.Meters[f.meter].MaxCombinations
		yes, maybe := false, false
		if most >= bound {
			yes, maybe = a.named(f, o, values, ch.moment)
		}
		switch {
		case yes || most < bound:
		case least >= bound && !maybe:
			over = true
		default:
			f.loose, loose = true, true // from here on nobody knows
			over = a.kept.counters[a.keyOf(f, o, values, period, false)] == nil
		}
	}
	if over {
		key = ""
		for range places {
			key = string(appendValue([]byte(key), usage.OverflowValue))
		}
		if k := f.apart[cell{key, period.ID}]; k != nil {
			k.loose = k.loose || loose
			return k
		}
	}
	scope := aggregate.Scope{}
	if o != nil {
		scope = o.scope
	}
	k = a.newCounter(f.client, f.meter, scope, a.combine(f, o, values, over), *period)
	k.loose = loose
	a.put(f, o, k)
	if !over {
		delete(f.unsure, key)
	}
	return k
}

// cameBefore tells whether an event came before its combination had a counter
// that was made when some of it had been counted beyond the bound: such a counter
// asks history by itself, for all that is below its own boundary.
func (a *audit) cameBefore(f *family, o *ownScope, values []string, period *usage.Period, offset int64) bool {
	if !a.cfg.History {
		return false
	}
	r := a.kept.counters[a.keyOf(f, o, values, period, false)]
	return r != nil && offset < r.Seed.Boundary && a.kept.counters[a.keyOf(f, o, values, period, true)] != nil
}

// takenOut tells whether k, a default counter, was made when some of its
// combination may have been counted beyond the bound.
func (a *audit) takenOut(k *counter) bool {
	if !k.scope.Default() || len(k.dimensions) == 0 || k.spill || k.seed().Boundary <= a.boundaryOf(a.cfg.Catalog.Meters[k.meter].Name) {
		return false
	}
	r := aggregate.CounterRecord{Client: k.client.name, Meter: a.cfg.Catalog.Meters[k.meter].Name, Period: k.period, Dimensions: map[string]string{}}
	for name := range k.dimensions {
		r.Dimensions[name] = usage.OverflowValue
	}
	return a.kept.counters[string(r.AppendCounterKey(nil))] != nil
}

// forgetful tells whether history may have brought combinations that are no
// longer kept.
func (a *audit) forgetful() bool {
	born := a.kept.position
	if !a.cfg.History || born.Boundary == 0 {
		return false
	}
	period := a.periodOf(born.BoundaryTime)
	return born.Time >= a.expiry(aggregate.Scope{}, period)
}

// combine returns the dimensions of the counter of values.
func (a *audit) combine(f *family, o *ownScope, values []string, over bool) map[string]string {
	dimensions := map[string]string{}
	if o != nil {
		maps.Copy(dimensions, o.where)
	}
	for _, i := range a.places(f.meter, o) {
		value := values[i]
		if over {
			value = usage.OverflowValue
		}
		dimensions[a.cfg.Catalog.Meters[f.meter].Dimensions[i].Name] = value
	}
	return dimensions
}

func (a *audit) keyOf(f *family, o *ownScope, values []string, period *usage.Period, over bool) string {
	r := aggregate.CounterRecord{
		Client: f.client.name, Meter: a.cfg.Catalog.Meters[f.meter].Name, Dimensions: a.combine(f, o, values, over), Period: *period,
	}
	if o != nil {
		r.Scope = o.scope
	}
	return string(r.AppendCounterKey(nil))
}

// named tells whether a contract in force names a combination of default
// counters one by one: it has its counter, however many there are. Maybe is for
// a contract that may have been in force or not.
func (a *audit) named(f *family, o *ownScope, values []string, m moment) (yes, maybe bool) {
	if o != nil {
		return false, false
	}
	for _, t := range f.client.terms {
		if t.limit.Meter != f.meter || !a.names(t, values) {
			continue
		}
		list, sure := a.deals.ruling(t.contract.ID, a.kept, m)
		if !slices.ContainsFunc(list, func(rev *revision) bool { return rev.contract == t.contract }) && !a.deals.lost[t.contract.ID] {
			continue
		}
		if sure && len(list) == 1 {
			return true, false
		}
		maybe = true
	}
	return false, maybe
}

// names tells whether t, a limit that default counters may serve, requires each
// of the values.
func (a *audit) names(t *term, values []string) bool {
	dimensions := a.cfg.Catalog.Meters[t.limit.Meter].Dimensions
	if len(t.limit.Where) != len(dimensions) || !t.limit.Schedule.Equal(a.cfg.Catalog.Schedule) {
		return false
	}
	for i, d := range dimensions {
		if t.limit.Where[d.Name] != values[i] {
			return false
		}
	}
	return true
}

// count returns between which bounds the number of combinations was that had
// counters.
func (f *family) count(m moment) (least, most int) {
	if f.soonest <= m.lo {
		f.soonest = usage.MaxTime
		for values, until := range f.combinations {
			if until <= m.before {
				delete(f.combinations, values)
				delete(f.unsure, values)
				continue
			}
			f.soonest = min(f.soonest, until)
		}
	}
	most, least = len(f.combinations), len(f.combinations)
	if f.soonest <= m.hi || len(f.unsure) > 0 {
		for values, until := range f.combinations {
			if until <= m.hi || f.unsure[values] {
				least--
			}
		}
	}
	return least, most
}

// dimensionsOf returns what a scope takes of dimensions.
func dimensionsOf(scope aggregate.Scope) (where map[string]string, per []string) {
	if scope.Where != "" && json.Unmarshal([]byte(scope.Where), &where) != nil {
		where = nil
	}
	if scope.Per != "" && json.Unmarshal([]byte(scope.Per), &per) != nil {
		per = nil
	}
	return where, per
}
