package aggregate

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// ContractsBehind tells whether the table of contracts has changes that were
// not taken in, or a period has begun in which limits need counters.
func (s *State) ContractsBehind() bool {
	return !s.taken || s.unsure || s.terms.Version() != s.version
}

// TakeContracts takes the table's changes in, each as an input of its own, in
// their order; the first time, the whole table as it is.
func (s *State) TakeContracts() {
	if s.taken && s.unsure {
		s.ensureAll()
	}
	changes, ok := s.terms.ChangesSince(s.version)
	if !s.taken || !ok {
		s.takeAll()
		return
	}
	for i := range changes {
		c := &changes[i]
		s.receive(c)
		s.version, s.contracts = c.Version, c.Revision+1
		if known := s.clients.named(c.Client); known != nil {
			s.take(known, c.Contracts, c)
		} else if s.owns(c.Client) && len(c.Contracts) > 0 {
			s.take(s.clientOf([]byte(c.Client)), c.Contracts, c)
		}
	}
}

func (s *State) owns(client string) bool { return s.cfg.Owns == nil || s.cfg.Owns(client) }

// takeAll takes the whole table in. What limits had told under revisions that
// are no more is cleared, as if each had changed just now.
func (s *State) takeAll() {
	lists, version, position := s.terms.All()
	s.receiveAll(lists, position)
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		if s.owns(name) {
			s.clientOf([]byte(name))
		}
	}
	var concerned []*client
	for c := range s.clients.all() {
		if len(c.terms) > 0 || len(c.limits) > 0 || len(c.own) > 0 || len(lists[c.name]) > 0 {
			concerned = append(concerned, c)
		}
	}
	slices.SortFunc(concerned, func(a, b *client) int { return cmp.Compare(a.name, b.name) })
	for _, c := range concerned {
		s.rebind(c, lists[c.name])
		s.withdrawAll(c, nil)
		s.emitAll()
	}
	// Only now: a contract that has moved is cleared for one client before it
	// is crossed for another.
	for _, c := range concerned {
		s.settleAll(c)
		s.emitAll()
		s.abandon(c)
		s.ensure(c)
	}
	s.version, s.taken, s.unsure = version, true, false
}

func (s *State) ensureAll() {
	var bound []*client
	for c := range s.clients.all() {
		if len(c.terms) > 0 {
			bound = append(bound, c)
		}
	}
	slices.SortFunc(bound, func(a, b *client) int { return cmp.Compare(a.name, b.name) })
	for _, c := range bound {
		s.ensure(c)
	}
	s.unsure = false
}

// take puts list in force for c and tells what change, which did it, crosses
// and clears in the periods that have not ended.
func (s *State) take(c *client, list []*contracts.Contract, change *contracts.Change) {
	s.rebind(c, list)
	s.withdrawAll(c, change)
	s.settleAll(c)
	s.emitAll()
	s.abandon(c)
	s.ensure(c)
}

// withdrawAll gathers what stands of limits that nothing in force goes on
// with, and lets the rest go on. change is nil where the whole table is taken
// in.
func (s *State) withdrawAll(c *client, change *contracts.Change) {
	for _, l := range c.limits {
		if l.fading || len(l.standing) == 0 {
			continue
		}
		ended := s.time >= l.period.End // its labels were crossed late
		k, b := s.judgeOf(l)
		if k == nil {
			if !ended && !l.closed {
				s.open.emits = append(s.open.emits, s.withdrawal(l, change))
			}
			continue
		}
		on := l.limitValue
		on.period, on.scope, on.place, on.revision = *k.period, k.scope(), b.place, b.contract.Revision
		on.value, on.decimals, on.enforcement = b.limit.Value, b.limit.Decimals, b.limit.Enforcement
		moved := on.period != l.period
		if moved || on.scope != l.scope || on.place != l.place || on.revision != l.revision {
			s.touchLimit(l)
			l.limitValue = on
		}
		if moved && l.period.End != usage.MaxTime {
			s.timers.limit(l.period.End, l)
			s.keepUntil(l, s.expiryOfLimit(l))
		}
		if ended { // the period goes on
			s.touchLimit(l)
			l.closed = false
			s.show(l)
		}
	}
}

func (s *State) settleAll(c *client) {
	for k := range c.counters() {
		if k.dying || s.time >= k.period.End {
			continue
		}
		for _, b := range k.limits {
			s.settle(k, b, alerts.ByContract)
		}
	}
}

