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

func TestChangelogIsSingleObjectEncoding(t *testing.T) {
	t.Parallel()

	counter := boundedCounter()
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
	limit.Last, limit.Standing, limit.Told, limit.Where = nil, nil, nil, nil
	value, err = schema.AppendLimit(nil, limit)
	require.NoError(t, err)
	checkAgainstHamba(t, hamba(t, schemaText(t, "limit")), genericLimit(limit, nil), value)

	position := &aggregate.PositionRecord{
		Position: 12, Time: usage.MinTime, Boundary: 3, BoundaryTime: 1_700_000_000_000,
		Meters:    []aggregate.MeterBirth{{Name: "m", Shape: 1<<63 + 5, Boundary: 7, Time: 9}},
		Contracts: 41, Settled: 40,
	}
	checkAgainstHamba(t, hamba(t, schemaText(t, "position")), map[string]any{
		"position": int64(12), "time": int64(math.MinInt64), "boundary": int64(3), "boundary_time": int64(1_700_000_000_000),
		"meters":    []any{map[string]any{"name": "m", "shape": int64(math.MinInt64 + 5), "boundary": int64(7), "time": int64(9)}},
		"contracts": int64(41), "settled": int64(40),
	}, schema.AppendPosition(nil, position))

	dedupe := &aggregate.DedupeRecord{Bucket: 60_000, Offset: 99, Piece: 1, Void: true, Hashes: []aggregate.Hash{{Hi: 1, Lo: 2}, {Hi: math.MaxUint64, Lo: 3}}}
	hashes := binary.BigEndian.AppendUint64(nil, 1)
	for _, n := range []uint64{2, math.MaxUint64, 3} {
		hashes = binary.BigEndian.AppendUint64(hashes, n)
	}
	checkAgainstHamba(t, hamba(t, schemaText(t, "dedupe")), map[string]any{
		"bucket": int64(60_000), "offset": int64(99), "piece": 1, "void": true, "hashes": hashes,
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
		return aggregate.Scope{Contract: text.Draw(t, "contract"), Kind: usage.Kind(text.Draw(t, "kind")), Timezone: text.Draw(t, "zone"), StartsAt: instant.Draw(t, "starts"), Where: text.Draw(t, "where"), Per: text.Draw(t, "per")}
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
					Cut: instant.Draw(t, "cut"),
				},
			}
			if set := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "distinct"); len(set) > 0 {
				want.Distinct = set
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
		oracle := hamba(t, schemaText(t, "limit"))
		codec, err := schema.NewEventCodec(schema.JSON, 0)
		require.NoError(t, err)
		rapid.Check(t, func(t *rapid.T) {
			want := limitRecord()
			want.Where, want.Place = dimensions.Draw(t, "where"), rapid.IntRange(0, math.MaxInt32).Draw(t, "place")
			want.Told = nil
			for range rapid.IntRange(0, 4).Draw(t, "told") {
				want.Told = append(want.Told, drawTelling(t))
			}
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
			last, err := codec.Append(nil, limitEvent())
			require.NoError(t, err)
			r := avro.NewReader(nil, 0).Reset(value[10:])
			require.Equal(t, genericLimit(want, genericOptional("string", want.Last, func(alerts.Event) any { return string(last) })), r.ReadNext(oracle))
			require.NoError(t, r.Error)
		})
	})

	position := &aggregate.PositionRecord{
		Position: 12, Time: usage.MinTime, Boundary: 3, BoundaryTime: 4,
		Meters:    []aggregate.MeterBirth{{Name: "m", Shape: 1<<63 + 5, Boundary: 7, Time: 9}, {Name: "n"}},
		Contracts: 1 << 40, Settled: 6,
	}
	got, err := d.Decode([]byte(aggregate.PositionKey(3)), schema.AppendPosition(nil, position))
	require.NoError(t, err)
	require.Equal(t, position, got)
	for _, hashes := range [][]aggregate.Hash{nil, {{Hi: 1, Lo: 2}}, slices.Repeat([]aggregate.Hash{{Hi: 3, Lo: math.MaxUint64}}, 1000)} {
		dedupe := &aggregate.DedupeRecord{Bucket: -5, Offset: 8, Piece: 2, Void: len(hashes) == 1, Hashes: hashes}
		got, err := d.Decode([]byte(dedupe.Key()), schema.AppendDedupe([]byte("before")[6:], dedupe))
		require.NoError(t, err)
		require.Equal(t, dedupe, got)
	}
}

