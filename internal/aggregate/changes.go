package aggregate

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// Changes is what one commit makes true: records of the changelog, limit
// events and limit states. It is good until the transaction ends.
type Changes struct {
	Position   PositionRecord
	Counters   iter.Seq[*CounterRecord] // the record is good until the next
	Limits     []LimitRecord
	Dedupe     []DedupeRecord
	Tombstones []string // keys of the changelog
	Events     []*alerts.Event
	States     []StateChange // one for each key
	Misplaced  int           // clients first seen on a partition that is not theirs
}

// Changes returns what the open transaction holds, decided at now.
func (s *State) Changes(now usage.Time) Changes {
	c := Changes{
		Position:  s.Whole(),
		Counters:  s.dirtyCounters,
		Dedupe:    append(s.dedupe.segments(s.open.position, s.time), s.voids.segments(s.open.position, s.time)...),
		Events:    s.open.events,
		States:    lastOfEach(s.open.states),
		Misplaced: s.open.misplaced,
	}
	for _, e := range c.Events {
		e.DecidedAt = now
	}
	for i := range s.open.limits {
		l := s.open.limits[i].limit
		if l.last != nil && l.last.DecidedAt == 0 { // of a seed that is not announced
			l.last.DecidedAt = now
		}
		for j := range l.told {
			if l.told[j].DecidedAt == 0 {
				l.told[j].DecidedAt = now
			}
		}
	}
	s.dedupe.wrote, s.voids.wrote = s.dedupe.wrote[:0], s.voids.wrote[:0]
	for i := range c.Dedupe {
		d := s.idsOf(c.Dedupe[i].Void)
		d.wrote = append(d.wrote, segmentKey{at: c.Dedupe[i].Bucket, key: c.Dedupe[i].Key()})
	}
	for _, u := range s.open.limits {
		if !u.limit.fading && s.limits[u.limit.id] == u.limit {
			c.Limits = append(c.Limits, u.limit.record())
		}
	}
	c.Tombstones = append(s.dedupe.expired(s.time), s.voids.expired(s.time)...)
	c.Tombstones = append(c.Tombstones, s.sweep()...)
	for _, k := range s.open.dying {
		if k.replaced() {
			continue
		}
		r := k.record(s.cfg.Catalog)
		c.Tombstones = append(c.Tombstones, string(r.AppendCounterKey(nil)))
	}
	for _, l := range s.open.fading {
		if s.limits[l.id] != l {
			continue
		}
		r := l.record()
		c.Tombstones = append(c.Tombstones, r.Key())
	}
	slices.Sort(c.Tombstones)
	c.Tombstones = slices.Compact(c.Tombstones) // one may be let go, made anew and let go again
	return c
}

// Whole returns the record of the partition as a whole, as the open
// transaction has it.
func (s *State) Whole() PositionRecord {
	whole := s.birth
	whole.Position, whole.Time = s.position, s.time
	whole.Contracts, whole.Settled = s.contracts, s.settledUpTo()
	return whole
}

// lastOfEach keeps the last change of each key.
func lastOfEach(states []StateChange) []StateChange {
	if len(states) < 2 {
		return states
	}
	seen := make(map[string]bool, len(states))
	var kept []StateChange
	for _, st := range slices.Backward(states) {
		if !seen[st.Key] {
			seen[st.Key] = true
			kept = append(kept, st)
		}
	}
	slices.Reverse(kept)
	return kept
}

func (s *State) dirtyCounters(yield func(*CounterRecord) bool) {
	var r CounterRecord
	for i := range s.open.dirty {
		k := s.open.dirty[i].counter
		if k.dying {
			continue
		}
		r = k.record(s.cfg.Catalog)
		if !yield(&r) {
			return
		}
	}
}

// replaced tells whether another counter was made in the place of k, which is
// to be forgotten: its record takes the place of k's.
func (k *counter) replaced() bool {
	return k.own != nil && k.slot().of(k.period.ID) != nil
}

