package aggregate

import (
	"cmp"
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

// Fold takes in one event. Checks stand in the order of the reasons: unknown
// meter, duplicate, future, too late, overflow; the first that applies wins.
func (s *State) Fold(in Input, ev *usage.Event) Result {
	s.Reject(in)
	takers := s.all
	if s.cfg.MeterMapped {
		m, ok := s.meters[string(ev.Meter)]
		if !ok {
			return s.unknown()
		}
		takers = s.all[m : m+1]
	}
	if len(takers) == 0 {
		return s.unknown()
	}
	var hash Hash
	deduped := s.cfg.DedupeWindow > 0 && len(ev.ID) > 0
	if deduped {
		if hash = hashOf(ev.Client, ev.ID); s.dedupe.seen(hash, s.time) {
			return Result{Fate: Duplicate}
		}
	}
	ahead := s.cfg.MaxFuture
	if !ev.Time.Valid() && ev.Time > s.now || ev.Time > in.Timestamp.Add(ahead) && ev.Time > s.now.Add(ahead) {
		return Result{Fate: DeadLettered, Reason: usage.Future}
	}
	if !ev.Time.Valid() {
		return Result{Fate: DeadLettered, Reason: usage.TooLate}
	}
	period := s.periodOf(ev.Time)
	if s.time >= period.End.Add(s.cfg.AllowedLateness) && period.End != usage.MaxTime {
		return Result{Fate: DeadLettered, Reason: usage.TooLate}
	}
	result, ok := s.count(in, ev, takers, period)
	if !ok {
		return Result{Fate: DeadLettered, Reason: usage.Overflow}
	}
	if deduped {
		s.dedupe.add(hash, s.time)
	}
	return result
}

func (s *State) unknown() Result {
	if s.cfg.UnknownMeter == DeadLetterUnknown {
		return Result{Fate: DeadLettered, Reason: usage.UnknownMeter}
	}
	return Result{Fate: Ignored}
}

// count adds the event to the counters of all takers, or to none where one
// cannot hold it.
func (s *State) count(in Input, ev *usage.Event, takers []int, period *usage.Period) (Result, bool) {
	c := s.clients[string(ev.Client)]
	result := Result{Late: s.time >= period.End}
	for _, m := range takers {
		if _, ok := s.sum(nil, m, ev); !ok {
			return Result{}, false
		}
		if c == nil {
			continue
		}
		if _, ok := s.sum(c.slots[m].find(ev.Time), m, ev); !ok {
			return Result{}, false
		}
		for _, o := range c.own {
			if o.meter != m {
				continue
			}
			if k, _, fate := s.goesTo(o, ev.Time, period); fate == taken {
				if _, ok := s.sum(k, m, ev); !ok {
					return Result{}, false
				}
			}
		}
	}
	if c == nil {
		c = s.clientOf(ev.Client)
	}
	for _, m := range takers {
		k := c.slots[m].find(ev.Time)
		if k == nil {
			k = s.make(c, m, nil, period)
		}
		s.apply(k, in, ev)
		for _, o := range c.own {
			if o.meter != m {
				continue
			}
			switch k, cut, fate := s.goesTo(o, ev.Time, period); fate {
			case leftOut:
				result.LeftOut++
			case taken:
				if k == nil {
					made := cut // only what is made goes to the heap
					k = s.make(c, m, o, &made)
				}
				s.apply(k, in, ev)
			}
		}
	}
	s.emitAll()
	return result, true
}

// ownFate is what an own scope does with an event.
type ownFate uint8

const (
	notCovered ownFate = iota // it is none of the scope's
	taken
	leftOut // its period is too long past
)

// goesTo returns what o does with an event of time t, which lies in the default
// period whole: the counter that takes it or, where that is nil, the period of
// the one to be made.
func (s *State) goesTo(o *ownScope, t usage.Time, whole *usage.Period) (k *counter, cut usage.Period, fate ownFate) {
	if !o.live || t < o.from || t >= o.to || o.cutOnly && o.from <= whole.Start && whole.End <= o.to {
		return nil, cut, notCovered
	}
	var end usage.Time
	if k = o.find(t); k != nil {
		end = k.period.End
	} else {
		cut, _ = o.periodAt(t)
		end = cut.End
	}
	if end != usage.MaxTime && s.time >= end.Add(s.cfg.AllowedLateness) {
		return nil, cut, leftOut
	}
	return k, cut, taken
}

// sum returns what k's total is after ev, k being nil for zero.
func (s *State) sum(k *counter, meter int, ev *usage.Event) (usage.Quantity, bool) {
	m := &s.cfg.Catalog.Meters[meter]
	delta := usage.Quantity(1)
	if m.Aggregation == usage.Sum {
		var ok bool
		if delta, ok = ev.Quantity.Quantity(m.Decimals); !ok {
			return 0, false
		}
	} else if m.Decimals > 0 {
		delta, _ = usage.DecimalOf(1).Quantity(m.Decimals)
	}
	if k == nil {
		return delta, true
	}
	return k.total.Add(delta)
}

// apply adds ev, which is known to fit, and gathers what limits tell of it.
func (s *State) apply(k *counter, in Input, ev *usage.Event) {
	after, _ := s.sum(k, k.meter, ev)
	s.touch(k)
	before := k.total
	k.total = after
	k.events++
	k.first, k.last = min(k.first, ev.Time), max(k.last, ev.Time)
	if (after >= k.ceiling || after < k.floor) && k.seed.Complete() {
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
	slices.SortStableFunc(s.open.emits, func(a, b emission) int {
		return cmp.Or(
			cmp.Compare(a.contract, b.contract), cmp.Compare(a.order, b.order), cmp.Compare(a.limit, b.limit),
			cmp.Compare(a.rank, b.rank), cmp.Compare(a.start, b.start),
		)
	})
	for i := range s.open.emits {
		if e := &s.open.emits[i]; e.withdrawn != nil {
			s.withdraw(e.withdrawn, e.cause)
		} else {
			s.emit(e)
		}
	}
	clear(s.open.emits)
	s.open.emits = s.open.emits[:0]
}

// boundLimit is a limit in force that judges a counter.
type boundLimit struct {
	contract *contracts.Contract
	limit    *contracts.Limit
	order    int // in the contract
}

// at returns where in the order of limit events those of b and k stand.
func (b *boundLimit) at(k *counter) limitAt {
	return limitAt{contract: b.contract.ID, order: b.order, limit: b.limit.ID, rank: 1, start: k.period.Start}
}
