package aggregate

import (
	"math/bits"

	"github.com/meterd/meterd/internal/usage"
)

// part is what a counter did not count by itself: what history says of it, or
// what counters did that stood for it.
type part struct {
	events      int64
	sum         wide
	min, max    usage.Quantity
	latest      usage.Quantity // of the time last
	first, last usage.Time
	set         *distinct
	fits        bool // all of it is of the meter's unit
	some        bool // there is anything
}

// wide is an integer of 128 bits, in two's complement: what is added up may
// leave the range of quantities on the way.
type wide struct{ hi, lo uint64 }

func wideOf(q usage.Quantity) wide { return wide{hi: uint64(q >> 63), lo: uint64(q)} }

func (w wide) add(o wide) wide {
	lo, carry := bits.Add64(w.lo, o.lo, 0)
	hi, _ := bits.Add64(w.hi, o.hi, carry)
	return wide{hi: hi, lo: lo}
}

// quantity returns w, and false where it is out of range.
func (w wide) quantity() (usage.Quantity, bool) {
	q := usage.Quantity(w.lo)
	return q, wideOf(q) == w && q >= -usage.MaxQuantity
}

// partOf is what k has counted.
func partOf(k *counter) part {
	return part{
		events: k.events, sum: wideOf(k.total), min: k.total, max: k.total, latest: k.total,
		first: k.first, last: k.last, set: k.set, fits: true, some: true,
	}
}

// join adds o to p.
func (p *part) join(o *part) {
	if !p.some {
		set := p.set
		*p = *o
		p.set = set
		if o.set != nil {
			p.set = newDistinct()
			p.set.merge(o.set)
		}
		return
	}
	p.sum = p.sum.add(o.sum)
	p.fits = p.fits && o.fits
	p.events += o.events
	p.min, p.max = min(p.min, o.min), max(p.max, o.max)
	if o.last >= p.last {
		p.latest = o.latest
	}
	p.first, p.last = min(p.first, o.first), max(p.last, o.last)
	if o.set != nil {
		p.set.merge(o.set)
	}
}

// joined returns what k's total is with p, and false where it leaves the
// range.
func (s *State) joined(k *counter, p *part) (usage.Quantity, bool) {
	m := &s.cfg.Catalog.Meters[k.meter]
	switch m.Aggregation {
	case usage.Max, usage.Min, usage.Latest:
		switch {
		case p.events == 0:
			return k.total, true
		case k.events == 0:
			return p.of(m.Aggregation), true
		case m.Aggregation == usage.Max:
			return max(k.total, p.max), true
		case m.Aggregation == usage.Min:
			return min(k.total, p.min), true
		case p.last > k.last: // at the same time the stream's offset is the higher
			return p.latest, true
		}
		return k.total, true
	case usage.Unique:
		union := newDistinct()
		union.merge(k.set)
		if p.set != nil {
			union.merge(p.set)
		}
		total, ok := usage.DecimalOf(union.size()).Quantity(m.Decimals)
		return max(total, k.total), ok
	default:
		return p.sum.add(wideOf(k.total)).quantity()
	}
}

func (p *part) of(a usage.Aggregation) usage.Quantity {
	switch a {
	case usage.Max:
		return p.max
	case usage.Min:
		return p.min
	case usage.Latest:
		return p.latest
	default:
		sum, _ := p.sum.quantity()
		return sum
	}
}

// include adds p, which is known to fit, to k, which was touched.
func (s *State) include(k *counter, p *part) {
	total, ok := s.joined(k, p)
	if !ok {
		return
	}
	k.total = total
	k.events += p.events
	k.first, k.last = min(k.first, p.first), max(k.last, p.last)
	if k.set != nil && p.set != nil {
		k.set.merge(p.set)
	}
}
