package verify

import (
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// watch is a limit on a counter, in all the revisions that put it there.
type watch struct {
	script  *script
	counter *counter
	terms   []*term
}

// sole tells whether the limit was never another one.
func (w *watch) sole() bool { return len(w.terms) == 1 && w.terms[0].sole }

// term returns the limit as a revision has it, or nil.
func (w *watch) term(revision int64) *term {
	for _, t := range w.terms {
		if t.contract.Revision == revision {
			return t
		}
	}
	return nil
}

// watch finds the limits on a counter that is new.
func (a *audit) watch(k *counter) {
	for _, t := range k.client.terms {
		if !t.judges(k, a.cfg.Catalog) {
			continue
		}
		values := t.perValues(k)
		of := tuple{t.contract.ID, t.limit.ID, string(usage.AppendCanonicalMap(nil, values)), k.period.ID}
		if i := slices.IndexFunc(k.watches, func(w *watch) bool { return w.script.tuple == of }); i >= 0 {
			k.watches[i].terms = append(k.watches[i].terms, t)
			continue
		}
		s := a.events.script(of, values)
		w := &watch{script: s, counter: k, terms: []*term{t}}
		k.watches, s.watches = append(k.watches, w), append(s.watches, w)
		s.vague = s.vague || a.cfg.MarkSeeded && (k.waits() || k.blind)
		s.sight(k, k.total)
	}
}

// sight notes that k has a total, and the other counters of the script have
// theirs, for the next events that are not of a usage record.
func (s *script) sight(k *counter, total usage.Quantity) {
	for i := s.next + s.sighted; i < len(s.events) && s.has(s.events[i], k, total); i++ {
		s.sighted++
	}
}

// has tells whether a counter has, or may have, the total that e tells of,
// which is not of a usage record.
func (s *script) has(e *alerts.Event, k *counter, total usage.Quantity) bool {
	text := e.UsageAfter
	switch e.Cause.Kind {
	case alerts.ByUsage, alerts.ByVoid:
		return false
	case alerts.ByPeriodEnd:
		text = e.UsageBefore
	}
	return slices.ContainsFunc(s.watches, func(w *watch) bool {
		has := w.counter.total
		if w.counter == k {
			has = total
		}
		return !w.counter.exact() || text == has.Format(w.terms[0].limit.Decimals)
	})
}

// advance goes on to the next event.
func (s *script) advance() {
	s.next++
	s.sighted = max(0, s.sighted-1)
}

// find returns the index of the event whose cause is the usage record at
// offset, or -1.
func (s *script) find(offset int64) int {
	for i := s.next; i < len(s.events); i++ {
		e := s.events[i]
		if !ofRecord(e) || e.Cause.Offset == nil {
			continue
		}
		if *e.Cause.Offset >= offset {
			if *e.Cause.Offset == offset {
				return i
			}
			return -1
		}
	}
	return -1
}

// judge compares what an event did to a counter with what its limits told.
func (a *audit) judge(k *counter, ch *change, delta, before usage.Quantity) {
	if len(k.watches) == 0 {
		return
	}
	st := step{change: ch, delta: delta, before: before, after: k.total}
	for _, w := range k.watches {
		a.follow(w, &st)
		w.script.sight(k, k.total)
	}
}

// step is what one record does to a counter.
type step struct {
	*change
	delta         usage.Quantity // to a counter that adds
	before, after usage.Quantity
}

func (a *audit) follow(w *watch, st *step) {
	s := w.script
	i := s.find(st.record.Offset)
	if i < 0 {
		a.silent(w, st)
		return
	}
	e := s.events[i]
	t := w.term(e.ContractRevision)
	if t == nil && a.elsewhere(w, e) {
		return
	}
	a.owe(w)
	for s.next < i {
		a.told(s.watchFor(s.events[s.next]), s.events[s.next])
		s.advance()
		s.sight(w.counter, st.before)
	}
	a.crossed(w, t, e, st)
	s.advance()
}

// elsewhere tells whether an event is of a revision that is known and that
// judges another counter.
func (a *audit) elsewhere(w *watch, e *alerts.Event) bool {
	return slices.ContainsFunc(w.counter.client.terms, func(t *term) bool {
		return t.contract.ID == e.Contract && t.limit.ID == e.LimitID && t.contract.Revision == e.ContractRevision
	})
}

func kindOf(before, after usage.Quantity) alerts.EventKind {
	if after < before {
		return alerts.Cleared
	}
	return alerts.Crossed
}

// stand notes what stands after thresholds of a limit were crossed or cleared,
// in the order in which the limit has them.
func (s *script) stand(kind alerts.EventKind, passed []contracts.Threshold, of *contracts.Limit) {
	s.decimals = of.Decimals
	has := func(list []contracts.Threshold, label string) int {
		return slices.IndexFunc(list, func(t contracts.Threshold) bool { return t.Label == label })
	}
	var after []contracts.Threshold
	for _, t := range s.standing {
		if has(of.Thresholds, t.Label) < 0 && (kind == alerts.Crossed || has(passed, t.Label) < 0) {
			after = append(after, t)
		}
	}
	for _, t := range of.Thresholds {
		told := has(passed, t.Label)
		switch i := has(s.standing, t.Label); {
		case kind == alerts.Crossed && i < 0 && told >= 0:
			after = append(after, passed[told])
		case i >= 0 && (kind == alerts.Crossed || told < 0):
			after = append(after, s.standing[i])
		}
	}
	s.standing = after
}

// believe takes over what an event says of what stands.
func (s *script) believe(e *alerts.Event, decimals int) {
	s.decimals = decimals
	var after []contracts.Threshold
	for _, label := range e.Standing {
		t := contracts.Threshold{Label: label}
		if i := slices.IndexFunc(s.standing, func(t contracts.Threshold) bool { return t.Label == label }); i >= 0 {
			t = s.standing[i]
		} else if i := slices.IndexFunc(e.Thresholds, func(t alerts.PassedThreshold) bool { return t.Threshold == label }); i >= 0 {
			t.Value, _ = amountOf(e.Thresholds[i].Value, decimals)
		}
		after = append(after, t)
	}
	s.standing = after
}

func amountOf(text string, decimals int) (usage.Quantity, bool) {
	d, err := usage.ParseDecimal(text)
	if err != nil {
		return 0, false
	}
	return d.Quantity(decimals)
}

// crossed checks the event of a usage record.
func (a *audit) crossed(w *watch, t *term, e *alerts.Event, st *step) {
	k, s := w.counter, w.script
	s.moves(w)
	a.overdue(w, e)
	if t == nil {
		if !w.sole() { // its revision was compacted away
			s.believe(e, w.terms[0].limit.Decimals)
			return
		}
		t = w.terms[0]
	}
	before, after := st.before, st.after
	if !k.exact() {
		var ok bool
		if before, ok = amountOf(e.UsageBefore, t.limit.Decimals); !ok {
			before = st.before
		}
		if after = before + st.delta; !k.adds {
			after, _ = amountOf(e.UsageAfter, t.limit.Decimals)
		}
	}
	if !k.seed().Complete() {
		a.differ(LimitEvent, eventKey(e), "the counter's seed is %s, nothing is to be told", k.seed().State)
	}
	passed := alerts.Passed(before, after, t.limit.Thresholds)
	if len(passed) == 0 {
		a.differ(LimitEvent, eventKey(e), "offset %d takes the total from %s to %s and passes no threshold", st.record.Offset,
			before.Format(t.limit.Decimals), after.Format(t.limit.Decimals))
		s.believe(e, t.limit.Decimals)
		return
	}
	kind := kindOf(before, after)
	s.stand(kind, passed, t.limit)
	want := a.expected(w, t, e, passed)
	want.Kind = kind
	want.UsageBefore, want.UsageAfter = before.Format(t.limit.Decimals), after.Format(t.limit.Decimals)
	want.Utilization = usage.Utilization(after, t.limit.Value)
	at := st.event.Time
	want.Cause.Kind, want.Cause.EventTime, want.Cause.EventID = alerts.ByUsage, &at, nil
	if st.event.Void {
		want.Cause.Kind = alerts.ByVoid
	}
	if len(st.event.ID) > 0 {
		id := string(st.event.ID)
		want.Cause.EventID = &id
	}
	switch {
	case k.loose: // the period may have had another end then
	case st.moment.lo >= k.period.End:
		want.Late = true
	case st.moment.hi < k.period.End:
		want.Late = false
	}
	s.late = e.Late
	if s.vague && k.exact() && !e.Late && !want.Late {
		s.standing = reached(t, after)
		if have := alerts.Labels(s.standing); !sameLabels(e.Standing, have) {
			a.differ(LimitEvent, eventKey(e), "standing is %q, must be %q: the thresholds that the total has reached", e.Standing, have)
			s.disputed = true
		}
	}
	a.like(w, e, want, t)
}

// reached returns the thresholds that a total has reached, all of which stand
// until the period has ended.
func reached(t *term, total usage.Quantity) []contracts.Threshold {
	var list []contracts.Threshold
	for _, threshold := range t.limit.Thresholds {
		if threshold.Value <= total {
			list = append(list, threshold)
		}
	}
	return list
}

// expected returns e as it must be, as far as that is the same for all causes.
// What stands must be noted before.
func (a *audit) expected(w *watch, t *term, e *alerts.Event, passed []contracts.Threshold) *alerts.Event {
	k := w.counter
	want := *e // numbers, ids and times of decisions are checked elsewhere
	want.Client, want.Meter, want.Dimensions = k.client.name, t.limit.MeterName, t.perValues(k)
	want.ContractRevision, want.Limit, want.Enforcement = t.contract.Revision, t.limit.Value.Format(t.limit.Decimals), t.limit.Enforcement
	want.Thresholds = alerts.Show(passed, t.limit.Decimals)
	if n := len(passed); n > 0 {
		want.Highest = passed[n-1].Label
	}
	want.Standing = alerts.Labels(w.script.standing)
	if !k.loose {
		want.Period = alerts.PeriodInfo{ID: k.period.ID, Start: k.period.Start, End: k.period.End, Timezone: k.period.Timezone}
	}
	if !k.blind && (w.sole() || k.scope.Default()) { // else the counter may have been made anew
		want.Seeded = k.seed().Events != 0 || k.seed().Usage != 0
	}
	return &want
}

// like compares an event with what it must be.
func (a *audit) like(w *watch, e, want *alerts.Event, t *term) {
	s := w.script
	switch {
	case s.vague:
		want.Standing = e.Standing
		s.believe(e, t.limit.Decimals)
	}
	if problem := unlike(e, want); problem != "" {
		a.differ(LimitEvent, eventKey(e), "%s", problem)
		s.disputed = true
	}
}

func sameLabels(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// moves forgets what stood of another meter, which the limit was on before and
// whose period had ended when the contract changed.
func (s *script) moves(w *watch) {
	if s.on != nil && s.on.meter != w.counter.meter {
		s.standing, s.closed, s.late = nil, false, false
	}
	s.on = w.counter
	if s.next > 0 && s.next < len(s.events) && s.events[s.next].Period != s.events[s.next-1].Period {
		s.closed = false // a revision has cut the period anew
	}
}

// overdue demands the reset of what stood at the end of the period, before
// anything later is told.
func (a *audit) overdue(w *watch, e *alerts.Event) {
	s := w.script
	if e.Late && !s.closed && !s.late && len(s.standing) > 0 && !s.vague {
		a.differ(LimitEvent, eventKey(e), "the reset is missing before it: %s stood", strings.Join(alerts.Labels(s.standing), ", "))
		s.standing, s.closed = nil, true
	}
}
