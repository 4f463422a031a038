// Package model is the rules of counting and limits (R0 to R19) once more, in
// the simplest way that is still exact: a list of inputs in their order, and
// one function that goes through it.
//
// It keeps facts and nothing that follows from facts: what was counted, which
// ids were claimed, which contracts are in force, which limit events were told.
// Totals, standing labels, sequence numbers and limit-state are found by going
// through those lists whenever they are wanted. It is slow, it has no undo and
// no disk, and it was written from the rules and not from the package that it
// is held against. Only tests use it; nothing in it may be shared by goroutines.
package model

import (
	"slices"
	"time"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// Config is all that counting depends on beside its inputs.
type Config struct {
	ApplicationID     string
	Topic             string
	Partition         int32
	ContractsTopic    string
	Catalog           *usage.Catalog
	MeterMapped       bool
	DedupeWindow      time.Duration // 0: no event is a duplicate
	MaxFuture         time.Duration
	AllowedLateness   time.Duration
	DeadLetterUnknown bool
	KeepPeriods       int

	History      bool // counters are seeded from history below their boundary
	Bounded      bool // history has no offsets: its answers are exact to a bound only
	MarkSeeded   bool
	Boundary     int64      // the first offset that is counted
	BoundaryTime usage.Time // when that was decided
}

// Input is one thing that happens. Exactly one of its parts is set.
type Input struct {
	At       usage.Time // the clock, which never goes back
	Record   *Record
	Revision *Revision
	Start    []Revision // meterd starts (again), and first reads what became of these
	Advance  *usage.Time
	Answer   *Answer
	Commit   bool
}

// Record is a record of the usage topic. One without an event was found bad
// before it was looked at as an event.
type Record struct {
	Timestamp usage.Time
	Event     *usage.Event
}

// Revision is a record of the contracts topic.
type Revision struct {
	ID       string
	Contract *contracts.Contract // nil: removed
	Offset   int64
}

// Fate is what became of a record.
type Fate string

// The fates of records.
const (
	Counted      Fate = "counted"
	Duplicate    Fate = "duplicate"
	Ignored      Fate = "ignored"
	DeadLettered Fate = "dead_lettered"
	Voided       Fate = "voided"
)

// Result is what became of a record, and how.
type Result struct {
	Fate    Fate
	Reason  usage.Reason
	Late    bool
	LeftOut int
}

// Scope says which counters of a client and meter are meant; the zero Scope
// those of the default schedule.
type Scope struct {
	Contract string
	Kind     usage.Kind
	Zone     string
	StartsAt usage.Time
	Where    string
	Per      string
}

// Key is what makes a counter the one it is. Dimensions are canonical JSON,
// "{}" for a total.
type Key struct {
	Client     string
	Meter      int
	Scope      Scope
	Dimensions string
	Period     string
}

// Counter is what a counter says.
type Counter struct {
	Period  usage.Period
	Total   usage.Quantity
	Events  int64
	Pending bool
	Seeded  int64 // events of its history
}

// Tuple is what the sequence of limit events belongs to. Dimensions are the per
// values as canonical JSON.
type Tuple struct{ Contract, Limit, Dimensions, Period string }

// Account is what a limit has told in a period.
type Account struct {
	Client   string
	Meter    int
	Sequence int64
	Standing []contracts.Threshold
}

// Commit is all that is true once a transaction is committed.
type Commit struct {
	Position int64
	Time     usage.Time
	Results  []Result       // of the records since the last commit
	Events   []alerts.Event // since the last commit; DecidedAt is 0
	Counters map[Key]Counter
	Accounts map[Tuple]Account
	States   map[string]alerts.Event // what limit-state has, by its keys
	Asks     []Ask                   // what history is yet to answer
}

// Replay goes through inputs and returns what is true at each commit.
func Replay(cfg Config, inputs []Input) []Commit {
	w := &world{cfg: cfg, time: usage.MinTime, position: cfg.Boundary, began: cfg.Boundary, inForce: map[string]*contracts.Contract{}}
	for i := range inputs {
		w.take(&inputs[i])
	}
	return w.commits
}

// world is what has happened.
type world struct {
	cfg      Config
	now      usage.Time
	time     usage.Time // partition time
	position int64
	before   int64 // position, before the input at hand

	uses     []use // all that was counted
	claims   []claim
	kept     []*counter
	accounts []*account
	inForce  map[string]*contracts.Contract // by id

	revisions []Revision // all that were read
	forces    []force
	known     []string   // clients that have anything
	began     int64      // position, at the last commit
	seam      usage.Time // end of the default period that counters were ensured in
	unsure    bool       // another has begun since
	fit       bool       // the quantities of an answer

	results []Result
	events  []alerts.Event
	commits []Commit
}

func (w *world) take(in *Input) {
	w.now, w.before = max(w.now, in.At), w.position
	if w.unsure {
		w.unsure = false
		for _, client := range w.bound() {
			w.ensure(client)
		}
	}
	switch {
	case in.Record != nil:
		w.results = append(w.results, w.record(in.Record))
	case in.Revision != nil:
		w.revise(*in.Revision)
	case in.Start != nil:
		w.start(in.Start)
	case in.Advance != nil:
		w.advance(*in.Advance)
	case in.Answer != nil:
		w.answer(in.Answer)
	case in.Commit:
		w.commit()
	}
}

// bound returns the clients that have limits.
func (w *world) bound() (list []string) {
	for _, c := range w.inForce {
		if len(c.Limits) > 0 {
			list = add(list, c.Client)
		}
	}
	slices.Sort(list)
	return list
}

// counting returns the clients that have counters.
func (w *world) counting() (list []string) {
	for _, k := range w.kept {
		list = add(list, k.Client)
	}
	return list
}

func (w *world) commit() {
	c := Commit{
		Position: w.position, Time: w.time, Results: w.results, Events: w.events,
		Counters: map[Key]Counter{}, Accounts: map[Tuple]Account{}, States: w.states(), Asks: w.asks(),
	}
	for _, k := range w.kept {
		c.Counters[k.Key] = w.value(k)
	}
	for _, a := range w.accounts {
		c.Accounts[a.Tuple] = Account{Client: a.counter.Client, Meter: a.counter.Meter, Sequence: a.sequence(), Standing: a.standing()}
	}
	w.commits = append(w.commits, c)
	w.results, w.events = nil, nil
	w.began, w.known = w.position, append(w.counting(), w.bound()...)
}
