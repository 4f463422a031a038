package verify

import (
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
)

// change is what an event does to the counters of one meter.
type change struct {
	take   *take
	record *kafka.Record
	event  *usage.Event
	moment moment
	sure   bool // it was counted; else it may be a duplicate
}

// count adds an event to the counters that take it, or takes it back. Where it
// may be a duplicate, it is not added but noted.
func (a *audit) count(v *arrival, sure bool) { //revive:disable-line:flag-parameter // it is a fact about the event
	c := a.clientOf(v.event.Client)
	for i := range v.takes {
		ch := &change{take: &v.takes[i], record: v.record, event: v.event, moment: v.moment, sure: sure}
		for _, k := range a.standard(c, ch, v.period) {
			if a.overflows(k, ch) {
				return
			}
			a.add(k, ch)
		}
		for _, o := range c.scopes {
			if o.meter == ch.take.meter && o.takes(&a.cfg.Catalog.Meters[o.meter], ch.take.values) {
				a.addOwn(o, ch)
			}
		}
	}
}

// standard returns the default counters that an event counts in.
func (a *audit) standard(c *client, ch *change, period *usage.Period) []*counter {
	f := c.slots[ch.take.meter]
	a.into = append(a.into[:0], a.total(f, nil, period))
	if len(ch.take.values) > 0 {
		a.into = append(a.into, a.one(f, nil, ch.take.values, period, ch))
	}
	return a.into
}

// own returns the counters of a limit's scope that an event counts in, if
// any.
func (a *audit) own(o *ownScope, ch *change) []*counter {
	period, ok := a.ownPeriod(o, ch.event.Time)
	if !ok {
		return nil
	}
	into := []*counter{a.total(&o.family, o, &period)}
	if len(o.per) > 0 {
		into = append(into, a.one(&o.family, o, ch.take.values, &period, ch))
	}
	return into
}

// fits tells whether all totals can take the event.
func (a *audit) fits(v *arrival) bool {
	c := a.clientOf(v.event.Client)
	for i := range v.takes {
		if !v.takes[i].fits {
			return false
		}
		ch := &change{take: &v.takes[i], record: v.record, event: v.event, moment: v.moment}
		into := slices.Clone(a.standard(c, ch, v.period))
		for _, o := range c.scopes {
			if o.meter == ch.take.meter && o.takes(&a.cfg.Catalog.Meters[o.meter], ch.take.values) {
				into = append(into, a.own(o, ch)...)
			}
		}
		d := doubtOf(ch.take, v.event)
		for _, k := range into {
			unseeded := k.sum // the seed may have come later
			unseeded.total -= k.seed().Usage
			if !k.fits(d) || !unseeded.fits(d) {
				return false
			}
		}
	}
	return true
}

// quantified tells whether the event's quantity is one of every meter that
// takes it.
func quantified(takes []take) bool {
	return !slices.ContainsFunc(takes, func(t take) bool { return !t.fits })
}

func (a *audit) overflows(k *counter, ch *change) bool {
	if k.fits(doubtOf(ch.take, ch.event)) || !k.exact() || !ch.sure {
		return false
	}
	a.refused(ch.record.Offset, nil, usage.Overflow)
	return true
}

// addOwn adds an event to the counters of a limit's scope, if it reached them.
func (a *audit) addOwn(o *ownScope, ch *change) {
	sure := ch.sure
	defer func() { ch.sure = sure }()
	for _, k := range a.own(o, ch) {
		ch.sure = sure
		if k.period.End != usage.MaxTime {
			end := k.period.End.Add(a.cfg.AllowedLateness)
			if ch.moment.lo >= end && !o.loose { // else the period may have ended later then
				return // left out: too long past
			}
			ch.sure = sure && ch.moment.hi < end
		}
		if seed := k.seed(); seed.State != aggregate.SeedNone {
			if ch.record.Offset >= seed.Boundary {
				a.add(k, ch)
			}
			continue
		}
		inForce := slices.ContainsFunc(o.terms, func(t *term) bool { return a.kept.sure(t.written, ch.moment) })
		k.sure = k.sure || inForce
		switch {
		case inForce && !ch.event.Void:
			k.since = span{min(k.since.first, ch.event.Time), max(k.since.last, ch.event.Time)}
		case inForce:
		case k.behind > 0:
			k.behind--
			continue
		default:
			k.early = append(k.early, doubtOf(ch.take, ch.event))
		}
		a.add(k, ch)
	}
}

func (a *audit) add(k *counter, ch *change) {
	k.late = k.late || ch.moment.hi >= k.period.End
	k.undone = k.undone || ch.event.Void
	before := k.total
	d := doubtOf(ch.take, ch.event)
	if ch.sure {
		k.take(ch.take, ch.event)
		k.fell = k.fell || k.total < before
	} else {
		k.doubts = append(k.doubts, d)
		k.fell = k.fell || !k.adds || d.amount < 0
	}
	a.judge(k, ch, d.amount, before)
}
