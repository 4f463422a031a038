package aggregate

import (
	"slices"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// scopeOf returns the scope of the counters that limit has of its own, where
// it has any.
func scopeOf(contract *contracts.Contract, limit *contracts.Limit) Scope {
	return Scope{
		Contract: contract.ID, Kind: limit.Schedule.Kind,
		Timezone: limit.Schedule.Zone.String(), StartsAt: contract.StartsAt,
	}
}

func (s *State) bindScope(c *client, contract *contracts.Contract, limit *contracts.Limit, since int64) {
	o := c.scope(scopeOf(contract, limit), limit.Meter)
	if o == nil {
		standard := limit.Schedule.Equal(s.cfg.Catalog.Schedule)
		if standard && s.uncut(limit.Schedule, contract.StartsAt) && s.uncut(limit.Schedule, contract.EndsAt) {
			return
		}
		o = s.addScope(c, scopeOf(contract, limit), limit.Meter)
	}
	horizon := s.now.Add(s.cfg.MaxFuture + earlyMargin)
	if o.lead == 0 || o.cutOnly && o.to != contract.EndsAt || o.to < contract.EndsAt && o.to <= horizon {
		// What came after the old end, or in periods that are only now cut, was
		// passed over.
		o.lead, o.since = horizon, since
	}
	o.schedule, o.live = limit.Schedule, true
	o.from, o.to = contract.StartsAt, contract.EndsAt
}

// uncut tells whether at falls on the seam of two periods, or is no instant.
func (s *State) uncut(schedule usage.Schedule, at usage.Time) bool {
	if at == usage.MaxTime || at == usage.MinTime {
		return true
	}
	return schedule.At(at).Start == at
}

// scope returns c's own scope for meter, or nil.
func (c *client) scope(scope Scope, meter int) *ownScope {
	for _, o := range c.own {
		if o.scope == scope && o.meter == meter {
			return o
		}
	}
	return nil
}

func (s *State) addScope(c *client, scope Scope, meter int) *ownScope {
	o := &ownScope{scope: scope, meter: meter, cutOnly: s.standard(scope)}
	c.own = append(c.own, o)
	return o
}

// recut cuts the periods of o's counters to the contract as it is now. Their
// totals stay: a counter goes on, and takes nothing after a new end.
//
// A cutOnly counter whose period only the end of the contract cut goes idle
// where that end is gone: it gets the whole period, and the default counter
// stands for it until the period is cut again.
func (s *State) recut(o *ownScope) {
	for _, k := range o.counters {
		if k.dying {
			continue
		}
		inside := max(k.period.Start, o.from)
		if inside == usage.MinTime {
			continue
		}
		whole := o.schedule.At(inside)
		cut := whole
		if o.live {
			cut = whole.Cut(o.from, o.to)
		} else if !o.cutOnly || k.period.Start != whole.Start || k.period.End <= s.time {
			continue
		}
		if cut == *k.period || cut.Start >= cut.End {
			continue
		}
		s.touch(k)
		idle := o.cutOnly && *k.period == whole
		k.period = &cut
		if idle && !s.inherit(k, k.client.slots[k.meter].find(whole.Start)) && s.cfg.History {
			k.total, k.events, k.first, k.last = 0, 0, usage.MaxTime, usage.MinTime
			k.seed = Seed{State: SeedPending, Boundary: s.position}
			s.open.asks = append(s.open.asks, askFor(k, s.position))
		}
		if at := s.expiry(k); at != usage.MaxTime {
			s.timers.at(at).counters = append(s.timers.at(at).counters, k)
		}
	}
}

// adopt makes counters of o for the periods that have not ended, that the end
// of the contract cuts, and that default counters have counted so far: what
// they go on with is known without asking history.
func (s *State) adopt(c *client, o *ownScope) {
	if !o.live || !o.cutOnly {
		return
	}
	for _, whole := range c.slots[o.meter].all() {
		cut, ok := o.periodAt(whole.period.Start)
		if whole.dying || !ok || cut.Start != whole.period.Start || s.time >= cut.End {
			continue
		}
		if slices.ContainsFunc(o.counters, func(k *counter) bool { return !k.dying && k.period.ID == cut.ID }) {
			continue
		}
		asks := len(s.open.asks)
		k := s.make(c, o.meter, o, &cut)
		if s.inherit(k, whole) {
			s.open.asks = s.open.asks[:asks]
		}
	}
}

// inherit gives k, whose period is cut from now on, the total of whole, the default
// counter of the same period. Where history is there to be asked it returns
// false unless whole has counted just what k is to count; without, what whole
// has is the best that is known.
func (s *State) inherit(k, whole *counter) bool {
	if whole == nil {
		return false
	}
	if s.cfg.History && (!whole.seed.Complete() || whole.last >= k.period.End) {
		return false
	}
	k.total, k.events, k.first, k.last, k.seed = whole.total, whole.events, whole.first, whole.last, whole.seed
	return true
}

// ensure makes the counters that c's limits need in the current period, where
// history may have something for them.
func (s *State) ensure(c *client) {
	if !s.cfg.History || s.time == usage.MinTime {
		return
	}
	for _, t := range c.terms {
		if s.time < t.contract.StartsAt || s.time >= t.contract.EndsAt {
			continue
		}
		if own := c.ownOf(&t); own != nil {
			if period, ok := own.periodAt(s.time); ok {
				if own.find(s.time) == nil {
					s.make(c, own.meter, own, &period)
				}
				continue
			}
		}
		if c.slots[t.limit.Meter].find(s.time) == nil {
			s.make(c, t.limit.Meter, nil, s.periodOf(s.time))
		}
	}
}

// ownOf returns the own scope that t uses in some periods, or nil.
func (c *client) ownOf(t *term) *ownScope {
	if o := c.scope(scopeOf(t.contract, t.limit), t.limit.Meter); o != nil && o.live {
		return o
	}
	return nil
}
