package aggregate

import (
	"cmp"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// limitID is the tuple whose limit events are numbered together. dimensions
// are in canonical form.
type limitID struct{ contract, limit, dimensions, period string }

// canonical returns the form of per values in a limitID.
func canonical(per map[string]string) string {
	if len(per) == 0 {
		return "{}"
	}
	return string(usage.AppendCanonicalMap(nil, per))
}

// limitState is what one limit has told in one period. It is made by the
// first limit event.
type limitState struct {
	id     limitID
	per    map[string]string // id.dimensions
	client *client
	at     int // among the limits of client
	txn    int64
	undo   int32
	fading bool // to be forgotten when the open transaction commits
	limitValue
}

// limitValue is what changes of a limitState, and is copied for the undo log.
// Slices in it are replaced, never changed in place.
type limitValue struct {
	meter       string
	scope       Scope
	where       map[string]string // with per, the dimensions of the counter
	period      usage.Period
	place       int // in the contract
	revision    int64
	value       usage.Quantity
	decimals    int
	enforcement contracts.Enforcement
	standing    []contracts.Threshold
	sequence    int64
	closed      bool
	last        *alerts.Event
	told        []Telling // the last ones
}

type undoLimit struct {
	limit  *limitState
	client *client
	before limitValue
	made   bool
}

// limitAt orders what one cause does to several limits.
type limitAt struct {
	contract   string
	place      int // in the contract; where the limit is gone from it, the last one
	inForce    int // 0 for a limit that is gone, else 1
	limit      string
	rank       int    // 0 for what is withdrawn
	dimensions string // the per values
	start      usage.Time
}

func (a *limitAt) compare(b *limitAt) int {
	return cmp.Or(
		cmp.Compare(a.contract, b.contract), cmp.Compare(a.place, b.place), cmp.Compare(a.inForce, b.inForce),
		cmp.Compare(a.limit, b.limit), cmp.Compare(a.rank, b.rank), cmp.Compare(a.dimensions, b.dimensions), cmp.Compare(a.start, b.start),
	)
}

// emission is what one cause does to one limit: either all that stands is
// withdrawn, or counter has passed thresholds of bound.
type emission struct {
	limitAt
	withdrawn *limitState
	next      *contracts.Limit // that, as it is now

	counter *counter
	bound   *boundLimit
	cause   *alerts.Cause
	before  usage.Quantity
	cleared []contracts.Threshold
	crossed []contracts.Threshold
	silent  bool // into limit-state alone
}

// StateChange is a record of the limit-state topic: the last limit event of
// the current period, or nil where nothing stands.
type StateChange struct {
	Key    string
	Client string
	Event  *alerts.Event
}

func (b *boundLimit) id(period string) limitID {
	return limitID{contract: b.contract.ID, limit: b.limit.ID, dimensions: b.dimensions, period: period}
}

// touchLimit notes the value of l before the open transaction changes it.
func (s *State) touchLimit(l *limitState) {
	if l.txn == s.open.id {
		return
	}
	l.txn, l.undo = s.open.id, int32(len(s.open.limits))
	s.open.limits = append(s.open.limits, undoLimit{limit: l, client: l.client, before: l.limitValue})
	s.open.touched = true
}

// limitOf returns what the limit has told of k's period, made if need be.
func (s *State) limitOf(k *counter, b *boundLimit) *limitState {
	id := b.id(k.period.ID)
	l, ok := s.limits[id]
	if ok && !l.fading {
		s.touchLimit(l)
		if !s.goesOn(l, k, b) {
			l.standing = nil // of another counter, in a period that has ended
		}
	} else {
		l = &limitState{id: id, per: b.per, client: k.client}
		s.addLimit(l)
		s.touchLimit(l)
		s.open.limits[l.undo].made = true
	}
	l.moveTo(k.client)
	before := s.expiryOfLimit(l)
	if l.period != *k.period || l.scope != k.scope() {
		l.closed = false
	}
	l.meter, l.scope, l.where, l.period, l.place = b.limit.MeterName, k.scope(), b.limit.Where, *k.period, b.place
	l.revision, l.value, l.decimals, l.enforcement = b.contract.Revision, b.limit.Value, b.limit.Decimals, b.limit.Enforcement
	if at := s.expiryOfLimit(l); s.open.limits[l.undo].made || at != before {
		s.keepUntil(l, at)
	}
	return l
}

func (c *client) addLimit(l *limitState) {
	l.at = len(c.limits)
	c.limits = append(c.limits, l)
}

func (c *client) hasLimit(l *limitState) bool { return l.at < len(c.limits) && c.limits[l.at] == l }

func (c *client) dropLimit(l *limitState) {
	if !c.hasLimit(l) {
		return
	}
	last := c.limits[len(c.limits)-1]
	c.limits[l.at], last.at = last, l.at
	c.limits = c.limits[:len(c.limits)-1]
}

// moveTo makes l a limit of c: contracts move between clients.
func (l *limitState) moveTo(c *client) {
	if l.client == c {
		return
	}
	l.client.dropLimit(l)
	l.client = c
	c.addLimit(l)
}

func (s *State) forgetLimit(l *limitState) {
	s.dropLimit(l)
	if l.client.empty() {
		s.lose(l.client)
	}
}

// emit makes the limit events of e and what limit-state says after them.
// Cleared comes before crossed.
func (s *State) emit(e *emission) {
	k, b := e.counter, e.bound
	l := s.limitOf(k, b)
	for _, step := range []struct {
		kind   alerts.EventKind
		passed []contracts.Threshold
	}{{alerts.Cleared, e.cleared}, {alerts.Crossed, e.crossed}} {
		if len(step.passed) == 0 {
			continue
		}
		l.standing = stand(l.standing, step.passed, step.kind, b.limit.Thresholds)
		event := s.tell(l, step.kind, step.passed, e.cause)
		event.UsageBefore, event.UsageAfter = e.before.Format(l.decimals), k.total.Format(l.decimals)
		event.Utilization = usage.Utilization(k.total, l.value)
		event.Seeded = k.seed.some()
		s.note(l, event, e.silent)
	}
	s.show(l)
}

// stand returns the labels that stand after passed were crossed or cleared, in
// the order of limit: by the values that they have now, equal ones as written.
func stand(standing, passed []contracts.Threshold, kind alerts.EventKind, limit []contracts.Threshold) []contracts.Threshold {
	var after []contracts.Threshold
	for _, t := range standing {
		if kind == alerts.Crossed || !hasLabel(passed, t.Label) {
			after = append(after, t)
		}
	}
	if kind == alerts.Crossed {
		for _, t := range passed {
			if !hasLabel(after, t.Label) {
				after = append(after, t)
			}
		}
	}
	slices.SortStableFunc(after, func(a, b contracts.Threshold) int {
		return cmp.Compare(placeOf(limit, a.Label), placeOf(limit, b.Label))
	})
	return after
}

func placeOf(thresholds []contracts.Threshold, label string) int {
	return slices.IndexFunc(thresholds, func(t contracts.Threshold) bool { return t.Label == label })
}

func hasLabel(thresholds []contracts.Threshold, label string) bool {
	return placeOf(thresholds, label) >= 0
}

// tell numbers the next limit event of l and returns it, but for the totals.
func (s *State) tell(l *limitState, kind alerts.EventKind, passed []contracts.Threshold, cause *alerts.Cause) *alerts.Event {
	l.sequence++
	dimensions := l.per
	if dimensions == nil {
		dimensions = map[string]string{}
	}
	event := &alerts.Event{
		ID: alerts.Identity{
			ApplicationID: s.cfg.ApplicationID, Contract: l.id.contract, Limit: l.id.limit,
			Dimensions: l.per, Period: l.id.period, Sequence: l.sequence,
		}.ID(),
		Kind: kind, Client: l.client.name, Meter: l.meter, Dimensions: dimensions,
		Contract: l.id.contract, ContractRevision: l.revision, LimitID: l.id.limit,
		Limit: l.value.Format(l.decimals), Enforcement: l.enforcement,
		Thresholds: alerts.Show(passed, l.decimals), Highest: passed[len(passed)-1].Label,
		Standing: alerts.Labels(l.standing),
		Period:   alerts.PeriodInfo{ID: l.period.ID, Start: l.period.Start, End: l.period.End, Timezone: l.period.Timezone},
		Cause:    *cause, Late: s.time >= l.period.End, Sequence: l.sequence,
	}
	l.last = event
	return event
}

// note puts event, which is whole now, where it is told and remembered.
func (s *State) note(l *limitState, event *alerts.Event, silent bool) { //revive:disable-line:flag-parameter // it is a fact about the event
	if !silent {
		s.open.events = append(s.open.events, event)
	}
	told := l.told[max(0, len(l.told)-MaxTold+1):]
	labels := make([]string, 0, len(event.Thresholds))
	for _, t := range event.Thresholds {
		labels = append(labels, t.Threshold)
	}
	l.told = append(slices.Clone(told), Telling{
		Sequence: event.Sequence, Kind: event.Kind, Labels: labels, Before: event.UsageBefore, After: event.UsageAfter,
		Revision: event.ContractRevision, Cause: event.Cause, Late: event.Late, Silent: silent,
	})
}

// show brings limit-state in line with l, where l's period is the current one.
// One that is yet to begin is shown when it begins; one that stands is reset
// when it ends.
func (s *State) show(l *limitState) {
	if len(l.standing) > 0 && !l.closed && l.period.End != usage.MaxTime && s.time < l.period.End {
		s.timers.limit(l.period.End, l)
	}
	if l.period.Start > s.time {
		s.timers.limit(l.period.Start, l)
		return
	}
	if s.time < l.period.End {
		s.setState(l, l.current())
	}
}

// current returns what limit-state says of l while its period is the current
// one.
func (l *limitState) current() *alerts.Event {
	if len(l.standing) == 0 {
		return nil
	}
	return l.last
}

func (s *State) setState(l *limitState, event *alerts.Event) {
	s.open.states = append(s.open.states, StateChange{
		Key: alerts.StateKey(l.id.contract, l.id.limit, l.per), Client: l.client.name, Event: event,
	})
	s.open.touched = true
}

// reset tells that l's period has ended with labels standing. An ended period
// is never evaluated again for a reset.
func (s *State) reset(l *limitState, successor *limitState) {
	s.touchLimit(l)
	if b := s.inForce(l); b != nil {
		l.revision, l.value, l.decimals, l.enforcement = b.contract.Revision, b.limit.Value, b.limit.Decimals, b.limit.Enforcement
	}
	passed := l.standing
	l.standing, l.closed = nil, true
	event := s.tell(l, alerts.Reset, passed, &alerts.Cause{Kind: alerts.ByPeriodEnd})
	event.UsageBefore, event.UsageAfter, event.Utilization = "0", "0", "0"
	event.Late = false
	if k := s.counterOf(l); k != nil {
		event.UsageBefore = k.total.Format(l.decimals)
		event.Seeded = k.seed.some()
	}
	s.note(l, event, false)
	if successor != nil {
		s.setState(l, successor.current())
		return
	}
	s.setState(l, nil)
}

// inForce returns the limit in force that l's events are of, or nil.
func (s *State) inForce(l *limitState) *term {
	for i := range l.client.terms {
		t := &l.client.terms[i]
		if t.contract.ID == l.id.contract && t.limit.ID == l.id.limit {
			return t
		}
	}
	return nil
}

// counterOf returns the counter that l judges, or nil.
func (s *State) counterOf(l *limitState) *counter {
	m, ok := s.meters[l.meter]
	if !ok {
		return nil
	}
	if slot := s.slotOf(l.client, m, l.scope, union(l.where, l.per)); slot != nil {
		return slot.of(l.id.period)
	}
	return nil
}
