package aggregate_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// fields are region, endpoint and user.
func text(values ...string) []usage.Value {
	var fields []usage.Value
	for _, v := range values {
		if v == "-" {
			fields = append(fields, usage.Value{})
			continue
		}
		fields = append(fields, usage.Value{Kind: usage.TextValue, Text: []byte(v)})
	}
	return fields
}

// whenEU is a condition: the region is eu.
type whenEU struct{}

func (whenEU) String() string { return `region == "eu"` }

func (whenEU) Holds(fields []usage.Value) (bool, error) {
	if fields[0].Kind == usage.UnfitValue {
		return false, errors.New("not a text")
	}
	return string(fields[0].Text) == "eu", nil
}

// wideConfig has a meter of every kind.
func wideConfig(t *testing.T) aggregate.Config {
	t.Helper()
	cfg := config(t)
	both := []usage.Dimension{{Name: "endpoint", Field: 1}, {Name: "region", Field: 0}}
	cfg.Catalog.Paths = []string{"properties.region", "properties.endpoint", "user"}
	cfg.Catalog.Meters = []usage.Meter{
		{Name: "calls", Aggregation: usage.Count, Dimensions: both, MaxCombinations: 3},
		{Name: "eu", Aggregation: usage.Sum, When: whenEU{}},
		{Name: "max", Aggregation: usage.Max},
		{Name: "min", Aggregation: usage.Min},
		{Name: "latest", Aggregation: usage.Latest},
		{Name: "users", Aggregation: usage.Unique, Value: 2},
	}
	return cfg
}

// totals lists a client's committed counters of a meter: dimensions, period,
// total and number of events.
func (r *rig) totals(client, meter string) []string {
	lines := []string{}
	for _, k := range r.state.View(client, aggregate.Selection{Meter: meter}).Counters {
		line := fmt.Sprint(dims(k.Dimensions), " ", k.Period.ID, " ", k.Total, " of ", k.Events)
		if !k.Scope.Default() {
			line += " own"
		}
		lines = append(lines, line)
	}
	return lines
}

func dims(m map[string]string) string {
	var parts []string
	for k, v := range m {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, " ") + "}"
}

// with folds in an event with fields.
func (r *rig) with(e ev, fields []usage.Value) (result aggregate.Result) {
	r.do(func(s *aggregate.State) {
		in, u := r.input(e)
		u.Fields = fields
		result = s.Fold(in, u)
	})
	return result
}

func (r *rig) restarted() {
	r.commit()
	r.restart()
}

func TestCombinationsAreCountedApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, wideConfig(t))
	r.put("c", "acme", "",
		limit("all", "4", `"meter":"calls","thresholds":["100%"]`),
		limit("one", "2", `"meter":"calls","thresholds":["100%"],"where":{"region":"eu","endpoint":"/a"}`),
		limit("each", "2", `"meter":"calls","thresholds":["100%"],"per":["endpoint","region"]`),
		limit("eu", "2", `"meter":"calls","thresholds":["100%"],"where":{"region":"eu"},"period":"day"`),
		limit("point", "2", `"meter":"calls","thresholds":["100%"],"per":["endpoint"]`),
	)
	call := func(region, endpoint string) {
		require.Equal(t, aggregate.Counted, r.with(ev{meter: "calls"}, text(region, endpoint, "-")).Fate)
	}
	call("eu", "/a")
	call("us", "/a")
	call("eu", "/b")
	require.Equal(t, []string{
		"crossed c/eu 2026-11-10 #1 [100%=2] 1..2 [100%] usage",
		"crossed c/point 2026-11 #1 [100%=2] 1..2 [100%] usage",
	}, slices.Sorted(slices.Values(r.commit())))
	call("eu", "/a")
	require.Equal(t, []string{
		"crossed c/all 2026-11 #1 [100%=4] 3..4 [100%] usage",
		"crossed c/one 2026-11 #1 [100%=2] 1..2 [100%] usage",
		"crossed c/each 2026-11 #1 [100%=2] 1..2 [100%] usage",
	}, r.commit())
	last := r.told[len(r.told)-1]
	require.Equal(t, map[string]string{"endpoint": "/a", "region": "eu"}, last.Dimensions)
	require.Contains(t, r.states, `["c","each",{"endpoint":"/a","region":"eu"}]`)
	want := []string{
		"{} 2026-11 4 of 4",
		"{endpoint=/a region=eu} 2026-11 2 of 2",
		"{endpoint=/a region=us} 2026-11 1 of 1",
		"{endpoint=/b region=eu} 2026-11 1 of 1",
		"{region=eu} 2026-11-10 3 of 3 own",
		"{endpoint=/a} 2026-11 3 of 3 own",
		"{endpoint=/b} 2026-11 1 of 1 own",
	}
	require.Equal(t, want, r.totals("acme", "calls"))
	r.restarted()
	require.Equal(t, want, r.totals("acme", "calls"))
	call("eu", "/a")
	require.Empty(t, r.commit(), "it goes on where it was")

	view := r.state.View("acme", aggregate.Selection{Meter: "calls", Dimensions: map[string]string{"endpoint": "/b"}})
	require.Len(t, view.Counters, 2, "of the default schedule, and of a limit's own")
	require.Len(t, view.Limits, 1+1+1+1+1)
	require.Len(t, r.state.View("acme", aggregate.Selection{}).Limits, 1+1+3+1+2, "one for each value")
}

