package schema_test

import (
	_ "embed"
	"encoding/json"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/hamba/avro/v2"
	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

//go:embed testdata/limit-event.example.json
var exampleEvent string

// events are limit events of every shape.
func events() map[string]*alerts.Event {
	bare := limitEvent()
	bare.Kind, bare.Enforcement, bare.Late, bare.Seeded = alerts.Reset, contracts.Soft, true, false
	bare.Thresholds, bare.Standing = []alerts.PassedThreshold{}, []string{}
	bare.Period.Start, bare.Period.End = usage.MinTime, usage.MaxTime
	bare.Cause = alerts.Cause{Kind: alerts.ByPeriodEnd}
	grouped := limitEvent()
	grouped.Kind, grouped.Dimensions = alerts.Cleared, map[string]string{"region": "<eu> & \u2028 \"x\""}
	grouped.Cause.EventID, grouped.Cause.Kind = nil, alerts.ByVoid
	return map[string]*alerts.Event{"documented": limitEvent(), "bare": bare, "grouped": grouped}
}

func codec(t *testing.T, format schema.Format) *schema.EventCodec {
	t.Helper()
	c, err := schema.NewEventCodec(format, 77)
	require.NoError(t, err)
	require.Equal(t, format, c.Format())
	return c
}

func TestEventsComeBack(t *testing.T) {
	t.Parallel()

	for _, format := range []schema.Format{schema.Avro, schema.JSON} {
		for name, want := range events() {
			t.Run(string(format)+" "+name, func(t *testing.T) {
				t.Parallel()

				c := codec(t, format)
				value, err := c.Append([]byte("before"), want)
				require.NoError(t, err)
				require.Equal(t, "before", string(value[:6]))
				value = value[6:]
				got, err := c.Decode(value)
				require.NoError(t, err)
				require.Equal(t, want, got)
				for cut := range value {
					_, err := c.Decode(value[:cut])
					require.ErrorIs(t, err, schema.ErrForeign, "cut at %d", cut)
				}
				_, err = c.Decode(append(value, 'x'))
				require.ErrorIs(t, err, schema.ErrForeign)
			})
		}
	}
}

func TestEventJSONIsAsDocumented(t *testing.T) {
	t.Parallel()

	value, err := codec(t, schema.JSON).Append(nil, limitEvent())
	require.NoError(t, err)
	require.JSONEq(t, exampleEvent, string(value))

	got, err := codec(t, schema.JSON).Decode([]byte(exampleEvent))
	require.NoError(t, err)
	require.Equal(t, limitEvent(), got)

	// What has nothing in it says so; nothing is left out.
	empty := limitEvent()
	empty.Dimensions, empty.Thresholds, empty.Standing = nil, nil, nil
	empty.Period.Start, empty.Cause = usage.MinTime, alerts.Cause{Kind: alerts.BySeed}
	value, err = codec(t, schema.JSON).Append(nil, empty)
	require.NoError(t, err)
	var tree map[string]any
	require.NoError(t, json.Unmarshal(value, &tree))
	require.Equal(t, map[string]any{}, tree["dimensions"])
	require.Equal(t, []any{}, tree["thresholds"])
	require.Equal(t, []any{}, tree["standing"])
	start, there := tree["period"].(map[string]any)["start"]
	require.True(t, there)
	require.Nil(t, start)
	require.Equal(t, map[string]any{"kind": "seed", "topic": nil, "partition": nil, "offset": nil, "event_id": nil, "event_time": nil}, tree["cause"])
}

// genericEvent is ev as hamba's generic maps have it.
func genericEvent(ev *alerts.Event) map[string]any {
	some := func(name string, v any, there bool) any {
		if !there {
			return nil
		}
		return map[string]any{name: v}
	}
	const instant = "long.timestamp-millis"
	bound := func(t usage.Time) any {
		return some(instant, t.Std(), t != usage.MinTime && t != usage.MaxTime)
	}
	thresholds, standing := []any{}, []any{}
	for _, p := range ev.Thresholds {
		thresholds = append(thresholds, map[string]any{"threshold": p.Threshold, "value": p.Value})
	}
	for _, label := range ev.Standing {
		standing = append(standing, label)
	}
	cause := map[string]any{"kind": string(ev.Cause.Kind), "topic": nil, "partition": nil, "offset": nil, "event_id": nil, "event_time": nil}
	if c := ev.Cause; c.Topic != nil {
		cause["topic"] = some("string", *c.Topic, true)
		cause["partition"] = some("int", int(*c.Partition), true)
		cause["offset"] = some("long", *c.Offset, true)
		cause["event_time"] = some(instant, c.EventTime.Std(), true)
		if c.EventID != nil {
			cause["event_id"] = some("string", *c.EventID, true)
		}
	}
	return map[string]any{
		"id": ev.ID, "kind": string(ev.Kind), "client": ev.Client, "meter": ev.Meter, "dimensions": genericMap(ev.Dimensions),
		"contract": ev.Contract, "contract_revision": ev.ContractRevision, "limit_id": ev.LimitID, "limit": ev.Limit,
		"enforcement": string(ev.Enforcement), "thresholds": thresholds, "highest": ev.Highest, "standing": standing,
		"usage_before": ev.UsageBefore, "usage_after": ev.UsageAfter, "utilization": ev.Utilization,
		"period": map[string]any{"id": ev.Period.ID, "start": bound(ev.Period.Start), "end": bound(ev.Period.End), "timezone": ev.Period.Timezone},
		"cause":  cause, "late": ev.Late, "seeded": ev.Seeded, "sequence": ev.Sequence, "decided_at": ev.DecidedAt.Std(),
	}
}

func TestEventAvroIsThatOfItsSchema(t *testing.T) {
	t.Parallel()

	s := hamba(t, schema.LimitEventSchema)
	for name, ev := range events() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			value, err := codec(t, schema.Avro).Append(nil, ev)
			require.NoError(t, err)
			require.Equal(t, []byte{0, 0, 0, 0, 77}, value[:5])
			body, err := avro.Config{DisableBlockSizeHeader: true}.Freeze().Marshal(s, genericEvent(ev))
			require.NoError(t, err)
			require.Equal(t, body, value[5:])
			r := avro.NewReader(nil, 0).Reset(value[5:])
			require.Equal(t, genericEvent(ev), r.ReadNext(s))
			require.NoError(t, r.Error)
		})
	}
}

