package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/schema"
)

// review compares what is in the topics with what Memory told.
func (p *play) review(ctx context.Context) ([]Result, error) {
	topics := map[string]map[int32][]*kgo.Record{}
	for _, topic := range []string{p.cfg.LimitEvents.Topic, p.cfg.LimitEvents.StateTopic, p.cfg.DeadLetterTopic, p.cfg.ChangelogTopic} {
		records, _, err := p.read(ctx, topic, kgo.ReadCommitted())
		if err != nil {
			return nil, err
		}
		topics[topic] = records
	}
	codec, err := schema.NewEventCodec(schema.JSON, 0)
	if err != nil {
		return nil, fmt.Errorf("codec: %w", err)
	}
	var results []Result
	for _, t := range p.parts {
		got := &Trace{States: map[string][]string{}, Counters: map[string]string{}}
		c := critic{play: p, part: t, codec: codec, got: got}
		for _, look := range []struct {
			topic string
			at    func(*kgo.Record) error
		}{
			{p.cfg.LimitEvents.Topic, c.event},
			{p.cfg.LimitEvents.StateTopic, c.state},
			{p.cfg.DeadLetterTopic, c.letter},
			{p.cfg.ChangelogTopic, c.counter},
		} {
			for _, r := range topics[look.topic][t.partition] {
				if err := look.at(r); err != nil {
					return nil, fmt.Errorf("%s, partition %d, offset %d: %w", look.topic, t.partition, r.Offset, err)
				}
			}
		}
		results = append(results, Result{Scenario: t.scenario, Wrong: append(t.wrong, differences(p.plain(t.want), got)...)})
	}
	return results, nil
}

// critic reads back what was told of one scenario, in the scenario's own names.
type critic struct {
	*play
	*part
	codec *schema.EventCodec
	got   *Trace
}

func (c *critic) event(r *kgo.Record) error {
	e, err := c.decode(r.Value)
	if err != nil {
		return err
	}
	step := len(c.scenario.Steps)
	if e.Cause.Kind == alerts.ByUsage || e.Cause.Kind == alerts.ByVoid {
		step = c.steps[*e.Cause.Offset]
	}
	c.got.Events = append(c.got.Events, Told{Step: step, Event: c.own(e)})
	return nil
}

// decode reads a limit event, and checks that its id is a function of what it
// is of.
func (c *critic) decode(value []byte) (*alerts.Event, error) {
	e, err := c.codec.Decode(value)
	if err != nil {
		return nil, err
	}
	id := alerts.Identity{
		ApplicationID: c.cfg.ApplicationID, Contract: e.Contract, Limit: e.LimitID, Dimensions: e.Dimensions,
		Period: e.Period.ID, Sequence: e.Sequence,
	}
	if e.ID != id.ID() {
		return nil, fmt.Errorf("%w: id %s, not %s", ErrExample, e.ID, id.ID())
	}
	return e, nil
}

// own returns e with the names that the scenario has, and the numbers of its
// own records instead of offsets.
func (c *critic) own(e *alerts.Event) *alerts.Event {
	e.Client, e.Contract = c.clients[e.Client], c.contracts[e.Contract]
	e.ContractRevision = c.revisions[e.ContractRevision]
	switch e.Cause.Kind {
	case alerts.ByUsage, alerts.ByVoid:
		n, on := c.order[*e.Cause.Offset], int32(partition)
		e.Cause.Topic, e.Cause.Partition, e.Cause.Offset = &c.script.Usage.Topic, &on, &n
	case alerts.ByContract:
		n := c.revisions[*e.Cause.Offset]
		e.Cause.Topic, e.Cause.Offset = &c.script.Contracts.Topic, &n
	}
	return plain(e)
}

// plain takes from e what no two runs have in common.
func plain(e *alerts.Event) *alerts.Event {
	e.DecidedAt, e.ID = 0, ""
	return e
}

// plain is t without what no two runs have in common.
func (p *play) plain(t *Trace) *Trace {
	for i := range t.Events {
		plain(t.Events[i].Event)
	}
	return t
}

