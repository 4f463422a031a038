package druid

import (
	"context"
	"slices"

	"github.com/meterd/meterd/internal/usage"
)

// Request asks for the history of one client in one partition, within the
// bounds that Question describes. The fewer different boundaries and bounds
// there are, the more requests share a question: one boundary for all clients
// of a partition is best.
type Request struct {
	Partition  int32
	Boundary   int64
	Start, End usage.Time
	Cut        usage.Time // 0 where rows have offsets
	Client     string
}

// State is how far a request has come.
type State string

// The states of a request.
const (
	// Pending: not answered yet, and nothing is known to be wrong.
	Pending State = "pending"
	// Failed: attempts keep failing. It is retried for ever all the same.
	Failed State = "failed"
	// Exact: answered, with proof. The request is done.
	Exact State = "exact"
	// Bounded: answered, right but for what Question.Cut leaves in doubt. The
	// request is done.
	Bounded State = "bounded"
)

// Done tells whether a request is answered.
func (s State) Done() bool { return s == Exact || s == Bounded }

// failedAfter is how many attempts fail before a request is Failed: Druid is
// often a few seconds behind, which is no failure.
const failedAfter = 3

// Update tells what became of a request.
type Update struct {
	Request
	State    State   // Failed, Exact or Bounded
	Totals   []Total // of a request that is Done, in the order of Ask; none: proven that there was no usage
	Reason   error   // of the last attempt of a Failed request
	Attempts int     // made so far
}

// Submitter is one caller's set of requests: that of an assigned partition,
// say, which takes all of them back by Close when it is lost. Made by
// Seeder.Submitter; any goroutine may use it.
//
// Nothing in it blocks. What it holds is bounded by Config.MaxPending: from
// Submit until the Update with the answer is taken, a request has a place.
type Submitter struct {
	seeder  *Seeder
	ready   chan struct{}
	entries map[Request]*entry // outstanding, or answered and not taken; under Seeder.mu
	updates []*entry           // to be taken, each once; under Seeder.mu
	closed  bool               // under Seeder.mu
}

// entry is a request on its way. All of it is under Seeder.mu.
type entry struct {
	owner    *Submitter
	request  Request
	state    State
	totals   []Total
	reason   error
	attempts int
	batch    *batch // the question it is part of right now, if any
	group    *group // where it waits, if it waits
	queued   bool   // is in owner.updates
	gone     bool   // withdrawn
}

// Submitter returns an empty set of requests. Close it when it is not needed
// any more.
func (s *Seeder) Submitter() *Submitter {
	return &Submitter{seeder: s, ready: make(chan struct{}, 1), entries: make(map[Request]*entry)}
}

// Submit takes requests in order while there is room and returns how many it
// took. Offer the rest again after the next Take. One that is already
// outstanding counts as taken and is not asked twice. One that makes no sense
// (a negative boundary, an empty client) is Failed and never asked. After Close
// it takes none.
func (u *Submitter) Submit(requests ...Request) int {
	s := u.seeder
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.closed {
		return 0
	}
	defer s.wake()
	for i, r := range requests {
		if _, ok := u.entries[r]; ok {
			continue
		}
		if len(u.entries) >= s.cfg.MaxPending {
			return i
		}
		e := &entry{owner: u, request: r, state: Pending}
		u.entries[r] = e
		s.metrics.requests.Inc()
		q := Question{Partition: r.Partition, Boundary: r.Boundary, Start: r.Start, End: r.End, Cut: r.Cut, Clients: []string{r.Client}}
		if err := q.validate(&s.cfg); err != nil {
			e.attempts = failedAfter // it would fail each time, and others with it
			s.fail(e, err)
			continue
		}
		s.queue.add(e, s.now(), s.cfg.BatchClients)
	}
	return len(requests)
}

// Ready has a value when there may be something to Take.
func (u *Submitter) Ready() <-chan struct{} { return u.ready }

// Take returns what became known since the last Take, a request at most once.
// Requests that are Done are done with; those that are Failed stay
// outstanding.
func (u *Submitter) Take() []Update {
	s := u.seeder
	s.mu.Lock()
	defer s.mu.Unlock()
	updates := make([]Update, 0, len(u.updates))
	for _, e := range u.updates {
		e.queued = false
		if e.gone {
			continue
		}
		updates = append(updates, Update{Request: e.request, State: e.state, Totals: e.totals, Reason: e.reason, Attempts: e.attempts})
		if e.state.Done() {
			delete(u.entries, e.request)
		}
	}
	u.updates = nil
	return updates
}

// Withdraw takes requests back: there will be no more updates of them. A
// question under way that has no other requests is cancelled.
func (u *Submitter) Withdraw(requests ...Request) {
	s := u.seeder
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range requests {
		if e, ok := u.entries[r]; ok {
			s.withdraw(e)
		}
	}
}

// Close takes all requests back, for good.
func (u *Submitter) Close() {
	s := u.seeder
	s.mu.Lock()
	defer s.mu.Unlock()
	u.closed = true
	for _, e := range u.entries {
		s.withdraw(e)
	}
	u.updates = nil
}

// withdraw forgets e. s.mu is held.
func (s *Seeder) withdraw(e *entry) {
	e.gone = true
	delete(e.owner.entries, e.request)
	if !e.state.Done() {
		s.metrics.requests.Dec()
	}
	if e.state == Failed {
		s.metrics.failed.Dec()
	}
	if e.batch != nil {
		e.batch.leave()
	}
	if e.group != nil {
		s.queue.drop(e.group)
	}
}

// publish puts e among the updates of its owner. s.mu is held.
func (e *entry) publish() {
	if !e.queued {
		e.queued = true
		e.owner.updates = append(e.owner.updates, e)
	}
	select {
	case e.owner.ready <- struct{}{}:
	default: // it is set already
	}
}

// batch is one question under way and the entries it is for.
type batch struct {
	group   *group
	entries []*entry
	left    int // entries not withdrawn; under Seeder.mu
	cancel  context.CancelFunc
}

// leave counts one withdrawn entry, and ends the question when it was the
// last. Seeder.mu is held.
func (b *batch) leave() {
	if b.left--; b.left == 0 {
		b.cancel()
	}
}

func (b *batch) question() *Question {
	k := b.group.key
	q := &Question{Partition: k.partition, Boundary: k.boundary, Start: k.start, End: k.end, Cut: k.cut}
	for _, e := range b.entries {
		q.Clients = append(q.Clients, e.request.Client)
	}
	slices.Sort(q.Clients)
	return q
}
