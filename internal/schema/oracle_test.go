package schema_test

import (
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hamba/avro/v2"

	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// Schemas for fuzzing, with all that is not in the usage event's. Their arrays
// have items that take bytes: the oracle has no bound for others.
const (
	fuzzSchemaUnions = `{"type":"record","name":"U","fields":[
		{"name":"c","type":["string",{"type":"enum","name":"E","symbols":["x","acme","z"]},"int"]},
		{"name":"q","type":["null","double","int",{"type":"bytes","logicalType":"decimal","precision":30,"scale":3},"float","string"]},
		{"name":"t","type":["null",{"type":"long","logicalType":"timestamp-micros"},"long"]},
		{"name":"v","type":["null","boolean"]},
		{"name":"props","type":{"type":"map","values":["null","string","int"]}}]}`
	fuzzSchemaNested = `{"type":"record","name":"N","fields":[
		{"name":"skip","type":"int"},
		{"name":"tree","type":{"type":"record","name":"T","fields":[
			{"name":"name","type":"string"},
			{"name":"kids","type":{"type":"array","items":{"type":"array","items":"int"}}},
			{"name":"sum","type":{"type":"fixed","name":"F","size":1}},
			{"name":"tag","type":["null","string"]},
			{"name":"next","type":["null","T"]}]}}]}`
)

// found is a value of an oracle's tree with its schema.
type found struct {
	schema avro.Schema
	value  any
}

// lookup follows path through the generic value v of schema s.
func lookup(s avro.Schema, v any, path []string) found {
	for {
		switch typed := s.(type) {
		case *avro.RefSchema:
			s = typed.Schema()
			continue
		case *avro.UnionSchema:
			branches, _ := v.(map[string]any)
			if branches == nil {
				return found{}
			}
			for name, inner := range branches {
				for _, b := range typed.Types() {
					if branchName(b) == name {
						s, v = b, inner
					}
				}
			}
			continue
		}
		if len(path) == 0 {
			return found{s, v}
		}
		inner, ok := v.(map[string]any)
		if !ok {
			return found{}
		}
		switch typed := s.(type) {
		case *avro.MapSchema:
			s = typed.Values()
		case *avro.RecordSchema:
			s = nil
			for _, f := range typed.Fields() {
				if f.Name() == path[0] {
					s = f.Type()
				}
			}
		}
		if v, ok = inner[path[0]]; !ok || s == nil {
			return found{}
		}
		path = path[1:]
	}
}

// branchName is how the oracle names a branch.
func branchName(s avro.Schema) string {
	if ref, ok := s.(*avro.RefSchema); ok {
		s = ref.Schema()
	}
	if named, ok := s.(avro.NamedSchema); ok {
		return named.FullName()
	}
	name := string(s.Type())
	if l, ok := s.(avro.LogicalTypeSchema); ok && l.Logical() != nil {
		name += "." + string(l.Logical().Type())
	}
	return name
}

// oracle maps what another decoder made of a record, by the words of the
// rules and with none of the package's own code.
func oracle(m schema.Mapping, s avro.Schema, tree any) decoded {
	at := func(path string) found {
		if path == "" {
			return found{}
		}
		return lookup(s, tree, strings.Split(path, "."))
	}
	id, client, meter, quantity, when, void := at(m.ID), at(m.Client), at(m.Meter), at(m.Quantity), at(m.Time), at(m.Void)
	isVoid, _ := void.value.(bool)
	empty := func(f found) bool { return f.value == nil || f.value == "" }
	switch {
	case empty(client), m.Meter != "" && empty(meter):
		return decoded{reason: usage.MissingField}
	case isVoid && (empty(id) || m.Quantity != "" && quantity.value == nil || m.Time != "" && when.value == nil):
		return decoded{reason: usage.MissingField}
	}
	d := decoded{void: isVoid, count: "1", time: recordTime}
	good := void.value == nil || void.schema.Type() == avro.Boolean
	for _, f := range []struct {
		found
		into  *string
		bound int
	}{{id, &d.id, 256}, {client, &d.client, 256}, {meter, &d.meter, 1 << 30}} {
		text, ok := f.value.(string)
		good = good && (ok || f.value == nil) && utf8.ValidString(text) && len(text) <= f.bound
		*f.into = text
	}
	var ok bool
	if quantity.value != nil {
		d.count, ok = oracleQuantity(quantity)
		good = good && ok
	}
	if when.value != nil {
		d.time, ok = oracleTime(when.value)
		good = good && ok
	}
	if !good {
		return decoded{reason: usage.BadField}
	}
	for _, path := range m.Fields {
		d.fields = append(d.fields, oracleValue(at(path)))
	}
	return d
}

// oracleValue is what meters see of a value.
func oracleValue(f found) usage.Value {
	v := usage.Value{Kind: usage.NumberValue}
	var text string // of a number
	switch typed := f.value.(type) {
	case nil:
		return usage.Value{}
	case bool:
		return usage.Value{Kind: usage.BooleanValue, True: typed}
	case string:
		if !utf8.ValidString(typed) {
			return usage.Value{Kind: usage.UnfitValue}
		}
		return usage.Value{Kind: usage.TextValue, Text: append([]byte{}, typed...)}
	case time.Time:
		text = strconv.FormatInt(typed.UnixMilli(), 10)
	case int:
		text = strconv.Itoa(typed)
	case int64:
		text = strconv.FormatInt(typed, 10)
	case float32:
		text = strconv.FormatFloat(float64(typed), 'g', -1, 32)
	case float64:
		text = strconv.FormatFloat(typed, 'g', -1, 64)
	case *big.Rat:
		v.Float, _ = typed.Float64()
		v.Number = usage.Decimal{TooLarge: true}
		if text := oracleRat(typed); text != "(too large)" {
			v.Number, _ = usage.ParseDecimal(text)
		}
		return v
	default:
		return usage.Value{Kind: usage.UnfitValue}
	}
	return oracleNumber(text)
}

// oracleNumber is a number by its text.
func oracleNumber(text string) usage.Value {
	exact, ok := new(big.Rat).SetString(text)
	if !ok {
		return usage.Value{Kind: usage.UnfitValue}
	}
	v := usage.Value{Kind: usage.NumberValue, Number: usage.Decimal{TooLarge: true}}
	v.Float, _ = exact.Float64()
	if d, err := usage.ParseDecimal(text); err == nil && !d.TooLarge && d.Units != -1<<63 {
		v.Number = d
	}
	return v
}

func oracleQuantity(f found) (string, bool) {
	var (
		d   usage.Decimal
		err error
	)
	switch v := f.value.(type) {
	case time.Time: // a number too, of whatever unit
		d = usage.DecimalOf(v.UnixMilli())
		if f.schema.(avro.LogicalTypeSchema).Logical().Type() == avro.TimestampMicros {
			d = usage.DecimalOf(v.UnixMicro())
		}
		d.TooLarge = d.Units == -1<<63
	case int:
		d = usage.DecimalOf(int64(v))
	case int64:
		if d = usage.DecimalOf(v); v == -1<<63 {
			d.TooLarge = true
		}
	case float32:
		d, err = usage.DecimalOfFloat(float64(v), 32)
	case float64:
		d, err = usage.DecimalOfFloat(v, 64)
	case string:
		d, err = usage.ParseDecimal(v)
	case *big.Rat:
		return oracleRat(v), true
	default:
		return "", false
	}
	return d.String(), err == nil
}

// oracleRat writes a decimal of at most 64 bytes as usage.Decimal does.
func oracleRat(v *big.Rat) string {
	text := v.FloatString(200)
	text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	whole, fraction, _ := strings.Cut(text, ".")
	units, _ := new(big.Int).SetString(whole+fraction, 10)
	if len(fraction) > usage.MaxDecimals || !units.IsInt64() || units.Int64() == -1<<63 {
		return "(too large)"
	}
	return text
}

func oracleTime(v any) (usage.Time, bool) {
	var t usage.Time
	switch v := v.(type) {
	case int64:
		t = usage.Time(v)
	case time.Time:
		t = usage.TimeOf(v)
	case string:
		std, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return 0, false
		}
		t = usage.TimeOf(std)
	default:
		return 0, false
	}
	return min(t, usage.MaxTime-1), t >= -62135596800000
}
