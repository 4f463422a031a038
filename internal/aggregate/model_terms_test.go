package aggregate_test

import (
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// take takes the table's changes in, as TakeContracts does.
func (m *model) take() {
	changes, ok := m.table.ChangesSince(m.version)
	if !m.taken || !ok {
		m.takeAll()
		return
	}
	for _, change := range changes {
		m.version = change.Version
		m.rebind(change.Client, change.Contracts)
		m.emitAll(append(m.withdrawals(change.Client), m.settled(change.Client)...))
	}
}

func (m *model) takeAll() {
	names, version := m.table.All()
	clients := map[string]bool{}
	for _, name := range names {
		clients[name] = true
	}
	for name := range m.terms {
		clients[name] = true
	}
	for _, l := range m.told {
		clients[l.client] = true
	}
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		m.rebind(name, m.table.Of(name))
		m.emitAll(m.withdrawals(name))
	}
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		m.emitAll(m.settled(name))
	}
	m.version, m.taken = version, true
}

// cutsLikeDefault tells whether a scope differs from the default one by the
// ends of contracts alone.
func (m *model) cutsLikeDefault(s aggregate.Scope) bool {
	return s.Default() || m.scheduleOf(s).Equal(m.cfg.Catalog.Schedule)
}

// rebind puts list in force. Where only the end of a contract cuts a period,
// the limit's own counter and the default one hand their total to one another.
func (m *model) rebind(client string, list []*contracts.Contract) {
	m.terms[client] = list
	bound := map[ownKey]modelTerm{}
	for _, t := range m.termsOf(client) {
		bound[ownKey{client: client, meter: t.limit.Meter, scope: t.scope()}] = t
	}
	for key, o := range m.owns {
		if key.client != client {
			continue
		}
		t, live := bound[ownKey{client: client, meter: key.meter, scope: key.scope}]
		whole := m.scheduleOf(key.scope).At(max(o.period.Start, key.scope.StartsAt))
		alike := m.cutsLikeDefault(key.scope)
		if !live {
			if alike && o.period.Start == whole.Start && o.period.End > m.time {
				o.period = whole
			}
		} else if cut := whole.Cut(t.contract.StartsAt, t.contract.EndsAt); cut.Start < cut.End && cut != o.period {
			if alike && o.period == whole {
				o.members = m.standard(client, key.meter, whole.Start).members
			}
			o.period = cut
		}
		m.owns[key] = o
	}
	for _, c := range m.counters(client) {
		for key, t := range bound {
			cut, ok := m.cut(t, c.period.Start)
			if !c.scope.Default() || key.meter != c.meter || !ok || !m.sameSchedule(t) || cut.Start != c.period.Start || m.time >= cut.End {
				continue
			}
			key.period = cut.ID
			if _, there := m.owns[key]; !there {
				m.owns[key] = own{cut, c.members}
			}
		}
	}
}

// goesOn returns the counter and limit in force that go on with what was told.
func (m *model) goesOn(key toldKey, l told) (modelCounter, bool) {
	for _, c := range m.counters(l.client) {
		if c.period.ID != key.period || m.time >= c.period.End || !m.continues(c, l) {
			continue
		}
		for _, t := range m.termsOf(l.client) {
			if t.contract.ID == key.contract && t.limit.ID == key.limit && t.limit.MeterName == l.meter && m.judges(t, c) {
				return c, true
			}
		}
	}
	return modelCounter{}, false
}

func (m *model) continues(c modelCounter, l told) bool {
	if c.client != l.client || m.cfg.Catalog.Meters[c.meter].Name != l.meter {
		return false
	}
	return c.scope == l.scope || m.cutsLikeDefault(c.scope) && m.cutsLikeDefault(l.scope) && c.period.Start == l.period.Start
}

func (m *model) contractCause(revision int64) alerts.Cause {
	partition := int32(0)
	return alerts.Cause{Kind: alerts.ByContract, Topic: &m.cfg.ContractsTopic, Partition: &partition, Offset: &revision}
}

