package model

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// Ask is a question to history: what a client used in a period in records
// below an offset.
type Ask struct {
	Client   string
	Scope    Scope
	Period   usage.Period
	Boundary int64
}

// Answer is what history says to one of the questions that were open at the
// last commit: to which is Pick modulo their number, in the order of Compare.
type Answer struct {
	Pick   int
	Failed bool // history could not say
	Rows   []Row
}

// Row is the records that agree in the meter that they name and in all fields.
type Row struct {
	Meter    string
	Fields   []usage.Value
	Void     bool
	Events   int64
	Quantity usage.Decimal
	Min, Max usage.Decimal
	Latest   usage.Decimal
	First    time.Duration // after the start of the period
	Last     time.Duration // after that
}

// Times returns the times of the earliest and the latest record of r, in p.
func (r *Row) Times(p *usage.Period) (first, last usage.Time) {
	first = p.Start.Add(r.First)
	return first, first.Add(r.Last)
}

// Compare orders questions.
func (a *Ask) Compare(b *Ask) int {
	return cmp.Or(
		strings.Compare(a.Client, b.Client), strings.Compare(a.Scope.Contract, b.Scope.Contract),
		strings.Compare(string(a.Scope.Kind), string(b.Scope.Kind)), strings.Compare(a.Scope.Zone, b.Scope.Zone),
		cmp.Compare(a.Scope.StartsAt, b.Scope.StartsAt), strings.Compare(a.Scope.Where, b.Scope.Where), strings.Compare(a.Scope.Per, b.Scope.Per),
		strings.Compare(a.Period.ID, b.Period.ID), cmp.Compare(a.Boundary, b.Boundary),
	)
}

// Unit returns a but for where its period is cut: ends of contracts may move
// before it is answered, and not for all meters alike.
func (a Ask) Unit() Ask {
	a.Period = usage.Period{ID: a.Period.ID, Start: a.Period.Start}
	return a
}

// asks returns the questions that are open: one for all counters of a scope and
// period with the same boundary.
func (w *world) asks() []Ask {
	list := []Ask{}
	for _, k := range w.kept {
		if ask := askOf(k).Unit(); k.pending && !slices.Contains(list, ask) {
			list = append(list, ask)
		}
	}
	slices.SortFunc(list, func(a, b Ask) int { return a.Compare(&b) })
	return list
}

func askOf(k *counter) Ask {
	return Ask{Client: k.Client, Scope: k.Scope, Period: k.period, Boundary: k.boundary}
}

// reach is how far the time of an event may lie ahead of the clock that saw its
// record, with an hour for brokers' own bounds.
func (w *world) reach() time.Duration { return w.cfg.MaxFuture + time.Hour }

// force is since when a limit's own counters were counted, of one meter.
type force struct {
	client string
	meter  int
	scope  Scope
	ends   usage.Time // of the contract
	live   bool       // a limit needs them

	since int64      // the offset from which on nothing for them was passed over
	lead  usage.Time // periods that begin after it have nothing below that offset
}

func (w *world) forceOf(client string, meter int, scope Scope) *force {
	for i := range w.forces {
		if f := &w.forces[i]; f.client == client && f.meter == meter && f.scope == scope {
			return f
		}
	}
	return nil
}

// enforce notes since when the own counters of a client's limits are counted:
// R10. A scope begins anew where its end has moved so that something that it
// takes now was passed over before.
func (w *world) enforce(client string, terms []term) {
	since := w.position
	if !slices.Contains(w.known, client) {
		if since = w.began; len(w.contractsOf(client)) > 0 { // it has had no event in this transaction
			w.known = append(w.known, client)
		}
	}
	var forces []force
	for _, f := range w.forces {
		if f.client == client {
			if slices.ContainsFunc(terms, f.of) {
				continue
			}
			f.live = false
		}
		forces = append(forces, f)
	}
	for _, t := range terms {
		f := force{client: client, meter: t.limit.Meter, scope: t.scope(), ends: t.contract.EndsAt, live: true, since: since, lead: w.now.Add(w.reach())}
		if slices.ContainsFunc(forces, func(o force) bool { return o.client == client && o.meter == f.meter && o.scope == f.scope }) {
			continue
		}
		was := w.forceOf(client, f.meter, f.scope)
		passedOver := was == nil || !was.live || w.likeDefault(t.limit) && was.ends != f.ends || was.ends < f.ends && was.ends <= f.lead
		if passedOver && was != nil && was.ends < f.ends && w.time >= was.ends {
			w.letGo(func(k *counter) bool {
				return k.Client == client && k.Meter == f.meter && k.Scope == f.scope && k.period.End == was.ends
			})
		}
		if !passedOver {
			f.since, f.lead = was.since, was.lead
		}
		forces = append(forces, f)
	}
	w.forces = forces
}

// of tells whether f is of a limit's counters.
func (f *force) of(t term) bool { return t.limit.Meter == f.meter && t.scope() == f.scope }

