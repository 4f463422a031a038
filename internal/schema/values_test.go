package schema_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// The functions below make the values that meters see.
func textOf(s string) usage.Value { return usage.Value{Kind: usage.TextValue, Text: []byte(s)} }

func boolOf(b bool) usage.Value { return usage.Value{Kind: usage.BooleanValue, True: b} }

func numberOf(units int64, scale uint8, f float64) usage.Value {
	return usage.Value{Kind: usage.NumberValue, Number: usage.Decimal{Units: units, Scale: scale}, Float: f}
}

// hugeOf is a number that no meter holds.
func hugeOf(f float64) usage.Value {
	return usage.Value{Kind: usage.NumberValue, Number: usage.Decimal{TooLarge: true}, Float: f}
}

var (
	null  = usage.Value{}
	unfit = usage.Value{Kind: usage.UnfitValue}
)

func TestFieldsOfAvro(t *testing.T) {
	t.Parallel()

	decimal := `{"type":"bytes","logicalType":"decimal","precision":40,"scale":2}`
	tests := map[string]struct {
		typ   string
		value []byte
		want  usage.Value
	}{
		"a string":                           {`"string"`, str("eu"), textOf("eu")},
		"an empty string is text":            {`"string"`, str(""), textOf("")},
		"a string that is not UTF-8":         {`"string"`, str("e\xff"), unfit},
		"a long one that is not UTF-8":       {`"string"`, str("europe-europe-\xc3"), unfit},
		"a string of other letters":          {`"string"`, str("europé"), textOf("europé")},
		"an enum is its symbol":              {`{"type":"enum","name":"E","symbols":["us","eu"]}`, num(1), textOf("eu")},
		"a null":                             {`"null"`, nil, null},
		"the null of a union":                {`["string","null"]`, num(1), null},
		"a union's value":                    {`["null","int","string"]`, cat(num(2), str("eu")), textOf("eu")},
		"true":                               {`"boolean"`, raw(1), boolOf(true)},
		"false":                              {`"boolean"`, raw(0), boolOf(false)},
		"an int":                             {`"int"`, num(-7), numberOf(-7, 0, -7)},
		"a date is a number of days":         {`{"type":"int","logicalType":"date"}`, num(9), numberOf(9, 0, 9)},
		"a long":                             {`"long"`, num(1 << 40), numberOf(1<<40, 0, 1<<40)},
		"more than a float holds":            {`"long"`, num(1<<53 + 1), numberOf(1<<53+1, 0, 1<<53)},
		"the least long":                     {`"long"`, num(math.MinInt64), hugeOf(math.MinInt64)},
		"the greatest long":                  {`"long"`, num(math.MaxInt64), numberOf(math.MaxInt64, 0, math.MaxInt64)},
		"timestamp-millis":                   {`{"type":"long","logicalType":"timestamp-millis"}`, num(1_999), numberOf(1_999, 0, 1_999)},
		"timestamp-micros are rounded down":  {`{"type":"long","logicalType":"timestamp-micros"}`, num(1_999), numberOf(1, 0, 1)},
		"also before 1970":                   {`{"type":"long","logicalType":"timestamp-micros"}`, num(-1), numberOf(-1, 0, -1)},
		"timestamp-nanos":                    {`{"type":"long","logicalType":"timestamp-nanos"}`, num(5_999_999), numberOf(5, 0, 5)},
		"a local timestamp":                  {`{"type":"long","logicalType":"local-timestamp-micros"}`, num(7_000), numberOf(7, 0, 7)},
		"a time of day is as it is":          {`{"type":"long","logicalType":"time-micros"}`, num(1_999), numberOf(1_999, 0, 1_999)},
		"a float is its shortest decimal":    {`"float"`, raw(0xcd, 0xcc, 0xcc, 0x3d), numberOf(1, 1, 0.1)},
		"a large float":                      {`"float"`, raw(0xca, 0xf2, 0x49, 0x71), hugeOf(1e30)},
		"a double":                           {`"double"`, floatBits(-0.375), numberOf(-375, 3, -0.375)},
		"a double finer than any meter":      {`"double"`, floatBits(1.0 / 3), hugeOf(1.0 / 3)},
		"a large double":                     {`"double"`, floatBits(1e300), hugeOf(1e300)},
		"minus zero is zero":                 {`"double"`, floatBits(math.Copysign(0, -1)), numberOf(0, 0, 0)},
		"NaN":                                {`"double"`, floatBits(math.NaN()), unfit},
		"infinity":                           {`"double"`, floatBits(math.Inf(-1)), unfit},
		"NaN in 32 bits":                     {`"float"`, raw(0, 0, 0xc0, 0x7f), unfit},
		"infinity in 32 bits":                {`"float"`, raw(0, 0, 0x80, 0x7f), unfit},
		"a decimal":                          {decimal, cat(num(2), raw(0xff, 0x85)), numberOf(-123, 2, -1.23)},
		"a decimal of many bytes":            {decimal, cat(num(11), slices.Repeat(raw(0xff), 9), raw(0xff, 0x38)), numberOf(-2, 0, -2)},
		"a decimal of 2^80":                  {decimal, cat(num(11), raw(1), make([]byte, 10)), hugeOf(math.Ldexp(1, 80) / 100)},
		"a decimal of -2^71":                 {decimal, cat(num(9), raw(0x80), make([]byte, 8)), hugeOf(-math.Ldexp(1, 71) / 100)},
		"a decimal beyond floats":            {decimal, cat(num(500), raw(1), make([]byte, 499)), hugeOf(math.Inf(1))},
		"a decimal far beyond floats":        {decimal, cat(num(5000), raw(1), make([]byte, 4999)), hugeOf(math.Inf(1))},
		"the same below zero":                {decimal, cat(num(5000), raw(0x80), make([]byte, 4999)), hugeOf(math.Inf(-1))},
		"a small one of more bytes":          {decimal, cat(num(5000), make([]byte, 4999), raw(100)), numberOf(1, 0, 1)},
		"a decimal of no bytes":              {decimal, num(0), unfit},
		"a decimal of endless scale":         {`{"type":"bytes","logicalType":"decimal","precision":2000000000,"scale":2000000000}`, cat(num(1), raw(1)), hugeOf(0)},
		"a decimal of exact halves":          {`{"type":"bytes","logicalType":"decimal","precision":40,"scale":20}`, cat(num(9), raw(4), raw(0x56, 0x39, 0x18, 0x24, 0x4f, 0x40, 0, 0)), numberOf(8, 1, 0.8)},
		"a fixed decimal":                    {`{"type":"fixed","name":"D","size":4,"logicalType":"decimal","precision":9,"scale":2}`, raw(0, 0, 0, 123), numberOf(123, 2, 1.23)},
		"bytes":                              {`"bytes"`, str("eu"), unfit},
		"a fixed":                            {`{"type":"fixed","name":"F","size":2}`, raw(1, 2), unfit},
		"an array":                           {`{"type":"array","items":"int"}`, num(0), unfit},
		"a map":                              {`{"type":"map","values":"int"}`, num(0), unfit},
		"a map that is null":                 {`["null",{"type":"map","values":"int"}]`, num(0), null},
		"a record":                           {`{"type":"record","name":"X","fields":[{"name":"y","type":"int"}]}`, num(1), unfit},
		"a record that is null":              {`["null",{"type":"record","name":"X","fields":[{"name":"y","type":"int"}]}]`, num(0), null},
		"a union that is another type there": {`["string",{"type":"array","items":"int"}]`, cat(num(1), num(0)), unfit},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			config := schema.DefaultDecoderConfig()
			config.Mapping = schema.Mapping{Client: "c", Fields: []string{"x", "none", "c", "x.none"}}
			h := decoder(t, config, record(`c "string"`, "x "+tt.typ))
			got, detail := decode(t, h, onWire(cat(str("acme"), tt.value)))
			require.Empty(t, detail)
			require.Equal(t, []usage.Value{tt.want, null, textOf("acme"), null}, got.fields)
		})
	}
}

