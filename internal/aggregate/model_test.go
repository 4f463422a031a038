package aggregate_test

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// model is the rules done in the simplest way: it keeps every event that was
// counted, adds all of them up whenever a total is wanted, and looks through
// all that it has for everything else.
type model struct {
	cfg   aggregate.Config
	table *contracts.Table
	now   usage.Time
	time  usage.Time
	next  int64 // position

	counted []countedEvent
	claims  map[[2]string]usage.Time // client and id, to the end of its bucket
	owns    map[ownKey]own
	terms   map[string][]*contracts.Contract
	told    map[toldKey]told
	version int64
	taken   bool

	events []alerts.Event // of the open transaction
}

type countedEvent struct {
	client string
	meter  int
	amount usage.Quantity
	time   usage.Time
}

type ownKey struct {
	client string
	meter  int
	scope  aggregate.Scope
	period string
}

// own is a counter of a limit's own: the events in it, by their numbers.
type own struct {
	period  usage.Period
	members []int
}

type toldKey struct{ contract, limit, period string }

// told is what a limit has told in a period.
type told struct {
	client   string
	meter    string
	decimals int
	scope    aggregate.Scope
	period   usage.Period
	limit    usage.Quantity
	revision int64
	enforced contracts.Enforcement
	standing []contracts.Threshold
	sequence int64
	closed   bool
	last     alerts.Event
	place    int // in the contract, the last time it told something
}

// modelCounter is any counter, as the model finds it.
type modelCounter struct {
	client  string
	meter   int
	scope   aggregate.Scope
	period  usage.Period
	members []int
}

func newModel(cfg aggregate.Config, table *contracts.Table) *model {
	return &model{
		cfg: cfg, table: table, time: usage.MinTime, claims: map[[2]string]usage.Time{}, owns: map[ownKey]own{},
		terms: map[string][]*contracts.Contract{}, told: map[toldKey]told{},
	}
}

func (m *model) clone() *model {
	c := *m
	c.counted = slices.Clone(m.counted)
	c.claims, c.owns, c.terms, c.told = maps.Clone(m.claims), maps.Clone(m.owns), maps.Clone(m.terms), maps.Clone(m.told)
	c.events = nil
	return &c
}

func (m *model) sum(members []int) (total usage.Quantity) {
	for _, i := range members {
		total += m.counted[i].amount
	}
	return total
}

// standard returns the default period of t and the events in it.
func (m *model) standard(client string, meter int, t usage.Time) modelCounter {
	c := modelCounter{client: client, meter: meter, period: m.cfg.Catalog.Schedule.At(t)}
	for i, e := range m.counted {
		if e.client == client && e.meter == meter && c.period.Contains(e.time) {
			c.members = append(c.members, i)
		}
	}
	return c
}

// counters returns all counters of a client that have something in them and
// are kept.
func (m *model) counters(client string) []modelCounter {
	var all []modelCounter
	seen := map[ownKey]bool{}
	for _, e := range m.counted {
		c := m.standard(client, e.meter, e.time)
		key := ownKey{client: client, meter: e.meter, period: c.period.ID}
		if e.client != client || seen[key] || m.time >= m.expiry(c.period, m.cfg.Catalog.Schedule) {
			continue
		}
		seen[key] = true
		all = append(all, c)
	}
	for key, o := range m.owns {
		if key.client == client {
			all = append(all, modelCounter{client: client, meter: key.meter, scope: key.scope, period: o.period, members: o.members})
		}
	}
	return all
}

func (m *model) scheduleOf(s aggregate.Scope) usage.Schedule {
	if s.Default() {
		return m.cfg.Catalog.Schedule
	}
	schedule, _ := usage.NewSchedule(s.Kind, s.Timezone)
	if s.Kind == usage.Anniversary {
		schedule.Anchor = s.StartsAt
	}
	return schedule
}

func (m *model) expiry(p usage.Period, schedule usage.Schedule) usage.Time {
	if p.End == usage.MaxTime {
		return usage.MaxTime
	}
	late := p.End.Add(m.cfg.AllowedLateness)
	if schedule.Kind == usage.Lifetime {
		return late
	}
	end := p.End
	for range m.cfg.KeepPeriods {
		end = schedule.At(end).End
	}
	return max(late, end)
}

// modelTerm is a limit in force.
type modelTerm struct {
	contract *contracts.Contract
	limit    *contracts.Limit
	order    int // in the contract
}

func (m *model) termsOf(client string) (terms []modelTerm) {
	for _, c := range m.terms[client] {
		for i := range c.Limits {
			terms = append(terms, modelTerm{c, &c.Limits[i], i})
		}
	}
	return terms
}

func (t modelTerm) scope() aggregate.Scope {
	return aggregate.Scope{
		Contract: t.contract.ID, Kind: t.limit.Schedule.Kind, Timezone: t.limit.Schedule.Zone.String(), StartsAt: t.contract.StartsAt,
	}
}

func (m *model) sameSchedule(t modelTerm) bool { return t.limit.Schedule.Equal(m.cfg.Catalog.Schedule) }

// cut returns the period of t's own counter at an instant, and false where it
// has none: the contract does not cover it, or the default counter serves.
func (m *model) cut(t modelTerm, at usage.Time) (usage.Period, bool) {
	if at < t.contract.StartsAt || at >= t.contract.EndsAt {
		return usage.Period{}, false
	}
	whole := t.limit.Schedule.At(at)
	cut := whole.Cut(t.contract.StartsAt, t.contract.EndsAt)
	return cut, cut != whole || !m.sameSchedule(t)
}

