package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// Way is a way to run a scenario in memory. None makes a difference to what is
// told.
type Way struct {
	Backlog  bool // the clock shows the end from the beginning: all of it is read late
	Twice    bool // each step is taken back once and done again
	Restarts bool // after each step the state is loaded anew from the changelog
}

// boundary is the offset at which counting begins where there is history.
const boundary = 1000

// partition is the one that scenarios in memory are on.
const partition = 3

// Trace is what came of a scenario.
type Trace struct {
	Events   []Told
	States   map[string][]string // what limit-state said, by key
	Letters  []Letter
	Counters map[string]string // in the changelog, before the clock was let go
}

// Told is a limit event and the step that it came of, len(Steps) being the end.
type Told struct {
	Step  int
	Event *alerts.Event
}

// Letter is a dead letter.
type Letter struct {
	Step   int
	Reason string
}

// ErrExample is returned when a scenario came out other than it says.
var ErrExample = errors.New("not as the example says")

// memory runs one scenario on one State.
type memory struct {
	scenario *Scenario
	way      Way
	end      usage.Time

	cfg     aggregate.Config
	table   *contracts.Table
	state   *aggregate.State
	handle  *schema.Handle
	clock   usage.Time
	offset  int64 // of the next record
	version int64 // of the next contract
	log     map[string]any
	states  map[string]*alerts.Event
	rows    []row
	asks    []aggregate.Ask
	failing bool // history gives no answers
	trace   Trace
}

// outcome is what a step made.
type outcome struct {
	words  []string
	events []*alerts.Event
	states []aggregate.StateChange
}

// Memory runs s by cfg and returns what came of it, or ErrExample. At the end
// the clock is let go, and shows end.
func Memory(s *Scenario, cfg *config.Config, way Way, end usage.Time) (*Trace, error) {
	m, err := newMemory(s, cfg, way, end)
	if err != nil {
		return nil, err
	}
	for i := range s.Steps {
		step := &s.Steps[i]
		got, err := m.do(i, step)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", step.Line, step.Text, err)
		}
		if why := compare(step, got); why != "" {
			return nil, fmt.Errorf("line %d: %s: %w: %s\n%s", step.Line, step.Text, ErrExample, why, got)
		}
	}
	for key, record := range m.log {
		if c, ok := record.(*aggregate.CounterRecord); ok {
			m.trace.Counters[key] = counterLine(c)
		}
	}
	m.clock = end
	_, err = m.commit(len(s.Steps), func() ([]string, error) {
		m.state.Advance(end)
		return nil, nil
	})
	return &m.trace, err
}

func newMemory(s *Scenario, cfg *config.Config, way Way, end usage.Time) (*memory, error) {
	m := &memory{
		scenario: s, way: way, end: end, log: map[string]any{}, states: map[string]*alerts.Event{},
		trace: Trace{States: map[string][]string{}, Counters: map[string]string{}},
	}
	catalog, err := cfg.Catalog()
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	codecs, err := app.NewCodecs(context.Background(), cfg, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		return nil, fmt.Errorf("codecs: %w", err)
	}
	m.handle = codecs.Usage.Handle()
	stray := map[string]bool{}
	for i := range s.Steps {
		stray[s.Steps[i].client] = stray[s.Steps[i].client] || s.Steps[i].misplaced
	}
	m.cfg = aggregate.Config{
		ApplicationID: cfg.ApplicationID, Topic: cfg.Usage.Topic, Partition: partition, ContractsTopic: cfg.Contracts.Topic,
		Catalog: &catalog, MeterMapped: cfg.Usage.Fields.Meter != "", DedupeWindow: app.DedupeWindow(cfg),
		MaxFuture: cfg.Usage.MaxFuture.Duration(), AllowedLateness: cfg.Usage.AllowedLateness.Duration(),
		UnknownMeter: aggregate.UnknownMeterPolicy(cfg.Usage.UnknownMeter), KeepPeriods: cfg.State.KeepPeriods,
		History: s.hasHistory(), MarkSeeded: cfg.History.OnCrossed == "mark",
		Owns: func(client string) bool { return !stray[client] },
	}
	m.table = contracts.NewTable(m.cfg.Catalog)
	m.state = aggregate.New(m.cfg, m.table)
	if m.cfg.History {
		m.offset = boundary
	}
	if m.clock = end; len(s.Steps) > 0 && !way.Backlog {
		m.clock = s.Steps[0].Time
	}
	m.state.Start(m.offset, m.clock)
	return m, nil
}

