package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
)

// deals are all revisions of contracts that are still on their topic.
type deals struct {
	revisions map[string][]*revision // by contract id, good ones and removals
	at        map[int64]string       // which contract's record is at an offset
	end       int64
	terms     map[string][]*term // by client: the limits of every revision
	lost      map[string]bool    // contracts of which a revision was compacted away
}

// revision is a record of the contracts topic.
type revision struct {
	offset   int64
	written  usage.Time
	contract *contracts.Contract // nil: removed
}

// term is a limit of a revision.
type term struct {
	contract *contracts.Contract
	limit    *contracts.Limit
	order    int // in the contract
	written  usage.Time
	sole     bool // the contract has had no other revision
}

// readDeals reads the contracts. Rejected revisions are never in force.
func readDeals(ctx context.Context, cfg Config, cluster Cluster) (*deals, error) {
	d := &deals{revisions: map[string][]*revision{}, at: map[int64]string{}, terms: map[string][]*term{}, lost: map[string]bool{}}
	end, err := cluster.HighWatermark(ctx, cfg.Topics.Contracts, 0)
	if err != nil {
		return nil, err
	}
	d.end = end
	_, err = cluster.Read(ctx, cfg.Topics.Contracts, 0, kafka.Earliest, end, func(b kafka.Batch) error {
		for i := range b.Records {
			r := &b.Records[i]
			id := string(r.Key)
			d.at[r.Offset] = id
			rev := &revision{offset: r.Offset, written: usage.Time(r.Timestamp)}
			if r.Value != nil {
				contract, err := contracts.Parse(r.Key, r.Value, r.Offset, cfg.Catalog)
				if err != nil {
					continue
				}
				rev.contract = contract
			}
			d.revisions[id] = append(d.revisions[id], rev)
		}
		return nil
	})
	d.index()
	return d, err
}

// index finds the terms of each client.
func (d *deals) index() {
	clear(d.terms)
	for _, list := range d.revisions {
		for _, rev := range list {
			if rev.contract == nil {
				continue
			}
			for i := range rev.contract.Limits {
				t := &term{contract: rev.contract, limit: &rev.contract.Limits[i], order: i, written: rev.written, sole: len(list) == 1}
				d.terms[rev.contract.Client] = append(d.terms[rev.contract.Client], t)
			}
		}
	}
	for _, terms := range d.terms {
		slices.SortFunc(terms, func(a, b *term) int {
			return cmp.Or(cmp.Compare(a.contract.ID, b.contract.ID), cmp.Compare(a.contract.Revision, b.contract.Revision), cmp.Compare(a.order, b.order))
		})
	}
}

// named returns what is wrong with a limit event's naming of a revision, or
// "". A revision that was compacted away makes its contract one of several
// revisions.
func (d *deals) named(contract string, offset int64) string {
	id, there := d.at[offset]
	switch {
	case there && id == contract:
		return ""
	case there:
		return fmt.Sprintf("contract_revision %d is a record of contract %q", offset, id)
	case offset < 0 || offset >= d.end:
		return fmt.Sprintf("contract_revision %d is not on the contracts topic", offset)
	}
	d.lost[contract] = true
	if list := d.revisions[contract]; len(list) == 1 && list[0].contract != nil {
		for _, t := range d.terms[list[0].contract.Client] {
			if t.contract == list[0].contract {
				t.sole = false
			}
		}
	}
	return ""
}

// unsteady tells whether what the counters of a scope take is left open:
// revisions of their contract are lost, or one of them does not have the scope
// or ends at another time.
func (d *deals) unsteady(terms []*term) bool {
	first := terms[0]
	if d.lost[first.contract.ID] {
		return true
	}
	return slices.ContainsFunc(d.revisions[first.contract.ID], func(rev *revision) bool {
		return rev.contract == nil || rev.contract.EndsAt != first.contract.EndsAt ||
			!slices.ContainsFunc(terms, func(t *term) bool { return t.contract == rev.contract })
	})
}

// ruling returns the revisions of a contract that may have been in force at a
// moment, oldest first, and whether one of them was for sure.
func (d *deals) ruling(contract string, k *kept, m moment) (list []*revision, sure bool) {
	if d.lost[contract] {
		return nil, false
	}
	for _, rev := range d.revisions[contract] {
		if m.until != usage.MaxTime && rev.written > m.until+skew {
			break // not written yet
		}
		if k.sure(rev.written, m) {
			list, sure = list[:0], true
		}
		list = append(list, rev)
	}
	return list, sure
}

// dimensional tells whether t looks at dimensions of its meter at all, and
// whether at all of them.
func (t *term) dimensional(catalog *usage.Catalog) (some, all bool) {
	n := len(t.limit.Where) + len(t.limit.Per)
	return n > 0, n == len(catalog.Meters[t.limit.Meter].Dimensions)
}

// common tells whether t can use counters that the meter has anyway, in the
// periods that its contract does not cut.
func (t *term) common(catalog *usage.Catalog) bool {
	some, all := t.dimensional(catalog)
	return t.limit.Schedule.Equal(catalog.Schedule) && (!some || all)
}

// scope returns the scope of the counters that t has of its own.
func (t *term) scope() aggregate.Scope {
	s := aggregate.Scope{
		Contract: t.contract.ID, Kind: t.limit.Schedule.Kind, Timezone: t.limit.Schedule.Zone.String(), StartsAt: t.contract.StartsAt,
	}
	if len(t.limit.Where) > 0 {
		s.Where = string(usage.AppendCanonicalMap(nil, t.limit.Where))
	}
	if len(t.limit.Per) > 0 {
		s.Per = canonicalList(t.limit.Per)
	}
	return s
}

// canonicalList returns names, sorted, as a JSON array in the form of RFC
// 8785.
func canonicalList(names []string) string {
	dst := []byte{'['}
	for i, name := range slices.Sorted(slices.Values(names)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = usage.AppendCanonicalString(dst, name)
	}
	return string(append(dst, ']'))
}

// judges tells whether t is a limit on a counter: on one that the meter has
// anyway where it cuts time in the same way and nothing cuts the period, else
// on one of its own.
func (t *term) judges(k *counter, catalog *usage.Catalog) bool {
	if t.limit.Meter != k.meter || k.anchor || k.spill && len(t.limit.Per) > 0 {
		return false
	}
	if !k.scope.Default() {
		return k.scope == t.scope()
	}
	some, _ := t.dimensional(catalog)
	if !t.common(catalog) || some != (len(k.dimensions) > 0) || !matches(k.dimensions, t.limit.Where) {
		return false
	}
	return t.contract.StartsAt <= k.period.Start && k.period.End <= t.contract.EndsAt
}

// matches tells whether values has all of where.
func matches(values, where map[string]string) bool {
	for name, value := range where {
		if have, ok := values[name]; !ok || have != value {
			return false
		}
	}
	return true
}

// own returns the period of t's own counter that an event of time at counts
// in, and false where there is none.
func (t *term) own(at usage.Time, catalog *usage.Catalog) (usage.Period, bool) {
	if at < t.contract.StartsAt || at >= t.contract.EndsAt {
		return usage.Period{}, false
	}
	whole := t.limit.Schedule.At(at)
	cut := whole.Cut(t.contract.StartsAt, t.contract.EndsAt)
	return cut, !t.common(catalog) || cut != whole
}

// perValues returns the values that t counts apart, of a counter that it
// judges.
func (t *term) perValues(k *counter) map[string]string {
	values := make(map[string]string, len(t.limit.Per))
	for _, name := range t.limit.Per {
		values[name] = k.dimensions[name]
	}
	return values
}
