package schema_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// shaper draws schemas, and values of them as Avro.
type shaper struct {
	t     *rapid.T
	names int
}

// shape is a schema with what writes a value of it.
type shape struct {
	schema string
	value  func() []byte
}

func (s *shaper) name() string {
	s.names++
	return fmt.Sprintf("T%d", s.names)
}

func (s *shaper) text() []byte {
	return str(rapid.SampledFrom([]string{
		"acme", "initech", "", "é", "12.50", "-1e3", "1e99", "2025-11-22T05:00:00.5Z", "\xff", strings.Repeat("x", 256), strings.Repeat("x", 257),
	}).Draw(s.t, "text"))
}

func (s *shaper) long() []byte { return num(rapid.Int64().Draw(s.t, "long")) }
func (s *shaper) double() []byte {
	return floatBits(rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), 0.1, 3})).Draw(s.t, "double"))
}

func (s *shaper) single() []byte {
	return binary.LittleEndian.AppendUint32(nil, math.Float32bits(rapid.Float32().Draw(s.t, "float")))
}

func (s *shaper) bytes(n int) []byte {
	return rapid.SliceOfN(rapid.Byte(), n, n).Draw(s.t, "bytes")
}

// scalar draws a type without parts. A null is only in unions, as the other
// decoder knows no other.
func (s *shaper) scalar() shape {
	name := s.name()
	of := func(schema string, value func() []byte) shape { return shape{schema, value} }
	return rapid.SampledFrom([]shape{
		of(`"boolean"`, func() []byte { return raw(rapid.ByteRange(0, 1).Draw(s.t, "boolean")) }),
		of(`"int"`, func() []byte { return num(int64(rapid.Int32().Draw(s.t, "int"))) }),
		of(`"long"`, s.long),
		of(`"float"`, s.single),
		of(`"double"`, s.double),
		of(`"string"`, s.text),
		of(`"bytes"`, s.text),
		of(fmt.Sprintf(`{"type":"fixed","name":%q,"size":3}`, name), func() []byte { return s.bytes(3) }),
		of(fmt.Sprintf(`{"type":"fixed","name":%q,"size":9,"logicalType":"decimal","precision":20,"scale":4}`, name), func() []byte { return s.bytes(9) }),
		of(`{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}`, func() []byte { return cat(num(2), s.bytes(2)) }),
		of(fmt.Sprintf(`{"type":"enum","name":%q,"symbols":["acme","x"]}`, name), func() []byte { return num(int64(rapid.IntRange(0, 1).Draw(s.t, "symbol"))) }),
		of(`{"type":"long","logicalType":"timestamp-millis"}`, s.long),
		of(`{"type":"long","logicalType":"timestamp-micros"}`, s.long),
		of(`{"type":"long","logicalType":"of-nobody"}`, s.long),
	}).Draw(s.t, "scalar")
}

// any draws a shape of whatever kind.
func (s *shaper) any(depth int) shape {
	kind := rapid.IntRange(0, 9).Draw(s.t, "kind")
	if depth == 0 {
		kind = 9
	}
	switch kind {
	case 0:
		items := s.any(depth - 1)
		return shape{`{"type":"array","items":` + items.schema + `}`, func() []byte { return s.blocks(items.value) }}
	case 1:
		values := s.any(depth - 1)
		return shape{`{"type":"map","values":` + values.schema + `}`, func() []byte {
			return s.blocks(func() []byte {
				return cat(str(rapid.SampledFrom([]string{"id", "t", "x"}).Draw(s.t, "key")), values.value())
			})
		}}
	case 2, 3:
		return s.record(s.name(), "id", "t", rapid.SampledFrom([]string{"y", "z"}).Draw(s.t, "field"))(depth - 1)
	case 4, 5:
		return s.union(depth - 1)
	}
	return s.scalar()
}

// record returns what draws a record of these fields.
func (s *shaper) record(name string, fieldNames ...string) func(depth int) shape {
	return func(depth int) shape {
		var values []func() []byte
		var parts []string
		for _, f := range rapid.Permutation(fieldNames).Draw(s.t, "fields") {
			inner := s.any(depth)
			if rapid.IntRange(0, 2).Draw(s.t, "usual") > 0 {
				inner = s.usual(f)
			}
			values = append(values, inner.value)
			parts = append(parts, fmt.Sprintf(`{"name":%q,"type":%s}`, f, inner.schema))
		}
		return shape{
			fmt.Sprintf(`{"type":"record","name":%q,"fields":[%s]}`, name, strings.Join(parts, ",")),
			func() (b []byte) {
				for _, value := range values {
					b = append(b, value()...)
				}
				return b
			},
		}
	}
}

