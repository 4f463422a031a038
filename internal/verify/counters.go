package verify

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
)

// client is what a partition must have of one client.
type client struct {
	name   string
	slots  [][]*counter // default counters by meter, the last used first
	terms  []*term
	scopes []*ownScope
}

// ownScope has the counters of limits that cut time in their own way.
type ownScope struct {
	scope    aggregate.Scope
	meter    int
	terms    []*term // that use it, of all revisions
	counters []*counter
}

// counter is a counter as it must be.
type counter struct {
	client *client
	meter  int
	scope  aggregate.Scope
	period usage.Period
	key    string                   // of the changelog
	record *aggregate.CounterRecord // nil: the changelog has none

	total       usage.Quantity // with the seed
	events      int64
	first, last usage.Time

	behind  int64            // records that came before it was made
	sure    bool             // a record came when it must have been there
	loose   bool             // the contract's revisions leave open what it takes
	orphan  bool             // nothing counts in it
	blind   bool             // its seed is not known, for the changelog has it no longer
	late    bool             // a record may have come after the period's end
	fell    bool             // a record was negative
	doubts  []usage.Quantity // records that may be duplicates
	watches []*watch
}

// exact tells whether the running total is known at every record.
func (k *counter) exact() bool { return !k.loose && !k.blind && len(k.doubts) == 0 }

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
	c := &client{name: string(name), slots: make([][]*counter, len(a.cfg.Catalog.Meters))}
	a.clients[c.name] = c
	for _, t := range a.deals.terms[c.name] {
		c.terms = append(c.terms, t)
		standard := t.limit.Schedule.Equal(a.cfg.Catalog.Schedule)
		if standard && a.uncut(t.contract.StartsAt) && a.uncut(t.contract.EndsAt) {
			continue
		}
		i := slices.IndexFunc(c.scopes, func(o *ownScope) bool { return o.scope == t.scope() && o.meter == t.limit.Meter })
		if i < 0 {
			i = len(c.scopes)
			c.scopes = append(c.scopes, &ownScope{scope: t.scope(), meter: t.limit.Meter})
		}
		c.scopes[i].terms = append(c.scopes[i].terms, t)
	}
	return c
}

// uncut tells whether an instant is where two default periods meet, or none.
func (a *audit) uncut(at usage.Time) bool {
	return at == usage.MaxTime || at == usage.MinTime || a.cfg.Catalog.Schedule.At(at).Start == at
}

// standard returns the default counter of a period, made if need be.
func (a *audit) standard(c *client, meter int, period *usage.Period) *counter {
	slot := c.slots[meter]
	for i, k := range slot {
		if k.period.ID == period.ID {
			slot[0], slot[i] = k, slot[0]
			return k
		}
	}
	k := a.newCounter(c, meter, aggregate.Scope{}, *period)
	c.slots[meter] = append(slot, k)
	return k
}

// own returns the counter of a limit's scope that an event of time at counts
// in, made if need be, or nil.
func (a *audit) own(c *client, o *ownScope, at usage.Time) *counter {
	var period usage.Period
	taken, loose := false, false
	for _, t := range o.terms {
		loose = loose || !t.sole
		if p, ok := t.own(at, a.cfg.Catalog.Schedule); ok {
			period, taken = p, true
		}
	}
	if !taken {
		return nil
	}
	for _, k := range o.counters {
		if k.period.ID == period.ID {
			return k
		}
	}
	k := a.newCounter(c, o.meter, o.scope, period)
	late := a.late[k.key]
	k.loose, k.behind = loose || late.loose, late.records
	o.counters = append(o.counters, k)
	return k
}

func (a *audit) newCounter(c *client, meter int, scope aggregate.Scope, period usage.Period) *counter {
	k := &counter{client: c, meter: meter, scope: scope, period: period, first: usage.MaxTime, last: usage.MinTime}
	r := aggregate.CounterRecord{Client: c.name, Meter: a.cfg.Catalog.Meters[meter].Name, Scope: scope, Period: period}
	a.buffer = r.AppendCounterKey(a.buffer[:0])
	k.key = string(a.buffer)
	k.record = a.kept.counters[k.key]
	k.blind = k.record == nil && a.cfg.History
	if k.record != nil {
		a.met[k.key] = true
		k.total, k.events = k.record.Seed.Usage, k.record.Seed.Events
	}
	a.watch(k)
	return k
}

// delta returns what an event adds to a meter, and false where that does not
// fit.
func (a *audit) delta(meter int, ev *usage.Event) (usage.Quantity, bool) {
	m := &a.cfg.Catalog.Meters[meter]
	if m.Aggregation == usage.Count {
		return usage.DecimalOf(1).Quantity(m.Decimals)
	}
	return ev.Quantity.Quantity(m.Decimals)
}

// holds tells whether the quantity fits every meter that takes the event.
func (a *audit) holds(ev *usage.Event) bool {
	for _, m := range a.takers(ev) {
		if _, ok := a.delta(m, ev); !ok {
			return false
		}
	}
	return true
}

// fits tells whether all totals can take the event.
func (a *audit) fits(ev *usage.Event, takers []int) bool {
	if !a.holds(ev) {
		return false
	}
	c := a.clientOf(ev.Client)
	for _, m := range takers {
		delta, _ := a.delta(m, ev)
		for _, k := range a.targets(c, m, ev.Time) {
			for _, total := range []usage.Quantity{k.total, k.total - k.seed().Usage} { // the seed may have come later
				if _, ok := total.Add(delta); !ok {
					return false
				}
			}
		}
	}
	return true
}

