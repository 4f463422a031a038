package schema_test

import (
	"github.com/hamba/avro/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// genericPeriod and the functions below make what hamba reads and writes
// without types.
func genericPeriod(p usage.Period) map[string]any {
	return map[string]any{"id": p.ID, "start": int64(p.Start), "end": int64(p.End), "timezone": p.Timezone}
}

func genericScope(s aggregate.Scope, name string) any {
	if s.Default() {
		return nil
	}
	return map[string]any{name: map[string]any{
		"contract": s.Contract, "period": string(s.Kind), "timezone": s.Timezone, "starts_at": int64(s.StartsAt),
		"where": s.Where, "per": s.Per,
	}}
}

func genericMap(m map[string]string) map[string]any {
	g := map[string]any{}
	for k, v := range m {
		g[k] = v
	}
	return g
}

func genericCounter(r *aggregate.CounterRecord) map[string]any {
	return map[string]any{
		"client": r.Client, "meter": r.Meter, "scope": genericScope(r.Scope, "meterd.changelog.Scope"),
		"dimensions": genericMap(r.Dimensions), "period": genericPeriod(r.Period), "decimals": r.Decimals,
		"total": int64(r.Total), "events": r.Events, "first_event": int64(r.First), "last_event": int64(r.Last),
		"seed": map[string]any{
			"state": string(r.Seed.State), "usage": int64(r.Seed.Usage), "events": r.Seed.Events, "boundary": r.Seed.Boundary,
			"cut": int64(r.Seed.Cut),
		},
		"distinct": append([]byte{}, r.Distinct...),
	}
}

// genericOptional is a union of null and the branch called name.
func genericOptional[T any](name string, v *T, plain func(T) any) any {
	if v == nil {
		return nil
	}
	return map[string]any{name: plain(*v)}
}

func genericTelling(t aggregate.Telling) map[string]any {
	labels := []any{}
	for _, l := range t.Labels {
		labels = append(labels, l)
	}
	text := func(s string) any { return s }
	return map[string]any{
		"sequence": t.Sequence, "kind": string(t.Kind), "thresholds": labels, "usage_before": t.Before, "usage_after": t.After,
		"contract_revision": t.Revision, "late": t.Late, "decided_at": int64(t.DecidedAt), "marked": t.Silent,
		"cause": map[string]any{
			"kind":       string(t.Cause.Kind),
			"topic":      genericOptional("string", t.Cause.Topic, text),
			"partition":  genericOptional("int", t.Cause.Partition, func(n int32) any { return int(n) }),
			"offset":     genericOptional("long", t.Cause.Offset, func(n int64) any { return n }),
			"event_id":   genericOptional("string", t.Cause.EventID, text),
			"event_time": genericOptional("long", t.Cause.EventTime, func(at usage.Time) any { return int64(at) }),
		},
	}
}

func genericLimit(r *aggregate.LimitRecord, last any) map[string]any {
	standing := []any{}
	for _, t := range r.Standing {
		standing = append(standing, map[string]any{"label": t.Label, "value": int64(t.Value)})
	}
	told := []any{}
	for _, t := range r.Told {
		told = append(told, genericTelling(t))
	}
	return map[string]any{
		"contract": r.Contract, "limit": r.Limit, "dimensions": genericMap(r.Dimensions), "where": genericMap(r.Where), "place": r.Place,
		"period": genericPeriod(r.Period), "told": told,
		"client": r.Client, "meter": r.Meter, "scope": genericScope(r.Scope, "meterd.changelog.Scope"),
		"revision": r.Revision, "value": int64(r.Value), "decimals": r.Decimals, "enforcement": string(r.Enforcement),
		"standing": standing, "sequence": r.Sequence, "closed": r.Closed, "last": last,
	}
}

func limitRecord() *aggregate.LimitRecord {
	return &aggregate.LimitRecord{
		Contract: "acme-2026", Limit: "traffic", Dimensions: map[string]string{"region": "eu"}, Where: map[string]string{"tier": "paid"}, Place: 3,
		Period: usage.Period{ID: "lifetime", Start: usage.MinTime, End: usage.MaxTime, Timezone: "UTC"},
		Client: "acme", Meter: "bytes_out",
		Scope:    aggregate.Scope{Contract: "acme-2026", Kind: usage.Anniversary, Timezone: "Europe/Berlin", StartsAt: 1_700_000_000_000, Where: `{"tier":"paid"}`, Per: `["region"]`},
		Revision: 42, Value: 1_000_000, Decimals: 2, Enforcement: contracts.Soft,
		Standing: []contracts.Threshold{{Label: "50%", Value: 500_000}, {Label: "80%", Value: 800_000}},
		Sequence: 7, Closed: true, Last: limitEvent(),
		Told: []aggregate.Telling{
			{
				Sequence: 6, Kind: alerts.Crossed, Labels: []string{"50%", "80%"}, Before: "4999.99", After: "8000", Revision: 41,
				Cause: limitEvent().Cause, Late: true, DecidedAt: 1_700_000_000_123,
			},
			{Sequence: 7, Kind: alerts.Cleared, Labels: []string{"80%"}, Revision: 42, Cause: alerts.Cause{Kind: alerts.BySeed}, Silent: true},
		},
	}
}

// boundedCounter is a counter with all that most have not.
func boundedCounter() *aggregate.CounterRecord {
	r := counterRecord()
	r.Dimensions = map[string]string{"endpoint": "/v1/search"}
	r.Scope = limitRecord().Scope
	r.Seed.State, r.Seed.Cut = aggregate.SeedBounded, 1_763_787_600_000
	r.Distinct = []byte("\x00a set of values\xff")
	return r
}

// checkAgainstHamba demands that value is what hamba writes for generic.
func checkAgainstHamba(t require.TestingT, s avro.Schema, generic map[string]any, value []byte) {
	body, err := avro.Config{DisableBlockSizeHeader: true}.Freeze().Marshal(s, generic)
	require.NoError(t, err)
	fingerprint, err := s.FingerprintUsing(avro.CRC64AvroLE)
	require.NoError(t, err)
	require.Equal(t, append(append([]byte{0xc3, 0x01}, fingerprint...), body...), value)
}

// drawTelling draws what is remembered of a limit event.
func drawTelling(t *rapid.T) aggregate.Telling {
	text := rapid.StringN(0, 12, 60)
	long := rapid.Int64()
	told := aggregate.Telling{
		Sequence: long.Draw(t, "sequence"), Before: text.Draw(t, "before"), After: text.Draw(t, "after"), Revision: long.Draw(t, "revision"),
		Kind: rapid.SampledFrom([]alerts.EventKind{alerts.Crossed, alerts.Cleared, alerts.Reset}).Draw(t, "kind"),
		Late: rapid.Bool().Draw(t, "late"), DecidedAt: usage.Time(long.Draw(t, "decided")), Silent: rapid.Bool().Draw(t, "silent"),
	}
	told.Cause.Kind = rapid.SampledFrom([]alerts.CauseKind{alerts.ByUsage, alerts.ByVoid, alerts.ByContract, alerts.BySeed, alerts.ByPeriodEnd}).Draw(t, "cause")
	if labels := rapid.SliceOfN(text, 0, 3).Draw(t, "labels"); len(labels) > 0 {
		told.Labels = labels
	}
	told.Cause.Topic = rapid.Ptr(text, true).Draw(t, "topic")
	told.Cause.Partition = rapid.Ptr(rapid.Int32(), true).Draw(t, "partition")
	told.Cause.Offset = rapid.Ptr(long, true).Draw(t, "offset")
	told.Cause.EventID = rapid.Ptr(text, true).Draw(t, "event")
	if at := rapid.Ptr(long, true).Draw(t, "at"); at != nil {
		told.Cause.EventTime = (*usage.Time)(at)
	}
	return told
}

// limitEvent is the one of the documentation.
func limitEvent() *alerts.Event {
	topic, id := "usage", "01JD…"
	partition, offset, at := int32(3), int64(1234567), usage.Time(1795323600123)
	return &alerts.Event{
		ID: "b3f0c2a4-6f0e-5c1d-9c53-0a9f7d2e1c11", Kind: alerts.Crossed, Client: "acme", Meter: "bytes_out",
		Dimensions: map[string]string{}, Contract: "acme-2026", ContractRevision: 42, LimitID: "traffic", Limit: "1000000",
		Enforcement: contracts.Hard,
		Thresholds:  []alerts.PassedThreshold{{Threshold: "80%", Value: "800000"}, {Threshold: "100%", Value: "1000000"}},
		Highest:     "100%", Standing: []string{"50%", "80%", "100%"},
		UsageBefore: "799998", UsageAfter: "1000003", Utilization: "1.000003",
		Period: alerts.PeriodInfo{ID: "2026-11", Start: 1793487600000, End: 1796079600000, Timezone: "Europe/Berlin"},
		Cause:  alerts.Cause{Kind: alerts.ByUsage, Topic: &topic, Partition: &partition, Offset: &offset, EventID: &id, EventTime: &at},
		Seeded: true, Sequence: 2, DecidedAt: 1795323600131,
	}
}