// judgeOf returns the counter and the limit in force that go on with what l
// has told, or nil where there is none.
func (s *State) judgeOf(l *limitState) (*counter, *boundLimit) {
	t := s.inForce(l)
	if t == nil {
		return nil, nil
	}
	for _, scope := range []Scope{{}, t.scope} {
		slot := s.slotOf(l.client, t.limit.Meter, scope, union(t.limit.Where, l.per))
		if slot == nil {
			continue
		}
		k := slot.of(l.id.period)
		if k == nil || s.time >= k.period.End {
			continue
		}
		for _, b := range k.limits {
			if b.limit == t.limit && b.dimensions == l.id.dimensions && s.goesOn(l, k, b) {
				return k, b
			}
		}
	}
	return nil, nil
}

// goesOn tells whether k, which b judges, counts on what l has told of: it is
// the same counter, or only the end of the contract was moved, so that the
// period is cut now and was not, or the other way round.
func (s *State) goesOn(l *limitState, k *counter, b *boundLimit) bool {
	if l.fading || l.client != k.client || l.meter != b.limit.MeterName || !maps.Equal(l.where, b.limit.Where) {
		return false
	}
	return l.scope == k.scope() || s.standard(l.scope) && s.standard(k.scope()) && l.period.Start == k.period.Start
}

// standard tells whether scope cuts time as the default schedule does, but for
// the ends of contracts.
func (s *State) standard(scope Scope) bool {
	schedule := s.cfg.Catalog.Schedule
	return scope.Default() || scope.Kind == schedule.Kind && scope.Timezone == schedule.Zone.String() && schedule.Kind != usage.Anniversary
}

// settle gathers what a limit has to tell of k's total now that something
// other than an event has changed.
func (s *State) settle(k *counter, b *boundLimit, by alerts.CauseKind) {
	if !k.seed.Complete() {
		return
	}
	var standing []contracts.Threshold
	if l, ok := s.limits[b.id(k.period.ID)]; ok && s.goesOn(l, k, b) {
		if l.closed && l.period == *k.period {
			return
		}
		standing = l.standing
	}
	cleared, crossed, _ := alerts.Settle(standing, k.total, b.limit.Thresholds)
	if len(cleared) == 0 && len(crossed) == 0 {
		return
	}
	e := emission{limitAt: b.at(k), counter: k, bound: b, before: k.total, cleared: cleared, crossed: crossed}
	if by == alerts.BySeed {
		e.cause, e.before, e.silent = &alerts.Cause{Kind: by}, 0, s.cfg.MarkSeeded
	} else {
		e.cause = s.contractCause(b.contract.Revision)
	}
	s.open.emits = append(s.open.emits, e)
}

func (s *State) contractCause(revision int64) *alerts.Cause {
	partition := int32(0)
	return &alerts.Cause{Kind: alerts.ByContract, Topic: &s.cfg.ContractsTopic, Partition: &partition, Offset: &revision}
}

// withdrawal returns what is to be told of l, which no longer judges its
// counter.
func (s *State) withdrawal(l *limitState, change *contracts.Change) emission {
	e := emission{withdrawn: l, limitAt: limitAt{
		contract: l.id.contract, place: l.place, limit: l.id.limit, dimensions: l.id.dimensions, start: l.period.Start,
	}}
	revision := l.revision
	var next *contracts.Contract
	if t := s.inForce(l); t != nil {
		next, revision = t.contract, t.contract.Revision
	} else if change != nil && change.ID == l.id.contract {
		next, revision = change.Next, change.Revision
	} else if entry, ok := s.terms.Entry(l.id.contract); ok && entry.Contract != nil {
		next, revision = entry.Contract, entry.Contract.Revision
	} else if removed, ok := s.terms.Removed(l.id.contract); ok {
		revision = removed
	}
	if next != nil {
		for i := range next.Limits {
			if next.Limits[i].ID == l.id.limit {
				e.place, e.inForce, e.next = i, 1, &next.Limits[i]
			}
		}
	}
	e.cause = s.contractCause(revision)
	return e
}