func TestEventBytesAreRepeatable(t *testing.T) {
	t.Parallel()

	ev := limitEvent()
	for _, k := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		ev.Dimensions[k] = k
	}
	for _, format := range []schema.Format{schema.Avro, schema.JSON} {
		first, err := codec(t, format).Append(nil, ev)
		require.NoError(t, err)
		for range 20 {
			again, err := codec(t, format).Append(nil, ev)
			require.NoError(t, err)
			require.Equal(t, first, again)
		}
	}
}

func TestEventsThatAreNone(t *testing.T) {
	t.Parallel()

	_, err := schema.NewEventCodec("csv", 0)
	require.ErrorContains(t, err, "limit_events.format")
	for _, change := range []func(*alerts.Event){
		func(ev *alerts.Event) { ev.Kind = "passed" },
		func(ev *alerts.Event) { ev.Enforcement = "" },
		func(ev *alerts.Event) { ev.Cause.Kind = "moon" },
	} {
		ev := limitEvent()
		change(ev)
		_, err := codec(t, schema.Avro).Append(nil, ev)
		require.ErrorContains(t, err, "does not exist")
		text, err := json.Marshal(ev)
		require.NoError(t, err)
		_, err = codec(t, schema.JSON).Decode(text)
		require.ErrorIs(t, err, schema.ErrForeign)
	}
	for _, value := range []string{"", "null", "{}", "[]", `{"id":1}`, `{"kind":"crossed","enforcement":"hard","cause":{"kind":"usage"}}`} {
		_, err := codec(t, schema.JSON).Decode([]byte(value))
		require.ErrorIs(t, err, schema.ErrForeign, value)
	}
	_, err = codec(t, schema.Avro).Decode([]byte(exampleEvent))
	require.ErrorIs(t, err, schema.ErrForeign)
}

func TestHeadersAreCloudEvents(t *testing.T) {
	t.Parallel()

	headers := map[string]string{}
	for _, h := range schema.Headers(limitEvent(), "meterd", schema.Avro) {
		headers[string(h.Key)] = string(h.Value)
	}
	require.Equal(t, map[string]string{
		"ce_specversion": "1.0", "ce_id": "b3f0c2a4-6f0e-5c1d-9c53-0a9f7d2e1c11", "ce_type": "meterd.limit.crossed",
		"ce_source": "/meterd/meterd", "ce_subject": "acme", "ce_time": "2026-11-22T05:00:00.131Z",
		"content-type": "application/vnd.confluent.avro",
	}, headers)

	e := event.New(headers["ce_specversion"])
	e.SetID(headers["ce_id"])
	e.SetType(headers["ce_type"])
	e.SetSource(headers["ce_source"])
	e.SetSubject(headers["ce_subject"])
	e.SetDataContentType(headers["content-type"])
	at, err := time.Parse(time.RFC3339Nano, headers["ce_time"])
	require.NoError(t, err)
	e.SetTime(at)
	require.NoError(t, e.Validate())

	asJSON := schema.Headers(limitEvent(), "meterd", schema.JSON)
	require.Equal(t, "application/json", string(asJSON[len(asJSON)-1].Value))
	require.Len(t, asJSON, len(headers))
}
