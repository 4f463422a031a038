package verify

import (
	"fmt"
	"maps"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// compareMarks compares the ids of the dedupe window that the changelog has
// with those that were counted or taken back: one too few would be counted
// again after a restart, one too many would keep an event out.
func (a *audit) compareMarks() {
	if a.cfg.DedupeWindow == 0 {
		return
	}
	for _, of := range []struct {
		window *window
		void   bool
		what   string
	}{{a.window, false, "counted"}, {a.voided, true, "taken back"}} {
		have := map[xxh3.Uint128]usage.Time{}
		for _, key := range slices.Sorted(maps.Keys(a.kept.marks)) {
			r := a.kept.marks[key]
			if r.Void != of.void {
				continue
			}
			if problem := of.window.strange(r); problem != "" {
				a.differ(Marks, key, "%s", problem)
			}
			for _, h := range r.Hashes {
				id := xxh3.Uint128{Hi: h.Hi, Lo: h.Lo}
				have[id] = max(have[id], r.Bucket)
			}
		}
		if n := of.window.missing(have, a.kept.position.Time); n > 0 {
			a.differ(Marks, "", "%d ids that were %s within the window are missing", n, of.what)
		}
	}
}

// strange returns what a record of ids has that none of the window gave it, or
// "".
func (w *window) strange(r *aggregate.DedupeRecord) string {
	strangers, misplaced := 0, 0
	for _, h := range r.Hashes {
		at, ok := w.find(xxh3.Uint128{Hi: h.Hi, Lo: h.Lo})
		switch {
		case !ok:
			strangers++
		case r.Bucket > at.hi+w.slack || r.Bucket <= at.first:
			misplaced++
		}
	}
	switch {
	case strangers > 0:
		return fmt.Sprintf("%d of its %d ids are of no event that was there", strangers, len(r.Hashes))
	case misplaced > 0:
		return fmt.Sprintf("%d of its %d ids were not there at the time that they are to be forgotten by", misplaced, len(r.Hashes))
	}
	return ""
}

// missing counts the ids that must be known at now and are not among have.
func (w *window) missing(have map[xxh3.Uint128]usage.Time, now usage.Time) int {
	n := 0
	for _, g := range []*idGeneration{w.old, w.young} {
		if g == nil {
			continue
		}
		for id, at := range g.ids {
			if latest, _ := w.find(id); latest != at || !at.sure || now-at.lo >= w.length {
				continue
			}
			if bucket, ok := have[id]; !ok || bucket <= at.lo {
				n++
			}
		}
	}
	return n
}

// find returns when an id was last there.
func (w *window) find(id xxh3.Uint128) (mark, bool) {
	if at, ok := w.young.find(id); ok {
		return at, true
	}
	return w.old.find(id)
}
