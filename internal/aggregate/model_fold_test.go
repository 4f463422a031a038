package aggregate_test

import (
	"cmp"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// advance lets partition time come to at: what ends on the way ends at its
// moment.
func (m *model) advance(at usage.Time) {
	if at = min(at, m.now); at <= m.time {
		return
	}
	for {
		due := usage.MaxTime
		for _, l := range m.told {
			if len(l.standing) > 0 && !l.closed && l.period.End > m.time {
				due = min(due, l.period.End)
			}
		}
		// Default counters go by themselves: nothing finds them after their time.
		for key, l := range m.told {
			if l.scope.Default() {
				due = min(due, m.expiry(m.cfg.Catalog.Schedule.At(l.period.Start), m.cfg.Catalog.Schedule))
			} else if _, ok := m.owns[ownKey{l.client, m.cfg.Catalog.Find(l.meter), l.scope, key.period}]; !ok {
				delete(m.told, key)
			}
		}
		for key, o := range m.owns {
			due = min(due, m.expiry(o.period, m.scheduleOf(key.scope)))
		}
		if due > at {
			break
		}
		m.time = max(m.time, due)
		m.resets(due)
		m.expire(due)
	}
	m.time = at
}

func (m *model) resets(due usage.Time) {
	var keys []toldKey
	for key, l := range m.told {
		if len(l.standing) > 0 && !l.closed && l.period.End == due {
			keys = append(keys, key)
		}
	}
	place := func(key toldKey) int {
		if t := termOf(m.termsOf(m.told[key].client), key); t != nil {
			return t.order
		}
		return m.told[key].place
	}
	slices.SortFunc(keys, func(a, b toldKey) int {
		return cmp.Or(cmp.Compare(m.told[a].client, m.told[b].client), cmp.Compare(a.contract, b.contract),
			cmp.Compare(place(a), place(b)), cmp.Compare(a.limit, b.limit), cmp.Compare(a.period, b.period))
	})
	for _, key := range keys {
		l := m.told[key]
		if t := termOf(m.termsOf(l.client), key); t != nil {
			l.limit, l.decimals, l.revision, l.enforced = t.limit.Value, t.limit.Decimals, t.contract.Revision, t.limit.Enforcement
		}
		passed := l.standing
		l.standing, l.closed = nil, true
		l = m.tell(key, l, alerts.Reset, passed, alerts.Cause{Kind: alerts.ByPeriodEnd})
		event := &m.events[len(m.events)-1]
		event.UsageBefore, event.UsageAfter, event.Utilization = "0", "0", "0"
		if c, ok := m.counterOf(key, l); ok {
			event.UsageBefore = m.sum(c.members).Format(l.decimals)
		}
		l.last = *event
		m.told[key] = l
	}
}

func termOf(terms []modelTerm, key toldKey) *modelTerm {
	for i, t := range terms {
		if t.contract.ID == key.contract && t.limit.ID == key.limit {
			return &terms[i]
		}
	}
	return nil
}

func (m *model) expire(due usage.Time) {
	for key, l := range m.told {
		if l.scope.Default() && m.expiry(m.cfg.Catalog.Schedule.At(l.period.Start), m.cfg.Catalog.Schedule) <= due {
			delete(m.told, key)
		}
	}
	for key, o := range m.owns {
		if m.expiry(o.period, m.scheduleOf(key.scope)) > due {
			continue
		}
		delete(m.owns, key)
		for k, l := range m.told {
			if l.client == key.client && l.scope == key.scope && k.period == key.period && l.meter == m.cfg.Catalog.Meters[key.meter].Name {
				delete(m.told, k)
			}
		}
	}
}

func (m *model) fold(in aggregate.Input, e *usage.Event) aggregate.Result {
	m.advance(in.Timestamp)
	m.next = in.Offset + 1
	meter := m.cfg.Catalog.Find(string(e.Meter))
	if meter < 0 {
		return aggregate.Result{Fate: aggregate.Ignored}
	}
	claim := [2]string{string(e.Client), string(e.ID)}
	if end, ok := m.claims[claim]; ok && len(e.ID) > 0 && end > m.time.Add(-m.cfg.DedupeWindow) {
		return aggregate.Result{Fate: aggregate.Duplicate}
	}
	dead := func(reason usage.Reason) aggregate.Result {
		return aggregate.Result{Fate: aggregate.DeadLettered, Reason: reason}
	}
	if early := m.cfg.MaxFuture; e.Time > in.Timestamp.Add(early) && e.Time > m.now.Add(early) {
		return dead(usage.Future)
	}
	period := m.cfg.Catalog.Schedule.At(e.Time)
	if m.time >= period.End.Add(m.cfg.AllowedLateness) {
		return dead(usage.TooLate)
	}
	amount := usage.Quantity(1)
	if m.cfg.Catalog.Meters[meter].Aggregation == usage.Sum {
		var ok bool
		if amount, ok = e.Quantity.Quantity(m.cfg.Catalog.Meters[meter].Decimals); !ok {
			return dead(usage.Overflow)
		}
	}
	result := aggregate.Result{Fate: aggregate.Counted, Late: m.time >= period.End}
	takers := []modelCounter{m.standard(string(e.Client), meter, e.Time)}
	seen := map[aggregate.Scope]bool{}
	for _, t := range m.termsOf(string(e.Client)) {
		cut, ok := m.cut(t, e.Time)
		if !ok || t.limit.Meter != meter || seen[t.scope()] {
			continue
		}
		seen[t.scope()] = true
		if cut.End != usage.MaxTime && m.time >= cut.End.Add(m.cfg.AllowedLateness) {
			result.LeftOut++
			continue
		}
		key := ownKey{string(e.Client), meter, t.scope(), cut.ID}
		takers = append(takers, modelCounter{key.client, meter, key.scope, cut, m.owns[key].members})
	}
	for _, c := range takers {
		if _, ok := m.sum(c.members).Add(amount); !ok {
			return dead(usage.Overflow)
		}
	}
	m.counted = append(m.counted, countedEvent{string(e.Client), meter, amount, e.Time})
	if len(e.ID) > 0 {
		slice := usage.Time(m.cfg.DedupeWindow.Milliseconds() / 8)
		m.claims[claim] = m.time - m.time%slice + slice
	}
	var list []modelEmission
	for _, c := range takers {
		before := m.sum(c.members)
		c.members = append(slices.Clone(c.members), len(m.counted)-1)
		if !c.scope.Default() {
			m.owns[ownKey{c.client, meter, c.scope, c.period.ID}] = own{c.period, c.members}
		}
		list = append(list, m.passed(c, before, in, e)...)
	}
	m.emitAll(list)
	return result
}

// passed is R1, said once more.
func (m *model) passed(c modelCounter, before usage.Quantity, in aggregate.Input, e *usage.Event) (list []modelEmission) {
	after := m.sum(c.members)
	for _, t := range m.termsOf(c.client) {
		if !m.judges(t, c) {
			continue
		}
		cause := alerts.Cause{Kind: alerts.ByUsage, Topic: &m.cfg.Topic, Partition: &m.cfg.Partition, Offset: &in.Offset, EventTime: &e.Time}
		if id := string(e.ID); id != "" {
			cause.EventID = &id
		}
		emission := modelEmission{term: t, counter: c, before: before, cause: cause}
		for _, threshold := range t.limit.Thresholds {
			if before < threshold.Value && threshold.Value <= after {
				emission.crossed = append(emission.crossed, threshold)
			}
			if after < threshold.Value && threshold.Value <= before {
				emission.cleared = append(emission.cleared, threshold)
			}
		}
		if len(emission.crossed)+len(emission.cleared) > 0 {
			list = append(list, emission)
		}
	}
	return list
}