func TestFieldsOfJSON(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		value string
		want  usage.Value
	}{
		"a string":                     {`"eu"`, textOf("eu")},
		"an empty string":              {`""`, textOf("")},
		"escapes":                      {`"\u0065\u0075\n"`, textOf("eu\n")},
		"half a surrogate pair":        {`"eu\ud800"`, unfit},
		"bytes that are not UTF-8":     {"\"\xff\"", unfit},
		"also beside escapes":          {"\"\\n\xff\"", unfit},
		"a decimal string is text":     {`"12.5"`, textOf("12.5")},
		"an integer":                   {`-12`, numberOf(-12, 0, -12)},
		"a fraction":                   {`0.1`, numberOf(1, 1, 0.1)},
		"an exponent":                  {`1.5e3`, numberOf(1500, 0, 1500)},
		"more digits than a float has": {`9007199254740993`, numberOf(9007199254740993, 0, 9007199254740992)},
		"with a fraction":              {`900719925474099.31`, numberOf(90071992547409931, 2, 900719925474099.31)},
		"finer than any meter":         {`0.12345678901234567`, hugeOf(0.12345678901234567)},
		"larger than any meter":        {`123456789012345678901234567890`, hugeOf(123456789012345678901234567890)},
		"longer than anybody looks at": {strings.Repeat("9", 100), hugeOf(1e100)},
		"larger than a float":          {`-1e400`, hugeOf(math.Inf(-1))},
		"an endless exponent":          {`1e99999999`, hugeOf(math.Inf(1))},
		"true":                         {`true`, boolOf(true)},
		"false":                        {`false`, boolOf(false)},
		"null":                         {`null`, null},
		"an object":                    {`{"y":1}`, unfit},
		"an array":                     {`["eu"]`, unfit},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			h := decoder(t, asJSON(schema.Mapping{Client: "c", Fields: []string{"a.x", "c", "a.none", "a"}}), "")
			got, detail := decode(t, h, fmt.Appendf(nil, `{"a":{"x":1,"none":true},"c":"acme","a":{"x":%s}}`, tt.value))
			require.Empty(t, detail)
			require.Equal(t, []usage.Value{tt.want, textOf("acme"), null, unfit}, got.fields, "the last of equal names counts")
		})
	}
}

