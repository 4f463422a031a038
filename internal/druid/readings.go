package druid

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// readingKey is what one client was asked for.
type readingKey struct {
	edge
	cut, start, end usage.Time
	client          string
}

// reading is what the first of two answers said, under good conditions.
type reading struct {
	digest uint64 // of all that it said
	at     time.Time
}

// readings remembers first answers where rows have no offsets, so that no count
// can prove them. They are never written down: after a restart what is pending
// is read twice anew.
type readings struct {
	mu sync.Mutex
	of map[readingKey]reading // under mu
}

func (q *Question) reading(client string) readingKey {
	return readingKey{edge: edge{q.Partition, q.Boundary}, cut: q.Cut, start: q.Start, end: q.End, client: client}
}

// forget forgets the first answers of all of q's clients.
func (r *readings) forget(q *Question) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range q.Clients {
		delete(r.of, q.reading(c))
	}
}

// second tells whether digest is the same as in an answer at least proofGap
// ago, or why not. Without one, or after another one, this is the first. No
// more than limit are remembered.
func (r *readings) second(key readingKey, digest uint64, now time.Time, limit int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, ok := r.of[key]
	switch {
	case ok && first.digest == digest && now.Sub(first.at) >= proofGap:
		delete(r.of, key)
		return nil
	case ok && first.digest == digest:
		return fmt.Errorf("%w: a second equal reading is needed, %s after the first", ErrIncomplete, proofGap)
	}
	if r.of == nil {
		r.of = map[readingKey]reading{}
	}
	if !ok && len(r.of) >= limit {
		for other := range r.of { // any one: it can be read again
			delete(r.of, other)
			break
		}
	}
	r.of[key] = reading{digest, now}
	if ok {
		return fmt.Errorf("%w: two readings differ", ErrIncomplete)
	}
	return fmt.Errorf("%w: a second equal reading is needed", ErrIncomplete)
}

// bounded asks for the sums where rows have no offsets, and so there is no
// control count of which is known what it must be. A client's answer is proven
// by a second one that is equal, at least proofGap later, if everything below
// the boundary was published and every segment available before and after both
// of them: what was lost at the first is known, or here again, by the second.
// That Druid's tasks have read up to the boundary is not enough: what a dead
// task had read is gone until it is read again, and no status page tells.
func (s *Seeder) bounded(ctx context.Context, q *Question) (answer, error) {
	e := edge{partition: q.Partition, boundary: q.Boundary}
	unsettled := func(err error) (answer, error) {
		s.readings.forget(q)
		return answer{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	if err := s.settled(ctx, e); err != nil {
		return unsettled(err)
	}
	// No count would tell of rows that are in several groups because a column
	// has several values by now.
	kinds, err := s.lookAtSchema(ctx)
	if err != nil {
		return answer{}, err
	}
	a, err := s.sums(ctx, q, kinds)
	if err != nil {
		return answer{}, err
	}
	if a, err = s.latest(ctx, q, kinds, a); err != nil {
		return answer{}, err
	}
	if err := s.settled(ctx, e); err != nil {
		return unsettled(err)
	}
	now := s.now()
	a.again = map[string]error{}
	for _, client := range q.Clients {
		if a.bad[client] != nil {
			continue
		}
		if err := s.readings.second(q.reading(client), a.digests[client], now, 2*s.cfg.MaxPending); err != nil {
			a.again[client] = err
		}
	}
	return a, nil
}
