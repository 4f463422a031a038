package verify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/usage"
)

// ledgerKey is a client and a meter.
type ledgerKey struct {
	client string
	meter  int
}

// ledgerTotal is a number of events and their quantity in the meter's unit.
type ledgerTotal struct{ events, quantity int64 }

// ledger is all ledgers as one: what is left of it when the partitions are
// taken off is a difference.
type ledger struct {
	left       map[ledgerKey]ledgerAmount
	partitions map[int32]ledgerPartition
}

// ledgerAmount is a ledgerTotal in the meter's smallest unit.
type ledgerAmount struct {
	events int64
	amount usage.Quantity
}

type ledgerPartition struct{ records, duplicates, undecodable int64 }

// openLedger adds up the ledgers.
func (c *check) openLedger() {
	if len(c.parts.Ledgers) == 0 {
		return
	}
	l := &ledger{left: map[ledgerKey]ledgerAmount{}, partitions: map[int32]ledgerPartition{}}
	for _, from := range c.parts.Ledgers {
		from.Each(func(client, meter string, events, quantity int64) {
			m := c.cfg.Catalog.Find(meter)
			if m < 0 {
				c.found(Difference{LedgerTotal, -1, client, fmt.Sprintf("meter %q is not configured", meter)})
				return
			}
			l.add(c.cfg.Catalog, ledgerKey{client, m}, ledgerTotal{events, quantity}, 1)
		})
		from.EachPartition(func(p int32, records, duplicates, undecodable int64) {
			t := l.partitions[p]
			l.partitions[p] = ledgerPartition{t.records + records, t.duplicates + duplicates, t.undecodable + undecodable}
		})
	}
	c.ledger = l
}

// add adds to what is left, or takes off with a sign of -1.
func (l *ledger) add(catalog *usage.Catalog, k ledgerKey, t ledgerTotal, sign int64) {
	meter := &catalog.Meters[k.meter]
	amount := usage.DecimalOf(t.quantity)
	if meter.Aggregation == usage.Count {
		amount = usage.DecimalOf(t.events)
	}
	q, _ := amount.Quantity(meter.Decimals)
	l.take(k, sign*t.events, usage.Quantity(sign)*q)
}

func (l *ledger) take(k ledgerKey, events int64, amount usage.Quantity) {
	left := l.left[k]
	left.events, left.amount = left.events+events, left.amount+amount
	if left == (ledgerAmount{}) {
		delete(l.left, k)
		return
	}
	l.left[k] = left
}

// account takes off the ledger what a partition was recomputed to have.
// Records that may be duplicates are taken off as far as the changelog has
// them.
func (a *audit) account() {
	if a.ledger == nil {
		return
	}
	for k := range a.counters {
		if !k.scope.Default() {
			continue
		}
		seed := k.seed()
		events, total := k.events, k.total
		if k.record != nil && len(k.doubts) > 0 {
			events, total = k.record.Events, k.record.Total
		}
		a.ledger.take(ledgerKey{k.client.name, k.meter}, seed.Events-events, seed.Usage-total)
	}
	for k, t := range a.lost {
		a.ledger.add(a.cfg.Catalog, k, t, -1)
	}
	want := a.ledger.partitions[a.number]
	if want.records != a.tally.Records {
		a.found(Difference{LedgerTotal, a.number, "", fmt.Sprintf("%d records were counted, the ledger has %d", a.tally.Records, want.records)})
	}
	if want.undecodable != a.unreadable {
		a.found(Difference{LedgerTotal, a.number, "", fmt.Sprintf("%d records cannot be read, the ledger has %d", a.unreadable, want.undecodable)})
	}
	if a.tally.Doubtful == 0 && want.duplicates != a.tally.Duplicates {
		a.found(Difference{LedgerTotal, a.number, "", fmt.Sprintf("%d records are duplicates, the ledger has %d", a.tally.Duplicates, want.duplicates)})
	}
}

// closeLedger tells what is left.
func (c *check) closeLedger() {
	if c.ledger == nil {
		return
	}
	keys := slices.SortedFunc(maps.Keys(c.ledger.left), func(a, b ledgerKey) int {
		return cmp.Or(cmp.Compare(a.client, b.client), cmp.Compare(a.meter, b.meter))
	})
	for _, k := range keys {
		left, meter := c.ledger.left[k], &c.cfg.Catalog.Meters[k.meter]
		c.found(Difference{
			LedgerTotal, -1, fmt.Sprintf("%s of client %s", meter.Name, k.client),
			fmt.Sprintf("the ledger has %d more events, and %s more", left.events, left.amount.Format(meter.Decimals)),
		})
	}
}
