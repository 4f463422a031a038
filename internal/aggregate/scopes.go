package aggregate

import (
	"slices"

	"github.com/meterd/meterd/internal/usage"
)

func (s *State) bindScope(c *client, t *term, since int64) {
	contract := t.contract
	o := c.scope(t.scope, t.limit.Meter)
	if o == nil {
		if t.shared && s.uncut(t.limit.Schedule, contract.StartsAt) && s.uncut(t.limit.Schedule, contract.EndsAt) {
			return
		}
		o = s.addScope(c, t.scope, t.limit.Meter, t.view)
	}
	horizon := s.now.Add(s.cfg.MaxFuture + earlyMargin)
	if o.lead == 0 || o.cutOnly && o.to != contract.EndsAt || o.to < contract.EndsAt && o.to <= horizon {
		// What came after the old end, or in periods that are only now cut, was
		// passed over.
		if o.to < contract.EndsAt && s.time >= o.to {
			s.letGo(o, func(k *counter) bool { return k.period.End == o.to })
		}
		o.lead, o.since, o.asOf = horizon, since, max(s.time, s.birth.BoundaryTime)
	}
	o.schedule, o.live = t.limit.Schedule, true
	o.from, o.to = contract.StartsAt, contract.EndsAt
}

// abandon lets go of the counters of c's own scopes that nothing in force needs
// any more. They would miss what comes until a contract needs them again;
// history will then be asked for all of it. Without history, what they have is
// the best that is known.
func (s *State) abandon(c *client) {
	for _, o := range c.own {
		if o.live {
			continue
		}
		s.letGo(o, func(k *counter) bool {
			standing := o.cutOnly && *k.period == o.schedule.At(k.period.Start) // default counters stand for it
			return k.period.End > s.time && !standing
		})
	}
}

