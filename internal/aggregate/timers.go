package aggregate

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/usage"
)

// timer is what is due at one instant of partition time. Its entries are
// hints: each is checked against the state when the time has come.
type timer struct {
	at       usage.Time
	limits   map[*limitState]struct{} // periods that end or begin
	counters []*counter               // to be forgotten
	told     []*limitState            // to be forgotten
}

// timers are due in the order of time. There are few: one for each end of a
// period that is kept.
type timers struct {
	queue queue
	byAt  map[usage.Time]*timer
	fired []*timer   // in the open transaction
	later []*counter // due, but beyond what the open transaction may forget
}

type queue []*timer

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*timer)) } //nolint:forcetypeassert // container/heap's own form
func (q *queue) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	*q = (*q)[:last]
	return t
}

func newTimers() timers { return timers{byAt: map[usage.Time]*timer{}} }

// at returns the timer of that instant, made if need be.
func (t *timers) at(at usage.Time) *timer {
	if found, ok := t.byAt[at]; ok {
		return found
	}
	made := &timer{at: at, limits: map[*limitState]struct{}{}}
	t.byAt[at] = made
	heap.Push(&t.queue, made)
	return made
}

func (t *timers) limit(at usage.Time, l *limitState) {
	t.at(at).limits[l] = struct{}{}
}

// due returns the first timer if its time has come by now, and nil else. It is
// the caller's until the open transaction ends.
func (t *timers) due(now usage.Time) *timer {
	if len(t.queue) == 0 || t.queue[0].at > now {
		return nil
	}
	due := heap.Pop(&t.queue).(*timer) //nolint:forcetypeassert // nothing else is in it
	delete(t.byAt, due.at)
	t.fired = append(t.fired, due)
	return due
}

func (t *timers) committed() { t.fired = t.fired[:0] }

// resume makes due, right after now, what had to wait for another transaction.
func (t *timers) resume(now usage.Time) {
	if len(t.later) > 0 {
		due := t.at(now + 1)
		due.counters = append(due.counters, t.later...)
		t.later = nil
	}
}

func (t *timers) rollback() {
	for _, f := range t.fired {
		due := t.at(f.at)
		due.counters = append(due.counters, f.counters...)
		due.told = append(due.told, f.told...)
		maps.Copy(due.limits, f.limits)
	}
	t.fired = t.fired[:0]
}

// maxDying bounds how many counters one transaction forgets: each is a
// tombstone in the changelog.
const maxDying = 20_000

// Advance takes in that partition time has come to at: the clock, once the
// partition is read to its end. It never goes back.
func (s *State) Advance(at usage.Time) {
	s.advance(min(at, s.now))
}

// Due returns when Advance would next have something to do, or usage.MaxTime.
func (s *State) Due() usage.Time {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.timers.queue) == 0 {
		return usage.MaxTime
	}
	return s.timers.queue[0].at
}

func (s *State) advance(at usage.Time) {
	if at <= s.time {
		return
	}
	for {
		due := s.timers.due(at)
		if due == nil {
			break
		}
		// What ends at an instant has ended by the time of that instant.
		s.time = max(s.time, due.at)
		s.fire(due)
	}
	s.time = max(s.time, at)
	if s.time >= s.seam && s.cfg.History {
		s.seam, s.unsure = s.periodOf(s.time).End, true
	}
}

// fire does what is due.
func (s *State) fire(due *timer) {
	for _, l := range slices.SortedFunc(maps.Keys(due.limits), s.compareLimits) {
		if l.fading || s.limits[l.id] != l {
			continue
		}
		switch {
		case l.period.End == due.at && !l.closed && len(l.standing) > 0:
			s.reset(l, s.beginning(l))
		case l.period.Start == due.at && !s.endedBefore(l):
			if k, _ := s.judgeOf(l); k != nil { // else another period of the limit may be the current one
				s.setState(l, l.current())
			}
		}
	}
	for i, k := range due.counters {
		if len(s.open.dying) >= maxDying {
			s.timers.later = append(s.timers.later, due.counters[i:]...)
			due.counters = due.counters[:i:i]
			break
		}
		if !k.dying {
			s.expire(k)
		}
	}
	for _, l := range due.told {
		s.fade(l)
	}
}