// withdraw clears what stood of a limit that no longer judges its counter.
// next is the limit as it is now, nil where there is none.
func (s *State) withdraw(l *limitState, next *contracts.Limit, cause *alerts.Cause) {
	s.touchLimit(l)
	limit, decimals := l.value, l.decimals
	l.revision = *cause.Offset
	if next != nil {
		limit, decimals, l.enforcement = next.Value, next.Decimals, next.Enforcement
	}
	passed := l.standing
	l.standing = nil
	event := s.tell(l, alerts.Cleared, passed, cause)
	event.Limit = limit.Format(decimals)
	event.UsageBefore, event.UsageAfter, event.Utilization = "0", "0", "0"
	if k := s.counterOf(l); k != nil {
		event.UsageBefore = k.total.Format(l.decimals)
		event.UsageAfter, event.Seeded = event.UsageBefore, k.seed.some()
		event.Utilization = utilization(k.total, l.decimals, limit, decimals)
	}
	s.note(l, event, false)
	s.show(l)
}

// utilization is usage.Utilization for a total and a limit of meters that may
// differ in their decimals. One too large for the finer unit is told as "0".
func utilization(total usage.Quantity, decimals int, limit usage.Quantity, limitDecimals int) string {
	finer := max(decimals, limitDecimals)
	t, fits := usage.Decimal{Units: int64(total), Scale: uint8(decimals)}.Quantity(finer)
	l, fitsToo := usage.Decimal{Units: int64(limit), Scale: uint8(limitDecimals)}.Quantity(finer)
	if !fits || !fitsToo {
		return "0"
	}
	return usage.Utilization(t, l)
}

// undoBind is what a client's contracts were before a change.
type undoBind struct {
	client *client
	terms  []term
	scopes []*ownScope
	before []binding // of each of scopes
}

func (u *undoBind) restore() {
	u.client.terms, u.client.own = u.terms, u.scopes
	for i, o := range u.scopes {
		o.binding = u.before[i]
	}
}

// rebind is bind, noted for Rollback.
func (s *State) rebind(c *client, list []*contracts.Contract) {
	u := undoBind{client: c, terms: c.terms, scopes: slices.Clone(c.own)}
	for _, o := range c.own {
		u.before = append(u.before, o.binding)
	}
	s.open.binds = append(s.open.binds, u)
	s.bind(c, list, s.position)
}

// bind makes list the contracts of c: its terms, the scopes they need beside
// the default one, and which limits judge which counter.
// since is an offset from which on every event of c is judged by them.
func (s *State) bind(c *client, list []*contracts.Contract, since int64) {
	c.terms = nil
	for _, o := range c.own {
		o.live = false
	}
	for _, contract := range list {
		for i := range contract.Limits {
			limit := &contract.Limits[i]
			t := term{
				contract: contract, limit: limit, place: i, scope: scopeOf(contract, limit),
				view: viewOf(&s.cfg.Catalog.Meters[limit.Meter], limit.Where, limit.Per),
			}
			t.shared = limit.Schedule.Equal(s.cfg.Catalog.Schedule) && t.view.standard()
			c.terms = append(c.terms, t)
			s.bindScope(c, &t, since)
		}
	}
	for _, o := range c.own {
		if !o.live {
			o.lead = 0
		}
		s.adopt(c, o, s.recut(o))
	}
	for k := range c.counters() {
		s.attach(k)
	}
}

// attach finds the limits in force that judge k.
func (s *State) attach(k *counter) {
	k.limits = nil
	for i := range k.client.terms {
		t := &k.client.terms[i]
		if t.limit.Meter != k.meter || !s.judges(t, k) {
			continue
		}
		if _, held := s.held[t.contract.ID]; held {
			continue
		}
		b := &boundLimit{contract: t.contract, limit: t.limit, place: t.place, per: t.view.perOf(k.dims())}
		b.dimensions = canonical(b.per)
		k.limits = append(k.limits, b)
	}
	k.fence()
}

// judges tells whether t judges k, a counter of its meter. No limit judges
// what is beyond the bound of combinations for each of its values, as they
// would share one limit.
func (s *State) judges(t *term, k *counter) bool {
	if len(t.view.per) > 0 && (k.group == nil || k.group.over) {
		return false
	}
	if k.own != nil {
		if !k.own.live || k.scope() != t.scope {
			return false
		}
		_, counted := k.own.periodAt(k.period.Start)
		return counted || k.period.Start == usage.MinTime
	}
	if (k.group == nil) != (len(t.view.where)+len(t.view.per) == 0) || k.group != nil && !t.view.takesDims(k.group.dims) {
		return false
	}
	return t.shared && t.contract.StartsAt <= k.period.Start && k.period.End <= t.contract.EndsAt
}
