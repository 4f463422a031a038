package schema_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// recordTime is the timestamp of every record in these tests.
const recordTime usage.Time = 1_763_787_600_000

// mapped is a mapping of short names.
var mapped = schema.Mapping{ID: "id", Client: "c", Meter: "m", Quantity: "q", Time: "t", Void: "v"}

// decoded is what became of a record, comparable.
type decoded struct {
	reason                   usage.Reason
	id, client, meter, count string
	time                     usage.Time
	void                     bool
	fields                   []usage.Value
}

// decode decodes value once, after Prepare.
func decode(tb testing.TB, h *schema.Handle, value []byte) (decoded, string) {
	tb.Helper()
	require.NoError(tb, h.Prepare(tb.Context(), slices.Values([][]byte{value})))
	var ev usage.Event
	reason, err := h.Decode(value, recordTime, &ev)
	if reason != "" {
		require.Error(tb, err)
		return decoded{reason: reason}, err.Error()
	}
	require.NoError(tb, err)
	return decoded{
		id: string(ev.ID), client: string(ev.Client), meter: string(ev.Meter), count: ev.Quantity.String(), time: ev.Time, void: ev.Void,
		fields: settled(ev.Fields),
	}, ""
}

// settled returns a copy of values without what means nothing.
func settled(values []usage.Value) []usage.Value {
	values = slices.Clone(values)
	for i := range values {
		v := &values[i]
		if v.Text = slices.Clone(v.Text); v.Number.TooLarge {
			v.Number = usage.Decimal{TooLarge: true}
		}
	}
	return values
}

// record returns the schema of a record with these fields, each "name type".
func record(fieldTypes ...string) string {
	parts := make([]string, 0, len(fieldTypes))
	for _, f := range fieldTypes {
		name, typ, _ := strings.Cut(f, " ")
		parts = append(parts, fmt.Sprintf(`{"name":%q,"type":%s}`, name, typ))
	}
	return `{"type":"record","name":"R","fields":[` + strings.Join(parts, ",") + `]}`
}

// str, num and cat write Avro.
func str(s string) []byte  { return append(num(int64(len(s))), s...) }
func num(n int64) []byte   { return binary.AppendVarint(nil, n) }
func raw(b ...byte) []byte { return b }
func cat(parts ...[]byte) []byte {
	return slices.Concat(parts...)
}

func onWire(body []byte) []byte { return append(schema.AppendHeader(nil, 7), body...) }

