package scenario

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// answer is what history says to ask, from the rows of the scenario.
func (m *memory) answer(ask aggregate.Ask) []aggregate.SeedTotal {
	var totals []aggregate.SeedTotal
	for _, r := range m.rows {
		if r.client != ask.Client || !ask.Period.Contains(r.time) || r.offset >= ask.Boundary {
			continue
		}
		t := aggregate.SeedTotal{
			Meter: r.meter, Events: r.events, Quantity: r.quantity, Min: r.quantity, Max: r.quantity, Latest: r.quantity,
			First: r.time, Last: r.time,
		}
		for _, path := range m.cfg.Catalog.Paths {
			t.Fields = append(t.Fields, valueOf(&r, path))
		}
		totals = append(totals, t)
	}
	return totals
}

func valueOf(r *row, path string) usage.Value {
	if path == "meter" {
		return usage.Value{Kind: usage.TextValue, Text: []byte(r.meter)}
	}
	if text, ok := r.values[path]; ok {
		return usage.Value{Kind: usage.TextValue, Text: []byte(text)}
	}
	return usage.Value{}
}

// usage answers a usage step: TOTAL [pending] [(N events)], or none.
func (m *memory) usage(step *Step) string {
	q := &step.query
	view := m.state.View(step.client, aggregate.Selection{Meter: q.meter, Period: q.period})
	var found []string
	for i := range view.Counters {
		k := &view.Counters[i]
		if k.Scope.Contract != q.contract || !maps.Equal(k.Dimensions, q.values) {
			continue
		}
		text := k.Total.Format(k.Decimals)
		if !k.Seed.Complete() {
			text += " " + string(k.Seed.State)
		}
		if wants := strings.Join(wantTexts(step), " "); strings.Contains(wants, "event") {
			text += fmt.Sprintf(" (%d events)", k.Events)
		}
		found = append(found, text)
	}
	if len(found) == 0 {
		return "none"
	}
	slices.Sort(found)
	return strings.Join(found, " and ")
}

func wantTexts(step *Step) []string {
	var texts []string
	for i := range step.Want {
		texts = append(texts, step.Want[i].text)
	}
	return texts
}

// check answers a check step: allowed or denied, and what each limit that
// applies leaves.
func (m *memory) check(step *Step) ([]string, error) {
	q := &step.query
	n := m.cfg.Catalog.Find(q.meter)
	if n < 0 {
		return nil, bad("meter %q", q.meter)
	}
	meter := &m.cfg.Catalog.Meters[n]
	d, err := usage.ParseDecimal(cmp.Or(q.quantity, "1"))
	if err != nil {
		return nil, err
	}
	quantity, ok := d.Quantity(meter.Decimals)
	if !ok {
		return nil, bad("quantity %s", d)
	}
	use := alerts.Use{Meter: meter.Name, Aggregation: meter.Aggregation, Quantity: quantity, Dimensions: q.values}
	allowed, list := true, []string{}
	view := m.state.View(step.client, aggregate.Selection{Meter: q.meter})
	for i := range view.Limits {
		v := &view.Limits[i]
		if v.Ended || view.AsOf.Time < v.Contract.StartsAt || !use.Concerns(v.Limit) || !maps.Equal(use.Per(v.Limit), v.Dimensions) {
			continue
		}
		if !v.Seed.Complete() {
			return []string{incomplete}, nil
		}
		allowed = allowed && use.Allowed(v.Limit, v.Total)
		list = append(list, leaves(v.Limit.ID, alerts.Remaining(v.Limit, v.Total), alerts.Blocked(v.Limit, v.Total)))
	}
	return append([]string{decision(allowed)}, list...), nil
}

// incomplete is the answer to a check while history is being asked.
const incomplete = "incomplete"

func decision(allowed bool) string { //revive:disable-line:flag-parameter // it is the answer
	if allowed {
		return "allowed"
	}
	return "denied"
}

func leaves(limit, remaining string, blocked bool) string { //revive:disable-line:flag-parameter // it is part of the answer
	text := limit + " leaves " + remaining
	if blocked {
		text += " and blocks"
	}
	return text
}

// limitState answers a state step: the labels that stand, or nothing.
func (m *memory) limitState(step *Step) string {
	q := &step.query
	for _, key := range slices.Sorted(maps.Keys(m.states)) {
		if e := m.states[key]; e.Contract == q.contract && e.LimitID == q.limit && valuesOf(e) == q.dimension {
			return strings.Join(e.Standing, " ")
		}
	}
	return "nothing"
}

// counterLine is what a counter's record says that anybody can compare.
func counterLine(c *aggregate.CounterRecord) string {
	return fmt.Sprintf("%s in %d events, %s to %s", c.Total.Format(c.Decimals), c.Events, c.First, c.Last)
}

// compare says in what got is not what step wants, or "".
func compare(step *Step, got outcome) string {
	var words []string
	var wants []*want
	for i := range step.Want {
		if w := &step.Want[i]; w.event {
			wants = append(wants, w)
		} else if w.text != "nothing" || step.kind == stateStep {
			words = append(words, w.text)
		}
	}
	if step.kind == checkStep && len(words) == 1 && len(got.words) > 0 {
		got.words = got.words[:1] // what limits leave need not be said
	}
	if len(words) != len(got.words) {
		return fmt.Sprintf("it is %q, not %q", got.words, words)
	}
	for i, word := range words {
		begins := strings.HasPrefix(word, rejected) && strings.HasPrefix(got.words[i], word) // a reason may be cut short
		if word != got.words[i] && !begins {
			return fmt.Sprintf("it is %q, not %q", got.words, words)
		}
	}
	for i := range max(len(wants), len(got.events)) {
		switch {
		case i >= len(wants):
			return "it tells more: " + line(got.events[i])
		case i >= len(got.events):
			return "it does not tell: " + wants[i].text
		}
		if why := wants[i].about(got.events[i]); why != "" {
			return fmt.Sprintf("%s: %s", wants[i].text, why)
		}
	}
	return ""
}

// rejected is what a contract is that comes into force nowhere, and the reason
// follows.
const rejected = "rejected"

// String lists what a step made.
func (o outcome) String() string {
	lines := slices.Clone(o.words)
	for _, e := range o.events {
		lines = append(lines, line(e))
	}
	return strings.Join(lines, "\n")
}
