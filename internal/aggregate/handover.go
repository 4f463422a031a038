package aggregate

import (
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
)

// The numbers of limit events belong to a contract, and contracts move between
// clients, also to one of another partition. So at each time one partition
// numbers: the one whose client had the contract last. A contract that comes to
// a client of this partition is held here: its usage is counted, and no limit of
// it judges, until all other partitions have said how far they had numbered.
//
// What a partition says is final. It has taken in what took the contract from
// it, and where it had the contract that is committed, so that no later owner
// of the partition is behind it. It gets the contract back only by asking in
// turn.

// Held is a contract that waits for what other partitions have told of it
// before Revision, at which it came here.
type Held struct {
	Contract string
	Revision int64
}

// Handover is what other partitions had told of a contract: of each limit,
// values and period, the last number.
type Handover struct {
	Held
	Limits []LimitRecord
}

// hold is why a contract is held.
type hold struct {
	client   string
	revision int64 // that brought it here
}

type undoHold struct {
	id     string
	before hold
	held   bool
}

// setHold holds the contract, or with nil no longer, as part of the open
// transaction.
func (s *State) setHold(id string, h *hold) {
	before, held := s.held[id]
	if h == nil && !held {
		return
	}
	s.open.holds = append(s.open.holds, undoHold{id: id, before: before, held: held})
	s.holds++
	if h == nil {
		delete(s.held, id)
		return
	}
	s.held[id] = *h
}

// undoHolds makes the contracts held that were when the open transaction began.
func (s *State) undoHolds() {
	for _, u := range slices.Backward(s.open.holds) {
		s.holds++
		if u.held {
			s.held[u.id] = u.before
		} else {
			delete(s.held, u.id)
		}
	}
}

// attachHeld keeps the limits of contracts that are held anew from judging.
func (s *State) attachHeld() {
	for _, u := range s.open.holds {
		if c := s.clients.named(s.held[u.id].client); c != nil {
			for k := range c.counters() {
				s.attach(k)
			}
		}
	}
}

// receive holds a contract that change brings here, and notes where it takes
// one away.
func (s *State) receive(change *contracts.Change) {
	if !s.cfg.Handover {
		return
	}
	before := change.Prev != nil && s.owns(change.Prev.Client)
	after := change.Next != nil && s.owns(change.Next.Client)
	h, held := s.held[change.ID]
	switch {
	case !after:
		s.setHold(change.ID, nil)
	case !before:
		s.setHold(change.ID, &hold{client: change.Next.Client, revision: change.Revision})
	case held:
		h.client = change.Next.Client
		s.setHold(change.ID, &h)
	}
	known := change.Prev != nil && s.clients.named(change.Prev.Client) != nil // strays are judged here too
	if (before || known) && !after {
		s.partWith()
	}
}

// partWith has the open transaction committed soon: others wait for what is
// decided here to be final.
func (s *State) partWith() { s.open.letGo, s.open.touched = true, true }

// receiveAll holds all contracts of lists that may have come here since the
// table was taken in, up to position.
func (s *State) receiveAll(lists map[string][]*contracts.Contract, position int64) {
	if !s.cfg.Handover {
		s.contracts = position
		return
	}
	from, ours := s.settledUpTo(), map[string]bool{}
	for client, list := range lists {
		if !s.owns(client) {
			continue
		}
		for _, c := range list {
			ours[c.ID] = true
			h, held := s.held[c.ID]
			switch {
			case held && h.client != client:
				h.client = client
				s.setHold(c.ID, &h)
			case !held && c.Revision >= from && !s.stands(c.ID):
				s.setHold(c.ID, &hold{client: client, revision: c.Revision})
			}
		}
	}
	for id := range s.held {
		if !ours[id] {
			s.setHold(id, nil)
		}
	}
	if position > s.contracts {
		s.partWith() // nobody knows of what
	}
	s.contracts = position
}

// stands tells whether a label of the contract stands that its leaving would
// have cleared: then it was here all the time, as nobody numbers elsewhere
// before it was let go here.
func (s *State) stands(id string) bool {
	for l := range s.byContract[id] {
		if !l.fading && !l.closed && len(l.standing) > 0 && s.time < l.period.End {
			return true
		}
	}
	return false
}

// settledUpTo returns the offset on the contracts topic below which nothing
// waits for other partitions.
func (s *State) settledUpTo() int64 {
	if !s.taken {
		return s.settled
	}
	from := s.contracts
	for _, h := range s.held {
		from = min(from, h.revision)
	}
	return from
}

// Awaits returns the offset up to which the table of contracts must have been
// read before it is taken in: an earlier owner of the partition had done so, and
// others rely on that.
func (s *State) Awaits() int64 {
	if s.taken || !s.cfg.Handover {
		return 0
	}
	return s.contracts
}