// letGo forgets counters that miss what came while nothing needed them, where
// history has all of it: whoever needs them again asks anew.
func (w *world) letGo(which func(k *counter) bool) {
	if w.cfg.History {
		w.kept = slices.DeleteFunc(w.kept, which)
	}
}

// abandon lets go of a client's own counters that no limit needs any more. For
// those that an end alone cut, default ones stand now.
func (w *world) abandon(client string) {
	w.letGo(func(k *counter) bool {
		if k.Client != client || k.Scope == (Scope{}) || k.period.End <= w.time || w.standard(k) && k.period == k.schedule.At(k.period.Start) {
			return false
		}
		f := w.forceOf(client, k.Meter, k.Scope)
		return f == nil || !f.live
	})
}

// question tells of a new counter what it does not know: R13.
func (w *world) question(k *counter) {
	if !w.cfg.History {
		return
	}
	k.boundary = w.cfg.Boundary
	lead := w.cfg.BoundaryTime.Add(w.reach())
	total, beyond := none, k.Key
	beyond.Dimensions = w.overflow(&w.cfg.Catalog.Meters[k.Meter])
	if k.Scope != (Scope{}) {
		f := w.forceOf(k.Client, k.Meter, k.Scope)
		k.boundary, lead = f.since, f.lead
		if k.Scope.Where != "" {
			total = k.Scope.Where
		}
		beyond.Dimensions = beyondOf(limitOf(k.Scope, k.Meter))
	}
	if k.Dimensions != total && k.Dimensions != beyond.Dimensions && w.find(beyond) != nil && w.first(k) {
		k.pending, k.boundary = true, w.before // all before may lie there
		return
	}
	if k.boundary == 0 || k.period.Start > lead {
		return // nothing can lie below
	}
	// One answer serves all counters of a scope and period with one boundary; a
	// limit's scope asks for each meter by itself.
	k.pending = true
	for _, o := range w.kept {
		if o == k || o.Client != k.Client || o.Scope != k.Scope || o.Period != k.Period || o.boundary != k.boundary || o.pending {
			continue
		}
		if k.Dimensions != total && o.Meter == k.Meter || k.Scope == (Scope{}) && o.Dimensions == none {
			k.pending = false // it has come, and had nothing of k
		}
	}
}

// first tells whether k is the only counter of its combination. One that has
// others is known, and nothing of it is taken to lie beyond the bound.
func (w *world) first(k *counter) bool {
	return !slices.ContainsFunc(w.kept, func(o *counter) bool {
		return o != k && o.Client == k.Client && o.Meter == k.Meter && o.Scope == k.Scope && o.Dimensions == k.Dimensions
	})
}

// ensure makes the counters that limits need in the current period: history may
// have something for them, however silent their client is.
func (w *world) ensure(client string) {
	if !w.cfg.History || w.time == usage.MinTime {
		return
	}
	for _, t := range w.terms(client) {
		if w.time < t.contract.StartsAt || w.time >= t.contract.EndsAt {
			continue
		}
		key := Key{Client: client, Meter: t.limit.Meter, Dimensions: none}
		if cut, own := w.cut(t, w.time); own {
			key.Scope, key.Dimensions = t.scope(), anchorOf(t.limit)
			w.need(key, cut, t.limit.Schedule)
		} else {
			w.ensureDefault(key, t.limit)
		}
	}
}

// ensureDefault does so where default counters serve: that of a combination
// which a limit names is made as soon as some of it may lie beyond the bound.
func (w *world) ensureDefault(key Key, l *contracts.Limit) {
	m, schedule := &w.cfg.Catalog.Meters[l.Meter], w.cfg.Catalog.Schedule
	period := schedule.At(w.time)
	w.need(key, period, schedule)
	beyond := key
	beyond.Dimensions, beyond.Period = w.overflow(m), period.ID
	if len(l.Where) > 0 && len(l.Per) == 0 && w.find(beyond) != nil {
		key.Dimensions = canonical(l.Where)
		w.need(key, period, schedule)
	}
}

// answer is what happens when history answers: R13.
func (w *world) answer(a *Answer) {
	open := []Ask{}
	if n := len(w.commits); n > 0 {
		open = w.commits[n-1].Asks
	}
	if len(open) == 0 || a.Failed {
		return
	}
	ask := open[a.Pick%len(open)]
	if ask.Scope == (Scope{}) {
		ask.Period = w.cfg.Catalog.Schedule.At(ask.Period.Start)
	}
	kept, uses := slices.Clone(w.kept), len(w.uses)
	var waited []*counter
	for _, k := range w.kept {
		if k.pending && k.Client == ask.Client && k.Scope == ask.Scope && k.Period == ask.Period.ID && k.boundary == ask.Boundary {
			waited = append(waited, k)
		}
	}
	if len(waited) == 0 {
		return
	}
	for _, u := range w.rowsOf(&ask, a.Rows) {
		waited = w.arrive(&ask, u, waited)
	}
	for _, k := range waited {
		_, fits := w.total(k)
		_, alone := w.totalOf(k, func(u *use) bool { return u.history }) // it is told apart
		if !fits || !alone || !w.fit {
			w.kept, w.uses, w.fit = kept, w.uses[:uses], true
			return // asked again, visibly
		}
	}
	w.fit = true
	var list []emission
	for _, k := range waited {
		k.pending = false
	}
	for _, k := range waited {
		for _, t := range w.terms(k.Client) {
			if w.judges(t, k) {
				e := w.settle(t, k, seedCause)
				e.before, e.silent = 0, w.cfg.MarkSeeded
				list = append(list, e)
			}
		}
	}
	w.emit(list)
}

