package aggregate

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// portion is what an answer has for one counter.
type portion struct {
	part
	group *group // of dims and key; nil: none
}

// answer is what history says, by meter and by the key of the combination.
type answer map[int]map[string]*portion

// none is the key of what is of no combination: no combination has it, as
// each has the length of its first value in front.
const none = ""

// TakeSeed adds the answer to a question to the counters that waited for it,
// and tells what their limits make of it, with the seed as cause. An answer
// that nobody waits for changes nothing. With an error, nothing was changed:
// the counters wait on.
func (s *State) TakeSeed(ask Ask, rows []SeedTotal) error {
	c := s.clients.named(ask.Client)
	if c == nil {
		if len(rows) == 0 {
			s.empty(ask)
			return nil
		}
		if !s.adds(ask) {
			return nil
		}
		c = s.clientOf([]byte(ask.Client))
	}
	a := s.read(c, ask, rows)
	if len(a) == 0 && ask.Scope.Default() && !s.waiting(c, ask) {
		s.empty(ask)
		return nil
	}
	for m, portions := range a {
		if f := c.family(m, ask.Scope); f != nil {
			s.bound(c, m, f, ask.Scope, portions)
		}
	}
	if err := s.fits(c, ask, a); err != nil {
		return err
	}
	// In the order of the meters, so that a replay does the same.
	for m := range s.cfg.Catalog.Meters {
		if family := c.family(m, ask.Scope); family != nil {
			s.seed(c, m, family, ask, a[m])
		}
	}
	s.emitAll()
	return nil
}

// read adds up the rows of an answer for the meters and combinations that they
// are of.
func (s *State) read(c *client, ask Ask, rows []SeedTotal) answer {
	a := answer{}
	var ev usage.Event
	for i := range rows {
		row := &rows[i]
		ev = usage.Event{Meter: []byte(row.Meter), Fields: row.Fields, Quantity: row.Quantity}
		if len(ev.Fields) < len(s.cfg.Catalog.Paths) {
			ev.Fields = append(slices.Clone(ev.Fields), make([]usage.Value, len(s.cfg.Catalog.Paths)-len(ev.Fields))...)
		}
		if !s.gather(&ev) || row.Void && !s.undoable() { // the stream would not have counted it either
			continue
		}
		for j := range s.takings {
			t := &s.takings[j]
			p := s.partOfRow(row, t)
			v := &s.views[t.meter]
			if !ask.Scope.Default() {
				o := c.scope(ask.Scope, t.meter)
				if o == nil || !o.view.takes(t.values) {
					continue
				}
				v = &o.view
			}
			a.of(t.meter, none, nil).join(&p)
			if len(v.per) > 0 {
				key := string(v.appendPer(s.key[:0], t.values))
				a.of(t.meter, key, func() *group {
					return v.newGroup(func(i int) string { return string(t.values[i]) })
				}).join(&p)
			}
		}
	}
	return a
}

func (a answer) of(meter int, key string, group func() *group) *portion {
	if a[meter] == nil {
		a[meter] = map[string]*portion{}
	}
	p := a[meter][key]
	if p == nil {
		p = &portion{}
		if group != nil {
			p.group = group()
		}
		a[meter][key] = p
	}
	return p
}

// partOfRow returns what a row of history is to a meter that takes it.
func (s *State) partOfRow(row *SeedTotal, t *taking) part {
	m := &s.cfg.Catalog.Meters[t.meter]
	p := part{events: row.Events, first: row.First, last: row.Last, some: true, fits: true}
	convert := func(d usage.Decimal) usage.Quantity {
		q, ok := d.Quantity(m.Decimals)
		p.fits = p.fits && ok
		return q
	}
	switch m.Aggregation {
	case usage.Count:
		p.sum = wideOf(convert(usage.DecimalOf(row.Events)))
	case usage.Sum:
		p.sum = wideOf(convert(row.Quantity))
	case usage.Max:
		p.max = convert(row.Max)
	case usage.Min:
		p.min = convert(row.Min)
	case usage.Latest:
		p.latest = convert(row.Latest)
	case usage.Unique:
		p.set = newDistinct()
		if t.valued {
			p.set.add(t.hash)
		}
	}
	if !row.Void {
		return p
	}
	sum, _ := p.sum.quantity()
	p.events, p.sum = -p.events, wideOf(-sum)
	p.first, p.last = usage.MaxTime, usage.MinTime
	return p
}

// waiting tells whether a counter of c waits for the answer.
func (s *State) waiting(c *client, ask Ask) bool {
	for m := range s.cfg.Catalog.Meters {
		if f := c.family(m, ask.Scope); f != nil && s.awaited(f, ask) {
			return true
		}
	}
	return false
}

// awaited tells whether a counter of f waits for the answer.
func (s *State) awaited(f *family, ask Ask) bool {
	return !f.each(func(k *counter) bool { return !s.awaitsAnswer(k, ask) })
}

func (s *State) awaitsAnswer(k *counter, ask Ask) bool {
	return !k.dying && !k.seed.Complete() && k.period.ID == ask.Period.ID && k.seed.Boundary == ask.Boundary
}

