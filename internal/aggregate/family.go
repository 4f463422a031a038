package aggregate

import (
	"slices"

	"github.com/meterd/meterd/internal/usage"
)

// slot has counters that differ in their period alone: the one used last, and
// the others.
type slot struct {
	last *counter
	rest []*counter
}

// find returns the counter of the period that t lies in, or nil. It becomes
// the one that is looked at first.
func (l *slot) find(t usage.Time) *counter {
	if l.last != nil && l.last.period.Contains(t) && !l.last.dying {
		return l.last
	}
	for i, k := range l.rest {
		if k.period.Contains(t) && !k.dying {
			l.last, l.rest[i] = k, l.last
			return k
		}
	}
	return nil
}

// of returns the counter of the period with that id, or nil. It may be used by
// readers.
func (l *slot) of(period string) *counter {
	if l.last != nil && l.last.period.ID == period && !l.last.dying {
		return l.last
	}
	for _, k := range l.rest {
		if k.period.ID == period && !k.dying {
			return k
		}
	}
	return nil
}

func (l *slot) add(k *counter) {
	if l.last != nil {
		l.rest = append(l.rest, l.last)
	}
	l.last = k
}

func (l *slot) remove(k *counter) {
	l.rest = slices.DeleteFunc(l.rest, func(other *counter) bool { return other == k })
	if l.last != k {
		return
	}
	l.last = nil
	if n := len(l.rest); n > 0 {
		l.last, l.rest = l.rest[n-1], l.rest[:n-1]
	}
}

func (l *slot) all() []*counter {
	if l.last == nil {
		return nil
	}
	return append([]*counter{l.last}, l.rest...)
}

func (l *slot) each(yield func(*counter) bool) bool {
	if l.last != nil && !yield(l.last) {
		return false
	}
	for _, k := range l.rest {
		if !yield(k) {
			return false
		}
	}
	return true
}

// family has the counters of a client, meter and scope. Those of the slot
// count whatever the values of dimensions are that are told apart; each group
// counts one combination of them.
type family struct {
	slot
	*combinations
}

// combinations are the groups of a family.
type combinations struct {
	groups   map[string]*group // by the key of their values
	list     []*group
	overflow *group // takes what is beyond the bound, and is in the list too
	newest   *counter
	alive    int // combinations that have a counter; the overflow is none
}

// noCombinations is what families share that have none.
var noCombinations = &combinations{}

func newFamilies(n int) []family {
	families := make([]family, n)
	for i := range families {
		families[i].combinations = noCombinations
	}
	return families
}

// group has the counters of one combination of dimension values.
type group struct {
	slot
	key   string
	at    int // in the list
	dims  map[string]string
	over  bool // it is the overflow
	alive int  // counters that are not to be forgotten
}

// find is that of the slot; no group has no counters.
func (g *group) find(t usage.Time) *counter {
	if g == nil {
		return nil
	}
	return g.slot.find(t)
}

func (g *group) of(period string) *counter {
	if g == nil {
		return nil
	}
	return g.slot.of(period)
}

func (f *family) each(yield func(*counter) bool) bool {
	if !f.slot.each(yield) {
		return false
	}
	for _, g := range f.list {
		if !g.each(yield) {
			return false
		}
	}
	return true
}

// join makes k one of the counters of its slot, and returns what was the newest
// of its family's combinations before.
func (k *counter) join() (elder *counter) {
	k.slot().add(k)
	if k.lives(1); k.group != nil {
		elder = k.family().newest
		k.family().newest = k
	}
	return elder
}

// die notes that k is to be forgotten, and revive that it is not.
func (k *counter) die() {
	if !k.dying {
		k.dying = true
		k.lives(-1)
	}
}

func (k *counter) revive() {
	if k.dying {
		k.dying = false
		k.lives(1)
	}
}

// lives counts k in or out of the combinations that have counters.
func (k *counter) lives(by int) {
	g := k.group
	if g == nil {
		return
	}
	before := g.alive
	if g.alive += by; !g.over && (before == 0) != (g.alive == 0) {
		k.family().alive += by
	}
}

func (f *family) add(g *group) {
	if f.combinations == noCombinations {
		f.combinations = &combinations{groups: map[string]*group{}}
	}
	g.at = len(f.list)
	f.groups[g.key], f.list = g, append(f.list, g)
	if g.over {
		f.overflow = g
	}
}

func (f *family) drop(g *group) {
	if f.groups[g.key] != g {
		return
	}
	delete(f.groups, g.key)
	last := f.list[len(f.list)-1]
	f.list[g.at], last.at = last, g.at
	f.list = f.list[:len(f.list)-1]
	if g.over {
		f.overflow = nil
	}
}