// rowsOf reads the rows of an answer as the uses that they are of every meter
// that takes them, in the order in which they are given their combinations.
func (w *world) rowsOf(ask *Ask, rows []Row) (list []use) {
	w.fit = true
	for i := range rows {
		r := &rows[i]
		takers, fit := w.takers(&usage.Event{Meter: []byte(r.Meter), Fields: r.Fields})
		if !fit || r.Void && !undoable(w.cfg.Catalog, takers) {
			continue // the stream would not have counted them either
		}
		for _, t := range takers {
			m := &w.cfg.Catalog.Meters[t.meter]
			first, last := r.Times(&ask.Period)
			u := use{
				client: ask.Client, meter: t.meter, time: first, last: last, sign: 1, events: r.Events, history: true,
				values: t.values, combination: t.combination, text: t.text, empty: t.empty, defaults: ask.Scope == (Scope{}), fits: true,
			}
			if r.Void {
				u.sign = -1
			}
			for _, q := range []struct {
				of   usage.Aggregation
				from usage.Decimal
				to   *usage.Quantity
			}{{usage.Sum, r.Quantity, &u.amount}, {usage.Max, r.Max, &u.most}, {usage.Min, r.Min, &u.least}, {usage.Latest, r.Latest, &u.latest}} {
				if q.of == m.Aggregation {
					var ok bool
					*q.to, ok = q.from.Quantity(m.Decimals)
					u.fits = u.fits && ok
				}
			}
			list = append(list, u)
		}
	}
	slices.SortStableFunc(list, func(a, b use) int {
		return cmp.Or(cmp.Compare(a.meter, b.meter), w.compareValues(&a, &b))
	})
	return list
}

// compareValues orders combinations by the lengths and the bytes of their
// values: of one answer, the first that fit the bound have their counters.
func (w *world) compareValues(a, b *use) int {
	for _, d := range w.cfg.Catalog.Meters[a.meter].Dimensions {
		x, y := a.values[d.Name], b.values[d.Name]
		if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
			return c
		}
	}
	return 0
}

// limitOf returns what a scope says of the limits that it is of.
func limitOf(s Scope, meter int) *contracts.Limit {
	l := &contracts.Limit{Meter: meter, Where: valuesOf(s.Where)}
	if s.Per != "" {
		_ = json.Unmarshal([]byte(s.Per), &l.Per) // it is our own text
	}
	return l
}

// arrive adds a use of history to the counters that waited for it. The answer
// makes the counters of meters and combinations that the stream has not seen.
func (w *world) arrive(ask *Ask, u use, waited []*counter) []*counter {
	schedule := w.cfg.Catalog.Schedule
	key := Key{Client: u.client, Meter: u.meter, Scope: ask.Scope, Dimensions: none, Period: ask.Period.ID}
	var parts []string
	if ask.Scope == (Scope{}) {
		w.combine(&u)
		if parts = []string{none}; u.combination != none {
			parts = append(parts, u.combination)
		}
		if w.find(key) == nil && ask.Boundary == w.cfg.Boundary && w.time < w.expiry(&counter{Key: key, period: ask.Period, schedule: schedule}) {
			k := &counter{Key: key, period: ask.Period, schedule: schedule, boundary: ask.Boundary, pending: true}
			w.kept = append(w.kept, k)
			waited = append(waited, k)
		}
	} else {
		l := limitOf(ask.Scope, u.meter)
		if key.Dimensions = anchorOf(l); w.find(key) != nil && named(l.Where, u.values) {
			if parts = []string{key.Dimensions}; len(l.Per) > 0 {
				parts = append(parts, w.valueOf(l, key, &u))
			}
		}
	}
	if len(parts) == 0 {
		return waited
	}
	all := w.find(key)
	for i, dimensions := range parts {
		key.Dimensions = dimensions
		k := w.find(key)
		awaited := func() bool { return slices.ContainsFunc(waited, func(o *counter) bool { return o.Meter == u.meter }) }
		if k == nil && i > 0 && all != nil && awaited() {
			k = &counter{Key: key, period: all.period, schedule: all.schedule, boundary: ask.Boundary, pending: true}
			w.kept = append(w.kept, k)
			waited = append(waited, k)
		}
		if k != nil && slices.Contains(waited, k) {
			u.in = append(u.in, k)
		}
	}
	if len(u.in) > 0 {
		w.uses = append(w.uses, u)
		w.fit = w.fit && u.fits
	}
	return waited
}