func (c *critic) state(r *kgo.Record) error {
	var key []json.RawMessage
	var contract, limit string
	var values map[string]string
	if err := json.Unmarshal(r.Key, &key); err != nil || len(key) != 3 {
		return fmt.Errorf("%w: key %s", ErrExample, r.Key)
	}
	for i, into := range []any{&contract, &limit, &values} {
		if err := json.Unmarshal(key[i], into); err != nil {
			return fmt.Errorf("key %s: %w", r.Key, err)
		}
	}
	said := stateLine(nil)
	if r.Value != nil {
		e, err := c.decode(r.Value)
		if err != nil {
			return err
		}
		said = stateLine(c.own(e))
	}
	own := alerts.StateKey(c.contracts[contract], limit, values)
	c.got.States[own] = append(c.got.States[own], said)
	return nil
}

func (c *critic) letter(r *kgo.Record) error {
	if string(r.Key) == "-" {
		return nil
	}
	var offset int64
	var reason string
	for _, h := range r.Headers {
		switch h.Key {
		case "meterd_offset":
			var err error
			if offset, err = strconv.ParseInt(string(h.Value), 10, 64); err != nil {
				return fmt.Errorf("meterd_offset: %w", err)
			}
		case "meterd_reason":
			reason = string(h.Value)
		}
	}
	c.got.Letters = append(c.got.Letters, Letter{Step: c.steps[offset], Reason: reason})
	return nil
}

func (c *critic) counter(r *kgo.Record) error {
	if r.Value == nil {
		return nil
	}
	var decoder schema.ChangelogDecoder
	record, err := decoder.Decode(r.Key, r.Value)
	if err != nil {
		return err
	}
	k, ok := record.(*aggregate.CounterRecord)
	if !ok {
		return nil
	}
	k.Client = c.clients[k.Client]
	if k.Scope.Contract != "" {
		k.Scope.Contract = c.contracts[k.Scope.Contract]
	}
	c.got.Counters[string(k.AppendCounterKey(nil))] = counterLine(k)
	return nil
}

// differences lists in what got is not want.
func differences(want, got *Trace) []string {
	var wrong []string
	for i := range max(len(want.Events), len(got.Events)) {
		switch {
		case i >= len(got.Events):
			wrong = append(wrong, "not told: "+line(want.Events[i].Event))
		case i >= len(want.Events):
			wrong = append(wrong, "told, and not to be: "+line(got.Events[i].Event))
		default:
			w, g := text(want.Events[i].Event), text(got.Events[i].Event)
			if w != g {
				wrong = append(wrong, fmt.Sprintf("limit event %d:\n  want %s\n  got  %s\n  want %s\n  got  %s",
					i, line(want.Events[i].Event), line(got.Events[i].Event), w, g))
			}
		}
	}
	if !slices.Equal(want.Letters, got.Letters) {
		wrong = append(wrong, fmt.Sprintf("dead letters: want %v, got %v", want.Letters, got.Letters))
	}
	for key, w := range want.Counters {
		if g := got.Counters[key]; g != w {
			wrong = append(wrong, fmt.Sprintf("%s: want %s, got %s", key, w, g))
		}
	}
	for key, w := range want.States {
		if g := got.States[key]; !within(g, w) {
			wrong = append(wrong, fmt.Sprintf("limit-state %s: want %q, got %q", key, w, g))
		}
	}
	for key, g := range got.States {
		if _, ok := want.States[key]; !ok {
			wrong = append(wrong, fmt.Sprintf("limit-state %s: want nothing, got %q", key, g))
		}
	}
	return wrong
}

// within tells whether got is want, but for changes that others followed in
// the same transaction.
func within(got, want []string) bool {
	if len(got) == 0 || len(want) == 0 || got[len(got)-1] != want[len(want)-1] {
		return len(got) == len(want)
	}
	at := 0
	for _, g := range got {
		n := slices.Index(want[at:], g)
		if n < 0 {
			return false
		}
		at += n + 1
	}
	return true
}

func text(e *alerts.Event) string {
	data, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(data)
}
