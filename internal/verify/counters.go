package verify

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// client is what a partition must have of one client.
type client struct {
	name   string
	slots  []*family // default counters, by meter
	terms  []*term
	scopes []*ownScope
}

// ownScope has the counters of limits that cut time or take dimensions in
// their own way.
type ownScope struct {
	family
	scope aggregate.Scope
	terms []*term           // that use it, of all revisions
	where map[string]string // nil: nothing is required
	per   []int             // dimensions of the meter whose values are counted apart, by their place in it
}

// counter is a counter as it must be.
type counter struct {
	client     *client
	meter      int
	scope      aggregate.Scope
	dimensions map[string]string // nil: the total
	period     usage.Period
	key        string                   // of the changelog
	record     *aggregate.CounterRecord // nil: the changelog has none

	sum
	doubts []doubt // records that may be duplicates

	anchor  bool // it sums up what its scope counts apart, and no limit judges it
	spill   bool // it has what is beyond the bound of combinations
	behind  int  // records that came before it was made
	early   []doubt
	since   span // event times of what came when it was made for sure
	sure    bool // a record came when it must have been there
	loose   bool // what it takes is left open, by the contract's revisions or the bound of combinations
	orphan  bool // nothing counts in it
	blind   bool // its seed is not known, for the changelog has it no longer
	late    bool // a record may have come after the period's end
	fell    bool // a record took the total down
	undone  bool // a record was a void
	watches []*watch
}

// exact tells whether the running total is known at every record.
func (k *counter) exact() bool {
	return !k.loose && !k.blind && !k.murky && !k.estimated() && len(k.doubts) == 0
}

// seed returns what the changelog says of the counter's history.
func (k *counter) seed() aggregate.Seed {
	if k.record == nil {
		return aggregate.Seed{State: aggregate.SeedNone}
	}
	return k.record.Seed
}

// waits tells whether the counter had to wait for history.
func (k *counter) waits() bool {
	seed := k.seed()
	return seed.State != aggregate.SeedNone && seed.Boundary > 0
}

func (a *audit) clientOf(name []byte) *client {
	if c, ok := a.clients[string(name)]; ok {
		return c
	}
	c := &client{name: string(name), slots: make([]*family, len(a.cfg.Catalog.Meters))}
	a.clients[c.name] = c
	for i := range c.slots {
		c.slots[i] = &family{client: c, meter: i}
	}
	for _, t := range a.deals.terms[c.name] {
		c.terms = append(c.terms, t)
		if t.common(a.cfg.Catalog) && a.uncut(t.contract.StartsAt) && a.uncut(t.contract.EndsAt) {
			continue
		}
		o := c.scope(t.scope(), t.limit.Meter)
		if o == nil {
			o = a.newScope(c, t.scope(), t.limit.Meter, t.limit.Where, t.limit.Per)
		}
		o.terms = append(o.terms, t)
	}
	for _, o := range c.scopes {
		o.loose = a.deals.unsteady(o.terms)
	}
	a.inherit(c)
	return c
}

// inherit notes the combinations that history may have brought before any
// event did.
func (a *audit) inherit(c *client) {
	for _, r := range a.kept.inherited[c.name] {
		meter := a.cfg.Catalog.Find(r.Meter)
		if meter < 0 || !a.dimensioned(meter, r.Dimensions) {
			continue
		}
		f, o := c.slots[meter], c.scope(r.Scope, meter)
		if o != nil {
			f = &o.family
		} else if !r.Scope.Default() {
			continue
		}
		if values, apart, spill := a.apart(meter, o, r.Dimensions); apart && !spill {
			f.keep(values, a.expiry(r.Scope, &r.Period), true) // for sure as soon as an event is of it
		}
	}
}

func (c *client) scope(scope aggregate.Scope, meter int) *ownScope {
	for _, o := range c.scopes {
		if o.scope == scope && o.meter == meter {
			return o
		}
	}
	return nil
}

func (a *audit) newScope(c *client, scope aggregate.Scope, meter int, where map[string]string, per []string) *ownScope {
	o := &ownScope{scope: scope, family: family{client: c, meter: meter}}
	if len(where) > 0 {
		o.where = where
	}
	for i, d := range a.cfg.Catalog.Meters[meter].Dimensions {
		if slices.Contains(per, d.Name) {
			o.per = append(o.per, i)
		}
	}
	c.scopes = append(c.scopes, o)
	return o
}

// takes tells whether an event with these values of the meter's dimensions is
// one of the scope's.
func (o *ownScope) takes(meter *usage.Meter, values []string) bool {
	for i, d := range meter.Dimensions {
		if want, ok := o.where[d.Name]; ok && want != values[i] {
			return false
		}
	}
	return true
}

// uncut tells whether an instant is where two default periods meet, or none.
func (a *audit) uncut(at usage.Time) bool {
	return at == usage.MaxTime || at == usage.MinTime || a.cfg.Catalog.Schedule.At(at).Start == at
}

// ownPeriod returns the period of a scope that an event of time at counts in,
// and false where it counts in none.
func (a *audit) ownPeriod(o *ownScope, at usage.Time) (period usage.Period, taken bool) {
	for _, t := range o.terms {
		if p, ok := t.own(at, a.cfg.Catalog); ok {
			period, taken = p, true
		}
	}
	return period, taken
}

