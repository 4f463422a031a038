package schema_test

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/hamba/avro/v2"
	"github.com/stretchr/testify/require"
	twmb "github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// schemaText returns one of the schemas that meterd writes with.
func schemaText(tb testing.TB, name string) string {
	tb.Helper()
	text, err := schema.Schemas.ReadFile("schemas/" + name + ".avsc")
	require.NoError(tb, err)
	return string(text)
}

func hamba(tb testing.TB, text string) avro.Schema {
	tb.Helper()
	s, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	require.NoError(tb, err)
	return s
}

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
		},
	}
}

func genericLimit(r *aggregate.LimitRecord, last any) map[string]any {
	standing := []any{}
	for _, t := range r.Standing {
		standing = append(standing, map[string]any{"label": t.Label, "value": int64(t.Value)})
	}
	return map[string]any{
		"contract": r.Contract, "limit": r.Limit, "dimensions": genericMap(r.Dimensions), "period": genericPeriod(r.Period),
		"client": r.Client, "meter": r.Meter, "scope": genericScope(r.Scope, "meterd.changelog.Scope"),
		"revision": r.Revision, "value": int64(r.Value), "decimals": r.Decimals, "enforcement": string(r.Enforcement),
		"standing": standing, "sequence": r.Sequence, "closed": r.Closed, "last": last,
	}
}

func limitRecord() *aggregate.LimitRecord {
	return &aggregate.LimitRecord{
		Contract: "acme-2026", Limit: "traffic", Dimensions: map[string]string{"region": "eu"},
		Period: usage.Period{ID: "lifetime", Start: usage.MinTime, End: usage.MaxTime, Timezone: "UTC"},
		Client: "acme", Meter: "bytes_out",
		Scope:    aggregate.Scope{Contract: "acme-2026", Kind: usage.Anniversary, Timezone: "Europe/Berlin", StartsAt: 1_700_000_000_000},
		Revision: 42, Value: 1_000_000, Decimals: 2, Enforcement: contracts.Soft,
		Standing: []contracts.Threshold{{Label: "50%", Value: 500_000}, {Label: "80%", Value: 800_000}},
		Sequence: 7, Closed: true, Last: limitEvent(),
	}
}

// checkAgainstHamba demands that value is what hamba writes for generic.
func checkAgainstHamba(t require.TestingT, s avro.Schema, generic map[string]any, value []byte) {
	body, err := avro.Config{DisableBlockSizeHeader: true}.Freeze().Marshal(s, generic)
	require.NoError(t, err)
	fingerprint, err := s.FingerprintUsing(avro.CRC64AvroLE)
	require.NoError(t, err)
	require.Equal(t, append(append([]byte{0xc3, 0x01}, fingerprint...), body...), value)
}

