package verify

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// answeredLimit is a limit as GET /v1/clients/{client}/limits has it.
type answeredLimit struct {
	Contract    string                `json:"contract"`
	Revision    int64                 `json:"contract_revision"`
	LimitID     string                `json:"limit_id"`
	Meter       string                `json:"meter"`
	Dimensions  map[string]string     `json:"dimensions"`
	Enforcement contracts.Enforcement `json:"enforcement"`
	Limit       string                `json:"limit"`
	Usage       string                `json:"usage"`
	Remaining   string                `json:"remaining"`
	Utilization string                `json:"utilization"`
	Thresholds  []answeredThreshold   `json:"thresholds"`
	Period      answeredPeriod        `json:"period"`
	Blocked     bool                  `json:"blocked"`
}

type answeredThreshold struct {
	Threshold string `json:"threshold"`
	Value     string `json:"value"`
	Crossed   bool   `json:"crossed"`
}

// unansweredLimits returns how an answer and the changelog's counters and
// limits differ. Each limit that is in force for sure must be answered, with the
// total of its counter.
func (a *audit) unansweredLimits(said *answer, records []*aggregate.CounterRecord) []string {
	var problems []string
	answered := map[*term]bool{}
	for i := range said.Limits {
		l := &said.Limits[i]
		t := a.termOf(said.Client, l)
		if t == nil {
			if l.Revision < a.deals.end && !a.deals.lost[l.Contract] {
				problems = append(problems, fmt.Sprintf("limit %s of %s: the contracts topic has none at revision %d", l.LimitID, l.Contract, l.Revision))
			}
			continue
		}
		answered[t] = true
		if problem := a.wrongLimit(l, t, records, said.Complete); problem != "" {
			problems = append(problems, fmt.Sprintf("limit %s of %s: %s", named(l.LimitID, l.Dimensions), l.Contract, problem))
		}
	}
	now := moment{since: a.kept.clock(), until: a.kept.clock()}
	for _, t := range a.deals.terms[said.Client] {
		list, sure := a.deals.ruling(t.contract.ID, a.kept, now)
		if sure && len(list) == 1 && list[0].contract == t.contract && len(t.limit.Per) == 0 && !answered[t] {
			problems = append(problems, fmt.Sprintf("limit %s of %s: is not answered", t.limit.ID, t.contract.ID))
		}
	}
	return problems
}

func (a *audit) termOf(client string, l *answeredLimit) *term {
	for _, t := range a.deals.terms[client] {
		if t.contract.ID == l.Contract && t.contract.Revision == l.Revision && t.limit.ID == l.LimitID {
			return t
		}
	}
	return nil
}

// wrongLimit returns what an answer has wrong of a limit, or "". While a seed
// is pending, totals are not looked at.
func (a *audit) wrongLimit(l *answeredLimit, t *term, records []*aggregate.CounterRecord, complete bool) string {
	limit, show := t.limit, func(q usage.Quantity) string { return q.Format(t.limit.Decimals) }
	if l.Meter != limit.MeterName || l.Limit != show(limit.Value) || l.Enforcement != limit.Enforcement {
		return fmt.Sprintf("it is %s %s of %s, must be %s %s of %s", l.Enforcement, l.Limit, l.Meter, limit.Enforcement, show(limit.Value), limit.MeterName)
	}
	if !slices.EqualFunc(l.Thresholds, limit.Thresholds, func(have answeredThreshold, want contracts.Threshold) bool {
		return have.Threshold == want.Label && have.Value == show(want.Value)
	}) {
		return "its thresholds are not the contract's"
	}
	if !complete {
		return ""
	}
	total := usage.Quantity(0)
	if r := counterOf(l, t, records); r != nil {
		total = r.Total
	}
	switch {
	case l.Usage != show(total):
		return fmt.Sprintf("usage is %s, the changelog has %s", l.Usage, show(total))
	case l.Remaining != alerts.Remaining(limit, total):
		return fmt.Sprintf("remaining is %s, must be %s", l.Remaining, alerts.Remaining(limit, total))
	case l.Utilization != usage.Utilization(total, limit.Value):
		return fmt.Sprintf("utilization is %s, must be %s", l.Utilization, usage.Utilization(total, limit.Value))
	case l.Blocked != alerts.Blocked(limit, total) && a.kept.position.Time < t.contract.EndsAt:
		return fmt.Sprintf("blocked is %t with %s of %s", l.Blocked, show(total), show(limit.Value))
	}
	return a.wrongCrossed(l)
}

// counterOf returns the counter of a limit in the period of its answer, nil
// where nothing was counted.
func counterOf(l *answeredLimit, t *term, records []*aggregate.CounterRecord) *aggregate.CounterRecord {
	dimensions := maps.Clone(l.Dimensions)
	if dimensions == nil {
		dimensions = map[string]string{}
	}
	maps.Copy(dimensions, t.limit.Where)
	var found *aggregate.CounterRecord
	for _, r := range records {
		if r.Meter != l.Meter || !l.Period.is(&r.Period) || r.Period.Timezone != t.limit.Schedule.Zone.String() || !maps.Equal(r.Dimensions, dimensions) {
			continue
		}
		if r.Scope == t.scope() { // where there is one, the default counter does not serve
			return r
		}
		if r.Scope.Default() {
			found = r
		}
	}
	return found
}

// wrongCrossed compares which thresholds are said to be crossed with what the
// changelog says that stands.
func (a *audit) wrongCrossed(l *answeredLimit) string {
	of := tuple{l.Contract, l.LimitID, showValues(l.Dimensions), l.Period.ID}
	r := a.kept.limits[of.key()]
	for _, have := range l.Thresholds {
		stands := r != nil && slices.ContainsFunc(r.Standing, func(s contracts.Threshold) bool { return s.Label == have.Threshold })
		if have.Crossed != stands {
			return fmt.Sprintf("crossed of %s is %t, the changelog has %t", have.Threshold, have.Crossed, stands)
		}
	}
	return ""
}
