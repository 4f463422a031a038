package aggregate_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// at reads an instant of 2026 or any other, seconds and zone left out or not.
func at(t require.TestingT, text string) usage.Time {
	const year, whole = "2026-", "2006-01-02T15:04:05.999Z"
	if strings.Count(text, "-") == 1 {
		text = year + text
	}
	if !strings.Contains(text, "T") {
		text += "T00:00"
	}
	if strings.Count(text, ":") == 1 {
		text += ":00"
	}
	std, err := time.Parse(whole, strings.TrimSuffix(text, "Z")+"Z")
	require.NoError(t, err)
	return usage.TimeOf(std)
}

func schedule(t require.TestingT, kind usage.Kind, zone string) usage.Schedule {
	s, err := usage.NewSchedule(kind, zone)
	require.NoError(t, err)
	return s
}

// config counts by month in UTC, keeps ids for an hour, takes events that are
// five minutes early or three days late, and keeps one period.
func config(t require.TestingT) aggregate.Config {
	return aggregate.Config{
		ApplicationID: "meterd", Topic: "usage", Partition: 3, ContractsTopic: "contracts",
		Catalog: &usage.Catalog{Schedule: schedule(t, usage.Month, "UTC"), Meters: []usage.Meter{
			{Name: "bytes", Aggregation: usage.Sum},
			{Name: "calls", Aggregation: usage.Count},
			{Name: "hours", Aggregation: usage.Sum, Decimals: 2},
		}},
		MeterMapped: true, DedupeWindow: time.Hour, MaxFuture: 5 * time.Minute, AllowedLateness: 72 * time.Hour,
		UnknownMeter: aggregate.IgnoreUnknown, KeepPeriods: 1,
	}
}

// rig drives a State as its owner does, and keeps what it committed.
type rig struct {
	t     require.TestingT
	cfg   aggregate.Config
	table *contracts.Table
	state *aggregate.State
	clock usage.Time

	revision int64 // next offset of the contracts topic
	log      map[string]any
	told     []*alerts.Event
	states   map[string]*alerts.Event // as the compacted topic has them
}

func newRig(t require.TestingT, cfg aggregate.Config) *rig {
	r := &rig{
		t: t, cfg: cfg, table: contracts.NewTable(cfg.Catalog), clock: at(t, "11-10T12:00"),
		log: map[string]any{}, states: map[string]*alerts.Event{},
	}
	r.state = aggregate.New(cfg, r.table)
	r.state.Start(0, r.clock)
	return r
}

// do runs f as the owner, with contracts taken in first.
func (r *rig) do(f func(s *aggregate.State)) {
	r.state.Begin(r.clock)
	defer r.state.End()
	if r.state.ContractsBehind() {
		r.state.TakeContracts()
	}
	f(r.state)
}

// ev is an event to be folded in. Its record's timestamp and its own time are
// the clock where they are left out.
type ev struct {
	id, client, meter, qty, time, stamp string
}

func (r *rig) input(e ev) (aggregate.Input, *usage.Event) {
	in := aggregate.Input{Offset: r.state.Position(), Timestamp: r.clock}
	if e.stamp != "" {
		in.Timestamp = at(r.t, e.stamp)
	}
	u := &usage.Event{ID: []byte(e.id), Client: []byte(e.client), Meter: []byte(e.meter), Quantity: usage.DecimalOf(1), Time: in.Timestamp}
	if e.client == "" {
		u.Client = []byte("acme")
	}
	if e.meter == "" {
		u.Meter = []byte("bytes")
	}
	if e.qty != "" {
		d, err := usage.ParseDecimal(e.qty)
		require.NoError(r.t, err)
		u.Quantity = d
	}
	if e.time != "" {
		u.Time = at(r.t, e.time)
	}
	return in, u
}

func (r *rig) fold(e ev) (result aggregate.Result) {
	r.do(func(s *aggregate.State) {
		in, u := r.input(e)
		result = s.Fold(in, u)
	})
	return result
}

// use folds in an event that must be counted.
func (r *rig) use(e ev) { require.Equal(r.t, aggregate.Counted, r.fold(e).Fate) }

// advance moves the clock, and partition time with it.
func (r *rig) advance(to string) {
	r.clock = at(r.t, to)
	r.do(func(s *aggregate.State) { s.Advance(r.clock) })
}

// seek moves the clock alone.
func (r *rig) seek(to string) { r.clock = at(r.t, to) }

// put writes a contract: {id, client, starts_at of 2026, more keys}.
func (r *rig) put(id, client, more string, limits ...string) {
	text := fmt.Sprintf(`{"id":%q,"client":%q,"limits":[%s]`, id, client, strings.Join(limits, ","))
	if !strings.Contains(more, "starts_at") {
		text += `,"starts_at":"2026-01-01T00:00:00Z"`
	}
	if more != "" {
		text += "," + more
	}
	require.NoError(r.t, r.table.Apply([]byte(id), []byte(text+"}"), r.revision))
	r.revision++
}