func TestBeyondTheBoundThereIsOneCombination(t *testing.T) {
	t.Parallel()
	r := newRig(t, wideConfig(t))
	r.put("c", "acme", "", limit("each", "2", `"meter":"calls","thresholds":["100%"],"per":["endpoint","region"]`),
		limit("d", "1", `"meter":"calls","thresholds":["100%"],"where":{"endpoint":"/named","region":"eu"}`))
	for _, endpoint := range []string{"/a", "/b", "/c", "/d", "/d", "/e", "/named"} {
		require.Equal(t, aggregate.Counted, r.with(ev{meter: "calls"}, text("eu", endpoint, "-")).Fate)
	}
	require.Equal(t, []string{"crossed c/d 2026-11 #1 [100%=1] 0..1 [100%] usage"}, r.commit(), "no limit judges what is beyond")
	want := []string{
		"{} 2026-11 7 of 7",
		"{endpoint=/a region=eu} 2026-11 1 of 1",
		"{endpoint=/b region=eu} 2026-11 1 of 1",
		"{endpoint=/c region=eu} 2026-11 1 of 1",
		"{endpoint=/named region=eu} 2026-11 1 of 1",
		"{endpoint=__overflow__ region=__overflow__} 2026-11 3 of 3",
	}
	require.Equal(t, want, r.totals("acme", "calls"))
	r.restarted()
	require.Equal(t, aggregate.Counted, r.with(ev{meter: "calls"}, text("eu", "/f", "-")).Fate)
	r.commit()
	require.Equal(t, "{endpoint=__overflow__ region=__overflow__} 2026-11 4 of 4", r.totals("acme", "calls")[5])
}

func TestChangedWhereIsRemovedAndAdded(t *testing.T) {
	t.Parallel()
	r := newRig(t, wideConfig(t))
	where := func(endpoint string) {
		r.put("c", "acme", "", limit("m", "1", `"meter":"calls","thresholds":["100%"],"where":{"region":"eu","endpoint":"`+endpoint+`"}`))
	}
	where("/a")
	r.with(ev{meter: "calls"}, text("eu", "/a", "-"))
	r.with(ev{meter: "calls"}, text("eu", "/b", "-"))
	r.commit()
	where("/b")
	require.Equal(t, []string{
		"cleared c/m 2026-11 #2 [100%=1] 1..1 [] contract",
		"crossed c/m 2026-11 #3 [100%=1] 1..1 [100%] contract",
	}, r.commit())
	r.remove("c")
	require.Equal(t, []string{"cleared c/m 2026-11 #4 [100%=1] 1..1 [] contract"}, r.commit())
	require.Empty(t, r.states)
}

func TestConditionsAndBadFields(t *testing.T) {
	t.Parallel()
	r := newRig(t, wideConfig(t))
	require.Equal(t, aggregate.Counted, r.with(ev{meter: "calls", qty: "5"}, text("eu", "-", "-")).Fate, "both meters")
	require.Equal(t, aggregate.Counted, r.with(ev{meter: "what", qty: "5"}, text("eu", "-", "-")).Fate, "the condition alone")
	require.Equal(t, aggregate.Ignored, r.with(ev{meter: "eu", qty: "5"}, text("us", "-", "-")).Fate, "its name says nothing")
	bad := text("us", "/a", "-")
	bad[0].Kind = usage.UnfitValue
	require.Equal(t, usage.BadField, r.with(ev{meter: "what"}, bad).Reason)
	require.Equal(t, usage.BadField, r.with(ev{meter: "calls"}, text("us", strings.Repeat("x", 257), "-")).Reason)
	r.commit()
	require.Equal(t, []string{"{} 2026-11 10 of 2"}, r.totals("acme", "eu"))
	require.Equal(t, []string{"{} 2026-11 1 of 1", "{endpoint= region=eu} 2026-11 1 of 1"}, r.totals("acme", "calls"))
}