// hasHistory tells whether s has usage from before the boundary, or asks for
// some.
func (s *Scenario) hasHistory() bool {
	return slices.ContainsFunc(s.Steps, func(step Step) bool {
		return step.kind == rowStep || step.kind == answerStep || step.kind == failStep
	})
}

// do takes one step, and commits it.
func (m *memory) do(i int, step *Step) (outcome, error) {
	switch step.kind {
	case rowStep:
		m.rows = append(m.rows, step.row)
		return outcome{}, nil
	case usageStep:
		return outcome{words: []string{m.usage(step)}}, nil
	case stateStep:
		return outcome{words: []string{m.limitState(step)}}, nil
	case checkStep:
		words, err := m.check(step)
		return outcome{words: words}, err
	}
	if !m.way.Backlog {
		m.clock = max(m.clock, step.Time)
	}
	got, err := m.commit(i, func() ([]string, error) { return m.step(step) })
	m.offset++
	if err == nil && step.kind == contractStep {
		got, err = m.sign(i, step, got)
	}
	if err == nil && (step.kind == restartStep || m.way.Restarts) {
		got, err = m.restart(i, got)
	}
	return got, err
}

// sign puts a contract on its topic and takes it in. got is what the passing
// of time had made before.
func (m *memory) sign(i int, step *Step, got outcome) (outcome, error) {
	refused := m.table.Apply([]byte(step.contract), step.contractRecord(Names{}), m.version)
	m.version++
	more, err := m.commit(i, func() ([]string, error) { return nil, nil })
	got.events = append(got.events, more.events...)
	if refused != nil {
		got.words = append(got.words, rejected+" "+strings.TrimPrefix(refused.Error(), contracts.ErrInvalid.Error()+": "))
	}
	return got, err
}

// step does what step says, under the state's lock.
func (m *memory) step(step *Step) ([]string, error) {
	in := aggregate.Input{Offset: m.offset, Timestamp: step.Time}
	if step.kind == useStep {
		if !step.aborted {
			return m.use(in, step)
		}
		m.state.Skip(m.offset + 1)
		return nil, nil
	}
	m.state.Reject(in)
	switch step.kind {
	case answerStep:
		for _, ask := range m.asks {
			if err := m.state.TakeSeed(ask, m.answer(ask)); err != nil {
				return nil, err
			}
		}
		m.failing = false
	case failStep:
		m.failing = true
		for _, ask := range m.asks {
			m.state.SeedFailed(ask)
		}
	}
	return nil, nil
}

func (m *memory) use(in aggregate.Input, step *Step) ([]string, error) {
	var ev usage.Event
	reason, err := m.handle.Decode(step.usageRecord(Names{}), in.Timestamp, &ev)
	if reason == "" && err != nil {
		return nil, err
	}
	result := aggregate.Result{Fate: aggregate.DeadLettered, Reason: reason}
	if reason != "" {
		m.state.Reject(in)
	} else {
		result = m.state.Fold(in, &ev)
		if result.Fate == aggregate.Counted {
			m.remember(step, &ev, in.Offset)
		}
	}
	return fateWords(result), nil
}

// remember has history know of an event that was counted: the counter of a
// limit that comes later asks for it.
func (m *memory) remember(step *Step, ev *usage.Event, offset int64) {
	if slices.ContainsFunc(m.rows, func(r row) bool { return r.offset == offset }) {
		return // the step is done again
	}
	r := row{
		client: string(ev.Client), meter: string(ev.Meter), quantity: ev.Quantity, events: 1, time: ev.Time,
		values: map[string]string{}, offset: offset,
	}
	for _, f := range step.fields {
		r.values[f.key] = strings.Trim(string(f.value), `"`)
	}
	m.rows = append(m.rows, r)
}