func TestPlanReadsEveryShape(t *testing.T) {
	t.Parallel()

	one := decoded{client: "acme", count: "1", time: recordTime}
	with := func(change func(*decoded)) decoded {
		d := one
		change(&d)
		return d
	}
	quantity := func(text string) decoded { return with(func(d *decoded) { d.count = text }) }
	at := func(ms usage.Time) decoded { return with(func(d *decoded) { d.time = ms }) }
	client := `c "string"`
	acme := str("acme")
	mapping := schema.Mapping{ID: "id", Client: "c", Quantity: "q", Time: "t", Void: "v"}
	deep := schema.Mapping{Client: "a.b.c"}

	tests := map[string]struct {
		mapping schema.Mapping
		schema  string
		body    []byte
		want    decoded
	}{
		"only the client":                         {mapping, record(client), acme, one},
		"an id":                                   {mapping, record(client, `id "string"`), cat(acme, str("e-1")), with(func(d *decoded) { d.id = "e-1" })},
		"a null id is none":                       {mapping, record(client, `id ["null","string"]`), cat(acme, num(0)), one},
		"an empty id is none":                     {mapping, record(client, `id "string"`), cat(acme, str("")), one},
		"an enum is its symbol":                   {mapping, record(`c {"type":"enum","name":"E","symbols":["initech","acme"]}`), num(1), one},
		"null first":                              {mapping, record(`c ["null","string"]`), cat(num(1), acme), one},
		"null second":                             {mapping, record(`c ["string","null"]`), cat(num(0), acme), one},
		"a union of several":                      {mapping, record(`c ["int","null",{"type":"array","items":"int"},"string"]`), cat(num(3), acme), one},
		"an int":                                  {mapping, record(client, `q "int"`), cat(acme, num(-5)), quantity("-5")},
		"a long":                                  {mapping, record(client, `q "long"`), cat(acme, num(1<<40)), quantity("1099511627776")},
		"the least long fits no meter":            {mapping, record(client, `q "long"`), cat(acme, num(math.MinInt64)), quantity("(too large)")},
		"a float is its shortest decimal":         {mapping, record(client, `q "float"`), cat(acme, raw(0xcd, 0xcc, 0xcc, 0x3d)), quantity("0.1")},
		"a double is its shortest decimal":        {mapping, record(client, `q "double"`), cat(acme, floatBits(0.3)), quantity("0.3")},
		"minus zero is zero":                      {mapping, record(client, `q "double"`), cat(acme, floatBits(math.Copysign(0, -1))), quantity("0")},
		"a decimal string":                        {mapping, record(client, `q "string"`), cat(acme, str("-1.250")), quantity("-1.25")},
		"bytes with the logical type decimal":     {mapping, record(client, `q {"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`), cat(acme, num(2), raw(0xff, 0x85)), quantity("-1.23")},
		"a fixed decimal":                         {mapping, record(client, `q {"type":"fixed","name":"D","size":4,"logicalType":"decimal","precision":9,"scale":2}`), cat(acme, raw(0, 0, 0, 123)), quantity("1.23")},
		"a decimal of endless scale":              {mapping, record(client, `q {"type":"bytes","logicalType":"decimal","precision":2000000000,"scale":2000000000}`), cat(acme, num(1), raw(1)), quantity("(too large)")},
		"a null quantity is one":                  {mapping, record(client, `q ["null","long"]`), cat(acme, num(0)), one},
		"a plain long is milliseconds":            {mapping, record(client, `t "long"`), cat(acme, num(1_763_787_600_123)), at(1_763_787_600_123)},
		"an unknown logical type is none":         {mapping, record(client, `t {"type":"long","logicalType":"x"}`), cat(acme, num(7)), at(7)},
		"timestamp-millis":                        {mapping, record(client, `t {"type":"long","logicalType":"timestamp-millis"}`), cat(acme, num(-1)), at(-1)},
		"timestamp-micros are rounded down":       {mapping, record(client, `t {"type":"long","logicalType":"timestamp-micros"}`), cat(acme, num(1_999)), at(1)},
		"also before 1970":                        {mapping, record(client, `t {"type":"long","logicalType":"timestamp-micros"}`), cat(acme, num(-1)), at(-1)},
		"timestamp-nanos":                         {mapping, record(client, `t {"type":"long","logicalType":"timestamp-nanos"}`), cat(acme, num(5_999_999)), at(5)},
		"local-timestamp-millis":                  {mapping, record(client, `t {"type":"long","logicalType":"local-timestamp-millis"}`), cat(acme, num(6)), at(6)},
		"local-timestamp-micros":                  {mapping, record(client, `t {"type":"long","logicalType":"local-timestamp-micros"}`), cat(acme, num(7_000)), at(7)},
		"local-timestamp-nanos":                   {mapping, record(client, `t {"type":"long","logicalType":"local-timestamp-nanos"}`), cat(acme, num(8_000_000)), at(8)},
		"RFC 3339":                                {mapping, record(client, `t "string"`), cat(acme, str("2025-11-22T06:00:00.1239+01:00")), at(1_763_787_600_123)},
		"a time far ahead is for the clock":       {mapping, record(client, `t "long"`), cat(acme, num(math.MaxInt64)), at(usage.MaxTime - 1)},
		"a null time is the record's":             {mapping, record(client, `t ["null","long"]`), cat(acme, num(0)), one},
		"a null void is false":                    {mapping, record(client, `v ["null","boolean"]`), cat(acme, num(0)), one},
		"false is no void":                        {mapping, record(client, `v "boolean"`), cat(acme, raw(0)), one},
		"a void with all it needs":                {mapping, record(client, `id "string"`, `q "long"`, `t "long"`, `v "boolean"`), cat(acme, str("e"), num(3), num(9), raw(1)), decoded{client: "acme", id: "e", count: "3", time: 9, void: true}},
		"two fields of one path":                  {schema.Mapping{Client: "c", ID: "c"}, record(client), acme, with(func(d *decoded) { d.id = "acme" })},
		"a path into records":                     {deep, record(`a {"type":"record","name":"A","fields":[{"name":"x","type":"int"},{"name":"b","type":{"type":"record","name":"B","fields":[{"name":"c","type":"string"},{"name":"y","type":"int"}]}}]}`), cat(num(1), acme, num(2)), one},
		"a path into maps":                        {deep, record(`a {"type":"map","values":{"type":"map","values":"string"}}`), cat(num(1), str("b"), num(2), str("x"), str("y"), str("c"), acme, num(0), num(0)), one},
		"a map in sized blocks":                   {schema.Mapping{Client: "a.c"}, record(`a {"type":"map","values":"string"}`), cat(num(-1), num(4), str("x"), str("y"), num(-1), num(7), str("c"), acme, num(0)), one},
		"the last of equal keys":                  {schema.Mapping{Client: "a.c"}, record(`a {"type":"map","values":"string"}`), cat(num(2), str("c"), str("initech"), str("c"), acme, num(0)), one},
		"a path through a union":                  {schema.Mapping{Client: "a.c"}, record(`a ["null",{"type":"record","name":"A","fields":[{"name":"x","type":"int"},{"name":"c","type":"string"}]},{"type":"map","values":"string"}]`), cat(num(2), num(1), str("c"), acme, num(0)), one},
		"a map of unions":                         {schema.Mapping{Client: "a.c"}, record(`a {"type":"map","values":["null","int","string"]}`), cat(num(3), str("x"), num(0), str("y"), num(1), num(9), str("c"), num(2), acme, num(0)), one},
		"everything that can be skipped":          {mapping, record(`a "int"`, `b "boolean"`, `d "float"`, `e "double"`, `f "bytes"`, `g {"type":"fixed","name":"F","size":3}`, `h {"type":"enum","name":"E","symbols":["x"]}`, `i {"type":"array","items":"string"}`, `j {"type":"map","values":"int"}`, `k "null"`, `l ["null","long"]`, client), cat(num(-3), raw(1), raw(1, 2, 3, 4), floatBits(1), num(2), raw(7, 7), raw(1, 2, 3), num(0), num(1), str("x"), num(0), num(-1), num(3), str("k"), num(4), num(0), num(1), num(5), acme), one},
		"a type that holds itself":                {mapping, record(`n ["null",{"type":"record","name":"N","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","N"]}]}]`, client), cat(num(1), num(1), num(1), num(2), num(1), num(3), num(0), acme), one},
		"wanted within a type that holds itself":  {schema.Mapping{Client: "n.next.c"}, record(`n {"type":"record","name":"N","fields":[{"name":"c","type":"string"},{"name":"next","type":["null","N"]}]}`), cat(str("x"), num(1), acme, num(1), str("y"), num(0)), one},
		"any number of items that take no bytes":  {mapping, record(`z {"type":"array","items":"null"}`, client), cat(num(1<<50), num(0), acme), one},
		"also within records":                     {mapping, record(`z {"type":"array","items":{"type":"record","name":"Z","fields":[{"name":"n","type":"null"},{"name":"f","type":{"type":"fixed","name":"F0","size":0}}]}}`, client), cat(num(-(1 << 50)), num(0), num(0), acme), one},
		"a length of several bytes":               {mapping, record(client), cat(raw(0x88, 0x80, 0x00), []byte("acme")), one},
		"more than there is in the path: nothing": {schema.Mapping{Client: "c", Quantity: "c.d.e"}, record(client), acme, one},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			config := schema.DefaultDecoderConfig()
			config.Mapping = tt.mapping
			h := decoder(t, config, tt.schema)
			got, detail := decode(t, h, onWire(tt.body))
			require.Empty(t, detail)
			require.Equal(t, tt.want, got)

			for cut := range tt.body {
				got, _ := decode(t, h, onWire(tt.body[:cut]))
				require.Equal(t, usage.Undecodable, got.reason, "cut at %d", cut)
			}
			got, _ = decode(t, h, onWire(append(slices.Clone(tt.body), 0)))
			require.Equal(t, usage.Undecodable, got.reason, "a byte too many")
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()

	client, acme := `c "string"`, str("acme")
	long := strings.Repeat("x", 257)
	tests := map[string]struct {
		schema string
		body   []byte
		reason usage.Reason
		detail string
	}{
		"a null client":                    {record(`c ["null","string"]`, `m "string"`), cat(num(0), str("m")), usage.MissingField, "client"},
		"an empty client":                  {record(client, `m "string"`), cat(str(""), str("m")), usage.MissingField, "client"},
		"a client that is not there":       {record(`m "string"`), str("m"), usage.MissingField, "client"},
		"a meter that is not there":        {record(client), acme, usage.MissingField, "meter"},
		"a null meter":                     {record(client, `m ["null","string"]`), cat(acme, num(0)), usage.MissingField, "meter"},
		"missing before bad":               {record(client, `m "string"`, `q "double"`), cat(acme, str(""), floatBits(math.NaN())), usage.MissingField, "meter"},
		"a void without id":                {record(client, `m "string"`, `q "long"`, `t "long"`, `v "boolean"`), cat(acme, str("m"), num(1), num(1), raw(1)), usage.MissingField, "id"},
		"a void without quantity":          {record(client, `m "string"`, `id "string"`, `t "long"`, `v "boolean"`), cat(acme, str("m"), str("e"), num(1), raw(1)), usage.MissingField, "quantity"},
		"a void without time":              {record(client, `m "string"`, `id "string"`, `q "long"`, `t ["null","long"]`, `v "boolean"`), cat(acme, str("m"), str("e"), num(1), num(0), raw(1)), usage.MissingField, "time"},
		"a client that is an array":        {record(`c {"type":"array","items":"int"}`, `m "string"`), cat(num(0), str("m")), usage.BadField, "client: an array is no string"},
		"a client that is a map":           {record(`c {"type":"map","values":"int"}`, `m "string"`), cat(num(0), str("m")), usage.BadField, "client: a map is no string"},
		"a client that is a record":        {record(`c {"type":"record","name":"C","fields":[{"name":"x","type":"int"}]}`, `m "string"`), cat(num(1), str("m")), usage.BadField, "client: a record is no string"},
		"a client that is bytes":           {record(`c "bytes"`, `m "string"`), cat(acme, str("m")), usage.BadField, "client: bytes is no string"},
		"a client that is a fixed":         {record(`c {"type":"fixed","name":"F","size":4}`, `m "string"`), cat([]byte("acme"), str("m")), usage.BadField, "client: a fixed is no string"},
		"a client that is a number":        {record(`c "long"`, `m "string"`), cat(num(7), str("m")), usage.BadField, "client"},
		"a client that is a boolean":       {record(`c "boolean"`, `m "string"`), cat(raw(1), str("m")), usage.BadField, "client: a boolean is no string"},
		"the wrong branch":                 {record(`c ["string","int"]`, `m "string"`), cat(num(1), num(7), str("m")), usage.BadField, "client"},
		"a client that is not UTF-8":       {record(client, `m "string"`), cat(str("ac\xffme"), str("m")), usage.BadField, "client: not UTF-8"},
		"a long one that is not UTF-8":     {record(client, `m "string"`), cat(str("acme-acme-acme-acm\xc3"), str("m")), usage.BadField, "client: not UTF-8"},
		"a meter that is not UTF-8":        {record(client, `m "string"`), cat(acme, str("\xc0\x80")), usage.BadField, "meter: not UTF-8"},
		"an id that is not UTF-8":          {record(client, `m "string"`, `id "string"`), cat(acme, str("m"), str("\xed\xa0\x80")), usage.BadField, "id: not UTF-8"},
		"a client that is too long":        {record(client, `m "string"`), cat(str(long), str("m")), usage.BadField, "257 bytes"},
		"an id that is too long":           {record(client, `m "string"`, `id "string"`), cat(acme, str("m"), str(long)), usage.BadField, "257 bytes"},
		"NaN":                              {record(client, `m "string"`, `q "double"`), cat(acme, str("m"), floatBits(math.NaN())), usage.BadField, "quantity"},
		"infinity":                         {record(client, `m "string"`, `q "double"`), cat(acme, str("m"), floatBits(math.Inf(-1))), usage.BadField, "quantity"},
		"infinity in 32 bits":              {record(client, `m "string"`, `q "float"`), cat(acme, str("m"), raw(0, 0, 0x80, 0x7f)), usage.BadField, "quantity"},
		"a quantity that is no number":     {record(client, `m "string"`, `q "string"`), cat(acme, str("m"), str("many")), usage.BadField, "quantity: not a decimal"},
		"a quantity that is not UTF-8":     {record(client, `m "string"`, `q "string"`), cat(acme, str("m"), str("\xff")), usage.BadField, "quantity: not UTF-8"},
		"a quantity of plain bytes":        {record(client, `m "string"`, `q "bytes"`), cat(acme, str("m"), str("1")), usage.BadField, "quantity: bytes is no number"},
		"a quantity that is a boolean":     {record(client, `m "string"`, `q "boolean"`), cat(acme, str("m"), raw(1)), usage.BadField, "quantity"},
		"a quantity that is an enum":       {record(client, `m "string"`, `q {"type":"enum","name":"E","symbols":["x"]}`), cat(acme, str("m"), num(0)), usage.BadField, "quantity: an enum is no number"},
		"a decimal of no bytes":            {record(client, `m "string"`, `q {"type":"bytes","logicalType":"decimal","precision":9}`), cat(acme, str("m"), str("")), usage.BadField, "quantity"},
		"a time that is no RFC 3339":       {record(client, `m "string"`, `t "string"`), cat(acme, str("m"), str("yesterday")), usage.BadField, "time: not RFC 3339"},
		"a time that is not UTF-8":         {record(client, `m "string"`, `t "string"`), cat(acme, str("m"), str("\xff")), usage.BadField, "time: not UTF-8"},
		"a time before the year 1":         {record(client, `m "string"`, `t "long"`), cat(acme, str("m"), num(math.MinInt64)), usage.BadField, "time: before the year 1"},
		"an int is no time":                {record(client, `m "string"`, `t "int"`), cat(acme, str("m"), num(5)), usage.BadField, "time"},
		"a time of day is no time":         {record(client, `m "string"`, `t {"type":"long","logicalType":"time-micros"}`), cat(acme, str("m"), num(5)), usage.BadField, "time"},
		"a double is no time":              {record(client, `m "string"`, `t "double"`), cat(acme, str("m"), floatBits(5)), usage.BadField, "time: a number is no time"},
		"a void that is a string":          {record(client, `m "string"`, `v "string"`), cat(acme, str("m"), str("true")), usage.BadField, "void: a string is no boolean"},
		"a length past the end":            {record(client, `m "string"`), cat(num(100), str("m")), usage.Undecodable, "length"},
		"a negative length":                {record(client, `m "string"`), cat(num(-1), str("m")), usage.Undecodable, "length"},
		"a length of 2^31":                 {record(client, `m "string"`), cat(num(1<<31), str("m")), usage.Undecodable, "length"},
		"a length of 2^63":                 {record(client, `m "string"`), cat(num(math.MaxInt64), str("m")), usage.Undecodable, "length"},
		"a number of eleven bytes":         {record(client, `m "string"`, `q "long"`), cat(acme, str("m"), slices.Repeat(raw(0x80), 10), raw(0)), usage.Undecodable, "number"},
		"a number of more than 64 bits":    {record(client, `m "string"`, `q "long"`), cat(acme, str("m"), slices.Repeat(raw(0xff), 9), raw(2)), usage.Undecodable, "number"},
		"an int of more than 32 bits":      {record(client, `m "string"`, `q "int"`), cat(acme, str("m"), num(1<<31)), usage.Undecodable, "32 bits"},
		"an int of six bytes":              {record(client, `m "string"`, `q "int"`), cat(acme, str("m"), slices.Repeat(raw(0x80), 5), raw(0)), usage.Undecodable, "32 bits"},
		"no such branch":                   {record(`c ["null","string"]`, `m "string"`), cat(num(2), str("m")), usage.Undecodable, "branch"},
		"a negative branch":                {record(`c ["null","string"]`, `m "string"`), cat(num(-1), str("m")), usage.Undecodable, "branch"},
		"no such symbol":                   {record(`c {"type":"enum","name":"E","symbols":["a"]}`, `m "string"`), cat(num(1), str("m")), usage.Undecodable, "symbol"},
		"no such symbol, unwanted":         {record(`x {"type":"enum","name":"E","symbols":["a"]}`, `m "string"`), cat(num(1), str("m")), usage.Undecodable, "symbol"},
		"a boolean of 2":                   {record(client, `m "string"`, `v "boolean"`), cat(acme, str("m"), raw(2)), usage.Undecodable, "boolean"},
		"a count past the end":             {record(client, `m "string"`, `x {"type":"array","items":"int"}`), cat(acme, str("m"), num(1<<33), num(0)), usage.Undecodable, "count"},
		"the least count":                  {record(client, `m "string"`, `x {"type":"array","items":"null"}`), cat(acme, str("m"), num(math.MinInt64), num(0), num(0)), usage.Undecodable, "count"},
		"a map's count past the end":       {record(client, `m "string"`, `x {"type":"map","values":"null"}`), cat(acme, str("m"), num(1<<33), num(0)), usage.Undecodable, "count"},
		"a negative block size":            {record(client, `m "string"`, `x {"type":"array","items":"int"}`), cat(acme, str("m"), num(-1), num(-1), num(0), num(0)), usage.Undecodable, "block"},
		"a block size past the end":        {record(client, `m "string"`, `x {"type":"array","items":"int"}`), cat(acme, str("m"), num(-1), num(99), num(0), num(0)), usage.Undecodable, "block"},
		"a block size that does not match": {record(client, `m "string"`, `x {"type":"array","items":"int"}`), cat(acme, str("m"), num(-1), num(2), num(0), num(0)), usage.Undecodable, "block"},
		"a map's that does not match":      {record(client, `m "string"`, `x {"type":"map","values":"int"}`), cat(acme, str("m"), num(-1), num(4), str("k"), num(0), num(0), num(0)), usage.Undecodable, "block"},
		"a record without end":             {record(client, `m "string"`, `x {"type":"record","name":"N","fields":[{"name":"n","type":"N"}]}`), cat(acme, str("m")), usage.Undecodable, "nested too deeply"},
		"bytes nested without end":         {record(client, `m "string"`, `x {"type":"record","name":"N","fields":[{"name":"n","type":{"type":"array","items":"N"}}]}`), cat(acme, str("m"), slices.Repeat(num(1), 2000), slices.Repeat(num(0), 2000)), usage.Undecodable, "nested too deeply"},
		"a fixed of more bytes than any":   {record(client, `m "string"`, `x {"type":"fixed","name":"F","size":9223372036854775807}`), cat(acme, str("m")), usage.Undecodable, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			config := schema.DefaultDecoderConfig()
			config.Mapping = mapped
			got, detail := decode(t, decoder(t, config, tt.schema), onWire(tt.body))
			require.Equal(t, tt.reason, got.reason, detail)
			require.Contains(t, detail, tt.detail)
			require.NotContains(t, detail, "acme", "records' content is for their owner")
		})
	}
}

