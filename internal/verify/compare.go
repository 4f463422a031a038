package verify

import (
	"encoding/binary"
	"fmt"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// compareCounters compares every counter with the changelog's.
func (a *audit) compareCounters() {
	for k := range a.counters {
		if k.record == nil {
			if k.own > 0 && !k.loose && (k.scope.Default() || k.sure) && !a.expired(k.scope, &k.period) {
				a.differ(Counter, k.key, "is missing, %d events add up to %s", k.events, k.total.Format(k.decimals))
			}
			continue
		}
		if problem := a.wrong(k); problem != "" && !k.orphan {
			a.differ(Counter, k.key, "%s", problem)
		}
	}
	a.compareCombinations()
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
	case k.scope.Default() && r.Seed.State != aggregate.SeedNone && r.Seed.Boundary != a.boundaryOf(meter.Name) && !a.takenOut(k):
		return fmt.Sprintf("its seed's boundary is %d, the meter's %d", r.Seed.Boundary, a.boundaryOf(meter.Name))
	case !r.Seed.Complete() && (r.Seed.Usage != 0 || r.Seed.Events != 0):
		return fmt.Sprintf("its seed is %s and yet has %d events", r.Seed.State, r.Seed.Events)
	}
	if len(k.doubts) > 0 {
		if !k.explains(r.Total, r.Events, k.doubts) {
			return fmt.Sprintf("total is %s of %d events, recomputed %s of %d and %d that may be duplicates",
				show(r.Total), r.Events, show(k.total), k.events, len(k.doubts))
		}
		return ""
	}
	switch {
	case !k.right(r) || r.Events != k.events:
		return fmt.Sprintf("total is %s of %d events, recomputed %s of %d", show(r.Total), r.Events, show(k.total), k.events)
	case r.Seed.Events == 0 && (!a.cfg.VoidMapped || !k.waits()) && (r.First != k.first || r.Last != k.last):
		return fmt.Sprintf("first and last event are %s and %s, recomputed %s and %s", r.First, r.Last, k.first, k.last)
	case r.First > k.first || r.Last < k.last:
		return fmt.Sprintf("first and last event are %s and %s, but events of %s and %s were counted", r.First, r.Last, k.first, k.last)
	}
	return k.wrongSet()
}

func (a *audit) wrongLoose(k *counter) string {
	if k.adds && !k.undone && len(k.doubts) == 0 && k.record.Events == k.events && k.record.Total != k.total && !k.spill && len(k.dimensions) == 0 {
		return fmt.Sprintf("total is %d of %d events, recomputed %d", k.record.Total, k.events, k.total)
	}
	return ""
}

// wrongSet returns what is wrong with the set of distinct values that the
// changelog has, or "". An exact set is a zero and the values' hashes; what a
// sketch has in it cannot be told.
func (k *counter) wrongSet() string {
	set := k.record.Distinct
	switch {
	case k.kind != usage.Unique:
		if len(set) > 0 {
			return fmt.Sprintf("it has a set of %d bytes, of a meter that counts no distinct values", len(set))
		}
		return ""
	case len(set) == 0 || set[0] != 0:
		if len(set) == 0 && len(k.values) > 0 || len(set) > 0 && !k.murky && !k.estimated() {
			return fmt.Sprintf("it has no exact set of %d distinct values", len(k.values))
		}
		return ""
	}
	have := map[uint64]bool{}
	for rest := set[1:]; len(rest) >= 8; rest = rest[8:] {
		have[binary.BigEndian.Uint64(rest)] = true
	}
	for value := range k.values {
		if !have[value] {
			return "its set lacks a distinct value that was counted"
		}
	}
	if !k.murky && len(have) != len(k.values) {
		return fmt.Sprintf("its set has %d distinct values, recomputed %d", len(have), len(k.values))
	}
	return ""
}

// compareCombinations demands that the combinations of a period are the total,
// as far as that must be so whatever the bound of combinations was.
func (a *audit) compareCombinations() {
	type place struct {
		client, meter, period string
	}
	type amount struct {
		events int64
		total  usage.Quantity
		known  bool
	}
	wholes, parts := map[place]*counter{}, map[place]amount{}
	for k := range a.counters {
		meter := &a.cfg.Catalog.Meters[k.meter]
		if !k.scope.Default() || len(meter.Dimensions) == 0 || !additive(meter) {
			continue
		}
		at := place{k.client.name, meter.Name, k.period.ID}
		if len(k.dimensions) == 0 {
			wholes[at] = k
			continue
		}
		sum, ok := parts[at]
		sum.known = (sum.known || !ok) && k.record != nil && k.record.Seed.Complete() && !a.takenOut(k) // what it is of lies beyond the bound too
		if k.record != nil {
			sum.events, sum.total = sum.events+k.record.Events, sum.total+k.record.Total
		}
		parts[at] = sum
	}
	for at, sum := range parts {
		k := wholes[at]
		if k == nil || k.record == nil || !sum.known || !k.record.Seed.Complete() || !k.client.slots[k.meter].loose {
			continue // each of the combinations was compared by itself
		}
		if sum.events != k.record.Events || sum.total != k.record.Total {
			a.differ(Counter, k.key, "total is %s of %d events, its combinations add up to %s of %d",
				k.record.Total.Format(k.decimals), k.record.Events, sum.total.Format(k.decimals), sum.events)
		}
	}
}
