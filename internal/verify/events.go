package verify

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// tuple is whose limit events are numbered together. dimensions are in the
// form of RFC 8785.
type tuple struct{ contract, limit, dimensions, period string }

func tupleOf(e *alerts.Event) tuple {
	return tuple{e.Contract, e.LimitID, string(usage.AppendCanonicalMap(nil, e.Dimensions)), e.Period.ID}
}

// script is the limit events of a tuple in their order, and how far a reading
// of the usage topic has followed them.
type script struct {
	tuple      tuple
	dimensions map[string]string // the per values
	events     []*alerts.Event

	// Of a reading.
	next     int // the first event that was not met
	watches  []*watch
	standing []contracts.Threshold // with the values they were crossed at
	decimals int                   // of those values
	on       *counter              // what they were crossed on
	closed   bool                  // a reset was told
	late     bool                  // what stands was crossed after the period's end
	sighted  int                   // of how many of the next events the counter had the totals
	vague    bool                  // what stands cannot be known
	owed     []owed                // events that seem to be missing
	disputed bool                  // a difference was told that leaves open what stands
}

// events are the limit events of a partition.
type events struct {
	scripts map[tuple]*script
	byID    map[string]*alerts.Event
	count   int
	cut     bool  // the topic no longer has the first ones
	from    int64 // events of causes below may be gone
}

func (s *events) script(t tuple, dimensions map[string]string) *script {
	found, ok := s.scripts[t]
	if !ok {
		found = &script{tuple: t, dimensions: dimensions}
		s.scripts[t] = found
	}
	return found
}

// rewind makes the scripts ready for another reading.
func (s *events) rewind() {
	for t, script := range s.scripts {
		if len(script.events) == 0 {
			delete(s.scripts, t)
			continue
		}
		*script = script.fresh()
	}
}

func (s *script) fresh() script {
	return script{tuple: s.tuple, dimensions: s.dimensions, events: s.events}
}

// key is how differences name a script.
func (s *script) key() string {
	return fmt.Sprintf("%s %s", alerts.StateKey(s.tuple.contract, s.tuple.limit, s.dimensions), s.tuple.period)
}

// readEvents reads the partition's limit events and checks what needs no usage
// to be known.
func (a *audit) readEvents(ctx context.Context) error {
	a.events = events{scripts: map[tuple]*script{}, byID: map[string]*alerts.Event{}}
	start, err := a.parts.Cluster.LogStart(ctx, a.cfg.Topics.LimitEvents, a.number)
	if err != nil {
		return err
	}
	a.events.cut = start > 0
	order := map[string]place{}
	return a.readAll(ctx, a.cfg.Topics.LimitEvents, a.number, func(r *kafka.Record) error {
		if usage.Time(r.Timestamp) > a.kept.clock() { // of a later commit
			return nil
		}
		e, err := a.parts.Events.Decode(r.Value)
		if err != nil {
			a.fix(LimitEvent, fmt.Sprintf("at %d", r.Offset), "%s", err)
			return nil
		}
		a.events.count++
		for _, problem := range a.looks(r, e) {
			a.fix(LimitEvent, eventKey(e), "%s", problem)
		}
		if problem := a.inOrder(order, e); problem != "" {
			a.fix(LimitEvent, eventKey(e), "%s", problem)
		}
		if a.events.cut && a.events.from == 0 && e.Cause.Offset != nil && ofRecord(e) {
			a.events.from = *e.Cause.Offset
		}
		a.numbered(e)
		return nil
	})
}

func eventKey(e *alerts.Event) string {
	return fmt.Sprintf("%s %s #%d", alerts.StateKey(e.Contract, e.LimitID, e.Dimensions), e.Period.ID, e.Sequence)
}

// numbered puts an event into its script, and demands its number and id.
func (a *audit) numbered(e *alerts.Event) {
	s := a.events.script(tupleOf(e), e.Dimensions)
	if a.restarts(s, e) {
		for _, old := range s.events {
			delete(a.ids, old.ID)
		}
		s.events = nil
	}
	want := int64(1)
	if n := len(s.events); n > 0 {
		want = s.events[n-1].Sequence + 1
	} else if a.events.cut {
		want = e.Sequence
	}
	switch {
	case e.Sequence == want, a.cfg.MarkSeeded && e.Sequence > want:
	default:
		d := Difference{Subject: LimitEvent, Key: eventKey(e), Problem: fmt.Sprintf("sequence is %d, must be %d", e.Sequence, want)}
		if !a.lacks(&a.fixedGaps, d, s.tuple, s.dimensions, want, e.Sequence) {
			a.fix(d.Subject, d.Key, "%s", d.Problem)
		}
	}
	id := alerts.Identity{
		ApplicationID: a.cfg.ApplicationID, Contract: e.Contract, Limit: e.LimitID, Dimensions: e.Dimensions, Period: e.Period.ID, Sequence: e.Sequence,
	}.ID()
	if e.ID != id {
		a.fix(LimitEvent, eventKey(e), "id is %s, must be %s", e.ID, id)
	}
	if a.ids[e.ID] {
		a.fix(LimitEvent, eventKey(e), "id %s is there twice", e.ID)
		return
	}
	a.ids[e.ID] = true
	a.events.byID[e.ID] = e
	s.events = append(s.events, e)
}