// newCounter makes the counter of a scope, dimensions and period. It belongs
// to the caller to put it where it is found again.
func (a *audit) newCounter(c *client, meter int, scope aggregate.Scope, dimensions map[string]string, period usage.Period) *counter {
	k := &counter{client: c, meter: meter, scope: scope, dimensions: dimensions, period: period, sum: newSum(&a.cfg.Catalog.Meters[meter])}
	k.since.first, k.since.last = k.first, k.last
	r := aggregate.CounterRecord{Client: c.name, Meter: a.cfg.Catalog.Meters[meter].Name, Scope: scope, Dimensions: dimensions, Period: period}
	a.buffer = r.AppendCounterKey(a.buffer[:0])
	k.key = string(a.buffer)
	k.record = a.kept.counters[k.key]
	k.blind = k.record == nil && a.cfg.History
	if k.record != nil {
		a.met[k.key] = true
		k.begin(k.record.Seed)
	}
	return k
}

// counters yields every counter that must be, in the order of keys.
func (a *audit) counters(yield func(*counter) bool) {
	for _, name := range slices.Sorted(maps.Keys(a.clients)) {
		c := a.clients[name]
		families := slices.Clone(c.slots)
		for _, o := range c.scopes {
			families = append(families, &o.family)
		}
		for _, f := range families {
			for _, k := range slices.SortedFunc(slices.Values(f.list), func(a, b *counter) int { return cmp.Compare(a.key, b.key) }) {
				if !yield(k) {
					return
				}
			}
		}
	}
}

// lateScopes returns the own counters without seeds that hold less than all
// that their contract covers, and may: the contract was read later.
func (a *audit) lateScopes() map[string]lateScope {
	late := map[string]lateScope{}
	for k := range a.counters {
		if k.scope.Default() || k.loose || k.seed().State != aggregate.SeedNone {
			continue
		}
		switch {
		case k.record == nil && a.expired(k.scope, &k.period):
			late[k.key] = lateScope{loose: true}
		case k.record == nil && !k.sure:
			late[k.key] = lateScope{records: len(k.early)}
		case k.record == nil:
		case len(k.doubts) > 0:
			if len(k.early) > 0 { // what explains the total is anybody's guess
				late[k.key] = lateScope{loose: true}
			}
		case k.record.Events != k.events || k.record.Total != k.total || k.record.First != k.first || k.record.Last != k.last:
			if n := k.lacks(k.record); n > 0 {
				late[k.key] = lateScope{records: n}
			}
		}
	}
	return late
}

// lacks returns after how many of the early records a counter must have been
// made to have come to what r says, 0 where that explains nothing.
func (k *counter) lacks(r *aggregate.CounterRecord) int {
	found := 0
	total, events := k.total, k.events
	for i, e := range k.early {
		total, events = total-e.amount, events-e.events
		if events != r.Events || k.adds && total != r.Total {
			continue
		}
		first, last := k.since.first, k.since.last
		for _, rest := range k.early[i+1:] {
			if rest.events > 0 {
				first, last = min(first, rest.time), max(last, rest.time)
			}
		}
		if first == r.First && last == r.Last {
			return i + 1
		}
		found = i + 1
	}
	return found
}

// seeded makes the counters of clients with contracts before any record does:
// limits may tell of a seed first.
func (a *audit) seeded() {
	for key, r := range a.kept.counters {
		if a.cfg.History && len(a.deals.terms[r.Client]) > 0 {
			a.adopt(key, r)
		}
	}
}

// unmet makes the counters of the changelog that no record counts in: those of
// history. Others have no reason to be.
func (a *audit) unmet() {
	for _, key := range slices.Sorted(maps.Keys(a.kept.counters)) {
		if a.met[key] {
			continue
		}
		r := a.kept.counters[key]
		k := a.adopt(key, r)
		if k != nil && r.Seed.State == aggregate.SeedNone && !k.loose && (r.Events != 0 || r.Total != 0) {
			k.orphan = true
			a.differ(Counter, key, "nothing counts in it, its total is %s of %d events", r.Total.Format(r.Decimals), r.Events)
		}
	}
}

// adopt makes the counter of a record. It returns nil for one of a meter that
// is not configured, or not with such dimensions, which is left alone.
func (a *audit) adopt(key string, r *aggregate.CounterRecord) *counter {
	meter := a.cfg.Catalog.Find(r.Meter)
	if meter < 0 || !a.dimensioned(meter, r.Dimensions) {
		return nil
	}
	c := a.clientOf([]byte(r.Client))
	f, loose := c.slots[meter], false
	var o *ownScope
	if !r.Scope.Default() {
		if o = c.scope(r.Scope, meter); o == nil {
			where, per := dimensionsOf(r.Scope)
			o = a.newScope(c, r.Scope, meter, where, per)
			o.loose = true
		}
		f, loose = &o.family, o.loose
	}
	k := a.newCounter(c, meter, r.Scope, r.Dimensions, r.Period)
	k.loose = loose
	a.put(f, o, k)
	return k
}

// dimensioned tells whether a meter has all dimensions that values are of.
func (a *audit) dimensioned(meter int, values map[string]string) bool {
	for name := range values {
		if !slices.ContainsFunc(a.cfg.Catalog.Meters[meter].Dimensions, func(d usage.Dimension) bool { return d.Name == name }) {
			return false
		}
	}
	return true
}