// fits checks that the counters that wait, or are to be made, can take their
// portions.
func (s *State) fits(c *client, ask Ask, a answer) error {
	var nothing slot
	for m, portions := range a {
		family := c.family(m, ask.Scope)
		if family == nil || !s.awaited(family, ask) && !s.begins(m, family, ask) {
			continue
		}
		for key, p := range portions {
			slot := &family.slot
			if key != none {
				slot = &nothing
				if g := family.groups[key]; g != nil {
					slot = &g.slot
				}
			}
			k := slot.of(ask.Period.ID)
			if k == nil {
				k = &counter{meter: m}
				if s.cfg.Catalog.Meters[m].Aggregation == usage.Unique {
					k.set = newDistinct()
				}
			} else if !s.awaitsAnswer(k, ask) {
				continue
			}
			_, ok := s.joined(k, &p.part)
			if _, alone := p.sum.quantity(); !ok || !alone || !p.fits {
				return fmt.Errorf("%w: client %s, meter %s", ErrSeedOverflow, ask.Client, s.cfg.Catalog.Meters[m].Name)
			}
		}
	}
	return nil
}

// seed gives the counters of one meter that wait for the answer what it has
// for them, and makes those that it has more of.
func (s *State) seed(c *client, m int, f *family, ask Ask, portions map[string]*portion) {
	all := f.of(ask.Period.ID)
	if portions[none] != nil && s.begins(m, f, ask) {
		asks := len(s.open.asks)
		all = s.make(c, m, nil, nil, s.periodOf(ask.Period.Start))
		all.seed, s.open.asks = s.pending(ask.Boundary, ask.Cut), s.open.asks[:asks] // this is the answer
	}
	if all == nil || !s.awaited(f, ask) {
		return
	}
	s.complete(all, ask, portions[none])
	s.regroup(c, f, all, ask, portions)
	for _, g := range f.list {
		if k := g.of(ask.Period.ID); k != nil {
			s.complete(k, ask, portions[g.key])
		}
	}
}

// bound gives to the overflow what an answer has of combinations beyond the
// bound.
func (s *State) bound(c *client, m int, f *family, scope Scope, portions map[string]*portion) {
	v := &s.views[m]
	if o := c.scope(scope, m); o != nil {
		v = &o.view
	}
	alive := f.alive
	var over *portion
	for _, key := range slices.Sorted(maps.Keys(portions)) {
		p := portions[key]
		if g := f.groups[key]; key == none || p.group.over || g != nil && g.alive > 0 {
			continue
		}
		if alive < s.cfg.Catalog.Meters[m].MaxCombinations || scope.Default() && c.named(m, valuesOf(v, p.group.dims)) {
			alive++
			continue
		}
		if over == nil {
			over = &portion{group: v.newGroup(func(int) string { return usage.OverflowValue })}
		}
		over.join(&p.part)
		delete(portions, key)
	}
	if over == nil {
		return
	}
	if known := portions[over.group.key]; known != nil {
		over.join(&known.part)
	}
	portions[over.group.key] = over
}

func valuesOf(v *view, dims map[string]string) [][]byte {
	values := make([][]byte, 0, len(v.names))
	for _, d := range v.names {
		values = append(values, []byte(dims[d.Name]))
	}
	return values
}

// regroup makes the counters of combinations that only history knows of.
func (s *State) regroup(c *client, f *family, all *counter, ask Ask, portions map[string]*portion) {
	for _, key := range slices.Sorted(maps.Keys(portions)) {
		if key == none {
			continue
		}
		g := f.groups[key]
		if g == nil {
			g = portions[key].group
			f.add(g)
		}
		if g.of(all.period.ID) == nil {
			s.makePending(c, all, g, ask)
		}
	}
}

// makePending makes a counter of a combination that takes its portion next.
func (s *State) makePending(c *client, all *counter, g *group, ask Ask) {
	asks := len(s.open.asks)
	k := s.make(c, all.meter, all.own, g, all.period)
	k.seed, s.open.asks = s.pending(ask.Boundary, ask.Cut), s.open.asks[:asks]
}

// complete gives k, if it waits for the answer, its portion, or nothing.
func (s *State) complete(k *counter, ask Ask, p *portion) {
	if !s.awaitsAnswer(k, ask) {
		return
	}
	s.touch(k)
	k.seed = s.exact(ask.Boundary, ask.Cut)
	if p != nil {
		before := k.total
		s.include(k, &p.part)
		k.seed.Events = p.events
		switch a := s.cfg.Catalog.Meters[k.meter].Aggregation; a {
		case usage.Unique:
			k.seed.Usage = k.total - before // what the stream had not seen
		default:
			k.seed.Usage = p.of(a)
		}
	}
	k.fence()
	for _, b := range k.limits {
		s.settle(k, b, alerts.BySeed)
	}
}

// begins tells whether an answer may make the counters of a meter, in f, that
// has none in its period.
func (s *State) begins(m int, f *family, ask Ask) bool {
	return f.of(ask.Period.ID) == nil && s.birth.Meters[m].Boundary == ask.Boundary && s.adds(ask)
}

// adds tells whether an answer makes counters for meters that had none: those
// of the default schedule that are still kept.
func (s *State) adds(ask Ask) bool {
	if !ask.Scope.Default() || ask.Boundary != s.birth.Boundary {
		return false
	}
	k := &counter{}
	k.period = s.periodOf(ask.Period.Start)
	return s.time < s.expiry(k)
}
