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
	d := &deals{revisions: map[string][]*revision{}, at: map[int64]string{}, terms: map[string][]*term{}}
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
	if list := d.revisions[contract]; len(list) == 1 && list[0].contract != nil {
		for _, t := range d.terms[list[0].contract.Client] {
			if t.contract == list[0].contract {
				t.sole = false
			}
		}
	}
	return ""
}

// scope returns the scope of the counters that t has of its own.
func (t *term) scope() aggregate.Scope {
	return aggregate.Scope{
		Contract: t.contract.ID, Kind: t.limit.Schedule.Kind, Timezone: t.limit.Schedule.Zone.String(), StartsAt: t.contract.StartsAt,
	}
}

// judges tells whether t is a limit on the counter of a period: on the default
// one where it cuts time in the same way and nothing cuts the period, else on
// one of its own.
func (t *term) judges(k *counter, schedule usage.Schedule) bool {
	if t.limit.Meter != k.meter {
		return false
	}
	if !k.scope.Default() {
		return k.scope == t.scope()
	}
	return t.limit.Schedule.Equal(schedule) && t.contract.StartsAt <= k.period.Start && k.period.End <= t.contract.EndsAt
}

// own returns the period of t's own counter that an event of time at counts
// in, and false where there is none.
func (t *term) own(at usage.Time, schedule usage.Schedule) (usage.Period, bool) {
	if at < t.contract.StartsAt || at >= t.contract.EndsAt {
		return usage.Period{}, false
	}
	whole := t.limit.Schedule.At(at)
	cut := whole.Cut(t.contract.StartsAt, t.contract.EndsAt)
	return cut, !t.limit.Schedule.Equal(schedule) || cut != whole
}
