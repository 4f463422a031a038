package model_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/model"
	"github.com/meterd/meterd/internal/usage"
)

// rig drives a State as its owner does, and keeps what it committed.
type rig struct {
	*rapid.T
	cfg   aggregate.Config
	table *contracts.Table
	state *aggregate.State
	clock usage.Time

	counters map[string]aggregate.CounterRecord
	limits   map[string]aggregate.LimitRecord
	rest     map[string]any
	states   map[string]alerts.Event
	events   []alerts.Event // of the last commit
	results  []model.Result // since the last commit
	asked    map[model.Ask]bool
	pending  []aggregate.Ask // after the last commit
}

func newRig(t *rapid.T, cfg aggregate.Config, clock usage.Time) *rig {
	r := &rig{
		T: t, cfg: cfg, table: contracts.NewTable(cfg.Catalog), clock: clock, counters: map[string]aggregate.CounterRecord{},
		limits: map[string]aggregate.LimitRecord{}, rest: map[string]any{}, states: map[string]alerts.Event{}, asked: map[model.Ask]bool{},
	}
	r.restart()
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

func (r *rig) nothing() { r.do(func(*aggregate.State) {}) }

// take takes one input in.
func (r *rig) take(in *input) {
	switch {
	case in.revision != nil:
		if r.revise(in.revision); r.cfg.History {
			r.nothing() // since when its counters count depends on what the table has now
		}
	case in.Record != nil:
		r.do(func(s *aggregate.State) { r.record(s, in.Record) })
	case in.Advance != nil:
		r.do(func(s *aggregate.State) { s.Advance(*in.Advance) })
	case in.Answer != nil:
		open := r.state.Pending()
		r.do(func(s *aggregate.State) { r.answer(s, in.Answer, open) })
	}
}

// answer answers one of the questions that were open at the last commit. One
// that is open no more was answered before: now there is nothing.
func (r *rig) answer(s *aggregate.State, a *model.Answer, open []aggregate.Ask) {
	if len(r.pending) == 0 {
		return
	}
	ask := r.pending[a.Pick%len(r.pending)]
	if a.Failed {
		s.SeedFailed(ask)
		return
	}
	var rows []aggregate.SeedTotal
	unit := askOf(&ask).Unit()
	waited := slices.ContainsFunc(open, func(o aggregate.Ask) bool { return askOf(&o).Unit() == unit })
	for _, row := range a.Rows {
		if !waited {
			break
		}
		first, last := row.Times(&ask.Period)
		rows = append(rows, aggregate.SeedTotal{
			Meter: row.Meter, Fields: row.Fields, Void: row.Void, Events: row.Events, Quantity: row.Quantity, Min: row.Min, Max: row.Max,
			Latest: row.Latest, First: first, Last: last,
		})
	}
	if err := s.TakeSeed(ask, rows); err != nil {
		require.ErrorIs(r, err, aggregate.ErrSeedOverflow)
	}
}

func askOf(a *aggregate.Ask) model.Ask {
	return model.Ask{Client: a.Client, Scope: scopeOf(a.Scope), Period: a.Period, Boundary: a.Boundary}
}

func (r *rig) revise(v *revision) {
	err := r.table.Apply([]byte(v.id), v.value, v.offset)
	require.Equal(r, v.bad, err != nil, "%s: %v", v.value, err)
}

func (r *rig) record(s *aggregate.State, record *model.Record) {
	in := aggregate.Input{Offset: s.Position(), Timestamp: record.Timestamp}
	if record.Event == nil {
		s.Reject(in)
		r.results = append(r.results, model.Result{Fate: model.DeadLettered, Reason: usage.Undecodable})
		return
	}
	ev := *record.Event
	ev.Client, ev.Meter, ev.ID = slices.Clone(ev.Client), slices.Clone(ev.Meter), slices.Clone(ev.ID)
	got := s.Fold(in, &ev)
	scribble(ev.Client, ev.Meter, ev.ID) // they are the decoder's
	r.results = append(r.results, model.Result{Fate: fates[got.Fate], Reason: got.Reason, Late: got.Late, LeftOut: got.LeftOut})
}

func scribble(list ...[]byte) {
	for _, b := range list {
		for i := range b {
			b[i] = '#'
		}
	}
}

var fates = map[aggregate.Fate]model.Fate{
	aggregate.Counted: model.Counted, aggregate.Duplicate: model.Duplicate, aggregate.Ignored: model.Ignored,
	aggregate.DeadLettered: model.DeadLettered, aggregate.Voided: model.Voided,
}

// restart gives up what was not committed, and loads what was.
func (r *rig) restart() {
	r.state = aggregate.New(r.cfg, r.table)
	for _, c := range r.counters {
		require.NoError(r, r.state.Load(&c))
	}
	for _, l := range r.limits {
		require.NoError(r, r.state.Load(&l))
	}
	for _, record := range r.rest {
		require.NoError(r, r.state.Load(record))
	}
	if r.state.Loaded(r.clock); len(r.rest) == 0 {
		r.state.Start(boundary, r.clock)
	}
	r.results = nil
}

func (r *rig) rollback() {
	r.state.Rollback()
	r.results = nil
}

// commit applies a commit to the topics.
func (r *rig) commit() {
	r.nothing()
	c := r.state.Changes(r.clock)
	dead := map[string]bool{}
	for _, key := range c.Tombstones {
		if dead[key] {
			r.Fatalf("%s has two tombstones", key)
		}
		dead[key] = true
		delete(r.counters, key)
		delete(r.limits, key)
		delete(r.rest, key)
	}
	alive := func(key string) string {
		if dead[key] {
			r.Fatalf("%s is written and removed at once", key)
		}
		return key
	}
	position := c.Position
	r.rest[aggregate.PositionKey(r.cfg.Partition)] = &position
	for k := range c.Counters {
		record := *k
		record.Distinct = slices.Clone(k.Distinct)
		r.counters[alive(string(record.AppendCounterKey(nil)))] = record
	}
	for _, l := range c.Limits {
		r.limits[alive(l.Key())] = l
	}
	for _, d := range c.Dedupe {
		d.Hashes = slices.Clone(d.Hashes)
		r.rest[alive(d.Key())] = &d
	}
	r.events = r.events[:0]
	for _, e := range c.Events {
		if e.DecidedAt != r.clock {
			r.Fatalf("%+v was not decided now", e)
		}
		r.events = append(r.events, undated(e))
	}
	for _, s := range c.States {
		if delete(r.states, s.Key); s.Event != nil {
			if s.Event.DecidedAt == 0 || s.Client != s.Event.Client {
				r.Fatalf("limit-state %s of %s: %+v", s.Key, s.Client, s.Event)
			}
			r.states[s.Key] = undated(s.Event)
		}
	}
	for _, a := range r.state.TakeAsks() {
		r.asked[askOf(&a).Unit()] = true
	}
	r.state.Committed(r.clock)
	r.pending = r.state.Pending()
	slices.SortFunc(r.pending, func(a, b aggregate.Ask) int {
		x, y := askOf(&a), askOf(&b)
		return x.Compare(&y)
	})
}

func undated(e *alerts.Event) alerts.Event {
	told := *e
	told.DecidedAt = 0
	return told
}

// compare holds what was committed against the model.
func (r *rig) compare(want *model.Commit) {
	same(r.T, "results", want.Results, r.results)
	r.results = nil
	same(r.T, "limit events", byClient(want.Events), byClient(r.events))
	counters := make(map[model.Key]model.Counter, len(r.counters))
	for _, c := range r.counters {
		counters[r.keyOf(&c)] = model.Counter{
			Period: c.Period, Total: c.Total, Events: c.Events, Pending: !c.Seed.Complete(), Seeded: c.Seed.Events,
		}
	}
	same(r.T, "counters", want.Counters, counters)
	accounts := make(map[model.Tuple]model.Account, len(r.limits))
	for _, l := range r.limits {
		tuple := model.Tuple{Contract: l.Contract, Limit: l.Limit, Dimensions: canonical(l.Dimensions), Period: l.Period.ID}
		accounts[tuple] = model.Account{
			Client: l.Client, Meter: r.cfg.Catalog.Find(l.Meter), Sequence: l.Sequence, Standing: standing(l.Standing),
		}
	}
	same(r.T, "limits", want.Accounts, accounts)
	same(r.T, "limit-state", want.States, r.states)
	asks := []model.Ask{}
	for i := range r.pending {
		asks = append(asks, askOf(&r.pending[i]).Unit())
		if !r.asked[asks[i]] {
			r.Fatalf("%+v is pending and was never asked", asks[i])
		}
	}
	same(r.T, "questions", want.Asks, asks)
	same(r.T, "position", want.Position, r.state.Position())
	same(r.T, "partition time", want.Time, r.state.AsOf().Time)
}

func standing(list []contracts.Threshold) []contracts.Threshold {
	return append([]contracts.Threshold{}, list...)
}

func (r *rig) keyOf(c *aggregate.CounterRecord) model.Key {
	return model.Key{
		Client: c.Client, Meter: r.cfg.Catalog.Find(c.Meter), Dimensions: canonical(c.Dimensions), Period: c.Period.ID,
		Scope: scopeOf(c.Scope),
	}
}

func scopeOf(s aggregate.Scope) model.Scope {
	return model.Scope{Contract: s.Contract, Kind: s.Kind, Zone: s.Timezone, StartsAt: s.StartsAt, Where: s.Where, Per: s.Per}
}

func canonical(values map[string]string) string {
	if len(values) == 0 {
		return "{}"
	}
	return string(usage.AppendCanonicalMap(nil, values))
}

// byClient brings limit events in an order that keeps that of each client: R15
// says nothing of several.
func byClient(events []alerts.Event) []alerts.Event {
	if len(events) == 0 {
		return nil
	}
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b alerts.Event) int { return strings.Compare(a.Client, b.Client) })
	return events
}