// withdrawals is what stands of limits that nothing in force goes on with.
func (m *model) withdrawals(client string) (list []modelEmission) {
	for key, l := range m.told {
		if l.client != client || l.closed || len(l.standing) == 0 || m.time >= l.period.End {
			continue
		}
		if c, ok := m.goesOn(key, l); ok {
			l.period, l.scope = c.period, c.scope
			m.told[key] = l
			continue
		}
		e := modelEmission{withdrawn: &key, order: 2 * l.place, counter: modelCounter{period: l.period}}
		revision := l.revision
		if t := termOf(m.termsOf(client), key); t != nil {
			e.order, revision = 2*t.order+1, t.contract.Revision
		} else if changes, _ := m.table.ChangesSince(m.version - 1); m.taken && len(changes) > 0 && changes[0].ID == key.contract {
			revision = changes[0].Revision
		} else if entry, ok := m.table.Entry(key.contract); ok && entry.Contract != nil {
			revision = entry.Contract.Revision
		} else if removed, ok := m.table.Removed(key.contract); ok {
			revision = removed
		}
		e.cause = m.contractCause(revision)
		list = append(list, e)
	}
	return list
}

func (m *model) withdraw(key toldKey, e modelEmission) {
	l := m.told[key]
	l.revision = *e.cause.Offset
	limit, decimals := l.limit, l.decimals
	if t := termOf(m.termsOf(l.client), key); t != nil {
		limit, decimals, l.enforced = t.limit.Value, t.limit.Decimals, t.limit.Enforcement
	}
	passed := l.standing
	l.standing = nil
	l = m.tell(key, l, alerts.Cleared, passed, e.cause)
	event := &m.events[len(m.events)-1]
	event.Limit = limit.Format(decimals)
	event.UsageBefore, event.UsageAfter, event.Utilization = "0", "0", "0"
	if c, ok := m.counterOf(key, l); ok {
		total := m.sum(c.members)
		event.UsageBefore, event.UsageAfter = total.Format(l.decimals), total.Format(l.decimals)
		fine := max(decimals, l.decimals)
		t, fits := usage.Decimal{Units: int64(total), Scale: uint8(l.decimals)}.Quantity(fine)
		v, _ := usage.Decimal{Units: int64(limit), Scale: uint8(decimals)}.Quantity(fine)
		if fits {
			event.Utilization = usage.Utilization(t, v)
		}
	}
	l.last = *event
	m.told[key] = l
}

// settled is R4 for the periods that have not ended.
func (m *model) settled(client string) (list []modelEmission) {
	for _, c := range m.counters(client) {
		if m.time >= c.period.End {
			continue
		}
		for _, t := range m.termsOf(client) {
			if !m.judges(t, c) {
				continue
			}
			total := m.sum(c.members)
			var standing []contracts.Threshold
			if l, ok := m.told[toldKey{t.contract.ID, t.limit.ID, c.period.ID}]; ok && m.continues(c, l) && t.limit.MeterName == l.meter {
				standing = l.standing
			}
			e := modelEmission{term: t, counter: c, before: total, cause: m.contractCause(t.contract.Revision)}
			reached := map[string]bool{}
			for _, threshold := range t.limit.Thresholds {
				if threshold.Value <= total {
					reached[threshold.Label] = true
					if !slices.ContainsFunc(standing, func(s contracts.Threshold) bool { return s.Label == threshold.Label }) {
						e.crossed = append(e.crossed, threshold)
					}
				}
			}
			for _, s := range standing {
				if !reached[s.Label] {
					e.cleared = append(e.cleared, s)
				}
			}
			if len(e.cleared)+len(e.crossed) > 0 {
				list = append(list, e)
			}
		}
	}
	return list
}

// blocked is what limit-state must say: the last limit event of every limit
// with labels standing in the period that partition time lies in.
func (m *model) blocked() map[string]alerts.Event {
	states := map[string]alerts.Event{}
	for key, l := range m.told {
		if len(l.standing) > 0 && l.period.Contains(m.time) {
			states[alerts.StateKey(key.contract, key.limit, nil)] = l.last
		}
	}
	return states
}
