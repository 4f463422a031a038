package aggregate

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// View is what was committed of one client. It is a copy and belongs to the
// caller.
type View struct {
	Client   string
	AsOf     Committed
	Complete bool // false: a seed is pending somewhere in it
	Known    bool // false: history may have something of the client, and was not asked
	Counters []CounterView
	Limits   []LimitView
}

// CounterView is a counter as readers see it.
type CounterView struct {
	Meter       string
	Dimensions  map[string]string // nil: the total
	Decimals    int
	Scope       Scope
	Period      usage.Period
	Total       usage.Quantity
	Events      int64
	First, Last usage.Time // usage.MaxTime and usage.MinTime where nothing was counted
	Seed        Seed
	Limits      []LimitRef
	Estimated   bool // the total of distinct values has become an estimate, see DistinctError
}

// LimitRef names a limit that judges a counter.
type LimitRef struct{ Contract, Limit string }

// LimitView is a limit of a client as readers see it, in the period of the
// limit that partition time lies in, or the nearest one of the contract.
type LimitView struct {
	Contract *contracts.Contract
	Limit    *contracts.Limit

	Dimensions map[string]string // the per values; nil: none

	Period   usage.Period
	Total    usage.Quantity
	Seed     Seed
	Standing []contracts.Threshold
	Told     []Telling // the last limit events of the period, oldest first
	Ended    bool      // the contract no longer covers partition time: the limit blocks nobody
}

// Selection narrows what View returns. Period is an id, "previous", or "" for
// the newest period that has begun.
type Selection struct {
	Meter      string
	Period     string
	Dimensions map[string]string // counters that have all of these values
}

// Previous selects the period before the newest one that has begun.
const Previous = "previous"

// View returns what was committed of a client.
func (s *State) View(name string, sel Selection) View {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v := View{Client: name, AsOf: s.committed, Complete: true, Known: !s.unknowable(name)}
	c := s.clients.named(name)
	if c == nil {
		return v
	}
	for m := range c.slots {
		if meter := s.cfg.Catalog.Meters[m].Name; sel.Meter == "" || sel.Meter == meter {
			s.viewFamily(&v, &c.slots[m], s.cfg.Catalog.Schedule, nil, sel)
		}
	}
	for _, o := range slices.SortedFunc(slices.Values(c.own), (*ownScope).compare) {
		if meter := s.cfg.Catalog.Meters[o.meter].Name; sel.Meter == "" || sel.Meter == meter {
			s.viewFamily(&v, &o.family, o.schedule, o, sel)
		}
	}
	for i := range c.terms {
		if t := &c.terms[i]; sel.Meter == "" || sel.Meter == t.limit.MeterName {
			s.viewLimits(&v, c, t, sel)
		}
	}
	for _, k := range v.Counters {
		v.Complete = v.Complete && k.Seed.Complete()
	}
	v.Complete = v.Complete && !s.awaits(c, sel)
	for _, l := range v.Limits {
		v.Complete = v.Complete && l.Seed.Complete()
	}
	return v
}

// awaits tells whether a question about c is open whose answer may have more
// meters than there are counters of in the selected period.
func (s *State) awaits(c *client, sel Selection) bool {
	for m := range c.slots {
		if s.awaitsIn(&c.slots[m].slot, sel) {
			return true
		}
	}
	return false
}

// awaitsIn tells whether a counter of l waits for an answer in the selected
// period.
func (s *State) awaitsIn(l *slot, sel Selection) bool {
	for _, k := range l.all() {
		value, ok := s.valueOf(k)
		if !ok || value.seed.Complete() {
			continue
		}
		if k.period.ID == sel.Period || (sel.Period == "" || sel.Period == Previous) && k.period.Start <= s.committed.Time {
			return true
		}
	}
	return false
}

// compare orders scopes for readers.
func (o *ownScope) compare(p *ownScope) int {
	a, b := &o.scope, &p.scope
	return cmp.Or(
		cmp.Compare(o.meter, p.meter), cmp.Compare(a.Contract, b.Contract), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Timezone, b.Timezone),
		cmp.Compare(a.StartsAt, b.StartsAt), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Per, b.Per),
	)
}

// viewFamily adds the counters of the selected period.
func (s *State) viewFamily(v *View, f *family, schedule usage.Schedule, own *ownScope, sel Selection) {
	if own == nil || len(own.view.per) == 0 {
		s.viewSlot(v, &f.slot, schedule, own, sel)
	} else if s.awaitsIn(&f.slot, sel) {
		v.Complete = false // combinations that are yet to be known
	}
	groups := slices.DeleteFunc(slices.Clone(f.list), func(g *group) bool { return !sel.takes(g.dims) })
	for _, g := range inOrder(groups) {
		s.viewSlot(v, &g.slot, schedule, own, sel)
	}
}