// same fails with the lines that differ where two things do.
func same(t *rapid.T, what string, want, got any) {
	if reflect.DeepEqual(want, got) {
		return
	}
	missing, surplus := texts(want), texts(got)
	for _, line := range texts(want) {
		if i := slices.Index(surplus, line); i >= 0 {
			surplus = slices.Delete(surplus, i, i+1)
			missing = slices.Delete(missing, slices.Index(missing, line), slices.Index(missing, line)+1)
		}
	}
	if len(missing)+len(surplus) == 0 {
		require.Equal(t, want, got, what) // in another order
	}
	t.Fatalf("%s\nthe model has\n  %s\nthe State has\n  %s", what, strings.Join(missing, "\n  "), strings.Join(surplus, "\n  "))
}

// texts is a value a line for each of its parts, for people.
func texts(v any) (lines []string) {
	value := reflect.ValueOf(v)
	switch value.Kind() {
	case reflect.Slice:
		for i := range value.Len() {
			lines = append(lines, textOf(value.Index(i)))
		}
	case reflect.Map:
		for _, key := range value.MapKeys() {
			lines = append(lines, textOf(key)+": "+textOf(value.MapIndex(key)))
		}
		slices.Sort(lines)
	default:
		lines = append(lines, textOf(value))
	}
	return lines
}

func textOf(v reflect.Value) string {
	e, ok := reflect.TypeAssert[alerts.Event](v)
	if !ok {
		return fmt.Sprintf("%+v", v.Interface())
	}
	short, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(short)
}