// targets returns the counters that an event counts in.
func (a *audit) targets(c *client, meter int, at usage.Time) []*counter {
	list := []*counter{a.standard(c, meter, a.periodOf(at))}
	for _, o := range c.scopes {
		if o.meter == meter {
			if k := a.own(c, o, at); k != nil {
				list = append(list, k)
			}
		}
	}
	return list
}

// count adds an event to the counters that take it. Where it may be a
// duplicate, it is not added but noted.
func (a *audit) count(r *kafka.Record, ev *usage.Event, takers []int, m moment, period *usage.Period, sure bool) {
	c := a.clientOf(ev.Client)
	for _, meter := range takers {
		delta, _ := a.delta(meter, ev)
		k := a.standard(c, meter, period)
		if a.overflows(r, k, delta) {
			return
		}
		a.add(k, r, ev, delta, m, sure)
		for _, o := range c.scopes {
			if o.meter == meter {
				a.addOwn(c, o, r, ev, delta, m, sure)
			}
		}
	}
}

func (a *audit) overflows(r *kafka.Record, k *counter, delta usage.Quantity) bool {
	if _, ok := k.total.Add(delta); ok || !k.exact() {
		return false
	}
	a.refused(r.Offset, nil, usage.Overflow)
	return true
}

// addOwn adds an event to a limit's own counter, if it reached that.
func (a *audit) addOwn(c *client, o *ownScope, r *kafka.Record, ev *usage.Event, delta usage.Quantity, m moment, sure bool) {
	k := a.own(c, o, ev.Time)
	if k == nil {
		return
	}
	if k.period.End != usage.MaxTime {
		end := k.period.End.Add(a.cfg.AllowedLateness)
		if m.lo >= end {
			return // left out: too long past
		}
		sure = sure && m.hi < end
	}
	switch seed := k.seed(); {
	case seed.State != aggregate.SeedNone:
		if r.Offset < seed.Boundary {
			return
		}
	default:
		inForce := slices.ContainsFunc(o.terms, func(t *term) bool { return a.kept.sure(t.written, m) })
		k.sure = k.sure || inForce
		if k.behind > 0 && !inForce {
			k.behind--
			return
		}
	}
	a.add(k, r, ev, delta, m, sure)
}

func (a *audit) add(k *counter, r *kafka.Record, ev *usage.Event, delta usage.Quantity, m moment, sure bool) {
	k.late, k.fell = k.late || m.hi >= k.period.End, k.fell || delta < 0
	if !sure {
		k.doubts = append(k.doubts, delta)
		a.judge(k, r, ev, delta, m)
		return
	}
	if total, ok := k.total.Add(delta); ok {
		k.total = total
	}
	k.events++
	k.first, k.last = min(k.first, ev.Time), max(k.last, ev.Time)
	a.judge(k, r, ev, delta, m)
}

// counters yields every counter that must be, in the order of keys.
func (a *audit) counters(yield func(*counter) bool) {
	for _, name := range slices.Sorted(maps.Keys(a.clients)) {
		c := a.clients[name]
		for _, slot := range c.slots {
			for _, k := range slices.SortedFunc(slices.Values(slot), func(a, b *counter) int { return cmp.Compare(a.key, b.key) }) {
				if !yield(k) {
					return
				}
			}
		}
		for _, o := range c.scopes {
			for _, k := range o.counters {
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
			late[k.key] = lateScope{records: k.events + int64(len(k.doubts))}
		case k.record != nil && len(k.doubts) > 0 && !k.explains(k.record.Total, k.record.Events):
			late[k.key] = lateScope{loose: true}
		case k.record != nil && len(k.doubts) == 0 && k.record.Events < k.events:
			late[k.key] = lateScope{records: k.events - k.record.Events}
		}
	}
	return late
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
		if k != nil && r.Seed.State == aggregate.SeedNone && !k.loose {
			k.orphan = true
			a.differ(Counter, key, "nothing counts in it, its total is %s of %d events", r.Total.Format(r.Decimals), r.Events)
		}
	}
}

// adopt makes the counter of a record. It returns nil for one of a meter that
// is not configured, which is left alone.
func (a *audit) adopt(key string, r *aggregate.CounterRecord) *counter {
	meter := a.cfg.Catalog.Find(r.Meter)
	if meter < 0 {
		return nil
	}
	c := a.clientOf([]byte(r.Client))
	k := a.newCounter(c, meter, r.Scope, r.Period)
	if r.Scope.Default() {
		c.slots[meter] = append(c.slots[meter], k)
		return k
	}
	k.loose = a.looseScope(c, r.Scope)
	i := slices.IndexFunc(c.scopes, func(o *ownScope) bool { return o.scope == r.Scope && o.meter == meter })
	if i < 0 {
		i = len(c.scopes)
		c.scopes = append(c.scopes, &ownScope{scope: r.Scope, meter: meter})
	}
	c.scopes[i].counters = append(c.scopes[i].counters, k)
	return k
}

// looseScope tells whether what a scope takes is left open: its contract is
// gone or has several revisions.
func (a *audit) looseScope(c *client, scope aggregate.Scope) bool {
	known := false
	for _, t := range c.terms {
		if t.scope() == scope {
			known = true
			if !t.sole {
				return true
			}
		}
	}
	return !known
}
