package model

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// revise takes in one record of the contracts topic: R4.
func (w *world) revise(r Revision) {
	was := w.inForce[r.ID]
	w.revisions = append(w.revisions, r)
	if was != nil && (r.Contract == nil || r.Contract.Client != was.Client) {
		delete(w.inForce, r.ID)
		w.bind(was.Client)
	}
	if r.Contract != nil {
		w.inForce[r.ID] = r.Contract
		w.bind(r.Contract.Client)
	}
}

// bind tells what the contracts in force of a client change.
func (w *world) bind(client string) {
	w.recut(client)
	w.emit(append(w.withdrawn(client), w.settled(client)...))
	w.abandon(client)
	w.ensure(client)
}

// start takes in what the contracts topic says when meterd starts: what the
// last revision of each contract is, all at once and before any usage.
func (w *world) start(list []Revision) {
	w.revisions = append(w.revisions, list...)
	concerned := map[string]bool{}
	for _, c := range w.inForce {
		concerned[c.Client] = true
	}
	for _, r := range list {
		delete(w.inForce, r.ID)
		if r.Contract != nil {
			w.inForce[r.ID] = r.Contract
			concerned[r.Contract.Client] = true
		}
	}
	w.forces, w.unsure, w.seam, w.known = nil, false, 0, w.counting() // nothing is known of how long they were in force
	clients := slices.Sorted(maps.Keys(concerned))
	for _, c := range clients {
		w.recut(c)
		w.emit(w.withdrawn(c))
	}
	for _, c := range clients { // a contract that has moved is cleared before it is crossed
		w.emit(w.settled(c))
		w.abandon(c)
		w.ensure(c)
	}
}

// recut is R10 where the ends of contracts move: a counter goes on and takes
// nothing after the new end. Where an end cuts a period of default counters
// from now on, the limit's own goes on with what they have; where it does not
// any more, they stand for it.
func (w *world) recut(client string) {
	terms := w.terms(client)
	w.enforce(client, terms)
	woken := map[Key]bool{} // what default counters stood for until now; Dimensions are ""
	for _, k := range w.kept {
		if k.Client != client || k.Scope == (Scope{}) {
			continue
		}
		whole := k.schedule.At(k.period.Start)
		i := slices.IndexFunc(terms, func(t term) bool { return t.limit.Meter == k.Meter && t.scope() == k.Scope })
		if i < 0 {
			if w.standard(k) && k.period.Start == whole.Start && k.period.End > w.time {
				k.period = whole
			}
			continue
		}
		cut := whole.Cut(terms[i].contract.StartsAt, terms[i].contract.EndsAt)
		if cut.Start >= cut.End || cut == k.period {
			continue
		}
		idle := w.standard(k) && k.period == whole
		if k.period = cut; !idle {
			continue
		}
		woken[Key{Client: client, Meter: k.Meter, Scope: k.Scope, Period: k.Period}] = true
		if !w.adopt(k) && w.cfg.History {
			k.adopted, k.blank, k.pending, k.boundary = len(w.uses), true, true, w.position
		}
	}
	for _, d := range slices.Clone(w.kept) {
		if d.Client == client && d.Scope == (Scope{}) && d.Dimensions == none {
			w.cutOut(d, terms, woken)
		}
	}
}

// cutOut makes the counters that limits have instead of d, and of those of d's
// period that have a combination each, since an end cuts that period. What has
// counted the period by itself all along has all that it is to have.
func (w *world) cutOut(d *counter, terms []term, woken map[Key]bool) {
	var seen []Scope
	for _, t := range terms {
		cut, own := w.cut(t, d.period.Start)
		key := Key{Client: d.Client, Meter: d.Meter, Scope: t.scope(), Period: cut.ID}
		if !own || t.limit.Meter != d.Meter || !w.likeDefault(t.limit) || cut.Start != d.period.Start || w.time >= cut.End || slices.Contains(seen, key.Scope) {
			continue
		}
		seen = append(seen, key.Scope)
		begins := woken[key]
		key.Dimensions = anchorOf(t.limit)
		if w.find(key) == nil {
			begins = w.cutOne(key, cut, t.limit.Schedule)
		}
		if !begins || len(t.limit.Per) == 0 {
			continue
		}
		for _, k := range slices.Clone(w.kept) {
			if k.Client == d.Client && k.Scope == (Scope{}) && k.Meter == d.Meter && k.Period == d.Period && k.Dimensions != none && within(key.Dimensions, k.Dimensions) {
				value := key
				if value.Dimensions = k.Dimensions; w.find(value) == nil {
					w.cutOne(value, cut, t.limit.Schedule)
				}
			}
		}
	}
}