// A set of distinct values is the caller's: nothing in a record refers to the
// bytes it was read from.
func TestDistinctIsACopy(t *testing.T) {
	t.Parallel()

	want := boundedCounter()
	value := schema.AppendCounter(nil, want)
	var d schema.ChangelogDecoder
	got, err := d.Decode(want.AppendCounterKey(nil), value)
	require.NoError(t, err)
	clear(value)
	require.Equal(t, want, got)

	want.Distinct = []byte{}
	got, err = d.Decode(want.AppendCounterKey(nil), schema.AppendCounter(nil, want))
	require.NoError(t, err)
	require.Nil(t, got.(*aggregate.CounterRecord).Distinct)
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
	badTold := cat(badLast[:len(badLast)-1], num(1<<40))
	badLast = append(badLast[:len(badLast)-2], 2, 4, '{', '}', 0)

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
		"voids among the counted":   {[]byte(`["dedupe",1,2,3]`), schema.AppendDedupe(nil, &aggregate.DedupeRecord{Void: true})},
		"counted among the voids":   {[]byte(`["void",1,2,3]`), schema.AppendDedupe(nil, &aggregate.DedupeRecord{})},
		"half a hash":               {[]byte(`["dedupe",1,2,3]`), odd},
		"more tellings than bytes":  {[]byte(`["limit","a"]`), badTold},
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
	bounded := boundedCounter()
	for _, r := range []struct {
		key   string
		value []byte
	}{
		{string(key), value},
		{string(bounded.AppendCounterKey(nil)), schema.AppendCounter(nil, bounded)},
		{limitRecord().Key(), limit},
		{aggregate.PositionKey(1), schema.AppendPosition(nil, &aggregate.PositionRecord{})},
		{`["dedupe",1,2,3]`, schema.AppendDedupe(nil, &aggregate.DedupeRecord{Hashes: make([]aggregate.Hash, 3)})},
		{`["void",1,2,3]`, schema.AppendDedupe(nil, &aggregate.DedupeRecord{Void: true, Hashes: make([]aggregate.Hash, 3)})},
	} {
		for cut := range r.value {
			_, err := d.Decode([]byte(r.key), r.value[:cut])
			require.ErrorIs(t, err, schema.ErrForeign, "%s cut at %d", r.key, cut)
		}
	}

	_, err = schema.AppendLimit(nil, &aggregate.LimitRecord{Enforcement: "firm"})
	require.ErrorContains(t, err, "firm")
	for _, told := range []aggregate.Telling{{Kind: alerts.Crossed}, {Cause: alerts.Cause{Kind: alerts.ByUsage}}} {
		_, err = schema.AppendLimit(nil, &aggregate.LimitRecord{Enforcement: contracts.Hard, Told: []aggregate.Telling{told}})
		require.ErrorContains(t, err, "does not exist")
	}
}

func TestAppendCounterAllocatesNothing(t *testing.T) {
	grouped := boundedCounter()
	grouped.Dimensions = map[string]string{"endpoint": "/v1/search", "region": "eu"}
	for _, r := range []*aggregate.CounterRecord{counterRecord(), grouped} {
		dst := make([]byte, 0, 512)
		require.Zero(t, testing.AllocsPerRun(100, func() { dst = schema.AppendCounter(dst[:0], r) }))
		require.NotEmpty(t, dst)
	}
}

func TestKindOfKey(t *testing.T) {
	t.Parallel()

	require.Equal(t, aggregate.CounterKind, schema.KindOfKey(counterRecord().AppendCounterKey(nil)))
	require.Equal(t, aggregate.LimitKind, schema.KindOfKey([]byte(limitRecord().Key())))
	require.Equal(t, aggregate.PositionKind, schema.KindOfKey([]byte(aggregate.PositionKey(12))))
	require.Equal(t, aggregate.DedupeKind, schema.KindOfKey([]byte((&aggregate.DedupeRecord{}).Key())))
	require.Equal(t, aggregate.VoidKind, schema.KindOfKey([]byte((&aggregate.DedupeRecord{Void: true}).Key())))
	for _, key := range []string{"", `["`, `["counter"`, `["counter",`, `["counters","x"]`, `{"counter",1]`, "acme"} {
		require.Empty(t, schema.KindOfKey([]byte(key)), key)
	}
}
