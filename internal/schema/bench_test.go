package schema_test

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/hamba/avro/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// schemas is a registry that has what it holds and nothing else.
type schemas map[uint32]schema.Schema

func (s schemas) SchemaByID(_ context.Context, id uint32) (schema.Schema, error) {
	found, ok := s[id]
	if !ok {
		return schema.Schema{}, schema.ErrUnknownSchema
	}
	return found, nil
}

// decoder returns a decoder of config, with text as schema 7.
func decoder(tb testing.TB, config schema.DecoderConfig, text string) *schema.Handle {
	tb.Helper()
	config.UnknownPause = 0
	d, err := schema.NewDecoder(config, schemas{7: {Text: text}}, zap.NewNop(), prometheus.NewRegistry())
	require.NoError(tb, err)
	return d.Handle()
}

// usageEvent is an event of meterd's own schema with the default mapping's
// fields and two properties, 135 bytes like those of the benchmarks.
func usageEvent(tb testing.TB) []byte {
	tb.Helper()
	s, err := avro.ParseWithCache(schema.UsageEventSchema, "", &avro.SchemaCache{})
	require.NoError(tb, err)
	body, err := avro.Marshal(s, map[string]any{
		"event_id": "01JD8Q6R7WZJ5M3K9T2V4X6Y8A", "client_id": "client-0001234", "meter": "api_calls", "quantity": int64(1234),
		"timestamp": int64(1763787600123), "source": "gateway-eu-1",
		"properties": map[string]any{"endpoint": "/v1/search", "region": "eu-central"},
	})
	require.NoError(tb, err)
	return append(schema.AppendHeader(nil, 7), body...)
}

func BenchmarkDecode(b *testing.B) {
	json := []byte(`{"event_id":"01JD8Q6R7WZJ5M3K9T2V4X6Y8A","client_id":"client-0001234","meter":"api_calls","quantity":1234,` +
		`"timestamp":1763787600123,"source":"gateway-eu-1","properties":{"endpoint":"/v1/search","region":"eu-central"}}`)
	// The same event without what nobody asked for, all of which is at its end:
	// the difference is what it costs to walk to the end of a record.
	wanted := record(`event_id "string"`, `client_id "string"`, `meter "string"`, `quantity "long"`, `timestamp "long"`)
	value := usageEvent(b)
	tail := len(str("gateway-eu-1")) + len(cat(num(-2), num(0), str("endpoint"), str("/v1/search"), str("region"), str("eu-central"), num(0)))
	asJSON := schema.DefaultDecoderConfig()
	asJSON.Format = schema.JSON
	fields, jsonFields := schema.DefaultDecoderConfig(), asJSON
	fields.Mapping.Fields = []string{"meter", "quantity", "properties.region", "properties.endpoint"}
	jsonFields.Mapping = fields.Mapping
	for _, bm := range []struct {
		name   string
		config schema.DecoderConfig
		schema string
		value  []byte
	}{
		{"avro", schema.DefaultDecoderConfig(), schema.UsageEventSchema, value},
		{"avro-wanted-only", schema.DefaultDecoderConfig(), wanted, value[:len(value)-tail]},
		{"avro-fields", fields, schema.UsageEventSchema, value},
		{"json", asJSON, schema.UsageEventSchema, json},
		{"json-fields", jsonFields, schema.UsageEventSchema, json},
	} {
		b.Run(bm.name, func(b *testing.B) {
			h := decoder(b, bm.config, bm.schema)
			require.NoError(b, h.Prepare(b.Context(), slices.Values([][]byte{bm.value})))
			var ev usage.Event
			b.SetBytes(int64(len(bm.value)))
			b.ReportAllocs()
			for b.Loop() {
				if reason, err := h.Decode(bm.value, 0, &ev); reason != "" || err != nil {
					b.Fatal(reason, err)
				}
			}
		})
	}
}

// BenchmarkPrepare is what a batch of 1000 records costs that has no new
// schema.
func BenchmarkPrepare(b *testing.B) {
	h := decoder(b, schema.DefaultDecoderConfig(), schema.UsageEventSchema)
	values := slices.Repeat([][]byte{usageEvent(b)}, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Prepare(b.Context(), slices.Values(values)); err != nil {
			b.Fatal(err)
		}
	}
}

func counterRecord() *aggregate.CounterRecord {
	return &aggregate.CounterRecord{
		Client: "client-0001234", Meter: "api_calls",
		Period:   usage.Period{ID: "2026-11", Start: 1761951600000, End: 1764543600000, Timezone: "Europe/Berlin"},
		Decimals: 6, Total: 1234567890, Events: 123456, First: 1761951600123, Last: 1763787600123,
		Seed: aggregate.Seed{State: aggregate.SeedExact, Usage: 1000000, Events: 100000, Boundary: 99999},
	}
}

func BenchmarkAppendCounter(b *testing.B) {
	plain := counterRecord()
	grouped := counterRecord()
	grouped.Dimensions = map[string]string{"endpoint": "/v1/search", "region": "eu-central"}
	distinct := counterRecord()
	distinct.Distinct = make([]byte, 8<<10)
	for _, bm := range []struct {
		name   string
		record *aggregate.CounterRecord
	}{{"plain", plain}, {"dimensions", grouped}, {"distinct", distinct}} {
		b.Run(bm.name, func(b *testing.B) {
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				dst = schema.AppendCounter(dst[:0], bm.record)
			}
			b.SetBytes(int64(len(dst)))
		})
	}
}

func BenchmarkChangelogDecode(b *testing.B) {
	r := counterRecord()
	key, value := r.AppendCounterKey(nil), schema.AppendCounter(nil, r)
	var d schema.ChangelogDecoder
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(key, value); err != nil {
			b.Fatal(err)
		}
	}
}

// floatBits is the body of an Avro double.
func floatBits(f float64) []byte {
	return binary.LittleEndian.AppendUint64(nil, math.Float64bits(f))
}