// One value can be a mapped field and what several meters look at.
func TestFieldsShareWithMapped(t *testing.T) {
	t.Parallel()

	config := schema.DefaultDecoderConfig()
	config.Mapping.Fields = []string{"meter", "properties.region", "timestamp", "properties", "quantity", "properties.endpoint", "meter"}
	got, detail := decode(t, decoder(t, config, schema.UsageEventSchema), usageEvent(t))
	require.Empty(t, detail)
	require.Equal(t, decoded{
		id: "01JD8Q6R7WZJ5M3K9T2V4X6Y8A", client: "client-0001234", meter: "api_calls", count: "1234", time: 1763787600123,
		fields: []usage.Value{
			textOf("api_calls"), textOf("eu-central"), numberOf(1763787600123, 0, 1763787600123), unfit,
			numberOf(1234, 0, 1234), textOf("/v1/search"), textOf("api_calls"),
		},
	}, got)
}

// What one record has does not show in the next, which may be of another
// schema; and a bad field is bad only where it is mapped.
func TestFieldsAreOfTheirRecord(t *testing.T) {
	t.Parallel()

	// As many paths as there may be: their slots are beyond those of the fields.
	paths := make([]string, 0, schema.MaxFields)
	for i := range cap(paths) {
		paths = append(paths, fmt.Sprintf("p.k%d", i))
	}
	config := schema.DefaultDecoderConfig()
	config.Mapping, config.UnknownPause = mapped, 0
	config.Mapping.Fields = paths
	d, err := schema.NewDecoder(config, schemas{
		7: {Text: record(`c "string"`, `m "string"`, `p {"type":"map","values":"string"}`)},
		8: {Text: record(`m "string"`, `c "string"`, `p {"type":"map","values":["null","double"]}`)},
	}, zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	h := d.Handle()

	full := cat(str("acme"), str("calls"), num(int64(len(paths))))
	for i := range paths {
		full = cat(full, str(fmt.Sprintf("k%d", i)), str(fmt.Sprint(i)))
	}
	first, detail := decode(t, h, onWire(append(full, 0)))
	require.Empty(t, detail)
	for i := range paths {
		require.Equal(t, textOf(fmt.Sprint(i)), first.fields[i])
	}
	body := cat(str("calls"), str("acme"), num(2), str("k63"), num(1), floatBits(math.NaN()), str("k1"), num(1), floatBits(0.5), num(0))
	second, detail := decode(t, h, append(schema.AppendHeader(nil, 8), body...))
	require.Empty(t, detail)
	want := make([]usage.Value, len(paths))
	want[1], want[63] = numberOf(5, 1, 0.5), unfit
	require.Equal(t, want, second.fields)

	// Of an event as of a void, none of them is required.
	config.Mapping.Fields = []string{"region"}
	got, detail := decode(t, decoder(t, config, record(`c "string"`, `m "string"`, `id "string"`, `q "long"`, `t "long"`, `v "boolean"`)),
		onWire(cat(str("acme"), str("m"), str("e"), num(3), num(4), raw(1))))
	require.Empty(t, detail)
	require.Equal(t, decoded{client: "acme", meter: "m", id: "e", count: "3", time: 4, void: true, fields: []usage.Value{null}}, got)
}

func TestDecodeAllocatesNothing(t *testing.T) {
	json := []byte(`{"event_id":"e","client_id":"client-0001234","meter":"a","quantity":12345678901234567.25,"timestamp":1763787600123,` +
		`"properties":{"endpoint":"\u002fv1\u002fsearch","region":"eu","share":0.123456789012}}`)
	paths := []string{"meter", "quantity", "properties.region", "properties.endpoint", "properties.share", "properties", "none"}
	for name, tt := range map[string]struct {
		format schema.Format
		value  []byte
		fields []string
	}{
		"avro":             {schema.Avro, usageEvent(t), nil},
		"avro with fields": {schema.Avro, usageEvent(t), paths},
		"json":             {schema.JSON, json, nil},
		"json with fields": {schema.JSON, json, paths},
	} {
		t.Run(name, func(t *testing.T) {
			config := schema.DefaultDecoderConfig()
			config.Format, config.Mapping.Fields = tt.format, tt.fields
			h := decoder(t, config, schema.UsageEventSchema)
			require.NoError(t, h.Prepare(t.Context(), slices.Values([][]byte{tt.value})))
			ev := usage.Event{Fields: make([]usage.Value, 3)}
			require.Zero(t, testing.AllocsPerRun(100, func() {
				if reason, err := h.Decode(tt.value, recordTime, &ev); reason != "" {
					t.Error(err)
				}
			}))
			require.Equal(t, "client-0001234", string(ev.Client))
			require.Len(t, ev.Fields, len(tt.fields))
			require.Equal(t, tt.fields == nil, ev.Fields == nil)
		})
	}
}