// inOrder returns the groups in the order of the canonical forms of their
// dimensions.
func inOrder(groups []*group) []*group {
	forms := make(map[*group]string, len(groups))
	for _, g := range groups {
		forms[g] = canonical(g.dims)
	}
	slices.SortFunc(groups, func(a, b *group) int { return cmp.Compare(forms[a], forms[b]) })
	return groups
}

// viewSlot adds the selected period of counters that differ in their period
// alone.
func (s *State) viewSlot(v *View, l *slot, schedule usage.Schedule, own *ownScope, sel Selection) {
	var some *counter
	var found bool
	current := s.committed.Time
	wanted := sel.Period
	if wanted == "" || wanted == Previous {
		if current == usage.MinTime {
			return // no period has begun
		}
		p := schedule.At(current)
		if wanted == Previous && p.Start != usage.MinTime {
			p = schedule.At(p.Start - 1)
		}
		wanted = p.ID
	}
	for _, k := range l.all() {
		value, ok := s.valueOf(k)
		if !ok || !sel.takes(k.dims()) {
			continue
		}
		some = k
		if k.period.ID == wanted {
			v.Counters = append(v.Counters, s.viewCounter(k, value))
			found = true
		}
	}
	if found || some == nil || sel.Period != "" {
		return
	}
	// Nothing was used since the period began: the total is zero.
	period := schedule.At(current)
	if own != nil {
		cut, counted := own.periodAt(current)
		if !counted || !own.live {
			return
		}
		period = cut
	}
	zero := counterValue{period: &period, first: usage.MaxTime, last: usage.MinTime, seed: Seed{State: SeedNone}}
	if s.cfg.History {
		birth := &s.birth.Meters[some.meter]
		zero.seed = s.exact(birth.Boundary, birth.Time)
		if !v.Known {
			zero.seed.State = SeedPending
		}
	}
	k := &counter{client: some.client, meter: some.meter, own: some.own, group: some.group, counterValue: zero}
	v.Counters = append(v.Counters, s.viewCounter(k, zero))
}

// takes tells whether sel selects a counter of dims.
func (sel *Selection) takes(dims map[string]string) bool {
	for name, value := range sel.Dimensions {
		if have, ok := dims[name]; !ok || have != value {
			return false
		}
	}
	return true
}

// valueOf returns what was committed of k, and false where nothing was.
func (s *State) valueOf(k *counter) (counterValue, bool) {
	if k.txn != s.open.id {
		return k.counterValue, true
	}
	u := &s.open.dirty[k.undo]
	return u.before, !u.made
}

func (s *State) viewCounter(k *counter, value counterValue) CounterView {
	m := &s.cfg.Catalog.Meters[k.meter]
	view := CounterView{
		Meter: m.Name, Dimensions: k.dims(), Decimals: m.Decimals, Scope: k.scope(), Period: *value.period, Total: value.total,
		Events: value.events, First: value.first, Last: value.last, Seed: value.seed,
		Estimated: s.estimated(k),
	}
	at := *k
	at.counterValue = value
	for i := range k.client.terms {
		if t := &k.client.terms[i]; t.limit.Meter == k.meter && s.judges(t, &at) {
			view.Limits = append(view.Limits, LimitRef{Contract: t.contract.ID, Limit: t.limit.ID})
		}
	}
	return view
}

// estimated tells whether the committed total of k is an estimate.
func (s *State) estimated(k *counter) bool {
	if k.txn == s.open.id {
		return s.open.dirty[k.undo].set.sketch != nil
	}
	return k.set != nil && k.set.estimated()
}

// viewLimits adds a limit: once or, where values have it each for itself, for
// every value that is known of.
func (s *State) viewLimits(v *View, c *client, t *term, sel Selection) {
	at := max(s.committed.Time, t.contract.StartsAt)
	if at >= t.contract.EndsAt {
		at = t.contract.EndsAt - 1
	}
	period := t.limit.Schedule.At(at).Cut(t.contract.StartsAt, t.contract.EndsAt)
	if len(t.view.per) == 0 {
		v.Limits = append(v.Limits, s.viewLimit(c, t, period, nil))
		return
	}
	values := map[string]map[string]string{} // by their canonical form
	for _, scope := range []Scope{{}, t.scope} {
		f := c.family(t.limit.Meter, scope)
		if f == nil || scope.Default() && !t.shared {
			continue
		}
		for _, g := range f.list {
			if !g.over && t.view.takesDims(g.dims) && sel.admits(g.dims) && s.committedAny(g) {
				per := t.view.perOf(g.dims)
				values[canonical(per)] = per
			}
		}
	}
	for _, form := range slices.Sorted(maps.Keys(values)) {
		v.Limits = append(v.Limits, s.viewLimit(c, t, period, values[form]))
	}
}

// admits tells whether sel selects no other values of dims.
func (sel *Selection) admits(dims map[string]string) bool {
	for name, value := range dims {
		if wanted, ok := sel.Dimensions[name]; ok && wanted != value {
			return false
		}
	}
	return true
}

