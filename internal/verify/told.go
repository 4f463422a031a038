package verify

import (
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// told checks an event that is not of the record at hand.
func (a *audit) told(w *watch, e *alerts.Event) {
	s := w.script
	t := w.term(e.ContractRevision)
	switch e.Cause.Kind {
	case alerts.ByUsage, alerts.ByVoid:
		if w.sole() || e.Cause.Offset == nil || *e.Cause.Offset >= w.counter.seed().Boundary {
			a.differ(LimitEvent, eventKey(e), "its cause is no record that counts in its counter")
			s.disputed = true
		}
		s.believe(e, w.terms[0].limit.Decimals)
	case alerts.ByPeriodEnd:
		a.toldReset(w, t, e)
	default:
		a.toldBetween(w, t, e)
	}
}

// toldBetween checks an event of a contract or a seed.
func (a *audit) toldBetween(w *watch, t *term, e *alerts.Event) {
	s, k := w.script, w.counter
	s.late = e.Late
	if t == nil || a.withdraws(w, e) { // the limit is gone, or what it was
		a.withdrawn(w, e)
		return
	}
	s.moves(w)
	total, ok := amountOf(e.UsageAfter, t.limit.Decimals)
	if !ok || k.exact() && s.sighted == 0 {
		a.differ(LimitEvent, eventKey(e), "usage_after is %s, which the counter did not have then", e.UsageAfter)
	}
	cleared, crossed, _ := alerts.Settle(s.standing, total, t.limit.Thresholds)
	passed := crossed
	if e.Kind == alerts.Cleared {
		passed = cleared
	}
	s.stand(e.Kind, passed, t.limit)
	want := a.expected(w, t, e, passed)
	want.UsageBefore, want.Utilization = e.UsageAfter, usage.Utilization(total, t.limit.Value)
	if s.vague {
		want.Thresholds, want.Highest = e.Thresholds, e.Highest
	}
	if e.Cause.Kind == alerts.BySeed {
		want.UsageBefore = "0"
	}
	a.like(w, e, want, t)
}

// withdraws tells whether a contract cleared all that stood, as it does where
// the limit goes on with another counter.
func (a *audit) withdraws(w *watch, e *alerts.Event) bool {
	return !w.sole() && e.Cause.Kind == alerts.ByContract && e.Kind == alerts.Cleared && len(e.Standing) == 0 &&
		(w.script.vague || slices.Equal(e.Thresholds, alerts.Show(w.script.standing, w.script.decimals)))
}

// withdrawn checks what a contract that no longer judges the counter cleared.
func (a *audit) withdrawn(w *watch, e *alerts.Event) {
	s := w.script
	want := *e
	want.Kind, want.Thresholds, want.Standing = alerts.Cleared, alerts.Show(s.standing, s.decimals), []string{}
	if s.vague || len(w.terms) == 1 && !w.terms[0].sole && len(s.standing) == 0 { // a revision is lost
		want.Thresholds, want.Kind, want.Standing = e.Thresholds, e.Kind, e.Standing
	}
	if problem := unlike(e, &want); problem != "" {
		a.differ(LimitEvent, eventKey(e), "%s", problem)
	}
	s.believe(e, s.decimals)
}

// toldReset checks the event of a period's end.
func (a *audit) toldReset(w *watch, t *term, e *alerts.Event) {
	s, k := w.script, w.counter
	if t == nil {
		s.standing, s.closed = nil, true
		return
	}
	if s.closed {
		a.differ(LimitEvent, eventKey(e), "the period was reset before")
	}
	if a.kept.position.Time < e.Period.End {
		a.differ(LimitEvent, eventKey(e), "the period has not ended: partition time is %s", a.kept.position.Time)
	}
	stood := s.standing
	s.standing, s.closed = nil, true
	want := a.expected(w, t, e, stood)
	if s.vague {
		want.Thresholds, want.Highest = e.Thresholds, e.Highest
	}
	want.Kind, want.UsageAfter, want.Utilization, want.Late = alerts.Reset, "0", "0", false
	if k.exact() && !k.late {
		want.UsageBefore = k.total.Format(t.limit.Decimals)
	} else if k.exact() && s.sighted == 0 {
		a.differ(LimitEvent, eventKey(e), "usage_before is %s, which the counter did not have then", e.UsageBefore)
	}
	a.like(w, e, want, t)
}

// finishScripts checks what was told after the last record of each counter,
// and demands the resets.
func (a *audit) finishScripts() {
	for _, s := range a.ordered() {
		if len(s.watches) == 0 {
			a.unwatched(s)
			continue
		}
		a.owe(s.watches[0])
		for s.next < len(s.events) {
			e := s.events[s.next]
			w := s.watchFor(e)
			a.told(w, e)
			s.advance()
			s.sight(w.counter, w.counter.total)
		}
		w := s.watches[len(s.watches)-1]
		period := &w.counter.period
		if (w.sole() || !w.counter.loose && w.steady(a.deals)) && len(s.standing) > 0 && !s.closed && !s.late && !s.vague && a.kept.position.Time >= period.End && period.End != usage.MaxTime {
			a.differ(LimitEvent, s.key(), "the reset is missing: %s stood when the period ended", strings.Join(alerts.Labels(s.standing), ", "))
			s.standing, s.closed = nil, true
		}
	}
}

// steady tells whether the limit is on its counter in all revisions of its
// contract.
func (w *watch) steady(d *deals) bool {
	return !d.unsteady(w.terms)
}

// watchFor returns the watch that an event is of.
func (s *script) watchFor(e *alerts.Event) *watch {
	for _, w := range s.watches {
		if w.term(e.ContractRevision) != nil {
			return w
		}
	}
	return s.watches[len(s.watches)-1]
}

// unwatched demands a counter of events whose contract is known. One that had
// nothing but history may be forgotten by now.
func (a *audit) unwatched(s *script) {
	e := s.events[len(s.events)-1]
	if a.cfg.History && a.kept.position.Time >= e.Period.End.Add(a.cfg.AllowedLateness) {
		return
	}
	for _, t := range a.deals.terms[e.Client] {
		if t.contract.ID == e.Contract && t.limit.ID == e.LimitID && t.sole {
			a.differ(LimitEvent, eventKey(e), "nothing was counted that it could be of")
			return
		}
	}
}

// ordered returns the scripts in a fixed order.
func (a *audit) ordered() []*script {
	list := make([]*script, 0, len(a.events.scripts))
	for _, s := range a.events.scripts {
		list = append(list, s)
	}
	slices.SortFunc(list, func(x, y *script) int { return strings.Compare(x.tuple.key(), y.tuple.key()) })
	return list
}

// key returns the changelog key of the limit record of t.
func (t tuple) key() string {
	dst := append(usage.AppendCanonicalString([]byte(`["`+aggregate.LimitKind+`",`), t.contract), ',')
	dst = append(usage.AppendCanonicalString(dst, t.limit), ',')
	dst = append(append(dst, t.dimensions...), ',')
	return string(append(usage.AppendCanonicalString(dst, t.period), ']'))
}
