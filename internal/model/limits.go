package model

import (
	"cmp"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// account is what one limit has told in one period.
type account struct {
	Tuple
	counter  *counter     // that it told of last
	period   usage.Period // of the counter, as it was cut then
	tellings []telling
	since    int // the first telling of this counter
}

// telling is a limit event, and what the rest of it is found from.
type telling struct {
	event  alerts.Event
	passed []contracts.Threshold
	order  []contracts.Threshold // of the limit that told it
}

func (a *account) sequence() int64 { return int64(len(a.tellings)) }

// standing returns the labels that stand, with the values they were crossed
// at, by going through what was told. They are in the order in which the limit
// that told the last of it has them; those that it does not have come first.
func (a *account) standing() []contracts.Threshold {
	list := []contracts.Threshold{}
	for _, t := range a.tellings[a.since:] {
		switch t.event.Kind {
		case alerts.Reset:
			list = list[:0]
		case alerts.Cleared:
			list = slices.DeleteFunc(list, func(l contracts.Threshold) bool { return labelIn(t.passed, l.Label) >= 0 })
		case alerts.Crossed:
			for _, p := range t.passed {
				if labelIn(list, p.Label) < 0 {
					list = append(list, p)
				}
			}
		}
		slices.SortStableFunc(list, func(x, y contracts.Threshold) int {
			return cmp.Compare(labelIn(t.order, x.Label), labelIn(t.order, y.Label))
		})
	}
	return list
}

func labelIn(list []contracts.Threshold, label string) int {
	return slices.IndexFunc(list, func(t contracts.Threshold) bool { return t.Label == label })
}

// change is what one cause did to a counter.
type change struct {
	counter       *counter
	before, after usage.Quantity
}

// emission is what one cause does to one limit and per values.
type emission struct {
	counter  *counter
	term     *term // nil: the limit is withdrawn from the counter
	account  *account
	cause    alerts.Cause
	before   usage.Quantity
	cleared  []contracts.Threshold
	crossed  []contracts.Threshold
	silent   bool
	contract string
	place    int
	gone     bool
	limit    string
	per      string
}

// compare is R15: by contract, then in the contract's order, what is gone from
// it before what has taken its place; of one limit, what is removed before what
// is added, then by per values.
func (e *emission) compare(o *emission) int {
	removed := func(e *emission) int {
		if e.term == nil {
			return 0
		}
		return 1
	}
	there := func(e *emission) int {
		if e.gone {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(e.contract, o.contract), cmp.Compare(e.place, o.place), cmp.Compare(there(e), there(o)), cmp.Compare(e.limit, o.limit),
		cmp.Compare(removed(e), removed(o)), cmp.Compare(e.per, o.per), cmp.Compare(e.counter.period.Start, o.counter.period.Start),
	)
}

func (w *world) usageCause(ev *usage.Event) alerts.Cause {
	offset := w.position - 1
	at := ev.Time
	cause := alerts.Cause{Kind: alerts.ByUsage, Topic: &w.cfg.Topic, Partition: &w.cfg.Partition, Offset: &offset, EventTime: &at}
	if ev.Void {
		cause.Kind = alerts.ByVoid
	}
	if id := string(ev.ID); id != "" {
		cause.EventID = &id
	}
	return cause
}

// passed is R1 for what a usage record changed.
func (w *world) passed(changes []change, cause alerts.Cause) {
	var list []emission
	for _, c := range changes {
		if c.counter.pending || c.before == c.after {
			continue
		}
		for _, t := range w.terms(c.counter.Client) {
			if !w.judges(t, c.counter) {
				continue
			}
			e := w.emissionOf(t, c.counter, cause)
			e.before = c.before
			for _, l := range t.limit.Thresholds {
				if c.before < l.Value && l.Value <= c.after {
					e.crossed = append(e.crossed, l)
				}
				if c.after < l.Value && l.Value <= c.before {
					e.cleared = append(e.cleared, l)
				}
			}
			list = append(list, e)
		}
	}
	w.emit(list)
}

func (w *world) emissionOf(t term, k *counter, cause alerts.Cause) emission {
	per := canonical(perOf(t.limit, k))
	return emission{counter: k, term: &t, cause: cause, contract: t.contract.ID, place: t.place, limit: t.limit.ID, per: per}
}

// emit tells what one cause does, in the order of R15.
func (w *world) emit(list []emission) {
	slices.SortStableFunc(list, func(a, b emission) int { return a.compare(&b) })
	for i := range list {
		if e := &list[i]; e.term == nil {
			w.withdraw(e)
		} else if len(e.cleared)+len(e.crossed) > 0 {
			w.told(e)
		}
	}
}

func (w *world) accountOf(tuple Tuple) *account {
	for _, a := range w.accounts {
		if a.Tuple == tuple {
			return a
		}
	}
	return nil
}

// told is R2: at most one cleared and one crossed of a cause.
func (w *world) told(e *emission) {
	k, t := e.counter, e.term
	tuple := Tuple{t.contract.ID, t.limit.ID, e.per, k.Period}
	a := w.accountOf(tuple)
	if a == nil {
		a = &account{Tuple: tuple}
		w.accounts = append(w.accounts, a)
	} else if !w.goesOn(a, k) {
		a.since = len(a.tellings)
	}
	a.counter, a.period = k, k.period
	after, _ := w.total(k)
	for _, part := range []struct {
		kind   alerts.EventKind
		passed []contracts.Threshold
	}{{alerts.Cleared, e.cleared}, {alerts.Crossed, e.crossed}} {
		if len(part.passed) == 0 {
			continue
		}
		w.tell(a, telling{passed: part.passed, order: t.limit.Thresholds, event: alerts.Event{
			Kind: part.kind, ContractRevision: t.contract.Revision, Limit: t.limit.Value.Format(t.limit.Decimals), Enforcement: t.limit.Enforcement,
			UsageBefore: e.before.Format(t.limit.Decimals), UsageAfter: after.Format(t.limit.Decimals),
			Utilization: usage.Utilization(after, t.limit.Value), Cause: e.cause, Late: w.time >= a.period.End, Seeded: w.seeded(k),
		}}, e.silent)
	}
}

// tell adds a limit event to an account, with all of it that is the account's.
func (w *world) tell(a *account, t telling, silent bool) {
	m := &w.cfg.Catalog.Meters[a.counter.Meter]
	e := &t.event
	e.Client, e.Meter, e.Dimensions = a.counter.Client, m.Name, valuesOf(a.Dimensions)
	e.Contract, e.LimitID, e.Sequence = a.Contract, a.Limit, a.sequence()+1
	e.ID = alerts.Identity{
		ApplicationID: w.cfg.ApplicationID, Contract: a.Contract, Limit: a.Limit, Dimensions: e.Dimensions, Period: a.Tuple.Period, Sequence: e.Sequence,
	}.ID() // R3
	e.Thresholds, e.Highest = alerts.Show(t.passed, m.Decimals), t.passed[len(t.passed)-1].Label
	e.Period = alerts.PeriodInfo{ID: a.period.ID, Start: a.period.Start, End: a.period.End, Timezone: a.period.Timezone}
	a.tellings = append(a.tellings, t)
	last := &a.tellings[len(a.tellings)-1].event
	last.Standing = alerts.Labels(a.standing())
	if !silent {
		w.events = append(w.events, *last)
	}
}

// goesOn tells whether k counts on what a has told of: it is the same counter,
// or one that differs by the ends of contracts alone.
func (w *world) goesOn(a *account, k *counter) bool {
	was := a.counter
	if was.Client != k.Client || was.Meter != k.Meter || was.Dimensions != k.Dimensions || was.Period != k.Period {
		return false
	}
	return was.Scope == k.Scope || w.standard(was) && w.standard(k) && a.period.Start == k.period.Start
}

// standard tells whether k differs from a default counter by the ends of a
// contract alone.
func (w *world) standard(k *counter) bool {
	if k.Scope == (Scope{}) {
		return true
	}
	l := limitOf(k.Scope, k.Meter)
	all := len(l.Where) + len(l.Per)
	return k.schedule.Equal(w.cfg.Catalog.Schedule) && (all == 0 || all == len(w.cfg.Catalog.Meters[k.Meter].Dimensions))
}

// states is what limit-state has: the last limit event of each limit with
// labels standing in the period that partition time lies in (R5, R15).
func (w *world) states() map[string]alerts.Event {
	states := map[string]alerts.Event{}
	for _, a := range w.accounts {
		if a.period.Contains(w.time) && len(a.standing()) > 0 {
			states[alerts.StateKey(a.Contract, a.Limit, valuesOf(a.Dimensions))] = a.tellings[len(a.tellings)-1].event
		}
	}
	return states
}
