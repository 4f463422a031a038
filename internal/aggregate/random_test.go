package aggregate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// history drives a State and the model through the same random life.
type history struct {
	*rapid.T
	r     *rig
	m     *model
	saved *model        // at the last commit
	unit  time.Duration // about the length of a default period
	steps []func()      // of the open transaction
	moved bool          // contracts changed within it
}

// Random lives: whatever happens, what is committed is what the model says,
// and neither rollbacks nor restarts make a difference.
func TestAgainstTheModel(t *testing.T) {
	t.Parallel()

	const hundreds = 30
	for i := range hundreds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				h := newHistory(t)
				for range rapid.IntRange(2, 10).Draw(t, "transactions") {
					h.transaction()
				}
			})
		})
	}
}

func newHistory(t *rapid.T) *history {
	cfg := config(t)
	h := &history{T: t, unit: time.Hour}
	kind, zone := usage.Hour, rapid.SampledFrom([]string{"UTC", "Asia/Kolkata"}).Draw(t, "zone")
	if rapid.Bool().Draw(t, "days") {
		kind, h.unit = usage.Day, 24*time.Hour
	}
	cfg.Catalog.Schedule = schedule(t, kind, zone)
	cfg.MaxFuture, cfg.AllowedLateness, cfg.DedupeWindow = h.unit/3, h.unit*3/2, h.unit*2/3
	cfg.KeepPeriods = rapid.IntRange(0, 2).Draw(t, "keep")
	h.r = newRig(t, cfg)
	h.m = newModel(cfg, h.r.table)
	h.saved = h.m.clone()
	h.contract()
	h.contract()
	return h
}

// near draws an instant around the clock, often on the seam of two periods.
func (h *history) near(label string, from, to int) usage.Time {
	at := h.r.clock.Add(h.unit / 8 * time.Duration(rapid.IntRange(from, to).Draw(h.T, label)))
	if rapid.Bool().Draw(h.T, "on a seam") {
		at = h.r.cfg.Catalog.Schedule.At(at).Start
	}
	return at
}

func (h *history) client() string {
	return rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(h.T, "client")
}

func (h *history) transaction() {
	h.r.clock = h.r.clock.Add(h.unit / 16 * time.Duration(rapid.IntRange(0, 20).Draw(h.T, "clock")))
	h.m.now = h.r.clock
	h.steps, h.moved = nil, false
	if rapid.IntRange(0, 2).Draw(h.T, "contracts") == 0 {
		for range rapid.IntRange(1, 3).Draw(h.T, "revisions") {
			h.contract()
		}
	}
	for range rapid.IntRange(1, 12).Draw(h.T, "inputs") {
		h.input()
	}
	switch rapid.SampledFrom([]string{"commit", "commit", "rollback", "restart"}).Draw(h.T, "end") {
	case "rollback":
		h.rollback()
	case "restart":
		h.r.restart()
		h.m = h.saved
		h.m.taken, h.m.terms = false, map[string][]*contracts.Contract{}
		h.m.now = h.r.clock
		h.saved = h.m.clone()
		h.steps = nil
		h.do(func() {})
	}
	h.commit()
}

// do does a step on both sides, and again after a rollback.
func (h *history) do(step func()) {
	whole := func() {
		h.r.taken()
		h.m.take()
		step()
	}
	h.steps = append(h.steps, whole)
	whole()
}

func (h *history) input() {
	switch kind := rapid.IntRange(0, 19).Draw(h.T, "input"); {
	case kind == 0:
		h.contract()
		h.moved = true
	case kind <= 2:
		to := h.near("advance", -4, 1)
		h.do(func() {
			h.r.do(func(s *aggregate.State) { s.Advance(to) })
			h.m.advance(to)
		})
	default:
		h.event()
	}
}

func (h *history) event() {
	in := aggregate.Input{Timestamp: h.near("timestamp", -6, 1)}
	e := usage.Event{
		Client: []byte(h.client()), Meter: []byte(rapid.SampledFrom([]string{"bytes", "bytes", "bytes", "bytes", "bytes", "bytes", "calls", "calls", "hours", "hours", "dreams"}).Draw(h.T, "meter")),
		Time: in.Timestamp, Quantity: usage.Decimal{Units: int64(rapid.IntRange(-25, 45).Draw(h.T, "quantity"))},
	}
	switch rapid.IntRange(0, 39).Draw(h.T, "kind") {
	case 39:
		e.Quantity.Units = 9223372036854775807 - int64(rapid.IntRange(0, 40).Draw(h.T, "off the edge"))
		if rapid.Bool().Draw(h.T, "negative") {
			e.Quantity.Units = -e.Quantity.Units
		}
	case 38:
		e.Quantity = usage.Decimal{Units: 15, Scale: 1}
	case 0, 1, 2, 3, 4, 5, 6, 7, 8, 9:
		e.Time = h.near("time", -20, 4)
	}
	if rapid.IntRange(0, 3).Draw(h.T, "with id") == 0 {
		e.ID = fmt.Append(nil, rapid.IntRange(0, 9).Draw(h.T, "id"))
	}
	h.do(func() {
		in.Offset = h.r.state.Position()
		var got aggregate.Result
		h.r.do(func(s *aggregate.State) { got = s.Fold(in, &e) })
		require.Equal(h, h.m.fold(in, &e), got)
	})
}

