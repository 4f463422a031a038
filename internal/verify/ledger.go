package verify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/usage"
)

// ledgerKey is what a ledger has a total of. Values are those of the meter's
// dimensions in canonical form, "" for whatever they are.
type ledgerKey struct {
	client, period, values string
	meter                  int
}

// ledgerTotal is a number of events and their quantity in the meter's unit.
type ledgerTotal struct{ events, quantity int64 }

// ledger is all ledgers as one: what is left of it when the partitions are
// taken off is a difference.
type ledger struct {
	left       map[ledgerKey]ledgerAmount
	partitions map[int32]ledgerPartition
	apart      map[int]bool // meters of which it has combinations
	forgotten  map[ledgerKey]bool
}

// ledgerAmount is a ledgerTotal in the meter's smallest unit.
type ledgerAmount struct {
	events int64
	amount usage.Quantity
}

type ledgerPartition struct{ records, duplicates, undecodable, voids int64 }

// openLedger adds up the ledgers.
func (c *check) openLedger() {
	if len(c.parts.Ledgers) == 0 {
		return
	}
	l := &ledger{left: map[ledgerKey]ledgerAmount{}, partitions: map[int32]ledgerPartition{}, apart: map[int]bool{}, forgotten: map[ledgerKey]bool{}}
	for _, from := range c.parts.Ledgers {
		from.Each(func(client, meter, period string, dimensions map[string]string, events, quantity int64) {
			m := c.cfg.Catalog.Find(meter)
			if m < 0 {
				c.found(Difference{LedgerTotal, -1, client, fmt.Sprintf("meter %q is not configured", meter)})
				return
			}
			k := ledgerKey{client: client, meter: m, period: period}
			if len(dimensions) > 0 {
				k.values, l.apart[m] = string(usage.AppendCanonicalMap(nil, dimensions)), true
			}
			l.add(c.cfg.Catalog, k, ledgerTotal{events, quantity}, 1)
		})
		from.EachPartition(func(p int32, records, duplicates, undecodable, voids int64) {
			t := l.partitions[p]
			l.partitions[p] = ledgerPartition{t.records + records, t.duplicates + duplicates, t.undecodable + undecodable, t.voids + voids}
		})
	}
	c.ledger = l
}

// ledgerKeys returns what a ledger has of an event. Of meters that choose
// their events by conditions it has nothing.
func (a *audit) ledgerKeys(client string, t *take, period string) []ledgerKey {
	meter := &a.cfg.Catalog.Meters[t.meter]
	if meter.When != nil {
		return nil
	}
	keys := []ledgerKey{{client: client, meter: t.meter, period: period}}
	if a.ledger.apart[t.meter] {
		dimensions := map[string]string{}
		for i, d := range meter.Dimensions {
			dimensions[d.Name] = t.values[i]
		}
		keys = append(keys, ledgerKey{client: client, meter: t.meter, period: period, values: string(usage.AppendCanonicalMap(nil, dimensions))})
	}
	return keys
}

// add adds to what is left, or takes off with a sign of -1. Of a meter that
// does not add it has the events alone.
func (l *ledger) add(catalog *usage.Catalog, k ledgerKey, t ledgerTotal, sign int64) {
	meter := &catalog.Meters[k.meter]
	amount := usage.DecimalOf(t.quantity)
	switch {
	case meter.Aggregation == usage.Count:
		amount = usage.DecimalOf(t.events)
	case !additive(meter):
		amount = usage.Decimal{}
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
		if k.scope.Default() && a.cfg.Catalog.Meters[k.meter].When == nil {
			a.accountFor(k)
		}
	}
	for k, t := range a.lost {
		a.ledger.add(a.cfg.Catalog, k, t, -1)
	}
	want := a.ledger.partitions[a.number]
	for _, of := range []struct {
		have, want int64
		text       string
	}{
		{a.tally.Records, want.records, "records were counted"},
		{a.unreadable, want.undecodable, "records cannot be read"},
		{a.tally.Duplicates, want.duplicates, "records are duplicates"},
		{a.tally.Voided + a.unvoided, want.voids, "records are voids"},
	} {
		if of.have != of.want && (a.tally.Doubtful == 0 || of.want == want.records || of.want == want.undecodable) {
			a.found(Difference{LedgerTotal, a.number, "", fmt.Sprintf("%d %s, the ledger has %d", of.have, of.text, of.want)})
		}
	}
}

// accountFor takes a counter off the ledger. Where combinations were too many
// for each to have its counter, those of the client are left out.
func (a *audit) accountFor(k *counter) {
	key := ledgerKey{client: k.client.name, meter: k.meter, period: k.period.ID}
	if len(k.dimensions) > 0 {
		if !a.ledger.apart[k.meter] {
			return
		}
		if k.spill || k.loose {
			a.ledger.forget(key)
			return
		}
		key.values = string(usage.AppendCanonicalMap(nil, k.dimensions))
		if a.ledger.forgotten[key.whole()] {
			return
		}
	}
	seed := k.seed()
	events, total, seeded := k.events, k.total, seed.Usage
	if k.record != nil && len(k.doubts) > 0 {
		events, total = k.record.Events, k.record.Total
	}
	if !k.adds {
		total, seeded = 0, 0
	}
	a.ledger.take(key, seed.Events-events, seeded-total)
}

// whole returns the key of the total that k is a part of.
func (k ledgerKey) whole() ledgerKey {
	k.values = ""
	return k
}

// forget leaves out the combinations of a client, meter and period.
func (l *ledger) forget(k ledgerKey) { l.forgotten[k.whole()] = true }

// closeLedger tells what is left.
func (c *check) closeLedger() {
	if c.ledger == nil {
		return
	}
	keys := slices.SortedFunc(maps.Keys(c.ledger.left), func(a, b ledgerKey) int {
		return cmp.Or(cmp.Compare(a.client, b.client), cmp.Compare(a.meter, b.meter), cmp.Compare(a.period, b.period), cmp.Compare(a.values, b.values))
	})
	for _, k := range keys {
		if k.values != "" && c.ledger.forgotten[k.whole()] {
			continue
		}
		left, meter := c.ledger.left[k], &c.cfg.Catalog.Meters[k.meter]
		c.found(Difference{
			LedgerTotal, -1, strings.TrimSpace(fmt.Sprintf("%s of client %s in %s %s", meter.Name, k.client, k.period, k.values)),
			fmt.Sprintf("the ledger has %d more events, and %s more", left.events, left.amount.Format(meter.Decimals)),
		})
	}
}
