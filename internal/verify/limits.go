package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
)

// compareLimits compares what the changelog says of limits with their events.
func (a *audit) compareLimits() {
	seen := map[string]bool{}
	for _, s := range a.ordered() {
		key := s.tuple.key()
		r := a.kept.limits[key]
		seen[key] = true
		switch {
		case len(s.events) == 0 && r == nil:
		case r == nil:
			if !a.gone(s) {
				a.differ(LimitRecord, key, "is missing, %d limit events were told", len(s.events))
			}
		case len(s.events) == 0:
			a.untold(key, r)
		default:
			a.compareLimit(key, s, r)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(a.kept.limits)) {
		if !seen[key] {
			a.untold(key, a.kept.limits[key])
		}
	}
}

// gone tells whether the record of a script need no longer be kept.
func (a *audit) gone(s *script) bool {
	if len(s.watches) == 0 {
		return true // nobody knows what it was of
	}
	return slices.ContainsFunc(s.watches, func(w *watch) bool {
		return !w.sole() || a.expired(w.counter.scope, &w.counter.period) // a revision may have cut the period
	})
}

// untold demands limit events of what a record says was told.
func (a *audit) untold(key string, r *aggregate.LimitRecord) {
	if a.events.cut || a.cfg.MarkSeeded || r.Sequence == 0 {
		return
	}
	d := Difference{Subject: LimitRecord, Key: key, Problem: fmt.Sprintf("%d limit events were told, the topic has none", r.Sequence)}
	t := tuple{r.Contract, r.Limit, string(usage.AppendCanonicalMap(nil, r.Dimensions)), r.Period.ID}
	if r.Last != nil || !a.lacks(&a.openGaps, d, t, r.Dimensions, 1, r.Sequence+1) {
		a.differ(d.Subject, d.Key, "%s", d.Problem)
	}
}

func (a *audit) compareLimit(key string, s *script, r *aggregate.LimitRecord) {
	last := s.events[len(s.events)-1]
	if a.cfg.MarkSeeded && r.Sequence != last.Sequence && r.Last != nil && r.Last.Cause.Kind == alerts.BySeed {
		return // the last one went to limit-state alone
	}
	behind := Difference{Subject: LimitRecord, Key: key, Problem: fmt.Sprintf("sequence is %d, the last limit event's %d", r.Sequence, last.Sequence)}
	elsewhere := a.lacks(&a.openGaps, behind, s.tuple, s.dimensions, last.Sequence+1, r.Sequence+1)
	switch {
	case r.Sequence != last.Sequence && !elsewhere:
		a.differ(behind.Subject, behind.Key, "%s", behind.Problem)
	case r.Last == nil:
		a.differ(LimitRecord, key, "it has no last limit event")
	default:
		if problem := unlike(r.Last, last); problem != "" {
			a.differ(LimitRecord, key, "last limit event: %s", problem)
		}
	}
	if len(s.watches) == 0 {
		return
	}
	w := s.watchFor(last)
	if r.Client != w.counter.client.name {
		a.differ(LimitRecord, key, "client is %q, must be %q", r.Client, w.counter.client.name)
	}
	if !s.vague && !slices.Equal(r.Standing, s.standing) {
		a.differ(LimitRecord, key, "standing is %s, must be %s", showStanding(r.Standing, r.Decimals), showStanding(s.standing, r.Decimals))
	}
	if w.sole() && r.Closed != s.closed {
		a.differ(LimitRecord, key, "closed is %t, must be %t", r.Closed, s.closed)
	}
	if problem := s.misplaced(w, r); problem != "" {
		a.differ(LimitRecord, key, "%s", problem)
	}
	if problem := a.mistold(s, r); problem != "" {
		a.differ(LimitRecord, key, "%s", problem)
	}
}

// misplaced returns what a record has wrong of where its limit stands and of
// which counter it is, or "".
func (s *script) misplaced(w *watch, r *aggregate.LimitRecord) string {
	if !maps.Equal(r.Dimensions, s.dimensions) {
		return fmt.Sprintf("dimensions are %s, must be %s", showValues(r.Dimensions), s.tuple.dimensions)
	}
	t := w.term(r.Revision)
	switch {
	case t == nil || r.Scope != w.counter.scope, r.Last != nil && r.Last.Cause.Kind == alerts.ByContract && len(r.Standing) == 0:
		// A revision may have withdrawn it, which leaves the rest as it was.
	case !maps.Equal(r.Where, t.limit.Where):
		return fmt.Sprintf("where is %s, must be %s", showValues(r.Where), showValues(t.limit.Where))
	case r.Place != t.order:
		return fmt.Sprintf("place is %d, must be %d", r.Place, t.order)
	}
	return ""
}

func showValues(values map[string]string) string {
	return string(usage.AppendCanonicalMap(nil, values))
}

// mistold returns what a record has wrong of the last limit events, or "".
// Those of a seed that was not announced are nowhere else.
func (a *audit) mistold(s *script, r *aggregate.LimitRecord) string {
	if a.events.cut {
		return ""
	}
	bySequence := map[int64]*alerts.Event{}
	for _, e := range s.events {
		bySequence[e.Sequence] = e
	}
	for i := range r.Told {
		have := &r.Told[i]
		if have.Silent && a.cfg.MarkSeeded && have.Cause.Kind == alerts.BySeed {
			continue
		}
		e := bySequence[have.Sequence]
		if e == nil {
			return fmt.Sprintf("it tells of limit event #%d, which is not in the topic", have.Sequence)
		}
		if problem := unlike(toldOf(have, e), e); problem != "" {
			return fmt.Sprintf("what it tells of limit event #%d: %s", e.Sequence, problem)
		}
		delete(bySequence, have.Sequence)
	}
	if len(bySequence) > 0 && len(r.Told) < aggregate.MaxTold {
		return fmt.Sprintf("it does not tell of %d limit events", len(bySequence))
	}
	return ""
}

// toldOf returns e as t tells of it.
func toldOf(t *aggregate.Telling, e *alerts.Event) *alerts.Event {
	have := *e
	have.Sequence, have.Kind, have.UsageBefore, have.UsageAfter = t.Sequence, t.Kind, t.Before, t.After
	have.ContractRevision, have.Cause, have.Late, have.DecidedAt = t.Revision, t.Cause, t.Late, t.DecidedAt
	if !slices.EqualFunc(t.Labels, e.Thresholds, func(label string, p alerts.PassedThreshold) bool { return label == p.Threshold }) {
		have.Thresholds = []alerts.PassedThreshold{}
		for _, label := range t.Labels {
			have.Thresholds = append(have.Thresholds, alerts.PassedThreshold{Threshold: label})
		}
	}
	return &have
}

// compareStanding demands that of each limit in force just the thresholds
// stand that the total has reached, whatever was told on the way. After the
// end of a period nothing of the kind is true.
func (a *audit) compareStanding() {
	now := moment{lo: a.kept.position.Time, hi: a.kept.position.Time, since: a.kept.clock(), until: a.kept.clock()}
	for _, s := range a.ordered() {
		for _, w := range s.watches {
			k := w.counter
			if s.disputed || !k.exact() || !k.seed().Complete() || now.lo >= k.period.End {
				continue
			}
			list, sure := a.deals.ruling(s.tuple.contract, a.kept, now)
			if !sure || len(list) != 1 || w.term(list[0].offset) == nil {
				continue
			}
			have := s.standing
			if r := a.kept.limits[s.tuple.key()]; s.vague && r != nil {
				have = r.Standing
			}
			want := reached(w.term(list[0].offset), k.total)
			if !sameLabels(alerts.Labels(have), alerts.Labels(want)) {
				a.differ(LimitEvent, s.key(), "a limit event is missing: %s stand, the total is %s and has reached %s",
					labels(have), k.total.Format(k.decimals), labels(want))
			}
		}
	}
}

func labels(list []contracts.Threshold) string {
	if len(list) == 0 {
		return "no thresholds"
	}
	return strings.Join(alerts.Labels(list), ", ")
}

func showStanding(list []contracts.Threshold, decimals int) string {
	parts := make([]string, 0, len(list))
	for _, t := range list {
		parts = append(parts, t.Label+" at "+t.Value.Format(decimals))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// shown is a record of the limit-state topic.
type shown struct {
	record *kafka.Record
	event  *alerts.Event // nil: null
}

// compareStates compares limit-state with the last events of the periods that
// partition time lies in.
func (a *audit) compareStates(ctx context.Context) error {
	states, later, err := a.readStates(ctx)
	if err != nil {
		return err
	}
	want := a.wantedStates()
	keys := slices.Collect(maps.Keys(states))
	for key := range want {
		if _, ok := states[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if later[key] {
			continue
		}
		if problem := a.wrongState(key, states[key], want[key]); problem != "" {
			a.differ(LimitState, key, "%s", problem)
		}
	}
	return nil
}

// readStates returns the last state of each key, and which of them have
// changed in later commits.
func (a *audit) readStates(ctx context.Context) (states map[string]shown, later map[string]bool, err error) {
	states, later = map[string]shown{}, map[string]bool{}
	err = a.readAll(ctx, a.cfg.Topics.LimitState, a.number, func(r *kafka.Record) error {
		key := string(r.Key)
		if usage.Time(r.Timestamp) > a.kept.clock() {
			later[key] = true
			return nil
		}
		st := shown{record: r}
		if r.Value != nil {
			event, err := a.parts.Events.Decode(r.Value)
			if err != nil {
				a.differ(LimitState, key, "offset %d: %s", r.Offset, err)
				return nil
			}
			st.event = event
		}
		states[key] = st
		return nil
	})
	return states, later, err
}

// wantedStates returns what limit-state must show: for each limit of which
// labels stand in the current period, the last event.
func (a *audit) wantedStates() map[string]*alerts.Event {
	want := map[string]*alerts.Event{}
	now := a.kept.position.Time
	followed := map[string]bool{}
	for _, s := range a.ordered() {
		if len(s.watches) == 0 || len(s.events) == 0 || s.vague {
			continue
		}
		last := s.events[len(s.events)-1]
		followed[s.tuple.key()] = true
		period := usage.Period{Start: last.Period.Start, End: last.Period.End}
		if r := a.kept.limits[s.tuple.key()]; r != nil && !s.watchFor(last).sole() {
			period = r.Period // a revision may have cut it anew
		}
		if len(s.standing) > 0 && period.Contains(now) {
			want[alerts.StateKey(last.Contract, last.LimitID, last.Dimensions)] = last
		}
	}
	for key, r := range a.kept.limits {
		if !followed[key] && len(r.Standing) > 0 && r.Period.Contains(now) {
			want[alerts.StateKey(r.Contract, r.Limit, r.Dimensions)] = r.Last
		}
	}
	return want
}

// wrongState returns what is wrong of a state, or "".
func (a *audit) wrongState(key string, st shown, want *alerts.Event) string {
	switch {
	case st.event == nil && want == nil:
		return ""
	case st.event == nil:
		return fmt.Sprintf("is null or missing, must be limit event %s", want.ID)
	case alerts.StateKey(st.event.Contract, st.event.LimitID, st.event.Dimensions) != key:
		return fmt.Sprintf("it shows a limit event of %s", alerts.StateKey(st.event.Contract, st.event.LimitID, st.event.Dimensions))
	case want == nil:
		return fmt.Sprintf("is limit event %s, must be null: nothing stands", st.event.ID)
	case st.event.ID != want.ID:
		return fmt.Sprintf("is limit event %s, must be %s", st.event.ID, want.ID)
	}
	if problem := unlike(st.event, want); problem != "" {
		return problem
	}
	return a.headers(st.record, st.event)
}