func (h *history) contract() {
	id := rapid.SampledFrom([]string{"k1", "k2"}).Draw(h.T, "contract")
	if rapid.IntRange(0, 9).Draw(h.T, "remove") == 9 {
		h.r.remove(id)
		return
	}
	more := `"starts_at":"2026-01-01T00:00:00Z"`
	if rapid.IntRange(0, 2).Draw(h.T, "starts") == 0 {
		more = fmt.Sprintf(`"starts_at":%q`, h.near("start", -24, 0))
	}
	if ends := h.near("end", -8, 20).Add(time.Millisecond); rapid.Bool().Draw(h.T, "ends") && !strings.Contains(more, ends.String()) {
		more += fmt.Sprintf(`,"ends_at":%q`, max(ends, startOf(h, more)+1))
	}
	var limits []string
	for i := range rapid.SampledFrom([]int{2, 1, 3, 0}).Draw(h.T, "limits") {
		meter := rapid.SampledFrom([]string{"bytes", "bytes", "calls", "hours"}).Draw(h.T, "meter")
		keys := fmt.Sprintf(`"meter":%q`, meter)
		keys += rapid.SampledFrom([]string{"", "", `,"period":"hour"`, `,"period":"day"`, `,"period":"lifetime"`, `,"period":"anniversary"`}).Draw(h.T, "period")
		keys += rapid.SampledFrom([]string{"", "", "", `,"timezone":"Asia/Kathmandu"`}).Draw(h.T, "zone")
		keys += `,"thresholds":` + rapid.SampledFrom([]string{`["50%","80%","100%"]`, `["100%","30%"]`, `["20","80%","10"]`, `["50%","50","120%"]`}).Draw(h.T, "thresholds")
		if meter == "hours" {
			keys = strings.NewReplacer(`"20"`, `"0.2"`, `"50"`, `"0.5"`, `"10"`, `"0.1"`).Replace(keys)
		}
		value := fmt.Sprint(rapid.IntRange(10, 90).Draw(h.T, "value"))
		if meter == "hours" {
			value = "0." + value
		}
		if meter == "calls" {
			value = value[:1]
		}
		limits = append(limits, limit(rapid.SampledFrom([]string{"x", "x", "y"}).Draw(h.T, "limit")+fmt.Sprint(i), value, keys))
	}
	h.r.put(id, h.client(), more, limits...)
}

// startOf reads starts_at out of the keys of a contract.
func startOf(t require.TestingT, keys string) usage.Time {
	return at(t, strings.Split(keys, `"`)[3])
}

// rollback undoes all, and does the same once more.
func (h *history) rollback() {
	h.r.taken()
	h.m.take()
	first := snapshot(h, h.r.state.Changes(h.r.clock))
	steps, position := h.steps, h.saved.next
	h.r.state.Rollback()
	require.Equal(h, position, h.r.state.Position())
	h.m = h.saved.clone()
	h.m.now = h.r.clock
	h.steps = nil
	for _, step := range steps {
		step()
	}
	h.r.taken()
	h.m.take()
	if !h.moved {
		require.Equal(h, first, snapshot(h, h.r.state.Changes(h.r.clock)), "as if it was never rolled back")
	}
}

func (h *history) commit() {
	h.r.told = nil
	h.r.commit()
	h.m.take()
	h.compareEvents()
	h.compareCounters()
	h.compareLimits()
	states := map[string]alerts.Event{}
	for key, e := range h.r.states {
		states[key] = undated(*e)
	}
	require.Equal(h, h.m.blocked(), states)
	require.Equal(h, h.m.next, h.r.state.Position())
	require.Equal(h, h.m.time, h.r.state.AsOf().Time)
	h.m.events = nil
	h.saved = h.m.clone()
}

func undated(e alerts.Event) alerts.Event {
	e.DecidedAt = 0
	return e
}

func (h *history) compareEvents() {
	got := []alerts.Event{}
	for _, e := range h.r.told {
		got = append(got, undated(*e))
	}
	want := append([]alerts.Event{}, h.m.events...)
	require.Equal(h, want, got)
}

func (h *history) compareCounters() {
	want, got := map[string]string{}, map[string]string{}
	for _, client := range []string{"a", "b"} {
		for _, c := range h.m.counters(client) {
			meter := h.m.cfg.Catalog.Meters[c.meter]
			record := aggregate.CounterRecord{Client: client, Meter: meter.Name, Scope: c.scope, Period: c.period}
			want[string(record.AppendCounterKey(nil))] = fmt.Sprint(c.period, h.m.sum(c.members), len(c.members))
		}
	}
	for key, record := range h.r.log {
		if c, ok := record.(*aggregate.CounterRecord); ok {
			got[key] = fmt.Sprint(c.Period, c.Total, c.Events)
		}
	}
	require.Equal(h, want, got)
}

func (h *history) compareLimits() {
	want, got := map[string]string{}, map[string]string{}
	for key, l := range h.m.told {
		record := aggregate.LimitRecord{Contract: key.contract, Limit: key.limit, Period: l.period}
		want[record.Key()] = fmt.Sprint(l.client, l.meter, l.sequence, l.standing, l.closed)
	}
	for key, record := range h.r.log {
		if l, ok := record.(*aggregate.LimitRecord); ok {
			got[key] = fmt.Sprint(l.Client, l.Meter, l.Sequence, l.Standing, l.Closed)
		}
	}
	require.Equal(h, want, got)
}