func (k *counter) record(catalog *usage.Catalog) CounterRecord {
	m := &catalog.Meters[k.meter]
	r := CounterRecord{
		Client: k.client.name, Meter: m.Name, Scope: k.scope(), Dimensions: k.dims(), Period: *k.period, Decimals: m.Decimals,
		Total: k.total, Events: k.events, First: k.first, Last: k.last, Seed: k.seed, Distinct: k.set.bytes(),
	}
	if k.own != nil {
		r.scopeKey = k.own.scopeKey
	}
	return r
}

func (l *limitState) record() LimitRecord {
	return LimitRecord{
		Contract: l.id.contract, Limit: l.id.limit, Dimensions: l.per, Where: l.where, Place: l.place, Period: l.period, Client: l.client.name, Meter: l.meter,
		Scope: l.scope, Revision: l.revision, Value: l.value, Decimals: l.decimals, Enforcement: l.enforcement,
		Standing: l.standing, Sequence: l.sequence, Closed: l.closed, Last: l.last, Told: l.told,
	}
}

// ErrForeignRecord is returned when a record of the changelog cannot be part
// of the state that the configuration describes.
var ErrForeignRecord = errors.New("changelog record does not fit the configuration")

// Load takes in a record of the changelog: one of *CounterRecord, *LimitRecord,
// *PositionRecord and *DedupeRecord. A later one of the same key replaces an
// earlier one. Counters of meters that are no longer configured are left
// alone. Call Loaded after the last.
func (s *State) Load(record any) error {
	switch r := record.(type) {
	case *PositionRecord:
		if err := s.checkShapes(r.Meters); err != nil {
			return err
		}
		s.position, s.time, s.birth = r.Position, r.Time, *r
		s.contracts, s.settled = r.Contracts, r.Settled
	case *DedupeRecord:
		s.loadDedupe(r)
	case *CounterRecord:
		return s.loadCounter(r)
	case *LimitRecord:
		s.loadLimit(r)
	default:
		return fmt.Errorf("%w: %T", ErrForeignRecord, record)
	}
	return nil
}

func (s *State) idsOf(void bool) *dedupe { //revive:disable-line:flag-parameter // one or the other, as records say
	if void {
		return &s.voids
	}
	return &s.dedupe
}

func (s *State) loadDedupe(r *DedupeRecord) {
	d := s.idsOf(r.Void)
	for _, h := range r.Hashes {
		d.load(h, r.Bucket)
	}
	b := &d.buckets[d.bucket(r.Bucket)]
	if key := r.Key(); !slices.Contains(b.keys, key) {
		b.keys = append(b.keys, key)
	}
}

func (s *State) loadCounter(r *CounterRecord) error {
	m, ok := s.meters[r.Meter]
	if !ok {
		return nil
	}
	if r.Decimals != s.cfg.Catalog.Meters[m].Decimals {
		return fmt.Errorf("%w: meter %s has %d decimals, its counters have %d: rename the meter to count anew",
			ErrForeignRecord, r.Meter, s.cfg.Catalog.Meters[m].Decimals, r.Decimals)
	}
	c := s.loadClient(r.Client)
	k, err := s.placeLoaded(c, m, r)
	if err != nil {
		return err
	}
	k.total, k.events, k.first, k.last, k.seed = r.Total, r.Events, r.First, r.Last, r.Seed
	if s.cfg.Catalog.Meters[m].Aggregation == usage.Unique {
		if k.set, err = distinctOf(r.Distinct); err != nil {
			return fmt.Errorf("%w: meter %s: %w", ErrForeignRecord, r.Meter, err)
		}
	}
	return nil
}

func (s *State) loadClient(name string) *client {
	c := s.clients.named(name)
	if c == nil {
		c = &client{name: name, slots: newFamilies(len(s.cfg.Catalog.Meters))}
		s.clients.add(c)
	}
	return c
}