// usual is a shape that a field of this name has in good schemas.
func (s *shaper) usual(name string) shape {
	switch name {
	case "q", "t":
		return shape{`"long"`, func() []byte { return num(rapid.Int64Range(-1e6, 1e6).Draw(s.t, "number")) }}
	case "v":
		return shape{`["null","boolean"]`, func() []byte { return num(0) }}
	case "b":
		return shape{`"boolean"`, func() []byte { return raw(rapid.ByteRange(0, 1).Draw(s.t, "boolean")) }}
	case "n":
		return s.record(s.name(), "id", "t", "x")(1)
	}
	return shape{`"string"`, func() []byte { return str("acme") }}
}

func (s *shaper) union(depth int) shape {
	branches := []shape{s.any(depth)}
	for strings.HasPrefix(branches[0].schema, "[") { // a union holds no union
		branches[0] = s.scalar()
	}
	null := shape{`"null"`, func() []byte { return nil }}
	branches = slices.Insert(branches, rapid.IntRange(0, 1).Draw(s.t, "null"), null)
	parts := make([]string, 0, len(branches))
	for _, b := range branches {
		parts = append(parts, b.schema)
	}
	return shape{"[" + strings.Join(parts, ",") + "]", func() []byte {
		i := rapid.IntRange(0, len(branches)-1).Draw(s.t, "branch")
		return cat(num(int64(i)), branches[i].value())
	}}
}

// blocks writes items in blocks, some with their size.
func (s *shaper) blocks(item func() []byte) (b []byte) {
	for range rapid.IntRange(0, 2).Draw(s.t, "blocks") {
		count := rapid.IntRange(1, 3).Draw(s.t, "count")
		var items []byte
		for range count {
			items = append(items, item()...)
		}
		if rapid.Bool().Draw(s.t, "sized") {
			b = cat(b, num(-int64(count)), num(int64(len(items))), items)
		} else {
			b = cat(b, num(int64(count)), items)
		}
	}
	return append(b, 0)
}

// Whatever the schema, a record means what it means to another decoder, and
// no part of it is a record.
func TestPlanAgainstAnotherDecoder(t *testing.T) {
	t.Parallel()

	mapping := schema.Mapping{ID: "n.id", Client: "c", Meter: "m", Quantity: "q", Time: "n.t", Void: "v"}
	mapping.Fields = []string{"a", "m", "n.id", "n.x", "q", "n", "a.id", "b", "b.t", "n.t", "a.y.id", "c.d", "v", "none"}
	seen := map[usage.Reason]int{}
	values := map[usage.ValueKind]int{}
	check := func(rt *rapid.T) {
		s := &shaper{t: rt}
		drawn := s.record("Top", "c", "m", "q", "v", "n", "a", "b")(3)
		parsed, err := avro.ParseWithCache(drawn.schema, "", &avro.SchemaCache{})
		require.NoError(rt, err, drawn.schema)
		config := schema.DefaultDecoderConfig()
		config.Mapping = mapping
		h := decoder(t, config, drawn.schema)
		for range 3 {
			body := drawn.value()
			r := avro.NewReader(nil, 0).Reset(body)
			tree := r.ReadNext(parsed)
			require.NoError(rt, r.Error, drawn.schema)
			got, detail := decode(t, h, onWire(body))
			require.Equal(rt, oracle(mapping, parsed, tree), got, "%s: %x of %s", detail, body, drawn.schema)
			seen[got.reason]++
			for _, v := range got.fields {
				values[v.Kind]++
			}

			cut := rapid.IntRange(0, max(0, len(body)-1)).Draw(rt, "cut")
			if len(body) > 0 {
				got, _ = decode(t, h, onWire(body[:cut]))
				require.Equal(rt, usage.Undecodable, got.reason, "cut at %d", cut)
			}
		}
	}
	reasons := []usage.Reason{"", usage.MissingField, usage.BadField}
	kinds := []usage.ValueKind{usage.NullValue, usage.TextValue, usage.NumberValue, usage.BooleanValue, usage.UnfitValue}
	all := func() bool {
		return !slices.ContainsFunc(reasons, func(r usage.Reason) bool { return seen[r] == 0 }) &&
			!slices.ContainsFunc(kinds, func(k usage.ValueKind) bool { return values[k] == 0 })
	}
	rapid.Check(t, check)
	for range 50 { // a short run has few draws: more of them, until nothing is left to chance
		if all() {
			break
		}
		rapid.Check(t, check)
	}
	require.True(t, all(), "something was never drawn: %v, %v", seen, values)
}
