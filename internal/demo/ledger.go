package demo

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// tally names a total: of a client, a meter and a period.
type tally struct {
	client, meter, period string
}

// amount is how much was used.
type amount struct {
	events, quantity int64
}

// of returns what a counter of the meter must show: one counts events, the
// other adds up their quantities.
func (a amount) of(meter string) int64 {
	if meter == calls {
		return a.events
	}
	return a.quantity
}

// ledger adds up what was produced as its producer knows it, in each period
// that some counter may have.
type ledger struct {
	mu       sync.Mutex // guards all below
	amounts  map[tally]amount
	past     int64 // events in history
	produced int64 // events since then, each once
	repeated int64 // records that were sent a second time
}

func newLedger() *ledger { return &ledger{amounts: map[tally]amount{}} }

// remember notes an event of history.
func (l *ledger) remember(e *usageEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.past++
	l.add(e)
}

// produce notes a new event.
func (l *ledger) produce(e *usageEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.produced++
	l.add(e)
}

// repeat notes that an event was sent again.
func (l *ledger) repeat() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.repeated++
}

// add adds e to its totals. l.mu is held.
func (l *ledger) add(e *usageEvent) {
	for _, kind := range [...]usage.Kind{usage.Hour, usage.Day, usage.Month} {
		key := tally{client: e.Client, meter: e.Meter, period: periodAt(kind, e.Time)}
		a := l.amounts[key]
		a.events++
		a.quantity += e.Quantity
		l.amounts[key] = a
	}
}

// total returns what a client used of a meter in a period.
func (l *ledger) total(key tally) (amount, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.amounts[key]
	return a, ok
}

// months returns all totals of months, by client.
func (l *ledger) months() map[string][]tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := map[string][]tally{}
	for _, key := range slices.Collect(maps.Keys(l.amounts)) {
		if len(key.period) == len("2026-11") {
			list[key.client] = append(list[key.client], key)
		}
	}
	return list
}

// counts returns the events of history, those produced since, and the records
// that were sent again.
func (l *ledger) counts() (past, produced, repeated int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.past, l.produced, l.repeated
}

// periodAt returns the id of the period that t lies in.
func periodAt(kind usage.Kind, t time.Time) string {
	return usage.Schedule{Kind: kind, Zone: time.UTC}.At(usage.TimeOf(t)).ID
}