// compareLimits orders limits by client, contract id and place in the
// contract, so that a replay tells of them in the same order.
func (s *State) compareLimits(a, b *limitState) int {
	return cmp.Or(
		cmp.Compare(a.client.name, b.client.name),
		cmp.Compare(a.id.contract, b.id.contract),
		cmp.Compare(s.placeOf(a), s.placeOf(b)),
		cmp.Compare(a.id.limit, b.id.limit),
		cmp.Compare(a.id.dimensions, b.id.dimensions),
		cmp.Compare(a.id.period, b.id.period),
	)
}

// placeOf returns where l's limit stands in its contract, or stood last.
func (s *State) placeOf(l *limitState) int {
	if t := s.inForce(l); t != nil {
		return t.place
	}
	return l.place
}

// beginning returns the state of l's limit in the period that begins when l's
// ends, or nil.
func (s *State) beginning(l *limitState) *limitState {
	if l.period.End == usage.MaxTime {
		return nil
	}
	return s.inPeriod(l, l.period.End, func(other *limitState) bool { return other.period.Start == l.period.End })
}

// endedBefore tells whether the reset of the period before l's has already
// said what limit-state is.
func (s *State) endedBefore(l *limitState) bool {
	return l.period.Start != usage.MinTime && s.inPeriod(l, l.period.Start-1, func(other *limitState) bool {
		return other.period.End == l.period.Start && other.closed
	}) != nil
}

// inPeriod returns the state of l's limit in the period that at lies in, if it
// is as wanted.
func (s *State) inPeriod(l *limitState, at usage.Time, wanted func(*limitState) bool) *limitState {
	id := l.id
	id.period = s.scheduleOf(l.scope).At(at).ID
	if other, ok := s.limits[id]; ok && !other.fading && wanted(other) {
		return other
	}
	return nil
}

// expire lets go of a counter.
func (s *State) expire(k *counter) {
	if at := s.expiry(k); at > s.time { // its period was cut anew since
		s.timers.at(at).counters = append(s.timers.at(at).counters, k)
		return
	}
	k.die()
	s.open.dying = append(s.open.dying, k)
	s.open.touched = true
}

// fade lets go of what a limit told in a period that need not be kept.
func (s *State) fade(l *limitState) {
	if l.fading || s.limits[l.id] != l {
		return
	}
	if at := s.expiryOfLimit(l); at > s.time { // its period was cut anew since
		s.keepUntil(l, at)
		return
	}
	l.fading = true
	s.open.fading = append(s.open.fading, l)
	s.open.touched = true
}

// keepUntil lets l fade at that time, if there is one.
func (s *State) keepUntil(l *limitState, at usage.Time) {
	if at != usage.MaxTime {
		due := s.timers.at(at)
		due.told = append(due.told, l)
	}
}

// expiryOfLimit is expiry for what was told of a counter.
func (s *State) expiryOfLimit(l *limitState) usage.Time {
	return s.expiryOf(s.scheduleOf(l.scope), l.period.End)
}

// scheduleOf returns the schedule of a scope's counters.
func (s *State) scheduleOf(scope Scope) usage.Schedule {
	if scope.Default() {
		return s.cfg.Catalog.Schedule
	}
	key := Scope{Kind: scope.Kind, Timezone: scope.Timezone}
	schedule, ok := s.schedules[key]
	if !ok {
		var err error
		if schedule, err = usage.NewSchedule(scope.Kind, scope.Timezone); err != nil { // a zone that has gone from the database
			schedule = s.cfg.Catalog.Schedule
		}
		s.schedules[key] = schedule
	}
	if schedule.Kind == usage.Anniversary {
		schedule.Anchor = scope.StartsAt
	}
	return schedule
}