func TestOtherAggregations(t *testing.T) {
	t.Parallel()
	r := newRig(t, wideConfig(t))
	none := text("-", "-", "-")
	for _, meter := range []string{"max", "min", "latest"} {
		r.with(ev{meter: meter, qty: "-7", time: "11-10T11:00"}, none)
		r.with(ev{meter: meter, qty: "5", time: "11-10T11:30"}, none)
		r.with(ev{meter: meter, qty: "3", time: "11-10T11:30"}, none)
		r.with(ev{meter: meter, qty: "4", time: "11-10T11:10"}, none)
	}
	for _, user := range []string{"u", "v", "u", "-", ""} {
		r.with(ev{meter: "users"}, text("-", "-", user))
	}
	require.Equal(t, usage.NotUndoable, r.voids(ev{meter: "max", id: "1"}, none).Reason)
	check := func() {
		require.Equal(t, []string{"{} 2026-11 5 of 4"}, r.totals("acme", "max"))
		require.Equal(t, []string{"{} 2026-11 -7 of 4"}, r.totals("acme", "min"))
		require.Equal(t, []string{"{} 2026-11 3 of 4"}, r.totals("acme", "latest"), "the later of two at one time")
		require.Equal(t, []string{"{} 2026-11 3 of 5"}, r.totals("acme", "users"), "nothing is no value, no text is one")
	}
	r.commit()
	check()
	r.with(ev{meter: "users"}, text("-", "-", "w"))
	r.with(ev{meter: "max", qty: "9"}, none)
	r.state.Rollback()
	check()
	r.restart()
	check()
	r.with(ev{meter: "users"}, text("-", "-", "v"))
	r.with(ev{meter: "users"}, text("-", "-", "w"))
	r.commit()
	require.Equal(t, []string{"{} 2026-11 4 of 7"}, r.totals("acme", "users"))
}

func TestManyDistinctValuesAreEstimated(t *testing.T) {
	t.Parallel()
	r := newRig(t, wideConfig(t))
	total := func() usage.Quantity {
		return r.state.View("acme", aggregate.Selection{Meter: "users"}).Counters[0].Total
	}
	add := func(from, to int) {
		for i := from; i < to; i++ {
			r.with(ev{meter: "users"}, text("-", "-", fmt.Sprint("user-", i)))
		}
	}
	add(0, aggregate.MaxExact)
	r.commit()
	require.EqualValues(t, aggregate.MaxExact, total())
	require.False(t, r.state.View("acme", aggregate.Selection{Meter: "users"}).Counters[0].Estimated)
	add(0, 2000)
	r.state.Rollback()
	require.EqualValues(t, aggregate.MaxExact, total())
	add(0, 2000)
	r.commit()
	require.InEpsilon(t, 2000, float64(total()), 0.04)
	before := total()
	r.restart()
	require.Equal(t, before, total())
	require.True(t, r.state.View("acme", aggregate.Selection{Meter: "users"}).Counters[0].Estimated)
	add(0, 2000)
	r.commit()
	require.Equal(t, before, total(), "nothing new")
	add(2000, 20000)
	r.state.Rollback()
	r.commit()
	require.Equal(t, before, total())
	add(2000, 20000)
	r.commit()
	require.InEpsilon(t, 20000, float64(total()), 0.04)
}

// voids folds in a void.
func (r *rig) voids(e ev, fields []usage.Value) (result aggregate.Result) {
	r.do(func(s *aggregate.State) {
		in, u := r.input(e)
		u.Void, u.Fields = true, fields
		result = s.Fold(in, u)
	})
	return result
}

func TestVoids(t *testing.T) {
	t.Parallel()
	r := newTestRig(t)
	r.put("c", "acme", "", limit("m", "10", ""))
	r.use(ev{id: "1", qty: "8"})
	require.Equal(t, []string{"crossed c/m 2026-11 #1 [50%=5 80%=8] 0..8 [50% 80%] usage"}, r.commit())
	require.Equal(t, aggregate.Voided, r.voids(ev{id: "1", qty: "8"}, nil).Fate)
	require.Equal(t, []string{"cleared c/m 2026-11 #2 [50%=5 80%=8] 8..0 [] void"}, r.commit())
	again := func() {
		require.Equal(t, aggregate.Duplicate, r.voids(ev{id: "1", qty: "8"}, nil).Fate)
		require.Equal(t, aggregate.Duplicate, r.fold(ev{id: "1", qty: "8"}).Fate)
	}
	again()
	r.restarted()
	again()
	require.Equal(t, aggregate.Voided, r.voids(ev{id: "2", qty: "8"}, nil).Fate, "before it came")
	require.Equal(t, aggregate.Duplicate, r.fold(ev{id: "2", qty: "8"}).Fate)
	r.state.Rollback()
	require.Equal(t, aggregate.Counted, r.fold(ev{id: "2", qty: "4"}).Fate, "that was undone")
	require.Equal(t, usage.Future, r.voids(ev{id: "2", qty: "4", time: "11-10T13:00"}, nil).Reason)
	require.Equal(t, usage.TooLate, r.voids(ev{id: "2", qty: "4", time: "2026-10-01"}, nil).Reason)
	require.Equal(t, aggregate.Counted, r.fold(ev{id: "3", qty: "-9223372036854775800"}).Fate)
	require.Equal(t, usage.Overflow, r.voids(ev{id: "2", qty: "12"}, nil).Reason)
	require.Equal(t, aggregate.Voided, r.voids(ev{id: "2", qty: "4"}, nil).Fate, "none of them left a mark")
	require.Equal(t, usage.MissingField, r.voids(ev{qty: "4"}, nil).Reason)
	r.commit()
	require.EqualValues(t, -9223372036854775800, r.total("acme", "bytes", ""))
	r.advance("11-10T13:30")
	r.commit()
	require.Equal(t, aggregate.Counted, r.fold(ev{id: "1", qty: "1"}).Fate, "the window has passed")
}