// Schemas that cannot be used make their records undecodable, and never hurt.
func TestUnusableSchemas(t *testing.T) {
	t.Parallel()

	// Each record holds the next one twice.
	chain := `{"type":"record","name":"R0","fields":[]}`
	for i := range 40 {
		chain = fmt.Sprintf(`{"type":"record","name":"R%d","fields":[{"name":"a","type":%s},{"name":"b","type":"R%d"}]}`, i+1, chain, i)
	}
	bush := `"null"`
	for i := range 200 {
		bush += fmt.Sprintf(`,{"type":"record","name":"B%d","fields":[{"name":"a","type":%s}]}`, i, `"null"`)
	}
	wide := `{"type":"record","name":"W","fields":[{"name":"a","type":["null"`
	for i := range 60 {
		wide += fmt.Sprintf(`,{"type":"record","name":"W%d","fields":[{"name":"a","type":["null","W"]}]}`, i)
	}
	wide += `]}]}`

	tests := map[string]struct {
		schema schema.Schema
		want   string
	}{
		"not JSON":                  {schema.Schema{Text: "{"}, "does not parse"},
		"a long text that is none":  {schema.Schema{Text: strings.Repeat("é", 5000)}, "…"},
		"no text":                   {schema.Schema{}, "does not parse"},
		"not a record":              {schema.Schema{Text: `"string"`}, "not a record"},
		"a protobuf":                {schema.Schema{Type: "PROTOBUF", Text: `message M {}`}, "PROTOBUF"},
		"too large":                 {schema.Schema{Text: strings.Repeat(" ", schema.MaxSchemaBytes) + `"int"`}, "more than"},
		"too large with others":     {schema.Schema{Text: record(), References: []string{strings.Repeat(" ", schema.MaxSchemaBytes)}}, "more than"},
		"what it needs is missing":  {schema.Schema{Text: record(`a "Missing"`)}, "does not parse"},
		"what it refers to is none": {schema.Schema{Text: record(), References: []string{"{"}}, "a schema it refers to"},
		"a default within itself":   {schema.Schema{Text: `{"type":"record","name":"A","fields":[{"name":"a","type":"A","default":{}},{"name":"b","type":"int"}]}`}, "pars"},
		"nested too deeply":         {schema.Schema{Text: record(`a ` + strings.Repeat(`{"type":"array","items":`, 600) + `"int"` + strings.Repeat("}", 600))}, "nested too deeply"},
		"a path through too much":   {schema.Schema{Text: wide}, "too many types"},
		"a negative fixed":          {schema.Schema{Text: record(`a {"type":"fixed","name":"F","size":-4}`)}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, err := schema.NewPlan(tt.schema, schema.Mapping{Client: "a.a.a.a.a.a"})
			require.ErrorIs(t, err, schema.ErrBadSchema)
			require.ErrorContains(t, err, tt.want)
			require.Less(t, len(err.Error()), 600)
		})
	}

	for name, text := range map[string]string{"records that double": chain, "a wide union": record(`u [` + bush + `]`)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, err := schema.NewPlan(schema.Schema{Text: text}, mapped)
			require.NoError(t, err)
		})
	}
}

