package aggregate

import (
	"errors"
	"fmt"
	"time"

	"github.com/meterd/meterd/internal/alerts"
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
// answer was not used.
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

// seedFor returns what k, which is new, knows of history, and asks for what it
// does not know.
func (s *State) seedFor(k *counter, boundary int64) Seed {
	if !s.cfg.History {
		return Seed{State: SeedNone}
	}
	seed := Seed{State: SeedExact, Boundary: boundary}
	if boundary == 0 || s.afterHistory(k) {
		return seed
	}
	for other := range k.client.counters() {
		if other == k || other.scope != k.scope || other.period.ID != k.period.ID || other.seed.Boundary != boundary {
			continue
		}
		if !other.seed.Complete() {
			seed.State = SeedPending // the answer that it waits for has this meter too
			return seed
		}
		if k.own == nil {
			return seed // the answer that it got had nothing of this meter
		}
	}
	seed.State = SeedPending
	s.open.asks = append(s.open.asks, askFor(k, boundary))
	return seed
}

func askFor(k *counter, boundary int64) Ask {
	return Ask{Client: k.client.name, Scope: k.scope, Period: *k.period, Boundary: boundary}
}

// afterHistory tells whether k's period begins so late that no record below
// its boundary can lie in it.
func (s *State) afterHistory(k *counter) bool {
	horizon := s.birth.BoundaryTime.Add(s.cfg.MaxFuture + earlyMargin)
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
	for _, c := range s.clients {
		for k := range c.counters() {
			u := unit{c.name, k.period.ID, k.scope, k.seed.Boundary}
			if k.dying || k.seed.Complete() || asked[u] {
				continue
			}
			asked[u] = true
			asks = append(asks, askFor(k, k.seed.Boundary))
		}
	}
	return asks
}

// TakeSeed adds the answer to a question to the counters that waited for it,
// and tells what their limits make of it, with the seed as cause. An answer
// that nobody waits for changes nothing. With an error, nothing was changed:
// the counters wait on.
func (s *State) TakeSeed(ask Ask, totals []SeedTotal) error {
	byMeter := make(map[int]SeedTotal, len(totals))
	for _, t := range totals {
		if m, ok := s.meters[t.Meter]; ok {
			byMeter[m] = t
		}
	}
	c, ok := s.clients[ask.Client]
	if !ok {
		if len(byMeter) == 0 {
			s.empty(ask)
			return nil
		}
		if !s.adds(ask) {
			return nil
		}
		c = s.clientOf([]byte(ask.Client))
	}
	waiting := map[int]*counter{}
	for k := range c.counters() {
		if k.scope == ask.Scope && k.period.ID == ask.Period.ID && k.seed.Boundary == ask.Boundary && !k.dying {
			waiting[k.meter] = k
		}
	}
	if len(waiting) == 0 && len(byMeter) == 0 && ask.Scope.Default() {
		s.empty(ask)
		return nil
	}
	for m, t := range byMeter {
		if k := waiting[m]; k != nil && k.seed.Complete() {
			continue
		}
		if _, err := s.seeded(waiting[m], m, t); err != nil {
			return err
		}
	}
	// In the order of the meters, so that a replay does the same.
	for m := range s.all {
		t, found := byMeter[m]
		k := waiting[m]
		if k == nil && found && s.adds(ask) && c.slots[m].find(ask.Period.Start) == nil {
			asks := len(s.open.asks)
			k = s.make(c, m, nil, s.periodOf(ask.Period.Start))
			k.seed.State, s.open.asks = SeedPending, s.open.asks[:asks] // this is the answer
		}
		if k == nil || k.seed.Complete() {
			continue
		}
		s.touch(k)
		k.seed = Seed{State: SeedExact, Boundary: ask.Boundary}
		if found {
			q, _ := s.seeded(nil, m, t) // checked above
			k.seed.Usage, k.seed.Events = q, t.Events
			k.total += q
			k.events += t.Events
			k.first, k.last = min(k.first, t.First), max(k.last, t.Last)
		}
		k.fence()
		for _, b := range k.limits {
			s.settle(k, b, alerts.BySeed)
		}
	}
	s.emitAll()
	return nil
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

// seeded returns the quantity of t for meter, and checks that k can take it.
func (s *State) seeded(k *counter, meter int, t SeedTotal) (usage.Quantity, error) {
	m := &s.cfg.Catalog.Meters[meter]
	amount := t.Quantity
	if m.Aggregation == usage.Count {
		amount = usage.DecimalOf(t.Events)
	}
	q, ok := amount.Quantity(m.Decimals)
	if ok && k != nil {
		_, ok = k.total.Add(q)
	}
	if !ok {
		return 0, fmt.Errorf("%w: meter %s, %s", ErrSeedOverflow, m.Name, amount)
	}
	return q, nil
}

// LookUp asks history for a client of whom nothing is known here, if history
// may have something: the answer then makes its counters. It returns false
// where there is nothing to ask.
func (s *State) LookUp(client string) bool {
	if s.committed.Time == usage.MinTime || !s.unknowable(client) {
		return false
	}
	s.open.asks = append(s.open.asks, Ask{Client: client, Period: *s.periodOf(s.committed.Time), Boundary: s.birth.Boundary})
	return true
}

// empty notes that history has nothing of a client that was looked up.
func (s *State) empty(ask Ask) {
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
	if c, ok := s.clients[client]; ok {
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