func TestChangelogIsSingleObjectEncoding(t *testing.T) {
	t.Parallel()

	counter := counterRecord()
	counter.Dimensions = map[string]string{"endpoint": "/v1/search"}
	counter.Scope = limitRecord().Scope
	checkAgainstHamba(t, hamba(t, schemaText(t, "counter")), genericCounter(counter), schema.AppendCounter(nil, counter))
	checkAgainstHamba(t, hamba(t, schemaText(t, "counter")), genericCounter(counterRecord()), schema.AppendCounter(nil, counterRecord()))

	limit := limitRecord()
	value, err := schema.AppendLimit(nil, limit)
	require.NoError(t, err)
	codec, err := schema.NewEventCodec(schema.JSON, 0)
	require.NoError(t, err)
	last, err := codec.Append(nil, limit.Last)
	require.NoError(t, err)
	checkAgainstHamba(t, hamba(t, schemaText(t, "limit")), genericLimit(limit, map[string]any{"string": string(last)}), value)
	limit.Last, limit.Standing = nil, nil
	value, err = schema.AppendLimit(nil, limit)
	require.NoError(t, err)
	checkAgainstHamba(t, hamba(t, schemaText(t, "limit")), genericLimit(limit, nil), value)

	position := &aggregate.PositionRecord{Position: 12, Time: usage.MinTime, Boundary: 3, BoundaryTime: 1_700_000_000_000}
	checkAgainstHamba(t, hamba(t, schemaText(t, "position")), map[string]any{
		"position": int64(12), "time": int64(math.MinInt64), "boundary": int64(3), "boundary_time": int64(1_700_000_000_000),
	}, schema.AppendPosition(nil, position))

	dedupe := &aggregate.DedupeRecord{Bucket: 60_000, Offset: 99, Piece: 1, Hashes: []aggregate.Hash{{Hi: 1, Lo: 2}, {Hi: math.MaxUint64, Lo: 3}}}
	hashes := binary.BigEndian.AppendUint64(nil, 1)
	for _, n := range []uint64{2, math.MaxUint64, 3} {
		hashes = binary.BigEndian.AppendUint64(hashes, n)
	}
	checkAgainstHamba(t, hamba(t, schemaText(t, "dedupe")), map[string]any{
		"bucket": int64(60_000), "offset": int64(99), "piece": 1, "hashes": hashes,
	}, schema.AppendDedupe(nil, dedupe))
}

// Blocks may be written with their size; another writer does.
func TestChangelogReadsSizedBlocks(t *testing.T) {
	t.Parallel()

	want := limitRecord()
	want.Last = nil
	value, err := schema.AppendLimit(nil, want)
	require.NoError(t, err)
	generic := genericLimit(want, nil)
	sized, err := avro.Marshal(hamba(t, schemaText(t, "limit")), generic)
	require.NoError(t, err)
	sized = append(value[:10:10], sized...)
	require.NotEqual(t, value, sized)

	var d schema.ChangelogDecoder
	got, err := d.Decode([]byte(want.Key()), sized)
	require.NoError(t, err)
	require.Equal(t, want, got)

	for at := range sized {
		for _, b := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			damaged := slices.Clone(sized)
			damaged[at] = b
			if _, err := d.Decode([]byte(want.Key()), damaged); err != nil {
				require.ErrorIs(t, err, schema.ErrForeign)
			}
		}
	}
}

// The fingerprints in the code are those of the schemas, by the word of a
// second implementation.
func TestChangelogFingerprints(t *testing.T) {
	t.Parallel()

	limit, err := schema.AppendLimit(nil, limitRecord())
	require.NoError(t, err)
	for name, value := range map[string][]byte{
		"counter":  schema.AppendCounter(nil, counterRecord()),
		"limit":    limit,
		"position": schema.AppendPosition(nil, &aggregate.PositionRecord{}),
		"dedupe":   schema.AppendDedupe(nil, &aggregate.DedupeRecord{}),
	} {
		s, err := twmb.Parse(schemaText(t, name))
		require.NoError(t, err)
		var generic any
		rest, err := s.DecodeSingleObject(value, &generic)
		require.NoError(t, err, name)
		require.Empty(t, rest, name)
	}
}

