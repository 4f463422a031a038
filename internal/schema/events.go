package schema

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// EventCodec writes and reads limit events as they stand in the topics. It
// never changes, and any number of goroutines may use it.
type EventCodec struct {
	format   Format
	schemaID uint32
}

// NewEventCodec returns a codec for format. schemaID is that of
// LimitEventSchema in the registry; JSON has no use for it.
func NewEventCodec(format Format, schemaID uint32) (*EventCodec, error) {
	if format != Avro && format != JSON {
		return nil, fmt.Errorf("limit_events.format: %q is neither avro nor json", format)
	}
	return &EventCodec{format: format, schemaID: schemaID}, nil
}

// Format returns the format of the codec.
func (c *EventCodec) Format() Format { return c.format }

// Append appends ev as the value of a record. The bytes of equal events are
// equal. It fails where ev has a kind or enforcement that does not exist.
func (c *EventCodec) Append(dst []byte, ev *alerts.Event) ([]byte, error) {
	if c.format == JSON {
		return appendEventJSON(dst, ev)
	}
	return appendEventAvro(AppendHeader(dst, c.schemaID), ev)
}

// Decode reads what Append wrote. Of an Avro header the schema id is not
// looked at: a registry may have been set up anew, and the schema has but one
// version. Every error is an ErrForeign.
func (c *EventCodec) Decode(value []byte) (*alerts.Event, error) {
	if c.format == JSON {
		return decodeEventJSON(value)
	}
	if _, ok := WireID(value); !ok {
		return nil, fmt.Errorf("%w: %w", ErrForeign, errNoHeader)
	}
	r := &reader{b: value, pos: wireHeader}
	ev := r.event()
	if err := r.done(); err != nil {
		return nil, fmt.Errorf("limit event: %w", err)
	}
	return ev, nil
}

// Header is a header of a record.
type Header struct {
	Key, Value []byte
}

// Headers returns the headers of a record that tells of ev: the attributes of
// CloudEvents 1.0 in their form for Kafka, and the type of the content.
func Headers(ev *alerts.Event, applicationID string, format Format) []Header {
	content := "application/json"
	if format == Avro {
		content = "application/vnd.confluent.avro"
	}
	pairs := [...][2]string{
		{"ce_specversion", "1.0"},
		{"ce_id", ev.ID},
		{"ce_type", "meterd.limit." + string(ev.Kind)},
		{"ce_source", "/meterd/" + applicationID},
		{"ce_subject", ev.Client},
		{"ce_time", ev.DecidedAt.String()},
		{"content-type", content},
	}
	headers := make([]Header, 0, len(pairs))
	for _, p := range pairs {
		headers = append(headers, Header{Key: []byte(p[0]), Value: []byte(p[1])})
	}
	return headers
}

