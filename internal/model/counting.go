package model

import (
	"slices"
	"strconv"

	"github.com/meterd/meterd/internal/usage"
)

// use is one thing that was counted on one meter.
type use struct {
	client      string
	meter       int
	time        usage.Time
	sign        int64 // -1: taken back
	events      int64 // 1, or those of a row of history
	amount      usage.Quantity
	combination string // of all dimensions, canonical JSON
	values      map[string]string
	text        string // what unique counts
	empty       bool   // there is nothing of it to count

	history bool
	fits    bool           // its quantities do
	least   usage.Quantity // of a row of history
	most    usage.Quantity
	latest  usage.Quantity
	last    usage.Time

	defaults bool       // default counters took it
	in       []*counter // limits' own counters that took it; of history, all
}

// claim is an event id that was counted, or taken back, at a moment.
type claim struct {
	client, id string
	at         usage.Time
	void       bool
}

// taker is a meter that takes an event, and what it takes of it.
type taker struct {
	meter       int
	values      map[string]string // of its dimensions
	combination string
	text        string
	empty       bool
	amount      usage.Quantity
	fits        bool
}

func dead(reason usage.Reason) Result { return Result{Fate: DeadLettered, Reason: reason} }

// record is R18: the first check that applies wins.
func (w *world) record(r *Record) Result {
	if min(r.Timestamp, w.now).Valid() { // no calendar has a place for others
		w.advance(r.Timestamp) // R0
	}
	w.position++
	ev := r.Event
	if ev == nil {
		return dead(usage.Undecodable)
	}
	takers, fit := w.takers(ev)
	switch {
	case ev.Void && (len(ev.ID) == 0 || w.cfg.DedupeWindow == 0):
		return dead(usage.MissingField) // R9
	case !fit:
		return dead(usage.BadField)
	case len(takers) == 0 && w.cfg.DeadLetterUnknown:
		return dead(usage.UnknownMeter)
	case len(takers) == 0:
		return Result{Fate: Ignored}
	}
	client, id := string(ev.Client), string(ev.ID)
	counted, voided := w.seen(client, id)
	if voided || counted && !ev.Void {
		return Result{Fate: Duplicate} // R7, R9
	}
	if ahead := w.cfg.MaxFuture; ev.Time > r.Timestamp.Add(ahead) && ev.Time > w.now.Add(ahead) {
		return dead(usage.Future)
	}
	period := w.cfg.Catalog.Schedule.At(ev.Time)
	if !ev.Time.Valid() { // RFC 3339 has no form for it: it is before all that is kept, or far ahead
		if ev.Time > w.now {
			return dead(usage.Future)
		}
		return dead(usage.TooLate)
	}
	if period.End != usage.MaxTime && w.time >= period.End.Add(w.cfg.AllowedLateness) {
		return dead(usage.TooLate)
	}
	if ev.Void && !undoable(w.cfg.Catalog, takers) {
		return dead(usage.NotUndoable)
	}
	if ev.Void && !counted {
		if slices.ContainsFunc(takers, func(t taker) bool { return !t.fits }) {
			return dead(usage.Overflow) // R16
		}
		w.claims = append(w.claims, claim{client, id, w.time, true})
		return Result{Fate: Voided}
	}
	result, fits := w.count(r, ev, takers)
	if !fits {
		return dead(usage.Overflow)
	}
	result.Late = w.time >= period.End
	if id != "" && w.cfg.DedupeWindow > 0 {
		w.claims = append(w.claims, claim{client, id, w.time, ev.Void})
	}
	return result
}

func undoable(catalog *usage.Catalog, takers []taker) bool {
	for _, t := range takers {
		if a := catalog.Meters[t.meter].Aggregation; a != usage.Sum && a != usage.Count {
			return false
		}
	}
	return true
}

// window is divided into this many parts, and an id is known until the part
// that it was claimed in is a window ago.
const parts = 8

// seen tells what is known of an event id: R7.
func (w *world) seen(client, id string) (counted, voided bool) {
	if id == "" || w.cfg.DedupeWindow == 0 {
		return false, false
	}
	part := max(1, w.cfg.DedupeWindow.Milliseconds()/parts)
	for _, c := range w.claims {
		if c.client != client || c.id != id {
			continue
		}
		if until := usage.Time((int64(c.at)/part + 1) * part).Add(w.cfg.DedupeWindow); w.time < until {
			counted, voided = counted || !c.void, voided || c.void
		}
	}
	return counted, voided
}

// takers is R17, with the values that the meters look at. It returns false
// where one of them is of no use.
func (w *world) takers(ev *usage.Event) (list []taker, fit bool) {
	fit = true
	for i := range w.cfg.Catalog.Meters {
		m := &w.cfg.Catalog.Meters[i]
		if m.When == nil && w.cfg.MeterMapped && string(ev.Meter) != m.Name {
			continue
		}
		if m.When != nil {
			holds, err := m.When.Holds(ev.Fields)
			if err != nil {
				fit = false
			}
			if err != nil || !holds {
				continue
			}
		}
		t, ok := takerOf(m, i, ev.Fields)
		if !ok {
			fit = false
		}
		t.amount, t.fits = ev.Quantity.Quantity(m.Decimals)
		t.fits = t.fits || m.Aggregation == usage.Count || m.Aggregation == usage.Unique
		list = append(list, t)
	}
	return list, fit
}