// Holds tells whether contracts are held, with a number that changes with them.
// It is for the owner.
func (s *State) Holds() (some bool, change uint64) { return len(s.held) > 0, s.holds }

// Held returns the contracts that are held. It is for the owner.
func (s *State) Held() []Held {
	list := make([]Held, 0, len(s.held))
	for id, h := range s.held {
		list = append(list, Held{Contract: id, Revision: h.revision})
	}
	return list
}

// IsHeld tells whether the contract is held.
func (s *State) IsHeld(contract string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, held := s.held[contract]
	return held
}

// HeldCount returns how many contracts are held.
func (s *State) HeldCount() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.held)
}

// maxHandover is about how many records HandOver returns at once.
const maxHandover = 5000

// HandOver returns what is known here of those of the contracts of which that
// is final. Ask again for the others.
func (s *State) HandOver(asked []Held) []Handover {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var answers []Handover
	records := 0
	for _, h := range asked {
		if records >= maxHandover {
			break
		}
		if !s.final(h) {
			continue
		}
		a := Handover{Held: h, Limits: s.numbers(h.Contract)}
		records += len(a.Limits)
		answers = append(answers, a)
	}
	return answers
}

// final tells whether no more will be told here of a contract that has come to
// another partition. Had it come back here since, that would have taken the word
// of the one that asks, which would no longer ask.
func (s *State) final(h Held) bool {
	return s.persisted > h.Revision || s.contracts > h.Revision && !s.open.letGo
}

// numbers returns what was committed of a contract's limits: no more than
// their numbers need.
func (s *State) numbers(id string) []LimitRecord {
	var records []LimitRecord
	for l := range s.byContract[id] {
		at := *l
		if l.txn == s.open.id {
			u := &s.open.limits[l.undo]
			if u.made {
				continue
			}
			at.limitValue = u.before
			at.client = u.client
		}
		at.standing, at.last, at.told = nil, nil, nil
		records = append(records, at.record())
	}
	return records
}

// TakeHandover takes in what all other partitions have told of a contract that
// is held for that: numbers go on from there, and its limits judge. Of one that
// is not held so (any more) nothing is taken.
func (s *State) TakeHandover(h *Handover) {
	held, ok := s.held[h.Contract]
	if !ok || held.revision != h.Revision {
		return
	}
	s.setHold(h.Contract, nil)
	c := s.clients.named(held.client)
	if c == nil {
		return
	}
	for i := range h.Limits {
		s.goOnFrom(c, &h.Limits[i])
	}
	for k := range c.counters() {
		s.attach(k)
		if k.dying || s.time >= k.period.End {
			continue
		}
		for _, b := range k.limits {
			if b.contract.ID == h.Contract {
				s.settle(k, b, alerts.ByContract)
			}
		}
	}
	s.emitAll()
}

// goOnFrom lets the numbers of a limit of c go on from those of r, where they
// are higher than here.
func (s *State) goOnFrom(c *client, r *LimitRecord) {
	id := limitID{contract: r.Contract, limit: r.Limit, dimensions: canonical(r.Dimensions), period: r.Period.ID}
	if l, ok := s.limits[id]; ok && !l.fading {
		if l.sequence < r.Sequence {
			s.touchLimit(l)
			l.sequence = r.Sequence
		}
		return
	}
	l := &limitState{id: id, per: r.Dimensions, client: c}
	l.limitValue = limitValue{
		meter: r.Meter, scope: r.Scope, where: r.Where, period: r.Period, place: r.Place,
		revision: r.Revision, value: r.Value, decimals: r.Decimals, enforcement: r.Enforcement,
		sequence: r.Sequence, closed: r.Closed && s.time >= r.Period.End, // partitions are not equally far
	}
	until := s.expiryOfLimit(l)
	if until <= s.time {
		return
	}
	s.addLimit(l)
	s.touchLimit(l)
	s.open.limits[l.undo].made = true
	s.keepUntil(l, until)
}

// addLimit makes l one of the limits that are known.
func (s *State) addLimit(l *limitState) {
	s.limits[l.id] = l
	l.client.addLimit(l)
	if !s.cfg.Handover {
		return
	}
	if s.byContract[l.id.contract] == nil {
		s.byContract[l.id.contract] = map[*limitState]struct{}{}
	}
	s.byContract[l.id.contract][l] = struct{}{}
}

// dropLimit undoes addLimit.
func (s *State) dropLimit(l *limitState) {
	if s.limits[l.id] == l {
		delete(s.limits, l.id)
	}
	l.client.dropLimit(l)
	of := s.byContract[l.id.contract]
	if delete(of, l); len(of) == 0 {
		delete(s.byContract, l.id.contract)
	}
}