// cutOne makes a counter that goes on with what default ones have. It returns
// false where they have nothing of the time before the end.
func (w *world) cutOne(key Key, cut usage.Period, schedule usage.Schedule) bool {
	if !slices.ContainsFunc(w.standIns(key), func(d *counter) bool { return w.counts(d, cut.End) }) {
		return false
	}
	w.adopt(w.need(key, cut, schedule))
	return true
}

// standIns returns the default counters that have, together, what a counter of
// a limit has that is like them but for where its period is cut: R11.
func (w *world) standIns(key Key) (list []*counter) {
	for _, d := range w.kept {
		if d.Client != key.Client || d.Meter != key.Meter || d.Scope != (Scope{}) || d.Period != key.Period || !within(key.Dimensions, d.Dimensions) {
			continue
		}
		if (key.Scope.Where+key.Scope.Per == "") == (d.Dimensions == none) {
			list = append(list, d)
		}
	}
	return list
}

// adopt lets k, a limit's own counter that is cut from now on, go on with what
// default counters have counted so far of what it counts. Where history can be
// asked it returns false unless that is just what k is to count (R10): what lies
// beyond the bound of combinations is not told apart.
func (w *world) adopt(k *counter) bool {
	sources := w.standIns(k.Key)
	if len(sources) == 0 {
		return false
	}
	if w.cfg.History {
		beyond := Key{Client: k.Client, Meter: k.Meter, Dimensions: w.overflow(&w.cfg.Catalog.Meters[k.Meter]), Period: k.Period}
		if k.Scope.Where != "" && w.find(beyond) != nil {
			return false
		}
		for _, d := range sources {
			if d.pending || w.last(d) >= k.period.End {
				return false
			}
		}
	}
	k.adopted, k.whole = len(w.uses), k.schedule.At(k.period.Start)
	k.blank, k.pending, k.boundary = false, false, sources[len(sources)-1].boundary
	return true
}

// counts tells whether k has counted something before that time, or only took
// back what it had not.
func (w *world) counts(k *counter, before usage.Time) bool {
	none := true
	for i := range w.uses {
		if w.has(k, i) && w.uses[i].sign > 0 {
			if none = false; w.uses[i].time < before {
				return true
			}
		}
	}
	return none
}

// last returns the time of the latest use that is in k.
func (w *world) last(k *counter) usage.Time {
	last := usage.MinTime
	for i := range w.uses {
		if w.has(k, i) && w.uses[i].sign > 0 {
			last = max(last, w.uses[i].last)
		}
	}
	return last
}

// within tells whether a default counter has what one of a limit has: all of
// it, or a combination that has the limit's values.
func within(dimensions, combination string) bool {
	if dimensions == none {
		return true
	}
	return combination != none && named(valuesOf(dimensions), valuesOf(combination))
}

// inForceOf returns the limit in force that an account is of, or nil.
func (w *world) inForceOf(a *account) *term {
	for _, t := range w.terms(a.counter.Client) {
		if t.contract.ID == a.Contract && t.limit.ID == a.Limit {
			return &t
		}
	}
	return nil
}

// lastOf returns the last revision that had an account's limit, and the limit.
// With a client, only revisions of that client's are looked at.
func (w *world) lastOf(a *account, client string) (l *contracts.Limit, place int) {
	for _, r := range slices.Backward(w.revisions) {
		if r.ID != a.Contract || r.Contract == nil || client != "" && r.Contract.Client != client {
			continue
		}
		for i := range r.Contract.Limits {
			if r.Contract.Limits[i].ID == a.Limit {
				return &r.Contract.Limits[i], i
			}
		}
	}
	return nil, 0
}

// placeOf returns where an account's limit stands in its contract, or stood
// before it was gone from it.
func (w *world) placeOf(a *account) (place int, gone bool) {
	if t := w.inForceOf(a); t != nil {
		return t.place, false
	}
	_, place = w.lastOf(a, a.counter.Client)
	return place, true
}

// describe adds what an event tells of its limit and contract where no limit in
// force told it: those of the newest revision.
func (w *world) describe(e *alerts.Event, a *account) {
	l, _ := w.lastOf(a, "")
	e.Limit, e.Enforcement = l.Value.Format(l.Decimals), l.Enforcement
	if t := w.inForceOf(a); t != nil {
		e.ContractRevision = t.contract.Revision
		return
	}
	for _, r := range w.revisions {
		if r.ID == a.Contract {
			e.ContractRevision = r.Offset
		}
	}
}