// appendEventJSON appends one line without its end.
func appendEventJSON(dst []byte, ev *alerts.Event) ([]byte, error) {
	whole := *ev
	if whole.Dimensions == nil {
		whole.Dimensions = map[string]string{}
	}
	if whole.Thresholds == nil {
		whole.Thresholds = []alerts.PassedThreshold{}
	}
	if whole.Standing == nil {
		whole.Standing = []string{}
	}
	out := bytes.NewBuffer(dst)
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	if err := e.Encode(&whole); err != nil {
		return dst, fmt.Errorf("encode limit event: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// decodeEventJSON reads what appendEventJSON wrote.
func decodeEventJSON(value []byte) (*alerts.Event, error) {
	// Null is no start or no end, and leaves what stands there.
	ev := &alerts.Event{Period: alerts.PeriodInfo{Start: usage.MinTime, End: usage.MaxTime}}
	if err := json.Unmarshal(value, ev); err != nil {
		return nil, fmt.Errorf("%w: limit event: %w", ErrForeign, err)
	}
	if !slices.Contains(eventKinds, ev.Kind) || !slices.Contains(causeKinds, ev.Cause.Kind) || !slices.Contains(enforcements, ev.Enforcement) {
		return nil, fmt.Errorf("%w: %w", ErrForeign, errNoSymbol)
	}
	if ev.Dimensions == nil || ev.Thresholds == nil || ev.Standing == nil {
		return nil, fmt.Errorf("%w: limit event: dimensions, thresholds or standing is missing", ErrForeign)
	}
	return ev, nil
}

// eventKinds and causeKinds are the symbols of the schema, in its order.
var (
	eventKinds = []alerts.EventKind{alerts.Crossed, alerts.Cleared, alerts.Reset}
	causeKinds = []alerts.CauseKind{alerts.ByUsage, alerts.ByVoid, alerts.ByContract, alerts.BySeed, alerts.ByPeriodEnd}
)

var errNoSymbol = errors.New("limit event: kind, enforcement or cause does not exist")

// appendEventAvro appends the body, in the order of the schema.
func appendEventAvro(dst []byte, ev *alerts.Event) ([]byte, error) {
	kind, cause := slices.Index(eventKinds, ev.Kind), slices.Index(causeKinds, ev.Cause.Kind)
	enforcement := slices.Index(enforcements, ev.Enforcement)
	if min(kind, cause, enforcement) < 0 {
		return dst, fmt.Errorf("encode %w", errNoSymbol)
	}
	dst = appendString(dst, ev.ID)
	dst = binary.AppendVarint(dst, int64(kind))
	dst = appendString(dst, ev.Client)
	dst = appendString(dst, ev.Meter)
	dst = appendDimensions(dst, ev.Dimensions)
	dst = appendString(dst, ev.Contract)
	dst = binary.AppendVarint(dst, ev.ContractRevision)
	dst = appendString(dst, ev.LimitID)
	dst = appendString(dst, ev.Limit)
	dst = binary.AppendVarint(dst, int64(enforcement))
	dst = appendArray(dst, ev.Thresholds, func(dst []byte, t alerts.PassedThreshold) []byte {
		return appendString(appendString(dst, t.Threshold), t.Value)
	})
	dst = appendString(dst, ev.Highest)
	dst = appendArray(dst, ev.Standing, appendString)
	dst = appendString(dst, ev.UsageBefore)
	dst = appendString(dst, ev.UsageAfter)
	dst = appendString(dst, ev.Utilization)
	dst = appendString(dst, ev.Period.ID)
	dst = appendBound(dst, ev.Period.Start)
	dst = appendBound(dst, ev.Period.End)
	dst = appendString(dst, ev.Period.Timezone)
	dst = appendCause(dst, &ev.Cause)
	dst = appendBool(dst, ev.Late)
	dst = appendBool(dst, ev.Seeded)
	dst = binary.AppendVarint(dst, ev.Sequence)
	return binary.AppendVarint(dst, int64(ev.DecidedAt)), nil
}

// appendCause appends a cause whose kind exists.
func appendCause(dst []byte, c *alerts.Cause) []byte {
	dst = binary.AppendVarint(dst, int64(slices.Index(causeKinds, c.Kind)))
	dst = appendOptional(dst, c.Topic, appendString)
	dst = appendOptional(dst, c.Partition, appendNumber)
	dst = appendOptional(dst, c.Offset, appendNumber)
	dst = appendOptional(dst, c.EventID, appendString)
	return appendOptional(dst, c.EventTime, appendNumber)
}

func appendNumber[T ~int32 | ~int64](dst []byte, n T) []byte {
	return binary.AppendVarint(dst, int64(n))
}

// appendArray appends one block of all items, and the end.
func appendArray[T any](dst []byte, items []T, item func([]byte, T) []byte) []byte {
	if len(items) > 0 {
		dst = binary.AppendVarint(dst, int64(len(items)))
		for _, v := range items {
			dst = item(dst, v)
		}
	}
	return append(dst, 0)
}

// appendOptional appends a union of null and something.
func appendOptional[T any](dst []byte, v *T, value func([]byte, T) []byte) []byte {
	if v == nil {
		return binary.AppendVarint(dst, 0)
	}
	return value(binary.AppendVarint(dst, 1), *v)
}

// appendBound appends null for no start or no end.
func appendBound(dst []byte, t usage.Time) []byte {
	if t == usage.MinTime || t == usage.MaxTime {
		return binary.AppendVarint(dst, 0)
	}
	return appendNumber(binary.AppendVarint(dst, 1), t)
}

// event reads what appendEventAvro wrote.
func (r *reader) event() *alerts.Event {
	ev := &alerts.Event{Dimensions: map[string]string{}, Thresholds: []alerts.PassedThreshold{}, Standing: []string{}}
	ev.ID = r.string()
	ev.Kind = eventKinds[r.index(len(eventKinds))]
	ev.Client, ev.Meter = r.string(), r.string()
	maps.Copy(ev.Dimensions, r.dimensions())
	ev.Contract, ev.ContractRevision = r.string(), r.long()
	ev.LimitID, ev.Limit = r.string(), r.string()
	ev.Enforcement = enforcements[r.index(len(enforcements))]
	r.blocks(func() {
		ev.Thresholds = append(ev.Thresholds, alerts.PassedThreshold{Threshold: r.string(), Value: r.string()})
	})
	ev.Highest = r.string()
	r.blocks(func() { ev.Standing = append(ev.Standing, r.string()) })
	ev.UsageBefore, ev.UsageAfter, ev.Utilization = r.string(), r.string(), r.string()
	ev.Period = alerts.PeriodInfo{ID: r.string(), Start: r.bound(usage.MinTime), End: r.bound(usage.MaxTime), Timezone: r.string()}
	ev.Cause = r.cause()
	ev.Late, ev.Seeded = r.bool(), r.bool()
	ev.Sequence, ev.DecidedAt = r.long(), r.time()
	return ev
}

func (r *reader) cause() alerts.Cause {
	return alerts.Cause{
		Kind:  causeKinds[r.index(len(causeKinds))],
		Topic: optional(r, r.shared), Partition: optional(r, r.int32), Offset: optional(r, r.long),
		EventID: optional(r, r.string), EventTime: optional(r, r.time),
	}
}

func (r *reader) int32() int32 { return int32(r.int()) }

// bound reads a start or an end; null is none.
func (r *reader) bound(none usage.Time) usage.Time {
	if r.index(2) == 0 {
		return none
	}
	return r.time()
}

// optional reads a union of null and something.
func optional[T any](r *reader, value func() T) *T {
	if r.index(2) == 0 {
		return nil
	}
	v := value()
	return &v
}
