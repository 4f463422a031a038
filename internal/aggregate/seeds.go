package aggregate

import (
	"errors"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// Ask is a question to history: what Client used in [Period.Start, Period.End)
// in records of this partition below Boundary. One answer serves all meters.
type Ask struct {
	Client   string
	Scope    Scope
	Period   usage.Period
	Boundary int64
	Cut      usage.Time // about when the record at Boundary was appended, for history without offsets; else 0
}

// SeedTotal is what history says of the records of one client that agree in
// the meter that they name and in all Fields. What is in no SeedTotal of an
// answer was not used. The rows of an answer stand in the order of Last and,
// where that is equal, of the offsets of their latest records.
type SeedTotal struct {
	Meter       string // as the records name it; "" where none is mapped
	Fields      []usage.Value
	Void        bool // they took events back
	Events      int64
	Quantity    usage.Decimal // the sum
	Min, Max    usage.Decimal
	Latest      usage.Decimal // the quantity at Last, of the highest offset there; only where a meter wants it
	First, Last usage.Time
}

// earlyMargin is how much further than max_future an event's time may lie
// after the clock that saw its record: brokers bound record timestamps by it.
const earlyMargin = time.Hour

// ErrSeedOverflow is returned when a seed would take a total out of range.
var ErrSeedOverflow = errors.New("seed takes the total out of range")

// seedFor returns what k, which is new and not yet among its client's
// counters, knows of history, and asks for what it does not know. One answer
// serves the counters of all meters and combinations of a scope and period.
func (s *State) seedFor(k *counter) Seed {
	boundary, at := s.birth.Meters[k.meter].Boundary, s.birth.Meters[k.meter].Time
	if k.own != nil {
		boundary, at = k.own.since, k.own.asOf
	}
	if !s.cfg.History {
		return Seed{State: SeedNone, Boundary: boundary}
	}
	if s.wasBeyond(k) {
		k.seed = s.pending(s.here(), max(s.time, s.birth.BoundaryTime))
		s.open.asks = append(s.open.asks, askFor(k))
		return k.seed
	}
	exact := s.exact(boundary, at)
	if boundary == 0 || s.afterHistory(k) {
		exact.State = SeedExact // nothing can lie before
		return exact
	}
	if k.group != nil {
		if all := k.family().of(k.period.ID); all != nil && all.seed.Boundary == boundary {
			if !all.seed.Complete() {
				return s.pending(boundary, at) // the answer that it waits for has this combination too
			}
			return exact // the answer that it got had nothing of this combination
		}
		// A scope that has begun anew since has asked for the combinations that
		// came since.
		if other := k.family().newest; other != nil && !other.dying && other.period.ID == k.period.ID && other.seed.Boundary == boundary {
			if !other.seed.Complete() {
				return s.pending(boundary, at)
			}
			return exact
		}
	}
	for _, other := range s.siblings(k) {
		if other.seed.Boundary != boundary {
			continue
		}
		if !other.seed.Complete() {
			return s.pending(boundary, at)
		}
		if k.own == nil {
			return exact
		}
	}
	seed := s.pending(boundary, at)
	k.seed = seed
	s.open.asks = append(s.open.asks, askFor(k))
	return seed
}

// wasBeyond tells whether some of what k is to count may have been counted
// beyond the bound of combinations: k is the first counter of its combination.
func (s *State) wasBeyond(k *counter) bool {
	return k.group != nil && !k.group.over && k.group.alive == 0 && k.family().overflow.of(k.period.ID) != nil
}

// here returns the offset below which all was folded in before the input at
// hand.
func (s *State) here() int64 {
	if s.folding {
		return s.position - 1
	}
	return s.position
}

// siblings returns the counters of no combination that are k's but for their
// meter.
func (s *State) siblings(k *counter) (all []*counter) {
	add := func(f *family) {
		if other := f.of(k.period.ID); other != nil && other != k {
			all = append(all, other)
		}
	}
	if k.own == nil {
		for m := range k.client.slots {
			add(&k.client.slots[m])
		}
		return all
	}
	for _, o := range k.client.own {
		if o.scope == k.scope() {
			add(&o.family)
		}
	}
	return all
}

// exact is the seed of a counter of which history knows nothing, or has said
// all.
func (s *State) exact(boundary int64, at usage.Time) Seed {
	seed := Seed{State: SeedExact, Boundary: boundary}
	if s.cfg.Bounded {
		seed.State, seed.Cut = SeedBounded, at
	}
	return seed
}

func (s *State) pending(boundary int64, at usage.Time) Seed {
	seed := s.exact(boundary, at)
	seed.State = SeedPending
	return seed
}

func askFor(k *counter) Ask {
	return Ask{Client: k.client.name, Scope: k.scope(), Period: *k.period, Boundary: k.seed.Boundary, Cut: k.seed.Cut}
}

// afterHistory tells whether k's period begins so late that no record below
// its boundary can lie in it.
func (s *State) afterHistory(k *counter) bool {
	horizon := s.birth.Meters[k.meter].Time.Add(s.cfg.MaxFuture + earlyMargin)
	if k.own != nil {
		horizon = k.own.lead
	}
	return k.period.Start > horizon
}

// Pending returns the questions of all counters that wait for an answer, for
// asking again after a restart.
func (s *State) Pending() []Ask {
	s.mu.RLock()
	defer s.mu.RUnlock()
	type unit struct {
		client, period string
		scope          Scope
		boundary       int64
	}
	var asks []Ask
	asked := map[unit]bool{}
	for c := range s.clients.all() {
		for k := range c.counters() {
			u := unit{c.name, k.period.ID, k.scope(), k.seed.Boundary}
			if k.dying || k.seed.Complete() || asked[u] {
				continue
			}
			asked[u] = true
			asks = append(asks, askFor(k))
		}
	}
	return asks
}

// LookUp asks history for a client of whom nothing is known here, if history
// may have something: the answer then makes its counters. It returns false
// where there is nothing to ask.
func (s *State) LookUp(client string) bool {
	if s.committed.Time == usage.MinTime || !s.unknowable(client) {
		return false
	}
	s.open.asks = append(s.open.asks, Ask{Client: client, Period: *s.periodOf(s.committed.Time), Boundary: s.birth.Boundary, Cut: s.exact(0, s.birth.BoundaryTime).Cut})
	return true
}

// empty notes that history has nothing of a client that was looked up. A
// limit's own question may be about a part of the period alone.
func (s *State) empty(ask Ask) {
	if !ask.Scope.Default() {
		return
	}
	if s.absent == nil || len(s.absent) >= maxAbsent {
		s.absent = map[string]string{}
	}
	s.absent[ask.Client] = ask.Period.ID
}

// maxAbsent bounds how many clients without history are remembered.
const maxAbsent = 100_000

// unknowable tells whether client, without a committed counter in the current
// period, may have history that was never answered for.
func (s *State) unknowable(client string) bool {
	if !s.cfg.History || s.birth.Boundary == 0 {
		return false
	}
	if s.committed.Time == usage.MinTime {
		return true // there is no period yet to ask for
	}
	period := s.periodOfRead(s.committed.Time)
	if period.Start > s.birth.BoundaryTime.Add(s.cfg.MaxFuture+earlyMargin) || s.absent[client] == period.ID {
		return false
	}
	if c := s.clients.named(client); c != nil {
		for k := range c.counters() {
			if _, ok := s.valueOf(k); ok && k.own == nil && k.period.ID == period.ID {
				return false
			}
		}
	}
	return true
}

// periodOfRead is periodOf for readers: it changes nothing.
func (s *State) periodOfRead(t usage.Time) usage.Period {
	for _, p := range s.periods {
		if p.Contains(t) {
			return *p
		}
	}
	return s.cfg.Catalog.Schedule.At(t)
}
