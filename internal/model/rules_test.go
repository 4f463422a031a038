package model_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/model"
	"github.com/meterd/meterd/internal/usage"
)

// The model is held against rules by hand too: two programs may agree and both
// be wrong. Times are hours of 2026-11-10, periods are hours in UTC.

func hour(h float64) usage.Time {
	return usage.TimeOf(time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC)).Add(time.Duration(h * float64(time.Hour)))
}

func ruleConfig() model.Config {
	return model.Config{
		ApplicationID: "meterd", Topic: "usage", ContractsTopic: "contracts", MeterMapped: true,
		DedupeWindow: 8 * time.Hour, MaxFuture: 20 * time.Minute, AllowedLateness: 2 * time.Hour, KeepPeriods: 1,
		Catalog: &usage.Catalog{
			Schedule: usage.Schedule{Kind: usage.Hour, Zone: time.UTC}, Paths: []string{"region"},
			Meters: []usage.Meter{
				{Name: "bytes", Aggregation: usage.Sum},
				{Name: "flow", Aggregation: usage.Sum, Dimensions: []usage.Dimension{region}, MaxCombinations: 2},
				{Name: "peak", Aggregation: usage.Max},
				{Name: "regions", Aggregation: usage.Unique, Value: 0},
			},
		},
		Boundary: 1000, BoundaryTime: hour(12),
	}
}

// life is a list of inputs in the making.
type life struct {
	t      *testing.T
	cfg    model.Config
	at     usage.Time
	offset int64
	inputs []model.Input
}

func (l *life) add(in model.Input) *life {
	in.At = l.at
	l.inputs = append(l.inputs, in)
	return l
}

func (l *life) clock(h float64) *life {
	l.at = hour(h)
	at := l.at
	return l.add(model.Input{Advance: &at})
}

// use adds an event of a meter; more may be its id, "void", and its region.
func (l *life) use(meter string, quantity int64, change ...func(e *usage.Event)) *life {
	e := &usage.Event{Client: []byte("a"), Meter: []byte(meter), Quantity: usage.DecimalOf(quantity), Time: l.at, Fields: make([]usage.Value, 1)}
	for _, c := range change {
		c(e)
	}
	return l.add(model.Input{Record: &model.Record{Timestamp: l.at, Event: e}})
}

func id(s string) func(e *usage.Event)    { return func(e *usage.Event) { e.ID = []byte(s) } }
func void(e *usage.Event)                 { e.Void = true }
func half(e *usage.Event)                 { e.Quantity = usage.Decimal{Units: 5, Scale: 1} }
func in(s string) func(e *usage.Event)    { return func(e *usage.Event) { e.Fields[0] = text(s) } }
func of12(h float64) func(e *usage.Event) { return func(e *usage.Event) { e.Time = hour(h) } }

// contract puts a contract of client a with one limit of 50, 80 and 100 %.
func (l *life) contract(limit string, more ...string) *life {
	value := `{"id":"k","client":"a","starts_at":"2026-01-01T00:00:00Z"`
	for _, m := range more {
		value += m
	}
	value += `,"limits":[{"id":"l","thresholds":["50%","80%","100%"],` + limit + `}]}`
	c, err := contracts.Parse([]byte("k"), []byte(value), l.offset, l.cfg.Catalog)
	require.NoError(l.t, err)
	l.offset++
	return l.add(model.Input{Revision: &model.Revision{ID: "k", Contract: c, Offset: c.Revision}})
}

func (l *life) remove() *life {
	l.offset++
	return l.add(model.Input{Revision: &model.Revision{ID: "k", Offset: l.offset - 1}})
}

func (l *life) commit() model.Commit {
	l.add(model.Input{Commit: true})
	commits := model.Replay(l.cfg, l.inputs)
	return commits[len(commits)-1]
}

