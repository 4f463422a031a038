package verify

import (
	"fmt"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// compareCounters compares every counter with the changelog's.
func (a *audit) compareCounters() {
	for k := range a.counters {
		if k.record == nil {
			if k.events > 0 && !k.loose && (k.scope.Default() || k.sure) && !a.expired(k.scope, &k.period) {
				a.differ(Counter, k.key, "is missing, %d events add up to %s", k.events, k.total.Format(a.cfg.Catalog.Meters[k.meter].Decimals))
			}
			continue
		}
		if problem := a.wrong(k); problem != "" && !k.orphan {
			a.differ(Counter, k.key, "%s", problem)
		}
	}
}

// wrong returns what the changelog has wrong of k, or "".
func (a *audit) wrong(k *counter) string {
	r, meter := k.record, &a.cfg.Catalog.Meters[k.meter]
	show := func(q usage.Quantity) string { return q.Format(meter.Decimals) }
	switch {
	case r.Decimals != meter.Decimals:
		return fmt.Sprintf("it has %d decimals, the meter %d", r.Decimals, meter.Decimals)
	case k.loose:
		return a.wrongLoose(k)
	case r.Period != k.period:
		return fmt.Sprintf("its period is %s to %s, must be %s to %s", r.Period.Start, r.Period.End, k.period.Start, k.period.End)
	case k.scope.Default() && r.Seed.State != aggregate.SeedNone && r.Seed.Boundary != a.kept.position.Boundary:
		return fmt.Sprintf("its seed's boundary is %d, the partition's %d", r.Seed.Boundary, a.kept.position.Boundary)
	case !r.Seed.Complete() && (r.Seed.Usage != 0 || r.Seed.Events != 0):
		return fmt.Sprintf("its seed is %s and yet has %d events", r.Seed.State, r.Seed.Events)
	}
	if len(k.doubts) > 0 {
		if !k.explains(r.Total, r.Events) {
			return fmt.Sprintf("total is %s of %d events, recomputed %s of %d and %d that may be duplicates",
				show(r.Total), r.Events, show(k.total), k.events, len(k.doubts))
		}
		return ""
	}
	switch {
	case r.Total != k.total || r.Events != k.events:
		return fmt.Sprintf("total is %s of %d events, recomputed %s of %d", show(r.Total), r.Events, show(k.total), k.events)
	case r.Seed.Events == 0 && (r.First != k.first || r.Last != k.last):
		return fmt.Sprintf("first and last event are %s and %s, recomputed %s and %s", r.First, r.Last, k.first, k.last)
	case r.First > k.first || r.Last < k.last:
		return fmt.Sprintf("first and last event are %s and %s, but events of %s and %s were counted", r.First, r.Last, k.first, k.last)
	}
	return ""
}

func (a *audit) wrongLoose(k *counter) string {
	if len(k.doubts) == 0 && k.record.Events == k.events && k.record.Total != k.total {
		return fmt.Sprintf("total is %d of %d events, recomputed %d", k.record.Total, k.events, k.total)
	}
	return ""
}

// maxDoubts bounds the records that are tried in all combinations.
const maxDoubts = 16

// explains tells whether some of the doubtful records make the difference.
func (k *counter) explains(total usage.Quantity, events int64) bool {
	if len(k.doubts) > maxDoubts {
		return events >= k.events && events <= k.events+int64(len(k.doubts))
	}
	for some := range uint(1) << len(k.doubts) {
		sum, n := k.total, k.events
		for i, q := range k.doubts {
			if some>>i&1 == 1 {
				sum, n = sum+q, n+1
			}
		}
		if sum == total && n == events {
			return true
		}
	}
	return false
}