// placeLoaded returns the counter that r is of, made if need be.
func (s *State) placeLoaded(c *client, meter int, r *CounterRecord) (*counter, error) {
	k := &counter{client: c, meter: meter}
	family, v := &c.slots[meter], &s.views[meter]
	if !r.Scope.Default() {
		own, err := s.loadScope(c, meter, r.Scope)
		if err != nil {
			return nil, err
		}
		k.own, family, v = own, &own.family, &own.view
	}
	if len(r.Dimensions) > len(v.where) {
		key, ok := v.keyOfDims(r.Dimensions)
		if !ok {
			return nil, foreignDimensions(r.Meter)
		}
		if k.group = family.groups[key]; k.group == nil {
			k.group = v.newGroup(func(i int) string { return r.Dimensions[v.names[i].Name] })
			family.add(k.group)
		}
	}
	if known := k.slot().of(r.Period.ID); known != nil {
		if *known.period != r.Period {
			period := r.Period
			known.period = &period
		}
		return known, nil
	}
	period := r.Period
	if k.period = &period; r.Scope.Default() {
		k.period = s.periodOf(max(r.Period.Start, usage.MinTime+1))
		if *k.period != r.Period {
			return nil, fmt.Errorf("%w: the counters' periods are not those of schedule %s %s: another schedule needs another application_id",
				ErrForeignRecord, s.cfg.Catalog.Schedule.Kind, s.cfg.Catalog.Schedule.Zone)
		}
	}
	k.join()
	return k, nil
}

func foreignDimensions(meter string) error {
	return fmt.Errorf("%w: meter %s has other dimensions than its counters: rename the meter to count anew", ErrForeignRecord, meter)
}

// loadScope returns the own scope that a loaded counter is of, made if need be.
func (s *State) loadScope(c *client, meter int, scope Scope) (*ownScope, error) {
	if own := c.scope(scope, meter); own != nil {
		return own, nil
	}
	schedule, err := usage.NewSchedule(scope.Kind, scope.Timezone)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeignRecord, err)
	}
	if schedule.Kind == usage.Anniversary {
		schedule.Anchor = scope.StartsAt
	}
	v, ok := viewOfScope(&s.cfg.Catalog.Meters[meter], scope)
	if !ok {
		return nil, foreignDimensions(s.cfg.Catalog.Meters[meter].Name)
	}
	own := s.addScope(c, scope, meter, v)
	own.schedule, own.from, own.to = schedule, scope.StartsAt, usage.MaxTime
	return own, nil
}

func (s *State) loadLimit(r *LimitRecord) {
	id := limitID{contract: r.Contract, limit: r.Limit, dimensions: canonical(r.Dimensions), period: r.Period.ID}
	c := s.loadClient(r.Client)
	l, ok := s.limits[id]
	if ok && l.client != c {
		l.moveTo(c)
	} else if !ok {
		l = &limitState{id: id, per: r.Dimensions, client: c}
		s.addLimit(l)
	}
	l.limitValue = limitValue{
		meter: r.Meter, scope: r.Scope, period: r.Period, revision: r.Revision, value: r.Value, decimals: r.Decimals,
		enforcement: r.Enforcement, standing: r.Standing, sequence: r.Sequence, closed: r.Closed, last: r.Last,
		where: r.Where, place: r.Place, told: r.Told,
	}
}

// Loaded ends the restore: what was loaded is committed, and readers may see
// it. now is the clock.
func (s *State) Loaded(now usage.Time) {
	s.now = now
	s.bearNew(now)
	for c := range s.clients.all() {
		if c.empty() {
			s.lose(c)
			continue
		}
		for k := range c.counters() {
			k.fence()
			if at := s.expiry(k); at != usage.MaxTime {
				due := s.timers.at(at)
				due.counters = append(due.counters, k)
			}
		}
	}
	for _, l := range s.limits {
		s.keepUntil(l, s.expiryOfLimit(l))
		if len(l.standing) > 0 && !l.closed && s.time < l.period.End && l.period.End != usage.MaxTime {
			s.timers.limit(l.period.End, l)
		}
		if l.period.Start > s.time {
			s.timers.limit(l.period.Start, l)
		}
	}
	s.committed = Committed{Position: s.position, Time: s.time, At: now}
	s.persisted, s.kept = s.contracts, s.time
	s.mark()
}