func fateWords(r aggregate.Result) []string {
	var list []string
	switch r.Fate {
	case aggregate.Counted:
	case aggregate.Duplicate:
		list = append(list, "duplicate")
	case aggregate.Ignored:
		list = append(list, "ignored")
	case aggregate.Voided:
		list = append(list, "voided")
	case aggregate.DeadLettered:
		list = append(list, deadLetter+string(r.Reason))
	}
	if r.Late && r.Fate == aggregate.Counted {
		list = append(list, "late")
	}
	if r.LeftOut > 0 {
		list = append(list, "left out")
	}
	return list
}

const deadLetter = "dead letter "

// commit does f, and commits what it did.
func (m *memory) commit(i int, f func() ([]string, error)) (got outcome, err error) {
	once := func() {
		m.state.Begin(m.clock)
		defer m.state.End()
		if m.state.ContractsBehind() {
			m.state.TakeContracts()
		}
		got.words, err = f()
	}
	if once(); err != nil {
		return got, err
	}
	if m.way.Twice {
		m.state.Rollback()
		if once(); err != nil {
			return got, err
		}
	}
	changes := m.state.Changes(m.clock)
	m.keep(changes)
	got.events, got.states = changes.Events, changes.States
	if changes.Misplaced > 0 {
		got.words = append(got.words, misplacedFlag)
	}
	m.note(i, got)
	asks := m.state.TakeAsks()
	m.state.Committed(m.clock)
	m.asks = append(m.asks, asks...)
	if i < len(m.scenario.Steps) && m.scenario.Steps[i].kind == answerStep {
		m.asks = nil
	}
	return got, nil
}

// keep applies a commit to the topics.
func (m *memory) keep(c aggregate.Changes) {
	for _, key := range c.Tombstones {
		delete(m.log, key)
	}
	position := c.Position
	m.log[aggregate.PositionKey(partition)] = &position
	for k := range c.Counters {
		record := *k
		record.Dimensions = maps.Clone(k.Dimensions)
		m.log[string(record.AppendCounterKey(nil))] = &record
	}
	for i := range c.Limits {
		record := c.Limits[i]
		m.log[record.Key()] = &record
	}
	for i := range c.Dedupe {
		record := c.Dedupe[i]
		m.log[record.Key()] = &record
	}
	for _, s := range c.States {
		if m.states[s.Key] = s.Event; s.Event == nil {
			delete(m.states, s.Key)
		}
		m.trace.States[s.Key] = append(m.trace.States[s.Key], stateLine(s.Event))
	}
}

// stateLine is what limit-state says, as text.
func stateLine(e *alerts.Event) string {
	if e == nil {
		return "nothing"
	}
	return line(e)
}

// note adds what step i made to the trace.
func (m *memory) note(i int, got outcome) {
	for _, e := range got.events {
		told := *e
		m.trace.Events = append(m.trace.Events, Told{Step: i, Event: &told})
	}
	for _, w := range got.words {
		if reason, ok := strings.CutPrefix(w, deadLetter); ok {
			m.trace.Letters = append(m.trace.Letters, Letter{Step: i, Reason: reason})
		}
	}
}

// restart gives the state up, loads the changelog, and takes the contracts in.
// got is what step i made before.
func (m *memory) restart(i int, got outcome) (outcome, error) {
	m.state = aggregate.New(m.cfg, m.table)
	for _, key := range slices.Sorted(maps.Keys(m.log)) {
		if err := m.state.Load(m.log[key]); err != nil {
			return got, fmt.Errorf("restart: %w", err)
		}
	}
	m.state.Loaded(m.clock)
	m.asks = m.state.Pending()
	more, err := m.commit(i, func() ([]string, error) {
		if m.failing { // what is asked again fails again
			for _, ask := range m.asks {
				m.state.SeedFailed(ask)
			}
		}
		return nil, nil
	})
	got.events = append(got.events, more.events...)
	return got, err
}
