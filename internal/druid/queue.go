package druid

import (
	"container/heap"
	"slices"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// gather is how long the first request of a group waits for others to share
// its question.
const gather = 50 * time.Millisecond

// groupKey is what requests have in common that can share a question. The
// owner is part of it, so that withdrawing all of one's requests ends
// questions instead of leaving them to others.
type groupKey struct {
	owner      *Submitter
	partition  int32
	boundary   int64
	start, end usage.Time
	cut        usage.Time
	reading    int  // 0, or the number of what was read once and must be read again, all of it at the same time
	suspect    bool // clients whose totals are not exact: apart, so that others do not wait for them
}

// group is the requests that can share a question and the state of their
// retries. It exists while it has any. All of it is under Seeder.mu.
type group struct {
	key      groupKey
	entries  []*entry  // waiting, oldest first; withdrawn ones among them
	waiting  int       // of entries, those not withdrawn
	asking   int       // questions under way
	limit    int       // clients of one question
	failures int       // in a row
	at       time.Time // not before
	index    int       // in queue.heap, -1: not in it
}

// queue has the groups with waiting requests, the one that may be asked
// soonest on top. It is as large as the sets of requests that callers hold.
type queue struct {
	groups   map[groupKey]*group
	heap     groupHeap
	paused   time.Time // no question before this: Druid is down or busy
	failures int       // of Druid as a whole, in a row
	readings int       // groups for a second reading so far
}

func newQueue() queue { return queue{groups: make(map[groupKey]*group)} }

func (q *queue) group(key groupKey, limit int) *group {
	g, ok := q.groups[key]
	if !ok {
		g = &group{key: key, limit: limit, index: -1}
		q.groups[key] = g
	}
	return g
}

// add puts a new request behind those of its group.
func (q *queue) add(e *entry, now time.Time, limit int) {
	r := e.request
	g := q.group(groupKey{owner: e.owner, partition: r.Partition, boundary: r.Boundary, start: r.Start, end: r.End, cut: r.Cut}, limit)
	g.push(e)
	switch {
	case g.failures > 0: // its time is that of the next attempt
	case g.index < 0:
		g.at = now.Add(gather)
	case g.waiting >= g.limit && g.at.After(now): // full: no reason to wait for more
		g.at = now
	}
	q.fix(g)
}

// fix puts g where it belongs after a change of its time or its entries.
func (q *queue) fix(g *group) {
	switch {
	case len(g.entries) == 0:
		if g.index >= 0 {
			heap.Remove(&q.heap, g.index)
		}
		if g.asking == 0 {
			delete(q.groups, g.key)
		}
	case g.index < 0:
		heap.Push(&q.heap, g)
	default:
		heap.Fix(&q.heap, g.index)
	}
}

// next returns the entries of the next question and their group; or, without
// entries, how long there will be none, -1 for as long as nothing changes.
func (q *queue) next(now time.Time) (*group, []*entry, time.Duration) {
	for len(q.heap) > 0 {
		g := q.heap[0]
		if wait := max(g.at.Sub(now), q.paused.Sub(now)); wait > 0 {
			return nil, nil, wait
		}
		entries := g.pop()
		if len(entries) == 0 {
			q.fix(g)
			continue
		}
		g.asking++
		g.at = now // behind those that have waited longer
		q.fix(g)
		return g, entries, 0
	}
	return nil, nil, -1
}

func (g *group) push(entries ...*entry) {
	for _, e := range entries {
		e.group, e.batch = g, nil
		g.waiting++
	}
	g.entries = append(g.entries, entries...)
}

// pop takes up to limit entries that were not withdrawn from the front.
func (g *group) pop() []*entry {
	var taken []*entry
	i := 0
	for ; i < len(g.entries) && len(taken) < g.limit; i++ {
		e := g.entries[i]
		if !e.gone {
			taken = append(taken, e)
			e.group = nil
			g.waiting--
		}
		g.entries[i] = nil
	}
	g.entries = g.entries[i:]
	return taken
}

// drop forgets that a withdrawn entry waits, and now and then the entry.
func (q *queue) drop(g *group) {
	g.waiting--
	if 2*g.waiting < len(g.entries) {
		g.entries = slices.DeleteFunc(g.entries, func(e *entry) bool { return e.gone })
		q.fix(g)
	}
}

// groupHeap orders groups by their time; see container/heap.
type groupHeap []*group

func (h groupHeap) Len() int           { return len(h) }
func (h groupHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h groupHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push appends a group; for container/heap alone.
func (h *groupHeap) Push(x any) {
	g, ok := x.(*group)
	if !ok {
		return
	}
	g.index = len(*h)
	*h = append(*h, g)
}

// Pop removes the last group; for container/heap alone.
func (h *groupHeap) Pop() any {
	old := *h
	g := old[len(old)-1]
	old[len(old)-1] = nil
	g.index = -1
	*h = old[:len(old)-1]
	return g
}