// takerOf reads the values that a meter looks at.
func takerOf(m *usage.Meter, index int, fields []usage.Value) (t taker, fit bool) {
	t, fit = taker{meter: index, combination: none}, true
	if len(m.Dimensions) > 0 {
		t.values = map[string]string{}
		for _, d := range m.Dimensions {
			text, ok := textOf(fields[d.Field])
			if !ok || len(text) > usage.MaxIDBytes {
				return t, false
			}
			t.values[d.Name] = text
		}
		t.combination = canonical(t.values)
	}
	if m.Aggregation == usage.Unique {
		value := fields[m.Value]
		t.empty = value.Kind == usage.NullValue
		t.text, fit = textOf(value)
	}
	return t, fit
}

// textOf returns a value as dimensions show it.
func textOf(v usage.Value) (string, bool) {
	switch v.Kind {
	case usage.NullValue:
		return "", true
	case usage.TextValue:
		return string(v.Text), true
	case usage.BooleanValue:
		return strconv.FormatBool(v.True), true
	case usage.NumberValue:
		return v.Number.String(), !v.Number.TooLarge
	}
	return "", false
}

// none is the canonical form of no dimensions.
const none = "{}"

func canonical(values map[string]string) string {
	if len(values) == 0 {
		return none
	}
	return string(usage.AppendCanonicalMap(nil, values))
}

// count adds an event to every counter that takes it, or to none.
func (w *world) count(r *Record, ev *usage.Event, takers []taker) (result Result, fits bool) {
	result.Fate = Counted
	for _, t := range takers {
		if !t.fits {
			return Result{}, false
		}
	}
	w.known = add(w.known, string(ev.Client))
	uses, kept := len(w.uses), len(w.kept)
	by := w.usageCause(ev)
	if ev.Void {
		result.Fate = Voided
	}
	var changed []change
	fits = true
	for _, t := range takers {
		u := use{
			client: string(ev.Client), meter: t.meter, time: ev.Time, sign: 1, events: 1, amount: t.amount,
			values: t.values, combination: t.combination, text: t.text, empty: t.empty, last: ev.Time,
			least: t.amount, most: t.amount, latest: t.amount, defaults: true,
		}
		if ev.Void {
			u.sign = -1
		}
		w.combine(&u)
		takes := w.defaultsOf(&u)
		own, leftOut := w.ownOf(&u)
		result.LeftOut += leftOut
		u.in = own
		for _, k := range append(takes, own...) {
			total, _ := w.total(k)
			changed = append(changed, change{counter: k, before: total})
		}
		w.uses = append(w.uses, u)
	}
	for i := range changed {
		total, in := w.total(changed[i].counter)
		fits = fits && in
		changed[i].after = total
	}
	if !fits {
		w.uses, w.kept = w.uses[:uses], w.kept[:kept]
		return Result{}, false
	}
	w.passed(changed, by)
	return result, true
}

// combine moves a use whose combination is beyond what its client may have to
// the one that takes all of these: R11.
func (w *world) combine(u *use) {
	m := &w.cfg.Catalog.Meters[u.meter]
	if len(m.Dimensions) == 0 {
		return
	}
	key := Key{Client: u.client, Meter: u.meter, Dimensions: u.combination, Period: w.cfg.Catalog.Schedule.At(u.time).ID}
	if u.sign < 0 && !u.history && w.overflowed(key, w.overflow(m)) {
		u.combination = w.overflow(m)
		return
	}
	var known []string
	for _, k := range w.kept {
		if k.Client == u.client && k.Meter == u.meter && k.Scope == (Scope{}) && k.Dimensions != none && k.Dimensions != w.overflow(m) {
			known = add(known, k.Dimensions)
		}
	}
	if slices.Contains(known, u.combination) || len(known) < m.MaxCombinations {
		return
	}
	for _, t := range w.terms(u.client) { // one that a limit names and judges has its counter, however many there are
		if t.limit.Meter == u.meter && w.likeDefault(t.limit) && len(t.limit.Where) == len(m.Dimensions) && named(t.limit.Where, u.values) {
			return
		}
	}
	u.combination = w.overflow(m)
}

// overflowed tells whether what is taken back of a combination was counted beyond
// the bound: that has a counter in the period, and the combination has none.
func (w *world) overflowed(key Key, beyond string) bool {
	if w.find(key) != nil {
		return false
	}
	key.Dimensions = beyond
	return w.find(key) != nil
}

// overflow is the combination that takes what is beyond the bound.
func (w *world) overflow(m *usage.Meter) string {
	values := map[string]string{}
	for _, d := range m.Dimensions {
		values[d.Name] = usage.OverflowValue
	}
	return canonical(values)
}

func add(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}