// committedAny tells whether a counter of g was committed.
func (s *State) committedAny(g *group) bool {
	return slices.ContainsFunc(g.all(), func(k *counter) bool {
		_, ok := s.valueOf(k)
		return ok
	})
}

func (s *State) viewLimit(c *client, t *term, period usage.Period, per map[string]string) LimitView {
	view := LimitView{
		Contract: t.contract, Limit: t.limit, Dimensions: per, Period: period, Seed: Seed{State: SeedNone},
		Ended: s.committed.Time >= t.contract.EndsAt,
	}
	for _, scope := range []Scope{{}, t.scope} {
		s.viewTotal(&view, c, t, scope)
	}
	id := limitID{contract: t.contract.ID, limit: t.limit.ID, dimensions: canonical(per), period: period.ID}
	if l, ok := s.limits[id]; ok {
		value := l.limitValue
		if l.txn == s.open.id {
			value = s.open.limits[l.undo].before
		}
		view.Told = value.told
		if value.meter == t.limit.MeterName && maps.Equal(value.where, t.limit.Where) {
			view.Standing = value.standing // else it is of another counter
		}
	}
	return view
}

// viewTotal adds to view what its counter of that scope has, if there is one.
func (s *State) viewTotal(view *LimitView, c *client, t *term, scope Scope) {
	f := c.family(t.limit.Meter, scope)
	if f == nil {
		return
	}
	slot := s.slotOf(c, t.limit.Meter, scope, union(t.limit.Where, view.Dimensions))
	var k *counter
	if slot != nil {
		k = slot.of(view.Period.ID)
	}
	if k == nil {
		// The answer that the total waits for may have this combination.
		if all := f.of(view.Period.ID); all != nil && !all.seed.Complete() && (!scope.Default() || t.shared) {
			view.Seed.State = SeedPending
		}
		return
	}
	if !s.judges(t, k) {
		return
	}
	value, ok := s.valueOf(k)
	switch {
	case ok:
		view.Total, view.Seed, view.Period = value.total, value.seed, *value.period
	case !k.seed.Complete() || k.own != nil && k.own.cutOnly:
		// It is about to be committed with what zero would hide: history that
		// is pending, or the total of another counter.
		view.Seed.State = SeedPending
	}
}

// Clients returns up to limit names of clients that have counters, after the
// given name, in the order of their bytes.
func (s *State) Clients(after string, limit int) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for c := range s.clients.all() {
		name := c.name
		if name <= after {
			continue
		}
		for k := range c.counters() {
			if _, ok := s.valueOf(k); ok {
				names = append(names, name)
				break
			}
		}
	}
	slices.Sort(names)
	if len(names) > limit {
		names = names[:limit:limit]
	}
	return names
}

// AsOf returns what the last commit made true.
func (s *State) AsOf() Committed {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.committed
}

// Judging returns the version of the contracts' table that the next input is
// judged by, but for contracts that are held.
func (s *State) Judging() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.version
}

// Idle ends the open transaction where it holds nothing to commit: readers see
// that partition time has gone on, and neither that nor the contracts that were
// taken in are undone by a later Rollback. Call it between Begin and End.
func (s *State) Idle(now usage.Time) {
	if s.open.touched {
		return
	}
	for i := range s.open.binds {
		if c := s.open.binds[i].client; c.empty() && s.clients.has(c) {
			s.lose(c)
		}
	}
	clear(s.open.binds)
	s.open.binds, s.open.clients, s.open.holds = s.open.binds[:0], s.open.clients[:0], nil
	s.timers.committed()
	s.committed.Time, s.committed.At = s.time, now
	s.mark()
	// Periods of the calendar end on quarters of an hour, in every zone. That some
	// may have is committed, though nothing came of it: else what comes after a
	// restart with an older timestamp would not be late.
	s.open.touched = s.time/quarter != s.kept/quarter
}

// quarter is a quarter of an hour.
const quarter = usage.Time(15 * 60 * 1000)

// Seeds counts the counters in each state of seed.
func (s *State) Seeds() map[SeedState]int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	states := map[SeedState]int{}
	for c := range s.clients.all() {
		for k := range c.counters() {
			states[k.seed.State]++
		}
	}
	return states
}

// TakeAsks returns the questions to history that the open transaction gave
// rise to so far, each once. Ask them when it has committed.
func (s *State) TakeAsks() []Ask {
	asks := s.open.asks
	s.open.asks = nil
	return asks
}

// Told returns how many limit events the open transaction holds.
func (s *State) Told() int { return len(s.open.events) }

// SeedFailed notes that an answer has not come: the counters that wait for it
// say so.
func (s *State) SeedFailed(ask Ask) {
	c := s.clients.named(ask.Client)
	if c == nil {
		return
	}
	for k := range c.counters() {
		if k.scope() == ask.Scope && s.awaitsAnswer(k, ask) {
			k.seed.State = SeedFailed
		}
	}
}
