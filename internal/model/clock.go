package model

import (
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// advance is R0 and R5: partition time comes to at, and what ends on the way
// ends at its moment.
func (w *world) advance(at usage.Time) {
	if at = min(at, w.now); at <= w.time {
		return
	}
	for {
		next := at
		for _, a := range w.accounts {
			if a.period.End > w.time && len(a.standing()) > 0 {
				next = min(next, a.period.End)
			}
			if e := w.expiryOf(a); e > w.time {
				next = min(next, e)
			}
		}
		for _, k := range w.kept {
			if e := w.expiry(k); e > w.time {
				next = min(next, e)
			}
		}
		was := w.time
		w.time = next
		w.reset(was)
		w.forget()
		if next == at {
			break
		}
	}
	if w.time >= w.seam {
		w.seam, w.unsure = w.cfg.Catalog.Schedule.At(w.time).End, w.cfg.History
	}
}

// reset tells of limits with labels standing whose period has just ended.
func (w *world) reset(was usage.Time) {
	var list []emission
	for _, a := range w.accounts {
		if a.period.End <= was || a.period.End > w.time || len(a.standing()) == 0 {
			continue
		}
		e := emission{counter: a.counter, account: a, contract: a.Contract, limit: a.Limit, per: a.Dimensions}
		e.place, e.gone = w.placeOf(a)
		list = append(list, e)
	}
	slices.SortStableFunc(list, func(a, b emission) int { return a.compare(&b) })
	for _, e := range list {
		a := e.account
		event := alerts.Event{
			Kind: alerts.Reset, UsageBefore: "0", UsageAfter: "0", Utilization: "0",
			Cause: alerts.Cause{Kind: alerts.ByPeriodEnd}, Seeded: w.alive(a.counter) && w.seeded(a.counter),
		}
		if w.alive(a.counter) {
			total, _ := w.total(a.counter)
			event.UsageBefore = total.Format(w.cfg.Catalog.Meters[a.counter.Meter].Decimals)
		}
		w.describe(&event, a)
		w.tell(a, telling{passed: a.standing(), event: event}, false)
	}
}

// forget lets go of counters that need no longer be kept, and of what limits
// have told in periods that need not.
func (w *world) forget() {
	w.accounts = slices.DeleteFunc(w.accounts, func(a *account) bool { return w.expiryOf(a) <= w.time })
	w.kept = slices.DeleteFunc(w.kept, func(k *counter) bool { return w.expiry(k) <= w.time })
}

// expiryOf is expiry for what was told in a period: R3.
func (w *world) expiryOf(a *account) usage.Time {
	return w.expiry(&counter{period: a.period, schedule: a.counter.schedule})
}