func (m *model) judges(t modelTerm, c modelCounter) bool {
	if t.limit.Meter != c.meter {
		return false
	}
	if c.scope.Default() {
		return m.sameSchedule(t) && t.contract.StartsAt <= c.period.Start && c.period.End <= t.contract.EndsAt
	}
	_, own := m.cut(t, c.period.Start)
	return own && t.scope() == c.scope
}

// modelEmission is what one cause does to one limit of one counter.
type modelEmission struct {
	term             modelTerm
	counter          modelCounter
	before           usage.Quantity
	cleared, crossed []contracts.Threshold
	cause            alerts.Cause

	withdrawn *toldKey
	order     int
}

func (e *modelEmission) key() (contract string, order int, limit string, rank int, start usage.Time) {
	if e.withdrawn != nil {
		return e.withdrawn.contract, e.order, e.withdrawn.limit, 0, e.counter.period.Start
	}
	return e.term.contract.ID, 2*e.term.order + 1, e.term.limit.ID, 1, e.counter.period.Start
}

func (m *model) emitAll(list []modelEmission) {
	slices.SortStableFunc(list, func(a, b modelEmission) int {
		c1, o1, l1, r1, s1 := a.key()
		c2, o2, l2, r2, s2 := b.key()
		return cmp.Or(cmp.Compare(c1, c2), cmp.Compare(o1, o2), cmp.Compare(l1, l2), cmp.Compare(r1, r2), cmp.Compare(s1, s2))
	})
	for _, e := range list {
		if e.withdrawn != nil {
			m.withdraw(*e.withdrawn, e)
		} else {
			m.emit(e)
		}
	}
}

func (m *model) emit(e modelEmission) {
	key := toldKey{e.term.contract.ID, e.term.limit.ID, e.counter.period.ID}
	l := m.told[key]
	if l.period != e.counter.period || l.scope != e.counter.scope {
		l.closed = false
	}
	l.client, l.meter, l.decimals = e.counter.client, e.term.limit.MeterName, e.term.limit.Decimals
	l.scope, l.period, l.limit = e.counter.scope, e.counter.period, e.term.limit.Value
	l.revision, l.enforced, l.place = e.term.contract.Revision, e.term.limit.Enforcement, e.term.order
	for _, cleared := range [][]contracts.Threshold{e.cleared, e.crossed} {
		if len(cleared) == 0 {
			continue
		}
		kind := alerts.Cleared
		l.standing = slices.DeleteFunc(slices.Clone(l.standing), func(s contracts.Threshold) bool {
			return slices.ContainsFunc(e.cleared, func(c contracts.Threshold) bool { return c.Label == s.Label })
		})
		if &cleared[0] == firstOf(e.crossed) {
			kind = alerts.Crossed
			for _, c := range e.crossed {
				if !slices.ContainsFunc(l.standing, func(s contracts.Threshold) bool { return s.Label == c.Label }) {
					l.standing = append(l.standing, c)
				}
			}
			place := func(t contracts.Threshold) int {
				return slices.IndexFunc(e.term.limit.Thresholds, func(o contracts.Threshold) bool { return o.Label == t.Label })
			}
			slices.SortFunc(l.standing, func(a, b contracts.Threshold) int {
				return cmp.Or(cmp.Compare(a.Value, b.Value), cmp.Compare(place(a), place(b)))
			})
		}
		after := m.sum(e.counter.members)
		l = m.tell(key, l, kind, cleared, e.cause)
		event := &m.events[len(m.events)-1]
		event.UsageBefore, event.UsageAfter = e.before.Format(l.decimals), after.Format(l.decimals)
		event.Utilization = usage.Utilization(after, l.limit)
		l.last = *event
	}
	m.told[key] = l
}

func firstOf(list []contracts.Threshold) *contracts.Threshold {
	if len(list) == 0 {
		return nil
	}
	return &list[0]
}

func (m *model) tell(key toldKey, l told, kind alerts.EventKind, passed []contracts.Threshold, cause alerts.Cause) told {
	l.sequence++
	m.events = append(m.events, alerts.Event{
		ID:   alerts.Identity{ApplicationID: m.cfg.ApplicationID, Contract: key.contract, Limit: key.limit, Period: key.period, Sequence: l.sequence}.ID(),
		Kind: kind, Client: l.client, Meter: l.meter, Dimensions: map[string]string{}, Contract: key.contract, LimitID: key.limit,
		ContractRevision: l.revision, Limit: l.limit.Format(l.decimals), Enforcement: l.enforced,
		Thresholds: alerts.Show(passed, l.decimals), Highest: passed[len(passed)-1].Label, Standing: alerts.Labels(l.standing),
		Period: alerts.PeriodInfo{ID: l.period.ID, Start: l.period.Start, End: l.period.End, Timezone: l.period.Timezone},
		Cause:  cause, Late: kind != alerts.Reset && m.time >= l.period.End, Sequence: l.sequence,
	})
	return l
}

func (m *model) counterOf(key toldKey, l told) (modelCounter, bool) {
	for _, c := range m.counters(l.client) {
		if c.scope == l.scope && c.period.ID == key.period && m.cfg.Catalog.Meters[c.meter].Name == l.meter {
			return c, true
		}
	}
	return modelCounter{}, false
}