func TestPlanWithReferences(t *testing.T) {
	t.Parallel()

	s := schema.Schema{
		Text: `{"type":"record","name":"Usage","namespace":"x","fields":[{"name":"who","type":"x.Who"},{"name":"q","type":"long"}]}`,
		References: []string{
			`{"type":"enum","name":"Tier","namespace":"x","symbols":["free","paid"]}`,
			`{"type":"record","name":"Who","namespace":"x","fields":[{"name":"tier","type":"Tier"},{"name":"c","type":"string"}]}`,
		},
	}
	_, err := schema.NewPlan(s, schema.Mapping{Client: "who.c", Quantity: "q"})
	require.NoError(t, err)
}

// FuzzPlan decodes damaged bytes with several schemas. What is taken to be a
// record must be one for another decoder too, and hold the same.
func FuzzPlan(f *testing.F) {
	texts := []string{schema.UsageEventSchema, fuzzSchemaUnions, fuzzSchemaNested}
	parsed := make([]avro.Schema, 0, len(texts))
	for _, text := range texts {
		s, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
		require.NoError(f, err)
		parsed = append(parsed, s)
	}
	f.Add(uint8(0), usageEvent(f)[5:])
	f.Add(uint8(0), usageEvent(f)[5:60])
	f.Add(uint8(1), cat(num(0), str("acme"), num(2), num(4), num(0), num(0), num(2), str("k"), num(1), num(1), str("l"), num(0), num(0)))
	f.Add(uint8(1), cat(num(1), num(2), num(1), floatBits(1.5), num(1), num(1_000_001), num(1), raw(1), num(0)))
	f.Add(uint8(1), cat(num(0), str("acme"), num(3), num(0), num(0), num(0), num(0)))
	f.Add(uint8(2), cat(num(2), str("acme"), num(1), str("x"), num(-1), num(2), num(8), num(0), num(1), str("z"), num(0), num(0)))
	f.Add(uint8(2), cat(num(1<<31), num(-1), num(math.MinInt64)))
	mappings := []schema.Mapping{
		schema.DefaultDecoderConfig().Mapping,
		{ID: "props.k", Client: "c", Quantity: "q", Time: "t", Void: "v", Fields: []string{"q", "c", "t", "v", "props.k", "props", "props.l.m"}},
		{Client: "tree.name", ID: "tree.tag", Fields: []string{"tree", "tree.sum", "tree.kids", "tree.next.next.tag", "tree.tag", "skip"}},
	}
	mappings[0].Fields = []string{"meter", "properties.region", "quantity", "timestamp", "properties", "source"}
	handles := make([]*schema.Handle, 0, len(texts))
	for i, text := range texts {
		config := schema.DefaultDecoderConfig()
		config.Mapping = mappings[i]
		handles = append(handles, decoder(f, config, text))
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		i := int(which) % len(texts)
		got, detail := decode(t, handles[i], onWire(body))
		require.NotEqual(t, usage.UnknownSchema, got.reason)
		if got.reason == usage.Undecodable {
			require.NotEmpty(t, detail)
			return
		}
		r := avro.NewReader(nil, 0).Reset(body)
		tree := r.ReadNext(parsed[i])
		require.NoError(t, r.Error)
		q, _ := tree.(map[string]any)["q"].(map[string]any)
		if zero, ok := q["bytes.decimal"].(*big.Rat); ok && zero.Sign() == 0 {
			return // the other decoder takes no bytes at all for a zero
		}
		require.Equal(t, oracle(mappings[i], parsed[i], tree), got)
	})
}
