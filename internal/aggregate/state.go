// Package aggregate is the state of one partition of the usage topic: the
// counters of its clients, what their limits have told, the event ids of the
// dedupe window, and partition time.
//
// Inputs are folded in one at a time (usage events, contract changes, answers
// from history, the passing of time) and gather into one open transaction.
// Changes tells what it holds, for the changelog and the output topics. Then
// either Committed makes it what readers see, or Rollback undoes all of it, and
// the same inputs may be folded in again. Nothing here does I/O or reads a
// clock, so the same inputs always give the same changes.
//
// One goroutine owns a State: it calls Begin before it changes anything and End
// after, and never waits in between. Any goroutine may read; readers see
// committed values only.
package aggregate

import (
	"slices"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// UnknownMeterPolicy says what becomes of an event that no meter takes.
type UnknownMeterPolicy string

// The policies for events that no meter takes.
const (
	IgnoreUnknown     UnknownMeterPolicy = "ignore"
	DeadLetterUnknown UnknownMeterPolicy = "dead_letter"
)

// Config is all that counting depends on beside its inputs.
type Config struct {
	ApplicationID   string
	Topic           string // of usage events
	Partition       int32
	ContractsTopic  string
	Catalog         *usage.Catalog
	MeterMapped     bool          // events name their meter; else each counts on every meter
	DedupeWindow    time.Duration // 0: no event is a duplicate
	MaxFuture       time.Duration
	AllowedLateness time.Duration
	UnknownMeter    UnknownMeterPolicy
	KeepPeriods     int
	History         bool // counters are seeded from history below their boundary
	Bounded         bool // history has no offsets: seeds are bounded
	MarkSeeded      bool // thresholds that history had crossed go to limit-state alone

	// Owns tells whether the producers' partitioner puts client here.
	Owns func(client string) bool

	// Handover is set where there are other partitions: a contract that comes
	// to one of our clients may have been told of there.
	Handover bool
}

// State is the state of one partition. See the package comment for who may
// call what.
type State struct {
	cfg         Config
	meters      map[string]int
	plain       []int  // meters without a condition
	conditional []int  // meters with one
	views       []view // of the default counters of each meter

	mu      sync.RWMutex // guards all below; the owner holds it between Begin and End
	clients directory
	lost    int // clients that were dropped from memory
	limits  map[limitID]*limitState
	terms   *contracts.Table
	version int64             // of the table, as far as it was taken in
	taken   bool              // the table was taken in as a whole
	unsure  bool              // counters that limits need may be missing: ensure them
	seam    usage.Time        // end of the default period that was ensured
	fresh   bool              // Start was called, and nothing was committed since
	stale   []CounterRecord   // in the changelog, of no use any more
	absent  map[string]string // clients looked up in vain, and the period

	byContract map[string]map[*limitState]struct{} // limits; only with Handover
	held       map[string]hold                     // contracts that wait for other partitions, by id
	holds      uint64                              // changes of held
	contracts  int64                               // next offset of their topic, as far as it was taken in
	persisted  int64                               // the same, as it was committed
	settled    int64                               // until the table is taken in: what settledUpTo was

	now       usage.Time // the clock, as of Begin
	position  int64
	time      usage.Time // partition time
	kept      usage.Time // the same, as it is in the changelog
	birth     PositionRecord
	committed Committed
	dedupe    dedupe // of event ids that were counted
	voids     dedupe // of event ids that were taken back, or are to be
	timers    timers
	periods   []*usage.Period           // of the default schedule, the last used first
	schedules map[Scope]usage.Schedule  // of scopes, by kind and zone
	expiries  map[usage.Time]usage.Time // of default counters, by the ends of their periods

	open transaction

	// Of the event at hand.
	folding bool // an event is being counted
	takings []taking
	targets []target
	texts   [][]byte
	text    []byte
	key     []byte
	id      []byte

	foreseen []foreseen // events that are to be folded next, in their order
	recalled int        // how many of them were
	sink     uint64     // of what is read only to have it in the cache
}

// Committed is what the last commit made true of the partition as a whole.
type Committed struct {
	Position int64      // next offset to be counted
	Time     usage.Time // partition time
	At       usage.Time // when, by the clock
}

// transaction is what has changed since the last commit, and how to undo it.
type transaction struct {
	id       int64 // never reused
	dirty    []undoCounter
	limits   []undoLimit
	clients  []*client // made in it
	binds    []undoBind
	dying    []*counter
	fading   []*limitState
	events   []*alerts.Event
	states   []StateChange
	emits    []emission // of the cause at hand, not yet in order
	asks     []Ask
	position int64
	time     usage.Time
	version  int64
	taken    bool
	unsure   bool
	seam     usage.Time
	touched  bool
	stale    int // records that it removes

	contracts int64
	holds     []undoHold
	letGo     bool // contracts were taken from clients here, and that is not committed

	misplaced int // clients first seen here that belong elsewhere
}

// New returns the state of a partition that has counted nothing. table may
// change under it: State takes its changes in when told to.
func New(cfg Config, table *contracts.Table) *State {
	s := &State{
		cfg:       cfg,
		meters:    make(map[string]int, len(cfg.Catalog.Meters)),
		clients:   newDirectory(),
		limits:    map[limitID]*limitState{},
		terms:     table,
		held:      map[string]hold{},
		time:      usage.MinTime,
		committed: Committed{Time: usage.MinTime},
		schedules: map[Scope]usage.Schedule{},
		expiries:  map[usage.Time]usage.Time{},
		dedupe:    newDedupe(cfg.DedupeWindow, false),
		voids:     newDedupe(cfg.DedupeWindow, true),
		timers:    newTimers(),
	}
	for i := range cfg.Catalog.Meters {
		m := &cfg.Catalog.Meters[i]
		s.meters[m.Name] = i
		s.views = append(s.views, defaultView(m))
		if m.When == nil {
			s.plain = append(s.plain, i)
		} else {
			s.conditional = append(s.conditional, i)
		}
	}
	if cfg.Handover {
		s.byContract = map[string]map[*limitState]struct{}{}
	}
	s.open.id = 1
	s.bear(nil, 0, 0)
	s.mark()
	return s
}

// Start sets where a partition without any state begins to count: at offset
// position, decided at now. It is part of the first commit.
func (s *State) Start(position int64, now usage.Time) {
	s.position = position
	s.birth = PositionRecord{Boundary: position, BoundaryTime: now}
	s.bear(nil, position, now)
	s.mark()
	s.fresh, s.open.touched = true, true
}

// Begin takes the lock for changes and tells the clock. Call End soon.
func (s *State) Begin(now usage.Time) {
	s.mu.Lock()
	s.now = max(s.now, now)
}

// End gives the lock back.
func (s *State) End() { s.mu.Unlock() }

// Position returns the next offset to be folded in.
func (s *State) Position() int64 { return s.position }

// Touched tells whether there is anything to commit.
func (s *State) Touched() bool { return s.open.touched }

// Urgent tells whether the open transaction holds what must not wait: limit
// events, or that a contract was let go, which another partition waits for.
func (s *State) Urgent() bool {
	return len(s.open.events) > 0 || len(s.open.states) > 0 || s.open.letGo
}

// Dirty returns how many records of the changelog a commit would write, about.
func (s *State) Dirty() int {
	return len(s.open.dirty) + len(s.open.limits) + len(s.open.dying) + (len(s.dedupe.fresh)+len(s.voids.fresh))/maxSegment + 1
}

// mark notes what Rollback returns to.
func (s *State) mark() {
	s.open.position, s.open.time, s.open.version = s.position, s.time, s.version
	s.open.taken, s.open.unsure, s.open.seam = s.taken, s.unsure, s.seam
	s.open.contracts = s.contracts
}

// Committed makes the open transaction what readers see, and begins the next.
// It takes the lock by itself.
func (s *State) Committed(now usage.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open.dying {
		s.forget(c)
	}
	for _, l := range s.open.fading {
		s.forgetLimit(l)
	}
	for _, u := range s.open.binds {
		c := u.client
		c.own = slices.DeleteFunc(c.own, func(o *ownScope) bool { return !o.live && o.last == nil && len(o.list) == 0 })
		if c.empty() && s.clients.has(c) {
			s.lose(c) // its contracts are gone, and it had nothing else
		}
	}
	s.dedupe.committed()
	s.voids.committed()
	s.timers.committed()
	s.fresh, s.stale = false, s.stale[s.open.stale:]
	s.committed = Committed{Position: s.position, Time: s.time, At: now}
	s.persisted, s.kept = s.contracts, s.time
	s.next()
}

// Rollback undoes all of the open transaction, the changes of contracts too,
// and begins the next. It takes the lock by itself.
func (s *State) Rollback() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.position, s.time, s.version = s.open.position, s.open.time, s.open.version
	s.taken, s.unsure, s.seam = s.open.taken, s.open.unsure, s.open.seam
	s.contracts = s.open.contracts
	s.undoHolds()
	for _, u := range slices.Backward(s.open.binds) {
		u.restore()
	}
	for _, c := range s.open.dying {
		c.revive()
	}
	for _, u := range s.open.limits {
		u.limit.limitValue = u.before
		u.limit.moveTo(u.client)
		if u.made {
			s.forgetLimit(u.limit)
		}
	}
	for _, l := range s.open.fading {
		if l.fading = false; l.client.hasLimit(l) { // else it was made in the open transaction
			s.limits[l.id] = l
		}
	}
	for _, u := range slices.Backward(s.open.dirty) {
		u.counter.counterValue = u.before
		if u.counter.set != nil {
			u.counter.set = u.set.undo()
		}
		if u.made {
			if u.counter.group != nil {
				u.counter.family().newest = u.elder
			}
			s.forget(u.counter)
		}
	}
	for _, c := range s.open.clients {
		if c.terms = nil; c.empty() {
			s.lose(c)
		}
	}
	for _, u := range s.open.binds {
		for k := range u.client.counters() {
			s.attach(k)
		}
	}
	s.attachHeld()
	s.dedupe.rollback()
	s.voids.rollback()
	s.timers.rollback()
	s.next()
}

func (s *State) next() {
	s.open = transaction{
		id: s.open.id + 1, dirty: s.open.dirty[:0], limits: s.open.limits[:0], clients: s.open.clients[:0],
		dying: s.open.dying[:0], fading: s.open.fading[:0], emits: s.open.emits[:0],
		touched: s.fresh || len(s.stale) > 0,
	}
	s.timers.resume(s.time)
	s.mark()
}