// letGo forgets those counters of o that miss something which history has.
func (s *State) letGo(o *ownScope, which func(*counter) bool) {
	if !s.cfg.History {
		return
	}
	o.each(func(k *counter) bool {
		if !k.dying && which(k) {
			k.die()
			s.open.dying = append(s.open.dying, k)
			s.open.touched = true
		}
		return true
	})
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

func (s *State) addScope(c *client, scope Scope, meter int, v view) *ownScope {
	o := &ownScope{
		family: family{combinations: noCombinations}, scope: scope, scopeKey: string(scope.appendKey(nil)), meter: meter, view: v,
		dims: v.required(), cutOnly: s.standard(scope) && v.standard(),
	}
	c.own = append(c.own, o)
	return o
}

// recut cuts the periods of o's counters to the contract as it is now, and
// returns the ids of the periods that default counters had stood for until now.
// Totals stay: a counter goes on, and takes nothing after a new end.
//
// A cutOnly counter whose period only the end of the contract cut goes idle
// where that end is gone: it gets the whole period, and the default counter
// stands for it until the period is cut again.
func (s *State) recut(o *ownScope) (woken []string) {
	asked := len(s.open.asks)
	var counters []*counter
	o.each(func(k *counter) bool {
		counters = append(counters, k)
		return true
	})
	for _, k := range counters {
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
		if idle {
			woken = append(woken, cut.ID)
			if !s.inherit(k, s.standIns(k.client, o, k.group, whole.Start)) && s.cfg.History {
				s.blank(k)
				k.seed = s.pending(s.position, s.time)
				if ask := askFor(k); !slices.Contains(s.open.asks[asked:], ask) { // one for all combinations
					s.open.asks = append(s.open.asks, ask)
				}
			}
		}
		if at := s.expiry(k); at != usage.MaxTime {
			s.timers.at(at).counters = append(s.timers.at(at).counters, k)
		}
	}
	return woken
}

// adopt makes counters of o for the periods that have not ended, that the end
// of the contract cuts, and that default counters have counted so far: what
// they go on with is known without asking history. Where o has counted a period
// by itself all along, it has all that it is to have.
func (s *State) adopt(c *client, o *ownScope, woken []string) {
	if !o.live || !o.cutOnly {
		return
	}
	standard := &c.slots[o.meter]
	for _, whole := range standard.all() { // there is one wherever there is one of a combination
		cut, ok := o.periodAt(whole.period.Start)
		if whole.dying || !ok || cut.Start != whole.period.Start || s.time >= cut.End || whole.beyond(&cut) {
			continue
		}
		if o.of(cut.ID) == nil {
			if !s.adoptOne(c, o, nil, whole.period.Start, &cut) {
				continue
			}
		} else if !slices.Contains(woken, cut.ID) {
			continue
		}
		if len(o.view.per) == 0 {
			continue
		}
		for _, g := range slices.Clone(standard.list) {
			if k := g.of(whole.period.ID); k == nil || k.beyond(&cut) || !o.view.takesDims(g.dims) {
				continue
			}
			key, _ := o.view.keyOfDims(g.dims)
			own := o.groups[key]
			if own == nil {
				own = o.view.newGroup(func(i int) string { return g.dims[o.view.names[i].Name] })
				o.add(own)
			}
			if own.of(cut.ID) == nil {
				s.adoptOne(c, o, own, whole.period.Start, &cut)
			}
		}
	}
}

// adoptOne makes a counter that goes on with what default counters have, and
// returns false where they have nothing for it.
func (s *State) adoptOne(c *client, o *ownScope, g *group, start usage.Time, period *usage.Period) bool {
	stand := s.standIns(c, o, g, start)
	if !slices.ContainsFunc(stand.counters, func(k *counter) bool { return !k.beyond(period) }) {
		return false
	}
	asks := len(s.open.asks)
	if k := s.make(c, o.meter, o, g, period); s.inherit(k, stand) {
		s.open.asks = s.open.asks[:asks]
	}
	return true
}

// beyond tells whether all that k has counted lies behind the end of period.
func (k *counter) beyond(period *usage.Period) bool {
	return k.first >= period.End && k.first != usage.MaxTime
}

// standIns are the default counters that have counted together what one of an
// own scope counts, and whether that is certainly all of it: what lies beyond
// the bound of combinations is not told apart.
type standIns struct {
	counters []*counter
	certain  bool
}

// standIns returns those of one of o's counters, of group g, in the period that
// begins at start.
func (s *State) standIns(c *client, o *ownScope, g *group, start usage.Time) standIns {
	standard := &c.slots[o.meter]
	stand := standIns{certain: len(o.view.where) == 0 || standard.overflow.find(start) == nil}
	add := func(k *counter) {
		if k != nil {
			stand.counters = append(stand.counters, k)
		}
	}
	switch {
	case len(o.view.where)+len(o.view.per) == 0:
		add(standard.find(start))
	case g != nil:
		if key, ok := s.views[o.meter].keyOfDims(g.dims); ok {
			add(standard.groups[key].find(start))
		}
	default:
		for _, other := range standard.list {
			if o.view.takesDims(other.dims) {
				add(other.find(start))
			}
		}
	}
	return stand
}

// inherit gives k, whose period is cut from now on, what default counters of
// the same period have counted together. Where history is there to be asked it
// returns false unless that is just what k is to count; without, what they have
// is the best that is known.
func (s *State) inherit(k *counter, stand standIns) bool {
	if len(stand.counters) == 0 || s.cfg.History && !stand.certain {
		return false
	}
	for _, whole := range stand.counters {
		if s.cfg.History && (!whole.seed.Complete() || whole.last >= k.period.End) {
			return false
		}
	}
	s.blank(k)
	k.seed = stand.counters[0].seed
	var all part
	for i, whole := range stand.counters {
		p := partOf(whole)
		all.join(&p)
		if i > 0 {
			k.seed.Events += whole.seed.Events
			k.seed.Usage, _ = k.seed.Usage.Add(whole.seed.Usage)
		}
	}
	s.include(k, &all)
	return true
}

// blank makes k, which was touched, a counter of nothing.
func (s *State) blank(k *counter) {
	k.total, k.events, k.first, k.last = 0, 0, usage.MaxTime, usage.MinTime
	if k.set != nil {
		k.set = newDistinct()
	}
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
					s.make(c, own.meter, own, nil, &period)
				}
				continue
			}
		}
		family := &c.slots[t.limit.Meter]
		if family.find(s.time) == nil {
			s.make(c, t.limit.Meter, nil, nil, s.periodOf(s.time))
		}
		if t.shared && t.view.whole && len(t.view.where) > 0 && len(t.view.per) == 0 && family.overflow.find(s.time) != nil {
			s.takeOut(c, &t)
		}
	}
}

// takeOut makes the counter of the combination that t names, of which some may
// have been counted beyond the bound of combinations.
func (s *State) takeOut(c *client, t *term) {
	family := &c.slots[t.limit.Meter]
	v := &s.views[t.limit.Meter]
	key, _ := v.keyOfDims(t.limit.Where)
	g := family.groups[key]
	if g == nil {
		g = v.newGroup(func(i int) string { return t.limit.Where[v.names[i].Name] })
		family.add(g)
	}
	if g.find(s.time) == nil {
		s.make(c, t.limit.Meter, nil, g, s.periodOf(s.time))
	}
}

// ownOf returns the own scope that t uses in some periods, or nil.
func (c *client) ownOf(t *term) *ownScope {
	if o := c.scope(t.scope, t.limit.Meter); o != nil && o.live {
		return o
	}
	return nil
}