func (r *rig) remove(id string) {
	require.NoError(r.t, r.table.Apply([]byte(id), nil, r.revision))
	r.revision++
}

// limit is one of bytes at 50, 80 and 100 percent, with more keys.
func limit(id, value, more string) string {
	text := fmt.Sprintf(`{"id":%q,"limit":%q`, id, value)
	if !strings.Contains(more, "meter") {
		text += `,"meter":"bytes"`
	}
	if !strings.Contains(more, "thresholds") {
		text += `,"thresholds":["50%","80%","100%"]`
	}
	if more != "" {
		text += "," + more
	}
	return text + "}"
}

// taken takes contracts in and does nothing else.
func (r *rig) taken() { r.do(func(*aggregate.State) {}) }

// commit commits, and returns what was told, a line an event.
func (r *rig) commit() []string {
	r.taken()
	changes := r.state.Changes(r.clock)
	r.keep(changes)
	lines := linesOf(changes.Events)
	r.state.Committed(r.clock)
	return lines
}

// keep applies a commit to the topics.
func (r *rig) keep(c aggregate.Changes) {
	dead := map[string]bool{}
	for _, key := range c.Tombstones {
		require.False(r.t, dead[key], "%s has two tombstones", key)
		dead[key] = true
		delete(r.log, key)
	}
	set := func(key string, record any) {
		require.False(r.t, dead[key], "%s is written and removed at once", key)
		r.log[key] = record
	}
	position := c.Position
	set(aggregate.PositionKey(r.cfg.Partition), &position)
	for k := range c.Counters {
		record := *k
		set(string(record.AppendCounterKey(nil)), &record)
	}
	for _, l := range c.Limits {
		set(l.Key(), &l)
	}
	for _, d := range c.Dedupe {
		set(d.Key(), &d)
	}
	for _, e := range c.Events {
		require.Equal(r.t, r.clock, e.DecidedAt)
		told := *e
		r.told = append(r.told, &told)
	}
	for _, st := range c.States {
		r.states[st.Key] = st.Event
		if st.Event == nil {
			delete(r.states, st.Key)
		} else {
			require.NotZero(r.t, st.Event.DecidedAt)
		}
	}
}

// restart gives up what was not committed and loads the changelog.
func (r *rig) restart() {
	r.state = aggregate.New(r.cfg, r.table)
	for _, key := range slices.Sorted(maps.Keys(r.log)) {
		require.NoError(r.t, r.state.Load(r.log[key]))
	}
	r.state.Loaded(r.clock)
}

// blocked lists what limit-state has, as contract/limit period [standing].
func (r *rig) blocked() []string {
	lines := []string{}
	for _, key := range slices.Sorted(maps.Keys(r.states)) {
		e := r.states[key]
		require.Equal(r.t, alerts.StateKey(e.Contract, e.LimitID, nil), key)
		lines = append(lines, fmt.Sprintf("%s/%s %s %v", e.Contract, e.LimitID, e.Period.ID, e.Standing))
	}
	return lines
}

// total returns the committed total of a client's meter in a period.
func (r *rig) total(client, meter, period string) usage.Quantity {
	view := r.state.View(client, aggregate.Selection{Meter: meter, Period: period})
	for _, k := range view.Counters {
		if k.Scope.Default() {
			return k.Total
		}
	}
	return -1
}

func linesOf(events []*alerts.Event) []string {
	lines := []string{}
	for _, e := range events {
		var labels []string
		for _, p := range e.Thresholds {
			labels = append(labels, p.Threshold+"="+p.Value)
		}
		line := fmt.Sprintf("%s %s/%s %s #%d %v %s..%s %v %s",
			e.Kind, e.Contract, e.LimitID, e.Period.ID, e.Sequence, labels, e.UsageBefore, e.UsageAfter, e.Standing, e.Cause.Kind)
		if e.Client != "acme" {
			line = e.Client + " " + line
		}
		if e.Late {
			line += " late"
		}
		if e.Seeded {
			line += " seeded"
		}
		lines = append(lines, line)
	}
	return lines
}

// snapshot is all of a commit as text, to compare two.
func snapshot(t require.TestingT, c aggregate.Changes) string {
	var counters []aggregate.CounterRecord
	for k := range c.Counters {
		counters = append(counters, *k)
	}
	text, err := json.MarshalIndent([]any{c.Position, counters, c.Limits, c.Dedupe, c.Tombstones, c.Events, c.States, c.Misplaced}, "", " ")
	require.NoError(t, err)
	return string(text)
}

func newTestRig(t *testing.T) *rig {
	t.Helper()
	return newRig(t, config(t))
}
