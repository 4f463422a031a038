package verify

import (
	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// sum is what a counter has come to.
type sum struct {
	kind     usage.Aggregation
	adds     bool // the total is a sum
	decimals int

	total       usage.Quantity // with the seed
	events      int64
	first, last usage.Time

	own    int64               // events that are not of the seed
	latest usage.Quantity      // of the own event of time last
	values map[uint64]struct{} // of Unique, as hashes
	murky  bool                // the seed's part of the total cannot be known at every record
}

// maxExact is up to how many distinct values a counter must count exactly.
const maxExact = 1024

func newSum(m *usage.Meter) sum {
	s := sum{kind: m.Aggregation, adds: additive(m), decimals: m.Decimals, first: usage.MaxTime, last: usage.MinTime}
	if m.Aggregation == usage.Unique {
		s.values = map[uint64]struct{}{}
	}
	return s
}

// begin takes in what history has.
func (s *sum) begin(seed aggregate.Seed) {
	s.total, s.events = seed.Usage, seed.Events
	s.murky = seed.Events > 0 && (s.kind == usage.Latest || s.kind == usage.Unique)
}

// estimated tells whether the total may be an estimate.
func (s *sum) estimated() bool { return len(s.values) > maxExact }

// doubt is a record that may have been counted or not.
type doubt struct {
	amount usage.Quantity
	events int64
	time   usage.Time
}

// doubtOf is what an event adds.
func doubtOf(t *take, ev *usage.Event) doubt {
	if ev.Void {
		return doubt{-t.amount, -1, ev.Time}
	}
	return doubt{t.amount, 1, ev.Time}
}

// fits tells whether the total can take an event.
func (s *sum) fits(d doubt) bool {
	if !s.adds {
		return true
	}
	_, ok := s.total.Add(d.amount)
	return ok
}

// take takes in an event that fits.
func (s *sum) take(t *take, ev *usage.Event) {
	d := doubtOf(t, ev)
	switch s.kind {
	case usage.Max:
		if s.events == 0 || t.amount > s.total {
			s.total = t.amount
		}
	case usage.Min:
		if s.events == 0 || t.amount < s.total {
			s.total = t.amount
		}
	case usage.Latest:
		if s.own == 0 || ev.Time >= s.last {
			s.latest, s.total = t.amount, t.amount
		}
	case usage.Unique:
		if t.valued {
			s.values[t.distinct] = struct{}{}
		}
		if !s.murky {
			s.total = s.distinct()
		}
	default:
		if total, ok := s.total.Add(d.amount); ok {
			s.total = total
		}
	}
	s.own++
	s.events += d.events
	if !ev.Void {
		s.first, s.last = min(s.first, ev.Time), max(s.last, ev.Time)
	}
}

// distinct returns how many values were seen, as a total.
func (s *sum) distinct() usage.Quantity {
	q, _ := usage.DecimalOf(int64(len(s.values))).Quantity(s.decimals)
	return q
}

// maxDoubts bounds the records that are tried in all combinations.
const maxDoubts = 16

// explains tells whether some of the doubtful records make the difference.
func (s *sum) explains(total usage.Quantity, events int64, doubts []doubt) bool {
	if len(doubts) > maxDoubts || !s.adds {
		least, most := s.events, s.events
		for _, d := range doubts {
			least, most = least+min(0, d.events), most+max(0, d.events)
		}
		return least <= events && events <= most
	}
	for some := range uint(1) << len(doubts) {
		sum, n := s.total, s.events
		for i, d := range doubts {
			if some>>i&1 == 1 {
				sum, n = sum+d.amount, n+d.events
			}
		}
		if sum == total && n == events {
			return true
		}
	}
	return false
}

// right tells whether a total is what the sum must be, or may be where it is
// an estimate or has a part that only history knows.
func (s *sum) right(r *aggregate.CounterRecord) bool {
	switch {
	case s.kind == usage.Unique:
		least, most := s.distinct(), s.distinct()
		if s.murky {
			least, most = max(least, r.Seed.Usage), most+r.Seed.Usage
		}
		unit, _ := usage.DecimalOf(1).Quantity(s.decimals)
		if most <= maxExact*unit {
			return least <= r.Total && r.Total <= most
		}
		return least-least/100*tolerance <= r.Total && r.Total <= most+most/100*tolerance
	case s.kind == usage.Latest && s.murky:
		if s.own > 0 && r.Last == s.last {
			return r.Total == s.latest
		}
		return r.Total == r.Seed.Usage
	}
	return r.Total == s.total
}

// tolerance is by how many percent an estimate may be off: nearly four times
// its standard error.
const tolerance = 3
