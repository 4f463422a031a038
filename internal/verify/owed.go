package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// silent demands an event of a record that passes thresholds, where there is
// none.
func (a *audit) silent(w *watch, st *step) {
	k, s := w.counter, w.script
	if !k.exact() || !k.seed().Complete() || st.record.Offset < a.events.from || s.vague && !a.seedTold(s, st.moment) {
		return
	}
	t := w.terms[0]
	if !w.sole() {
		if t = a.ruler(w, st); t == nil {
			return
		}
	}
	passed := alerts.Passed(st.before, st.after, t.limit.Thresholds)
	if len(passed) == 0 || s.foretold(kindOf(st.before, st.after), passed) {
		return
	}
	if k.period.End != usage.MaxTime && a.kept.position.Time >= k.period.End && !a.kept.sure(t.written, st.moment) {
		return // the contract may have come when the period was over
	}
	o := owed{kind: kindOf(st.before, st.after), passed: passed, late: st.moment.lo >= k.period.End}
	o.text = fmt.Sprintf("is missing: offset %d takes the total from %s to %s, %s %s", st.record.Offset,
		st.before.Format(t.limit.Decimals), st.after.Format(t.limit.Decimals), o.kind, strings.Join(alerts.Labels(passed), ", "))
	s.owed = append(s.owed, o)
	if s.next > 0 || !w.sole() || !k.waits() && a.kept.sure(t.written, st.moment) {
		a.owe(w)
	}
}

// ruler returns the last of the revisions that may have judged a step, if each
// of them did, and each would have told of it.
func (a *audit) ruler(w *watch, st *step) *term {
	list, sure := a.deals.ruling(w.terms[0].contract.ID, a.kept, st.moment)
	if !sure || w.counter.waits() && w.script.next == 0 {
		return nil
	}
	var last *term
	for _, rev := range list {
		if last = w.term(rev.offset); last == nil || rev.contract == nil || len(alerts.Passed(st.before, st.after, last.limit.Thresholds)) == 0 {
			return nil
		}
	}
	return last
}

// seedTold tells whether a limit had judged its seed, which it did in silence,
// before a moment.
func (a *audit) seedTold(s *script, m moment) bool {
	r := a.kept.limits[s.tuple.key()]
	return r != nil && slices.ContainsFunc(r.Told, func(t aggregate.Telling) bool { return t.Silent && t.DecidedAt <= m.since })
}

// owed is a limit event that is missing.
type owed struct {
	kind   alerts.EventKind
	passed []contracts.Threshold
	late   bool
	text   string
}

// owe tells of the events that are missing. Before anything was told of a
// limit, its contract may have been unread or its seed unanswered, and a total
// that has fallen meanwhile had nothing to tell afterwards.
func (a *audit) owe(w *watch) {
	s, k := w.script, w.counter
	list := s.owed
	s.owed = nil
	if s.next == 0 && k.fell && len(w.terms) > 0 && (k.waits() || !a.kept.sure(w.terms[0].written, moment{since: usage.MinTime})) {
		return
	}
	for _, o := range list {
		a.differ(LimitEvent, s.key(), "%s", o.text)
		s.stand(o.kind, o.passed, w.terms[0].limit)
		s.late = s.late || o.late
	}
}

// foretold tells whether thresholds are told of by the next event, because a
// contract or a seed was waited for.
func (s *script) foretold(kind alerts.EventKind, passed []contracts.Threshold) bool {
	if s.next >= len(s.events) {
		return false
	}
	e := s.events[s.next]
	if e.Kind != kind || e.Cause.Kind != alerts.ByContract && e.Cause.Kind != alerts.BySeed {
		return false
	}
	for _, p := range passed {
		if !slices.ContainsFunc(e.Thresholds, func(t alerts.PassedThreshold) bool { return t.Threshold == p.Label }) {
			return false
		}
	}
	return true
}
