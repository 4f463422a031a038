package aggregate

import (
	"slices"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// client is what one partition knows of a client.
type client struct {
	name   string
	slots  []family      // default counters, by meter
	own    []*ownScope   // the scopes of limits that cannot use default counters
	terms  []term        // limits in force, by contract id, then in the contract's order
	limits []*limitState // of any period that is kept
}

// term is a limit of a contract of the client.
type term struct {
	contract *contracts.Contract
	limit    *contracts.Limit
	place    int   // in the contract
	scope    Scope // of the counters that it has of its own, where it has any
	view     view
	shared   bool // default counters serve it, but for periods that the contract cuts
}

// ownScope has the counters that limits of one contract share because they cut
// time or take dimensions in the same way, and not as default counters do.
type ownScope struct {
	family
	scope    Scope
	scopeKey string // what stands for scope in keys of the changelog
	meter    int
	view     view
	dims     map[string]string // of the counters that are not of a group
	cutOnly  bool              // the schedule is the default one: only cut periods are counted here
	binding
}

// binding is what contracts change of an ownScope, and is copied for the undo
// log.
type binding struct {
	schedule usage.Schedule
	from, to usage.Time // of the contract; events outside are not counted
	live     bool       // a term in force uses it
	lead     usage.Time // no event of this time or later was passed over before the scope was in force; 0: not known
	asOf     usage.Time // partition time when the scope came into force
	since    int64      // the offset from which on every event for the scope was counted
}

// counter is the total of one meter for one client, scope, combination of
// dimension values and period. What each event looks at comes first: it shares
// two lines of cache.
type counter struct {
	txn   int64 // the transaction that last touched it
	undo  int32 // where in that transaction's dirty list
	dying bool  // to be forgotten when the open transaction commits
	counterValue
	limits []*boundLimit
	set    *distinct
	client *client
	meter  int
	own    *ownScope // nil for a default counter
	group  *group    // nil where values are not told apart
}

// counterValue is what changes of a counter, and is copied for the undo log.
type counterValue struct {
	period *usage.Period
	total  usage.Quantity

	// A total that stays in [floor, ceiling) passes no threshold.
	floor, ceiling usage.Quantity

	events      int64
	first, last usage.Time
	seed        Seed
}

type undoCounter struct {
	counter *counter
	before  counterValue
	set     distinctMark
	made    bool
	elder   *counter // of a family's newest
}

// clientOf returns the client called name, made if need be.
func (s *State) clientOf(name []byte) *client {
	if c := s.clients.named(string(name)); c != nil {
		return c
	}
	c := &client{name: string(name), slots: newFamilies(len(s.cfg.Catalog.Meters))}
	s.clients.add(c)
	s.open.clients = append(s.open.clients, c)
	list := s.terms.Of(c.name)
	if s.cfg.Handover && s.owns(c.name) {
		list = nil // what was taken in of it would have made it: the rest is for TakeContracts
	}
	s.bind(c, list, s.open.position) // a new client has had no event in this transaction
	if s.cfg.Owns != nil && !s.cfg.Owns(c.name) {
		s.open.misplaced++
	}
	return c
}

// lose drops c, of which nothing is kept, from memory.
func (s *State) lose(c *client) {
	s.clients.remove(c)
	s.lost++
}

// empty tells whether nothing is kept of c but its name.
func (c *client) empty() bool {
	if len(c.limits) > 0 || len(c.terms) > 0 {
		return false
	}
	for range c.counters() {
		return false
	}
	return true
}

// counters yields all counters of c.
func (c *client) counters() func(yield func(*counter) bool) {
	return func(yield func(*counter) bool) {
		for i := range c.slots {
			if !c.slots[i].each(yield) {
				return
			}
		}
		for _, o := range c.own {
			if !o.each(yield) {
				return
			}
		}
	}
}

// family returns where the counters of a meter and scope are, or nil.
func (c *client) family(meter int, scope Scope) *family {
	if scope.Default() {
		return &c.slots[meter]
	}
	if o := c.scope(scope, meter); o != nil {
		return &o.family
	}
	return nil
}

// periodAt returns the period of the scope that t lies in, cut to the
// contract, and false where events of that time are not counted here.
func (o *ownScope) periodAt(t usage.Time) (usage.Period, bool) {
	if t < o.from || t >= o.to {
		return usage.Period{}, false
	}
	whole := o.schedule.At(t)
	cut := whole.Cut(o.from, o.to)
	if o.cutOnly && cut == whole {
		return usage.Period{}, false
	}
	return cut, true
}

// touch notes the value of k before the open transaction changes it.
func (s *State) touch(k *counter) {
	if k.txn == s.open.id {
		return
	}
	k.txn, k.undo = s.open.id, int32(len(s.open.dirty))
	u := undoCounter{counter: k, before: k.counterValue}
	if k.set != nil {
		u.set = k.set.mark()
	}
	s.open.dirty = append(s.open.dirty, u)
	s.open.touched = true
}

// make adds a counter of client c, whose total begins at zero, as part of the
// open transaction. The stream has been counting into it, had there been
// anything, from its boundary on: one offset for many counters, so that few
// questions to history serve all of them.
func (s *State) make(c *client, meter int, own *ownScope, g *group, period *usage.Period) *counter {
	k := &counter{client: c, meter: meter, own: own, group: g}
	k.period, k.first, k.last = period, usage.MaxTime, usage.MinTime
	if s.cfg.Catalog.Meters[meter].Aggregation == usage.Unique {
		k.set = newDistinct()
	}
	k.seed = s.seedFor(k)
	elder := k.join()
	s.touch(k)
	s.open.dirty[k.undo].made, s.open.dirty[k.undo].elder = true, elder
	s.attach(k)
	if at := s.expiry(k); at != usage.MaxTime {
		s.timers.at(at).counters = append(s.timers.at(at).counters, k)
	}
	return k
}

// forget drops k from memory.
func (s *State) forget(k *counter) {
	k.die()
	k.slot().remove(k)
	if k.group != nil && k.group.last == nil {
		k.family().drop(k.group)
	}
	if k.client.empty() {
		s.lose(k.client)
	}
}

// scope says which counter of its client and meter k is.
func (k *counter) scope() Scope {
	if k.own == nil {
		return Scope{}
	}
	return k.own.scope
}

func (k *counter) family() *family {
	if k.own != nil {
		return &k.own.family
	}
	return &k.client.slots[k.meter]
}

func (k *counter) slot() *slot {
	if k.group != nil {
		return &k.group.slot
	}
	return &k.family().slot
}

// dims returns the values of dimensions that k is of, nil for none.
func (k *counter) dims() map[string]string {
	switch {
	case k.group != nil:
		return k.group.dims
	case k.own != nil:
		return k.own.dims
	}
	return nil
}

// periodOf returns the default schedule's period of t.
func (s *State) periodOf(t usage.Time) *usage.Period {
	for i, p := range s.periods {
		if p.Contains(t) {
			if i > 0 {
				s.periods[0], s.periods[i] = p, s.periods[0]
			}
			return p
		}
	}
	p := s.cfg.Catalog.Schedule.At(t)
	const kept = 64 // far more than are in use at once, with hours and days of lateness
	if len(s.periods) >= kept {
		s.periods = s.periods[:kept-1]
	}
	s.periods = slices.Insert(s.periods, 0, &p)
	return &p
}

// expiry returns when k need no longer be kept: when both the configured
// number of periods and the allowed lateness have passed since its end.
func (s *State) expiry(k *counter) usage.Time {
	if k.own != nil {
		return s.expiryOf(k.own.schedule, k.period.End)
	}
	at, ok := s.expiries[k.period.End] // there are few periods and many counters
	if !ok {
		at = s.expiryOf(s.cfg.Catalog.Schedule, k.period.End)
		s.expiries[k.period.End] = at
	}
	return at
}

func (s *State) expiryOf(schedule usage.Schedule, end usage.Time) usage.Time {
	if end == usage.MaxTime {
		return usage.MaxTime
	}
	late := end.Add(s.cfg.AllowedLateness)
	if schedule.Kind == usage.Lifetime {
		return late
	}
	for range s.cfg.KeepPeriods {
		end = schedule.At(end).End
	}
	return max(end, late)
}
