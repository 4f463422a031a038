package model

import (
	"encoding/json"
	"maps"
	"math/big"
	"slices"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// counter is a counter that is kept. What it has counted is found among the
// uses.
type counter struct {
	Key
	period   usage.Period
	schedule usage.Schedule

	// A counter that a contract's end has cut out of default ones has of the
	// first adopted uses what those had in the whole period.
	adopted int
	whole   usage.Period
	blank   bool // it asks history for all of that instead

	pending  bool  // history is yet to answer
	boundary int64 // history has what lies below it
}

// term is a limit in force, and its place in its contract.
type term struct {
	contract *contracts.Contract
	limit    *contracts.Limit
	place    int
}

// terms returns the limits in force of a client: R15 gives their order.
func (w *world) terms(client string) (list []term) {
	for _, c := range w.contractsOf(client) {
		for i := range c.Limits {
			list = append(list, term{c, &c.Limits[i], i})
		}
	}
	return list
}

func (w *world) contractsOf(client string) (list []*contracts.Contract) {
	for _, c := range w.inForce {
		if c.Client == client {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *contracts.Contract) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return list
}

// namesAllOrNone tells whether the limit names every dimension of its meter, or none.
func (w *world) namesAllOrNone(l *contracts.Limit) bool {
	named := len(l.Where) + len(l.Per)
	return named == 0 || named == len(w.cfg.Catalog.Meters[l.Meter].Dimensions)
}

// likeDefault tells whether default counters serve the limit in every
// period that its contract does not cut: R10, R11.
func (w *world) likeDefault(l *contracts.Limit) bool {
	return l.Schedule.Equal(w.cfg.Catalog.Schedule) && w.namesAllOrNone(l)
}

func (t term) scope() Scope {
	s := Scope{
		Contract: t.contract.ID, Kind: t.limit.Schedule.Kind, Zone: t.limit.Schedule.Zone.String(), StartsAt: t.contract.StartsAt,
	}
	if len(t.limit.Where) > 0 {
		s.Where = canonical(t.limit.Where)
	}
	if len(t.limit.Per) > 0 {
		s.Per = namesOf(t.limit.Per)
	}
	return s
}

// namesOf is the canonical JSON of a list of names.
func namesOf(names []string) string {
	names = slices.Sorted(slices.Values(names))
	text := []byte{'['}
	for i, name := range names {
		if i > 0 {
			text = append(text, ',')
		}
		text = usage.AppendCanonicalString(text, name)
	}
	return string(append(text, ']'))
}

// cut returns the period of a limit's own counter at an instant. It returns
// false where it has none: the contract does not cover the instant, or the
// default counter serves.
func (w *world) cut(t term, at usage.Time) (usage.Period, bool) {
	if at < t.contract.StartsAt || at >= t.contract.EndsAt {
		return usage.Period{}, false
	}
	whole := t.limit.Schedule.At(at)
	cut := whole.Cut(t.contract.StartsAt, t.contract.EndsAt)
	return cut, cut != whole || !w.likeDefault(t.limit)
}

// judges tells whether a limit judges a counter.
func (w *world) judges(t term, k *counter) bool {
	if t.limit.Meter != k.Meter || t.contract.Client != k.Client {
		return false
	}
	if k.Scope != (Scope{}) {
		at := k.period.Start
		if at == usage.MinTime {
			at = min(k.period.End, usage.MaxTime) - 1
		}
		cut, own := w.cut(t, at)
		return own && cut.ID == k.Period && t.scope() == k.Scope && (len(t.limit.Per) == 0 || k.Dimensions != anchorOf(t.limit) && k.Dimensions != beyondOf(t.limit))
	}
	return w.likeDefault(t.limit) && t.contract.StartsAt <= k.period.Start && k.period.End <= t.contract.EndsAt && w.matches(t.limit, k)
}

// matches tells whether a default counter is one of those that the limit names.
func (w *world) matches(l *contracts.Limit, k *counter) bool {
	if len(l.Where)+len(l.Per) == 0 || k.Dimensions == none {
		return len(l.Where)+len(l.Per) == 0 && k.Dimensions == none
	}
	values := valuesOf(k.Dimensions)
	for name, value := range l.Where {
		if values[name] != value {
			return false
		}
	}
	return len(l.Per) == 0 || k.Dimensions != w.overflow(&w.cfg.Catalog.Meters[l.Meter])
}

func valuesOf(dimensions string) map[string]string {
	values := map[string]string{}
	if len(dimensions) > len(none) {
		_ = json.Unmarshal([]byte(dimensions), &values) // it is our own text
	}
	return values
}

// anchorOf is the dimensions of the counter that sums what a limit with per
// judges value by value.
func anchorOf(l *contracts.Limit) string { return canonical(l.Where) }

// perOf returns the per values of a counter that the limit judges.
func perOf(l *contracts.Limit, k *counter) map[string]string {
	values := map[string]string{}
	if len(l.Per) > 0 {
		all := valuesOf(k.Dimensions)
		for _, name := range l.Per {
			values[name] = all[name]
		}
	}
	return values
}

// find returns a counter that is kept, or nil.
func (w *world) find(key Key) *counter {
	for _, k := range w.kept {
		if k.Key == key {
			return k
		}
	}
	return nil
}

// need returns the counter of a period, made if it is not there.
func (w *world) need(key Key, period usage.Period, schedule usage.Schedule) *counter {
	key.Period = period.ID
	if k := w.find(key); k != nil {
		return k
	}
	k := &counter{Key: key, period: period, schedule: schedule}
	w.kept = append(w.kept, k)
	w.question(k)
	return k
}

// defaultsOf returns the default counters that a use goes to: R10, R11.
func (w *world) defaultsOf(u *use) []*counter {
	schedule := w.cfg.Catalog.Schedule
	key := Key{Client: u.client, Meter: u.meter, Dimensions: none}
	list := []*counter{w.need(key, schedule.At(u.time), schedule)}
	if u.combination != none {
		key.Dimensions = u.combination
		list = append(list, w.need(key, schedule.At(u.time), schedule))
	}
	return list
}

// ownOf returns limits' own counters that a use goes to, and how many it comes
// too late for: R6, R10.
func (w *world) ownOf(u *use) (list []*counter, leftOut int) {
	var seen []Scope
	for _, t := range w.terms(u.client) {
		scope := t.scope()
		cut, own := w.cut(t, u.time)
		if !own || t.limit.Meter != u.meter || slices.Contains(seen, scope) || !named(t.limit.Where, u.values) {
			continue
		}
		seen = append(seen, scope)
		if cut.End != usage.MaxTime && w.time >= cut.End.Add(w.cfg.AllowedLateness) {
			leftOut++
			continue
		}
		key := Key{Client: u.client, Meter: u.meter, Scope: scope, Dimensions: anchorOf(t.limit), Period: cut.ID}
		list = append(list, w.need(key, cut, t.limit.Schedule))
		if len(t.limit.Per) == 0 {
			continue
		}
		key.Dimensions = w.valueOf(t.limit, key, u)
		list = append(list, w.need(key, cut, t.limit.Schedule))
	}
	return list, leftOut
}

// named tells whether values are what where asks for.
func named(where, values map[string]string) bool {
	for name, value := range where {
		if values[name] != value {
			return false
		}
	}
	return true
}

// valueOf is the dimensions of the counter that a limit with per has for
// values: that of all that is beyond the bound, where they are too many.
func (w *world) valueOf(l *contracts.Limit, anchor Key, u *use) string {
	text := perText(l, func(name string) string { return u.values[name] })
	beyond := beyondOf(l)
	key := anchor
	if key.Dimensions = text; u.sign < 0 && !u.history && w.overflowed(key, beyond) {
		return beyond
	}
	var known []string
	for _, k := range w.kept {
		if k.Client == anchor.Client && k.Meter == anchor.Meter && k.Scope == anchor.Scope && k.Dimensions != anchor.Dimensions && k.Dimensions != beyond {
			known = add(known, k.Dimensions)
		}
	}
	if !slices.Contains(known, text) && len(known) >= w.cfg.Catalog.Meters[l.Meter].MaxCombinations {
		return beyond
	}
	return text
}

// perText is the required values of a limit with those that it tells apart.
func perText(l *contracts.Limit, value func(name string) string) string {
	all := map[string]string{}
	maps.Copy(all, l.Where)
	for _, name := range l.Per {
		all[name] = value(name)
	}
	return canonical(all)
}

// beyondOf is the dimensions of the counter of a limit with per that takes what
// is beyond the bound.
func beyondOf(l *contracts.Limit) string {
	return perText(l, func(string) string { return usage.OverflowValue })
}

// has tells whether use number i is in k.
func (w *world) has(k *counter, i int) bool {
	u := &w.uses[i]
	if u.client != k.Client || u.meter != k.Meter {
		return false
	}
	switch {
	case k.Scope == (Scope{}) && !u.history:
		return k.period.Contains(u.time) && (k.Dimensions == none || k.Dimensions == u.combination)
	case i < k.adopted:
		return !k.blank && u.defaults && k.whole.Contains(u.time) && within(k.Dimensions, u.combination)
	}
	return slices.Contains(u.in, k)
}

// total is what k has counted: all of it is gone through once more. It returns
// false where that is out of range.
func (w *world) total(k *counter) (usage.Quantity, bool) {
	return w.totalOf(k, func(*use) bool { return true })
}

// totalOf is what k has counted of some uses.
func (w *world) totalOf(k *counter, some func(u *use) bool) (usage.Quantity, bool) {
	m := &w.cfg.Catalog.Meters[k.Meter]
	unit, _ := usage.DecimalOf(1).Quantity(m.Decimals)
	sum := new(big.Int)
	var small int64 // while it is far from the edge
	var texts []string
	var best usage.Quantity
	var bestTime usage.Time
	first := true
	for i := range w.uses {
		u := &w.uses[i]
		if !w.has(k, i) || !some(u) {
			continue
		}
		switch m.Aggregation {
		case usage.Count:
			small += u.sign * u.events * int64(unit)
		case usage.Sum:
			if amount := u.sign * int64(u.amount); amount > 1<<32 || amount < -1<<32 {
				sum.Add(sum, big.NewInt(amount))
			} else {
				small += amount
			}
		case usage.Max:
			if first || u.most > best {
				best = u.most
			}
		case usage.Min:
			if first || u.least < best {
				best = u.least
			}
		case usage.Latest:
			if first || u.last > bestTime || u.last == bestTime && !u.history {
				best, bestTime = u.latest, u.last
			}
		case usage.Unique:
			if !u.empty {
				texts = add(texts, u.text)
			}
		}
		first = false
	}
	switch m.Aggregation {
	case usage.Max, usage.Min, usage.Latest:
		return best, true
	case usage.Unique:
		return usage.Quantity(len(texts)) * unit, true
	}
	sum.Add(sum, big.NewInt(small))
	if !sum.IsInt64() || usage.Quantity(sum.Int64()) < -usage.MaxQuantity {
		return 0, false
	}
	return usage.Quantity(sum.Int64()), true
}

// value is what a commit says of k.
func (w *world) value(k *counter) Counter {
	total, _ := w.total(k)
	c := Counter{Period: k.period, Total: total, Pending: k.pending}
	for i := range w.uses {
		if !w.has(k, i) {
			continue
		}
		c.Events += w.uses[i].sign * w.uses[i].events
		if w.uses[i].history {
			c.Seeded += w.uses[i].sign * w.uses[i].events
		}
	}
	return c
}

// seeded tells whether k has history in it that comes to anything.
func (w *world) seeded(k *counter) bool {
	var events int64
	var amount usage.Quantity
	for i := range w.uses {
		if u := &w.uses[i]; u.history && w.has(k, i) {
			events += u.sign * u.events
			amount += usage.Quantity(u.sign) * u.amount
		}
	}
	return events != 0 || amount != 0
}

// alive tells whether k has not been let go.
func (w *world) alive(k *counter) bool { return slices.Contains(w.kept, k) }

// expiry returns when k need no longer be kept: R10.
func (w *world) expiry(k *counter) usage.Time {
	if k.period.End == usage.MaxTime {
		return usage.MaxTime
	}
	late := k.period.End.Add(w.cfg.AllowedLateness)
	if k.schedule.Kind == usage.Lifetime {
		return late
	}
	end := k.period.End
	for range w.cfg.KeepPeriods {
		end = k.schedule.At(end).End
	}
	return max(late, end)
}