func TestChangelogComesBack(t *testing.T) {
	t.Parallel()

	var d schema.ChangelogDecoder
	text := rapid.StringN(0, 12, 60)
	long := rapid.Int64()
	instant := rapid.Custom(func(t *rapid.T) usage.Time { return usage.Time(long.Draw(t, "time")) })
	dimensions := rapid.Custom(func(t *rapid.T) map[string]string {
		if m := rapid.MapOfN(text, text, 0, 12).Draw(t, "map"); len(m) > 0 {
			return m
		}
		return nil
	})
	period := rapid.Custom(func(t *rapid.T) usage.Period {
		return usage.Period{ID: text.Draw(t, "period"), Start: instant.Draw(t, "start"), End: instant.Draw(t, "end"), Timezone: text.Draw(t, "zone")}
	})
	scope := rapid.Custom(func(t *rapid.T) aggregate.Scope {
		if rapid.Bool().Draw(t, "default") {
			return aggregate.Scope{}
		}
		return aggregate.Scope{Contract: text.Draw(t, "contract"), Kind: usage.Kind(text.Draw(t, "kind")), Timezone: text.Draw(t, "zone"), StartsAt: instant.Draw(t, "starts")}
	})
	quantity := rapid.Custom(func(t *rapid.T) usage.Quantity { return usage.Quantity(long.Draw(t, "quantity")) })
	decimals := rapid.IntRange(0, usage.MaxDecimals)

	t.Run("counters", func(t *testing.T) {
		t.Parallel()
		var d schema.ChangelogDecoder
		oracle := hamba(t, schemaText(t, "counter"))
		rapid.Check(t, func(t *rapid.T) {
			want := &aggregate.CounterRecord{
				Client: text.Draw(t, "client"), Meter: text.Draw(t, "meter"), Scope: scope.Draw(t, "scope"), Dimensions: dimensions.Draw(t, "dimensions"),
				Period: period.Draw(t, "period"), Decimals: decimals.Draw(t, "decimals"), Total: quantity.Draw(t, "total"), Events: long.Draw(t, "events"),
				First: instant.Draw(t, "first"), Last: instant.Draw(t, "last"),
				Seed: aggregate.Seed{
					State: rapid.SampledFrom([]aggregate.SeedState{"none", "pending", "exact", "bounded", "failed"}).Draw(t, "state"),
					Usage: quantity.Draw(t, "seed"), Events: long.Draw(t, "seed events"), Boundary: long.Draw(t, "boundary"),
				},
			}
			value := schema.AppendCounter(nil, want)
			got, err := d.Decode(want.AppendCounterKey(nil), value)
			require.NoError(t, err)
			require.Equal(t, want, got)
			r := avro.NewReader(nil, 0).Reset(value[10:])
			require.Equal(t, genericCounter(want), r.ReadNext(oracle))
			require.NoError(t, r.Error)
		})
	})
	t.Run("limits", func(t *testing.T) {
		t.Parallel()
		var d schema.ChangelogDecoder
		rapid.Check(t, func(t *rapid.T) {
			want := limitRecord()
			want.Dimensions, want.Period, want.Scope = dimensions.Draw(t, "dimensions"), period.Draw(t, "period"), scope.Draw(t, "scope")
			want.Value, want.Decimals = quantity.Draw(t, "value"), decimals.Draw(t, "decimals")
			want.Closed = rapid.Bool().Draw(t, "closed")
			want.Standing = nil
			for range rapid.IntRange(0, 5).Draw(t, "standing") {
				want.Standing = append(want.Standing, contracts.Threshold{Label: text.Draw(t, "label"), Value: quantity.Draw(t, "at")})
			}
			if rapid.Bool().Draw(t, "silent") {
				want.Last = nil
			}
			value, err := schema.AppendLimit(nil, want)
			require.NoError(t, err)
			got, err := d.Decode([]byte(want.Key()), value)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	})

	position := &aggregate.PositionRecord{Position: 12, Time: usage.MinTime, Boundary: 3, BoundaryTime: 4}
	got, err := d.Decode([]byte(aggregate.PositionKey(3)), schema.AppendPosition(nil, position))
	require.NoError(t, err)
	require.Equal(t, position, got)
	for _, hashes := range [][]aggregate.Hash{nil, {{Hi: 1, Lo: 2}}, slices.Repeat([]aggregate.Hash{{Hi: 3, Lo: math.MaxUint64}}, 1000)} {
		dedupe := &aggregate.DedupeRecord{Bucket: -5, Offset: 8, Piece: 2, Hashes: hashes}
		got, err := d.Decode([]byte(dedupe.Key()), schema.AppendDedupe([]byte("before")[6:], dedupe))
		require.NoError(t, err)
		require.Equal(t, dedupe, got)
	}
}

func TestChangelogRefusesWhatIsForeign(t *testing.T) {
	t.Parallel()

	counter := counterRecord()
	key, value := counter.AppendCounterKey(nil), schema.AppendCounter(nil, counter)
	other := slices.Clone(value)
	other[5] ^= 1
	fine := counterRecord()
	fine.Decimals = usage.MaxDecimals + 1
	odd := schema.AppendDedupe(nil, &aggregate.DedupeRecord{})
	odd = append(odd[:len(odd)-1], 2, 0)
	badLast, err := schema.AppendLimit(nil, &aggregate.LimitRecord{Enforcement: contracts.Hard})
	require.NoError(t, err)
	badLast = append(badLast[:len(badLast)-1], 2, 4, '{', '}')

	tests := map[string]struct{ key, value []byte }{
		"a null":                    {key, nil},
		"text":                      {key, []byte(`{"client":"acme"}`)},
		"another mark":              {key, append([]byte{0xc3, 0x02}, value[2:]...)},
		"another schema":            {key, other},
		"a byte too many":           {key, append(slices.Clone(value), 0)},
		"another kind's key":        {[]byte(aggregate.PositionKey(1)), value},
		"no key of ours":            {[]byte(`["counters",1]`), value},
		"no key":                    {nil, value},
		"more decimals than any":    {key, schema.AppendCounter(nil, fine)},
		"half a hash":               {[]byte(`["dedupe",1,2,3]`), odd},
		"a last event that is none": {[]byte(`["limit","a"]`), badLast},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			var d schema.ChangelogDecoder
			_, err := d.Decode(tt.key, tt.value)
			require.ErrorIs(t, err, schema.ErrForeign)
		})
	}

	limit, err := schema.AppendLimit(nil, limitRecord())
	require.NoError(t, err)
	var d schema.ChangelogDecoder
	for _, r := range []struct {
		key   string
		value []byte
	}{
		{string(key), value},
		{limitRecord().Key(), limit},
		{aggregate.PositionKey(1), schema.AppendPosition(nil, &aggregate.PositionRecord{})},
		{`["dedupe",1,2,3]`, schema.AppendDedupe(nil, &aggregate.DedupeRecord{Hashes: make([]aggregate.Hash, 3)})},
	} {
		for cut := range r.value {
			_, err := d.Decode([]byte(r.key), r.value[:cut])
			require.ErrorIs(t, err, schema.ErrForeign, "%s cut at %d", r.key, cut)
		}
	}

	_, err = schema.AppendLimit(nil, &aggregate.LimitRecord{Enforcement: "firm"})
	require.ErrorContains(t, err, "firm")
}

func TestAppendCounterAllocatesNothing(t *testing.T) {
	r := counterRecord()
	r.Dimensions = map[string]string{"endpoint": "/v1/search", "region": "eu"}
	dst := make([]byte, 0, 512)
	require.Zero(t, testing.AllocsPerRun(100, func() { dst = schema.AppendCounter(dst[:0], r) }))
	require.NotEmpty(t, dst)
}

func TestKindOfKey(t *testing.T) {
	t.Parallel()

	require.Equal(t, aggregate.CounterKind, schema.KindOfKey(counterRecord().AppendCounterKey(nil)))
	require.Equal(t, aggregate.LimitKind, schema.KindOfKey([]byte(limitRecord().Key())))
	require.Equal(t, aggregate.PositionKind, schema.KindOfKey([]byte(aggregate.PositionKey(12))))
	require.Equal(t, aggregate.DedupeKind, schema.KindOfKey([]byte((&aggregate.DedupeRecord{}).Key())))
	for _, key := range []string{"", `["`, `["counter"`, `["counter",`, `["counters","x"]`, `{"counter",1]`, "acme"} {
		require.Empty(t, schema.KindOfKey([]byte(key)), key)
	}
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