func (w *world) contractCause(revision int64) alerts.Cause {
	partition := int32(0)
	return alerts.Cause{Kind: alerts.ByContract, Topic: &w.cfg.ContractsTopic, Partition: &partition, Offset: &revision}
}

// withdrawn is what stands of limits whose counter is not theirs any more. What
// stands of the others goes on with the counter that they have now.
func (w *world) withdrawn(client string) (list []emission) {
	for _, a := range w.accounts {
		if a.counter.Client != client || len(a.standing()) == 0 {
			continue
		}
		if k := w.successor(a); k != nil {
			a.counter, a.period = k, k.period
			continue
		}
		if w.time >= a.period.End {
			continue // they were crossed late
		}
		e := emission{counter: a.counter, account: a, contract: a.Contract, limit: a.Limit, per: a.Dimensions}
		e.place, e.gone = w.placeOf(a)
		list = append(list, e)
	}
	return list
}

// successor returns the counter that goes on with what a has told, or nil.
func (w *world) successor(a *account) *counter {
	t := w.inForceOf(a)
	if t == nil {
		return nil
	}
	for _, k := range w.kept {
		if w.time < k.period.End && w.goesOn(a, k) && w.judges(*t, k) && canonical(perOf(t.limit, k)) == a.Dimensions {
			return k
		}
	}
	return nil
}

// withdraw clears what stands of a limit that is gone from its counter.
func (w *world) withdraw(e *emission) {
	a := e.account
	decimals := w.cfg.Catalog.Meters[a.counter.Meter].Decimals
	event := alerts.Event{Kind: alerts.Cleared, UsageBefore: "0", UsageAfter: "0", Utilization: "0", Late: w.time >= a.period.End}
	w.describe(&event, a)
	event.Cause = w.contractCause(event.ContractRevision)
	if w.alive(a.counter) {
		total, _ := w.total(a.counter)
		l, _ := w.lastOf(a, "")
		event.UsageBefore, event.UsageAfter, event.Seeded = total.Format(decimals), total.Format(decimals), w.seeded(a.counter)
		event.Utilization = utilization(total, decimals, l.Value, l.Decimals)
	}
	w.tell(a, telling{passed: a.standing(), event: event}, false)
}

// utilization is that of a total and a limit of meters that differ in their
// decimals.
func utilization(total usage.Quantity, decimals int, limit usage.Quantity, limitDecimals int) string {
	finer := max(decimals, limitDecimals)
	t, fits := usage.Decimal{Units: int64(total), Scale: uint8(decimals)}.Quantity(finer)
	l, fitsToo := usage.Decimal{Units: int64(limit), Scale: uint8(limitDecimals)}.Quantity(finer)
	if !fits || !fitsToo {
		return "0"
	}
	return usage.Utilization(t, l)
}

// settled is R4 for the periods that have not ended: labels whose value is not
// reached or that are gone are cleared, those that are reached are crossed.
func (w *world) settled(client string) (list []emission) {
	for _, k := range w.kept {
		if k.Client != client || w.time >= k.period.End || k.pending {
			continue
		}
		for _, t := range w.terms(client) {
			if w.judges(t, k) {
				list = append(list, w.settle(t, k, w.contractCause(t.contract.Revision)))
			}
		}
	}
	return list
}

// seedCause is the cause of what history brings.
var seedCause = alerts.Cause{Kind: alerts.BySeed}

// settle compares what stands of a limit with what its counter has reached.
func (w *world) settle(t term, k *counter, cause alerts.Cause) emission {
	e := w.emissionOf(t, k, cause)
	total, _ := w.total(k)
	e.before = total
	var standing []contracts.Threshold
	if a := w.accountOf(Tuple{t.contract.ID, t.limit.ID, e.per, k.Period}); a != nil && w.goesOn(a, k) {
		standing = a.standing()
	}
	for _, s := range standing {
		if i := labelIn(t.limit.Thresholds, s.Label); i < 0 || t.limit.Thresholds[i].Value > total {
			e.cleared = append(e.cleared, s)
		}
	}
	slices.SortStableFunc(e.cleared, func(a, b contracts.Threshold) int { return cmp.Compare(a.Value, b.Value) }) // lowest first: R1
	for _, l := range t.limit.Thresholds {
		if l.Value <= total && labelIn(standing, l.Label) < 0 {
			e.crossed = append(e.crossed, l)
		}
	}
	return e
}
