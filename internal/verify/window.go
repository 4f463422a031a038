package verify

import (
	"time"

	"github.com/zeebo/xxh3"

	"github.com/meterd/meterd/internal/usage"
)

// verdict says whether an event is a duplicate.
type verdict uint8

const (
	fresh verdict = iota
	doubtful
	duplicate
)

// window remembers the ids that were counted, for as long as they can matter.
type window struct {
	length usage.Time
	slack  usage.Time    // by which an id may be known longer
	young  *idGeneration // nil: none
	old    *idGeneration
}

type idGeneration struct {
	since  usage.Time // partition time of the first of them, at least
	latest usage.Time // of the last, at most
	ids    map[xxh3.Uint128]mark
}

// mark is the bounds of when an id was last counted.
type mark struct {
	lo, hi usage.Time
	first  usage.Time // when it was first counted in a row that hangs together, at least
	sure   bool       // it was counted; else it may have been a duplicate
}

// span is the event times of the earliest and the latest of some events.
type span struct{ first, last usage.Time }

func newWindow(length time.Duration) *window {
	ms := usage.Time(length.Milliseconds())
	return &window{length: ms, slack: ms/8 + 1}
}

// idOf makes one number of a client and an event id. The client's length keeps
// the two apart.
func idOf(buf, client, id []byte) (xxh3.Uint128, []byte) {
	buf = append(buf[:0], byte(len(client)), byte(len(client)>>8))
	buf = append(append(buf, client...), id...)
	return xxh3.Hash128(buf), buf
}

// judge tells what an event is that has an id and comes at m.
func (w *window) judge(id xxh3.Uint128, m moment) verdict {
	if w.length == 0 {
		return fresh
	}
	for _, g := range []*idGeneration{w.young, w.old} {
		if g == nil {
			continue
		}
		at, ok := g.ids[id]
		switch {
		case !ok:
			continue
		case m.hi-at.lo < w.length:
			return duplicate
		case m.lo-at.hi > w.length+w.slack:
			return fresh
		}
		return doubtful
	}
	return fresh
}

// claim notes that an id was counted at m. Where that is in doubt, it was
// counted then or when it was before.
func (w *window) claim(id xxh3.Uint128, m moment, sure bool) {
	if w.length == 0 {
		return
	}
	w.turn(m)
	at := mark{lo: m.lo, hi: m.hi, first: m.lo, sure: sure}
	if before, ok := w.find(id); ok {
		at.first = before.first
		if !sure {
			at.lo = before.lo
		}
	}
	w.young.latest = max(w.young.latest, m.hi)
	w.young.ids[id] = at
}

func (g *idGeneration) find(id xxh3.Uint128) (mark, bool) {
	if g == nil {
		return mark{}, false
	}
	at, ok := g.ids[id]
	return at, ok
}

// turn begins a new generation where the young one is older than any id can
// matter, and the old one can be forgotten.
func (w *window) turn(m moment) {
	keep := w.length + w.slack
	switch {
	case w.young == nil:
	case m.lo-w.young.since <= keep:
		return
	case w.old != nil && m.lo-w.old.latest <= keep:
		return
	}
	w.old, w.young = w.young, &idGeneration{since: m.lo, latest: m.hi, ids: map[xxh3.Uint128]mark{}}
}