func told(events []alerts.Event) []string {
	lines := []string{}
	for _, e := range events {
		labels := []string{}
		for _, p := range e.Thresholds {
			labels = append(labels, p.Threshold)
		}
		line := fmt.Sprintf("%s %v %s>%s %v %s #%d", e.Kind, labels, e.UsageBefore, e.UsageAfter, e.Standing, e.Cause.Kind, e.Sequence)
		if len(e.Dimensions) > 0 {
			line += " " + canonical(e.Dimensions)
		}
		for word, holds := range map[string]bool{"late": e.Late, "seeded": e.Seeded} {
			if holds {
				line += " " + word
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func TestRules(t *testing.T) {
	t.Parallel()

	const bytes100, bytes200 = `"meter":"bytes","limit":"100"`, `"meter":"bytes","limit":"200"`
	tests := map[string]struct {
		live    func(l *life)
		told    []string
		fates   []model.Fate
		blocked int
	}{
		"R1: reaching counts, standing does not, one jump lists several": {
			live: func(l *life) { l.contract(bytes100).use("bytes", 49).use("bytes", 1).use("bytes", 0).use("bytes", 51) },
			told: []string{
				"crossed [50%] 49>50 [50%] usage #1",
				"crossed [80% 100%] 50>101 [50% 80% 100%] usage #2",
			},
			blocked: 1,
		},
		"R4: 100 to 200 at 120, and again at 160 and 200": {
			live: func(l *life) {
				l.contract(bytes100).use("bytes", 120).contract(bytes200).use("bytes", 39).use("bytes", 1).use("bytes", 40)
			},
			told: []string{
				"crossed [50% 80% 100%] 0>120 [50% 80% 100%] usage #1",
				"cleared [80% 100%] 120>120 [50%] contract #2",
				"crossed [80%] 159>160 [50% 80%] usage #3",
				"crossed [100%] 160>200 [50% 80% 100%] usage #4",
			},
			blocked: 1,
		},
		"R4: a null clears, and the same again crosses": {
			live: func(l *life) { l.contract(bytes100).use("bytes", 60).remove().contract(bytes100) },
			told: []string{
				"crossed [50%] 0>60 [50%] usage #1", "cleared [50%] 60>60 [] contract #2", "crossed [50%] 60>60 [50%] contract #3",
			},
			blocked: 1,
		},
		"R5, R6: a reset once, and what comes late has none": {
			live: func(l *life) {
				l.contract(bytes100).use("bytes", 60).clock(13).clock(13.5).use("bytes", 30, of12(12.9)).clock(14)
			},
			told: []string{
				"crossed [50%] 0>60 [50%] usage #1", "reset [50%] 60>0 [] period_end #2", "crossed [80%] 60>90 [80%] usage #3 late",
			},
		},
		"R6: too late, and ahead": {
			live:  func(l *life) { l.clock(15).use("bytes", 1, of12(12.9)).use("bytes", 1, of12(15.4)) },
			told:  []string{},
			fates: []model.Fate{model.DeadLettered, model.DeadLettered},
		},
		"R5: what is early is blocked when its period begins": {
			live: func(l *life) {
				l.clock(12.9).contract(bytes100).use("bytes", 100, of12(13.1)).clock(13)
			},
			told:    []string{"crossed [50% 80% 100%] 0>100 [50% 80% 100%] usage #1"},
			blocked: 1,
		},
		"R7, R9: duplicates, and a void after and before": {
			live: func(l *life) {
				l.contract(bytes100).use("bytes", 90, id("1")).use("bytes", 90, id("1")).use("bytes", 90, id("1"), void).use("bytes", 90, id("1"), void).
					use("bytes", 90, id("1")).use("bytes", 90, id("2"), void).use("bytes", 90, id("2"))
			},
			told: []string{"crossed [50% 80%] 0>90 [50% 80%] usage #1", "cleared [50% 80%] 90>0 [] void #2"},
			fates: []model.Fate{
				model.Counted, model.Duplicate, model.Voided, model.Duplicate, model.Duplicate, model.Voided, model.Duplicate,
			},
		},
		"R8: the largest can not be undone": {
			live:  func(l *life) { l.use("peak", 90, id("1")).use("peak", 90, id("1"), void) },
			told:  []string{},
			fates: []model.Fate{model.Counted, model.DeadLettered},
		},
		"R8: the largest of negative ones, and distinct values": {
			live: func(l *life) {
				l.contract(`"meter":"regions","limit":"2"`).use("peak", -5).use("regions", 1, in("eu")).use("regions", 1, in("eu")).use("regions", 1)
				l.use("regions", 1, in("us"))
			},
			told:    []string{"crossed [50%] 0>1 [50%] usage #1", "crossed [80% 100%] 1>2 [50% 80% 100%] usage #2"},
			blocked: 1,
		},
		"R10: an end keeps the total, and takes nothing after it": {
			live: func(l *life) {
				l.contract(bytes100).use("bytes", 60).contract(bytes100, `,"ends_at":"2026-11-10T12:30:00Z"`).use("bytes", 20, of12(12.3)).
					clock(12.5).use("bytes", 20)
			},
			told: []string{
				"crossed [50%] 0>60 [50%] usage #1", "crossed [80%] 60>80 [50% 80%] usage #2", "reset [50% 80%] 80>0 [] period_end #3",
			},
		},
		"R11: each value for itself, and not what is beyond the bound": {
			live: func(l *life) {
				l.contract(`"meter":"flow","limit":"100","per":["region"]`).use("flow", 60, in("eu")).use("flow", 70, in("us"))
				l.use("flow", 100, in("ap")).use("flow", 100, in("af"))
			},
			told:    []string{`crossed [50%] 0>60 [50%] usage #1 {"region":"eu"}`, `crossed [50%] 0>70 [50%] usage #1 {"region":"us"}`},
			blocked: 2,
		},
		"R11: required values": {
			live: func(l *life) {
				l.contract(`"meter":"flow","limit":"100","where":{"region":"us"}`).use("flow", 60, in("eu")).use("flow", 70, in("us"))
			},
			told:    []string{"crossed [50%] 0>70 [50%] usage #1"},
			blocked: 1,
		},
		"R16: a total that would leave the range": {
			live:  func(l *life) { l.use("bytes", 9223372036854775807).use("bytes", 1).use("bytes", -1) },
			told:  []string{},
			fates: []model.Fate{model.Counted, model.DeadLettered, model.Counted},
		},
		"R16: a void that does not fit leaves no mark": {
			live: func(l *life) {
				l.use("bytes", 1, id("1"), void, half).use("bytes", 1, id("1"))
			},
			told:  []string{},
			fates: []model.Fate{model.DeadLettered, model.Counted},
		},
		"R17: no meter takes it": {
			live:  func(l *life) { l.use("dreams", 1) },
			told:  []string{},
			fates: []model.Fate{model.Ignored},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			l := &life{t: t, cfg: ruleConfig(), at: hour(12)}
			l.clock(12)
			tt.live(l)
			c := l.commit()
			require.Equal(t, tt.told, told(c.Events))
			require.Len(t, c.States, tt.blocked)
			if tt.fates == nil {
				return
			}
			var fates []model.Fate
			for _, r := range c.Results {
				fates = append(fates, r.Fate)
			}
			require.Equal(t, tt.fates, fates)
		})
	}
}

func TestRuleOfSeeds(t *testing.T) {
	t.Parallel()

	for name, mark := range map[string]bool{"announce": false, "mark": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			cfg := ruleConfig()
			cfg.History, cfg.MarkSeeded = true, mark
			l := &life{t: t, cfg: cfg, at: hour(12)}
			c := l.clock(12).contract(`"meter":"bytes","limit":"100"`).use("bytes", 60).commit()
			require.Empty(t, c.Events, "it waits")
			require.Len(t, c.Asks, 1)
			row := model.Row{Meter: "bytes", Fields: make([]usage.Value, 1), Events: 2, Quantity: usage.DecimalOf(25)}
			c = l.add(model.Input{Answer: &model.Answer{Rows: []model.Row{row}}}).use("bytes", 15).commit()
			require.Empty(t, c.Asks)
			want := []string{"crossed [50% 80%] 0>85 [50% 80%] seed #1 seeded", "crossed [100%] 85>100 [50% 80% 100%] usage #2 seeded"}
			if mark {
				want = want[1:]
			}
			require.Equal(t, want, told(c.Events))
			require.Len(t, c.States, 1)
		})
	}
}