// restarts tells whether numbers may begin anew with e: a contract that had
// ended goes on, and its period was no longer kept.
func (a *audit) restarts(s *script, e *alerts.Event) bool {
	n := len(s.events)
	return n > 0 && e.Sequence == 1 && len(a.deals.revisions[e.Contract]) > 1 &&
		e.DecidedAt >= s.events[n-1].Period.End.Add(a.cfg.AllowedLateness)
}

// looks returns what is wrong with an event as such, and with its record.
func (a *audit) looks(r *kafka.Record, e *alerts.Event) []string {
	var list []string
	if string(r.Key) != e.Client {
		list = append(list, fmt.Sprintf("the record's key is %q", r.Key))
	}
	if usage.Time(r.Timestamp) != e.DecidedAt {
		list = append(list, fmt.Sprintf("decided_at is %s, the record's timestamp %s", e.DecidedAt, usage.Time(r.Timestamp)))
	}
	if problem := a.headers(r, e); problem != "" {
		list = append(list, problem)
	}
	if problem := a.cause(e); problem != "" {
		list = append(list, problem)
	}
	if problem := a.deals.named(e.Contract, e.ContractRevision); problem != "" {
		list = append(list, problem)
	}
	if n := len(e.Thresholds); n == 0 || e.Highest != e.Thresholds[n-1].Threshold {
		list = append(list, fmt.Sprintf("highest is %q, which is not the last of thresholds", e.Highest))
	}
	return list
}

func (a *audit) headers(r *kafka.Record, e *alerts.Event) string {
	want := schema.Headers(e, a.cfg.ApplicationID, a.parts.Events.Format())
	for _, w := range want {
		i := slices.IndexFunc(r.Headers, func(h kafka.Header) bool { return bytes.Equal(h.Key, w.Key) })
		switch {
		case i < 0:
			return fmt.Sprintf("header %s is missing", w.Key)
		case !bytes.Equal(r.Headers[i].Value, w.Value):
			return fmt.Sprintf("header %s is %q, must be %q", w.Key, r.Headers[i].Value, w.Value)
		}
	}
	return ""
}

// cause checks that an event's cause names what it must and nothing else.
func (a *audit) cause(e *alerts.Event) string {
	c, partition := e.Cause, a.number
	topic := a.cfg.Topics.Usage
	switch c.Kind {
	case alerts.ByUsage, alerts.ByVoid:
		if c.EventTime == nil {
			return "cause has no event_time"
		}
		if c.Kind == alerts.ByVoid && c.EventID == nil {
			return "cause is a void without an event_id"
		}
	case alerts.ByContract:
		topic, partition = a.cfg.Topics.Contracts, 0
		if c.Offset != nil && *c.Offset != e.ContractRevision {
			return fmt.Sprintf("cause is the contract at %d, contract_revision %d", *c.Offset, e.ContractRevision)
		}
	case alerts.BySeed, alerts.ByPeriodEnd:
		if c.Topic != nil || c.Partition != nil || c.Offset != nil || c.EventID != nil || c.EventTime != nil {
			return fmt.Sprintf("a cause that is a %s names a record", c.Kind)
		}
		return ""
	default:
		return fmt.Sprintf("cause is %s, which nothing can be", c.Kind)
	}
	switch {
	case c.Topic == nil || *c.Topic != topic || c.Partition == nil || *c.Partition != partition || c.Offset == nil:
		return fmt.Sprintf("cause is not a record of %s, partition %d", topic, partition)
	case ofRecord(e) && (*c.Offset >= a.kept.position.Position || *c.Offset < a.kept.position.Boundary):
		return fmt.Sprintf("cause is offset %d, which is not among what was counted", *c.Offset)
	}
	return ""
}
