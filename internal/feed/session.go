package feed

import (
	"slices"
	"sync"
)

// Item is an event as readers get it. Cursor is where to go on behind it.
type Item struct {
	Event

	Partition int32
	Cursor    string
}

// itemBytes is what an Item takes besides its texts, about.
const itemBytes = 1 << 10

// session is one stretch of following, with the ring of its last events.
// Events are numbered in the order in which they were read.
type session struct {
	most int // bytes of the ring

	mu      sync.Mutex    // guards all below
	items   []Item        // never changed where a reader may look: appended to, and cut off in front
	first   int64         // the number of items[0]
	bytes   int           // of items
	base    vector        // every event from here on that was read is in items
	at      vector        // the position behind all that was read
	changed chan struct{} // closed when there is more, or the end
	ended   bool
}

func newSession(at vector, most int) *session {
	return &session{most: most, base: at.clone(), at: at.clone(), changed: make(chan struct{})}
}

// add takes in what was read of a partition.
func (s *session) add(partition int32, b Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range b.Events {
		s.at[partition] = e.Offset + 1
		s.items = append(s.items, Item{Event: e, Partition: partition, Cursor: s.at.String()})
		s.bytes += itemBytes + len(e.Data) + len(s.at)*8
	}
	s.at[partition] = max(s.at[partition], b.Next)
	s.cut()
	close(s.changed)
	s.changed = make(chan struct{})
}

// cut drops the oldest quarter of a ring that has become too large, but leaves
// the newest event.
func (s *session) cut() {
	if s.bytes <= s.most {
		return
	}
	n := 0
	for ; s.bytes > s.most/4*3 && n < len(s.items)-1; n++ {
		old := &s.items[n]
		s.bytes -= itemBytes + len(old.Data) + len(s.at)*8
		s.base[old.Partition] = old.Offset + 1
	}
	if n > 0 {
		s.items = slices.Clone(s.items[n:]) // readers may look at the old ones
		s.first += int64(n)
	}
}

func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	close(s.changed)
	s.changed = make(chan struct{})
}

// glance is a session at one moment. It is not to be changed.
type glance struct {
	items   []Item
	first   int64 // the number of items[0], and of the next event if there is none
	base    vector
	at      vector
	changed <-chan struct{}
	ended   bool
}

// next is the number of the event that comes next.
func (g *glance) next() int64 { return g.first + int64(len(g.items)) }

func (s *session) look() glance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return glance{items: s.items, first: s.first, base: s.base.clone(), at: s.at.clone(), changed: s.changed, ended: s.ended}
}

// since returns the next events from number on, and false where the first of
// them is not in the ring any more. All live readers call it for each event, so
// it copies no more than a slow one may hold on to.
func (s *session) since(number int64) (items []Item, changed <-chan struct{}, ended, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number < s.first {
		return nil, nil, s.ended, false
	}
	items = s.items[number-s.first:]
	return slices.Clone(items[:min(len(items), maxPortion)]), s.changed, s.ended, true
}

// cursor returns the cursor behind the event before number, if that is the
// newest there is.
func (s *session) cursor(number int64) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number != s.first+int64(len(s.items)) {
		return "", false
	}
	return s.at.String(), true
}
