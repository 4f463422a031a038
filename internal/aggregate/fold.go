package aggregate

import (
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// Input is what counts of a record beside the event in it.
type Input struct {
	Offset    int64
	Timestamp usage.Time
}

// Fate is what became of a record. Each has exactly one.
type Fate uint8

// The fates of records.
const (
	Counted Fate = iota
	Duplicate
	Ignored
	DeadLettered
	Voided // a void that took something back, or will
)

// Result tells what Fold did with a record.
type Result struct {
	Fate    Fate
	Reason  usage.Reason // of a dead letter
	Late    bool         // counted in a period that had ended
	LeftOut int          // counters of limits that were too long past for it
}

// Reject takes in a record that is a dead letter before it is looked at as an
// event: it moves the position and partition time.
func (s *State) Reject(in Input) {
	if at := min(in.Timestamp, s.now); at.Valid() { // a calendar has no place for others
		s.advance(at)
	}
	s.position = in.Offset + 1
	s.open.touched = true
}

// Skip moves the position over offsets that hold no records.
func (s *State) Skip(position int64) {
	if position > s.position {
		s.position = position
		s.open.touched = true
	}
}

// Fold takes in one event. Checks stand in the order of the reasons: missing or
// bad field, unknown meter, duplicate or void, future, too late, not undoable,
// overflow; the first that applies wins.
func (s *State) Fold(in Input, ev *usage.Event) Result {
	s.Reject(in)
	deduped := s.cfg.DedupeWindow > 0 && len(ev.ID) > 0
	if ev.Void && !deduped {
		return dead(usage.MissingField) // nothing to know the event by
	}
	if !s.gather(ev) {
		return dead(usage.BadField)
	}
	if len(s.takings) == 0 {
		return s.unknown()
	}
	known := s.recall(ev)
	hash, seen := known.hash, false
	if deduped {
		seen = s.dedupe.seen(hash, s.time)
		if seen && !ev.Void || s.voids.seen(hash, s.time) {
			return Result{Fate: Duplicate}
		}
	}
	ahead := s.cfg.MaxFuture
	if !ev.Time.Valid() && ev.Time > s.now || ev.Time > in.Timestamp.Add(ahead) && ev.Time > s.now.Add(ahead) {
		return dead(usage.Future)
	}
	if !ev.Time.Valid() {
		return dead(usage.TooLate)
	}
	period := s.periodOf(ev.Time)
	if s.time >= period.End.Add(s.cfg.AllowedLateness) && period.End != usage.MaxTime {
		return dead(usage.TooLate)
	}
	if ev.Void {
		return s.void(in, ev, &known, seen, period)
	}
	result, ok := s.count(in, ev, known.client, period)
	if !ok {
		return dead(usage.Overflow)
	}
	if deduped {
		s.dedupe.add(hash, s.time)
	}
	return result
}

func dead(reason usage.Reason) Result { return Result{Fate: DeadLettered, Reason: reason} }

func (s *State) unknown() Result {
	if s.cfg.UnknownMeter == DeadLetterUnknown {
		return dead(usage.UnknownMeter)
	}
	return Result{Fate: Ignored}
}

// void takes back the event with the id of ev, if it was counted; else the id
// is remembered, and the event is not counted when it comes.
func (s *State) void(in Input, ev *usage.Event, known *foreseen, counted bool, period *usage.Period) Result {
	if !s.undoable() {
		return dead(usage.NotUndoable)
	}
	if !s.fitting() {
		return dead(usage.Overflow) // it is no copy of an event that was or will be counted
	}
	result := Result{}
	if counted {
		var ok bool
		if result, ok = s.count(in, ev, known.client, period); !ok {
			return dead(usage.Overflow)
		}
	}
	s.voids.add(known.hash, s.time)
	s.open.touched = true
	result.Fate = Voided
	return result
}

// undoable tells whether all meters that take the event at hand can take it
// back.
func (s *State) undoable() bool {
	for i := range s.takings {
		switch s.cfg.Catalog.Meters[s.takings[i].meter].Aggregation {
		case usage.Count, usage.Sum:
		default:
			return false
		}
	}
	return true
}

// fitting tells whether the quantity is one of all meters that take the event
// at hand.
func (s *State) fitting() bool {
	for i := range s.takings {
		if !s.takings[i].fits {
			return false
		}
	}
	return true
}

// target is a counter that an event is for.
type target struct {
	taking *taking
	k      *counter // nil: it is to be made
	own    *ownScope
	apart  bool // it is of a combination of values, of group
	over   bool // which is the overflow
	group  *group
}

// count adds the event to the counters of all takers, or to none where one
// cannot hold it. c is its client, nil where that is not known yet.
func (s *State) count(in Input, ev *usage.Event, c *client, period *usage.Period) (Result, bool) {
	if !s.fitting() {
		return Result{}, false
	}
	if c == nil {
		c = s.clientOf(ev.Client)
	}
	s.folding = true
	defer func() { s.folding = false }()
	result := Result{Late: s.time >= period.End}
	s.targets = s.targets[:0]
	for i := range s.takings {
		s.aim(c, &s.takings[i], ev, period, &result)
	}
	for i := range s.targets {
		if t := &s.targets[i]; t.k != nil {
			if _, ok := s.after(t.k, t.taking, ev); !ok {
				return Result{}, false
			}
		}
	}
	for i := range s.targets {
		t := &s.targets[i]
		if t.k == nil {
			s.makeTarget(c, t, ev.Time, period)
		}
		s.apply(t.k, t.taking, in, ev)
	}
	s.emitAll()
	return result, true
}

// aim gathers the counters that an event, which is of the default period whole,
// is for.
func (s *State) aim(c *client, t *taking, ev *usage.Event, whole *usage.Period, result *Result) {
	family, at := &c.slots[t.meter], ev.Time
	s.targets = append(s.targets, target{taking: t, k: family.find(at)})
	if len(t.values) > 0 {
		s.key = s.views[t.meter].appendPer(s.key[:0], t.values)
		g, over := s.place(family, t.meter, ev, func() bool { return c.named(t.meter, t.values) })
		s.targets = append(s.targets, target{taking: t, k: g.find(at), apart: true, over: over, group: g})
	}
	for _, o := range c.own {
		if o.meter != t.meter || !o.covers(at, whole) || len(o.view.where) > 0 && !o.view.takes(t.values) {
			continue
		}
		k := o.find(at)
		if s.leftOut(o, k, at) {
			result.LeftOut++
			continue
		}
		s.targets = append(s.targets, target{taking: t, k: k, own: o})
		if len(o.view.per) == 0 {
			continue
		}
		s.key = o.view.appendPer(s.key[:0], t.values)
		g, over := s.place(&o.family, t.meter, ev, never)
		s.targets = append(s.targets, target{taking: t, k: g.find(at), own: o, apart: true, over: over, group: g})
	}
}

// covers tells whether o counts what happens at t, which lies in the default
// period whole.
func (o *ownScope) covers(t usage.Time, whole *usage.Period) bool {
	return o.live && t >= o.from && t < o.to && (!o.cutOnly || o.from > whole.Start || whole.End > o.to)
}

// leftOut tells whether the period of o that t lies in is too long past. k is
// its counter, or nil.
func (s *State) leftOut(o *ownScope, k *counter, t usage.Time) bool {
	var end usage.Time
	if k != nil {
		end = k.period.End
	} else {
		cut, _ := o.periodAt(t)
		end = cut.End
	}
	return end != usage.MaxTime && s.time >= end.Add(s.cfg.AllowedLateness)
}

// makeTarget makes the counter of t, and the group that it is of.
func (s *State) makeTarget(c *client, t *target, at usage.Time, whole *usage.Period) {
	family, v, period := &c.slots[t.taking.meter], &s.views[t.taking.meter], whole
	if t.own != nil {
		cut, _ := t.own.periodAt(at)
		family, v, period = &t.own.family, &t.own.view, &cut
	}
	if t.apart && t.group == nil {
		t.group = v.newGroup(func(i int) string {
			if t.over {
				return usage.OverflowValue
			}
			return string(t.taking.values[i])
		})
		family.add(t.group)
	}
	t.k = s.make(c, t.taking.meter, t.own, t.group, period)
}

// after returns what k's total is after ev, and false where it leaves the
// range. Of distinct values it is what it was.
func (s *State) after(k *counter, t *taking, ev *usage.Event) (usage.Quantity, bool) {
	switch s.cfg.Catalog.Meters[k.meter].Aggregation {
	case usage.Max:
		if k.events > 0 {
			return max(k.total, t.amount), true
		}
		return t.amount, true
	case usage.Min:
		if k.events > 0 {
			return min(k.total, t.amount), true
		}
		return t.amount, true
	case usage.Latest:
		if k.events > 0 && ev.Time < k.last {
			return k.total, true
		}
		return t.amount, true
	case usage.Unique:
		return k.total, true
	default:
		if ev.Void {
			return k.total.Add(-t.amount)
		}
		return k.total.Add(t.amount)
	}
}

// apply adds ev, which is known to fit, and gathers what limits tell of it.
func (s *State) apply(k *counter, t *taking, in Input, ev *usage.Event) {
	s.touch(k)
	before := k.total
	k.total, _ = s.after(k, t, ev)
	if k.set != nil && t.valued {
		k.set.add(t.hash)
		if total, ok := usage.DecimalOf(k.set.size()).Quantity(s.cfg.Catalog.Meters[k.meter].Decimals); ok {
			k.total = max(k.total, total) // an estimate may shrink, distinct values do not
		}
	}
	if ev.Void {
		k.events--
	} else {
		k.events++
		k.first, k.last = min(k.first, ev.Time), max(k.last, ev.Time)
	}
	if (k.total >= k.ceiling || k.total < k.floor) && k.seed.Complete() {
		s.judge(k, before, in, ev)
	}
}

// judge gathers the thresholds that an event made k's total pass.
func (s *State) judge(k *counter, before usage.Quantity, in Input, ev *usage.Event) {
	k.fence()
	var cause *alerts.Cause
	for _, b := range k.limits {
		passed := alerts.Passed(before, k.total, b.limit.Thresholds)
		if len(passed) == 0 {
			continue
		}
		if cause == nil {
			cause = s.usageCause(in, ev)
		}
		e := emission{limitAt: b.at(k), counter: k, bound: b, cause: cause, before: before}
		if k.total < before {
			e.cleared = passed
		} else {
			e.crossed = passed
		}
		s.open.emits = append(s.open.emits, e)
	}
}

func (s *State) usageCause(in Input, ev *usage.Event) *alerts.Cause {
	offset, at := in.Offset, ev.Time
	cause := &alerts.Cause{
		Kind: alerts.ByUsage, Topic: &s.cfg.Topic, Partition: &s.cfg.Partition, Offset: &offset, EventTime: &at,
	}
	if ev.Void {
		cause.Kind = alerts.ByVoid
	}
	if len(ev.ID) > 0 {
		id := string(ev.ID)
		cause.EventID = &id
	}
	return cause
}

// fence sets the bounds between which k's total passes no threshold.
func (k *counter) fence() {
	k.floor, k.ceiling = -usage.MaxQuantity, usage.MaxQuantity
	reachable := false
	for _, b := range k.limits {
		for _, t := range b.limit.Thresholds {
			if t.Value <= k.total {
				k.floor = max(k.floor, t.Value)
			} else if !reachable || t.Value < k.ceiling {
				k.ceiling, reachable = t.Value, true
			}
		}
	}
}

// emitAll makes limit events of what one cause gathered: by contract id, then
// in the contract's order, and of one limit what ends before what begins.
func (s *State) emitAll() {
	if len(s.open.emits) == 0 {
		return
	}
	slices.SortStableFunc(s.open.emits, func(a, b emission) int { return a.compare(&b.limitAt) })
	for i := range s.open.emits {
		if e := &s.open.emits[i]; e.withdrawn != nil {
			s.withdraw(e.withdrawn, e.next, e.cause)
		} else {
			s.emit(e)
		}
	}
	clear(s.open.emits)
	s.open.emits = s.open.emits[:0]
}

// boundLimit is a limit in force that judges a counter.
type boundLimit struct {
	contract   *contracts.Contract
	limit      *contracts.Limit
	place      int               // in the contract
	per        map[string]string // the values that it judges the counter for, nil for all
	dimensions string            // their canonical form
}

// at returns where in the order of limit events those of b and k stand.
func (b *boundLimit) at(k *counter) limitAt {
	return limitAt{
		contract: b.contract.ID, place: b.place, inForce: 1, limit: b.limit.ID, rank: 1,
		dimensions: b.dimensions, start: k.period.Start,
	}
}
